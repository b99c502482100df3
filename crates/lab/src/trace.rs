//! Reads public traces: series of what VMs used. Must never fill in what is missing.

use anyhow::{Context, Result, bail, ensure};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use proteus_model::personality::Usage;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// VMs of a trace, by their ids, each with its samples, the oldest first.
pub struct Trace {
    pub name: String,
    pub vms: BTreeMap<String, Vec<Usage>>,
    /// Samples in a week.
    pub weekly: f64,
}

/// Traces that are five minutes apart.
const WEEKLY: f64 = 7.0 * 288.0;

/// The columns of a row, by the names that are asked for.
pub(crate) struct Columns<'a> {
    path: &'a Path,
    places: Vec<usize>,
}

impl<'a> Columns<'a> {
    pub(crate) fn find(path: &'a Path, reader: &SerializedFileReader<File>, names: &[&str]) -> Result<Self> {
        let schema = reader.metadata().file_metadata().schema_descr();
        let all: Vec<&str> = schema.columns().iter().map(|column| column.name()).collect();
        let mut places = Vec::new();
        for name in names {
            let place = all.iter().position(|known| known == name);
            places.push(place.with_context(|| {
                format!("{} has no column {name}; it has {}", path.display(), all.join(", "))
            })?);
        }
        Ok(Self { path, places })
    }

    fn field<'r>(&self, row: &'r Row, which: usize) -> Result<&'r Field> {
        let place = self.places[which];
        let found = row.get_column_iter().nth(place);
        found.map(|(_, field)| field).with_context(|| format!("{}: a row is too short", self.path.display()))
    }

    /// A number; `None`: a null.
    pub(crate) fn number(&self, row: &Row, which: usize) -> Result<Option<f64>> {
        Ok(Some(match self.field(row, which)? {
            Field::Null => return Ok(None),
            Field::Byte(value) => f64::from(*value),
            Field::Short(value) => f64::from(*value),
            Field::Int(value) => f64::from(*value),
            Field::UByte(value) => f64::from(*value),
            Field::UShort(value) => f64::from(*value),
            Field::UInt(value) => f64::from(*value),
            Field::Long(value) => *value as f64,
            Field::Float(value) => f64::from(*value),
            Field::Double(value) => *value,
            other => bail!("{}: {other} is no number", self.path.display()),
        }))
    }

    pub(crate) fn text(&self, row: &Row, which: usize) -> Result<String> {
        Ok(match self.field(row, which)? {
            Field::Str(text) => text.clone(),
            other => other.to_string(),
        })
    }
}

pub(crate) fn open(path: &Path) -> Result<SerializedFileReader<File>> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    SerializedFileReader::new(file).with_context(|| format!("read {} as Parquet", path.display()))
}

/// GWA-T-12 Bitbrains Rnd: `vm, ts, cores, cpu_cap_mhz, cpu_mhz, mem_mib, disk_*_kbs, net_*_kbs`.
fn bitbrains(path: &Path) -> Result<Trace> {
    let reader = open(path)?;
    let names = [
        "vm",
        "cores",
        "cpu_cap_mhz",
        "cpu_mhz",
        "mem_mib",
        "disk_read_kbs",
        "disk_write_kbs",
        "net_rx_kbs",
        "net_tx_kbs",
    ];
    let columns = Columns::find(path, &reader, &names)?;
    let mut vms: BTreeMap<String, Vec<Usage>> = BTreeMap::new();
    for row in reader.get_row_iter(None)? {
        let row = row.with_context(|| format!("read {}", path.display()))?;
        let at = |which| columns.number(&row, which);
        // A core of this VM has so many MHz; one that is off has none and uses nothing.
        let core = match (at(1)?, at(2)?) {
            (Some(cores), Some(cap)) if cores > 0.0 && cap > 0.0 => cap / cores,
            _ => 1.0,
        };
        let cpu = at(3)?.map(|mhz| mhz * 1000.0 / core);
        let usage =
            [cpu, at(4)?, at(5)?, at(6)?, at(7)?, at(8)?].map(|value| value.map(|value| value as f32));
        vms.entry(columns.text(&row, 0)?).or_default().push(Usage(usage));
    }
    Ok(Trace { name: "bitbrains-rnd".into(), vms, weekly: WEEKLY })
}

/// How much of its CPU a VM used at a moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Seconds since 1970.
    pub at_s: u64,
    /// Percent of what it has then.
    pub percent: f32,
}

/// The same trace, by the share of the CPU; a VM that is off, or has no CPU, says nothing.
pub fn read_loads(folder: &Path) -> Result<BTreeMap<String, Vec<Load>>> {
    let path = &folder.join("bitbrains-rnd.parquet");
    let reader = open(path)?;
    let columns = Columns::find(path, &reader, &["vm", "ts", "cpu_cap_mhz", "cpu_mhz"])?;
    let mut vms: BTreeMap<String, Vec<Load>> = BTreeMap::new();
    for row in reader.get_row_iter(None)? {
        let row = row.with_context(|| format!("read {}", path.display()))?;
        let at = |which| columns.number(&row, which);
        let (Some(second), Some(cap), Some(mhz)) = (at(1)?, at(2)?, at(3)?) else { continue };
        if second < 0.0 || cap <= 0.0 || mhz < 0.0 {
            continue;
        }
        let load = Load { at_s: second as u64, percent: (100.0 * mhz / cap) as f32 };
        vms.entry(columns.text(&row, 0)?).or_default().push(load);
    }
    ensure!(!vms.is_empty(), "{} has no VM that runs", path.display());
    Ok(vms)
}

/// Azure 2017: `set, vm, cpu_avg_pct`. Percent of the VM, taken as one core.
fn azure(path: &Path) -> Result<Trace> {
    let reader = open(path)?;
    let columns = Columns::find(path, &reader, &["set", "vm", "cpu_avg_pct"])?;
    let mut vms: BTreeMap<String, Vec<Usage>> = BTreeMap::new();
    for row in reader.get_row_iter(None)? {
        let row = row.with_context(|| format!("read {}", path.display()))?;
        let id = format!("{}/{}", columns.text(&row, 0)?, columns.text(&row, 1)?);
        let cpu = columns.number(&row, 2)?.map(|percent| (percent * 10.0) as f32);
        vms.entry(id).or_default().push(Usage([cpu, None, None, None, None, None]));
    }
    Ok(Trace { name: "azure-2017-cpu".into(), vms, weekly: WEEKLY })
}

/// How a file of a name is read.
pub(crate) type Known<T> = (&'static str, fn(&Path) -> Result<T>);

/// What a folder has of the files that are known.
pub(crate) fn read_known<T>(folder: &Path, known: &[Known<T>]) -> Result<Vec<T>> {
    let mut all = Vec::new();
    for (name, read) in known {
        let path = folder.join(name);
        if path.exists() {
            all.push(read(&path)?);
        }
    }
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    ensure!(!all.is_empty(), "{} has none of {}", folder.display(), names.join(", "));
    Ok(all)
}

/// All traces that a folder has.
pub fn read_all(folder: &Path) -> Result<Vec<Trace>> {
    read_known(folder, &[("bitbrains-rnd.parquet", bitbrains), ("azure-2017-cpu.parquet", azure)])
}

#[cfg(test)]
mod tests;

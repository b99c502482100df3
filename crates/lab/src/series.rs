//! Public traces as series of one resource: a sample each five minutes, percent of what the VM has. What is missing stays
//! missing.

use crate::trace::{Columns, Known, open, read_known};
use anyhow::{Context, Result};
use parquet::file::reader::FileReader;
use proteus_brain::random::Random;
use std::collections::BTreeMap;
use std::path::Path;

/// One VM's.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub vm: String,
    /// The day that it is of, where a trace is made of days of different VMs; else 0.
    pub day: u32,
    pub samples: Vec<Option<f32>>,
}

/// One resource of all VMs of a trace.
pub struct Set {
    pub dataset: &'static str,
    pub resource: &'static str,
    pub all: Vec<Series>,
}

/// What is learned on, what is tested on, and how that was told apart.
pub struct Split<'a> {
    pub train: Vec<&'a Series>,
    pub test: Vec<&'a Series>,
    pub how: String,
}

/// Days of PlanetLab that are learned on.
const TRAIN_DAYS: [u32; 3] = [20_110_303, 20_110_306, 20_110_309];

impl Set {
    /// PlanetLab by its days, all others by VMs, half and half.
    pub fn split(&self, seed: u64) -> Split<'_> {
        if self.dataset == "planetlab" {
            let (train, test) = self.all.iter().partition(|one| TRAIN_DAYS.contains(&one.day));
            return Split { train, test, how: "train 0303, 0306, 0309; test 0322, 0325".to_owned() };
        }
        let mut order: Vec<&Series> = self.all.iter().collect();
        Random::new(seed).shuffle(&mut order);
        let test = order.split_off(order.len() / 2);
        Split {
            how: format!("{} VMs to learn on, {} others to test on, seed {seed}", order.len(), test.len()),
            train: order,
            test,
        }
    }
}

/// Series from rows of (VM, number of the sample, value): placed by number, the first at 0.
#[derive(Default)]
struct Placed(BTreeMap<(u32, String), BTreeMap<u64, f32>>);

impl Placed {
    fn put(&mut self, day: u32, vm: String, number: u64, value: Option<f64>) {
        let series = self.0.entry((day, vm)).or_default();
        if let Some(value) = value.filter(|value| value.is_finite() && *value >= 0.0) {
            series.insert(number, value as f32);
        }
    }

    fn series(self) -> Vec<Series> {
        let one = |((day, vm), placed): ((u32, String), BTreeMap<u64, f32>)| {
            let (first, last) = (*placed.keys().next()?, *placed.keys().next_back()?);
            let mut samples = vec![None; usize::try_from(last - first).ok()? + 1];
            for (number, value) in placed {
                samples[(number - first) as usize] = Some(value);
            }
            Some(Series { vm, day, samples })
        };
        self.0.into_iter().filter_map(one).collect()
    }
}

fn whole(value: Option<f64>) -> u64 {
    value.map_or(0, |value| value.max(0.0) as u64)
}

fn planetlab(path: &Path) -> Result<Vec<Set>> {
    let reader = open(path)?;
    let columns = Columns::find(path, &reader, &["day", "vm", "t", "cpu_pct"])?;
    let mut placed = Placed::default();
    for row in reader.get_row_iter(None)? {
        let row = row.with_context(|| format!("read {}", path.display()))?;
        let at = |which| columns.number(&row, which);
        placed.put(whole(at(0)?) as u32, whole(at(1)?).to_string(), whole(at(2)?), at(3)?);
    }
    Ok(vec![Set { dataset: "planetlab", resource: "cpu", all: placed.series() }])
}

fn bitbrains(path: &Path) -> Result<Vec<Set>> {
    let reader = open(path)?;
    let names = ["vm", "ts", "cpu_cap_mhz", "cpu_mhz", "mem_cap_mib", "mem_mib"];
    let columns = Columns::find(path, &reader, &names)?;
    let (mut cpu, mut memory) = (Placed::default(), Placed::default());
    for row in reader.get_row_iter(None)? {
        let row = row.with_context(|| format!("read {}", path.display()))?;
        let at = |which| columns.number(&row, which);
        let (vm, number) = (columns.text(&row, 0)?, (whole(at(1)?) + 150) / 300);
        // One that is off has nothing to use: missing, not zero.
        let of = |cap: Option<f64>, used: Option<f64>| Some(100.0 * used? / cap.filter(|cap| *cap > 0.0)?);
        cpu.put(0, vm.clone(), number, of(at(2)?, at(3)?));
        memory.put(0, vm, number, of(at(4)?, at(5)?));
    }
    let set = |resource, placed: Placed| Set { dataset: "bitbrains-rnd", resource, all: placed.series() };
    Ok(vec![set("cpu", cpu), set("memory", memory)])
}

fn azure(path: &Path) -> Result<Vec<Set>> {
    let reader = open(path)?;
    let columns = Columns::find(path, &reader, &["set", "vm", "t", "cpu_max_pct"])?;
    let mut placed = Placed::default();
    for row in reader.get_row_iter(None)? {
        let row = row.with_context(|| format!("read {}", path.display()))?;
        let vm = format!("{}/{}", columns.text(&row, 0)?, columns.text(&row, 1)?);
        placed.put(0, vm, whole(columns.number(&row, 2)?), columns.number(&row, 3)?);
    }
    Ok(vec![Set { dataset: "azure-2017-cpu", resource: "cpu", all: placed.series() }])
}

fn google(path: &Path) -> Result<Vec<Set>> {
    let reader = open(path)?;
    let columns = Columns::find(path, &reader, &["vm", "t", "cpu_pct", "mem_pct"])?;
    let (mut cpu, mut memory) = (Placed::default(), Placed::default());
    for row in reader.get_row_iter(None)? {
        let row = row.with_context(|| format!("read {}", path.display()))?;
        let (vm, number) = (columns.text(&row, 0)?, whole(columns.number(&row, 1)?));
        cpu.put(0, vm.clone(), number, columns.number(&row, 2)?);
        memory.put(0, vm, number, columns.number(&row, 3)?);
    }
    let set =
        |resource, placed: Placed| Set { dataset: "google-cluster-2011", resource, all: placed.series() };
    Ok(vec![set("cpu", cpu), set("memory", memory)])
}

/// All that a folder has.
pub fn read_sets(folder: &Path) -> Result<Vec<Set>> {
    let known: [Known<Vec<Set>>; 4] = [
        ("planetlab.parquet", planetlab),
        ("bitbrains-rnd.parquet", bitbrains),
        ("azure-2017-cpu.parquet", azure),
        ("google-cluster-2011.parquet", google),
    ];
    Ok(read_known(folder, &known)?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(dataset: &'static str, days: &[u32]) -> Set {
        let one =
            |(at, day): (usize, &u32)| Series { vm: at.to_string(), day: *day, samples: vec![Some(1.0)] };
        Set { dataset, resource: "cpu", all: days.iter().enumerate().map(one).collect() }
    }

    #[test]
    fn a_sample_has_its_place_and_what_is_between_is_missing() {
        let mut placed = Placed::default();
        for (number, value) in [(7, Some(3.0)), (10, Some(f64::NAN)), (9, Some(5.0)), (8, None)] {
            placed.put(0, "a".to_owned(), number, value);
        }
        placed.put(0, "empty".to_owned(), 1, None);
        let all = placed.series();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].samples, [Some(3.0), None, Some(5.0)]);
    }

    #[test]
    fn nobody_is_both_learned_and_tested_on() {
        let days = set("planetlab", &[20_110_303, 20_110_322, 20_110_309, 20_110_325]);
        let split = days.split(1);
        assert_eq!(split.train.iter().map(|one| one.day).collect::<Vec<_>>(), [20_110_303, 20_110_309]);
        assert_eq!(split.test.len(), 2);
        let vms = set("other", &[0; 41]);
        let names = |seed| {
            let Split { train, test, .. } = vms.split(seed);
            assert_eq!((train.len(), test.len()), (20, 21));
            assert!(train.iter().all(|one| test.iter().all(|other| one.vm != other.vm)));
            test.iter().map(|one| one.vm.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(1), names(1));
        assert_ne!(names(1), names(2));
    }
}

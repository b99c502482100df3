//! A sample as it travels, and its conversion into the model. The guest is not trusted: lists are bounded, names
//! cleaned and shortened, and impossible numbers refused here, so that nothing behind this must.

use proteus_model::telemetry as model;
use proteus_model::unit::{Bytes, Millis, Permille, UnixMillis};
use serde::{Deserialize, Serialize};

/// Most block devices in a sample.
pub const DISKS_MAX: usize = 32;
/// Most network interfaces in a sample.
pub const NICS_MAX: usize = 16;
/// Most processes in a sample.
pub const PROCESSES_MAX: usize = 32;
/// Longest name or path in a sample, in bytes.
pub const NAME_BYTES_MAX: usize = 256;

/// Why a sample is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sample is refused: {field} is {given}, expected {expected}")]
pub struct SampleError {
    /// The field.
    pub field: &'static str,
    /// What it held.
    pub given: u64,
    /// What it may hold.
    pub expected: &'static str,
}

/// One look at a guest. Each field is as in [`proteus_model::telemetry`]; what is absent was not measured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct Sample {
    pub sequence: u64,
    pub taken_at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    pub pressure: PressureSet,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disks: Option<Vec<Disk>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nics: Option<Vec<Nic>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<Vec<Process>>,
}

/// CPU time totals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct Cpu {
    pub user_us: u64,
    pub system_us: u64,
    pub idle_us: u64,
    pub iowait_us: u64,
    pub steal_us: u64,
    pub online: u32,
    pub running: Option<u32>,
    pub blocked: Option<u32>,
    pub switches: Option<u64>,
    pub forks: Option<u64>,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct Memory {
    pub total: u64,
    pub available: u64,
    pub free: Option<u64>,
    pub cached: Option<u64>,
    pub anonymous: Option<u64>,
    pub shared: Option<u64>,
    pub dirty: Option<u64>,
    pub slab: Option<u64>,
    pub swap_total: Option<u64>,
    pub swap_free: Option<u64>,
    pub major_faults: Option<u64>,
    pub refaults_file: Option<u64>,
    pub refaults_anon: Option<u64>,
    pub oom_kills: Option<u64>,
}

/// Pressure by resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct PressureSet {
    pub cpu_some: Option<Pressure>,
    pub memory_some: Option<Pressure>,
    pub memory_full: Option<Pressure>,
    pub io_some: Option<Pressure>,
    pub io_full: Option<Pressure>,
}

/// One line of a pressure file; averages in parts per thousand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct Pressure {
    pub avg10: u32,
    pub avg60: u32,
    pub total_us: u64,
}

/// A block device; amounts in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct Disk {
    pub name: String,
    pub serial: Option<String>,
    pub reads: u64,
    pub read: u64,
    pub writes: u64,
    pub written: u64,
    pub busy_ms: u64,
    pub in_flight: u32,
}

/// A network interface; amounts in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct Nic {
    pub name: String,
    pub received: u64,
    pub received_packets: u64,
    pub received_lost: u64,
    pub sent: u64,
    pub sent_packets: u64,
    pub sent_lost: u64,
}

/// A process; amounts in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct Process {
    pub pid: u32,
    pub started_ticks: u64,
    pub name: String,
    pub cpu_us: u64,
    pub resident: u64,
    pub threads: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<u64>,
}

pub(super) fn clean(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars().filter(|c| !c.is_control()) {
        if out.len() + letter.len_utf8() > NAME_BYTES_MAX {
            break;
        }
        out.push(letter);
    }
    out
}

/// 2^62: far beyond any real counter, and no sum of two leaves u64.
const COUNTER_MAX: u64 = 1 << 62;

pub(super) fn counter(field: &'static str, given: u64) -> Result<u64, SampleError> {
    (given <= COUNTER_MAX).then_some(given).ok_or(SampleError { field, given, expected: "at most 2^62" })
}

fn counter_opt(field: &'static str, given: Option<u64>) -> Result<Option<u64>, SampleError> {
    given.map(|g| counter(field, g)).transpose()
}

fn bytes_opt(field: &'static str, given: Option<u64>) -> Result<Option<Bytes>, SampleError> {
    Ok(counter_opt(field, given)?.map(Bytes))
}

fn list<W, M>(
    field: &'static str,
    given: Option<Vec<W>>,
    max: usize,
    convert: impl Fn(W) -> Result<M, SampleError>,
) -> Result<Option<Vec<M>>, SampleError> {
    let Some(given) = given else { return Ok(None) };
    if given.len() > max {
        return Err(SampleError { field, given: given.len() as u64, expected: "a shorter list" });
    }
    given.into_iter().map(convert).collect::<Result<_, _>>().map(Some)
}

impl TryFrom<Cpu> for model::CpuObserved {
    type Error = SampleError;
    fn try_from(w: Cpu) -> Result<Self, SampleError> {
        if !(1..=4096).contains(&w.online) {
            return Err(SampleError { field: "cpu.online", given: w.online.into(), expected: "1 to 4096" });
        }
        Ok(Self {
            user_us: counter("cpu.user_us", w.user_us)?,
            system_us: counter("cpu.system_us", w.system_us)?,
            idle_us: counter("cpu.idle_us", w.idle_us)?,
            iowait_us: counter("cpu.iowait_us", w.iowait_us)?,
            steal_us: counter("cpu.steal_us", w.steal_us)?,
            online: w.online,
            running: w.running,
            blocked: w.blocked,
            switches: counter_opt("cpu.switches", w.switches)?,
            forks: counter_opt("cpu.forks", w.forks)?,
        })
    }
}

impl TryFrom<Memory> for model::MemoryObserved {
    type Error = SampleError;
    fn try_from(w: Memory) -> Result<Self, SampleError> {
        let total = counter("memory.total", w.total)?;
        if total == 0 || w.available > total {
            let expected = "at most a total above zero";
            return Err(SampleError { field: "memory.available", given: w.available, expected });
        }
        Ok(Self {
            total: Bytes(total),
            available: Bytes(w.available),
            free: bytes_opt("memory.free", w.free)?,
            cached: bytes_opt("memory.cached", w.cached)?,
            anonymous: bytes_opt("memory.anonymous", w.anonymous)?,
            shared: bytes_opt("memory.shared", w.shared)?,
            dirty: bytes_opt("memory.dirty", w.dirty)?,
            slab: bytes_opt("memory.slab", w.slab)?,
            swap_total: bytes_opt("memory.swap_total", w.swap_total)?,
            swap_free: bytes_opt("memory.swap_free", w.swap_free)?,
            major_faults: counter_opt("memory.major_faults", w.major_faults)?,
            refaults_file: counter_opt("memory.refaults_file", w.refaults_file)?,
            refaults_anon: counter_opt("memory.refaults_anon", w.refaults_anon)?,
            oom_kills: counter_opt("memory.oom_kills", w.oom_kills)?,
        })
    }
}

impl TryFrom<Pressure> for model::PressureObserved {
    type Error = SampleError;
    fn try_from(w: Pressure) -> Result<Self, SampleError> {
        for given in [w.avg10, w.avg60] {
            if given > 1000 {
                return Err(SampleError { field: "pressure", given: given.into(), expected: "0 to 1000" });
            }
        }
        let total_us = counter("pressure.total_us", w.total_us)?;
        Ok(Self { avg10: Permille(w.avg10), avg60: Permille(w.avg60), total_us })
    }
}

impl TryFrom<PressureSet> for model::PressureSetObserved {
    type Error = SampleError;
    fn try_from(w: PressureSet) -> Result<Self, SampleError> {
        let one = |p: Option<Pressure>| p.map(TryInto::try_into).transpose();
        Ok(Self {
            cpu_some: one(w.cpu_some)?,
            memory_some: one(w.memory_some)?,
            memory_full: one(w.memory_full)?,
            io_some: one(w.io_some)?,
            io_full: one(w.io_full)?,
        })
    }
}

impl TryFrom<Disk> for model::DiskObserved {
    type Error = SampleError;
    fn try_from(w: Disk) -> Result<Self, SampleError> {
        Ok(Self {
            name: clean(&w.name),
            serial: w.serial.as_deref().map(clean),
            reads: counter("disk.reads", w.reads)?,
            read: Bytes(counter("disk.read", w.read)?),
            writes: counter("disk.writes", w.writes)?,
            written: Bytes(counter("disk.written", w.written)?),
            busy: Millis(counter("disk.busy_ms", w.busy_ms)?),
            in_flight: w.in_flight,
        })
    }
}

impl TryFrom<Nic> for model::NicObserved {
    type Error = SampleError;
    fn try_from(w: Nic) -> Result<Self, SampleError> {
        Ok(Self {
            name: clean(&w.name),
            received: Bytes(counter("nic.received", w.received)?),
            received_packets: counter("nic.received_packets", w.received_packets)?,
            received_lost: counter("nic.received_lost", w.received_lost)?,
            sent: Bytes(counter("nic.sent", w.sent)?),
            sent_packets: counter("nic.sent_packets", w.sent_packets)?,
            sent_lost: counter("nic.sent_lost", w.sent_lost)?,
        })
    }
}

impl TryFrom<Process> for model::ProcessObserved {
    type Error = SampleError;
    fn try_from(w: Process) -> Result<Self, SampleError> {
        Ok(Self {
            pid: w.pid,
            started_ticks: counter("process.started_ticks", w.started_ticks)?,
            name: clean(&w.name),
            cpu_us: counter("process.cpu_us", w.cpu_us)?,
            resident: Bytes(counter("process.resident", w.resident)?),
            threads: w.threads,
            read: bytes_opt("process.read", w.read)?,
            written: bytes_opt("process.written", w.written)?,
        })
    }
}

impl TryFrom<Sample> for model::GuestSample {
    type Error = SampleError;
    fn try_from(w: Sample) -> Result<Self, SampleError> {
        Ok(Self {
            sequence: counter("sequence", w.sequence)?,
            taken_at: UnixMillis(counter("taken_at_ms", w.taken_at_ms)?),
            uptime: counter_opt("uptime_ms", w.uptime_ms)?.map(Millis),
            cpu: w.cpu.map(TryInto::try_into).transpose()?,
            memory: w.memory.map(TryInto::try_into).transpose()?,
            pressure: w.pressure.try_into()?,
            disks: list("disks", w.disks, DISKS_MAX, TryInto::try_into)?,
            nics: list("nics", w.nics, NICS_MAX, TryInto::try_into)?,
            processes: list("processes", w.processes, PROCESSES_MAX, TryInto::try_into)?,
        })
    }
}

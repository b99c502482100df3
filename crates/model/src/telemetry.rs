//! What was measured inside a VM at one moment. Counters are totals since boot; rates are the reader's business.
//! A value that could not be read is `None`, never zero. Must never hold a judgement: that is `personality`.

mod application;

mod findings;

mod flow;

mod latency;

mod metric;

pub use application::{APPLICATIONS_MAX, Application};

pub use findings::{
    AspectObserved, COLLECT_BUDGET, COLLECT_BUDGET_MAX, CallsObserved, ChangeAuthor, CollectError,
    CollectIntent, Collector, CollectorObserved, CollectorState, ConfigurationAspect, ConfigurationChange,
    ConfigurationObserved, ConnectionsObserved, Consent, ENDPOINTS_MAX, EndpointObserved, FileKind,
    FileKindObserved, FilesObserved, Findings, FlowDirection, FlowObserved, Found, GpuObserved,
    LibrariesObserved, LibraryClassObserved, LogObserved, SensitiveClass, SensitiveObserved,
    SessionsReleased, UsersObserved, endpoint,
};

pub use flow::{FLOWS_BEGUN_MAX, FLOWS_COUNTED_MAX, FlowBegun, FlowsBegun};

pub use latency::{DiskLatencies, LATENCY_BINS, LATENCY_BOUNDS_US, Latencies, LatencySeen};

pub use metric::{Bucket, METRICS, Metric, Reading, Summary, Tier};

use crate::unit::{Bytes, Millis, Permille, UnixMillis};
use serde::{Deserialize, Serialize};

/// One look at a guest, by its agent. The guest is not trusted: see design.md, section 5.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSample {
    /// Counts samples since the agent started: a gap is a lost sample.
    pub sequence: u64,
    /// The guest's own wall clock.
    pub taken_at: UnixMillis,
    /// Time since the guest booted.
    pub uptime: Option<Millis>,
    /// CPU time totals of the whole guest.
    pub cpu: Option<CpuObserved>,
    /// Memory of the whole guest.
    pub memory: Option<MemoryObserved>,
    /// Pressure stall information of the whole guest.
    pub pressure: PressureSetObserved,
    /// Block devices; `None` when they could not be read.
    pub disks: Option<Vec<DiskObserved>>,
    /// Network interfaces without loopback.
    pub nics: Option<Vec<NicObserved>>,
    /// The processes that used most CPU or memory; `None` when they could not be listed.
    pub processes: Option<Vec<ProcessObserved>>,
}

/// CPU time totals, in microseconds over all CPUs, and what runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuObserved {
    /// In user code, nice or not.
    pub user_us: u64,
    /// In the kernel, interrupts included.
    pub system_us: u64,
    /// Doing nothing.
    pub idle_us: u64,
    /// Doing nothing while a disk was waited for.
    pub iowait_us: u64,
    /// Ready to run, but the host ran something else.
    pub steal_us: u64,
    /// CPUs online now.
    pub online: u32,
    /// Runnable tasks at this moment.
    pub running: Option<u32>,
    /// Tasks waiting for a disk at this moment.
    pub blocked: Option<u32>,
    /// Context switches since boot.
    pub switches: Option<u64>,
    /// Tasks created since boot.
    pub forks: Option<u64>,
}

/// Memory of a guest. `available` is the kernel's own estimate of what new work could take without swapping.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryObserved {
    /// All that the kernel manages.
    pub total: Bytes,
    /// What new work could take.
    pub available: Bytes,
    /// Used for nothing.
    pub free: Option<Bytes>,
    /// Page cache.
    pub cached: Option<Bytes>,
    /// Anonymous pages in use.
    pub anonymous: Option<Bytes>,
    /// Shared memory and tmpfs.
    pub shared: Option<Bytes>,
    /// Changed pages not yet on disk.
    pub dirty: Option<Bytes>,
    /// Kernel slabs.
    pub slab: Option<Bytes>,
    /// Swap there is.
    pub swap_total: Option<Bytes>,
    /// Swap left.
    pub swap_free: Option<Bytes>,
    /// Page faults that needed a disk, since boot.
    pub major_faults: Option<u64>,
    /// File pages that were dropped too early, since boot.
    pub refaults_file: Option<u64>,
    /// Anonymous pages that were swapped out too early, since boot.
    pub refaults_anon: Option<u64>,
    /// Tasks killed for lack of memory, since boot.
    pub oom_kills: Option<u64>,
}

/// Share of time in which work waited for a resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PressureObserved {
    /// Mean over ten seconds.
    pub avg10: Permille,
    /// Mean over one minute.
    pub avg60: Permille,
    /// Total since boot, in microseconds.
    pub total_us: u64,
}

/// Pressure by resource; `some` = at least one task waited, `full` = all of them did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PressureSetObserved {
    /// Waiting for a CPU.
    pub cpu_some: Option<PressureObserved>,
    /// Waiting for memory.
    pub memory_some: Option<PressureObserved>,
    /// All waiting for memory.
    pub memory_full: Option<PressureObserved>,
    /// Waiting for a disk.
    pub io_some: Option<PressureObserved>,
    /// All waiting for a disk.
    pub io_full: Option<PressureObserved>,
}

/// A block device, totals since boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskObserved {
    /// The kernel's name, as in `vda`.
    pub name: String,
    /// The serial that the host gave it.
    pub serial: Option<String>,
    /// Reads done.
    pub reads: u64,
    /// Amount read.
    pub read: Bytes,
    /// Writes done.
    pub writes: u64,
    /// Amount written.
    pub written: Bytes,
    /// Time with at least one request under way.
    pub busy: Millis,
    /// Requests under way now.
    pub in_flight: u32,
}

/// A network interface, totals since it appeared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicObserved {
    /// The kernel's name, as in `eth0`.
    pub name: String,
    /// Received.
    pub received: Bytes,
    /// Packets received.
    pub received_packets: u64,
    /// Packets lost on reception, by error or lack of room.
    pub received_lost: u64,
    /// Sent.
    pub sent: Bytes,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets lost on sending.
    pub sent_lost: u64,
}

/// A process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessObserved {
    /// Process id, meaningful only together with `started_ticks`.
    pub pid: u32,
    /// Start time in clock ticks since boot: tells two processes with one id apart.
    pub started_ticks: u64,
    /// Name of the program.
    pub name: String,
    /// CPU time used since its start, in microseconds.
    pub cpu_us: u64,
    /// Memory resident now.
    pub resident: Bytes,
    /// Threads.
    pub threads: u32,
    /// Read from storage since its start, without what a child of it did; `None`: not told.
    #[serde(default)]
    pub read: Option<Bytes>,
    /// Written that goes to storage, alike.
    #[serde(default)]
    pub written: Option<Bytes>,
}

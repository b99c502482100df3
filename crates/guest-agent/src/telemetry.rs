//! Samples the guest when the host asks: counters of the whole, its disks and links, and the processes that use most.
//! Files of the kernel stay open between samples. Must never report a zero for what it could not read.

pub mod collector;

mod device;

mod findings;

mod process;

pub use findings::Collectors;

use crate::procfs::{Reader, fields};
use proteus_protocol::guest::v1::sample::{Cpu, Memory, Pressure, PressureSet, Sample};
use std::fs::File;
use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds in one clock tick: the kernel counts CPU time for users at 100 Hz on all architectures here.
pub const TICK_US: u64 = 10_000;

/// Looks at the guest.
pub struct Sampler {
    sequence: u64,
    reader: Reader,
    files: Files,
    devices: device::Devices,
    processes: process::Processes,
}

struct Files {
    stat: Option<File>,
    meminfo: Option<File>,
    vmstat: Option<File>,
    uptime: Option<File>,
    pressure: [Option<File>; 3],
}

impl Sampler {
    /// Opens what it reads every time.
    pub fn new() -> Self {
        let open = |path: &str| File::open(path).ok();
        Self {
            sequence: 0,
            reader: Reader::default(),
            files: Files {
                stat: open("/proc/stat"),
                meminfo: open("/proc/meminfo"),
                vmstat: open("/proc/vmstat"),
                uptime: open("/proc/uptime"),
                pressure: ["cpu", "memory", "io"].map(|name| open(&format!("/proc/pressure/{name}"))),
            },
            devices: device::Devices::default(),
            processes: process::Processes::default(),
        }
    }

    /// Whether this kernel tells about pressure.
    pub fn has_pressure(&self) -> bool {
        self.files.pressure.iter().all(Option::is_some)
    }

    /// One look. In an emulated guest it costs about 20 ms of CPU, most of it for the processes: 0.2 % of a core for a
    /// host that asks every ten seconds.
    pub fn sample(&mut self) -> Sample {
        let sequence = self.sequence;
        self.sequence += 1;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Before the processes are listed: see there.
        let cpu = self.read(|files| &files.stat).and_then(cpu);
        let forks = cpu.as_ref().and_then(|cpu| cpu.forks);
        Sample {
            sequence,
            taken_at_ms: u64::try_from(now.as_millis()).unwrap_or(0),
            uptime_ms: self.uptime_ms(),
            cpu,
            memory: self.memory(),
            pressure: self.pressure(),
            disks: self.devices.disks(&mut self.reader),
            nics: self.devices.nics(&mut self.reader),
            processes: self.processes.top(&mut self.reader, forks),
        }
    }

    /// Time since boot.
    pub fn uptime_ms(&mut self) -> Option<u64> {
        let seconds: f64 = self.read(|files| &files.uptime)?.split(' ').next()?.parse().ok()?;
        Some((seconds * 1000.0) as u64)
    }

    fn read(&mut self, which: impl Fn(&Files) -> &Option<File>) -> Option<&str> {
        let file = which(&self.files).as_ref()?;
        self.reader.read_file(file)
    }

    fn memory(&mut self) -> Option<Memory> {
        let mut memory = memory(self.read(|files| &files.meminfo)?)?;
        if let Some(text) = self.read(|files| &files.vmstat) {
            let keys = ["pgmajfault", "workingset_refault_file", "workingset_refault_anon", "oom_kill"];
            [memory.major_faults, memory.refaults_file, memory.refaults_anon, memory.oom_kills] =
                fields(text, keys);
        }
        Some(memory)
    }

    fn pressure(&mut self) -> PressureSet {
        let mut line = |index: usize, name: &str| {
            let text = self.read(|files| &files.pressure[index])?;
            pressure(text, name)
        };
        PressureSet {
            cpu_some: line(0, "some"),
            memory_some: line(1, "some"),
            memory_full: line(1, "full"),
            io_some: line(2, "some"),
            io_full: line(2, "full"),
        }
    }
}

/// Reads `/proc/stat`.
fn cpu(text: &str) -> Option<Cpu> {
    let total = text.lines().next()?.strip_prefix("cpu ")?;
    let mut ticks = [0u64; 8];
    let mut words = total.split_ascii_whitespace();
    for slot in &mut ticks {
        *slot = words.next()?.parse().ok()?;
    }
    let [user, nice, system, idle, iowait, irq, softirq, steal] = ticks.map(|t| t.saturating_mul(TICK_US));
    let [running, blocked, switches, forks] =
        fields(text, ["procs_running", "procs_blocked", "ctxt", "processes"]);
    let is_cpu =
        |line: &&str| line.strip_prefix("cpu").is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()));
    Some(Cpu {
        user_us: user + nice,
        system_us: system + irq + softirq,
        idle_us: idle,
        iowait_us: iowait,
        steal_us: steal,
        online: text.lines().skip(1).take_while(is_cpu).count() as u32,
        running: running.and_then(|v| u32::try_from(v).ok()),
        blocked: blocked.and_then(|v| u32::try_from(v).ok()),
        switches,
        forks,
    })
}

/// Reads `/proc/meminfo`.
fn memory(text: &str) -> Option<Memory> {
    // As the kernel orders them: the pass ends with the last.
    let keys = [
        "MemTotal",
        "MemFree",
        "MemAvailable",
        "Cached",
        "SwapTotal",
        "SwapFree",
        "Dirty",
        "AnonPages",
        "Shmem",
        "Slab",
    ];
    let kib = fields(text, keys).map(|kib| kib.map(|kib| kib.saturating_mul(1024)));
    let [total, free, available, cached, swap_total, swap_free, dirty, anonymous, shared, slab] = kib;
    let (total, available) = (total?, available?);
    let rest = Memory::default();
    Some(Memory {
        total,
        available,
        free,
        cached,
        anonymous,
        shared,
        dirty,
        slab,
        swap_total,
        swap_free,
        ..rest
    })
}

/// Reads one line of a pressure file: `some avg10=1.23 avg60=0.00 avg300=0.00 total=456`.
fn pressure(text: &str, name: &str) -> Option<Pressure> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    let value = |key: &str| line.split(' ').find_map(|part| part.strip_prefix(key)?.strip_prefix('='));
    // Percent with two digits: ten of its hundredths are one part per thousand.
    let permille =
        |key: &str| Some((value(key)?.parse::<f64>().ok()? * 10.0).round().clamp(0.0, 1000.0) as u32);
    Some(Pressure {
        avg10: permille("avg10")?,
        avg60: permille("avg60")?,
        total_us: value("total")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_stat_is_read() {
        let text = "cpu  10 1 5 100 2 1 1 3 0 0\ncpu0 5 1 2 50 1 0 0 1 0 0\ncpu3 5 0 3 50 1 1 1 2 0 0\n\
            intr 5\nctxt 99\nprocesses 7\nprocs_running 2\nprocs_blocked 0\n";
        let cpu = cpu(text).unwrap();
        assert_eq!((cpu.user_us, cpu.system_us, cpu.steal_us), (110_000, 70_000, 30_000));
        assert_eq!(
            (cpu.online, cpu.running, cpu.blocked, cpu.switches, cpu.forks),
            (2, Some(2), Some(0), Some(99), Some(7))
        );
        assert_eq!(super::cpu("cpu 1 2"), None);
    }

    #[test]
    fn pressure_is_in_parts_per_thousand() {
        let text = "some avg10=12.34 avg60=0.00 avg300=0.00 total=456\nfull avg10=0.05 avg60=100.00 avg300=0 total=1\n";
        assert_eq!(pressure(text, "some"), Some(Pressure { avg10: 123, avg60: 0, total_us: 456 }));
        assert_eq!(pressure(text, "full"), Some(Pressure { avg10: 1, avg60: 1000, total_us: 1 }));
        assert_eq!(pressure("", "some"), None);
    }

    #[test]
    fn memory_without_an_estimate_is_missing() {
        assert!(memory("MemTotal: 100 kB\n").is_none());
        let memory = memory("MemTotal: 100 kB\nMemAvailable: 50 kB\n").unwrap();
        assert_eq!((memory.total, memory.available, memory.swap_total), (102_400, 51_200, None));
    }

    #[test]
    fn this_machine_can_be_sampled() {
        let mut sampler = Sampler::new();
        let first = sampler.sample();
        assert_eq!(first.sequence, 0);
        assert!(first.cpu.unwrap().online >= 1);
        assert!(first.memory.unwrap().available > 0);
        assert!(first.processes.unwrap().iter().any(|p| p.pid == std::process::id() || p.resident > 0));
        let second = sampler.sample();
        assert!(second.sequence == 1 && second.processes.is_some());
        assert!(proteus_model::telemetry::GuestSample::try_from(second).is_ok());
    }
}

//! System calls of all programs by class, counted for one second of each minute: a counter costs each call something
//! (0.6 µs in an emulated guest), so it is not left on. Must never follow a single program or its arguments.

use super::{Collect, Step, found};
use crate::procfs::read_text;
use crate::sys::perf::Counter;
use proteus_protocol::guest::v1::findings::{CallClass, Collector, Findings, SystemCalls};
use std::ffi::CStr;
use std::time::{Duration, Instant};

const TRACEPOINT: &str = "/sys/kernel/tracing/events/raw_syscalls/sys_enter/id";
/// So long calls are counted.
const WINDOW: Duration = Duration::from_secs(1);
/// Most CPUs that are counted on: each has as many counters as there are classes.
pub(super) const CPUS_MAX: u32 = 64;

/// Numbers of the calls of x86-64 (arch/x86/entry/syscalls/syscall_64.tbl), by what they are for.
const CLASSES: [(&str, Option<&CStr>); 6] = [
    ("all", None),
    ("files", Some(c"id<=6||id==8||(id>=17&&id<=21)||id==40||id==74||id==75||id==78||id==217||id==257||id==262||id==295||id==296||id==332")),
    ("network", Some(c"(id>=41&&id<=55)||id==288||id==299||id==307")),
    ("memory", Some(c"(id>=9&&id<=12)||id==25||id==28")),
    ("processes", Some(c"(id>=56&&id<=62)||id==231||id==234||id==247||id==435")),
    ("waiting", Some(c"id==7||id==23||id==35||id==202||id==230||id==232||id==270||id==271||id==281||id==441")),
];

/// Counters that are on.
struct Window {
    since: Instant,
    counters: Vec<(&'static str, Vec<Counter>)>,
}

/// The system calls of this guest.
#[derive(Default)]
pub struct Calls {
    window: Option<Window>,
}

fn open(tracepoint: u64) -> std::io::Result<Window> {
    let cpus: Vec<u32> = online_cpus().into_iter().take(CPUS_MAX as usize).collect();
    let since = Instant::now();
    let counters = CLASSES.map(|(name, filter)| {
        let on = cpus.iter().map(|cpu| Counter::start(tracepoint, *cpu, filter));
        on.collect::<std::io::Result<Vec<_>>>().map(|counters| (name, counters))
    });
    Ok(Window { since, counters: counters.into_iter().collect::<std::io::Result<_>>()? })
}

/// CPUs that are online.
pub(super) fn online_cpus() -> Vec<u32> {
    let cpus = read_text("/sys/devices/system/cpu/online").unwrap_or_default();
    cpu_list(&cpus).collect()
}

/// CPUs of a list such as `0-2,5`.
fn cpu_list(text: &str) -> impl Iterator<Item = u32> + '_ {
    text.split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            Some(first..=last.min(first.saturating_add(4096)))
        })
        .flatten()
}

fn tracepoint() -> Option<u64> {
    read_text(TRACEPOINT).ok()?.parse().ok()
}

impl Window {
    fn read(&self) -> std::io::Result<SystemCalls> {
        let sum = |(name, counters): &(&str, Vec<Counter>)| {
            let calls = counters.iter().map(Counter::count).sum::<std::io::Result<u64>>()?;
            Ok(CallClass { name: (*name).to_owned(), calls })
        };
        let classes = self.counters.iter().map(sum).collect::<std::io::Result<_>>()?;
        let window_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(SystemCalls { window_ms, classes })
    }
}

impl Collect for Calls {
    fn name(&self) -> Collector {
        Collector::Calls
    }

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn missing(&mut self) -> Option<String> {
        if !cfg!(target_arch = "x86_64") {
            return Some("classes of system calls are known of x86-64 only".to_owned());
        }
        if self.window.is_some() {
            return None;
        }
        let Some(id) = tracepoint() else {
            return Some(format!("{TRACEPOINT} cannot be read: mount tracefs on /sys/kernel/tracing"));
        };
        Counter::start(id, 0, None).err().map(|error| format!("count system calls: {error}"))
    }

    fn step(&mut self, findings: &mut Findings) -> Step {
        let Some(window) = self.window.take() else {
            self.window = tracepoint().and_then(|id| open(id).ok());
            return if self.window.is_some() { Step::Later(WINDOW) } else { Step::Done };
        };
        findings.calls = window.read().ok().and_then(found);
        Step::Done
    }

    fn is_open(&self) -> bool {
        self.window.is_some()
    }

    fn forget(&mut self) {
        self.window = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_read() {
        assert_eq!(cpu_list("0-2,5\n").collect::<Vec<_>>(), [0, 1, 2, 5]);
        assert_eq!(cpu_list("").count() + cpu_list("x-3").count() + cpu_list("3-1").count(), 0);
    }

    #[test]
    fn no_call_is_in_two_classes() {
        // The same grammar as the kernel's, for numbers and ranges only.
        let is_in = |filter: &CStr, id: u32| {
            filter.to_str().unwrap().split("||").any(|part| {
                part.trim_matches(['(', ')']).split("&&").all(|test| {
                    let number = |end: &str| end.parse::<u32>().unwrap();
                    match test.strip_prefix("id").unwrap() {
                        rest if rest.starts_with("==") => id == number(&rest[2..]),
                        rest if rest.starts_with("<=") => id <= number(&rest[2..]),
                        rest if rest.starts_with(">=") => id >= number(&rest[2..]),
                        rest => panic!("{rest}"),
                    }
                })
            })
        };
        for id in 0..500 {
            let classes = CLASSES.iter().filter(|(_, filter)| filter.is_some_and(|filter| is_in(filter, id)));
            assert!(classes.count() <= 1, "{id}");
        }
    }
}

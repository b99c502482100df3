//! Scheduling of an application: per thread nice, I/O priority and policy, per control group the CPU weight.
//! What is read is exact, and writing it again restores it exactly. Must never touch a thread that only got the
//! number of one in a snapshot.

use super::application::{cgroup_dir, find};
use crate::failure::Failure;
use crate::procfs::{process_stat, read_text, thread_ids, write_text};
use crate::sys;
use proteus_protocol::guest::v1::setting::{
    ApplicationSelector, CgroupWeight, PRIORITY_THREADS_MAX, Priority, PriorityClass, PrioritySnapshot,
    ThreadPriority,
};
use rustix::process::{Pid, getpriority_process, setpriority_process};
use std::collections::BTreeMap;

/// Passes over an application: each catches what was forked during the one before.
const PASSES_MAX: usize = 4;

/// What a class means to the kernel: see [`PriorityClass`].
struct Meaning {
    policy: u32,
    realtime_priority: u32,
    nice: Option<i32>,
    io_priority: u32,
    cpu_weight: u32,
}

/// Best effort is class 2, idle class 3, in the top three of 16 bits (linux/ioprio.h).
const fn io_priority(class: u32, level: u32) -> u32 {
    class << 13 | level
}

fn meaning(class: PriorityClass) -> Meaning {
    let (other, round_robin, idle) =
        (libc::SCHED_OTHER as u32, libc::SCHED_RR as u32, libc::SCHED_IDLE as u32);
    let (policy, realtime_priority, nice, io_priority, cpu_weight) = match class {
        PriorityClass::Realtime => (round_robin, 10, None, io_priority(2, 0), 1000),
        PriorityClass::High => (other, 0, Some(-10), io_priority(2, 2), 400),
        PriorityClass::Normal => (other, 0, Some(0), io_priority(2, 4), 100),
        PriorityClass::Low => (other, 0, Some(10), io_priority(2, 6), 40),
        PriorityClass::Idle => (idle, 0, Some(19), io_priority(3, 0), 1),
    };
    Meaning { policy, realtime_priority, nice, io_priority, cpu_weight }
}

fn pid_of(tid: u32) -> Option<Pid> {
    i32::try_from(tid).ok().and_then(Pid::from_raw)
}

/// Start time and parent of a thread; `None`: it ended.
fn thread_start(pid: u32, tid: u32) -> Option<(u64, u32)> {
    let text = read_text(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
    process_stat(&text).map(|stat| (stat.started_ticks, stat.parent))
}

/// How a thread is scheduled; `None`: it ended meanwhile.
fn read_thread(pid: u32, tid: u32) -> Option<ThreadPriority> {
    let (started_ticks, _) = thread_start(pid, tid)?;
    let (policy, realtime_priority) = sys::scheduler(tid).ok()?;
    let nice = getpriority_process(pid_of(tid)).ok()?;
    let io_priority = sys::io_priority(tid).ok()?;
    Some(ThreadPriority { pid, tid, started_ticks, nice, io_priority, policy, realtime_priority })
}

fn write_thread(wanted: &ThreadPriority) -> std::io::Result<()> {
    let tid = wanted.tid;
    sys::set_scheduler(tid, wanted.policy, wanted.realtime_priority)?;
    setpriority_process(pid_of(tid), wanted.nice)?;
    sys::set_io_priority(tid, wanted.io_priority)
}

/// Writes and reads back; a thread that ended needs nothing.
fn ensure_thread(wanted: &ThreadPriority) -> Result<(), Failure> {
    if let Err(error) = write_thread(wanted) {
        if thread_start(wanted.pid, wanted.tid).is_none() {
            return Ok(());
        }
        return Err(Failure::system(format!("set the priority of thread {}", wanted.tid), &error));
    }
    match read_thread(wanted.pid, wanted.tid) {
        Some(found) if found != *wanted && found.started_ticks == wanted.started_ticks => {
            let what = format!("priority of thread {}", wanted.tid);
            Err(Failure::not_effective(what, format!("{wanted:?}"), format!("{found:?}")))
        }
        _ => Ok(()),
    }
}

fn read_weight(path: &str) -> Option<CgroupWeight> {
    let cpu_weight = read_text(cgroup_dir(path).join("cpu.weight")).ok()?.parse().ok()?;
    Some(CgroupWeight { path: path.to_owned(), cpu_weight })
}

fn ensure_weight(wanted: &CgroupWeight) -> Result<(), Failure> {
    let file = cgroup_dir(&wanted.path).join("cpu.weight");
    match write_text(&file, &wanted.cpu_weight.to_string()) {
        Ok(()) => {}
        // The group is gone, and its weight with it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::system(format!("set the CPU weight of {}", wanted.path), &error)),
    }
    match read_weight(&wanted.path) {
        Some(found) if found != *wanted => {
            let what = format!("CPU weight of {}", wanted.path);
            Err(Failure::not_effective(what, wanted.cpu_weight, found.cpu_weight))
        }
        _ => Ok(()),
    }
}

/// The exact scheduling of an application.
pub fn read(application: &ApplicationSelector) -> Result<Priority, Failure> {
    let found = find(application)?;
    let mut threads = Vec::new();
    for pid in found.pids {
        threads.extend(thread_ids(pid).into_iter().filter_map(|tid| read_thread(pid, tid)));
        if threads.len() > PRIORITY_THREADS_MAX {
            let message =
                format!("more than {PRIORITY_THREADS_MAX} threads: choose a control group's weight instead");
            return Err(Failure::unsupported(message));
        }
    }
    let cgroups = found.cgroups.iter().filter_map(|path| read_weight(path)).collect();
    Ok(Priority::Snapshot(PrioritySnapshot { threads, cgroups }))
}

/// Gives an application a class, or back what it had.
pub fn apply(application: &ApplicationSelector, priority: &Priority) -> Result<(), Failure> {
    match priority {
        Priority::Class(class) => apply_class(application, *class),
        Priority::Snapshot(snapshot) => restore(application, snapshot),
    }
}

/// Calls `ensure` for each thread, again for those that appear meanwhile.
fn for_each_thread(
    application: &ApplicationSelector,
    mut ensure: impl FnMut(ThreadPriority) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut done = BTreeMap::new();
    for _ in 0..PASSES_MAX {
        let before = done.len();
        for pid in find(application)?.pids {
            for tid in thread_ids(pid) {
                let Some(found) = read_thread(pid, tid) else { continue };
                if done.insert(tid, found.started_ticks) != Some(found.started_ticks) {
                    ensure(found)?;
                }
            }
        }
        if done.len() == before {
            break;
        }
    }
    Ok(())
}

fn apply_class(application: &ApplicationSelector, class: PriorityClass) -> Result<(), Failure> {
    let meaning = meaning(class);
    for path in find(application)?.cgroups.iter().filter(|path| read_weight(path).is_some()) {
        ensure_weight(&CgroupWeight { path: path.clone(), cpu_weight: meaning.cpu_weight })?;
    }
    for_each_thread(application, |found| {
        ensure_thread(&ThreadPriority {
            policy: meaning.policy,
            realtime_priority: meaning.realtime_priority,
            nice: meaning.nice.unwrap_or(found.nice),
            io_priority: meaning.io_priority,
            ..found
        })
    })
}

/// Each thread of the snapshot gets its own values back. One that was started since gets those of its process,
/// or of the nearest ancestor in the snapshot: what it would have inherited.
fn restore(application: &ApplicationSelector, snapshot: &PrioritySnapshot) -> Result<(), Failure> {
    for weight in &snapshot.cgroups {
        ensure_weight(weight)?;
    }
    let by_tid: BTreeMap<u32, &ThreadPriority> = snapshot.threads.iter().map(|t| (t.tid, t)).collect();
    let result = for_each_thread(application, |found| {
        let own = by_tid.get(&found.tid).filter(|t| t.started_ticks == found.started_ticks);
        let Some(wanted) = own.copied().or_else(|| nearest_ancestor(&by_tid, found.pid)) else {
            return Ok(());
        };
        let (pid, tid, started_ticks) = (found.pid, found.tid, found.started_ticks);
        ensure_thread(&ThreadPriority { pid, tid, started_ticks, ..*wanted })
    });
    match result {
        // Nothing runs any more: nothing is left to restore.
        Err(failure) if failure.code == proteus_protocol::guest::v1::ErrorCode::NotFound => Ok(()),
        other => other,
    }
}

fn nearest_ancestor<'a>(by_tid: &BTreeMap<u32, &'a ThreadPriority>, pid: u32) -> Option<&'a ThreadPriority> {
    let mut at = pid;
    // Deeper trees than this are not a service's.
    for _ in 0..32 {
        let (started_ticks, parent) = thread_start(at, at)?;
        if let Some(found) = by_tid.get(&at).filter(|t| t.started_ticks == started_ticks) {
            return Some(found);
        }
        at = parent;
    }
    None
}

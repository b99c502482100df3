//! Counters that the processor itself keeps of single threads (`perf_event_open`): what vCPUs carried out, and how far
//! from the processor their memory was. Must never sample, tell what was not counted, nor take so many descriptors that
//! somebody else goes without.
//!
//! ```text
//! thread appears ─▶ opened, at nothing ─▶ read at each look ─▶ thread ends: closed, its sum stays
//! ```

use rustix::fd::{AsRawFd, FromRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// `struct perf_event_attr` of linux/perf_event.h in its first version, 64 bytes.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    config1: u64,
}

/// `PERF_FORMAT_TOTAL_TIME_ENABLED`, `…_RUNNING` and `PERF_FORMAT_GROUP`: one read tells of all that is counted together.
const READ_FORMAT: u64 = 1 | 2 | 8;
/// `PERF_FLAG_FD_CLOEXEC`.
const CLOEXEC: libc::c_ulong = 8;

/// `disabled`, the first of the flags, and `PERF_EVENT_IOC_ENABLE`: `_IO('$', 0)`.
const DISABLED: u64 = 1;
const ENABLE: libc::c_ulong = 0x2400;

/// How many events are counted of a thread.
pub(crate) const EVENTS: usize = 3;

/// What is counted: type and number of linux/perf_event.h.
pub(crate) type Events = [(u32, u64); EVENTS];

/// `PERF_TYPE_HARDWARE`: instructions, cycles, misses of the last cache.
pub(crate) const HARDWARE: Events = [(0, 1), (0, 0), (0, 3)];

/// What was counted together is told only where it was counted for this share of the time at least, 1 of so many:
/// where others use the counters too, the kernel lets all of them take turns, and the rest is scaled up.
const SHARE_MIN: u64 = 100;

/// Of the descriptors that a process may have, 1 of so many may be these.
const DESCRIPTORS_SHARE: u64 = 4;

/// What one read told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    /// Time that the thread ran since it is counted, ns, and how much of that was counted.
    enabled: u64,
    running: u64,
    values: [u64; EVENTS],
}

/// Reads `nr, enabled, running, value…` of 8 bytes each; `present`: which of the events are counted.
fn decode(bytes: &[u8], present: [bool; EVENTS]) -> Option<Seen> {
    let mut numbers = bytes.as_chunks::<8>().0.iter().map(|eight| u64::from_ne_bytes(*eight));
    let count = present.iter().filter(|there| **there).count();
    if numbers.next()? != count as u64 {
        return None;
    }
    let mut seen = Seen { enabled: numbers.next()?, running: numbers.next()?, values: [0; EVENTS] };
    for (value, _) in seen.values.iter_mut().zip(present).filter(|(_, there)| *there) {
        *value = numbers.next()?;
    }
    Some(seen)
}

#[allow(unsafe_code, reason = "perf_event_open has no safe wrapper")]
fn open(event: (u32, u64), thread: i32, leader: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    let attributes = Attributes {
        kind: event.0,
        size: size_of::<Attributes>() as u32,
        config: event.1,
        read_format: READ_FORMAT,
        // The others of a group begin with the first.
        flags: if leader.is_none() { DISABLED } else { 0 },
        ..Attributes::default()
    };
    let group = leader.map_or(-1, AsRawFd::as_raw_fd);
    // SAFETY: the kernel reads as many bytes of `attributes` as its `size` says, which is its size, keeps no pointer to
    // it, and takes four integers beside; `group` is -1 or open for the whole call.
    let raw = unsafe { libc::syscall(libc::SYS_perf_event_open, &attributes, thread, -1, group, CLOEXEC) };
    let raw = i32::try_from(raw).map_err(io::Error::other)?;
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so `raw` is a descriptor new in this process that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Begins to count with all of a group at once: to a thread that runs, what is added to a group that counts already would
/// come with its next turn only, and until then be told as counted and nothing.
#[allow(unsafe_code, reason = "this ioctl has no safe wrapper")]
fn begin(leader: &OwnedFd) -> io::Result<()> {
    // SAFETY: `leader` is open for the whole call, which takes an integer and touches no memory of ours.
    match unsafe { libc::ioctl(leader.as_raw_fd(), ENABLE, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Why nothing is counted, in words.
fn words(error: &io::Error) -> String {
    let told = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => "this host's processor offers none to us (ENOENT)",
        Some(Errno::OPNOTSUPP) => "this host's processor does not count that (EOPNOTSUPP)",
        Some(Errno::ACCESS) => "the kernel does not let us (EACCES, kernel.perf_event_paranoid)",
        Some(Errno::PERM) => "the kernel does not let us (EPERM)",
        Some(Errno::NOSYS) => "this kernel has none (ENOSYS)",
        _ => return error.to_string(),
    };
    told.to_owned()
}

/// What is counted on this host, of any thread.
#[derive(Debug)]
pub(crate) struct Counting {
    events: Events,
    present: [bool; EVENTS],
    /// Descriptors that are open, and how many may be.
    held: Arc<AtomicUsize>,
    held_max: usize,
}

impl Counting {
    /// Finds out on the calling thread what can be counted; why nothing can, if nothing.
    pub(crate) fn probe(events: Events) -> Result<Self, String> {
        let tried = events.map(|event| open(event, 0, None));
        let present = tried.each_ref().map(Result::is_ok);
        if !present.contains(&true) {
            let why = tried.iter().find_map(|one| one.as_ref().err()).map(words);
            return Err(why.unwrap_or_default());
        }
        let may = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / DESCRIPTORS_SHARE;
        let held_max = usize::try_from(may).unwrap_or(usize::MAX);
        Ok(Self { events, present, held: Arc::default(), held_max })
    }

    /// Which of the events this host cannot count.
    pub(crate) fn present(&self) -> [bool; EVENTS] {
        self.present
    }

    fn open(&self, thread: u32) -> io::Result<Group> {
        let thread = i32::try_from(thread).map_err(io::Error::other)?;
        let mut group = Group { descriptors: Vec::with_capacity(EVENTS), held: self.held.clone() };
        for (event, _) in self.events.into_iter().zip(self.present).filter(|(_, there)| *there) {
            if self.held.fetch_add(1, Ordering::Relaxed) >= self.held_max {
                self.held.fetch_sub(1, Ordering::Relaxed);
                let why =
                    format!("{} files are open for that already, a quarter of what may be", self.held_max);
                return Err(io::Error::other(why));
            }
            match open(event, thread, group.descriptors.first()) {
                Ok(descriptor) => group.descriptors.push(descriptor),
                Err(error) => {
                    self.held.fetch_sub(1, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        group.descriptors.first().map_or(Ok(()), begin)?;
        Ok(group)
    }
}

/// What is counted of one thread; the first descriptor is read for all.
#[derive(Debug)]
struct Group {
    descriptors: Vec<OwnedFd>,
    held: Arc<AtomicUsize>,
}

impl Drop for Group {
    fn drop(&mut self) {
        self.held.fetch_sub(self.descriptors.len(), Ordering::Relaxed);
    }
}

impl Group {
    fn read(&self, present: [bool; EVENTS]) -> Option<Seen> {
        let mut bytes = [0; 8 * (3 + EVENTS)];
        let length = rustix::io::read(self.descriptors.first()?, &mut bytes).ok()?;
        decode(bytes.get(..length)?, present)
    }
}

/// The sums of one thread.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    last: Seen,
    total: [u64; EVENTS],
}

impl Sums {
    /// Takes a read in. `false`: too little of the time was counted to tell; then the next read is taken from here.
    fn take_in(&mut self, seen: Seen) -> bool {
        let enabled = seen.enabled.saturating_sub(self.last.enabled);
        let running = seen.running.saturating_sub(self.last.running).min(enabled);
        if enabled > 0 && running < enabled.div_ceil(SHARE_MIN) {
            return false;
        }
        for ((total, now), before) in self.total.iter_mut().zip(seen.values).zip(self.last.values) {
            let rise = u128::from(now.saturating_sub(before));
            let scaled = rise * u128::from(enabled.max(1)) / u128::from(running.max(1));
            *total = total.saturating_add(u64::try_from(scaled).unwrap_or(u64::MAX));
        }
        self.last = seen;
        true
    }
}

/// The vCPU threads of one VM, as they are counted.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    /// By process and thread: a thread of another VMM may have the number of one of before.
    open: HashMap<(u32, u32), (Group, Sums)>,
    /// Of those that ended, so that a sum only rises.
    ended: [u64; EVENTS],
    /// Why one of them is not counted.
    why: Option<String>,
}

fn add(sum: &mut [u64; EVENTS], more: [u64; EVENTS]) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum = sum.saturating_add(more));
}

impl Threads {
    /// Why one of them was not counted at the last look.
    pub(crate) fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// What all of them have carried out since each was first seen. An event is missing where it is not counted, or one
    /// of them was not at this look: a sum without it would be a wrong one.
    pub(crate) fn look(
        &mut self,
        counting: &Counting,
        process: u32,
        threads: &[u32],
    ) -> [Option<u64>; EVENTS] {
        self.why = None;
        let is_left = |key: &(u32, u32)| key.0 == process && threads.contains(&key.1);
        let ended: Vec<_> = self.open.keys().filter(|key| !is_left(key)).copied().collect();
        for (group, mut sums) in ended.iter().filter_map(|key| self.open.remove(key)) {
            // What it did last is still there to be read.
            group.read(counting.present).map(|seen| sums.take_in(seen));
            add(&mut self.ended, sums.total);
        }
        let (mut sum, mut is_whole) = (self.ended, !threads.is_empty());
        for thread in threads {
            let (group, sums) = match self.open.entry((process, *thread)) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(place) => match counting.open(*thread) {
                    Ok(group) => place.insert((group, Sums::default())),
                    // It ended since it was listed.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => continue,
                    Err(error) => {
                        self.why = Some(words(&error));
                        is_whole = false;
                        continue;
                    }
                },
            };
            is_whole &= group.read(counting.present).is_some_and(|seen| sums.take_in(seen));
            add(&mut sum, sums.total);
        }
        std::array::from_fn(|event| (is_whole && counting.present[event]).then_some(sum[event]))
    }
}

#[cfg(test)]
mod tests;

//! Calls of well-known libraries by all programs, by class, where the owner asks for them: for half a second of each
//! minute, one file after the other, the kernel counts how often a program comes by the first instruction of a function.
//! Each hit costs the program that calls, so a window ends early when there are many, and a function that is called so
//! often is left out for a while and said to be. Must never follow a single program or its arguments, nor leave a
//! counter on because nothing is left to pay for its end.

mod elf;

mod known;

mod mapped;

use super::call::{CPUS_MAX, online_cpus};
use super::{Collect, Step, found};
use crate::procfs::read_text;
use crate::sys::perf::Counter;
use known::LIBRARIES;
use mapped::{FileId, Files, Mapped};
use proteus_protocol::guest::v1::findings::{
    Collector, Findings, LIBRARY_ROWS_MAX, LibraryCalls, LibraryClass,
};
use rustix::fd::AsRawFd;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::time::{Duration, Instant};

/// Which of the kernel's kinds of counters it is; it is there where the kernel has it.
const KIND: &str = "/sys/bus/event_source/devices/uprobe/type";
/// So long calls of one file are counted.
const WINDOW: Duration = Duration::from_millis(500);
/// Between two looks whether there are too many.
const LOOK: Duration = Duration::from_millis(100);
/// With so many hits a window ends. A hit costs 13 to 30 µs in an emulated guest: 0.3 s of programs' time at most, and
/// what comes between two looks.
const HITS_MAX: u64 = 10_000;
/// So many rounds a function is left out that had so many.
const LEFT_OUT_ROUNDS: u64 = 10;
/// Most counters that are on at a time, one for each place and CPU; but at least one place on each CPU.
const COUNTERS_MAX: usize = 64;
/// Counters that are taken away in one step: for each the kernel waits until nobody comes by it.
const CLOSED_IN_STEP: usize = 4;

/// Counters of places in one file.
struct Window {
    id: FileId,
    library: usize,
    /// By function, with what was counted before all were on.
    functions: BTreeMap<usize, (u64, Vec<Counter>)>,
    since: Instant,
}

/// Places of one file that are counted together.
struct Part {
    id: FileId,
    library: usize,
    places: Vec<(usize, u64)>,
}

/// Where a round is.
#[derive(Default, PartialEq, Eq)]
enum Phase {
    /// Before it.
    #[default]
    Before,
    /// It looks at what programs have mapped.
    Looking,
    /// It counts.
    Counting,
}

/// The libraries of this guest.
#[derive(Default)]
pub struct Libraries {
    kind: Option<u32>,
    files: Files,
    phase: Phase,
    round: u64,
    queue: Vec<Part>,
    window: Option<Window>,
    closing: Vec<Counter>,
    told: LibraryCalls,
    /// Files of this round of which calls could not be counted.
    uncounted: BTreeSet<FileId>,
    /// Functions that are called too often, and from which round on they are tried again.
    left_out: BTreeMap<(FileId, usize), u64>,
    /// Why the kernel counted nothing at all in the round before.
    refused: Option<String>,
}

fn sum(counters: &[Counter]) -> std::io::Result<u64> {
    counters.iter().map(Counter::count).sum()
}

impl Window {
    fn open(kind: u32, file: &std::fs::File, part: &Part) -> std::io::Result<Self> {
        // What is open, whatever its path leads to by now.
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let mut functions = BTreeMap::new();
        for (function, place) in &part.places {
            let on = |cpu: u32| Counter::start_at(kind, &path, *place, cpu);
            let counters = online_cpus().into_iter().map(on).collect::<std::io::Result<Vec<_>>>()?;
            functions.entry(*function).or_insert_with(|| (0, Vec::new())).1.extend(counters);
        }
        for (before, counters) in functions.values_mut() {
            *before = sum(counters)?;
        }
        Ok(Self { id: part.id, library: part.library, functions, since: Instant::now() })
    }

    /// Calls of each function so far.
    fn read(&self) -> std::io::Result<Vec<(usize, u64)>> {
        let calls = |(function, (before, counters)): (&usize, &(u64, Vec<Counter>))| {
            Ok((*function, sum(counters)?.saturating_sub(*before)))
        };
        self.functions.iter().map(calls).collect()
    }
}

/// What was counted of one file, by class.
fn classes(library: usize, window: Duration, calls: &[(usize, u64)]) -> Vec<LibraryClass> {
    let known = &LIBRARIES[library];
    let mut by_class: BTreeMap<&str, u64> = BTreeMap::new();
    for (function, calls) in calls {
        let sum = by_class.entry(known.functions[*function].0).or_default();
        *sum = sum.saturating_add(*calls);
    }
    let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX).max(1);
    let row = |(class, calls): (&str, u64)| LibraryClass {
        library: known.name.to_owned(),
        class: class.to_owned(),
        window_ms,
        calls: Some(calls),
        left_out: 0,
    };
    by_class.into_iter().map(row).collect()
}

/// Places of a file, so many of them together as there may be counters for on each CPU.
fn parts(id: FileId, mapped: &Mapped, cpus: usize) -> Vec<Part> {
    let together = (COUNTERS_MAX / cpus.max(1)).max(1);
    let chunks = mapped.places.chunks(together);
    chunks.map(|places| Part { id, library: mapped.library, places: places.to_vec() }).collect()
}

impl Libraries {
    /// What is to be counted in this round; what is left out is told.
    fn plan(&mut self) {
        let (round, cpus) = (self.round, online_cpus().len());
        self.left_out.retain(|_, until| *until > round);
        for (id, mut mapped) in self.files.known() {
            let known = &LIBRARIES[mapped.library];
            let mut dear: BTreeMap<&str, u32> = BTreeMap::new();
            for (_, function) in self.left_out.keys().filter(|(of, _)| *of == id) {
                *dear.entry(known.functions[*function].0).or_default() += 1;
            }
            self.told.classes.extend(dear.into_iter().map(|(class, left_out)| LibraryClass {
                library: known.name.to_owned(),
                class: class.to_owned(),
                window_ms: WINDOW.as_millis() as u64,
                calls: None,
                left_out,
            }));
            mapped.places.retain(|(function, _)| !self.left_out.contains_key(&(id, *function)));
            self.queue.extend(parts(id, &mapped, cpus));
        }
    }

    /// Begins to count the next part; what cannot be is told of.
    fn count_next(&mut self, part: &Part) -> Step {
        // Whoever had it may have ended: no reason to say anything.
        let Some(file) = self.files.open(&part.id) else { return Step::More };
        match Window::open(self.kind.unwrap_or(0), &file, part) {
            Ok(window) => {
                self.window = Some(window);
                Step::Later(LOOK)
            }
            Err(error) => {
                self.uncounted.insert(part.id);
                self.refused = Some(format!("count calls of {}: {error}", LIBRARIES[part.library].name));
                Step::More
            }
        }
    }

    /// Looks at what was counted so far, and ends the window when it is over or has too much.
    fn look(&mut self, window: Window) -> Step {
        let length = window.since.elapsed();
        let calls = window.read();
        let hits: u64 = calls.iter().flatten().map(|(_, calls)| *calls).fold(0, u64::saturating_add);
        if calls.is_ok() && length < WINDOW && hits <= HITS_MAX {
            self.window = Some(window);
            return Step::Later(LOOK.min(WINDOW - length));
        }
        match calls {
            Ok(calls) => {
                self.told.classes.extend(classes(window.library, length, &calls));
                // In a window of the usual length it would have had too many by itself.
                let in_full =
                    |calls: u64| calls as f64 * WINDOW.as_secs_f64() / length.as_secs_f64().max(1e-3);
                let dear = calls.iter().filter(|(_, calls)| in_full(*calls) > HITS_MAX as f64);
                let until = self.round + LEFT_OUT_ROUNDS;
                self.left_out.extend(dear.map(|(function, _)| ((window.id, *function), until)));
            }
            Err(_) => drop(self.uncounted.insert(window.id)),
        }
        self.closing = window.functions.into_values().flat_map(|(_, counters)| counters).collect();
        Step::More
    }
}

impl Collect for Libraries {
    fn name(&self) -> Collector {
        Collector::Libraries
    }

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn missing(&mut self) -> Option<String> {
        if self.phase != Phase::Before {
            return None;
        }
        let cpus = online_cpus().len();
        if cpus == 0 || cpus > CPUS_MAX as usize {
            return Some(format!("{cpus} CPUs: calls are counted on up to {CPUS_MAX}"));
        }
        if self.kind.is_none() {
            match read_text(KIND).map(|text| text.parse()) {
                Ok(Ok(kind)) => self.kind = Some(kind),
                Ok(Err(_)) => return Some(format!("{KIND} is no number")),
                Err(error) => return Some(format!("this kernel does not count calls: {KIND}: {error}")),
            }
        }
        // Tried again after a while.
        self.refused.take()
    }

    fn step(&mut self, findings: &mut Findings) -> Step {
        if !self.closing.is_empty() {
            self.closing.truncate(self.closing.len().saturating_sub(CLOSED_IN_STEP));
            return Step::More;
        }
        if let Some(window) = self.window.take() {
            return self.look(window);
        }
        match self.phase {
            Phase::Before => {
                self.round += 1;
                self.told = LibraryCalls::default();
                self.files.begin();
                self.phase = Phase::Looking;
                Step::More
            }
            Phase::Looking => {
                if !self.files.step() {
                    self.uncounted.clear();
                    self.plan();
                    self.phase = Phase::Counting;
                }
                Step::More
            }
            Phase::Counting => match self.queue.pop() {
                Some(part) => self.count_next(&part),
                None => {
                    self.phase = Phase::Before;
                    let mut told = std::mem::take(&mut self.told);
                    // At most as many as files are known.
                    told.unread = self.files.unread() + self.uncounted.len() as u32;
                    if told.classes.iter().any(|class| class.calls.is_some()) {
                        self.refused = None;
                    }
                    told.classes.truncate(LIBRARY_ROWS_MAX);
                    findings.libraries = found(told);
                    Step::Done
                }
            },
        }
    }

    fn is_open(&self) -> bool {
        self.window.is_some() || !self.closing.is_empty()
    }

    fn forget(&mut self) {
        *self = Self { kind: self.kind, round: self.round, ..Self::default() };
    }
}

#[cfg(test)]
mod tests;

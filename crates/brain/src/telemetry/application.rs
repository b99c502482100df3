//! From lists of a guest's processes to its applications. Must never hold more than a list's length times two, whatever
//! a guest sends, and never count a process twice.

use proteus_model::telemetry::{APPLICATIONS_MAX, Application, ProcessObserved};
use proteus_model::unit::{Bytes, Millis, UnixMillis};
use std::collections::{BTreeMap, HashMap};

/// What is left of a list's weight in the shares when the next one comes, every ten seconds: about the last minute
/// counts.
const DECAY: f32 = 0.8;
/// Most processes of one list that are looked at.
const PROCESSES_MAX: usize = 1024;

/// One program.
#[derive(Debug, Clone, Default, PartialEq)]
struct Program {
    recent_us: f32,
    cpu_us: u64,
    starts: u64,
    processes: u32,
    resident_max: u64,
    first_at: u64,
    last_at: u64,
}

/// The applications of one VM since it was first heard of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Applications {
    /// CPU time of the processes of the last list, by id and start.
    processes: HashMap<(u32, u64), u64>,
    programs: BTreeMap<String, Program>,
    /// The latest start of a process of any list so far, ticks; `None`: none was heard.
    started_last: Option<u64>,
}

impl Applications {
    /// Takes in a list of processes, as it was at `at`.
    pub fn hear(&mut self, at: UnixMillis, list: &[ProcessObserved]) {
        for program in self.programs.values_mut() {
            program.recent_us *= DECAY;
            program.processes = 0;
        }
        let mut resident: BTreeMap<&str, u64> = BTreeMap::new();
        let mut processes = HashMap::new();
        for process in list.iter().take(PROCESSES_MAX) {
            let id = (process.pid, process.started_ticks);
            if processes.insert(id, process.cpu_us).is_some() {
                continue;
            }
            // Of the first list it is not known when what was used; of a process that is new all of it is.
            let is_new = self.started_last.is_some_and(|last| process.started_ticks > last);
            let before = self.processes.get(&id).copied();
            let used = match before {
                Some(before) => process.cpu_us.saturating_sub(before),
                None if is_new => process.cpu_us,
                None => 0,
            };
            let known = self.programs.entry(process.name.clone());
            let program = known.or_insert_with(|| Program { first_at: at.0, ..Program::default() });
            program.recent_us += used as f32;
            program.cpu_us = program.cpu_us.saturating_add(used);
            program.starts += u64::from(is_new && before.is_none());
            program.processes += 1;
            program.last_at = at.0;
            let sum = resident.entry(&process.name).or_default();
            *sum = sum.saturating_add(process.resident.0);
        }
        for (name, sum) in resident {
            if let Some(program) = self.programs.get_mut(name) {
                program.resident_max = program.resident_max.max(sum);
            }
        }
        let latest = list.iter().take(PROCESSES_MAX).map(|process| process.started_ticks).max();
        self.started_last = self.started_last.max(latest);
        self.processes = processes;
        self.leave_out();
    }

    /// A guest that started anew numbers its processes anew.
    pub fn begin_anew(&mut self) {
        self.processes.clear();
        self.started_last = None;
    }

    /// Leaves out those that used least lately.
    fn leave_out(&mut self) {
        if self.programs.len() <= APPLICATIONS_MAX {
            return;
        }
        let mut order: Vec<(f32, u64, String)> =
            self.programs.iter().map(|(name, p)| (p.recent_us, p.last_at, name.clone())).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
        for (_, _, name) in order.drain(APPLICATIONS_MAX..) {
            self.programs.remove(&name);
        }
    }

    /// All of them, those that used most lately first.
    pub fn list(&self) -> Vec<Application> {
        let all: f32 = self.programs.values().map(|program| program.recent_us).sum();
        let application = |(name, program): (&String, &Program)| Application {
            name: name.clone(),
            cpu_share: if all > 0.0 { program.recent_us / all } else { 0.0 },
            cpu: Millis(program.cpu_us / 1000),
            starts: program.starts,
            processes: program.processes,
            resident_max: Bytes(program.resident_max),
            first_at: UnixMillis(program.first_at),
            last_at: UnixMillis(program.last_at),
        };
        let mut list: Vec<Application> = self.programs.iter().map(application).collect();
        list.sort_by(|a, b| b.cpu_share.total_cmp(&a.cpu_share).then_with(|| a.name.cmp(&b.name)));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn process(pid: u32, started_ticks: u64, name: &str, cpu_us: u64) -> ProcessObserved {
        let (name, resident) = (name.to_owned(), Bytes::mib(1));
        ProcessObserved { pid, started_ticks, name, cpu_us, resident, threads: 1 }
    }

    #[test]
    fn cpu_of_processes_that_end_is_kept_and_nothing_of_before_is_counted() {
        let mut all = Applications::default();
        all.hear(UnixMillis(1), &[process(1, 0, "init", 9_000_000), process(2, 50, "make", 100_000)]);
        assert!(all.list().iter().all(|app| app.cpu_share == 0.0 && app.starts == 0), "{:?}", all.list());
        all.hear(UnixMillis(2), &[process(1, 0, "init", 9_100_000), process(3, 60, "cc1", 500_000)]);
        all.hear(
            UnixMillis(3),
            &[
                process(1, 0, "init", 9_100_000),
                process(3, 60, "cc1", 600_000),
                process(4, 70, "cc1", 300_000),
                process(4, 70, "cc1", 300_000),
            ],
        );
        let list = all.list();
        let cc1 = &list[0];
        assert_eq!((cc1.name.as_str(), cc1.cpu, cc1.starts, cc1.processes), ("cc1", Millis(900), 2, 2));
        assert_eq!(
            (cc1.resident_max, cc1.first_at, cc1.last_at),
            (Bytes::mib(2), UnixMillis(2), UnixMillis(3))
        );
        assert!(cc1.cpu_share > 0.85 && list.iter().map(|app| app.cpu_share).sum::<f32>() > 0.999);
        let make = list.iter().find(|app| app.name == "make").unwrap();
        assert_eq!((make.processes, make.cpu), (0, Millis(0)));
    }

    #[test]
    fn a_guest_that_started_anew_begins_anew() {
        let mut all = Applications::default();
        all.hear(UnixMillis(1), &[process(5, 900, "nginx", 1_000)]);
        all.begin_anew();
        all.hear(UnixMillis(2), &[process(5, 20, "nginx", 7_000_000)]);
        all.hear(UnixMillis(3), &[process(5, 20, "nginx", 7_500_000)]);
        assert_eq!((all.list()[0].cpu, all.list()[0].starts), (Millis(500), 0));
    }

    proptest! {
        #[test]
        fn no_list_makes_it_grow_or_fail(
            lists in proptest::collection::vec(
                proptest::collection::vec((any::<u32>(), any::<u64>(), "[a-z]{1,3}", any::<u64>()), 0..200), 1..6)
        ) {
            let mut all = Applications::default();
            for (at, list) in lists.iter().enumerate() {
                let list: Vec<ProcessObserved> = list.iter()
                    .map(|(pid, start, name, cpu)| process(*pid, *start, name, *cpu)).collect();
                all.hear(UnixMillis(at as u64), &list);
                prop_assert!(all.list().len() <= APPLICATIONS_MAX);
                prop_assert!(all.list().iter().all(|app| (0.0..=1.001).contains(&app.cpu_share)));
            }
        }
    }
}

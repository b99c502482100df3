//! From lists of a guest's processes to its applications. Must never hold more than a list's length times two, whatever
//! a guest sends, and never count a process twice.

use proteus_model::telemetry::{APPLICATIONS_MAX, Application, ProcessObserved};
use proteus_model::unit::{Bytes, Millis, UnixMillis};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// What is left of a list's weight in the shares when the next one comes, every ten seconds: about the last minute
/// counts.
const DECAY: f32 = 0.8;
/// Most processes of one list that are looked at.
const PROCESSES_MAX: usize = 1024;

/// Processes that are no more listed and may come back, as where others used more CPU for a while.
const ENDED_MAX: usize = 256;
/// Length of a tick in which a process's start is told: `USER_HZ` is 100 on all that we run on.
const TICK_MS: u64 = 10;

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
    /// Read and written.
    moved: [Flow; 2],
    /// Processes that are no more listed, and how long they had lived when they were last.
    lives: u64,
    lived_ms: u64,
    /// The longest life so far, of one that lives too.
    longest_ms: Option<u64>,
}

/// Bytes of one program in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Flow {
    recent: f32,
    /// `None`: nobody told yet.
    all: Option<u64>,
    /// Whether it was told of any process of the last list that had one.
    is_told: bool,
}

impl Flow {
    fn add(&mut self, moved: u64) {
        self.recent += moved as f32;
        self.all = Some(self.all.unwrap_or(0).saturating_add(moved));
        self.is_told = true;
    }

    /// Of what moved long ago nothing is left: less than a byte is none.
    fn fade(&mut self) {
        self.recent = Some(self.recent * DECAY).filter(|recent| *recent >= 1.0).unwrap_or(0.0);
    }

    /// Bytes per second, of what is told now.
    fn per_second(&self, recent_ms: f32) -> Option<f32> {
        let rate = self.recent * 1000.0 / recent_ms;
        (self.is_told && recent_ms > 0.0 && rate.is_finite()).then_some(rate)
    }
}

/// A process, by id and start.
type Id = (u32, u64);

/// What a process used and moved so far.
#[derive(Debug, Clone, Default, PartialEq)]
struct Counters {
    name: String,
    cpu_us: u64,
    moved: [Option<u64>; 2],
    /// How long it lives; `None`: not told.
    age_ms: Option<u64>,
}

impl Counters {
    /// `uptime`: of the guest, when it told of the process.
    fn of(process: &ProcessObserved, uptime: Option<Millis>) -> Self {
        let moved = [process.read, process.written].map(|bytes| bytes.map(|bytes| bytes.0));
        let began_ms = process.started_ticks.checked_mul(TICK_MS);
        let age_ms = uptime.zip(began_ms).and_then(|(uptime, began_ms)| uptime.0.checked_sub(began_ms));
        Self { name: process.name.clone(), cpu_us: process.cpu_us, moved, age_ms }
    }
}

/// What a counter grew by. Of the first list it is not known when that was; of a process that is new all of it is of now.
fn grown(before: Option<u64>, now: u64, is_new: bool) -> u64 {
    match before {
        Some(before) => now.saturating_sub(before),
        None if is_new => now,
        None => 0,
    }
}

/// The applications of one VM since it was first heard of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Applications {
    /// Counters of the processes of the last list, by id and start.
    processes: HashMap<Id, Counters>,
    /// Those that are no more listed, the latest last: their program, and how long they lived.
    ended: VecDeque<(Id, String, u64)>,
    programs: BTreeMap<String, Program>,
    /// The latest start of a process of any list so far, ticks; `None`: none was heard.
    started_last: Option<u64>,
    /// When the last list was; `None`: the next one begins anew.
    heard_at: Option<u64>,
    /// Time of which what was recently moved is.
    recent_ms: f32,
}

impl Applications {
    /// Takes in a list of processes, as it was at `at` in a guest that had run for so long.
    pub fn hear(&mut self, at: UnixMillis, uptime: Option<Millis>, list: &[ProcessObserved]) {
        for program in self.programs.values_mut() {
            program.recent_us *= DECAY;
            program.processes = 0;
            program.moved.iter_mut().for_each(Flow::fade);
        }
        let passed_ms = self.heard_at.replace(at.0).map_or(0, |before| at.0.saturating_sub(before));
        self.recent_ms = self.recent_ms * DECAY + passed_ms as f32;
        let mut resident: BTreeMap<&str, u64> = BTreeMap::new();
        let mut processes = HashMap::new();
        for process in list.iter().take(PROCESSES_MAX) {
            let id = (process.pid, process.started_ticks);
            let counters = Counters::of(process, uptime);
            if processes.insert(id, counters.clone()).is_some() {
                continue;
            }
            let is_new = self.started_last.is_some_and(|last| process.started_ticks > last);
            let before = self.processes.get(&id).cloned();
            if before.is_none() {
                self.live_on(id);
            }
            let used = grown(before.as_ref().map(|before| before.cpu_us), process.cpu_us, is_new);
            let known = self.programs.entry(process.name.clone());
            let program = known.or_insert_with(|| Program { first_at: at.0, ..Program::default() });
            program.recent_us += used as f32;
            program.cpu_us = program.cpu_us.saturating_add(used);
            program.starts += u64::from(is_new && before.is_none());
            program.processes += 1;
            program.longest_ms = program.longest_ms.max(counters.age_ms);
            for (which, flow) in program.moved.iter_mut().enumerate() {
                flow.is_told &= program.processes > 1;
                if let Some(now) = counters.moved[which] {
                    // One that was not told of before begins with what it has now.
                    let known = before.as_ref().map(|before| before.moved[which].unwrap_or(now));
                    flow.add(grown(known, now, is_new));
                }
            }
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
        for (id, before) in std::mem::take(&mut self.processes) {
            if !processes.contains_key(&id) {
                self.end(id, before);
            }
        }
        self.processes = processes;
        self.leave_out();
    }

    /// A process is no more listed.
    fn end(&mut self, id: Id, last: Counters) {
        let (Some(age_ms), Some(program)) = (last.age_ms, self.programs.get_mut(&last.name)) else { return };
        program.lives += 1;
        program.lived_ms = program.lived_ms.saturating_add(age_ms);
        self.ended.push_back((id, last.name, age_ms));
        self.ended.drain(..self.ended.len().saturating_sub(ENDED_MAX));
    }

    /// One that is listed again had not ended.
    fn live_on(&mut self, id: Id) {
        let Some(place) = self.ended.iter().position(|(ended, ..)| *ended == id) else { return };
        let Some((_, name, age_ms)) = self.ended.remove(place) else { return };
        if let Some(program) = self.programs.get_mut(&name) {
            program.lives = program.lives.saturating_sub(1);
            program.lived_ms = program.lived_ms.saturating_sub(age_ms);
        }
    }

    /// A guest that started anew numbers its processes anew.
    pub fn begin_anew(&mut self) {
        for (id, last) in std::mem::take(&mut self.processes) {
            self.end(id, last);
        }
        self.ended.clear();
        for program in self.programs.values_mut() {
            program.processes = 0;
        }
        (self.started_last, self.heard_at) = (None, None);
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
            read: program.moved[0].all.map(Bytes),
            written: program.moved[1].all.map(Bytes),
            read_per_second: program.moved[0].per_second(self.recent_ms),
            written_per_second: program.moved[1].per_second(self.recent_ms),
            lives: program.lives,
            lived: Millis(program.lived_ms),
            longest: program.longest_ms.map(Millis),
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
        ProcessObserved { pid, started_ticks, name, cpu_us, resident, threads: 1, read: None, written: None }
    }

    fn moving(pid: u32, started_ticks: u64, name: &str, moved: Option<[u64; 2]>) -> ProcessObserved {
        let [read, written] = moved.map_or([None, None], |moved| moved.map(|bytes| Some(Bytes(bytes))));
        ProcessObserved { read, written, ..process(pid, started_ticks, name, 0) }
    }

    #[test]
    fn cpu_of_processes_that_end_is_kept_and_nothing_of_before_is_counted() {
        let mut all = Applications::default();
        all.hear(UnixMillis(1), None, &[process(1, 0, "init", 9_000_000), process(2, 50, "make", 100_000)]);
        assert!(all.list().iter().all(|app| app.cpu_share == 0.0 && app.starts == 0), "{:?}", all.list());
        all.hear(UnixMillis(2), None, &[process(1, 0, "init", 9_100_000), process(3, 60, "cc1", 500_000)]);
        all.hear(
            UnixMillis(3),
            None,
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
        all.hear(UnixMillis(1), None, &[process(5, 900, "nginx", 1_000)]);
        all.begin_anew();
        all.hear(UnixMillis(2), None, &[process(5, 20, "nginx", 7_000_000)]);
        all.hear(UnixMillis(3), None, &[process(5, 20, "nginx", 7_500_000)]);
        assert_eq!((all.list()[0].cpu, all.list()[0].starts), (Millis(500), 0));
    }

    #[test]
    fn what_programs_move_is_a_rate_of_about_the_last_minute_and_missing_where_it_is_not_told() {
        let mut all = Applications::default();
        let find =
            |all: &Applications, name: &str| all.list().into_iter().find(|app| app.name == name).unwrap();
        // Of the first list it is not known when that was.
        all.hear(
            UnixMillis(0),
            None,
            &[moving(1, 5, "db", Some([7 << 20, 1 << 30])), moving(2, 6, "web", None)],
        );
        let (db, web) = (find(&all, "db"), find(&all, "web"));
        assert_eq!((db.written, db.written_per_second), (Some(Bytes(0)), None));
        assert_eq!((web.read, web.written, web.written_per_second), (None, None, None));
        // 10 MB in ten seconds; and a new one with all that it did.
        let next = [
            moving(1, 5, "db", Some([7 << 20, (1 << 30) + 10_000_000])),
            moving(3, 50, "dd", Some([0, 5_000_000])),
        ];
        all.hear(UnixMillis(10_000), None, &next);
        let (db, dd) = (find(&all, "db"), find(&all, "dd"));
        assert_eq!((db.written, db.written_per_second), (Some(Bytes(10_000_000)), Some(1_000_000.0)));
        assert_eq!((db.read, db.read_per_second), (Some(Bytes(0)), Some(0.0)));
        assert_eq!((dd.written, dd.written_per_second), (Some(Bytes(5_000_000)), Some(500_000.0)));
        // One that ended fades away, and one that is not told any more is missing at once; what it did stays.
        all.hear(UnixMillis(20_000), None, &[moving(1, 5, "db", None)]);
        let (db, dd) = (find(&all, "db"), find(&all, "dd"));
        assert_eq!((db.written, db.written_per_second), (Some(Bytes(10_000_000)), None));
        assert!(dd.written_per_second.is_some_and(|rate| (200_000.0..250_000.0).contains(&rate)), "{dd:?}");
        // Told again, it begins with what it has then.
        all.hear(UnixMillis(30_000), None, &[moving(1, 5, "db", Some([0, 1 << 40]))]);
        assert_eq!(find(&all, "db").written, Some(Bytes(10_000_000)));
        // A counter that goes back is nothing that was moved, and neither is a guest that began anew.
        all.hear(UnixMillis(40_000), None, &[moving(1, 5, "db", Some([0, 5]))]);
        all.begin_anew();
        all.hear(UnixMillis(50_000), None, &[moving(1, 9, "db", Some([1 << 40, 1 << 40]))]);
        assert_eq!(find(&all, "db").written, Some(Bytes(10_000_000)));
    }

    #[test]
    fn lives_are_counted_when_they_end_and_those_that_were_only_not_listed_are_not() {
        let mut all = Applications::default();
        let at = |seconds: u64| (UnixMillis(1_000_000 + seconds * 1000), Some(Millis(seconds * 1000)));
        let mut hear = |seconds: u64, list: &[ProcessObserved]| {
            let (at, uptime) = at(seconds);
            all.hear(at, uptime, list);
            all.list()
        };
        let (daemon, job) = (process(1, 500, "nginx", 0), |pid, began| process(pid, began, "backup", 0));
        // It began five seconds after the guest.
        hear(100, std::slice::from_ref(&daemon));
        hear(110, &[daemon.clone(), job(2, 10_500)]);
        hear(120, &[daemon.clone(), job(2, 10_500), job(3, 11_900)]);
        hear(130, &[daemon.clone(), job(3, 11_900)]);
        let list = hear(140, &[job(3, 11_900)]);
        let find =
            |list: &[Application], name: &str| list.iter().find(|app| app.name == name).unwrap().clone();
        let backup = find(&list, "backup");
        assert_eq!((backup.starts, backup.processes), (2, 1));
        assert_eq!((backup.lives, backup.lived, backup.longest), (1, Millis(15_000), Some(Millis(21_000))));
        let nginx = find(&list, "nginx");
        assert_eq!((nginx.processes, nginx.lives, nginx.longest), (0, 1, Some(Millis(125_000))));
        // Others used more for a while: it had not ended.
        let list = hear(150, &[daemon, job(3, 11_900)]);
        let nginx = find(&list, "nginx");
        assert_eq!((nginx.processes, nginx.lives, nginx.lived, nginx.starts), (1, 0, Millis(0), 0));
        // A guest that begins anew ends all of them.
        all.begin_anew();
        let list = all.list();
        assert_eq!((find(&list, "nginx").lives, find(&list, "backup").lives), (1, 2));
        assert!(list.iter().all(|app| app.processes == 0));
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
                    .map(|(pid, start, name, cpu)| ProcessObserved {
                        read: Some(Bytes(*cpu)), written: pid.is_multiple_of(2).then_some(Bytes(*start)),
                        ..process(*pid, *start, name, *cpu)
                    }).collect();
                all.hear(UnixMillis(at as u64), Some(Millis(at as u64 * 1_000_000)), &list);
                prop_assert!(all.list().len() <= APPLICATIONS_MAX && all.ended.len() <= ENDED_MAX);
                prop_assert!(all.list().iter().all(|app| (0.0..=1.001).contains(&app.cpu_share)));
                let rates = all.list().into_iter().flat_map(|app| [app.read_per_second, app.written_per_second]);
                prop_assert!(rates.flatten().all(|rate| rate.is_finite() && rate >= 0.0));
            }
        }
    }
}

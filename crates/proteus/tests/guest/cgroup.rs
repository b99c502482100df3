//! Control groups, of whichever version the machine has that this runs on: a busy process is held, let go and left as
//! it was. Runs on the host, and once more inside a full guest (see `full`), whose systemd has version 2.

use crate::server::wait_for;
use proteus_hypervisor::cgroup::{Hierarchy, Version};
use proteus_model::setting::Weight;
use proteus_model::unit::MilliCpu;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The cap: a fifth of a CPU.
const CAP: MilliCpu = MilliCpu(200);
/// Longest wait for a busy thread to have run, or to have been held, for a while: times ten for load.
const LIMIT: Duration = Duration::from_secs(120);

struct Busy(Child);

impl Busy {
    /// This program again, as two threads that only burn CPU beside one that waits.
    fn start() -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cgroup::burns_until_it_is_ended", "--ignored", "--nocapture"])
            .env("PROTEUS_TEST_BURN", "1")
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    /// Its threads that burn, by their name.
    fn burning(&self) -> Vec<u32> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.0.id())).into_iter().flatten().flatten();
        tasks
            .filter(|task| {
                std::fs::read_to_string(task.path().join("comm")).is_ok_and(|c| c.trim() == "burn")
            })
            .filter_map(|task| task.file_name().to_str()?.parse().ok())
            .collect()
    }

    fn of(&self, thread: u32, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/task/{thread}/{file}", self.0.id())).unwrap()
    }

    /// CPU time of those threads.
    fn ran(&self, threads: &[u32]) -> Duration {
        let ns = |thread: &u32| -> u64 {
            self.of(*thread, "schedstat").split(' ').next().unwrap().parse().unwrap()
        };
        Duration::from_nanos(threads.iter().map(ns).sum())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "started by the test below"]
fn burns_until_it_is_ended() {
    if std::env::var_os("PROTEUS_TEST_BURN").is_none() {
        return;
    }
    let burn = || {
        std::thread::Builder::new().name("burn".into()).spawn(|| {
            loop {
                std::hint::black_box(0);
            }
        })
    };
    let threads = [burn(), burn()];
    threads.into_iter().for_each(|thread| drop(thread.unwrap().join()));
}

/// Name of the group that nobody else has.
fn instance() -> String {
    format!("{:08x}", std::process::id())
}

fn folders(instance: &str) -> Vec<PathBuf> {
    let places = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup"];
    let places = places.iter().map(|place| Path::new(place).join(format!("proteus-{instance}")));
    places.filter(|path| path.exists()).collect()
}

#[test]
#[ignore = "takes root and a CPU: ./test runs it"]
fn a_busy_process_is_held_and_let_go() {
    let instance = instance();
    let hierarchy = Hierarchy::find(&instance).unwrap();
    let group = hierarchy.ensure_group("vm").unwrap();
    let busy = Busy::start();
    let threads = wait_for("the busy threads", LIMIT, || Some(busy.burning()).filter(|t| t.len() == 2));
    group.take_in(busy.0.id(), &threads).unwrap();
    for thread in &threads {
        assert!(busy.of(*thread, "cgroup").contains(&format!("proteus-{instance}/vm")), "not taken in");
    }
    let first = busy.of(busy.0.id(), "cgroup");
    let held = match hierarchy.version {
        Version::V1 => format!("proteus-{instance}/vm"),
        Version::V2 => format!("proteus-{instance}/vm/vcpu"),
    };
    assert!(!first.contains(&held), "the thread that answers is held too: {first}");

    group.set_weight(Weight(300)).unwrap();
    assert_eq!(group.weight().unwrap(), Weight(300));
    assert_eq!(group.cap().unwrap(), None);
    group.set_cap(Some(CAP)).unwrap();
    assert_eq!(group.cap().unwrap(), Some(CAP));
    let (begun, ran, throttled) = (Instant::now(), busy.ran(&threads), group.throttled_ns().unwrap());
    wait_for("a second of being held", LIMIT, || {
        (group.throttled_ns().unwrap() - throttled > 1_000_000_000).then_some(())
    });
    let share = (busy.ran(&threads) - ran).as_secs_f64() / begun.elapsed().as_secs_f64();
    println!("{:?}: capped at 0.20 CPU, ran {share:.2}", hierarchy.version);
    assert!(share < 0.26, "capped at a fifth of a CPU, two busy threads ran {share:.2} of one");

    group.set_cap(None).unwrap();
    assert_eq!(group.cap().unwrap(), None);
    let (ran, throttled) = (busy.ran(&threads), group.throttled_ns().unwrap());
    wait_for("a second of running free", LIMIT, || {
        (busy.ran(&threads) - ran > Duration::from_secs(1)).then_some(())
    });
    let is_told = hierarchy.version == Version::V2;
    assert_eq!(group.stalled_us().map(|stalled| stalled.is_some()), [is_told; 3]);
    let taken = group.counters();
    match hierarchy.version {
        Version::V1 => assert_eq!(taken, Default::default()),
        // A system that hands out controllers hands out these too.
        Version::V2 => assert!(
            taken.memory.is_some() && taken.anonymous.is_some() && taken.oom_kills == Some(0),
            "{taken:?}"
        ),
    }
    println!("{taken:?}");
    let more = group.throttled_ns().unwrap() - throttled;
    assert!(more < 100_000_000, "held for {more} ns without a cap");

    assert_eq!(folders(&instance).len(), 1);
    drop(busy);
    wait_for("the group to be empty", LIMIT, || group.remove().ok());
    hierarchy.remove_if_empty();
    assert_eq!(folders(&instance), Vec::<PathBuf>::new());
}

//! What becomes of rounds: starts, ends, and what goes on between.

use super::*;
use proteus_brain::personality::label::shipped;
use proteus_model::telemetry::Metric;
use proteus_model::unit::Bytes;

fn domain(state: State, seconds: u64) -> Domain {
    let counters = VmCounters {
        vcpu_run_ns: Some(seconds * 100_000_000),
        vmm_run_ns: Some(seconds * 110_000_000),
        resident: Some(Bytes::mib(100)),
        net_to_guest: Some(0),
        net_from_guest: Some(0),
        packets_to_guest: Some(0),
        packets_from_guest: Some(0),
        disk_read: Some(seconds * 1024),
        disk_written: Some(0),
        ..VmCounters::default()
    };
    Domain {
        id: VmId::from_bits(7),
        name: "web".to_owned(),
        state,
        vcpus: [Some(1), Some(1)],
        memory: [Some(Bytes::mib(128)); 2],
        counters: if state.runs() { counters } else { VmCounters::default() },
        shape: Shape { vcpus: Some(vec![0]), links: Some(Vec::new()), disks: Some(vec!["vda".to_owned()]) },
    }
}

struct Watched {
    vm: Vm,
    labels: Labels,
}

impl Watched {
    fn new() -> Self {
        let vm = Vm::open(domain(State::Stopped, 0), UnixMillis(0), None, None).unwrap();
        Self { vm, labels: Labels::new(&shipped()) }
    }

    /// At this second.
    fn look(&mut self, at_s: u64, domain: Domain) -> Vec<Happened> {
        let at = UnixMillis(1_800_000_000_000 + at_s * 1000);
        self.vm.look(at, at_s * 1000, domain, &self.labels).0
    }

    fn last(&self, metric: Metric) -> Option<f32> {
        self.vm.intake().last().and_then(|(_, reading)| reading.get(metric))
    }

    fn faults(&self) -> u64 {
        self.vm.intake().faults().counted().map(|(_, times)| times).sum()
    }
}

#[test]
fn a_vm_that_stops_and_starts_begins_anew_without_a_fault() {
    let mut watched = Watched::new();
    assert_eq!(watched.look(0, domain(State::Running, 50)), [Happened::Began(State::Stopped)]);
    assert_eq!(watched.last(Metric::Cpu), None, "a first look has no rate");
    assert_eq!(watched.look(5, domain(State::Running, 55)), []);
    assert!((watched.last(Metric::Cpu).unwrap() - 100.0).abs() < 0.1);
    assert!((watched.last(Metric::DiskRead).unwrap() - 1.0).abs() < 0.01);
    assert_eq!(watched.look(10, domain(State::Stopped, 0)), [Happened::Ended]);
    assert!(watched.vm.intake().last().is_none());
    assert_eq!(watched.look(300, domain(State::Running, 3)), [Happened::Began(State::Stopped)]);
    assert_eq!(watched.look(305, domain(State::Running, 8)), []);
    assert!((watched.last(Metric::Cpu).unwrap() - 100.0).abs() < 0.1);
    // Stopped and started again between two looks.
    assert_eq!(watched.look(310, domain(State::Running, 1)), []);
    assert_eq!(watched.last(Metric::Cpu), None);
    watched.look(315, domain(State::Running, 6));
    assert!((watched.last(Metric::Cpu).unwrap() - 100.0).abs() < 0.1);
    assert_eq!(watched.faults(), 0);
}

#[test]
fn other_devices_are_another_sum_and_what_is_not_told_is_waited_for() {
    let mut watched = Watched::new();
    watched.look(0, domain(State::Running, 50));
    watched.look(5, domain(State::Running, 55));
    // A VMM that does not answer has no disks to tell of; what comes after it is the rate over both.
    let mut quiet = domain(State::Running, 60);
    (quiet.counters.disk_read, quiet.shape.disks) = (None, None);
    watched.look(10, quiet);
    assert!(watched.last(Metric::DiskRead).is_none() && watched.last(Metric::Cpu).is_some());
    watched.look(15, domain(State::Running, 65));
    assert!((watched.last(Metric::DiskRead).unwrap() - 1.0).abs() < 0.01);
    // A second disk brings its own count.
    let mut more = domain(State::Running, 70);
    more.counters.disk_read = Some(1 << 40);
    more.shape.disks = Some(vec!["vda".to_owned(), "vdb".to_owned()]);
    watched.look(20, more.clone());
    assert_eq!(watched.last(Metric::DiskRead), None);
    more.counters.disk_read = Some((1 << 40) + 5 * 1024);
    watched.look(25, more);
    assert!((watched.last(Metric::DiskRead).unwrap() - 1.0).abs() < 0.01);
    assert_eq!(watched.faults(), 0);
}

#[test]
fn what_two_counts_seem_to_lose_between_them_is_no_fault() {
    let mut watched = Watched::new();
    for (at, vmm) in [(0, 1_000), (5, 999), (10, 1_004), (15, 1_003)] {
        let mut one = domain(State::Running, 10 + at);
        one.counters.vcpu_run_ns = Some(at * 100_000_000);
        one.counters.vmm_run_ns = Some(at * 100_000_000 + vmm * 1_000_000);
        watched.look(at, one);
        assert!(watched.last(Metric::Overhead).is_none_or(|overhead| (0.0..=1.1).contains(&overhead)));
    }
    assert_eq!((watched.faults(), watched.last(Metric::Overhead)), (0, Some(0.0)));
}

#[test]
fn a_name_is_no_identity_and_an_unknown_state_no_end() {
    let mut watched = Watched::new();
    watched.look(0, domain(State::Running, 50));
    let renamed = Domain { name: "shop \u{1b}".to_owned(), ..domain(State::Running, 55) };
    assert_eq!(watched.look(5, renamed.clone()), [Happened::Renamed("web".to_owned())]);
    assert!(watched.last(Metric::Cpu).is_some());
    assert_eq!(watched.look(10, Domain { state: State::Unknown, ..renamed.clone() }), []);
    assert_eq!(
        watched.look(15, Domain { counters: domain(State::Running, 65).counters, ..renamed.clone() }),
        []
    );
    assert!((watched.last(Metric::Cpu).unwrap() - 100.0).abs() < 0.1);
    assert_eq!(watched.look(20, Domain { state: State::Paused, ..renamed }), [Happened::Ended]);
}

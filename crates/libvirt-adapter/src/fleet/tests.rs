//! Who comes and goes, and what stays of it.

use super::*;
use crate::domstats::{Shape, State};
use proteus_model::unit::Bytes;
use proteus_model::vm::VmCounters;

fn domain(id: u128, name: &str, state: State, seconds: u64) -> Domain {
    let counters = VmCounters {
        vcpu_run_ns: Some(seconds * 1_000_000),
        vmm_run_ns: Some(seconds * 2_000_000),
        net_to_guest: Some(0),
        net_from_guest: Some(0),
        packets_to_guest: Some(0),
        packets_from_guest: Some(0),
        disk_read: Some(0),
        disk_written: Some(0),
        disk_reads: Some(0),
        disk_writes: Some(0),
        disk_flushes: Some(0),
        ..VmCounters::default()
    };
    Domain {
        id: VmId::from_bits(id),
        name: name.to_owned(),
        state,
        vcpus: [Some(1), Some(1)],
        memory: [Some(Bytes::mib(128)); 2],
        counters: if state.runs() { counters } else { VmCounters::default() },
        shape: Shape::default(),
    }
}

fn listing(domains: Vec<Domain>) -> Listing {
    Listing { domains, strange: 0 }
}

fn words(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| format!("{} {}: {}", event.event, event.vm, event.detail)).collect()
}

/// Far from any real history, and not of the future, which is not shown: 2020.
const BEGIN: u64 = 1_590_000_000_000;

#[test]
fn vms_come_go_and_are_known_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::new("test:///".to_owned(), Some(Place::hold(dir.path()).unwrap()));
    let mut said = Vec::new();
    for round in 0..20u64 {
        let idle = domain(1, "idle", State::Running, 100 + round * 5);
        let other = domain(2, "a\n\"b\\", State::Stopped, 0);
        let all = if round < 18 { vec![idle, other] } else { vec![idle] };
        said.extend(words(&fleet.take(listing(all), UnixMillis(BEGIN + round * 5000), round * 5000)));
    }
    assert_eq!(
        said,
        [
            "appeared idle: running",
            "began idle: running",
            "appeared a\n\"b\\: stopped",
            "label idle: idle",
            "gone a\n\"b\\: stopped"
        ]
    );
    assert_eq!(fleet.vms().count(), 1);
    assert!(fleet.vm("idle").is_some() && fleet.vm("a\n\"b\\").is_none());
    assert!(fleet.vm("00000000-0000-0000-0000-000000000001").is_some());
    fleet.end(UnixMillis(BEGIN + 100_000));
    drop(fleet);
    // Another watcher, and another name: the label and the history are the VM's own.
    let mut fleet = Fleet::new("test:///".to_owned(), Some(Place::hold(dir.path()).unwrap()));
    let again = domain(1, "quiet", State::Running, 300);
    let events = fleet.take(listing(vec![again]), UnixMillis(BEGIN + 110_000), 0);
    assert_eq!(words(&events), ["appeared quiet: running", "renamed quiet: idle", "began quiet: running"]);
    assert_eq!(fleet.vm("quiet").unwrap().judged.label.borne().map(|label| label.as_str()), Some("idle"));
    let [minutes, long] = fleet.place().unwrap().history(VmId::from_bits(1), UnixMillis(BEGIN)).unwrap();
    assert!(minutes.len() == 2 && long.len() == 1, "{} {}", minutes.len(), long.len());
    let page = crate::metric::page(&fleet);
    assert!(
        page.contains(
            "proteus_vm_label{vm=\"quiet\",id=\"00000000000000000000000000000001\",label=\"idle\"} 1\n"
        ),
        "{page}"
    );
    assert!(!page.contains("proteus_vm_resident_bytes{"), "what was not told is not shown: {page}");
}

#[test]
fn a_hostile_name_stays_one_value_of_a_label() {
    let mut fleet = Fleet::new("test:///".to_owned(), None);
    let name = "x\"} 1\nproteus_vm_running{vm=\"web\\";
    fleet.take(listing(vec![domain(1, name, State::Running, 1)]), UnixMillis(BEGIN), 0);
    let page = crate::metric::page(&fleet);
    let line = page.lines().find(|line| line.starts_with("proteus_vm_running{")).unwrap();
    assert_eq!(
        line,
        "proteus_vm_running{vm=\"x\\\"} 1\\nproteus_vm_running{vm=\\\"web\\\\\",id=\"00000000000000000000000000000001\"} 1"
    );
    assert_eq!(page.lines().filter(|line| line.starts_with("proteus_vm_running{")).count(), 1);
}

#[test]
fn a_damaged_record_is_put_aside_and_its_vm_is_watched() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::hold(dir.path()).unwrap();
    let own = place.make(VmId::from_bits(1)).unwrap();
    std::fs::write(own.join("record.json"), b"\xff{").unwrap();
    std::fs::write(own.join("history"), b"no history").unwrap();
    let mut fleet = Fleet::new("test:///".to_owned(), Some(place));
    fleet.take(listing(vec![domain(1, "web", State::Running, 1)]), UnixMillis(BEGIN), 0);
    assert_eq!(fleet.vms().count(), 1);
    assert!(own.join("record.unreadable").exists() && own.join("history.unreadable").exists());
    assert!(fleet.place().unwrap().read(VmId::from_bits(1)).unwrap().is_some());
}

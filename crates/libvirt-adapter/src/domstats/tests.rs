//! Answers of a real virsh 9.0, and what somebody could make of them.

use super::*;

const TWO: &str = include_str!("../../tests/domstats.txt");

fn parsed(text: &str) -> Listing {
    parse(text, "mark").unwrap()
}

fn first(text: &str) -> Domain {
    parsed(text).domains.remove(0)
}

#[test]
fn an_answer_of_a_real_virsh_is_read() {
    let listing = parsed(TWO);
    assert_eq!((listing.domains.len(), listing.strange), (2, 0));
    let idle = &listing.domains[0];
    assert_eq!(idle.id.to_string(), "11111111222233334444555555555501");
    assert_eq!((idle.name.as_str(), idle.state), ("idle 'one'", State::Running));
    assert_eq!(
        (idle.vcpus, idle.memory),
        ([Some(2), Some(4)], [Some(Bytes::mib(128)), Some(Bytes::mib(256))])
    );
    let expected = VmCounters {
        vcpu_run_ns: Some(1_500_000_000),
        vcpu_wait_ns: Some(209),
        vmm_run_ns: Some(1_830_000_000),
        resident: Some(Bytes(169_132 * 1024)),
        net_to_guest: Some(105),
        net_from_guest: Some(36),
        packets_to_guest: Some(2),
        packets_from_guest: Some(3),
        disk_read: Some(512),
        disk_written: Some(2048),
        disk_reads: Some(7),
        disk_writes: Some(3),
        disk_flushes: Some(2),
        disk_took_ns: Some(70),
        ..VmCounters::default()
    };
    assert_eq!(idle.counters, expected);
    assert_eq!(idle.shape.vcpus, Some(vec![0, 2]));
    assert_eq!(
        idle.shape.disks,
        Some(vec!["vda".to_owned()]),
        "a drive without a medium is no part of the sum"
    );
    // Of one that does not run libvirt prints numbers of nothing.
    let busy = &listing.domains[1];
    assert_eq!(
        (busy.state, &busy.counters, busy.vcpus[0]),
        (State::Stopped, &VmCounters::default(), Some(1))
    );
}

#[test]
fn what_is_missing_or_no_number_is_missing_and_never_zero() {
    for (line, read) in [
        ("  balloon.rss=169132\n", (|c| c.resident.is_none()) as fn(&VmCounters) -> bool),
        ("  vcpu.2.delay=9\n", |c| c.vcpu_wait_ns.is_none() && c.vcpu_run_ns.is_some()),
        ("  vcpu.2.time=500000000\n", |c| c.vcpu_run_ns.is_none()),
        ("  vcpu.current=2\n", |c| c.vcpu_run_ns.is_none() && c.vcpu_wait_ns.is_none()),
        ("  cpu.time=1830000000\n", |c| c.vmm_run_ns.is_none()),
        ("  net.count=2\n", |c| c.net_to_guest.is_none() && c.packets_from_guest.is_none()),
        ("  net.1.rx.bytes=5\n", |c| c.net_to_guest.is_none() && c.net_from_guest == Some(36)),
        ("  block.0.fl.times=40\n", |c| c.disk_took_ns.is_none() && c.disk_flushes == Some(2)),
        ("  block.count=2\n", |c| c.disk_read.is_none() && c.disk_took_ns.is_none()),
        ("  state.state=1\n", |c| *c == VmCounters::default()),
    ] {
        let (key, value) = line.trim_end().split_once('=').unwrap();
        for instead in ["", &format!("{key}={value}\n{line}"), &format!("{key}=-1\n"), &format!("{key}=\n")] {
            let domain = first(&TWO.replacen(line, instead, 1));
            assert!(read(&domain.counters), "{line:?} as {instead:?}: {:?}", domain.counters);
        }
    }
    for absurd in
        ["18446744073709551615", "9223372036854775807", "99999999999999999999", "+5", "5 ", "0x5", "1e3"]
    {
        let domain = first(&TWO.replace("balloon.rss=169132", &format!("balloon.rss={absurd}")));
        assert_eq!(domain.counters.resident, None, "{absurd}");
    }
    for count in ["18446744073709551615", "4097", "9000000000000000000"] {
        let text = TWO.replace("net.count=2", &format!("net.count={count}"));
        let text = text.replace("vcpu.maximum=4", &format!("vcpu.maximum={count}"));
        let domain = first(&text.replace("block.count=2", &format!("block.count={count}")));
        assert!(domain.counters.net_to_guest.is_none() && domain.counters.disk_read.is_none());
        assert!(domain.counters.vcpu_run_ns.is_none());
    }
    let none = first(&TWO.replace("net.count=2", "net.count=0"));
    assert_eq!(none.counters.net_to_guest, Some(0), "that there is no link is known");
}

#[test]
fn nobody_is_given_what_is_anothers() {
    // A path with a line end makes a section of another's name: neither of the two is believed.
    let forged = TWO.replace("/d/a.img", "/d/a\nDomain: 'büsy'\n  state.state=1\n  cpu.time=5");
    let listing = parsed(&forged);
    assert_eq!(listing.domains[1].state, State::Unknown);
    assert_eq!(listing.domains[1].counters, VmCounters::default());
    assert_eq!(listing.domains[0].counters.disk_read, None, "the rest of it is in the forged one");
    assert!(listing.strange > 0);
    // One of a name that is nobody's is nobody's.
    let foreign = parsed(&TWO.replace("/d/a.img", "/d/a\nDomain: 'web'\n  state.state=1"));
    assert_eq!(foreign.domains.len(), 2);
    // Two of one name, two of one id, and lines that are none.
    let same = TWO.replace("555555555502 büsy", "555555555502 idle 'one'");
    assert!(parsed(&same).domains.iter().all(|domain| domain.state == State::Unknown));
    let same = TWO.replace("555555555502 büsy", "555555555501 büsy");
    assert_eq!((parsed(&same).domains.len(), parsed(&same).strange), (0, 1));
    for line in [
        "",
        "x",
        "11111111-2222-3333-4444-555555555503",
        "11111111-2222-3333-4444-555555555503 ",
        "é".repeat(18).as_str(),
    ] {
        assert_eq!(parsed(&format!("{line}\n{TWO}")).domains.len(), 2, "{line}");
    }
    for name in ["  ", "\"; destroy x", "--help", "a=b", "🦀", "'", "x' y"] {
        let text = TWO.replace("idle 'one'", name);
        let domain = first(&text);
        assert_eq!((domain.name.as_str(), domain.counters.disk_read), (name, Some(512)), "{name}");
    }
}

#[test]
fn what_is_cut_or_of_another_program_is_no_answer() {
    assert_eq!(parse(TWO, "another"), Err(AnswerError::NoMark));
    assert_eq!(parse("", "mark"), Err(AnswerError::NoMark));
    assert_eq!(parse("mark\n", "mark"), Ok(Listing::default()));
    let many: String =
        (0..=DOMAINS_MAX).map(|at| format!("11111111-2222-3333-4444-{at:012x} vm{at}\n")).collect();
    assert_eq!(parse(&format!("{many}mark\n"), "mark"), Err(AnswerError::TooMany));
}

#[test]
fn another_set_of_parts_is_another_sum() {
    let shape = |vcpus: Option<u64>, disk: Option<&str>| Shape {
        vcpus: vcpus.map(|count| (0..count).collect()),
        links: None,
        disks: disk.map(|name| vec![name.to_owned()]),
    };
    let before = shape(Some(1), Some("vda"));
    assert!(shape(Some(1), Some("vda")).goes_on(&before));
    assert!(shape(Some(1), None).goes_on(&before), "what is not known now says nothing");
    assert!(!shape(Some(2), Some("vda")).goes_on(&before));
    assert!(!shape(Some(1), Some("vdb")).goes_on(&before));
    let mut filled = shape(None, Some("vdb"));
    filled.fill(before);
    assert_eq!(filled, shape(Some(1), Some("vdb")));
}

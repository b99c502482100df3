//! The wire is frozen: what each message looks like, and what a message of a newer version turns into.

use super::request::GuestKind;
use super::sample::{Cpu, Memory, Sample};
use super::setting::*;
use super::*;
use proteus_model::telemetry::GuestSample;

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap()
}

#[test]
fn requests_look_like_this() {
    let message = HostMessage { id: 7, request: Request::Ping };
    assert_eq!(json(&message), r#"{"id":7,"request":{"op":"ping"}}"#);
    let knob = Knob::Sysctl { key: "vm.swappiness".into() };
    let message = HostMessage { id: 8, request: Request::ReadSetting { knob } };
    let text = r#"{"id":8,"request":{"op":"read_setting","knob":{"knob":"sysctl","key":"vm.swappiness"}}}"#;
    assert_eq!(json(&message), text);
    assert_eq!(serde_json::from_str::<HostMessage>(text).unwrap(), message);
    let reply = GuestMessage::Reply { id: 8, reply: Box::new(Reply::Done) };
    assert_eq!(json(&reply), r#"{"kind":"reply","id":8,"reply":{"reply":"done"}}"#);
}

#[test]
fn what_a_newer_version_sends_is_unknown_and_not_an_error() {
    let request = r#"{"id":1,"request":{"op":"fly","height":3},"extra":[1,2]}"#;
    assert_eq!(serde_json::from_str::<HostMessage>(request).unwrap().request, Request::Unknown);
    let event = r#"{"kind":"event","event":{"event":"moon","phase":1}}"#;
    assert_eq!(
        serde_json::from_str::<GuestMessage>(event).unwrap(),
        GuestMessage::Event { event: Event::Unknown }
    );
    assert_eq!(serde_json::from_str::<GuestMessage>(r#"{"kind":"song"}"#).unwrap(), GuestMessage::Unknown);
    let knob = r#"{"id":1,"request":{"op":"read_setting","knob":{"knob":"gravity"}}}"#;
    let read = serde_json::from_str::<HostMessage>(knob).unwrap().request;
    assert_eq!(read, Request::ReadSetting { knob: Knob::Unknown });
    assert_eq!(serde_json::from_str::<GuestKind>(r#""openrc""#).unwrap(), GuestKind::Other);
}

/// Samples unasked and groups in them are of agents and hosts of before.
#[test]
fn what_only_a_version_before_sends_is_unknown_and_not_an_error() {
    let request = r#"{"id":1,"request":{"op":"set_sample_interval","interval_ms":200}}"#;
    assert_eq!(serde_json::from_str::<HostMessage>(request).unwrap().request, Request::Unknown);
    let event = r#"{"kind":"event","event":{"event":"sample","sample":{"sequence":1,"taken_at_ms":2}}}"#;
    assert_eq!(
        serde_json::from_str::<GuestMessage>(event).unwrap(),
        GuestMessage::Event { event: Event::Unknown }
    );
    let sample = r#"{"sequence":1,"taken_at_ms":2,"cgroups":[{"path":"system.slice","memory":4096}]}"#;
    assert_eq!(serde_json::from_str::<Sample>(sample).unwrap().sequence, 1);
}

#[test]
fn settings_outside_the_allow_list_are_refused() {
    let sysctl = |key: &str, value: &str| Setting::Sysctl { key: key.into(), value: value.into() }.validate();
    assert!(sysctl("vm.swappiness", "10").is_ok());
    assert!(sysctl("net.ipv4.tcp_rmem", "4096 87380 6291456").is_ok());
    for key in
        ["kernel.core_pattern", "vm", "vm..x", "vm./etc", "vm.a/../b", "../vm.x", "vm.x y", "net.ipv4.é", ""]
    {
        assert!(sysctl(key, "1").is_err(), "{key:?} was taken");
    }
    for value in ["", "1\n2", "a\0b", &"9".repeat(257)] {
        assert!(sysctl("vm.swappiness", value).is_err(), "{value:?} was taken");
    }
    assert!(Setting::VcpusOnline { count: 0 }.validate().is_err());
    for path in ["", "/a", "a/", "a//b", "../a", "a/..", "a b", &"a/".repeat(9)] {
        let application = ApplicationSelector::Cgroup { path: path.into() };
        assert!(Knob::Priority { application }.validate().is_err(), "{path:?} was taken");
    }
    for name in ["..", "a/b", "", ".hidden"] {
        assert!(DiskSelector::Name(name.into()).validate().is_err(), "{name:?} was taken");
    }
    let application = ApplicationSelector::Process { name: "nginx".into() };
    assert!(Knob::NetworkPolicy { application }.validate().is_err());
}

#[test]
fn network_rules_that_cannot_hold_are_refused() {
    let rule = NetworkRule {
        direction: Direction::Egress,
        protocol: Some(Protocol::Tcp),
        ports: Some(PortRange { from: 80, to: 80 }),
        peer: Some(Cidr { address: "10.0.0.0".parse().unwrap(), prefix: 8 }),
        verdict: Verdict::Accept,
        rate_limit: Some(RateLimit::PacketsPerSecond(100)),
    };
    let check = |rule: NetworkRule| {
        NetworkPolicy { egress_default: Verdict::Drop, ingress_default: Verdict::Accept, rules: vec![rule] }
            .validate()
    };
    assert!(check(rule.clone()).is_ok());
    assert!(check(NetworkRule { protocol: None, ..rule.clone() }).is_err());
    assert!(check(NetworkRule { ports: Some(PortRange { from: 9, to: 8 }), ..rule.clone() }).is_err());
    assert!(check(NetworkRule { verdict: Verdict::Drop, ..rule.clone() }).is_err());
    let bad = |address: &str, prefix| Some(Cidr { address: address.parse().unwrap(), prefix });
    for peer in [bad("10.0.0.1", 8), bad("10.0.0.0", 33), bad("::1", 64), bad("0.0.0.1", 0)] {
        assert!(check(NetworkRule { peer, ..rule.clone() }).is_err(), "{peer:?} was taken");
    }
    for peer in [bad("0.0.0.0", 0), bad("::", 0), bad("10.1.2.3", 32), bad("fe80::", 10)] {
        assert!(check(NetworkRule { peer, ..rule.clone() }).is_ok(), "{peer:?} was refused");
    }
}

#[test]
fn a_lying_sample_is_refused() {
    let good = Sample {
        cpu: Some(Cpu { online: 1, ..Cpu::default() }),
        memory: Some(Memory { total: 100, available: 50, ..Memory::default() }),
        ..Sample::default()
    };
    assert!(GuestSample::try_from(good.clone()).is_ok());
    let memory = |total, available| Some(Memory { total, available, ..Memory::default() });
    for bad in [
        Sample { sequence: u64::MAX, ..good.clone() },
        Sample { memory: memory(100, 101), ..good.clone() },
        Sample { memory: memory(0, 0), ..good.clone() },
        Sample { cpu: Some(Cpu::default()), ..good.clone() },
        Sample { processes: Some(vec![sample::Process::default(); 33]), ..good.clone() },
    ] {
        assert!(GuestSample::try_from(bad.clone()).is_err(), "{bad:?} was taken");
    }
    let name = "x\u{1b}[31m\n".repeat(1000);
    let disks = Some(vec![sample::Disk { name, ..sample::Disk::default() }]);
    let disk = GuestSample::try_from(Sample { disks, ..good }).unwrap().disks.unwrap().remove(0);
    assert!(disk.name.len() <= sample::NAME_BYTES_MAX && !disk.name.contains('\u{1b}'));
}

#[test]
fn a_missing_measurement_stays_missing() {
    let text = r#"{"sequence":3,"taken_at_ms":5,"pressure":{},"memory":{"total":10,"available":5}}"#;
    let sample: GuestSample = serde_json::from_str::<Sample>(text).unwrap().try_into().unwrap();
    assert_eq!(sample.cpu, None);
    assert_eq!(sample.processes, None);
    assert_eq!(sample.memory.unwrap().cached, None);
    assert_eq!(sample.pressure.cpu_some, None);
}

#[test]
fn manifests_with_tricks_are_refused() {
    let good = r#"{"manifest":1,"name":"web","version":"1","argv":["/bin/web"],"user":{"uid":1,"gid":1},
        "listen":["0.0.0.0:80"],"sockets":"agent_nginx","ready":{"probe":{"tcp":{"port":80}},"timeout_ms":100},
        "stop_signal":"QUIT","stop_timeout_ms":100,"scratch_bytes":65536}"#;
    assert!(ServiceManifest::from_json(good.as_bytes()).is_ok());
    for (from, to) in [
        (r#""manifest":1"#, r#""manifest":2"#),
        (r#""web","#, r#""../web","#),
        ("/bin/web", "bin/web"),
        ("/bin/web", "/bin/../web"),
        (r#""stop_timeout_ms":100"#, r#""stop_timeout_ms":0"#),
        (r#""name""#, r#""hook":"x","name""#),
        (":80\"", ":0\""),
        ("65536", "1"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good);
        assert!(ServiceManifest::from_json(bad.as_bytes()).is_err(), "{from} as {to} was taken");
    }
}

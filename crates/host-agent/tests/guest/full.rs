//! The full Debian: the agent beside systemd, on systemd's own units.

use crate::vm::{Options, Vm, wait_for};
use proteus_protocol::guest::v1::findings::{CollectPolicy, Collector, Consent, Findings, Found, LogRate};
use proteus_protocol::guest::v1::request::{GuestKind, ReloadMode};
use proteus_protocol::guest::v1::setting::*;
use proteus_protocol::guest::v1::{ErrorCode, Knob, Reply, Request, Setting, Shutdown};
use std::time::Duration;

fn unit(vm: &mut Vm, name: &str) -> proteus_protocol::guest::v1::UnitReply {
    match vm.ask(Request::UnitState { unit: name.into() }) {
        Reply::Unit { unit } => unit,
        other => panic!("{other:?}"),
    }
}

fn setting(reply: Reply) -> Setting {
    match reply {
        Reply::Setting { setting } => setting,
        other => panic!("{other:?}"),
    }
}

/// What the logs' collector alone says.
fn logs(vm: &mut Vm) -> Option<Found<Vec<LogRate>>> {
    use Collector::{Calls, Configuration, Connections, Endpoints, Files, Gpus};
    let off = vec![Calls, Configuration, Connections, Endpoints, Files, Gpus];
    let policy = CollectPolicy { off, budget_permille: Some(1000), ..CollectPolicy::default() };
    match vm.ask(Request::Collect { policy }) {
        Reply::Findings { findings } => {
            let Findings { logs, users, .. } = *findings;
            // Nobody consented, and nobody asked: it is said all the same.
            assert_eq!(users.map(|users| users.value.consent), Some(Consent::Withdrawn));
            logs
        }
        other => panic!("{other:?}"),
    }
}

/// What a unit writes to the journal is counted under its name, and how much of it speaks of errors.
fn a_unit_is_known_by_what_it_writes(vm: &mut Vm) {
    // What is new after the first look is counted by the next one.
    wait_for("a first look at the logs", Duration::from_secs(120), || logs(vm));
    let script = "for _ in 1 2 3; do echo fine; done; echo '<3>bad'; echo '<2>worse'";
    let words = ["/usr/bin/systemd-run", "--quiet", "--wait", "--unit", "speaker", "/bin/sh", "-c", script];
    let outcome = vm.exec(&words, None);
    assert_eq!(outcome.exit_code, Some(0), "{}", outcome.stderr.to_text_lossy());
    let rate = wait_for("what it wrote", Duration::from_secs(180), || {
        logs(vm)?.value.into_iter().find(|rate| rate.service == "speaker.service")
    });
    eprintln!("{:?}", logs(vm));
    assert_eq!((rate.lines, rate.errors), (5, Some(2)));
}

#[test]
#[ignore = "boots a full guest: ./test runs it"]
fn the_agent_works_beside_systemd() {
    let mut vm = Vm::boot(&Options { full: true, cpus: Some((2, 2)), ..Options::default() });
    let hello = vm.hello();
    assert_eq!(hello.guest, GuestKind::Systemd);
    let missing: Vec<_> = hello.capabilities.iter().filter(|c| c.missing.is_some()).map(|c| c.name).collect();
    eprintln!("kernel {}, missing {missing:?}", hello.kernel);
    wait_for("the guest's address", Duration::from_secs(180), || {
        let address = vm.exec(&["/usr/sbin/ip", "-4", "address"], None).stdout.to_text_lossy();
        address.contains("10.0.2.").then_some(())
    });
    // Without a seed there is nothing for cloud-init to do, and it does not delay the start.
    let outcome = vm.exec(&["/bin/ls", "/run/cloud-init/disabled"], None);
    assert_eq!(outcome.exit_code, Some(0), "{}", outcome.stderr.to_text_lossy());
    assert_eq!(unit(&mut vm, "cloud-init-local.service").active, "inactive");
    let agent = unit(&mut vm, "proteus-guest.service");
    assert_eq!((agent.active.as_str(), agent.sub.as_str()), ("active", "running"));
    assert_eq!(unit(&mut vm, "no-such.service").load, "not-found");
    let before = unit(&mut vm, "systemd-networkd.service").main_pid;
    let mode = ReloadMode::Restart { image: None };
    let restarted = vm.ask(Request::ReloadService { name: "systemd-networkd.service".into(), mode });
    assert!(matches!(&restarted, Reply::Unit { unit } if unit.active == "active" && unit.main_pid != before));

    let Reply::Sample { sample } = vm.ask(Request::Sample) else { panic!("no sample") };
    assert!(sample.processes.unwrap().iter().any(|process| process.name == "systemd"));
    assert_eq!(
        setting(vm.ask(Request::ReadSetting { knob: Knob::VcpusOnline })),
        Setting::VcpusOnline { count: 2 }
    );
    for count in [1, 2] {
        let wanted = Setting::VcpusOnline { count };
        assert_eq!(setting(vm.ask(Request::ApplySetting { setting: wanted.clone() })), wanted);
    }
    let application = ApplicationSelector::Unit { name: "systemd-journald.service".into() };
    let knob = Knob::Priority { application: application.clone() };
    let before = setting(vm.ask(Request::ReadSetting { knob: knob.clone() }));
    let priority = Priority::Class(PriorityClass::Low);
    let low = setting(vm.ask(Request::ApplySetting { setting: Setting::Priority { application, priority } }));
    assert_ne!(low, before);
    assert_eq!(setting(vm.ask(Request::ApplySetting { setting: before.clone() })), before);

    let application = ApplicationSelector::Unit { name: "systemd-networkd.service".into() };
    let policy =
        NetworkPolicy { egress_default: Verdict::Accept, ingress_default: Verdict::Drop, rules: vec![] };
    let wanted = Setting::NetworkPolicy { application: application.clone(), policy: Some(policy) };
    assert_eq!(setting(vm.ask(Request::ApplySetting { setting: wanted.clone() })), wanted);
    // The unit's group is made anew by a restart; the agent writes the rules again for the new one.
    let mode = ReloadMode::Restart { image: None };
    vm.ask(Request::ReloadService { name: "systemd-networkd.service".into(), mode });
    wait_for("the rules of the new group", Duration::from_secs(60), || {
        let knob = Knob::NetworkPolicy { application: application.clone() };
        matches!(vm.ask(Request::ReadSetting { knob }), Reply::Setting { setting } if setting == wanted)
            .then_some(())
    });
    a_unit_is_known_by_what_it_writes(&mut vm);
    let service =
        vm.ask(Request::StartService { name: "nginx".into(), image: "nginx".into(), data_serial: None });
    assert!(matches!(service, Reply::Error { code: ErrorCode::Unsupported, .. }), "{service:?}");
    assert_eq!(vm.ask(Request::Shutdown { shutdown: Shutdown::Poweroff }), Reply::Done);
    vm.wait_ended(Duration::from_secs(180));
}

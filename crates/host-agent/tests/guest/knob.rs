//! Each knob: the effect is there in the guest's own files, and undo restores exactly what was.

use crate::service::{get, start};
use crate::vm::{Options, Vm, wait_for};
use proteus_protocol::guest::v1::setting::*;
use proteus_protocol::guest::v1::{ErrorCode, Knob, Reply, Request, Setting};
use std::time::{Duration, Instant};

fn read(vm: &mut Vm, knob: Knob) -> Setting {
    match vm.ask(Request::ReadSetting { knob }) {
        Reply::Setting { setting } => setting,
        other => panic!("{other:?}"),
    }
}

fn apply(vm: &mut Vm, setting: Setting) -> Setting {
    let start = Instant::now();
    let what = format!("{:?}", setting.knob());
    match vm.ask(Request::ApplySetting { setting }) {
        Reply::Setting { setting } => {
            eprintln!("{what}: {:.0} ms", start.elapsed().as_secs_f64() * 1000.0);
            setting
        }
        other => panic!("{other:?}"),
    }
}

fn refusal(vm: &mut Vm, setting: Setting) -> (ErrorCode, String) {
    match vm.ask(Request::ApplySetting { setting }) {
        Reply::Error { code, message } => (code, message),
        other => panic!("{other:?}"),
    }
}

#[test]
#[ignore = "boots a guest: ./test runs it"]
fn cpus_go_offline_and_online_and_hot_plugged_ones_come_in() {
    let mut vm = Vm::boot(&Options { cpus: Some((2, 3)), ..Options::default() });
    assert_eq!(read(&mut vm, Knob::VcpusOnline), Setting::VcpusOnline { count: 2 });
    for count in [1, 2, 1, 2] {
        assert_eq!(apply(&mut vm, Setting::VcpusOnline { count }), Setting::VcpusOnline { count });
        let online = vm.cat("/sys/devices/system/cpu/online");
        assert_eq!(online.trim(), if count == 1 { "0" } else { "0-1" });
        assert_eq!(vm.cat("/proc/cpuinfo").matches("processor\t").count(), count as usize);
    }
    assert_eq!(refusal(&mut vm, Setting::VcpusOnline { count: 3 }).0, ErrorCode::Invalid);
    assert_eq!(refusal(&mut vm, Setting::VcpusOnline { count: 0 }).0, ErrorCode::Invalid);
    let add = r#"{"execute":"device_add","arguments":{"driver":"max-x86_64-cpu","id":"cpu2","socket-id":0,"core-id":2,"thread-id":0}}"#;
    let answer = vm.qmp(add);
    assert!(answer.contains("return"), "{answer}");
    wait_for("the third CPU", Duration::from_secs(60), || {
        let setting = Setting::VcpusOnline { count: 3 };
        matches!(vm.ask(Request::ApplySetting { setting }), Reply::Setting { .. }).then_some(())
    });
    assert_eq!(vm.cat("/sys/devices/system/cpu/online").trim(), "0-2");
}

#[test]
#[ignore = "boots a guest: ./test runs it"]
fn kernel_parameters_are_read_set_and_restored() {
    let mut vm = Vm::boot(&Options { images: &["nginx"], ..Options::default() });
    for (key, value, file) in [
        ("vm.swappiness", "10", "/proc/sys/vm/swappiness"),
        ("net.core.somaxconn", "8192", "/proc/sys/net/core/somaxconn"),
        ("net.ipv4.tcp_rmem", "4096 65536 1048576", "/proc/sys/net/ipv4/tcp_rmem"),
        ("fs.file-max", "123456", "/proc/sys/fs/file-max"),
    ] {
        let before = read(&mut vm, Knob::Sysctl { key: key.into() });
        let wanted = Setting::Sysctl { key: key.into(), value: value.into() };
        assert_ne!(before, wanted);
        assert_eq!(apply(&mut vm, wanted.clone()), wanted);
        assert_eq!(vm.cat(file).split_whitespace().collect::<Vec<_>>().join(" "), value);
        assert_eq!(apply(&mut vm, before.clone()), before);
        assert_eq!(read(&mut vm, Knob::Sysctl { key: key.into() }), before);
    }
    let sysctl = |key: &str, value: &str| Setting::Sysctl { key: key.into(), value: value.into() };
    assert_eq!(refusal(&mut vm, sysctl("kernel.core_pattern", "|/bin/sh")).0, ErrorCode::Invalid);
    assert_eq!(refusal(&mut vm, sysctl("vm.no_such_thing", "1")).0, ErrorCode::NotFound);
    assert_eq!(refusal(&mut vm, sysctl("vm.swappiness", "banana")).0, ErrorCode::System);
    for mode in [ThpMode::Never, ThpMode::Always, ThpMode::Madvise] {
        assert_eq!(apply(&mut vm, Setting::ThpMode { mode }), Setting::ThpMode { mode });
    }
    assert!(vm.cat("/sys/kernel/mm/transparent_hugepage/enabled").contains("[madvise]"));
    let disk = DiskSelector::Serial("nginx".into());
    let before = read(&mut vm, Knob::IoScheduler { disk: disk.clone() });
    let kyber = Setting::IoScheduler { disk: disk.clone(), scheduler: "kyber".into() };
    assert_eq!(apply(&mut vm, kyber.clone()), kyber);
    assert!(vm.cat("/sys/block/vda/queue/scheduler").contains("[kyber]"));
    assert_eq!(apply(&mut vm, before.clone()), before);
    let unknown = Setting::IoScheduler { disk, scheduler: "banana".into() };
    assert_eq!(refusal(&mut vm, unknown).0, ErrorCode::System);
    let nowhere = Setting::IoScheduler { disk: DiskSelector::Serial("x".into()), scheduler: "none".into() };
    assert_eq!(refusal(&mut vm, nowhere).0, ErrorCode::NotFound);
}

#[test]
#[ignore = "boots a guest: ./test runs it"]
fn priorities_take_hold_and_go_back_exactly() {
    let mut vm = Vm::boot(&Options { images: &["nginx"], ports: &[80], ..Options::default() });
    start(&mut vm, "nginx", None);
    let selectors = [
        ApplicationSelector::Service("nginx".into()),
        ApplicationSelector::Process { name: "nginx".into() },
        ApplicationSelector::Cgroup { path: "proteus/nginx".into() },
    ];
    for application in selectors {
        let knob = Knob::Priority { application: application.clone() };
        let before = read(&mut vm, knob.clone());
        let Setting::Priority { priority: Priority::Snapshot(snapshot), .. } = &before else { panic!() };
        assert!(snapshot.threads.len() >= 2, "{snapshot:?}");
        assert_eq!(snapshot.cgroups, [CgroupWeight { path: "proteus/nginx".into(), cpu_weight: 100 }]);
        let classes = [
            (PriorityClass::High, (0, -10), 400),
            (PriorityClass::Realtime, (2, -10), 1000),
            (PriorityClass::Low, (0, 10), 40),
            (PriorityClass::Idle, (5, 19), 1),
            (PriorityClass::Normal, (0, 0), 100),
            (PriorityClass::High, (0, -10), 400),
        ];
        for (class, (policy, nice), weight) in classes {
            let priority = Priority::Class(class);
            apply(&mut vm, Setting::Priority { application: application.clone(), priority });
            for pid in snapshot.threads.iter().map(|thread| thread.pid) {
                let stat = vm.cat(&format!("/proc/{pid}/stat"));
                // Fields 19 (nice) and 41 (policy) of proc(5).
                let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
                assert_eq!((fields[38], fields[16]), (&*policy.to_string(), &*nice.to_string()), "{class:?}");
            }
            assert_eq!(vm.cat("/sys/fs/cgroup/proteus/nginx/cpu.weight").trim(), weight.to_string());
        }
        assert_eq!(apply(&mut vm, before.clone()), before);
        assert_eq!(read(&mut vm, knob), before);
    }
    let port = vm.host_port(80);
    assert!(get(port).is_ok());
    let nobody = ApplicationSelector::Process { name: "nobody".into() };
    assert!(matches!(
        vm.ask(Request::ReadSetting { knob: Knob::Priority { application: nobody } }),
        Reply::Error { code: ErrorCode::NotFound, .. }
    ));
}

fn policy(ingress: Verdict, rules: Vec<NetworkRule>) -> NetworkPolicy {
    NetworkPolicy { egress_default: Verdict::Accept, ingress_default: ingress, rules }
}

#[test]
#[ignore = "boots a guest: ./test runs it"]
fn a_network_policy_holds_for_its_application_only_and_is_removed_whole() {
    let mut vm = Vm::boot(&Options { images: &["nginx", "redis"], ports: &[80, 6379], ..Options::default() });
    start(&mut vm, "nginx", None);
    start(&mut vm, "redis", None);
    let (web, redis) = (vm.host_port(80), vm.host_port(6379));
    let application = ApplicationSelector::Service("nginx".into());
    let knob = Knob::NetworkPolicy { application: application.clone() };
    let none = Setting::NetworkPolicy { application: application.clone(), policy: None };
    let with = |policy| Setting::NetworkPolicy { application: application.clone(), policy: Some(policy) };
    assert_eq!(read(&mut vm, knob.clone()), none);
    assert!(get(web).is_ok() && crate::service::ping(redis).is_ok());

    let closed = with(policy(Verdict::Drop, vec![]));
    assert_eq!(apply(&mut vm, closed.clone()), closed);
    assert_eq!(read(&mut vm, knob.clone()), closed);
    assert!(get(web).is_err(), "a dropped packet was answered");
    assert!(crate::service::ping(redis).is_ok());
    let listing = vm.exec(&["/usr/sbin/nft", "list", "ruleset"], None).stdout.to_text_lossy();
    eprintln!("{listing}");
    assert!(listing.contains("socket cgroupv2 level 2 \"proteus/nginx\""));

    let rule = NetworkRule {
        direction: Direction::Ingress,
        protocol: Some(Protocol::Tcp),
        ports: Some(PortRange { from: 80, to: 80 }),
        peer: Some(Cidr { address: "10.0.2.0".parse().unwrap(), prefix: 24 }),
        verdict: Verdict::Accept,
        rate_limit: Some(RateLimit::BytesPerSecond(1_000_000)),
    };
    let open = with(policy(Verdict::Drop, vec![rule]));
    assert_eq!(apply(&mut vm, open.clone()), open);
    assert!(get(web).is_ok());

    // Somebody else's hand is noticed.
    let flush = vm.exec(&["/usr/sbin/nft", "flush", "chain", "inet", "proteus_guest", "app0_in"], None);
    assert_eq!(flush.exit_code, Some(0));
    let changed = vm.ask(Request::ReadSetting { knob: knob.clone() });
    assert!(matches!(changed, Reply::Error { code: ErrorCode::NotEffective, .. }), "{changed:?}");

    assert_eq!(apply(&mut vm, none.clone()), none);
    assert!(get(web).is_ok());
    let listing = vm.exec(&["/usr/sbin/nft", "list", "ruleset"], None).stdout.to_text_lossy();
    assert_eq!(listing.trim(), "");
}

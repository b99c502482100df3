//! A control plane over simulated VMs, for tests of the saga. Lives in a folder, so that a killed process's state
//! can be opened by the next.

use proteus_control_plane::control::Control;
use proteus_control_plane::store::Store;
use proteus_control_plane::store::embedded::{Embedded, Probe};
use proteus_host_agent::node::{HostAgent, HostFacts, Reach};
use proteus_hypervisor::sim::SimDriver;
use proteus_model::id::VmId;
use proteus_model::profile::Profile;
use proteus_model::profile::document;
use proteus_model::setting::Setting;
use proteus_model::unit::{Bytes, UnixMillis};
use proteus_model::vm::{Boot, DiskFormat, DiskIntent, VmIntent};
use proteus_protocol::node::v1::HealthObserved;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

pub struct Bench {
    pub control: Arc<Control>,
    pub sim: Arc<SimDriver>,
    pub healthy: Arc<AtomicBool>,
    pub store: Arc<Embedded>,
}

pub const PROFILE: &str = "
name: fit
version: 1.0.0
resources:
  vcpus: { preferred: 1500m }
  memory: { preferred: 384MiB }
  disk: { iops: { preferred: 300 } }
  network: { to_guest: { preferred: 10MiB/s } }
resource_weights: { cpu: 0.5, memory: 0.25, network: 0.25, storage_io: 0.0 }
application_priorities: { nginx: high }
network_policy:
  ingress: { default: drop, rules: [ { proto: tcp, ports: [80], action: accept } ] }
tuning:
  sysctl: { vm.swappiness: 10 }
  thp: never
  io_scheduler: none
verify:
  health: [ { tcp: { port: 80 } } ]
  window: { before: 1s, after: 1s }
";

pub fn profile() -> Profile {
    document::parse("fit.yaml", PROFILE.as_bytes(), None).unwrap()
}

pub async fn bench(dir: &Path, probe: Option<Probe>) -> Bench {
    bench_over(dir, probe, |store| store).await
}

/// With `over` between the control plane and its store.
pub async fn bench_over(
    dir: &Path,
    probe: Option<Probe>,
    over: impl FnOnce(Arc<Embedded>) -> Arc<dyn Store>,
) -> Bench {
    // VMs have users of their own, who must reach what is in it.
    std::fs::set_permissions(dir, Permissions::from_mode(0o711)).unwrap();
    let sim = Arc::new(SimDriver::open(&dir.join("sim")).unwrap());
    let healthy = Arc::new(AtomicBool::new(true));
    let answer = healthy.clone();
    let reach = Reach::Simulated(Arc::new(move |_, _| HealthObserved {
        healthy: answer.load(Ordering::SeqCst),
        latency_us: 100,
        detail: "simulated".into(),
    }));
    let facts =
        HostFacts { accelerator: "sim".into(), accelerator_why: "a test".into(), hypervisor: "sim".into() };
    let node = HostAgent::open(sim.clone(), reach, facts, dir).await.unwrap();
    let store = Arc::new(Embedded::open(&dir.join("state"), probe).unwrap());
    let clock = Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        UnixMillis(since.as_millis() as u64)
    });
    let entropy = Arc::new(|| {
        let mut bytes = [0u8; 16];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
        u128::from_ne_bytes(bytes)
    });
    let control = Control::new(over(store.clone()), Arc::new(node), clock, entropy);
    Bench { control, sim, healthy, store }
}

pub fn intent(name: &str) -> VmIntent {
    VmIntent {
        vcpus_max: 4,
        memory_max: Bytes::mib(512),
        disks: vec![DiskIntent {
            name: "root".parse().unwrap(),
            path: "/dev/null".into(),
            format: DiskFormat::Raw,
            read_only: false,
            overlay: false,
        }],
        ..VmIntent::new(name.parse().unwrap(), Boot::Firmware, Bytes::mib(256))
    }
}

/// Makes and starts a VM; `/dev/null` is no file to the control plane, so a real one of its own stands in.
pub async fn start_vm(bench: &Bench, dir: &Path, name: &str) -> VmId {
    let mut intent = intent(name);
    intent.disks[0].path = dir.join(format!("{name}.raw"));
    std::fs::write(&intent.disks[0].path, b"x").unwrap();
    let record = bench.control.create_vm(intent, "test").await.unwrap();
    bench.control.start_vm(name, "test").await.unwrap();
    record.id
}

/// Where the VM's record and the VM itself differ: every knob that the record manages must read so, and no other
/// knob may be away from its start.
pub async fn differences(bench: &Bench, dir: &Path, vm: &str) -> Vec<String> {
    let record = bench.control.vm(vm).await.unwrap();
    let mut wrong = Vec::new();
    for setting in &record.managed {
        let found = bench.control.node().read(record.id, &setting.knob()).await.unwrap();
        if !setting.holds_in(&found) {
            wrong.push(format!("{}: recorded {setting}, is {found}", setting.knob()));
        }
    }
    let changed = proteus_hypervisor::sim::changed_settings(&dir.join("sim"), record.id).unwrap();
    for (knob, setting) in changed {
        if !record.managed.iter().any(|known: &Setting| known.knob() == knob) {
            wrong.push(format!("{knob}: not recorded, is {setting}"));
        }
    }
    if let Some(morph) = record.morph {
        wrong.push(format!("the morph {morph} still holds the VM"));
    }
    wrong
}

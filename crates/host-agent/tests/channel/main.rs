//! Guests that flood, lie, babble or fall silent on their channel, played by a socket: each is refused with a clear
//! error, the link is cut where it must be, a later honest word is heard again, and another VM notices nothing.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use async_trait::async_trait;
use proteus_host_agent::node::{HostAgent, HostFacts, Reach};
use proteus_hypervisor::driver::{Applied, Doors, Driver, DriverError, Making, Seat};
use proteus_hypervisor::sim::SimDriver;
use proteus_model::capability::{Ability, CapabilityReport};
use proteus_model::id::{ImageName, SnapshotName, VmId};
use proteus_model::setting::{Knob, KnobKind, Setting};
use proteus_model::snapshot::Snapshot;
use proteus_model::unit::{Bytes, Millis};
use proteus_model::vm::{Boot, ImageIntent, PowerState, StopObserved, VmCounters, VmIntent};
use proteus_protocol::guest::HOST_PAYLOAD_BYTES_MAX;
use proteus_protocol::guest::frame::{Decoder, encode};
use proteus_protocol::guest::v1::setting::ThpMode;
use proteus_protocol::guest::v1::{ErrorCode, GuestMessage, HostMessage, Reply, Request, ServiceStatus};
use proteus_protocol::node::v1::{HealthObserved, Node, NodeErrorCode};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// How a played guest behaves.
const HONEST: u8 = 0;
const FLOODS: u8 = 1;
const BABBLES: u8 = 2;
const ANSWERS_OTHERWISE: u8 = 3;
const OTHER_KNOB: u8 = 4;
const HANGS_UP: u8 = 5;
const SILENT: u8 = 6;
const DROPS_FIRST: u8 = 7;

/// Simulated VMs whose guest channel is a socket of this test.
struct Played {
    sim: SimDriver,
    dir: PathBuf,
}

#[async_trait]
impl Driver for Played {
    fn name(&self) -> &'static str {
        "played"
    }
    async fn start(&self, seat: &Seat) -> Result<(), DriverError> {
        self.sim.start(seat).await
    }
    async fn adopt(&self, seat: &Seat) -> Result<bool, DriverError> {
        self.sim.adopt(seat).await
    }
    async fn stop(&self, vm: VmId, grace: Millis) -> Result<StopObserved, DriverError> {
        self.sim.stop(vm, grace).await
    }
    async fn power(&self, vm: VmId) -> PowerState {
        self.sim.power(vm).await
    }
    async fn pid(&self, vm: VmId) -> Option<u32> {
        self.sim.pid(vm).await
    }
    async fn vmm(&self, vm: VmId) -> Option<String> {
        self.sim.vmm(vm).await
    }
    async fn doors(&self, vm: VmId) -> Result<Doors, DriverError> {
        Ok(Doors { agent: Some(self.dir.join(vm.short())), ..self.sim.doors(vm).await? })
    }
    async fn capabilities(&self, vm: VmId) -> Result<CapabilityReport, DriverError> {
        self.sim.capabilities(vm).await
    }
    fn turns(&self, knob: &Knob) -> bool {
        !knob.kind().in_guest()
    }
    async fn read(&self, vm: VmId, knob: &Knob) -> Result<Setting, DriverError> {
        self.sim.read(vm, knob).await
    }
    async fn apply(&self, vm: VmId, setting: &Setting) -> Result<Applied, DriverError> {
        self.sim.apply(vm, setting).await
    }
    async fn plugged_vcpus(&self, vm: VmId) -> Result<u32, DriverError> {
        self.sim.plugged_vcpus(vm).await
    }
    async fn ensure_plugged_vcpus(&self, vm: VmId, count: u32) -> Result<Applied, DriverError> {
        self.sim.ensure_plugged_vcpus(vm, count).await
    }
    async fn offer_image(&self, vm: VmId, image: &ImageIntent) -> Result<(), DriverError> {
        self.sim.offer_image(vm, image).await
    }
    async fn attached_images(&self, vm: VmId) -> Result<Vec<ImageName>, DriverError> {
        self.sim.attached_images(vm).await
    }
    async fn counters(&self, vm: VmId) -> Result<VmCounters, DriverError> {
        self.sim.counters(vm).await
    }
    async fn survey(&self) -> std::collections::HashMap<VmId, VmCounters> {
        self.sim.survey().await
    }
    async fn replace_vmm(&self, vm: VmId) -> Result<Applied, DriverError> {
        self.sim.replace_vmm(vm).await
    }
    async fn check_template(&self, vm: VmId) -> Result<(), DriverError> {
        self.sim.doors(vm).await.map(drop)
    }
    async fn save_template(&self, vm: VmId, to: &Path) -> Result<(), DriverError> {
        std::fs::create_dir_all(to).unwrap();
        std::fs::write(to.join("template.json"), "{}").unwrap();
        self.sim.stop(vm, Millis(0)).await.map(drop)
    }
    async fn start_clone(&self, seat: &Seat, _: &Path, disks: Making<'_>) -> Result<(), DriverError> {
        disks.await?;
        self.sim.start(seat).await
    }
    async fn light_link(&self, _: VmId) -> Result<(), DriverError> {
        Ok(())
    }
    async fn snapshots(&self, seat: &Seat) -> Result<Vec<Snapshot>, DriverError> {
        self.sim.snapshots(seat).await
    }
    async fn create_snapshot(&self, vm: VmId, name: &SnapshotName) -> Result<Applied, DriverError> {
        self.sim.create_snapshot(vm, name).await
    }
    async fn restore_snapshot(&self, vm: VmId, name: &SnapshotName) -> Result<Applied, DriverError> {
        self.sim.restore_snapshot(vm, name).await
    }
    async fn delete_snapshot(&self, seat: &Seat, name: &SnapshotName) -> Result<(), DriverError> {
        self.sim.delete_snapshot(seat, name).await
    }
}

fn answer(request: &Request, how: u8) -> Reply {
    use proteus_protocol::guest::v1::Setting as Wire;
    match request {
        Request::Hello { .. } | Request::SetIdentity { .. } => {
            let hello = r#"{"protocol":1,"agent_version":"0.1.0","boot_id":"b","instance":"i","kernel":"k",
                "hostname":"h","guest":"pid1","capabilities":[]}"#;
            Reply::Hello { hello: serde_json::from_str(hello).unwrap() }
        }
        Request::ReadSetting { .. } if how == OTHER_KNOB => {
            Reply::Setting { setting: Wire::VcpusOnline { count: 9 } }
        }
        Request::ReadSetting { .. } if how == ANSWERS_OTHERWISE => Reply::Pong { uptime_ms: 1 },
        Request::ReadSetting { .. } => Reply::Setting { setting: Wire::ThpMode { mode: ThpMode::Never } },
        _ => Reply::Done,
    }
}

/// The services of a guest that has an image for each but `bad`.
fn serve(started: &mut Vec<ServiceStatus>, request: &Request) -> Option<Reply> {
    match request {
        Request::MountImage { name, .. } if name == "bad" => {
            let message = "no disk with the serial bad".to_owned();
            Some(Reply::Error { code: ErrorCode::NotFound, message })
        }
        Request::StartService { name, .. } => {
            let status = serde_json::json!({
                "name": name, "image": name, "version": "1", "state": "ready", "pid": null, "generation": 1,
                "restarts": 0, "cgroup": "", "listen": [], "sockets_kept": false, "notes": [],
                "last_exit": null, "log": "",
            });
            started.push(serde_json::from_value(status).unwrap());
            Some(Reply::Done)
        }
        Request::Services => Some(Reply::Services { services: started.clone() }),
        _ => None,
    }
}

/// Whatever `bytes` are, again and again, until the host hangs up. How many it took.
async fn pour(stream: &mut UnixStream, bytes: &[u8]) -> usize {
    let mut poured = 0;
    while stream.write_all(bytes).await.is_ok() {
        poured += bytes.len();
        assert!(poured < 256 << 20, "the host takes a flood without an end");
    }
    poured
}

async fn play(listener: UnixListener, how: Arc<AtomicU8>) {
    let mut started = Vec::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut decoder: Decoder<HostMessage> = Decoder::new(HOST_PAYLOAD_BYTES_MAX);
        let mut buffer = vec![0; 64 << 10];
        let mut first = true;
        'link: while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            decoder.push(&buffer[..count]);
            while let Some(Ok(HostMessage { id, request })) = decoder.next() {
                let now = how.load(Ordering::SeqCst);
                match now {
                    FLOODS => {
                        let word = encode(&GuestMessage::Unknown, 1000).unwrap().repeat(1000);
                        let poured = pour(&mut stream, &word).await;
                        println!("took {poured} bytes of a flood");
                        break 'link;
                    }
                    BABBLES => {
                        pour(&mut stream, &[0xF5, b'P', b'R', 1, 0, 0, 0, 2, 0, 0, 0, 0, b'{', b'}']).await;
                        break 'link;
                    }
                    HANGS_UP => break 'link,
                    SILENT => continue,
                    DROPS_FIRST if std::mem::take(&mut first) => continue,
                    _ => {}
                }
                // An answer that nobody asked for comes before each.
                let reply = serve(&mut started, &request).unwrap_or_else(|| answer(&request, now));
                for id in [id + 1_000_000, id] {
                    let reply = Box::new(reply.clone());
                    let frame = encode(&GuestMessage::Reply { id, reply }, 100_000).unwrap();
                    if stream.write_all(&frame).await.is_err() {
                        break 'link;
                    }
                }
            }
        }
    }
}

fn intent(name: &str) -> VmIntent {
    let boot = Boot::Kernel { kernel: "/k".into(), initrd: "/i".into(), append: String::new() };
    VmIntent::new(name.parse().unwrap(), boot, Bytes::mib(128))
}

async fn agent(dir: &Path) -> HostAgent {
    let sim = SimDriver::open(&dir.join("sim")).unwrap();
    let driver = Arc::new(Played { sim, dir: dir.to_owned() });
    let health = |_, _: &_| HealthObserved { healthy: true, latency_us: 1, detail: String::new() };
    let facts = HostFacts { accelerator: "sim".into(), accelerator_why: "".into(), hypervisor: "".into() };
    HostAgent::open(driver, Reach::Simulated(Arc::new(health)), facts, dir).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_floods_or_lies_is_cut_off_and_no_other_vm_notices() {
    let dir = tempfile::tempdir().unwrap();
    let agent = agent(dir.path()).await;
    let (bad, good) = (VmId::from_bits(1 << 96), VmId::from_bits(2 << 96));
    let how = Arc::new(AtomicU8::new(HONEST));
    for (vm, name, how) in [(bad, "bad", how.clone()), (good, "good", Arc::new(AtomicU8::new(HONEST)))] {
        agent.create(vm, &intent(name)).await.unwrap();
        agent.start(vm).await.unwrap();
        let listener = UnixListener::bind(dir.path().join(vm.short())).unwrap();
        tokio::spawn(play(listener, how));
    }
    let never = Setting::Thp { mode: proteus_model::setting::ThpMode::Never };
    for (behaviour, said, code) in [
        (FLOODS, "more than 4194304 bytes in a second", NodeErrorCode::Guest),
        (BABBLES, "more than 64 broken frames", NodeErrorCode::Guest),
        (ANSWERS_OTHERWISE, "something else than was asked", NodeErrorCode::Guest),
        (OTHER_KNOB, "something else than was asked", NodeErrorCode::Guest),
        (HANGS_UP, "the guest channel closed", NodeErrorCode::Guest),
        (SILENT, "did not answer within 20 s", NodeErrorCode::Stalled),
    ] {
        how.store(behaviour, Ordering::SeqCst);
        let begun = Instant::now();
        let (answer, other) = tokio::join!(agent.read(bad, &Knob::Thp), async {
            let asked = Instant::now();
            (agent.read(good, &Knob::Thp).await, asked.elapsed())
        });
        let error = answer.unwrap_err();
        println!("{error} ({:.2} s)", begun.elapsed().as_secs_f64());
        assert!(error.message.contains(said) && error.code == code, "{error:?}, expected {said:?}");
        assert!(begun.elapsed() < Duration::from_secs(25));
        assert_eq!(other.0.unwrap(), never, "the other VM while this one misbehaves");
        assert!(other.1 < Duration::from_secs(5), "the other VM waited {:?}", other.1);
        how.store(HONEST, Ordering::SeqCst);
        assert_eq!(agent.read(bad, &Knob::Thp).await.unwrap(), never, "heard again when it is honest");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_fell_silent_is_not_seen_as_answering() {
    let dir = tempfile::tempdir().unwrap();
    let agent = agent(dir.path()).await;
    let vm = VmId::from_bits(1 << 96);
    agent.create(vm, &intent("web")).await.unwrap();
    agent.start(vm).await.unwrap();
    let listener = UnixListener::bind(dir.path().join(vm.short())).unwrap();
    let how = Arc::new(AtomicU8::new(HONEST));
    tokio::spawn(play(listener, how.clone()));
    let thp = Ability::Knob(KnobKind::Thp);
    assert!(agent.capabilities(vm).await.unwrap().look_up(thp).is_ok());
    let heard = agent.observe(vm).await.unwrap();
    assert_eq!((heard.agent.as_deref(), heard.agent_silent_since), (Some("0.1.0"), None));
    how.store(SILENT, Ordering::SeqCst);
    agent.measure(vm).await.unwrap();
    let report = agent.capabilities(vm).await.unwrap();
    for kind in KnobKind::ALL.into_iter().filter(|kind| kind.in_guest()) {
        let why = report.look_up(Ability::Knob(kind)).expect_err("nobody is there to turn it");
        assert!(why.starts_with("the guest's agent does not answer"), "{kind:?}: {why}");
    }
    let silent = agent.observe(vm).await.unwrap();
    assert_eq!(silent.agent, None, "a dead agent is told of as if it answered");
    let since = silent.agent_silent_since.unwrap();
    assert!(since <= heard.observed_at && since.0 + 5_000 > heard.observed_at.0, "{since:?} {heard:?}");
    how.store(HONEST, Ordering::SeqCst);
    agent.measure(vm).await.unwrap();
    let back = agent.observe(vm).await.unwrap();
    assert_eq!((back.agent.as_deref(), back.agent_silent_since), (Some("0.1.0"), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_cannot_be_started_keeps_no_other_from_it_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let agent = agent(dir.path()).await;
    let vm = VmId::from_bits(1 << 96);
    let names = ["one", "bad", "two"].map(|name| name.parse().unwrap());
    agent.create(vm, &VmIntent { services: names.into(), ..intent("web") }).await.unwrap();
    let listener = UnixListener::bind(dir.path().join(vm.short())).unwrap();
    tokio::spawn(play(listener, Arc::new(AtomicU8::new(HONEST))));
    agent.start(vm).await.unwrap();
    let begun = Instant::now();
    let seen = loop {
        let seen = agent.services(vm).await.unwrap();
        if seen.len() == 3 {
            break seen;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "only {seen:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let told: Vec<_> = seen.iter().map(|s| (s.name.as_str(), s.state.as_str(), s.serving)).collect();
    assert_eq!(told, [("one", "ready", true), ("two", "ready", true), ("bad", "failed", false)]);
    assert_eq!(seen[2].notes, ["not started: the agent refused: no disk with the serial bad"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_misses_the_first_word_on_a_new_link_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let agent = agent(dir.path()).await;
    let vm = VmId::from_bits(1 << 96);
    agent.create(vm, &intent("late")).await.unwrap();
    agent.start(vm).await.unwrap();
    let listener = UnixListener::bind(dir.path().join(vm.short())).unwrap();
    tokio::spawn(play(listener, Arc::new(AtomicU8::new(DROPS_FIRST))));
    let begun = Instant::now();
    agent.read(vm, &Knob::Thp).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_whose_agent_misses_the_first_word_becomes_somebody_else_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let agent = agent(dir.path()).await;
    let ids = [1u128, 2].map(|number| VmId::from_bits(number << 96));
    let how = Arc::new(AtomicU8::new(HONEST));
    for vm in ids {
        let listener = UnixListener::bind(dir.path().join(vm.short())).unwrap();
        tokio::spawn(play(listener, how.clone()));
    }
    let [base, clone] = ids;
    agent.create(base, &intent("base")).await.unwrap();
    agent.start(base).await.unwrap();
    agent.wait_services(base, Millis(20_000)).await.unwrap();
    agent.save_template(base).await.unwrap();
    how.store(DROPS_FIRST, Ordering::SeqCst);
    agent.start_clone(base, clone, &intent("clone")).await.unwrap();
    assert!(agent.is_whole(clone).await.unwrap());
}

//! The life of a VMM: found again, replaced under its guest, stopped by a signal, killed, started anew, ended.

use crate::guest::{Guest, image, lives, wait_for};
use crate::page::get_page;
use proteus_hypervisor::driver::{Driver, DriverError};
use proteus_hypervisor::qemu::QemuDriver;
use proteus_model::policy::{PacketPolicy, Verdict};
use proteus_model::setting::{DiskLimit, Knob, NicRate, Setting, Weight};
use proteus_model::unit::{Bytes, BytesPerSec, MilliCpu, Millis};
use proteus_model::vm::PowerState;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a guest: ./test runs it"]
async fn a_vmm_is_found_again_replaced_frozen_killed_and_started_anew() {
    let mut guest = Guest::boot().await;
    {
        let mut channel = guest.channel().await;
        guest.start_nginx(&mut channel).await;
        let count = "(i=0; while :; do i=$((i+1)); echo $i >/tmp/next; mv /tmp/next /tmp/count; \
            sleep 0.05; done) >/dev/null 2>&1 &";
        channel.sh(count).await;
        channel.sh("dd if=/dev/urandom of=/tmp/keep bs=1M count=20 2>/dev/null").await;
    }
    adopt(&mut guest).await;
    replace(&guest).await;
    // What a replacement takes over, a restarted Proteus must find too.
    adopt(&mut guest).await;
    cut_short(&mut guest).await;
    replace_cut_short(&mut guest).await;
    template_cut_short(&mut guest).await;
    freeze(&guest).await;
    stall(&guest).await;
    lose(&mut guest).await;
    kill(&guest).await;
    end(&guest).await;
}

/// Proteus starts again: another driver of the same instance finds the same process.
async fn adopt(guest: &mut Guest) {
    let pid = guest.pid().await;
    // One that a crash left of a VM that is gone since.
    let memory = std::path::Path::new("/dev/shm").join(format!("proteus-{}", guest.instance));
    let strays = ["ram", "hot"].map(|part| memory.join(format!("{:032x}.{part}", 7)));
    strays.iter().for_each(|stray| std::fs::write(stray, b"left").unwrap());
    let mut standing = guest.connect(80, Duration::from_secs(10)).await.unwrap();
    get_page(&mut standing).unwrap();
    let scratch = guest.seat.dir.parent().unwrap().to_owned();
    guest.driver = QemuDriver::open(&guest.instance, &scratch).await.unwrap();
    assert_eq!(guest.driver.power(guest.id()).await, PowerState::Stopped, "known before it was found");
    assert!(strays.iter().all(|stray| !stray.exists()), "memory that is no VM's stayed");
    assert!(guest.driver.adopt(&guest.seat).await.unwrap());
    assert_eq!((guest.pid().await, guest.driver.power(guest.id()).await), (pid, PowerState::Running));
    get_page(&mut standing).unwrap();
    let cap = Setting::CpuCap { limit: Some(MilliCpu(900)) };
    guest.driver.apply(guest.id(), &cap).await.unwrap();
    assert_eq!(guest.driver.read(guest.id(), &Knob::CpuCap).await.unwrap(), cap);
    guest.driver.apply(guest.id(), &Setting::CpuCap { limit: None }).await.unwrap();
    assert_eq!(guest.capped_threads().len(), guest.driver.plugged_vcpus(guest.id()).await.unwrap() as usize);
}

/// Proteus dies between the kernel's taking a packet filter and writing down how it is listed.
async fn cut_short(guest: &mut Guest) {
    let policy =
        PacketPolicy { rules: Vec::new(), ingress_default: Verdict::Accept, egress_default: Verdict::Drop };
    let path = guest.seat.dir.join("run.json");
    let mut run: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    run["filter_next"] = serde_json::json!({ "to": policy });
    std::fs::write(&path, run.to_string()).unwrap();
    guest.driver.network().set_policy(guest.seat.slot, Some(&policy)).await.unwrap();
    let scratch = guest.seat.dir.parent().unwrap().to_owned();
    guest.driver = QemuDriver::open(&guest.instance, &scratch).await.unwrap();
    assert!(guest.driver.adopt(&guest.seat).await.unwrap());
    let found = guest.driver.read(guest.id(), &Knob::NetworkPolicy).await.unwrap();
    assert_eq!(found, Setting::NetworkPolicy { policy: Some(policy) });
    guest.driver.apply(guest.id(), &Setting::NetworkPolicy { policy: None }).await.unwrap();
}

/// Every knob away from its start.
async fn reshape(guest: &Guest) -> Vec<Setting> {
    let redis = image("redis");
    guest.driver.offer_image(guest.id(), &redis).await.unwrap();
    guest.driver.ensure_plugged_vcpus(guest.id(), 2).await.unwrap();
    let policy =
        PacketPolicy { rules: Vec::new(), ingress_default: Verdict::Accept, egress_default: Verdict::Drop };
    let rate = NicRate { to_guest: Some(BytesPerSec(8 << 20)), from_guest: Some(BytesPerSec(8 << 20)) };
    let limit = DiskLimit { iops: Some(321), bandwidth: Some(BytesPerSec(3 << 20)) };
    let settings = vec![
        Setting::Memory { target: Bytes::mib(224) },
        Setting::HotMemory { plugged: Bytes::mib(64) },
        Setting::DiskLimit { disk: "data".parse().unwrap(), limit },
        Setting::CpuCap { limit: Some(MilliCpu(1500)) },
        Setting::CpuWeight { weight: Weight(250) },
        Setting::NicRate { rate },
        Setting::NetworkPolicy { policy: Some(policy) },
        Setting::Image { image: redis.name, digest: Some(redis.digest) },
    ];
    for setting in &settings {
        guest.driver.apply(guest.id(), setting).await.unwrap();
    }
    check(guest, &settings, "before it is replaced").await;
    settings
}

async fn check(guest: &Guest, settings: &[Setting], when: &str) {
    for setting in settings {
        let found = guest.driver.read(guest.id(), &setting.knob()).await.unwrap();
        assert!(setting.holds_in(&found), "{} was set to {setting}, is {found} {when}", setting.knob());
    }
}

/// Longest time between two answers that a client on one standing connection saw, and how many came.
struct Client {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<std::io::Result<(u32, Duration)>>,
}

impl Client {
    async fn begin(guest: &Guest) -> Self {
        let mut stream = guest.connect(80, Duration::from_secs(10)).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut count, mut longest) = (0, Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                get_page(&mut stream)?;
                (count, longest) = (count + 1, longest.max(begun.elapsed()));
            }
            Ok((count, longest))
        });
        Self { stop, thread }
    }

    /// Stops; a lost request is an error here, since the connection is never opened again.
    fn end(self) -> (u32, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap().unwrap()
    }
}

async fn replace(guest: &Guest) {
    let mut settings = reshape(guest).await;
    if let Err(refused) = guest.driver.replace_vmm(guest.id()).await {
        // QEMU 7.2 would destroy plugged memory: the driver must know, say so, and leave the guest as it is.
        assert!(matches!(refused, DriverError::Unsupported { .. }), "{refused}");
        println!("{refused}");
        check(guest, &settings, "after a refused replacement").await;
        settings.retain(|setting| setting.knob() != Knob::HotMemory);
        let out = Setting::HotMemory { plugged: Bytes::ZERO };
        guest.driver.apply(guest.id(), &out).await.unwrap();
        settings.insert(0, out);
    }
    let look = "cat /proc/sys/kernel/random/boot_id; md5sum </tmp/keep; cat /sys/devices/system/cpu/present";
    let (before, counted) = {
        let mut channel = guest.channel().await;
        wait_for("the plugged vCPU", Duration::from_secs(30), async || {
            (channel.sh("cat /sys/devices/system/cpu/present").await == "0-1").then_some(())
        })
        .await;
        (channel.sh(look).await, channel.sh("cat /tmp/count").await.parse::<u64>().unwrap())
    };
    for round in 1..=3 {
        let pid = guest.pid().await;
        let client = Client::begin(guest).await;
        let applied = guest.driver.replace_vmm(guest.id()).await.unwrap();
        let (answers, longest) = client.end();
        let now = guest.pid().await;
        assert!(now != pid && !lives(pid) && lives(now), "VMM {pid} became {now}");
        println!(
            "replacement {round}: blackout {}, took {}; a client on one connection: {answers} answers, none \
             lost, longest {} ms",
            applied.blackout_ms,
            applied.took_ms,
            longest.as_millis()
        );
        check(guest, &settings, "after it was replaced").await;
        // Threads of the old VMM are the last of it to leave.
        wait_for("the new VMM's two threads under the cap", Duration::from_secs(20), async || {
            let threads = guest.capped_threads();
            let of_new = |tid: &u32| std::path::Path::new(&format!("/proc/{now}/task/{tid}")).exists();
            (threads.len() == 2 && threads.iter().all(of_new)).then_some(())
        })
        .await;
    }
    let mut channel = guest.channel().await;
    assert_eq!(channel.sh(look).await, before, "the guest's memory");
    let total: u64 = channel.sh("cat /tmp/count").await.parse().unwrap();
    assert!(total > counted, "the guest's counter went from {counted} to {total}");
    assert_eq!(channel.serials().await, ["data", "nginx", "redis"]);
    // The replaced VMM still takes images out and puts them in.
    let out = Setting::Image { image: "redis".parse().unwrap(), digest: None };
    guest.driver.apply(guest.id(), &out).await.unwrap();
    assert_eq!(channel.serials().await, ["data", "nginx"]);
    guest.driver.apply(guest.id(), settings.last().unwrap()).await.unwrap();
}

/// A VMM that hangs: a call ends in time and says so, and works again when the VMM does.
/// Proteus starts again after it ended in the middle of something: one VMM is left, and it has the guest.
async fn found_whole(guest: &mut Guest, when: &str) {
    let scratch = guest.seat.dir.parent().unwrap().to_owned();
    guest.driver = QemuDriver::open(&guest.instance, &scratch).await.unwrap();
    assert!(guest.driver.adopt(&guest.seat).await.unwrap(), "{when}");
    assert_eq!(guest.driver.power(guest.id()).await, PowerState::Running, "{when}");
    assert_eq!(guest.vmms().len(), 1, "{when}");
    let mut channel = guest.channel().await;
    let before: u64 = channel.sh("cat /tmp/count").await.parse().unwrap();
    wait_for("the counter to go on", Duration::from_secs(30), async || {
        let now: u64 = channel.sh("cat /tmp/count").await.parse().ok()?;
        (now > before).then_some(())
    })
    .await;
}

/// Proteus dies while it replaces a VMM.
async fn replace_cut_short(guest: &mut Guest) {
    for millis in [20, 80, 120, 160, 200, 240, 280, 320, 400, 600] {
        let limit = Duration::from_millis(millis);
        let done = tokio::time::timeout(limit, guest.driver.replace_vmm(guest.id())).await;
        println!(
            "replacement cut short after {millis} ms: {}",
            if done.is_ok() { "was done" } else { "cut" }
        );
        found_whole(guest, &format!("a replacement that was cut short after {millis} ms")).await;
    }
}

/// Proteus dies while it saves a template: the VM goes on.
async fn template_cut_short(guest: &mut Guest) {
    let to = guest.seat.dir.join("template");
    for millis in [1, 5, 20] {
        let limit = Duration::from_millis(millis);
        let done = tokio::time::timeout(limit, guest.driver.save_template(guest.id(), &to)).await;
        assert!(done.is_err(), "ended within {millis} ms: {done:?}");
        found_whole(guest, &format!("a template that was cut short after {millis} ms")).await;
        assert!(!to.exists(), "left half of a template");
    }
}

async fn freeze(guest: &Guest) {
    let pid = guest.pid().await;
    signal(pid, "-STOP");
    let begun = Instant::now();
    let error = guest.driver.read(guest.id(), &Knob::Memory).await.unwrap_err();
    let took = begun.elapsed();
    let said = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert!(said.contains("did not answer `query-balloon` within 10 s"), "{said}");
    assert_eq!(guest.driver.power(guest.id()).await, PowerState::Hung);
    signal(pid, "-CONT");
    assert_eq!(guest.driver.power(guest.id()).await, PowerState::Running);
    guest.driver.read(guest.id(), &Knob::Memory).await.unwrap();
    println!("frozen VMM: {said} (after {:.1} s), works again after SIGCONT", took.as_secs_f64());
}

/// A VMM that stalls while its guest is to go: the guest has all of its time, and no more.
async fn stall(guest: &Guest) {
    let pid = guest.pid().await;
    signal(pid, "-STOP");
    let begun = Instant::now();
    // Somebody waits for its answer already.
    let (_, seen) = tokio::join!(
        guest.driver.read(guest.id(), &Knob::Memory),
        guest.driver.stop(guest.id(), Millis(2000))
    );
    let (seen, took) = (seen.unwrap(), begun.elapsed());
    assert!(!seen.by_itself && !seen.answered, "{seen:?}");
    assert!((2000..3500).contains(&seen.waited.0) && took < Duration::from_secs(8), "{seen:?}, {took:?}");
    assert!(!lives(pid));
    println!("a frozen VMM with 2 s of grace: {seen:?}, gone after {:.1} s", took.as_secs_f64());

    // Somebody begins to wait for it in the meantime.
    guest.start().await;
    let pid = guest.pid().await;
    signal(pid, "-STOP");
    let begun = Instant::now();
    let later = async {
        let over = async || (begun.elapsed() > Duration::from_secs(1)).then_some(());
        wait_for("a second of the grace", Duration::from_secs(10), over).await;
        guest.driver.read(guest.id(), &Knob::Memory).await
    };
    let (seen, _) = tokio::join!(guest.driver.stop(guest.id(), Millis(2000)), later);
    assert!(!seen.unwrap().by_itself && begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert!(!lives(pid));

    guest.start().await;
    let pid = guest.pid().await;
    signal(pid, "-STOP");
    let begun = Instant::now();
    let stalled = async {
        // Longer than a call waits, which is 10 s.
        let over = async || (begun.elapsed() > Duration::from_secs(12)).then_some(());
        wait_for("the end of the stall", Duration::from_secs(20), over).await;
        signal(pid, "-CONT");
    };
    let (seen, ()) = tokio::join!(guest.driver.stop(guest.id(), Millis(60_000)), stalled);
    let seen = seen.unwrap();
    assert!(seen.by_itself && seen.answered && seen.waited.0 > 12_000, "{seen:?}");
    println!("a VMM that stalled for 12 s with 60 s of grace: {seen:?}");
    guest.start().await;
}

/// A VMM that does not answer when Proteus starts again, and one of which what was written is damaged: neither is taken
/// for stopped, nothing is done to it but to end it, and one that answers again is found.
async fn lose(guest: &mut Guest) {
    let (pid, scratch) = (guest.pid().await, guest.seat.dir.parent().unwrap().to_owned());
    signal(pid, "-STOP");
    guest.driver = QemuDriver::open(&guest.instance, &scratch).await.unwrap();
    guest.driver.adopt(&guest.seat).await.unwrap_err();
    is_lost(guest, pid).await;
    signal(pid, "-CONT");
    assert!(guest.driver.adopt(&guest.seat).await.unwrap());
    assert!(!guest.driver.is_lost(guest.id()));
    assert_eq!(guest.driver.power(guest.id()).await, PowerState::Running);

    std::fs::write(guest.seat.dir.join("run.json"), b"{").unwrap();
    guest.driver = QemuDriver::open(&guest.instance, &scratch).await.unwrap();
    guest.driver.adopt(&guest.seat).await.unwrap_err();
    is_lost(guest, pid).await;
    assert!(
        !guest.driver.stop(guest.id(), Millis(60_000)).await.unwrap().by_itself,
        "nobody could ask it to go"
    );
    assert!(!lives(pid));
    assert_eq!(guest.driver.power(guest.id()).await, PowerState::Stopped);
    guest.start().await;
}

async fn is_lost(guest: &Guest, pid: u32) {
    assert!(guest.driver.is_lost(guest.id()));
    assert_eq!((guest.driver.power(guest.id()).await, guest.pid().await), (PowerState::Hung, pid));
    let read = guest.driver.read(guest.id(), &Knob::Memory).await;
    let started = guest.driver.start(&guest.seat).await;
    assert!(matches!(read, Err(DriverError::Lost { .. })), "{read:?}");
    assert!(matches!(started, Err(DriverError::Lost { .. })), "{started:?}");
}

/// A VMM that dies: no call claims success, and the VM can be started again.
async fn kill(guest: &Guest) {
    let pid = guest.pid().await;
    signal(pid, "-KILL");
    wait_for("the end of the VMM", Duration::from_secs(20), async || (!lives(pid)).then_some(())).await;
    let knobs = [Knob::Memory, Knob::HotMemory, Knob::CpuCap, Knob::CpuWeight, Knob::NicRate];
    for knob in knobs {
        let answer = guest.driver.read(guest.id(), &knob).await;
        let dead = |e: &DriverError| matches!(e, DriverError::NotRunning { .. } | DriverError::Vmm { .. });
        assert!(answer.as_ref().is_err_and(dead), "{knob} of a dead VMM: {answer:?}");
    }
    let cap = Setting::CpuCap { limit: Some(MilliCpu(500)) };
    assert!(guest.driver.apply(guest.id(), &cap).await.is_err(), "a dead VMM was capped");
    assert!(guest.driver.replace_vmm(guest.id()).await.is_err());
    assert_eq!(guest.driver.power(guest.id()).await, PowerState::Stopped);
    assert_eq!(guest.driver.pid(guest.id()).await, None);
    guest.start().await;
    assert!(guest.pid().await != pid);
    assert_eq!(guest.driver.power(guest.id()).await, PowerState::Running);
}

async fn end(guest: &Guest) {
    let begun = Instant::now();
    assert!(
        guest.driver.stop(guest.id(), Millis(60_000)).await.unwrap().by_itself,
        "the guest did not go by itself"
    );
    println!("stopped by itself after {:.1} s", begun.elapsed().as_secs_f64());
    // Stopped before its kernel listens to the power button, it goes as soon as it does.
    guest.driver.start(&guest.seat).await.unwrap();
    assert!(
        guest.driver.stop(guest.id(), Millis(120_000)).await.unwrap().by_itself,
        "a guest that boots never heard it"
    );
    let again = guest.driver.stop(guest.id(), Millis(1)).await;
    assert!(matches!(again, Err(DriverError::NotRunning { .. })), "{again:?}");
    assert!(!guest.driver.adopt(&guest.seat).await.unwrap());
    guest.driver.close().await.unwrap();
    assert_eq!(guest.leftovers(), Vec::<String>::new());
}

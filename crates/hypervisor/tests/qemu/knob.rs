//! Each knob of the driver on one guest: the effect in the guest or by the host's own tool, and the way back.

use crate::channel::Channel;
use crate::guest::{Guest, image, wait_for};
use crate::page::get_page;
use proteus_hypervisor::conformance;
use proteus_hypervisor::driver::{Driver, DriverError};
use proteus_model::policy::{Direction, PacketPolicy, PacketRule, Protocol, Verdict};
use proteus_model::setting::{DiskLimit, Knob, KnobKind, NicRate, Setting, Weight};
use proteus_model::unit::{Bytes, BytesPerSec, MilliCpu};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// A setting that stands while `looked` looks, between two readings that must be the same.
async fn set(guest: &Guest, setting: &Setting) -> Setting {
    let before = guest.driver.read(guest.id(), &setting.knob()).await.unwrap();
    turn(guest, setting).await;
    before
}

async fn turn(guest: &Guest, setting: &Setting) {
    let applied = guest.driver.apply(guest.id(), setting).await;
    let applied = applied.unwrap_or_else(|e| panic!("{} = {setting}: {e:?}", setting.knob()));
    println!("{} = {setting}: {}", setting.knob(), applied.took_ms);
}

/// Turns it back; it must then read exactly as before.
async fn undo(guest: &Guest, before: &Setting) {
    turn(guest, before).await;
    let now = guest.driver.read(guest.id(), &before.knob()).await.unwrap();
    assert_eq!(now, *before, "undo of {}", before.knob());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a guest: ./test runs it"]
async fn every_knob_takes_effect_and_its_undo_restores_what_was() {
    let guest = Guest::boot().await;
    let turned = conformance::check(&guest.driver, &guest.seat).await.unwrap();
    println!("conformance: {turned:?}");
    for kind in KnobKind::ALL.into_iter().filter(|kind| !kind.in_guest()) {
        assert!(turned.contains(&kind), "conformance did not turn {kind:?}");
    }
    let mut channel = guest.channel().await;
    hot_memory(&guest, &mut channel).await;
    memory(&guest, &mut channel).await;
    images(&guest, &mut channel).await;
    disk_limit(&guest, &mut channel).await;
    guest.start_nginx(&mut channel).await;
    nic_rate(&guest, &mut channel).await;
    network_policy(&guest, &mut channel).await;
    vcpus(&guest, &mut channel).await;
    cpu_cap(&guest, &mut channel).await;
    cpu_weight(&guest).await;
    refusals(&guest).await;
}

async fn hot_memory(guest: &Guest, channel: &mut Channel) {
    let total = channel.meminfo_kib("MemTotal").await;
    let before = set(guest, &Setting::HotMemory { plugged: Bytes::mib(128) }).await;
    assert_eq!(before, Setting::HotMemory { plugged: Bytes::ZERO });
    // Blocks come online one after the other; QEMU counts them when they are plugged.
    let grown = wait_for("128 MiB more in the guest", Duration::from_secs(30), async || {
        let now = channel.meminfo_kib("MemTotal").await;
        (now >= total + (120 << 10)).then_some(now)
    })
    .await;
    let available = channel.meminfo_kib("MemAvailable").await;
    // The two kinds of memory are turned apart from each other.
    let boot = set(guest, &Setting::Memory { target: Bytes::mib(208) }).await;
    assert_eq!(boot, Setting::Memory { target: Bytes::mib(256) }, "plugged memory counted as boot memory");
    let less = channel.meminfo_kib("MemAvailable").await;
    assert!(available - less > 40 << 10, "MemAvailable went from {available} to {less} KiB for 48 MiB");
    undo(guest, &boot).await;
    undo(guest, &before).await;
    let back = channel.meminfo_kib("MemTotal").await;
    println!("guest MemTotal: {total} → {grown} → {back} KiB");
    assert_eq!(back, total);
}

/// Bytes of the host that the guest's memory takes, by its own file.
fn resident(guest: &Guest) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let path = format!("/dev/shm/proteus-{}/{}.ram", guest.instance, guest.id());
    std::fs::metadata(path).unwrap().blocks() * 512
}

async fn memory(guest: &Guest, channel: &mut Channel) {
    // All memory once touched, so that what the host gets back is what the balloon took.
    channel.sh("dd if=/dev/zero of=/dev/shm/fill bs=1M count=100 2>/dev/null; rm /dev/shm/fill").await;
    let (available, held) = (channel.meminfo_kib("MemAvailable").await, resident(guest));
    let before = set(guest, &Setting::Memory { target: Bytes::mib(176) }).await;
    assert_eq!(before, Setting::Memory { target: Bytes::mib(256) });
    let less = channel.meminfo_kib("MemAvailable").await;
    let smaller = resident(guest);
    assert!(available - less > 70 << 10, "the guest's MemAvailable went from {available} to {less} KiB");
    undo(guest, &before).await;
    let back = channel.meminfo_kib("MemAvailable").await;
    println!("guest MemAvailable: {available} → {less} → {back} KiB; on host {held} → {smaller} bytes");
    assert!(back.abs_diff(available) < 8 << 10, "{back} KiB available, {available} before");
    // Nothing of the balloon's part may stay on the host; freed pages may have gone before by reporting.
    assert!(smaller < 176 * MIB, "{smaller} bytes on the host, the guest may use 176 MiB");
}

async fn images(guest: &Guest, channel: &mut Channel) {
    let redis = image("redis");
    let before = channel.serials().await;
    assert_eq!(before, ["data", "nginx"]);
    let attach = Setting::Image { image: redis.name.clone(), digest: Some(redis.digest.clone()) };
    let refused = guest.driver.apply(guest.id(), &attach).await.unwrap_err();
    assert!(matches!(refused, DriverError::Unsupported { .. }), "an image that nobody offered: {refused}");
    guest.driver.offer_image(guest.id(), &redis).await.unwrap();
    for _ in 0..3 {
        let none = set(guest, &attach).await;
        wait_for("the disk in the guest", Duration::from_secs(30), async || {
            (channel.serials().await == ["data", "nginx", "redis"]).then_some(())
        })
        .await;
        let magic = "d=/dev/$(basename $(dirname $(grep -l redis /sys/block/vd*/serial))); \
            dd if=$d bs=1 skip=1024 count=4 2>/dev/null | od -An -tx1";
        assert_eq!(channel.sh(magic).await, "e2 e1 f5 e0", "the image's superblock, as the guest reads it");
        undo(guest, &none).await;
        assert_eq!(channel.serials().await, before);
    }
}

/// Seconds for a shell line in the guest.
async fn timed(channel: &mut Channel, line: &str) -> f64 {
    let begun = Instant::now();
    channel.sh(line).await;
    begun.elapsed().as_secs_f64()
}

async fn disk_limit(guest: &Guest, channel: &mut Channel) {
    let disk = channel.sh("echo /dev/$(basename $(dirname $(grep -l data /sys/block/vd*/serial)))").await;
    let limit = |iops, bandwidth: Option<u64>| Setting::DiskLimit {
        disk: "data".parse().unwrap(),
        limit: DiskLimit { iops, bandwidth: bandwidth.map(BytesPerSec) },
    };
    let drop_caches = "echo 3 > /proc/sys/vm/drop_caches";
    let stream = format!("{drop_caches}; dd if={disk} of=/dev/null bs=64k count=128 2>/dev/null");
    let single = format!(
        "{drop_caches}; i=0; while [ $i -lt 30 ]; do dd if={disk} of=/dev/null bs=4k count=1 \
         skip=$((i * 400)) 2>/dev/null; i=$((i+1)); done"
    );
    let (free_stream, free_single) = (timed(channel, &stream).await, timed(channel, &single).await);
    let before = set(guest, &limit(None, Some(2 * MIB))).await;
    let slow = timed(channel, &stream).await;
    // 8 MiB at 2 MiB/s, less the bucket of a tenth of a second.
    assert!(slow > 3.5, "8 MiB came in {slow:.1} s at 2 MiB/s");
    turn(guest, &limit(Some(10), None)).await;
    let few = timed(channel, &single).await;
    // At least 30 operations at 10 a second, less the bucket of one.
    assert!(few > 2.6, "30 reads took {few:.1} s at 10 iops");
    undo(guest, &before).await;
    let again = timed(channel, &stream).await;
    println!(
        "8 MiB: {free_stream:.2} s → {slow:.2} s at 2 MiB/s → {again:.2} s; 30 reads: {free_single:.2} s → \
         {few:.2} s at 10 iops"
    );
    assert!(again < slow / 2.0);
}

/// Seconds until the guest has sent so much.
async fn seconds_from_guest(guest: &Guest, channel: &mut Channel, bytes: u64) -> f64 {
    let kib = bytes >> 10;
    channel.sh(&format!("(dd if=/dev/zero bs=1k count={kib} | nc -l -p 9001) >/dev/null 2>&1 &")).await;
    let mut stream = listening(guest, 9001).await;
    let begun = Instant::now();
    let read = tokio::task::spawn_blocking(move || {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut buffer = vec![0; 64 << 10];
        let mut got = 0;
        while got < bytes {
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "the guest hung up after {got} bytes");
            got += count as u64;
        }
    });
    read.await.unwrap();
    begun.elapsed().as_secs_f64()
}

/// Seconds until the guest has taken so much: it answers when all is there.
async fn seconds_to_guest(guest: &Guest, channel: &mut Channel, bytes: u64) -> f64 {
    channel
        .sh(&format!("(head -c {bytes} | wc -c) </dev/null >/dev/null 2>&1; rm -f /tmp/f; mkfifo /tmp/f"))
        .await;
    channel
        .sh(&format!("(nc -l -p 9002 </tmp/f | (head -c {bytes} | wc -c) >/tmp/f) >/dev/null 2>&1 &"))
        .await;
    let mut stream = listening(guest, 9002).await;
    let begun = Instant::now();
    let sent = tokio::task::spawn_blocking(move || {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(&vec![0; usize::try_from(bytes).unwrap()]).unwrap();
        let mut answer = [0; 32];
        let count = stream.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..count]).trim().parse::<u64>().unwrap()
    });
    assert_eq!(sent.await.unwrap(), bytes);
    begun.elapsed().as_secs_f64()
}

/// A connection to a port that is about to listen.
async fn listening(guest: &Guest, port: u16) -> std::net::TcpStream {
    wait_for("a listener in the guest", Duration::from_secs(30), async || {
        guest.connect(port, Duration::from_secs(5)).await.ok()
    })
    .await
}

async fn nic_rate(guest: &Guest, channel: &mut Channel) {
    let bytes = 2 * MIB;
    let tap = "pt0";
    let (qdisc, ruleset) = (
        guest.in_namespace(&["tc", "qdisc", "show", "dev", tap]),
        guest.in_namespace(&["nft", "list", "ruleset"]),
    );
    let free_from = seconds_from_guest(guest, channel, bytes).await;
    let free_to = seconds_to_guest(guest, channel, bytes).await;
    let rate = NicRate { to_guest: Some(BytesPerSec(MIB / 2)), from_guest: Some(BytesPerSec(MIB / 2)) };
    let before = set(guest, &Setting::NicRate { rate }).await;
    let listing = guest.in_namespace(&["tc", "qdisc", "show", "dev", tap]);
    assert!(listing.contains("tbf") && listing.contains("rate 4194Kbit"), "{listing}");
    let rules = guest.in_namespace(&["nft", "list", "ruleset"]);
    assert!(rules.contains("limit rate over 512 kbytes/second"), "{rules}");
    let slow_to = seconds_to_guest(guest, channel, bytes).await;
    let slow_from = seconds_from_guest(guest, channel, bytes).await;
    undo(guest, &before).await;
    println!(
        "2 MiB from the guest: {free_from:.2} s → {slow_from:.2} s at 512 KiB/s; to it: {free_to:.2} s → \
         {slow_to:.2} s"
    );
    // The kernel's bucket of an nft limit holds a second's worth beside the burst.
    assert!(slow_from > 2.0, "2 MiB from the guest in {slow_from:.1} s at 512 KiB/s");
    assert!(slow_to > 3.5, "2 MiB to the guest in {slow_to:.1} s at 512 KiB/s");
    assert_eq!(guest.in_namespace(&["tc", "qdisc", "show", "dev", tap]), qdisc);
    assert_eq!(guest.in_namespace(&["nft", "list", "ruleset"]), ruleset);
}

/// A name server on the bridge that knows no name, and says so; it ends when the guest does.
fn serve_names(guest: &Guest) {
    let namespace =
        std::fs::File::open(format!("/run/netns/{}", guest.driver.network().namespace())).unwrap();
    let (bound, ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let socket = std::net::UdpSocket::bind("10.80.0.1:53").unwrap();
        bound.send(()).unwrap();
        let mut packet = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            // An answer, of a server that recurses: there is no such name.
            (packet[2], packet[3]) = (packet[2] | 0x80, 0x83);
            let _ = socket.send_to(&packet[..length], from);
        }
    });
    ready.recv().unwrap();
}

/// A guest that may speak to anybody hears the answers, and nobody else.
async fn answers_pass(guest: &Guest, channel: &mut Channel) {
    serve_names(guest);
    let any =
        PacketPolicy { rules: Vec::new(), ingress_default: Verdict::Drop, egress_default: Verdict::Accept };
    let by_rule = PacketRule {
        direction: Direction::Egress,
        protocol: None,
        ports: None,
        peer: None,
        verdict: Verdict::Accept,
    };
    let ruled = PacketPolicy { rules: vec![by_rule], egress_default: Verdict::Drop, ..any.clone() };
    for policy in [any, ruled] {
        turn(guest, &Setting::NetworkPolicy { policy: Some(policy) }).await;
        let asked = channel.exec(&["/bin/busybox", "nslookup", "example.org", "10.80.0.1"]).await;
        let said = format!("{}{}", asked.stdout.to_text_lossy(), asked.stderr.to_text_lossy());
        assert!(said.contains("NXDOMAIN"), "no answer of the name server: {said}");
        let pinged = channel.exec(&["/bin/busybox", "ping", "-c", "1", "-W", "5", "10.80.0.1"]).await;
        assert!(
            pinged.stdout.to_text_lossy().contains("1 packets received"),
            "{}",
            pinged.stdout.to_text_lossy()
        );
        assert!(guest.connect(9003, Duration::from_secs(3)).await.is_err(), "nobody may come in");
    }
}

async fn network_policy(guest: &Guest, channel: &mut Channel) {
    channel.sh("(while :; do nc -l -p 9003 </dev/null; done) >/dev/null 2>&1 &").await;
    listening(guest, 9003).await;
    let mut standing = guest.connect(80, Duration::from_secs(10)).await.unwrap();
    assert!(get_page(&mut standing).unwrap().contains("nginx"));
    let ruleset = guest.in_namespace(&["nft", "list", "ruleset"]);
    let web_only = PacketPolicy {
        rules: vec![PacketRule {
            direction: Direction::Ingress,
            protocol: Some(Protocol::Tcp),
            ports: Some((80, 80)),
            peer: None,
            verdict: Verdict::Accept,
        }],
        ingress_default: Verdict::Drop,
        egress_default: Verdict::Drop,
    };
    let nothing = PacketPolicy { rules: Vec::new(), ..web_only.clone() };
    let before = set(guest, &Setting::NetworkPolicy { policy: Some(web_only) }).await;
    let rules = guest.in_namespace(&["nft", "list", "ruleset"]);
    assert!(rules.contains("table netdev policy_pt0") && rules.contains("tcp dport 80 accept"), "{rules}");
    let refused = guest.connect(9003, Duration::from_secs(3)).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::TimedOut, "{refused}");
    let mut fresh = guest.connect(80, Duration::from_secs(10)).await.unwrap();
    assert!(get_page(&mut fresh).is_ok() && get_page(&mut standing).is_ok());
    // Out: a new connection of the guest goes nowhere, though the bridge would answer at once.
    let out = channel.exec(&["/bin/nc", "-w", "2", "10.80.0.1", "9"]).await;
    assert!(out.stderr.to_text_lossy().contains("timed out"), "{}", out.stderr.to_text_lossy());
    // Not even port 80 is left: new connections are cut, those that stand are not.
    turn(guest, &Setting::NetworkPolicy { policy: Some(nothing) }).await;
    assert!(guest.connect(80, Duration::from_secs(3)).await.is_err());
    assert!(get_page(&mut standing).is_ok(), "a policy cut a connection that stood");
    answers_pass(guest, channel).await;
    // The guests' gateway is the same whichever taps come and go.
    let bridge = guest.in_namespace(&["ip", "-brief", "link", "show", "pb0"]);
    assert!(bridge.contains("52:50:52:ff:00:01"), "{bridge}");
    undo(guest, &before).await;
    assert_eq!(guest.in_namespace(&["nft", "list", "ruleset"]), ruleset);
    guest.connect(9003, Duration::from_secs(10)).await.unwrap();
    let out = channel.exec(&["/bin/nc", "-w", "5", "10.80.0.1", "9"]).await;
    assert!(out.stderr.to_text_lossy().contains("refused"), "{}", out.stderr.to_text_lossy());
}

async fn vcpus(guest: &Guest, channel: &mut Channel) {
    use proteus_protocol::guest::v1::{Reply, Request, Setting as Wire};
    assert_eq!(guest.capped_threads().len(), 1);
    assert_eq!(channel.sh("cat /sys/devices/system/cpu/present").await, "0");
    let too_many = guest.driver.ensure_plugged_vcpus(guest.id(), 5).await.unwrap_err();
    assert!(matches!(too_many, DriverError::OutOfRange { .. }), "{too_many}");
    guest.driver.ensure_plugged_vcpus(guest.id(), 2).await.unwrap();
    guest.driver.ensure_plugged_vcpus(guest.id(), 2).await.unwrap();
    assert_eq!(guest.driver.plugged_vcpus(guest.id()).await.unwrap(), 2);
    wait_for("the second CPU", Duration::from_secs(30), async || {
        (channel.sh("cat /sys/devices/system/cpu/present").await == "0-1").then_some(())
    })
    .await;
    assert_eq!(guest.capped_threads().len(), 2, "the new vCPU's thread is not under the cap");
    for (count, online) in [(2, "0-1"), (1, "0"), (2, "0-1"), (1, "0")] {
        let request = Request::ApplySetting { setting: Wire::VcpusOnline { count } };
        wait_for("the CPU to go on or off", Duration::from_secs(30), async || {
            matches!(channel.ask(request.clone()).await, Reply::Setting { .. }).then_some(())
        })
        .await;
        assert_eq!(channel.sh("cat /sys/devices/system/cpu/online").await, online);
    }
}

/// CPU time that a thread has had, ns.
fn run_ns(pid: u32, tid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

fn throttled(guest: &Guest) -> u64 {
    let stat = guest.group_file("cpu.stat", "vcpu/cpu.stat");
    let value = stat.lines().find_map(|line| {
        line.strip_prefix("throttled_time ").or_else(|| line.strip_prefix("throttled_usec "))
    });
    value.unwrap().parse().unwrap()
}

/// Seconds until the thread has had half a second of CPU.
async fn half_a_second_of_cpu(pid: u32, tid: u32) -> f64 {
    let (begun, from) = (Instant::now(), run_ns(pid, tid));
    wait_for("half a second of CPU", Duration::from_secs(60), async || {
        (run_ns(pid, tid) - from >= 500_000_000).then_some(())
    })
    .await;
    begun.elapsed().as_secs_f64()
}

async fn cpu_cap(guest: &Guest, channel: &mut Channel) {
    let pid = guest.pid().await;
    // The first vCPU is the one that works from here on.
    channel.sh("(while :; do :; done) >/dev/null 2>&1 &").await;
    let threads = guest.capped_threads();
    assert!(!threads.contains(&pid), "QEMU's main loop must not be under the cap");
    let mut busiest = threads.clone();
    busiest.sort_by_key(|tid| std::cmp::Reverse(run_ns(pid, *tid)));
    let tid = busiest[0];
    let free = half_a_second_of_cpu(pid, tid).await;
    let before = set(guest, &Setting::CpuCap { limit: Some(MilliCpu(200)) }).await;
    assert_eq!(before, Setting::CpuCap { limit: None });
    assert_eq!(guest.group_file("cpu.cfs_quota_us", "vcpu/cpu.max").split(' ').next(), Some("4000"));
    let stopped = throttled(guest);
    let capped = half_a_second_of_cpu(pid, tid).await;
    let held_back = throttled(guest) - stopped;
    assert!(held_back > 0, "the kernel counts no throttling");
    // Half a second at a fifth of a CPU is 2.5 s, whatever else runs here; some was in the first period.
    assert!(capped > 2.2, "half a second of CPU took {capped:.2} s at 200m");
    let counted = guest.driver.counters(guest.id()).await.unwrap().throttled_ns.unwrap();
    assert!(counted > 0);
    undo(guest, &before).await;
    assert_eq!(
        guest
            .group_file("cpu.cfs_quota_us", "vcpu/cpu.max")
            .split(' ')
            .next()
            .map(|w| w == "-1" || w == "max"),
        Some(true)
    );
    let stopped = throttled(guest);
    let again = half_a_second_of_cpu(pid, tid).await;
    assert_eq!(throttled(guest), stopped, "still throttled after the undo");
    println!("0.5 s of CPU: {free:.2} s → {capped:.2} s at 200m → {again:.2} s; throttled {held_back}");
}

/// A process that takes all CPU it gets, in a control group beside the guest's.
struct Rival {
    child: Child,
    group: std::path::PathBuf,
}

impl Rival {
    fn begin(guest: &Guest) -> Self {
        let group = guest.group().with_file_name("rival");
        std::fs::create_dir(&group).unwrap();
        let child =
            Command::new("taskset").args(["-c", "1", "sh", "-c", "while :; do :; done"]).spawn().unwrap();
        std::fs::write(group.join("cgroup.procs"), child.id().to_string()).unwrap();
        Self { child, group }
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir(&self.group);
    }
}

/// CPU that the guest gets for each that its rival gets, on one core, over two seconds of their CPU time.
async fn against(rival: &Rival, pid: u32, tid: u32) -> f64 {
    let other = rival.child.id();
    let read = || (run_ns(pid, tid), run_ns(other, other));
    let from = read();
    let to = wait_for("two seconds of CPU", Duration::from_secs(60), async || {
        let now = read();
        (now.0 - from.0 + now.1 - from.1 > 2_000_000_000).then_some(now)
    })
    .await;
    (to.0 - from.0) as f64 / (to.1 - from.1).max(1) as f64
}

async fn cpu_weight(guest: &Guest) {
    let pid = guest.pid().await;
    let mut threads = guest.capped_threads();
    threads.sort_by_key(|tid| std::cmp::Reverse(run_ns(pid, *tid)));
    let tid = threads[0];
    let pinned = Command::new("taskset").args(["-pc", "1", &tid.to_string()]).output().unwrap();
    assert!(pinned.status.success());
    let rival = Rival::begin(guest);
    let equal = against(&rival, pid, tid).await;
    let before = set(guest, &Setting::CpuWeight { weight: Weight(400) }).await;
    assert_eq!(before, Setting::CpuWeight { weight: Weight::NEUTRAL });
    assert_eq!(
        guest.group_file("cpu.shares", "cpu.weight"),
        if guest.group().join("cpu.shares").exists() { "4096" } else { "400" }
    );
    let heavy = against(&rival, pid, tid).await;
    turn(guest, &Setting::CpuWeight { weight: Weight(25) }).await;
    let light = against(&rival, pid, tid).await;
    undo(guest, &before).await;
    println!("guest : rival on one core: {equal:.2} at 100, {heavy:.2} at 400, {light:.2} at 25");
    assert!(heavy > equal * 2.0 && light < equal / 2.0, "{equal:.2}, {heavy:.2}, {light:.2}");
}

async fn refusals(guest: &Guest) {
    let out_of_range = [
        Setting::CpuCap { limit: Some(MilliCpu(1)) },
        Setting::Memory { target: Bytes::mib(8) },
        Setting::Memory { target: Bytes::mib(257) },
        Setting::HotMemory { plugged: Bytes::mib(1024) },
        Setting::HotMemory { plugged: Bytes(4096) },
    ];
    for setting in out_of_range {
        let before = guest.driver.read(guest.id(), &setting.knob()).await.unwrap();
        let refused = guest.driver.apply(guest.id(), &setting).await.unwrap_err();
        assert!(matches!(refused, DriverError::OutOfRange { .. }), "{setting}: {refused}");
        assert_eq!(guest.driver.read(guest.id(), &setting.knob()).await.unwrap(), before);
    }
    let disk = Setting::DiskLimit { disk: "other".parse().unwrap(), limit: DiskLimit::default() };
    assert!(matches!(guest.driver.apply(guest.id(), &disk).await, Err(DriverError::Unsupported { .. })));
    assert!(matches!(guest.driver.read(guest.id(), &Knob::Thp).await, Err(DriverError::Unsupported { .. })));
}

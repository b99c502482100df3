//! Snapshots on a real guest: that they hold RAM and disk, also after its VMM was replaced; that a restore fits
//! whatever was plugged since; that a crash in the middle leaves the guest running.

use crate::channel::Channel;
use crate::guest::{Guest, image, wait_for};
use proteus_hypervisor::conformance;
use proteus_hypervisor::driver::{Driver, DriverError};
use proteus_hypervisor::qemu::QemuDriver;
use proteus_hypervisor::qemu::qmp::Qmp;
use proteus_model::capability::Ability;
use proteus_model::id::SnapshotName;
use proteus_model::setting::{DiskLimit, Knob, Setting};
use proteus_model::unit::{Bytes, BytesPerSec, MilliCpu, Millis};
use proteus_model::vm::{DiskFormat, PowerState};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

fn name(text: &str) -> SnapshotName {
    text.parse().unwrap()
}

async fn names(guest: &Guest) -> Vec<String> {
    let all = guest.driver.snapshots(&guest.seat).await.unwrap();
    all.into_iter().map(|snapshot| snapshot.name.to_string()).collect()
}

async fn resident(guest: &Guest) -> u64 {
    guest.driver.counters(guest.id()).await.unwrap().resident.unwrap().0 >> 20
}

async fn create(guest: &Guest, text: &str) {
    let before = resident(guest).await;
    let name_of = name(text);
    // A look does not wait for the end, and tells of a VM that is there.
    let looked = async {
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(guest.driver.power(guest.id()).await);
        }
        seen
    };
    let (applied, seen) = tokio::join!(guest.driver.create_snapshot(guest.id(), &name_of), looked);
    let applied = applied.unwrap();
    assert!(seen.iter().all(|p| matches!(p, PowerState::Running | PowerState::Paused)), "{seen:?}");
    let all = guest.driver.snapshots(&guest.seat).await.unwrap();
    let ram = all.iter().find(|snapshot| snapshot.name == name(text)).unwrap().ram;
    let after = resident(guest).await;
    println!(
        "save {text}: blackout {}, {ram} on disk; on the host {before} → {after} MiB",
        applied.blackout_ms
    );
    assert!(ram > Bytes::mib(20), "{ram} cannot hold the guest's RAM");
    assert!(after <= before + 8, "the host's memory was filled: {before} → {after} MiB");
}

async fn restore(guest: &Guest, text: &str) -> Channel {
    let before = resident(guest).await;
    let pid = guest.pid().await;
    let name_of = name(text);
    let looked = async {
        tokio::task::yield_now().await;
        guest.driver.power(guest.id()).await
    };
    let (applied, seen) = tokio::join!(guest.driver.restore_snapshot(guest.id(), &name_of), looked);
    let applied = applied.unwrap();
    assert_ne!(seen, PowerState::Stopped, "between two processes it is not stopped");
    assert_ne!(guest.pid().await, pid);
    println!(
        "restore {text}: blackout {}; on the host {before} → {} MiB",
        applied.blackout_ms,
        resident(guest).await
    );
    guest.channel().await
}

/// What the guest has at this moment: a file in its memory, a counter's value, a block of its disk.
async fn put(channel: &mut Channel, word: &str) {
    channel.sh(&format!("echo {word} >/tmp/marker")).await;
    let disk = "$(for d in /sys/block/vd*; do grep -q ^data$ $d/serial && echo /dev/${d##*/}; done)";
    channel.sh(&format!("echo {word} | dd of={disk} bs=512 seek=8 conv=sync,fsync 2>/dev/null")).await;
}

async fn look(channel: &mut Channel) -> (String, String, u64) {
    let disk = "$(for d in /sys/block/vd*; do grep -q ^data$ $d/serial && echo /dev/${d##*/}; done)";
    let block = format!("dd if={disk} iflag=direct bs=512 skip=8 count=1 2>/dev/null | head -n 1");
    let count = channel.sh("cat /tmp/count").await.parse().unwrap();
    (channel.sh("cat /tmp/marker").await, channel.sh(&block).await, count)
}

/// The counting process runs: not only its file came back.
async fn counts_on(channel: &mut Channel, from: u64) {
    wait_for("the counter to go on", Duration::from_secs(30), async || {
        let now: u64 = channel.sh("cat /tmp/count").await.parse().ok()?;
        (now > from).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a guest: ./test runs it"]
async fn a_snapshot_brings_ram_and_disk_back_whatever_was_plugged_or_replaced_since() {
    let mut guest = Guest::boot_with(DiskFormat::Qcow2).await;
    conformance::check(&guest.driver, &guest.seat).await.unwrap();
    {
        let mut channel = guest.channel().await;
        guest.start_nginx(&mut channel).await;
        let count = "(i=0; while :; do i=$((i+1)); echo $i >/tmp/next; mv /tmp/next /tmp/count; \
            sleep 0.05; done) >/dev/null 2>&1 &";
        channel.sh(count).await;
    }
    reshaped_and_back(&guest).await;
    plugged_memory(&guest).await;
    cut_short(&mut guest).await;
    restore_cut_short(&mut guest).await;
    end(&guest).await;
}

async fn reshaped_and_back(guest: &Guest) {
    let id = guest.id();
    let limit = DiskLimit { iops: Some(4000), bandwidth: Some(BytesPerSec(64 << 20)) };
    let host_side = [
        Setting::DiskLimit { disk: "data".parse().unwrap(), limit },
        Setting::CpuCap { limit: Some(MilliCpu(1900)) },
    ];
    guest.driver.apply(id, &Setting::Memory { target: Bytes::mib(224) }).await.unwrap();
    let mut channel = guest.channel().await;
    put(&mut channel, "first").await;
    wait_for("the counter", Duration::from_secs(30), async || {
        channel.sh("cat /tmp/count 2>/dev/null || true").await.parse::<u64>().ok()
    })
    .await;
    let (.., at_first) = look(&mut channel).await;
    create(guest, "first").await;
    // Everything that changes how the VM is built, and a new VMM.
    let redis = image("redis");
    guest.driver.offer_image(id, &redis).await.unwrap();
    guest
        .driver
        .apply(id, &Setting::Image { image: redis.name.clone(), digest: Some(redis.digest.clone()) })
        .await
        .unwrap();
    guest.driver.ensure_plugged_vcpus(id, 2).await.unwrap();
    for setting in &host_side {
        guest.driver.apply(id, setting).await.unwrap();
    }
    drop(channel);
    guest.driver.replace_vmm(id).await.unwrap();
    assert_eq!(names(guest).await, ["first"], "after a replacement");
    let mut channel = guest.channel().await;
    put(&mut channel, "second").await;
    // By more than it goes on from a restore to the first look, also on a busy host.
    counts_on(&mut channel, at_first + 100).await;
    let (.., at_second) = look(&mut channel).await;
    // The replaced VMM must not leave shared memory out.
    create(guest, "second").await;
    put(&mut channel, "third").await;
    counts_on(&mut channel, at_second + 100).await;
    drop(channel);

    let mut channel = restore(guest, "second").await;
    let (marker, block, count) = look(&mut channel).await;
    assert_eq!((marker.as_str(), block.as_str()), ("second", "second"));
    assert!(count < at_second + 100, "the counter went on from {at_second} to {count}");
    counts_on(&mut channel, count).await;
    assert_eq!(guest.driver.plugged_vcpus(id).await.unwrap(), 2);
    assert_eq!(channel.serials().await, ["data", "nginx", "redis"]);
    drop(channel);

    let mut channel = restore(guest, "first").await;
    let (marker, block, count) = look(&mut channel).await;
    assert_eq!((marker.as_str(), block.as_str()), ("first", "first"));
    assert!(count < at_second, "the counter is at {count}, and was at {at_second} later");
    counts_on(&mut channel, count).await;
    assert_eq!(guest.driver.plugged_vcpus(id).await.unwrap(), 1);
    assert_eq!(channel.serials().await, ["data", "nginx"]);
    for setting in &host_side {
        let found = guest.driver.read(id, &setting.knob()).await.unwrap();
        assert!(setting.holds_in(&found), "{} is {found} after a restore", setting.knob());
    }
    back_to_first(guest, channel).await;
}

async fn back_to_first(guest: &Guest, channel: Channel) {
    assert_eq!(guest.capped_threads().len(), 1);
    let mut page = guest.connect(80, Duration::from_secs(10)).await.unwrap();
    assert!(crate::page::get_page(&mut page).unwrap().contains("200"));
    assert_eq!(names(guest).await, ["first", "second"]);
    // A restored VM can be replaced, and reshaped as before.
    drop(channel);
    guest.driver.replace_vmm(guest.id()).await.unwrap();
    let mut channel = guest.channel().await;
    assert_eq!(look(&mut channel).await.0, "first");
}

async fn plugged_memory(guest: &Guest) {
    let id = guest.id();
    let more = Setting::HotMemory { plugged: Bytes::mib(64) };
    guest.driver.apply(id, &more).await.unwrap();
    create(guest, "plugged").await;
    guest.driver.apply(id, &Setting::HotMemory { plugged: Bytes::ZERO }).await.unwrap();
    let mut channel = restore(guest, "plugged").await;
    assert_eq!(guest.driver.read(id, &Knob::HotMemory).await.unwrap(), more);
    let sum =
        "dd if=/dev/urandom of=/tmp/fill bs=1M count=100 2>/dev/null; md5sum /tmp/fill; md5sum /tmp/fill";
    let sums = channel.sh(sum).await;
    let sums: Vec<&str> = sums.lines().collect();
    assert_eq!(sums[0], sums[1], "the guest's memory");
    channel.sh("rm /tmp/fill").await;
}

/// Proteus dies in the middle: the next one ends what was begun.
async fn cut_short(guest: &mut Guest) {
    let path = guest.seat.dir.join("run.json");
    for (under_way, marker) in
        [(json!({"saving": "cut"}), "fourth"), (json!({"restoring": "second"}), "second")]
    {
        put(&mut guest.channel().await, "fourth").await;
        let scratch = guest.seat.dir.parent().unwrap().to_owned();
        guest.driver = QemuDriver::open(&guest.instance, &scratch).await.unwrap();
        let mut run: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        run["under_way"] = under_way.clone();
        std::fs::write(&path, run.to_string()).unwrap();
        let socket = guest.seat.run_dir().join(format!("qmp.{}", run["incarnation"]));
        Qmp::connect(&socket).await.unwrap().call("stop", Value::Null).await.unwrap();
        assert!(guest.driver.adopt(&guest.seat).await.unwrap());
        assert_eq!(guest.driver.power(guest.id()).await, PowerState::Running, "{under_way}");
        assert_eq!(look(&mut guest.channel().await).await.0, marker, "{under_way}");
        assert_eq!(names(guest).await, ["first", "second", "plugged"]);
    }
}

/// Proteus dies at one moment of a restore or another: the next one carries it through, or it had not begun.
async fn restore_cut_short(guest: &mut Guest) {
    let scratch = guest.seat.dir.parent().unwrap().to_owned();
    let mut carried = 0;
    for millis in [1, 10, 40, 80, 120, 160, 200, 240, 300, 400] {
        put(&mut guest.channel().await, "fourth").await;
        let pid = guest.pid().await;
        let name_of = name("second");
        let restoring = guest.driver.restore_snapshot(guest.id(), &name_of);
        let cut = tokio::time::timeout(Duration::from_millis(millis), restoring).await.is_err();
        guest.driver = QemuDriver::open(&guest.instance, &scratch).await.unwrap();
        assert!(guest.driver.adopt(&guest.seat).await.unwrap(), "cut short after {millis} ms");
        let began = guest.pid().await != pid;
        println!("restore after {millis} ms: cut short {cut}, the VMM is another one {began}");
        carried += u32::from(began && cut);
        whole(guest, if began { "second" } else { "fourth" }).await;
    }
    assert!(carried > 0, "none was cut short in the middle");
    // The old VMM has gone, and there is no other yet.
    let path = guest.seat.dir.join("run.json");
    let mut run: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    run["under_way"] = json!({"restoring": "second"});
    put(&mut guest.channel().await, "fourth").await;
    let pid = guest.pid().await;
    guest.driver = QemuDriver::open(&guest.instance, &scratch).await.unwrap();
    std::fs::write(&path, run.to_string()).unwrap();
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
    assert!(guest.driver.adopt(&guest.seat).await.unwrap(), "between two VMMs");
    assert_ne!(guest.pid().await, pid);
    whole(guest, "second").await;
}

async fn whole(guest: &Guest, marker: &str) {
    assert_eq!(guest.driver.power(guest.id()).await, PowerState::Running);
    assert_eq!(guest.vmms().len(), 1);
    assert_eq!(look(&mut guest.channel().await).await.0, marker);
    assert_eq!(names(guest).await, ["first", "second", "plugged"]);
}

async fn end(guest: &Guest) {
    let disk = guest.seat.intent.disks[0].path.display().to_string();
    let held = || {
        let output = Command::new("qemu-img").args(["snapshot", "-U", "-l", &disk]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        ["first", "second", "plugged"].into_iter().filter(|name| text.contains(*name)).collect::<Vec<_>>()
    };
    assert_eq!(held(), ["first", "second", "plugged"]);
    guest.driver.delete_snapshot(&guest.seat, &name("plugged")).await.unwrap();
    assert!(guest.driver.stop(guest.id(), Millis(60_000)).await.unwrap().by_itself);
    assert_eq!(held(), ["first", "second"]);
    guest.driver.delete_snapshot(&guest.seat, &name("first")).await.unwrap();
    assert_eq!(held(), ["second"]);
    // Somebody takes one out of the disk: refused before anything is lost.
    assert!(Command::new("qemu-img").args(["snapshot", "-d", "second", &disk]).status().unwrap().success());
    guest.start().await;
    let refused = guest.driver.restore_snapshot(guest.id(), &name("second")).await.unwrap_err();
    assert!(matches!(refused, DriverError::NoAbility { .. }), "{refused}");
    println!("{refused}");
    assert_eq!(guest.driver.power(guest.id()).await, PowerState::Running);
    let report = guest.driver.capabilities(guest.id()).await.unwrap();
    println!("snapshot: {:?}", report.look_up(Ability::Snapshot));
    guest.driver.delete_snapshot(&guest.seat, &name("second")).await.unwrap();
    assert!(guest.driver.stop(guest.id(), Millis(60_000)).await.unwrap().by_itself);
    guest.driver.close().await.unwrap();
    assert_eq!(guest.leftovers(), Vec::<String>::new());
}

//! What the programs of a real guest do beside using its CPU: what they write to a disk, and which libraries they call.
//! Must never believe a number that no program of this test made.

use crate::inside;
use crate::server::{Server, wait_for};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// Longest wait for a round that an emulated CPU pays from its budget, times what a loaded machine takes.
const LIMIT: Duration = Duration::from_secs(300);

/// What is written, and how much more a program may be shown with: nothing of it is counted twice.
const WRITTEN: u64 = 48 << 20;
const MORE: u64 = 2 << 20;

/// The disk to write to, as an argument of `vm create`.
pub fn disk(dir: &Path) -> String {
    let file = dir.join("data.raw");
    std::fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
    format!("data={}", file.display())
}

fn record(server: &Server, vm: &str) -> Value {
    server.ask(&["vm", "show", vm, "--personality"])["record"].clone()
}

fn in_background(server: &Server, vm: &str, script: &str) {
    inside(server, vm, &["/bin/busybox", "sh", "-c", &format!("{script} >/dev/null 2>&1 &")]);
}

/// A program that writes is shown with that, once: also when what wrote was a child that ended.
pub fn what_a_program_writes_is_known(server: &Server, vm: &str) {
    let find = "for d in /sys/block/vd*; do case $(/bin/busybox cat $d/serial) in data) echo /dev/${d##*/};; esac; done";
    let disk = inside(server, vm, &["/bin/busybox", "sh", "-c", find]);
    assert!(disk.starts_with("/dev/vd"), "{disk:?}");
    let script = format!(
        "/bin/busybox dd if=/dev/zero of={disk} bs=1048576 count={} conv=fsync; exec /bin/busybox tail -f /dev/null",
        WRITTEN >> 20
    );
    in_background(server, vm, &format!("( {script} )"));
    let mut most = 0;
    let seen = wait_for("what is written", LIMIT, || {
        let all = record(server, vm)["ApplicationUsageStats"]["value"].as_array()?.clone();
        let program = all.into_iter().find(|one| one["name"] == "busybox")?;
        most = most.max(program["written"].as_u64()?);
        let flows = program["written_per_second"].as_f64()? > 10_000.0;
        (flows && most >= WRITTEN).then_some(program)
    });
    let written = seen["written"].as_u64().unwrap();
    assert!(written <= WRITTEN + MORE, "{seen}");
    let text = server.cli(&["vm", "show", vm, "--personality"]).ok().stdout;
    assert!(text.contains("WRITTEN/S") && !text.contains("IO of each"), "{text}");
}

/// Nothing without the owner's wish; then the calls of a program that makes them; and nothing again.
pub fn calls_of_libraries_are_counted_where_they_are_wanted(server: &Server, vm: &str) {
    let calls = || record(server, vm)["ApiCallFrequency"].clone();
    wait_for("that nobody asked", LIMIT, || {
        let missing = calls()["missing"].to_string();
        missing.contains("libraries: off: the owner of the VM did not ask for it").then_some(())
    });
    // More than usual: an emulated CPU would take many minutes for what this one waits for.
    server.cli(&["vm", "collectors", vm, "--libraries", "true", "--budget", "200"]).ok();
    // In a changed root, with a C library of its own: each connection looks up a name.
    let program = "/bin/busybox timeout 900 /bin/busybox chroot /run/proteus/image/redis \
        /usr/bin/redis-benchmark -h 127.0.0.1 -q -l -k 0 -c 2 -t ping_inline";
    in_background(server, vm, program);
    let seen = wait_for("calls of the C library", LIMIT, || {
        let seen = calls();
        (seen["value"]["libc/names"].as_f64()? > 1.0).then_some(seen)
    });
    println!("calls per second: {}", seen["value"]);
    let text = server.cli(&["vm", "collectors", vm]).ok().stdout;
    println!("{text}");
    assert!(text.contains("libraries: wanted"), "{text}");
    let view = server.ask(&["vm", "collectors", vm]);
    let one = view["collectors"].as_array().unwrap().iter().find(|one| one["name"] == "libraries").unwrap();
    assert_eq!((one["state"].as_str(), one["why"].as_str()), (Some("on"), Some("")), "{view}");
    assert!(server.page("/metrics").contains("proteus_vm_library_calls_per_second{"));
    server.cli(&["vm", "collectors", vm, "--libraries", "false"]).ok();
    let names = || calls()["value"]["libc/names"].clone();
    assert!(names().is_null(), "what is not wanted any more is shown");
    wait_for("the collector off", LIMIT, || {
        calls()["missing"].to_string().contains("did not ask for it").then_some(())
    });
    assert!(names().is_null());
}

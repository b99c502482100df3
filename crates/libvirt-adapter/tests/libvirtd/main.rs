//! The adapter's program beside a real libvirtd with emulated guests, which have nothing of Proteus in them that runs.
//!
//! It needs libvirt's daemon and clients, QEMU, root and the small guest; so it is `ignored` unless asked for: `./test`, or
//! `cargo test -p proteus-libvirt --test libvirtd -- --ignored`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod daemon;

use daemon::{Daemon, wait_for};
use proteus_host_agent::telemetry::Intake;
use proteus_model::telemetry::Metric;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const IDLE: &str = "11111111-2222-3333-4444-555555555501";
const BUSY: &str = "11111111-2222-3333-4444-555555555502";
const OFF: &str = "11111111-2222-3333-4444-555555555503";
/// A name with all that a name may have.
const IDLE_NAME: &str = "idle \"one\"; destroy \u{fc} '";

/// The adapter's program, with a folder for its state and one that must stay empty as its home.
struct Adapter {
    uri: String,
    dir: PathBuf,
}

/// One that watches; killed where it was not ended.
struct Watching(Child);

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Adapter {
    fn new(daemon: &Daemon) -> Self {
        let dir = daemon.path("adapter");
        fs::create_dir_all(dir.join("home")).unwrap();
        Self { uri: daemon.uri(), dir }
    }

    fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_proteus-libvirt"));
        command.args(["-c", &self.uri, "--state"]).arg(self.state()).args(words);
        command.env("HOME", self.dir.join("home")).current_dir(self.dir.join("home")).stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    fn text(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.text(&[&["--output", "json"], words].concat())).unwrap()
    }

    fn watch(&self) -> Watching {
        let file = |name: &str| File::options().append(true).create(true).open(self.dir.join(name)).unwrap();
        let words = ["watch", "--every", "2", "--limit", "4", "--output", "json"];
        let watch = self.command(&words);
        // Ends with the test, also where that is killed; its process is the one that is started here.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(watch.get_program()).args(watch.get_args());
        command.env("HOME", self.dir.join("home")).current_dir(self.dir.join("home")).stdin(Stdio::null());
        Watching(command.stdout(file("events")).stderr(file("log")).spawn().unwrap())
    }

    /// What the watcher answers on its socket: status and body.
    fn ask(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = UnixStream::connect(self.state().join("proteus.sock")).ok()?;
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    fn metric(&self, start: &str) -> Option<f64> {
        let (_, page) = self.ask("/metrics")?;
        page.lines().find(|line| line.starts_with(start))?.rsplit_once(' ')?.1.parse().ok()
    }

    fn vm(&self, id: &str) -> Option<Value> {
        let rows: Vec<Value> = serde_json::from_str(&self.ask("/vms")?.1).ok()?;
        rows.into_iter().find(|row| row["id"] == id.replace('-', ""))
    }

    fn personality(&self, id: &str) -> Value {
        serde_json::from_str(&self.ask(&format!("/vms/{id}/personality")).unwrap().1).unwrap()
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).unwrap_or_default()
    }

    /// Whether this was told of a VM.
    fn told(&self, event: &str, id: &str) -> Option<Value> {
        let all = self.log("events");
        let mut lines = all.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.find(|told| told["event"] == event && told["id"] == id.replace('-', ""))
    }
}

fn trait_of(view: &Value, name: &str) -> Option<f64> {
    let all = view["record"]["WeightedTraitVector"]["value"].as_array()?;
    all.iter().find(|one| one["name"] == name)?["value"].as_f64()
}

/// All files below a folder, by their path in it.
fn files(dir: &Path, below: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    entries
        .flat_map(|entry| {
            let name = format!("{below}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                files(&entry.path(), &format!("{name}/"))
            } else {
                BTreeSet::from([name])
            }
        })
        .collect()
}

fn define(daemon: &Daemon) {
    daemon.define(IDLE_NAME, IDLE, "exec busybox sleep 1000000");
    daemon.define("busy", BUSY, "while :; do :; done");
    daemon.define("off", OFF, "exec busybox sleep 1000000");
    daemon.order(&format!("start {IDLE}; start {BUSY}"));
}

fn listed_and_refused(daemon: &Daemon, adapter: &Adapter) {
    let rows = adapter.json(&["list"]);
    let rows: Vec<(&str, &str)> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["name"].as_str().unwrap(), row["state"].as_str().unwrap()))
        .collect();
    assert_eq!(rows, [(IDLE_NAME, "running"), ("busy", "running"), ("off", "stopped")]);
    assert!(!adapter.state().exists(), "who lists keeps nothing");
    for (order, vm) in [
        ("destroy", BUSY),
        ("undefine", OFF),
        ("start", OFF),
        ("suspend", BUSY),
        ("reboot", BUSY),
        ("reset", BUSY),
    ] {
        let said = daemon.order_read_only(&format!("{order} {vm}"));
        assert!(said.contains("read only access prevents"), "{order}: {said}");
    }
    let said = daemon.order_read_only(&format!("setvcpus {BUSY} 1 --live"));
    assert!(said.contains("read only access prevents"), "{said}");
}

fn known_by_what_they_do(adapter: &Adapter) {
    wait_for("a label", || adapter.vm(IDLE).filter(|row| row["label"] == "idle"));
    let busy = wait_for("a busy VM", || {
        Some(adapter.personality(BUSY))
            .filter(|view| trait_of(view, "cpu_use").is_some_and(|use_| use_ > 0.3))
    });
    assert_ne!(busy["label"], "idle");
    assert!(adapter.told("label", IDLE).is_some_and(|told| told["detail"] == "idle"));
    let idle = adapter.personality(IDLE);
    assert_eq!(
        (&idle["record"]["VMID"], &idle["vm"]),
        (&Value::from(IDLE.replace('-', "")), &Value::from(IDLE_NAME))
    );
    assert!(trait_of(&idle, "cpu_use").unwrap() < trait_of(&busy, "cpu_use").unwrap());
    assert!(
        idle["judgement"]["confidence"].as_f64().unwrap() > 0.5 && idle["judgement"]["with_guest"] == false
    );
    for part in ["PerformanceMetrics", "WeightedTraitVector", "NetworkTrafficProfile"] {
        let part = &idle["record"][part];
        assert!(part["source"] == "libvirt" && part["at"].is_u64() && part["value"] != Value::Null, "{part}");
        assert!(!part["missing"].as_array().unwrap().is_empty());
    }
    assert_eq!(idle["record"]["ApplicationUsageStats"]["value"], Value::Null);
}

/// Libvirt goes away and comes back; nobody is dropped for it.
fn kept_over_a_restart_of_libvirt(daemon: &Daemon, adapter: &Adapter) {
    daemon.end();
    wait_for("that it is noticed", || adapter.ask("/readyz").filter(|(status, _)| *status == 503));
    assert_eq!(adapter.metric("proteus_libvirt_up"), Some(0.0));
    assert_eq!(adapter.vm(IDLE).unwrap()["label"], "idle");
    let output = adapter.run(&["list"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(said.contains("error: libvirt says:") && said.contains("hint: does libvirtd"), "{said}");
    daemon.begin();
    wait_for("that it answers again", || adapter.ask("/readyz").filter(|(status, _)| *status == 200));
    for id in [IDLE, BUSY, OFF] {
        assert!(adapter.told("gone", id).is_none() && adapter.told("ended", id).is_none());
    }
}

/// A QEMU that does not answer costs one round.
fn one_that_hangs_holds_up_no_other(daemon: &Daemon, adapter: &Adapter) {
    let rounds = || adapter.metric("proteus_libvirt_rounds_total");
    let failures = adapter.metric("proteus_libvirt_failures_total").unwrap();
    daemon.signal("-STOP", "busy");
    wait_for("a round that is given up", || {
        adapter.metric("proteus_libvirt_failures_total").filter(|now| *now > failures)
    });
    let before = rounds().unwrap();
    wait_for("rounds beside it", || rounds().filter(|now| *now >= before + 2.0));
    assert_eq!(adapter.metric("proteus_libvirt_up"), Some(1.0));
    let missing = format!("proteus_vm_disk_bytes_total{{vm=\"busy\",id=\"{}\"", BUSY.replace('-', ""));
    assert_eq!(adapter.metric(&missing), None, "what it does not tell is missing");
    daemon.signal("-CONT", "busy");
    wait_for("its disks", || adapter.metric(&missing));
}

/// Stopped, renamed and started again it is the same VM; undefined it is gone.
fn stopped_renamed_and_gone(daemon: &Daemon, adapter: &Adapter) {
    daemon.order(&format!("destroy {IDLE}; domrename {IDLE} renamed"));
    let row = wait_for("its end", || {
        adapter.vm(IDLE).filter(|row| row["state"] == "stopped" && row["name"] == "renamed")
    });
    assert_eq!(row["label"], "idle");
    assert!(adapter.told("renamed", IDLE).is_some_and(|told| told["detail"] == IDLE_NAME));
    daemon.order(&format!("start {IDLE}; undefine {OFF}"));
    wait_for("its start", || adapter.vm(IDLE).filter(|row| row["state"] == "running"));
    wait_for("that one is gone", || adapter.told("gone", OFF));
    assert!(adapter.vm(OFF).is_none());
    wait_for("what is counted since", || adapter.metric("proteus_vm_cpu_seconds_total{vm=\"renamed\""));
    let (_, page) = adapter.ask("/metrics").unwrap();
    let faults: Vec<&str> = page
        .lines()
        .filter(|line| {
            line.starts_with("proteus_vm_sample_faults_total{vm=\"renamed\"") && !line.ends_with(" 0")
        })
        .collect();
    assert!(faults.iter().all(|line| line.contains("\"gap\"")), "{faults:?}");
}

/// Ended, what it knew is there for who asks, and for a Proteus.
fn kept_and_exported(adapter: &Adapter, mut watching: Watching) {
    let pid = watching.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(watching.0.wait().unwrap().code(), Some(0));
    assert!(!adapter.state().join("proteus.sock").exists());
    let text = adapter.text(&["show", "renamed"]);
    println!("{text}");
    assert!(text.starts_with("by what was kept ") && text.contains("\nrenamed: idle ("), "{text}");
    let file = adapter.dir.join("renamed.history");
    println!("{}", adapter.text(&["export", IDLE, file.to_str().unwrap()]));
    assert!(
        !adapter.run(&["export", IDLE, file.to_str().unwrap()]).status.success(),
        "no file is written over"
    );
    // As a Proteus reads what it imports.
    let place = adapter.dir.join("imported");
    fs::create_dir(&place).unwrap();
    fs::copy(&file, place.join("history")).unwrap();
    let (buckets, damaged) = Intake::history(&place, 0).unwrap();
    let has =
        |metric: Metric| buckets.iter().filter(|bucket| bucket.summaries[metric as usize].is_some()).count();
    assert!(
        damaged == 0 && has(Metric::Cpu) >= 3 && has(Metric::DiskRead) >= 3 && has(Metric::GuestMemory) == 0
    );
    assert_eq!(files(&adapter.dir.join("home"), ""), BTreeSet::new());
    let kept = files(&adapter.state(), "");
    let own = |name: &String| name == "lock" || name.ends_with("/history") || name.ends_with("/record.json");
    assert!(kept.iter().all(own), "{kept:?}");
}

#[test]
#[ignore = "boots guests under a real libvirtd"]
fn vms_of_a_real_libvirtd_are_known_from_outside() {
    let daemon = Daemon::start();
    define(&daemon);
    let adapter = Adapter::new(&daemon);
    listed_and_refused(&daemon, &adapter);
    println!("{}", adapter.text(&["bench", "--rounds", "20"]));
    let watching = adapter.watch();
    wait_for("the first round", || adapter.ask("/readyz").filter(|(status, _)| *status == 200));
    let second = adapter.run(&["watch"]);
    assert!(
        String::from_utf8_lossy(&second.stderr).contains("another watcher has the folder"),
        "one at a time"
    );
    known_by_what_they_do(&adapter);
    println!("{}", adapter.text(&["list"]));
    println!("{}", adapter.text(&["show", "busy"]));
    kept_over_a_restart_of_libvirt(&daemon, &adapter);
    one_that_hangs_holds_up_no_other(&daemon, &adapter);
    stopped_renamed_and_gone(&daemon, &adapter);
    kept_and_exported(&adapter, watching);
    println!("{}", adapter.log("events"));
    let log = adapter.log("log");
    println!("{log}");
    assert!(!log.contains("ERROR") && !log.contains("panicked"));
    assert_eq!(log.matches("libvirt does not answer").count(), log.matches("libvirt answers again").count());
}

#[test]
#[ignore = "boots guests under a real libvirtd"]
fn a_look_of_its_own_needs_no_watcher_and_keeps_nothing() {
    let daemon = Daemon::start();
    define(&daemon);
    let adapter = Adapter::new(&daemon);
    let view = adapter.json(&["show", "busy", "--sample", "60"]);
    assert!(trait_of(&view, "cpu_use").is_some_and(|use_| use_ > 0.3), "{view}");
    let none = adapter.run(&["show", "nobody", "--sample", "60"]);
    assert_eq!(none.status.code(), Some(3));
    assert!(!adapter.state().exists() && files(&adapter.dir, "").is_empty());
    assert!(daemon.dir().exists());
}

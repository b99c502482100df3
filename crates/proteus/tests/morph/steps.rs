//! The life of one VM under morphs, in one sequence: a boot costs too much for one each.

use crate::client::Client;
use crate::server::{Server, wait_for};
use expect_test::expect;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// A profile that turns every knob that a small guest with nginx and a disk has; short windows.
const SHAPE: &str = "
name: shape
version: 1.0.0
resources:
  vcpus: { preferred: 1500m }
  memory: { preferred: 320MiB }
  disk: { iops: { preferred: 300 } }
  network: { to_guest: { preferred: 20MiB/s }, from_guest: { preferred: 20MiB/s } }
resource_weights: { cpu: 0.5, memory: 0.25, network: 0.25, storage_io: 0.0 }
application_priorities: { nginx: high }
network_policy:
  ingress: { default: drop, rules: [ { proto: tcp, ports: [80], action: accept } ] }
tuning:
  sysctl: { vm.swappiness: 10, net.core.somaxconn: 2048 }
  thp: madvise
  io_scheduler: none
verify:
  health: [ { http: { port: 80, path: /, status: 200 } } ]
  window: { before: 1s, after: 2s }
";

/// Asks for what the guest will not survive in its verification: nothing gets in any more.
const BAD: &str = "
name: bad
version: 1.0.0
resources: { vcpus: { preferred: 500m } }
network_policy:
  ingress: { default: drop }
tuning: { sysctl: { vm.swappiness: 77 } }
verify:
  health: [ { http: { port: 80, path: /, status: 200 } } ]
  window: { before: 1s, after: 3s }
";

/// Longest wait for a morph to end or to come to a state.
const MORPH_LIMIT: Duration = Duration::from_secs(120);

/// Folder of guests and images.
pub fn image_dir() -> PathBuf {
    crate::images::image_dir(&["nginx.erofs", "nginx.json"])
}

struct Bench {
    server: Server,
    pid: u64,
    address: String,
}

impl Bench {
    fn begin() -> Self {
        let images = image_dir();
        let server = Server::start();
        let disk = server.dir.path().join("data.raw");
        std::fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
        let (guest, image) = (images.join("small"), images.join("nginx.erofs"));
        let disk = format!("data={}", disk.display());
        let sizes = ["--vcpus", "1", "--vcpus-max", "2", "--memory", "256MiB", "--memory-max", "384MiB"];
        let mut words = vec!["vm", "create", "web", "--guest", guest.to_str().unwrap()];
        words.extend(["--image", image.to_str().unwrap(), "--disk", &disk]);
        words.extend(sizes);
        server.cli(&words).ok();
        let begun = Instant::now();
        let view = server.ask(&["vm", "start", "web", "--wait"]);
        println!("serves after {:.1} s", begun.elapsed().as_secs_f64());
        for (name, text) in [("shape", SHAPE), ("bad", BAD)] {
            let file = server.dir.path().join(format!("{name}.yaml"));
            std::fs::write(&file, text).unwrap();
            server.cli(&["profile", "push", file.to_str().unwrap()]).ok();
        }
        let address = view["address"].as_str().unwrap().to_owned();
        Self { pid: view["pid"].as_u64().unwrap(), address, server }
    }

    fn client(&self) -> Client {
        Client::begin(&self.server.instance.namespace(), &self.address)
    }

    fn plan(&self) -> Value {
        self.server.ask(&["morph", "plan", "web", "--profile", "shape"])
    }

    fn differences(&self) -> Value {
        self.server.get("/api/v1/vms/web/differences")
    }

    /// VM and record agree, and the VMM is the one of the start.
    fn check_whole(&self, when: &str) {
        assert_eq!(self.differences(), json!([]), "{when}");
        let view = self.server.ask(&["vm", "show", "web"]);
        assert_eq!(view["vm"]["morph"], Value::Null, "{when}");
        assert_eq!(view["vm"]["pid"], json!(self.pid), "{when}: another VMM");
    }

    fn begin_morph(&self, profile: &str) -> String {
        let words = ["morph", "apply", "web", "--profile", profile, "--detach", "--skip-unsupported"];
        self.server.ask(&words)["id"].as_str().unwrap().to_owned()
    }

    fn morph(&self, id: &str) -> Value {
        self.server.get(&format!("/api/v1/morphs/{id}"))["morph"].clone()
    }

    fn wait_state(&self, id: &str, fits: impl Fn(&str) -> bool) -> String {
        wait_for("the state of the morph", MORPH_LIMIT, || {
            let state = place(&self.morph(id));
            (fits(&state) || is_over(&state)).then_some(state)
        })
    }

    fn guest(&self, argv: &[&str]) -> String {
        let words: Vec<&str> = ["vm", "exec", "web", "--"].into_iter().chain(argv.iter().copied()).collect();
        self.server.cli(&words).ok().stdout.trim().to_owned()
    }

    /// All packet filters but the tables by which flows are counted: those come and fill by themselves.
    fn rules(&self) -> String {
        let mut is_counted = false;
        let all = self.in_namespace(&["nft", "list", "ruleset"]);
        let kept = all.lines().filter(|line| {
            if line.starts_with("table ") {
                is_counted = line.starts_with("table netdev flow_");
            }
            !is_counted
        });
        kept.collect::<Vec<_>>().join("\n")
    }

    fn in_namespace(&self, argv: &[&str]) -> String {
        let space = self.server.instance.namespace();
        let output = Command::new("ip").args(["netns", "exec", &space]).args(argv).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The file of the VM's weight, and what an administrator writes into it.
    fn weight_file(&self) -> (PathBuf, &'static str) {
        let group = self.server.instance.group();
        let child = std::fs::read_dir(&group).unwrap().flatten().find(|entry| entry.path().is_dir());
        let child = child.unwrap().path();
        let v1 = child.join("cpu.shares");
        if v1.exists() { (v1, "7777") } else { (child.join("cpu.weight"), "777") }
    }
}

/// State of a morph in one word, with its step.
fn place(morph: &Value) -> String {
    let word = morph["state"].as_str().unwrap().to_owned();
    match morph["step"].as_u64() {
        Some(step) => format!("{word} {step}"),
        None => word,
    }
}

fn is_over(state: &str) -> bool {
    ["committed", "rolled_back", "parked"].contains(&state)
}

/// A plan without what differs from run to run.
fn structure(plan: &Value) -> String {
    let mut text = String::new();
    for step in plan["steps"].as_array().unwrap() {
        let (from, to) = (knob(&step["from"]), knob(&step["to"]));
        assert_eq!(from, to);
        let undo = step["undo"].as_str().unwrap();
        let mechanism = step["mechanism"].as_str().unwrap();
        // Hosts have either version of control groups.
        let mechanism = if mechanism.starts_with("cgroup v") { "control group" } else { mechanism };
        let _ = writeln!(text, "{to}: {mechanism}, risk {}, {undo}", step["risk"].as_str().unwrap());
    }
    for item in plan["unsupported"].as_array().unwrap() {
        let _ = writeln!(text, "unsupported {}", item["field"]);
    }
    text
}

/// The name of a setting's knob.
fn knob(setting: &Value) -> String {
    let tag = setting["knob"].as_str().or_else(|| setting["set"].as_str());
    tag.map_or_else(|| setting.as_object().unwrap().keys().next().unwrap().clone(), str::to_owned)
}

/// From and to of each step: what the knobs read, and what they shall be.
fn values(plan: &Value) -> Vec<(Value, Value)> {
    let steps = plan["steps"].as_array().unwrap();
    steps.iter().map(|step| (step["from"].clone(), step["to"].clone())).collect()
}

#[test]
#[ignore = "boots a guest: ./test runs it"]
fn a_vm_is_reshaped_and_given_back_whatever_happens() {
    let mut bench = Bench::begin();
    let first = bench.plan();
    expect![[r#"
        cpu_weight: control group, risk low, turn_back
        vcpus: agent 0.1.0, risk low, turn_back
        hot_memory: virtio-mem, risk low, turn_back
        sysctl: agent 0.1.0, risk low, turn_back
        sysctl: agent 0.1.0, risk low, turn_back
        thp: agent 0.1.0, risk low, turn_back
        io_scheduler: agent 0.1.0, risk low, turn_back
        priority: agent 0.1.0, risk low, turn_back
        network_policy: nft netdev table on the tap, risk medium, turn_back
        cpu_cap: control group, risk medium, turn_back
        disk_limit: QEMU throttle group, risk low, turn_back
        nic_rate: tc tbf towards the guest, nft limit from it, risk low, turn_back
    "#]]
    .assert_eq(&structure(&first));
    let rules = bench.rules();
    a_plan_of_ones_own_is_refused(&bench, &first);
    commit_and_roll_back(&bench, &first);
    assert_eq!(bench.rules(), rules);
    morphs_are_told_by_vm(&bench);
    harm_is_undone(&bench);
    an_administrator_is_left_alone(&bench, &first);
    abort_and_disarm(&bench, &first);
    kill_in_the_middle(&mut bench);
    a_vmm_that_dies_takes_its_morph_with_it(&mut bench);
    end(bench);
}

/// A plan comes back as it was handed out, or not at all: also one whose list of what is not supported was emptied.
fn a_plan_of_ones_own_is_refused(bench: &Bench, first: &Value) {
    let token = bench.server.cli(&["token", "create", "hand", "--role", "operator"]).ok().stdout;
    let begin = |plan: &Value| {
        let body = json!({ "plan": plan, "skip_unsupported": true }).to_string();
        bench.server.tcp("POST", "/api/v1/morphs", Some(token.trim()), body.as_bytes())
    };
    let mut other = first.clone();
    other["steps"].as_array_mut().unwrap().truncate(1);
    let (code, said) = begin(&other);
    assert!(code == 409 && said.contains("not one that Proteus made"), "{code}: {said}");
    assert_eq!(bench.server.get("/api/v1/morphs"), json!([]));
    assert_eq!(values(&bench.plan()), values(first));
}

fn commit_and_roll_back(bench: &Bench, first: &Value) {
    let client = bench.client();
    let done = bench.server.cli(&["morph", "apply", "web", "--profile", "shape", "--skip-unsupported"]);
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    println!("{}", done.stdout);
    bench.check_whole("after the commit");
    // The effect, by the guest's and the host's own word.
    assert_eq!(bench.guest(&["/bin/cat", "/proc/sys/vm/swappiness"]), "10");
    assert_eq!(bench.guest(&["/bin/cat", "/sys/devices/system/cpu/online"]), "0-1");
    assert!(bench.guest(&["/bin/cat", "/sys/kernel/mm/transparent_hugepage/enabled"]).contains("[madvise]"));
    assert!(bench.in_namespace(&["nft", "list", "ruleset"]).contains("tcp dport 80 accept"));
    assert!(bench.in_namespace(&["tc", "qdisc", "show", "dev", "pt0"]).contains("tbf"));
    let again = bench.plan();
    assert_eq!(values(&again), [], "a second plan changes something");
    let back = bench.server.cli(&["morph", "rollback", "web", "--to", "0"]);
    assert_eq!(back.code, 0, "{}{}", back.stdout, back.stderr);
    client.end("commit and rollback");
    bench.check_whole("after the rollback");
    assert_eq!(values(&bench.plan()), values(first), "knobs after the rollback");
}

fn morphs_are_told_by_vm(bench: &Bench) {
    let count = |query: &str| bench.server.get(&format!("/api/v1/morphs{query}")).as_array().unwrap().len();
    let guest = image_dir().join("small");
    bench.server.cli(&["vm", "create", "other", "--guest", guest.to_str().unwrap()]).ok();
    let all = count("");
    assert!(all >= 2);
    assert_eq!([count("?vm=web"), count("?vm=web&limit=1"), count("?vm=other")], [all, 1, 0]);
    bench.server.cli(&["vm", "delete", "other"]).ok();
}

fn harm_is_undone(bench: &Bench) {
    let client = bench.client();
    let begun = Instant::now();
    let done = bench.server.cli(&["morph", "apply", "web", "--profile", "bad", "--skip-unsupported"]);
    assert_eq!(done.code, 5, "{}{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("health check failed"), "{}", done.stdout);
    println!("bad profile undone after {:.1} s", begun.elapsed().as_secs_f64());
    client.end("a bad profile");
    bench.check_whole("after the bad profile");
    assert_ne!(bench.guest(&["/bin/cat", "/proc/sys/vm/swappiness"]), "77");
}

fn an_administrator_is_left_alone(bench: &Bench, first: &Value) {
    bench.server.cli(&["morph", "apply", "web", "--profile", "shape", "--skip-unsupported"]).ok();
    let (file, theirs) = bench.weight_file();
    let ours = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, theirs).unwrap();
    let differences = bench.differences();
    assert_eq!(differences.as_array().unwrap().len(), 1, "{differences}");
    let plan = bench.plan();
    let notes = plan["notes"].to_string();
    assert!(notes.contains("somebody else changed it") && values(&plan).is_empty(), "{plan}");
    let back = bench.server.cli(&["morph", "rollback", "web", "--to", "0"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), theirs, "{}{}", back.stdout, back.stderr);
    let told = format!("{}{}", back.stdout, back.stderr);
    assert!(told.contains("left alone"), "nobody was told: {told}");
    assert_eq!(back.code, 0, "{told}");
    assert_eq!(
        bench.differences(),
        differences,
        "the knob that was left alone is told of until it is mended"
    );
    // The administrator takes it back: now it is Proteus's again, and goes back with the rest.
    std::fs::write(&file, ours.trim()).unwrap();
    bench.server.cli(&["morph", "rollback", "web", "--to", "0"]).ok();
    bench.check_whole("after the administrator took it back");
    assert_eq!(values(&bench.plan()), values(first));
}

fn abort_and_disarm(bench: &Bench, first: &Value) {
    for state in ["applying", "verifying"] {
        let client = bench.client();
        let id = bench.begin_morph("shape");
        bench.wait_state(&id, |now| now.starts_with(state));
        bench.server.cli(&["morph", "abort", &id]).ok();
        assert_eq!(bench.wait_state(&id, is_over), "rolled_back", "aborted while {state}");
        client.end(&format!("aborted while {state}"));
        bench.check_whole(&format!("aborted while {state}"));
    }
    let id = bench.begin_morph("shape");
    bench.wait_state(&id, |now| now == "verifying");
    let told = bench.server.ask(&["disarm"]);
    assert_eq!(told["morphs_told"], json!(1));
    assert_eq!(bench.wait_state(&id, is_over), "rolled_back");
    bench.check_whole("disarmed");
    let refused = bench.server.cli(&["morph", "apply", "web", "--profile", "shape", "--skip-unsupported"]);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    assert!(refused.stderr.contains("disarmed"), "{}", refused.stderr);
    bench.server.cli(&["arm"]).ok();
    // Held: the VM stays as it is, the record says so, and a rollback leads out.
    let before = bench.server.ask(&["vm", "show", "web"])["vm"]["version"].to_string();
    let mut parked = 0;
    for state in ["applying", "verifying"] {
        let id = bench.begin_morph("shape");
        bench.wait_state(&id, |now| now.starts_with(state));
        bench.server.cli(&["disarm", "--vm", "web", "--hold"]).ok();
        let ended = bench.wait_state(&id, is_over);
        parked += u32::from(ended == "parked");
        // Before the first step there is nothing to hold.
        assert!(["parked", "rolled_back"].contains(&ended.as_str()), "held while {state}: {ended}");
        bench.check_whole(&format!("held while {state}"));
        bench.server.cli(&["arm", "--vm", "web"]).ok();
        bench.server.cli(&["morph", "rollback", "web", "--to", &before]).ok();
        bench.check_whole(&format!("out of being held while {state}"));
        assert_eq!(values(&bench.plan()), values(first), "out of being held while {state}");
    }
    assert!(parked > 0, "nothing was held");
    let id = bench.begin_morph("shape");
    bench.wait_state(&id, |now| now == "reserved");
    bench.server.cli(&["morph", "abort", &id, "--hold"]).ok();
    assert_eq!(bench.wait_state(&id, is_over), "rolled_back");
    bench.check_whole("held before anything was changed");
}

fn kill_in_the_middle(bench: &mut Bench) {
    let client = bench.client();
    let (mut points, mut differing) = (Vec::new(), 0);
    let mut places: Vec<(&str, &str, u64)> = vec![("shape", "reserved", 0)];
    // All steps together take some hundred milliseconds: spread over them.
    places.extend([0, 10, 20, 40, 60, 80, 120, 160, 240].map(|later| ("shape", "applying", later)));
    places.extend([("shape", "verifying", 0), ("bad", "verifying", 0), ("bad", "undoing", 0)]);
    for (profile, wanted, later_ms) in places {
        let id = bench.begin_morph(profile);
        bench.wait_state(&id, |now| now.starts_with(wanted));
        let begun = Instant::now();
        wait_for("the moment", MORPH_LIMIT, || {
            (begun.elapsed() >= Duration::from_millis(later_ms)).then_some(())
        });
        let state = place(&bench.morph(&id));
        bench.server.kill();
        bench.server.start_again();
        let ended = bench.wait_state(&id, is_over);
        assert!(["committed", "rolled_back"].contains(&ended.as_str()), "{state}: {ended}");
        let differences = bench.differences();
        if differences != json!([]) {
            differing += 1;
            eprintln!("killed while {state}: {ended}, {differences}");
        }
        bench.check_whole(&format!("killed while {state}"));
        let left = bench.morph(&id)["left_alone"].clone();
        assert_eq!(left, json!([]), "killed while {state}: taken for somebody else's");
        if ended == "committed" {
            bench.server.cli(&["morph", "rollback", "web", "--to", "0"]).ok();
        }
        if !is_over(&state) {
            points.push(format!("{state} → {ended}"));
        }
    }
    println!("killed at {} points of a real morph, {differing} differ: {}", points.len(), points.join(", "));
    assert_eq!(differing, 0);
    assert!(points.len() >= 8, "only {} points", points.len());
    client.end("Proteus killed again and again");
}

/// What was set in a guest that is gone needs no undo: the VM starts as it was before the morph.
fn a_vmm_that_dies_takes_its_morph_with_it(bench: &mut Bench) {
    let swappiness = ["/bin/cat", "/proc/sys/vm/swappiness"];
    let before = bench.guest(&swappiness);
    let managed = bench.server.ask(&["vm", "show", "web"])["vm"]["managed"].clone();
    let id = bench.begin_morph("shape");
    bench.wait_state(&id, |state| state == "verifying");
    assert_ne!(bench.guest(&swappiness), before);
    let killed = Command::new("/bin/kill").args(["-9", &bench.pid.to_string()]).status().unwrap();
    assert!(killed.success());
    let ended = bench.wait_state(&id, is_over);
    assert_eq!(ended, "rolled_back", "{}", bench.morph(&id)["reason"]);
    let view = bench.server.ask(&["vm", "start", "web", "--wait"]);
    bench.pid = view["pid"].as_u64().unwrap();
    assert_eq!(bench.guest(&swappiness), before);
    let now = bench.server.ask(&["vm", "show", "web"]);
    assert_eq!((&now["vm"]["managed"], &now["vm"]["morph"]), (&managed, &Value::Null));
    assert_eq!(bench.differences(), json!([]));
}

fn end(mut bench: Bench) {
    // Proteus ends in good order and leaves its guest alone.
    let client = bench.client();
    assert_eq!(bench.server.terminate(Duration::from_secs(30)), Some(0));
    let seen = client.answered();
    wait_for("requests while Proteus is away", Duration::from_secs(30), || {
        (client.answered() > seen + 20).then_some(())
    });
    bench.server.start_again();
    bench.check_whole("after a restart");
    client.end("a restart of Proteus");
    bench.server.cli(&["vm", "stop", "web"]).ok();
    bench.server.cli(&["vm", "delete", "web"]).ok();
    let audit = bench.server.ask(&["audit"]);
    assert_eq!(audit["intact"], json!(true));
    assert_eq!(bench.server.terminate(Duration::from_secs(30)), Some(0));
    assert_eq!(bench.server.instance.leftovers(), Vec::<String>::new());
}

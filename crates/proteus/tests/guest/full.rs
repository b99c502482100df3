//! A full Debian from a built image: its systemd, the agent from its package, what its seed says. One whole morph, and
//! its way back; and this very program inside it, because its control groups are of the other version than those of
//! many hosts.

use crate::inside::what_is_inside_is_known;
use crate::server::{Ended, Server, wait_for};
use crate::{image_dir, inside};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What cloud-init shall make of the guest: a name, a file, a user, and a program that runs once.
const USER_DATA: &str = "#cloud-config
hostname: seeded
write_files:
  - { path: /etc/seed/word, content: 'from the seed', permissions: '0640', owner: 'root:ada', defer: true }
users:
  - { name: ada, uid: 4711, shell: /bin/sh }
runcmd:
  - [ sh, -c, 'echo $(hostname) $(id -un) >> /var/lib/ran' ]
";
/// The shipped profile, and what it says nothing about: a unit, a second vCPU.
const NIGHT: &str = "
name: night
version: 1.0.0
extends: batch
resources: { vcpus: { min: 0.1, preferred: 2, max: 4 } }
application_priorities: { 'unit:systemd-journald.service': low, 'unit:cron-like.service': idle }
tuning: { sysctl: { vm.swappiness: 33 } }
verify: { window: { before: 1s, after: 2s } }
";

/// What the morph touches, as the guest itself says it.
const LOOK: &str = "cat /proc/sys/vm/swappiness /proc/sys/vm/dirty_ratio /proc/sys/vm/dirty_background_ratio \
    /sys/kernel/mm/transparent_hugepage/enabled /sys/devices/system/cpu/online \
    /sys/fs/cgroup/system.slice/systemd-journald.service/cpu.weight \
    /sys/fs/cgroup/system.slice/cron-like.service/cpu.weight; \
    for unit in systemd-journald cron-like; do \
    pid=$(systemctl show -P MainPID $unit); set -- $(cat /proc/$pid/stat); echo nice ${19}; done";

/// A disk with this program on it: too large for the guest channel.
fn program_disk(dir: &Path) -> PathBuf {
    let (tree, disk) = (dir.join("tree"), dir.join("program.raw"));
    std::fs::create_dir(&tree).unwrap();
    let run = |program: &str, args: &[&std::ffi::OsStr]| {
        let output = Command::new(program).args(args).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let (me, copy) = (std::env::current_exe().unwrap(), tree.join("test"));
    run("strip", &["-o".as_ref(), copy.as_ref(), me.as_ref()]);
    let size = std::fs::metadata(&copy).unwrap().len();
    let file = std::fs::File::create(&disk).unwrap();
    file.set_len((size + (16 << 20)).next_multiple_of(1 << 20)).unwrap();
    run("/sbin/mkfs.ext4", &["-q".as_ref(), "-d".as_ref(), tree.as_ref(), disk.as_ref()]);
    disk
}

fn shell(server: &Server, script: &str) -> String {
    inside(server, "deb", &["/bin/sh", "-ec", script])
}

fn begin() -> Server {
    let server = Server::start();
    let guest = image_dir().join("debian-cloud-init");
    assert!(
        guest.join("disk.qcow2").exists(),
        "run `proteus image build debian --cloud-init --out {}`",
        image_dir().display()
    );
    let seed = server.dir.path().join("user-data");
    std::fs::write(&seed, USER_DATA).unwrap();
    let program = format!("program={},ro", program_disk(server.dir.path()).display());
    let words = ["vm", "create", "deb", "--guest", guest.to_str().unwrap(), "--vcpus-max", "2"];
    let more = ["--disk", &program, "--user-data", seed.to_str().unwrap()];
    server.cli(&words.into_iter().chain(more).collect::<Vec<_>>()).ok();
    let begun = Instant::now();
    server.cli(&["vm", "start", "deb", "--wait"]).ok();
    println!("the agent answers after {:.1} s", begun.elapsed().as_secs_f64());
    // The image's own disk stays as it was: the guest writes beside it.
    let overlays = |entry: &std::fs::DirEntry| entry.path().join("root.qcow2").exists();
    let places = std::fs::read_dir(server.state().join("vms")).unwrap().flatten();
    assert_eq!(places.filter(overlays).count(), 1);
    server
}

/// The guest is what its seed says, and nothing of it failed.
fn a_seed_takes_effect(server: &Server) {
    let begun = Instant::now();
    // 0 is said only where every part went well.
    let words =
        ["vm", "exec", "deb", "--timeout", "280s", "--", "/usr/bin/cloud-init", "status", "--wait", "--long"];
    let done = server.cli(&words).ok();
    println!("cloud-init is done {:.1} s after the agent answered", begun.elapsed().as_secs_f64());
    assert!(done.stdout.contains("status: done") && done.stdout.contains("NoCloud"), "{}", done.stdout);
    assert_eq!(shell(server, "hostname; cat /etc/hostname"), "seeded\nseeded");
    assert_eq!(
        shell(server, "stat -c '%a %U %G' /etc/seed/word; cat /etc/seed/word"),
        "640 root ada\nfrom the seed"
    );
    assert_eq!(shell(server, "getent passwd ada | cut -d: -f1,3,7"), "ada:4711:/bin/sh");
    assert_eq!(shell(server, "cat /var/lib/ran"), "seeded root", "what runs once did not, or not once");
}

fn apply(server: &Server, words: &[&str]) -> Ended {
    let done = server.cli(words);
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    done
}

fn a_morph_and_its_way_back(server: &Server) {
    let file = server.dir.path().join("night.yaml");
    std::fs::write(&file, NIGHT).unwrap();
    server.cli(&["profile", "push", file.to_str().unwrap()]).ok();
    shell(server, "systemd-run --quiet --unit cron-like -p CPUWeight=100 sleep infinity");
    let before = shell(server, LOOK);
    let done = apply(server, &["morph", "apply", "deb", "--profile", "night", "--skip-unsupported"]);
    println!("{}", done.stdout);
    let after = shell(server, LOOK);
    let lines: Vec<&str> = after.lines().collect();
    assert_eq!(lines[..3], ["33", "40", "10"], "{before}\n\n{after}");
    assert!(lines[3].contains("[always]") && lines[4] == "0-1", "{after}");
    let was: Vec<&str> = before.lines().collect();
    for (now, then) in lines[5..7].iter().zip(&was[5..7]) {
        assert!(
            now.parse::<u32>().unwrap() < then.parse::<u32>().unwrap(),
            "a unit's weight: {then} to {now}"
        );
    }
    assert!(lines[7..].iter().all(|line| *line != "nice 0"), "{after}");
    assert_eq!(server.get("/api/v1/vms/deb/differences"), json!([]));
    let view: Value = server.ask(&["vm", "show", "deb"]);
    assert_eq!(view["vm"]["profile"], json!("night@1.0.0"));
    apply(server, &["morph", "rollback", "deb", "--to", "0"]);
    assert_eq!(shell(server, LOOK), before, "the rollback left something");
    assert_eq!(server.get("/api/v1/vms/deb/differences"), json!([]));
}

fn control_groups_of_the_other_version(server: &Server) {
    assert_eq!(shell(server, "stat -f -c %T /sys/fs/cgroup"), "cgroup2fs");
    let script = "disk=$(grep -lx program /sys/block/vd*/serial | cut -d/ -f4); mount -o ro /dev/$disk /mnt; \
        exec /mnt/test --exact cgroup::a_busy_process_is_held_and_let_go --ignored --nocapture 2>&1";
    let words = ["vm", "exec", "deb", "--timeout", "240s", "--", "/bin/sh", "-ec", script];
    let done = server.cli(&words);
    println!("{}", done.stdout);
    assert_eq!(done.code, 0, "inside the guest:\n{}{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("V2: capped") && done.stdout.contains("1 passed"), "{}", done.stdout);
}

fn an_agent_that_stands_still_is_told_of(server: &Server) {
    let script =
        "sleep 1; systemctl kill -s STOP proteus-guest; sleep 40; systemctl kill -s CONT proteus-guest";
    shell(server, &format!("systemd-run --quiet sh -c '{script}'"));
    let shown = |says: &str| {
        wait_for(says, Duration::from_secs(120), || {
            server.cli(&["vm", "show", "deb"]).ok().stdout.contains(says).then_some(())
        });
    };
    shown("its agent does not answer; it was heard last at ");
    shown("agent 0.");
}

/// Something like ssh, with a key of its own: the real one takes minutes of an emulated CPU to make its keys.
const SSH: &str = "mkdir -p /etc/ssh; \
    printf '#!/bin/sh\\ncat /proc/sys/kernel/random/uuid > /etc/ssh/ssh_host_test_key\\n' > /usr/bin/ssh-keygen; \
    chmod +x /usr/bin/ssh-keygen; ssh-keygen; \
    printf '[Service]\\nExecStart=/bin/sleep infinity\\n' > /etc/systemd/system/ssh.service; \
    systemctl daemon-reload; systemctl start ssh.service";

/// What a clone must not have in common with its template.
const WHO: &str = "cat /etc/machine-id /etc/hostname /proc/sys/kernel/hostname /sys/class/net/e*/address \
    /etc/ssh/ssh_host_test_key; systemctl show -P MainPID ssh.service";

fn a_clone_is_somebody_else(server: &Server) {
    shell(server, SSH);
    let was = shell(server, WHO);
    server.cli(&["vm", "template", "deb"]).ok();
    let begun = Instant::now();
    let view = server.ask(&["vm", "clone", "deb", "deb-2"]);
    println!("a clone of the full guest after {} ms", begun.elapsed().as_millis());
    let within = |script: &str| inside(server, "deb-2", &["/bin/sh", "-ec", script]);
    let is = within(WHO);
    for (now, then) in is.lines().zip(was.lines()) {
        assert_ne!(now, then, "the clone has this of its template:\n{was}\n\n{is}");
    }
    assert_eq!(is.lines().filter(|line| *line == "deb-2").count(), 2, "{is}");
    let address = format!("inet {}/", view["address"].as_str().unwrap());
    let addresses = wait_for("the clone's address", Duration::from_secs(60), || {
        let all = within("ip -4 address show scope global");
        all.contains(&address).then_some(all)
    });
    let allowed = within("proteus-guest consent show");
    assert!(allowed.contains("Consent: not given"), "its template's consent follows the clone: {allowed}");
    assert_eq!(addresses.matches("inet ").count(), 1, "the template's address stays:\n{addresses}");
    for name in ["deb-2", "deb"] {
        server.cli(&["vm", "stop", name, "--grace", "0s"]).ok();
        server.cli(&["vm", "delete", name]).ok();
    }
    assert!(image_dir().join("debian-cloud-init/disk.qcow2").exists());
}

#[test]
#[ignore = "boots a full guest: ./test runs it"]
fn a_full_guest_is_reshaped_and_given_back() {
    let server = begin();
    a_seed_takes_effect(&server);
    a_morph_and_its_way_back(&server);
    control_groups_of_the_other_version(&server);
    an_agent_that_stands_still_is_told_of(&server);
    what_is_inside_is_known(&server, "deb");
    a_clone_is_somebody_else(&server);
}

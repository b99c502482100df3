//! A program in place of virsh: what is asked of it, and what becomes of one that fails, hangs or talks nonsense.

use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

/// A shell script as virsh; it notes each call in `calls`.
fn virsh(dir: &Path, script: &str) -> Virsh {
    let program = dir.join("virsh");
    let note = "for word; do printf '%s\\n' \"[$word]\" >>\"$0.calls\"; done";
    // Written under another name first: a file that is open for writing cannot be run.
    fs::write(dir.join("next"), format!("#!/bin/sh\n{note}\n{script}\n")).unwrap();
    fs::set_permissions(dir.join("next"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(dir.join("next"), &program).unwrap();
    Virsh { program, uri: "qemu:///x; destroy".to_owned(), limit: Duration::from_secs(20) }
}

/// Prints an empty list, the mark that was asked for, and an empty section of figures.
const EMPTY: &str = "mark=${4#*echo }; printf '\\n%s\\n\\n' \"${mark%%;*}\"";

#[tokio::test]
async fn every_call_is_read_only_and_of_three_commands() {
    let dir = tempfile::tempdir().unwrap();
    let virsh = virsh(dir.path(), EMPTY);
    assert_eq!(virsh.domains().await.unwrap(), Listing::default());
    virsh.plain().await.unwrap();
    let calls = fs::read_to_string(dir.path().join("virsh.calls")).unwrap();
    let words: Vec<&str> = calls.lines().map(|line| &line[1..line.len() - 1]).collect();
    assert_eq!(words.len(), 8, "{calls}");
    for call in words.chunks(4) {
        assert_eq!(&call[..3], ["-r", "-c", "qemu:///x; destroy"]);
        for one in call[3].split(';') {
            assert!(COMMANDS.contains(&one.split_whitespace().next().unwrap()), "{one}");
        }
    }
    assert_eq!(COMMANDS, ["list", "echo", "domstats"]);
}

#[tokio::test]
async fn one_that_hangs_is_killed_with_all_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let mut virsh = virsh(dir.path(), "sleep 1000 & echo $! >\"$0.pid\"; echo started; wait");
    virsh.limit = Duration::from_millis(1500);
    let start = Instant::now();
    let error = virsh.domains().await.unwrap_err();
    assert!(matches!(error, VirshError::Hung { .. }) && start.elapsed() < Duration::from_secs(10), "{error}");
    assert_eq!(error.to_string(), "libvirt did not answer within 1.5 s");
    let pid = fs::read_to_string(dir.path().join("virsh.pid")).unwrap();
    let gone = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    };
    while !gone() {
        assert!(start.elapsed() < Duration::from_secs(20), "what it started is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn whatever_goes_wrong_is_told_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    for (script, says, hint) in [
        (
            "echo 'error: failed to connect to the hypervisor' >&2; echo \"error: Failed to connect socket to '/x': No such file or directory\" >&2; exit 1",
            "libvirt says: failed to connect to the hypervisor; Failed to connect socket to '/x': No such file or directory",
            "libvirtd",
        ),
        (
            "echo \"error: Failed to connect socket to '/x': Permission denied\" >&2; exit 1",
            "Permission denied",
            "root may",
        ),
        (
            "echo 'error: no connection driver available for bogus:///x' >&2; exit 1",
            "bogus",
            "qemu:///system",
        ),
        ("printf 'error: a\\033[2Jb' >&2; exit 1", "a\\u{1b}[2Jb", "virsh -r"),
        ("exit 3", "nothing, and virsh ended with exit status: 3", "virsh -r"),
        ("kill -9 $$", "signal: 9", "virsh -r"),
        ("echo hello", "not understood", "domstats"),
        ("head -c 70000000 /dev/zero", "read what virsh says", "again"),
    ] {
        let error = virsh(dir.path(), script).domains().await.unwrap_err();
        assert!(error.to_string().contains(says), "{script}: {error}");
        assert!(error.hint().contains(hint), "{script}: {}", error.hint());
    }
    let nobody = Virsh { program: dir.path().join("nobody"), ..virsh(dir.path(), "") };
    let error = nobody.domains().await.unwrap_err();
    assert!(error.hint().contains("libvirt-clients"), "{error}");
}

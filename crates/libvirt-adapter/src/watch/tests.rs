//! A libvirt that goes away and comes back.

use super::*;
use std::fs;
use std::path::Path;

/// A program in place of virsh that prints a file, or fails where there is none.
fn virsh(dir: &Path) -> Virsh {
    let program = dir.join("virsh");
    let script = "#!/bin/sh\nmark=${4#*echo }; sed \"s/^MARK$/${mark%%;*}/\" \"$0.answer\"\n";
    fs::write(dir.join("next"), script).unwrap();
    fs::set_permissions(dir.join("next"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(dir.join("next"), &program).unwrap();
    Virsh { program, uri: "test:///".to_owned(), limit: Duration::from_secs(20) }
}

const ANSWER: &str =
    "11111111-2222-3333-4444-555555555501 web\n\nMARK\nDomain: 'web'\n  state.state=1\n  cpu.time=5\n\n";

#[tokio::test]
async fn vms_are_kept_while_libvirt_does_not_answer() {
    let dir = tempfile::tempdir().unwrap();
    let mut watcher = Watcher::new(virsh(dir.path()), None);
    let answer = dir.path().join("virsh.answer");
    assert!(watcher.round().await.is_err());
    fs::write(&answer, ANSWER).unwrap();
    assert_eq!(watcher.round().await.unwrap().len(), 2);
    fs::remove_file(&answer).unwrap();
    for _ in 0..3 {
        assert!(watcher.round().await.is_err());
    }
    {
        let fleet = locked(&watcher.fleet);
        assert_eq!((fleet.vms().count(), fleet.rounds.done, fleet.rounds.failed), (1, 1, 4));
        assert!(fleet.rounds.error.is_some());
        let page = crate::metric::page(&fleet);
        assert!(
            page.contains("proteus_libvirt_up 0\n") && page.contains("proteus_vm_running{vm=\"web\""),
            "{page}"
        );
    }
    fs::write(&answer, ANSWER).unwrap();
    assert_eq!(watcher.round().await.unwrap(), []);
    fs::write(&answer, "MARK\n").unwrap();
    assert_eq!(watcher.round().await.unwrap()[0].event, "gone");
    assert_eq!(watcher.failed, 0);
}

#[test]
fn pauses_grow_to_a_minute_and_end_with_the_next_answer() {
    let every = Duration::from_secs(5);
    let pauses: Vec<u64> = [0, 1, 2, 3, 4, 5, u32::MAX].map(|failed| pause(every, failed).as_secs()).into();
    assert_eq!(pauses, [5, 10, 20, 40, 60, 60, 60]);
}

#[tokio::test]
async fn told_to_stop_it_ends_and_keeps_what_it_knows() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("virsh.answer"), ANSWER).unwrap();
    let place = Place::hold(&dir.path().join("state")).unwrap();
    let mut watcher = Watcher::new(virsh(dir.path()), Some(place));
    let stop = CancellationToken::new();
    let mut events = Vec::new();
    let told = stop.clone();
    let done = watcher.run(Duration::from_millis(20), &stop, |event| {
        events.push(event.event);
        told.cancel();
    });
    tokio::time::timeout(Duration::from_secs(30), done).await.unwrap();
    assert_eq!(events, ["appeared", "began"]);
    let place = Place::new(&dir.path().join("state"));
    assert_eq!(place.all()[0].name, "web");
}

//! Whole rounds over a folder of files. Must never walk this machine's own disks.

use super::*;
use proptest::prelude::*;
use proteus_protocol::guest::v1::findings::SensitiveClass;
use std::os::unix::fs::MetadataExt;

/// A folder with files, and the mounts of a machine that has but it.
struct Machine(PathBuf);

impl Machine {
    fn new(name: &str, files: &[(&str, &[u8])]) -> Self {
        let path = std::env::temp_dir().join(format!("proteus-files-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let root = path.join("root");
        std::fs::create_dir_all(&root).unwrap();
        for (file, content) in files {
            std::fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            std::fs::write(root.join(file), content).unwrap();
        }
        let machine = Self(path);
        machine.mount("rw");
        machine
    }

    fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    fn mount(&self, options: &str) {
        let line = format!("1 0 8:1 / {} {options} - ext4 /dev/sda1 rw\n", self.root().display());
        std::fs::write(self.0.join("mounts"), line).unwrap();
    }

    fn collector(&self) -> FileKinds {
        FileKinds { mounts: self.0.join("mounts"), samplable: Some(0), ..FileKinds::default() }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A whole round, without the waiting.
fn round(collector: &mut FileKinds) -> Files {
    let mut findings = Findings::default();
    for _ in 0..10_000 {
        collector.rate = Rate::new(Instant::now());
        if collector.step(&mut findings) == Step::Done {
            return findings.files.unwrap().value;
        }
    }
    panic!("the round has no end");
}

fn key() -> Vec<u8> {
    let mut text = b"-----BEGIN OPENSSH PRIVATE KEY-----\n".to_vec();
    text.extend(b"b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW\n".repeat(4));
    text
}

#[test]
fn kinds_sizes_and_classes_are_counted_and_nothing_else_is_said() {
    let key = key();
    let machine = Machine::new(
        "kinds",
        &[
            ("home/very-private-name.pdf", b"x"),
            ("home/.ssh/id_ed25519", &key),
            ("srv/orders.csv", b"1;4111 1111 1111 1111;x\n"),
            ("srv/wrong.csv", b"1;4111 1111 1111 1112;x\n"),
            ("srv/app.conf", b"db_password = hunter2hunter2\n"),
            ("srv/empty.log", b""),
            ("srv/pan.png", b"4111111111111111"),
        ],
    );
    std::os::unix::fs::symlink("/etc", machine.root().join("link")).unwrap();
    let files = round(&mut machine.collector());
    assert_eq!((files.files, files.folders, files.complete, files.filesystems), (7, 4, true, 1));
    assert_eq!((files.samplable, files.sampled), (5, 5), "neither the empty one nor the image");
    let kind = |kind| files.kinds.iter().find(|each| each.kind == kind).unwrap();
    assert_eq!((kind(FileKind::Document).files, kind(FileKind::Document).changed_day), (3, 3));
    assert_eq!(kind(FileKind::Document).read_day, Some(3));
    assert_eq!((files.sizes[0], files.sizes[1], files.sizes.iter().sum::<u64>()), (1, 1, 7));
    let class = |class| files.sensitive.iter().find(|each| each.class == class).unwrap();
    let counts = |of| (class(of).by_name, class(of).by_content);
    assert_eq!(counts(SensitiveClass::PrivateKeys), (1, 1));
    assert_eq!(counts(SensitiveClass::CardNumbers), (0, 1));
    assert_eq!(counts(SensitiveClass::Credentials), (0, 1));
    assert_eq!(counts(SensitiveClass::AccountNumbers), (0, 0));
    let said = serde_json::to_string(&files).unwrap();
    for part in ["very-private", "hunter2", "4111", "orders", "BEGIN", "srv"] {
        assert!(!said.contains(part), "{part} left the guest: {said}");
    }
}

#[test]
fn to_read_leaves_no_trace_and_an_unkept_time_is_missing() {
    let machine = Machine::new("trace", &[("a.txt", b"hello")]);
    let file = machine.root().join("a.txt");
    let day = Duration::from_secs(86_400 * 3);
    let times = std::fs::FileTimes::new()
        .set_accessed(std::time::SystemTime::now() - day)
        .set_modified(std::time::SystemTime::now() - day);
    std::fs::File::options().write(true).open(&file).unwrap().set_times(times).unwrap();
    let before = std::fs::metadata(&file).unwrap().atime();
    machine.mount("rw,noatime");
    let files = round(&mut machine.collector());
    assert_eq!((files.sampled, files.without_read_time, files.kinds[0].read_day), (1, 1, None));
    assert_eq!(files.kinds[0].changed_day, 0);
    assert_eq!(std::fs::metadata(&file).unwrap().atime(), before);
}

#[test]
fn growth_is_known_after_two_rounds_and_forgotten_with_the_rest() {
    let machine = Machine::new("growth", &[("a.bin", &[1; 8192])]);
    let mut collector = machine.collector();
    assert_eq!(round(&mut collector).growth_per_day, None);
    // As if it had been an hour ago.
    collector.before.as_mut().unwrap().1 -= Duration::from_secs(3600);
    std::fs::write(machine.root().join("b.bin"), vec![1; 81_920]).unwrap();
    std::fs::File::open(machine.root().join("b.bin")).unwrap().sync_all().unwrap();
    assert!(round(&mut collector).growth_per_day.is_some_and(|growth| growth > 0));
    collector.forget();
    assert_eq!(round(&mut collector).growth_per_day, None);
}

#[test]
fn a_wide_folder_is_walked_within_bounds_and_sampled_evenly() {
    let machine = Machine::new("wide", &[]);
    let wide = machine.root().join("wide");
    std::fs::create_dir(&wide).unwrap();
    for number in 0..6000 {
        std::fs::write(wide.join(format!("{number}.txt")), "x").unwrap();
    }
    let mut collector = machine.collector();
    collector.samplable = Some(6000);
    let files = round(&mut collector);
    assert_eq!((files.files, files.samplable), (6000, 6000));
    // 1600 of 6000 are wanted; the deviation of such a draw is 34.
    assert!((1400..=1800).contains(&files.sampled), "{}", files.sampled);
}

#[test]
fn what_a_round_may_read_comes_in_by_time() {
    let now = Instant::now();
    let mut rate = Rate::new(now);
    assert_eq!(rate.wait(now), None);
    rate.spend(BYTES_SAVED_MAX as usize + (1 << 20));
    let wait = rate.wait(now).unwrap();
    assert!(wait >= Duration::from_secs(1) && wait < Duration::from_millis(1100), "{wait:?}");
    assert_eq!(rate.wait(now + wait), None);
}

#[test]
fn sizes_are_told_by_their_digits() {
    let given = [0, 1, 9, 10, 99, 100, u64::MAX];
    assert_eq!(given.map(size_class), [0, 1, 1, 2, 2, 3, SIZES - 1]);
}

proptest! {
    #[test]
    fn growth_is_what_was_added_by_the_day(before in 0..1u64 << 50, now in 0..1u64 << 50, hours in 1..1000u64) {
        let grown = growth(before, now, Duration::from_secs(hours * 3600)).unwrap();
        let back = i128::from(grown) * i128::from(hours) / 24;
        let wanted = i128::from(now) - i128::from(before);
        prop_assert!((back - wanted).abs() <= i128::from(hours) / 24 + 1);
    }
}

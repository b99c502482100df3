//! A disk that is really full: a tmpfs of 16 MiB, 8 of which the store keeps back. Needs root for the mount; says so and stops where it may not.
#![allow(clippy::unwrap_used, reason = "all of it is test code")]

use proteus_control_plane::store::embedded::Embedded;
use proteus_control_plane::store::{Commit, Key, Outcome, Store, StoreError};
use proteus_model::id::OpId;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted folder, unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path) -> Option<Self> {
        std::fs::create_dir(path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=16m", "none"]).arg(path);
        mount.status().is_ok_and(|status| status.success()).then(|| Self(path.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_said_and_survived() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&folder.path().join("small")) else {
        println!("not run: this process may not mount");
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Embedded::open(&disk.0.join("state"), None).unwrap();
        let put = |n: u64, bytes: usize| {
            Commit::new(OpId::from_bits(u128::from(n)))
                .put(Key::new(format!("k{n}")).unwrap(), vec![1; bytes])
        };
        let mut committed = 0;
        let error = loop {
            match store.commit(put(committed, 50_000)).await {
                Ok(Outcome::Committed(_)) => committed += 1,
                Ok(other) => panic!("{other:?}"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, StoreError::DiskFull { .. }), "{error:?}");
        println!("after {committed} commits: {error}");
        // It can be read, and it is whole.
        let all = store.list("", None, 1000).await.unwrap();
        assert_eq!(all.records.len() as u64, committed);
        assert_eq!(store.check().await.unwrap().problems, Vec::<String>::new());
        let backup = store.backup(&disk.0.join("backup")).await;
        assert!(matches!(backup, Err(StoreError::DiskFull { .. } | StoreError::Io { .. })), "{backup:?}");
        assert!(!disk.0.join("backup").exists(), "half a backup is left");
        // What helps out of it is taken all the same, and nothing else until there is room for that again.
        for stop in 0..300 {
            let commit = Commit::new(OpId::from_bits(1_000_000 + stop)).relief();
            let outcome = store.commit(commit.put(Key::new("stopped").unwrap(), vec![1; 100])).await;
            assert!(matches!(outcome, Ok(Outcome::Committed(_))), "stop {stop}: {outcome:?}");
        }
        let plain = store.commit(put(committed, 100)).await;
        assert!(matches!(plain, Err(StoreError::DiskFull { .. })), "{plain:?}");
        assert_eq!(store.check().await.unwrap().problems, Vec::<String>::new());
        // It can be opened again as full as it is, and still helps.
        store.close().await;
        let store = Embedded::open(&disk.0.join("state"), None).unwrap();
        let commit = Commit::new(OpId::from_bits(2_000_000)).relief();
        let outcome = store.commit(commit.put(Key::new("stopped").unwrap(), vec![1; 100])).await;
        assert!(matches!(outcome, Ok(Outcome::Committed(_))), "{outcome:?}");
        // With room again it goes on, without being opened anew.
        let status = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&disk.0).status().unwrap();
        assert!(status.success());
        assert!(matches!(store.commit(put(committed, 50_000)).await, Ok(Outcome::Committed(_))));
        store.close().await;
        let again = Embedded::open(&disk.0.join("state"), None).unwrap();
        assert_eq!(again.list("", None, 1000).await.unwrap().records.len() as u64, committed + 2);
        again.close().await;
    });
}

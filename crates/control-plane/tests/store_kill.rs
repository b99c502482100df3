//! Kills a process that commits, again and again, at moments nobody chose: what it was told is committed must be
//! there, and a commit is there whole or not at all.
//!
//! `PROTEUS_KILLS` (default 12) makes it run longer.
#![allow(clippy::unwrap_used, reason = "all of it is test code")]

use proteus_control_plane::store::embedded::Embedded;
use proteus_control_plane::store::{Commit, Guard, Key, Outcome, Store};
use proteus_model::id::OpId;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

const CHILD: &str = "PROTEUS_KILL_CHILD";
const WRITERS: u64 = 4;

fn key(text: String) -> Key {
    Key::new(text).unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// The commit number `n` of a writer: two records and a counter that is guarded.
async fn commit_number(store: &Embedded, writer: u64, n: u64) {
    let counter = key(format!("counter/{writer}"));
    let guard = match store.get(&counter).await.unwrap() {
        Some(record) => Guard::Is(counter.clone(), record.rev),
        None => Guard::Absent(counter.clone()),
    };
    let value = format!("{n}").repeat(40);
    let commit = Commit::new(OpId::from_bits(u128::from(writer) << 64 | u128::from(n)))
        .guard(guard)
        .put(counter, n.to_string())
        .put(key(format!("left/{writer}/{n}")), value.clone())
        .put(key(format!("right/{writer}/{n}")), value);
    assert!(matches!(store.commit(commit).await.unwrap(), Outcome::Committed(_)));
}

async fn counter_of(store: &Embedded, writer: u64) -> u64 {
    match store.get(&key(format!("counter/{writer}"))).await.unwrap() {
        Some(record) => String::from_utf8(record.value).unwrap().parse().unwrap(),
        None => 0,
    }
}

/// Not a test by itself: the process that is killed.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    block_on(async {
        let store = Embedded::open(Path::new(&folder), None).unwrap();
        let write = async |writer: u64| {
            let mut n = counter_of(&store, writer).await;
            loop {
                n += 1;
                commit_number(&store, writer, n).await;
                let mut out = std::io::stdout().lock();
                writeln!(out, "ack {writer} {n}").and_then(|()| out.flush()).unwrap();
            }
        };
        tokio::join!(write(0), write(1), write(2), write(3));
    });
}

/// Everything that was acknowledged is there, nothing is half there. Returns the records found.
async fn verify(store: &Embedded, acked: &mut [u64; WRITERS as usize]) -> u64 {
    let mut found = 0;
    for writer in 0..WRITERS {
        let count = counter_of(store, writer).await;
        let last = acked[writer as usize];
        assert!(count >= last, "writer {writer}: acknowledged {last}, found {count}");
        assert!(count <= last + 1, "writer {writer}: {count} found, only {last} acknowledged");
        for n in 1..=count {
            let left = store.get(&key(format!("left/{writer}/{n}"))).await.unwrap().expect("left is there");
            let right =
                store.get(&key(format!("right/{writer}/{n}"))).await.unwrap().expect("right is there");
            assert_eq!((&left.value, left.rev), (&right.value, right.rev), "torn");
            found += 1;
        }
        let beyond = store.get(&key(format!("left/{writer}/{}", count + 1))).await.unwrap();
        assert_eq!(beyond, None, "a record without its counter");
        // From now on it is known to be there, as if it had been acknowledged.
        acked[writer as usize] = count;
    }
    found
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_torn() {
    let folder = tempfile::tempdir().unwrap();
    let kills: u64 = std::env::var("PROTEUS_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let mut acked = [0; WRITERS as usize];
    let mut seed = u64::from(std::process::id());
    let mut found = 0;
    for _ in 0..kills {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(CHILD, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut note = |line: std::io::Result<String>| {
            let line = line.unwrap();
            // The test harness writes before the first of our lines without ending its own.
            let Some(at) = line.find("ack ") else { return false };
            let mut numbers = line[at + 4..].split(' ').map(|n| n.parse::<u64>());
            if let (Some(Ok(writer)), Some(Ok(n)), None) = (numbers.next(), numbers.next(), numbers.next()) {
                acked[writer as usize] = acked[writer as usize].max(n);
            }
            true
        };
        let mut left = 1 + (seed >> 33) % 150;
        while left > 0 {
            left -= u64::from(note(lines.next().expect("the child writes until it is killed")));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died counts too, unless the line was cut.
        lines.for_each(|line| {
            note(line);
        });
        block_on(async {
            let store = Embedded::open(folder.path(), None).unwrap();
            found = verify(&store, &mut acked).await;
            let report = store.check().await.unwrap();
            assert!(report.problems.is_empty(), "{:?}", report.problems);
            store.close().await;
        });
    }
    println!("{kills} kills, {found} commits found, no acknowledged one lost, none torn");
}

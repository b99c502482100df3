//! The embedded store: the suite of all stores, a reference model beside it, and what only it can meet: another
//! process, a full disk, an older and a newer schema, damage.

use super::engine::MIGRATIONS;
use super::*;
use crate::store::conformance::{committed, key, list_all, op, suite};
use crate::store::{Change, Guard};
use proptest::prelude::*;
use proteus_model::id::OpId;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn put(n: u128, name: &str, value: &str) -> Commit {
    Commit::new(op(n)).put(key(name), value)
}

#[test]
fn the_store_in_memory_passes_the_suite() {
    run(suite(async || Embedded::in_memory(None).unwrap()));
}

#[test]
fn the_store_on_disk_passes_the_suite() {
    let folder = tempfile::tempdir().unwrap();
    let count = AtomicUsize::new(0);
    run(suite(async || {
        let n = count.fetch_add(1, Ordering::Relaxed);
        Embedded::open(&folder.path().join(n.to_string()), None).unwrap()
    }));
}

#[test]
fn what_was_committed_is_there_after_closing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    run(async {
        let store = Embedded::open(&path, None).unwrap();
        let rev = committed(store.commit(put(1, "a", "1")).await.unwrap());
        let lease = store.lease(Duration::from_millis(300)).await.unwrap();
        let _ = committed(store.commit(Commit::new(op(2)).put_leased(key("l"), "1", lease)).await.unwrap());
        store.close().await;
        assert!(matches!(store.get(&key("a")).await, Err(StoreError::Closed)));
        assert!(matches!(store.commit(put(3, "b", "1")).await, Err(StoreError::Closed)));
        let again = Embedded::open(&path, None).unwrap();
        assert_eq!(again.get(&key("a")).await.unwrap().unwrap().rev, rev);
        assert_eq!(again.commit(put(1, "a", "1")).await.unwrap(), Outcome::Committed(rev));
        // The lease runs again, and ends.
        let mut watch = again.watch("l", again.rev().await.unwrap()).await.unwrap();
        let event = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap();
        assert_eq!(event.changes, vec![Change { key: key("l"), value: None }]);
        assert_eq!(again.check().await.unwrap().problems, Vec::<String>::new());
    });
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_second_one_is_told_who_has_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    run(async {
        let store = Embedded::open(folder.path(), None).unwrap();
        let error = Embedded::open(folder.path(), None).err().unwrap();
        let expected = format!(
            "another Proteus (pid {}) has the state folder {}",
            std::process::id(),
            folder.path().display()
        );
        assert_eq!(error.to_string(), expected);
        let _ = committed(store.commit(put(1, "a", "1")).await.unwrap());
        store.close().await;
        assert!(Embedded::open(folder.path(), None).is_ok());
    });
}

#[test]
fn a_newer_schema_and_another_programs_file_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("proteus.db");
    run(async { Embedded::open(folder.path(), None).unwrap().close().await });
    let connection = Connection::open(&database).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let error = Embedded::open(folder.path(), None).err().unwrap();
    assert!(matches!(error, StoreError::TooNew { found: 99, known: 1, .. }), "{error}");

    std::fs::remove_file(&database).unwrap();
    let connection = Connection::open(&database).unwrap();
    connection.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(connection);
    let before = std::fs::read(&database).unwrap();
    assert!(matches!(Embedded::open(folder.path(), None).err(), Some(StoreError::NotOurs { .. })));
    assert_eq!(std::fs::read(&database).unwrap(), before);

    std::fs::write(&database, "this is not a database, it is a text that is long enough").unwrap();
    assert!(matches!(Embedded::open(folder.path(), None).err(), Some(StoreError::Database { .. })));
}

#[test]
fn a_schema_is_upgraded_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("proteus.db");
    run(async {
        let store = Embedded::open(folder.path(), None).unwrap();
        let _ = committed(store.commit(put(1, "a", "1")).await.unwrap());
        store.close().await;
    });
    let open = |more: &[&str]| {
        let all: Vec<&str> = MIGRATIONS.iter().chain(more).copied().collect();
        Engine::prepare(Connection::open(&database).unwrap(), &database, folder.path(), &all)
    };
    let broken = "ALTER TABLE version ADD COLUMN later TEXT; CREATE TABLE version (x);";
    assert!(matches!(open(&[broken]).err(), Some(StoreError::Database { doing: "upgrade its schema", .. })));
    assert_eq!(open(&[]).unwrap().check().unwrap().schema, 1);
    let engine = open(&["CREATE TABLE later (x)", "ALTER TABLE later ADD COLUMN y"]).unwrap();
    assert_eq!(engine.check().unwrap().schema, 3);
    assert_eq!(engine.get(&key("a")).unwrap().unwrap().value, b"1");
}

/// A database that may not grow says "full" exactly as one on a full disk does.
#[test]
fn a_full_disk_fails_the_commit_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = Engine::open(&folder.path().join("proteus.db"), folder.path()).unwrap();
    let commit = |engine: &mut Engine, commit: &Commit| {
        let mut group = engine.group()?;
        let outcome = group.apply(commit)?;
        match group.finish() {
            Ok(()) => Ok(outcome),
            Err(engine::Unfinished::No(error)) => Err(error),
            Err(engine::Unfinished::Perhaps) => Ok(Outcome::Unknown),
        }
    };
    let first = committed(commit(&mut engine, &put(1, "a", "1")).unwrap());
    engine.connection().pragma_update(None, "max_page_count", 40).unwrap();
    let large = Commit::new(op(2)).put(key("large"), vec![1; 900_000]).put(key("a"), "2");
    assert!(matches!(commit(&mut engine, &large), Err(StoreError::DiskFull { .. })));
    assert_eq!(engine.get(&key("a")).unwrap().unwrap().rev, first);
    let second = committed(commit(&mut engine, &put(3, "a", "3")).unwrap());
    assert_eq!(second.0, first.0 + 1);
    assert_eq!(engine.check().unwrap().problems, Vec::<String>::new());
    engine.connection().pragma_update(None, "max_page_count", 4_000_000).unwrap();
    let _ = committed(commit(&mut engine, &large).unwrap());
}

#[test]
fn state_and_backup_are_for_nobody_else_to_read() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (state, backup) = (dir.path().join("state"), dir.path().join("backup.db"));
    run(async {
        let store = Embedded::open(&state, None).unwrap();
        store.backup(&backup).await.unwrap();
        let beside = std::fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path());
        for path in beside.chain([backup.clone()]) {
            let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", path.display());
        }
        store.close().await;
    });
}

#[test]
fn a_backup_is_a_store_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (home, copy) = (folder.path().join("home"), folder.path().join("copy"));
    run(async {
        let store = Embedded::open(&home, None).unwrap();
        let _ = committed(store.commit(put(1, "a", "1")).await.unwrap());
        std::fs::create_dir(&copy).unwrap();
        let file = copy.join("proteus.db");
        store.backup(&file).await.unwrap();
        assert!(matches!(store.backup(&file).await, Err(StoreError::Io { .. })), "nothing is written over");
        let _ = committed(store.commit(put(2, "a", "2")).await.unwrap());
        let restored = Embedded::open(&copy, None).unwrap();
        assert_eq!(restored.get(&key("a")).await.unwrap().unwrap().value, b"1");
        assert_eq!(restored.check().await.unwrap().problems, Vec::<String>::new());
        let nowhere = folder.path().join("none/file");
        assert!(matches!(store.backup(&nowhere).await, Err(StoreError::Io { .. })));
    });
}

#[test]
fn a_check_finds_damage() {
    let folder = tempfile::tempdir().unwrap();
    run(async {
        let store = Embedded::open(folder.path(), None).unwrap();
        let _ = committed(store.commit(put(1, "a", "1").put(key("b"), "1")).await.unwrap());
        assert_eq!(store.check().await.unwrap().keys, 2);
        store.close().await;
    });
    let connection = Connection::open(folder.path().join("proteus.db")).unwrap();
    connection.execute("UPDATE version SET rev = 77 WHERE key = 'a'", []).unwrap();
    drop(connection);
    let report = run(async { Embedded::open(folder.path(), None).unwrap().check().await.unwrap() });
    assert_eq!(report.problems, ["1 versions after the last revision"]);
}

#[test]
fn probes_come_before_and_after_every_commit() {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let probe: Probe = {
        let seen = seen.clone();
        Arc::new(move |point| seen.lock().unwrap().push(point.to_owned()))
    };
    run(async {
        let store = Embedded::in_memory(Some(probe)).unwrap();
        let _ = committed(store.commit(put(1, "a", "1")).await.unwrap());
        let _ = store.get(&key("a")).await.unwrap();
        let _ = committed(store.commit(put(2, "a", "2")).await.unwrap());
    });
    assert_eq!(*seen.lock().unwrap(), ["before commit", "after commit", "before commit", "after commit"]);
}

#[test]
fn a_slow_watch_is_told_that_it_was_too_slow() {
    run(async {
        let store = Embedded::in_memory(None).unwrap();
        for n in 0..2000 {
            let _ = committed(store.commit(put(n, "a", "v").put(key(format!("k{n}")), "v")).await.unwrap());
        }
        let mut watch = store.watch("", Rev(0)).await.unwrap();
        assert_eq!(watch.next().await.unwrap().rev, Rev(1));
        store.compact(Rev(1900)).await.unwrap();
        let mut last = Rev(1);
        let error = loop {
            match watch.next().await {
                Ok(event) => {
                    assert_eq!(event.rev.0, last.0 + 1, "no gap before the end");
                    last = event.rev;
                }
                Err(error) => break error,
            }
        };
        assert!(matches!(error, StoreError::Compacted { min: Rev(1900) }), "{error}");
    });
}

/// The store as a map and a list of commits: slow, and plainly right.
#[derive(Default)]
struct Model {
    rev: u64,
    compacted: u64,
    state: BTreeMap<Key, (Vec<u8>, Rev)>,
    history: Vec<Event>,
    done: BTreeMap<OpId, Rev>,
}

impl Model {
    fn commit(&mut self, commit: &Commit) -> Outcome {
        if let Some(rev) = self.done.get(&commit.op_id) {
            return Outcome::Committed(*rev);
        }
        let current = |key: &Key| self.state.get(key).map(|(_, rev)| *rev);
        let failed = commit.guards.iter().filter(|guard| !guard.holds(current(guard.key())));
        let failed: Vec<_> = failed.map(|guard| (guard.key().clone(), current(guard.key()))).collect();
        if !failed.is_empty() {
            return Outcome::Conflict(failed);
        }
        self.rev += 1;
        let rev = Rev(self.rev);
        let mut changes = Vec::new();
        for put in &commit.puts {
            self.state.insert(put.key.clone(), (put.value.clone(), rev));
            changes.push(Change { key: put.key.clone(), value: Some(put.value.clone()) });
        }
        for key in &commit.deletes {
            if self.state.remove(key).is_some() {
                changes.push(Change { key: key.clone(), value: None });
            }
        }
        changes.sort_by(|a, b| a.key.cmp(&b.key));
        self.history.push(Event { rev, changes });
        self.done.insert(commit.op_id, rev);
        Outcome::Committed(rev)
    }

    fn events(&self, prefix: &str, after: Rev) -> Vec<Event> {
        let under = |event: &Event| {
            let changes = event.changes.iter().filter(|change| change.key.as_str().starts_with(prefix));
            Event { rev: event.rev, changes: changes.cloned().collect() }
        };
        let later = self.history.iter().filter(|event| event.rev > after);
        later.map(under).filter(|event| !event.changes.is_empty()).collect()
    }
}

/// One thing that is done to both.
#[derive(Debug, Clone)]
enum Act {
    /// Guards are given as (key, what is expected: 0 absent, 1 as it is, 2 something else).
    Commit {
        guards: Vec<(u8, u8)>,
        puts: Vec<(u8, u8)>,
        deletes: Vec<u8>,
    },
    Resubmit(usize),
    Get(u8),
    List {
        prefix: u8,
        limit: usize,
    },
    Compact(u64),
    Watch {
        prefix: u8,
        after: u64,
    },
}

fn name(n: u8) -> Key {
    key(["a/1", "a/2", "a/3", "ab", "b/1", "b/2"][usize::from(n) % 6])
}

fn act() -> impl Strategy<Value = Act> {
    use proptest::collection::vec;
    let guards = vec((0u8..6, 0u8..3), 0..3);
    prop_oneof![
        6 => (guards, vec((0u8..6, any::<u8>()), 0..4), vec(0u8..6, 0..3))
            .prop_map(|(guards, puts, deletes)| Act::Commit { guards, puts, deletes }),
        1 => any::<usize>().prop_map(Act::Resubmit),
        1 => (0u8..6).prop_map(Act::Get),
        2 => (0u8..4, 1usize..5).prop_map(|(prefix, limit)| Act::List { prefix, limit }),
        1 => (0u64..60).prop_map(Act::Compact),
        2 => (0u8..4, 0u64..60).prop_map(|(prefix, after)| Act::Watch { prefix, after }),
    ]
}

fn commit_of(n: u128, guards: &[(u8, u8)], puts: &[(u8, u8)], deletes: &[u8], model: &Model) -> Commit {
    let mut commit = Commit::new(op(n));
    let mut seen = std::collections::BTreeSet::new();
    for (k, kind) in guards.iter().filter(|(k, _)| seen.insert(name(*k))) {
        let current = model.state.get(&name(*k)).map(|(_, rev)| *rev);
        commit = commit.guard(match (kind, current) {
            (0, _) | (1, None) => Guard::Absent(name(*k)),
            (1, Some(rev)) => Guard::Is(name(*k), rev),
            (_, rev) => Guard::Is(name(*k), Rev(rev.map_or(1, |rev| rev.0 + 1))),
        });
    }
    seen.clear();
    for (k, value) in puts {
        if seen.insert(name(*k)) {
            commit = commit.put(name(*k), vec![*value]);
        }
    }
    for k in deletes {
        if seen.insert(name(*k)) {
            commit = commit.delete(name(*k));
        }
    }
    commit
}

async fn compare(store: &Embedded, model: &mut Model, act: &Act, past: &mut Vec<Commit>) {
    let prefix = |n: u8| ["", "a/", "a", "b/"][usize::from(n) % 4];
    match act {
        Act::Commit { guards, puts, deletes } => {
            let commit = commit_of(past.len() as u128, guards, puts, deletes, model);
            past.push(commit.clone());
            assert_eq!(store.commit(commit.clone()).await.unwrap(), model.commit(&commit));
        }
        Act::Resubmit(n) if !past.is_empty() => {
            let commit = past[n % past.len()].clone();
            assert_eq!(store.commit(commit.clone()).await.unwrap(), model.commit(&commit));
        }
        Act::Resubmit(_) => {}
        Act::Get(k) => {
            let expected = model.state.get(&name(*k)).map(|(value, rev)| Record {
                key: name(*k),
                value: value.clone(),
                rev: *rev,
            });
            assert_eq!(store.get(&name(*k)).await.unwrap(), expected);
        }
        Act::List { prefix: p, limit } => {
            let under = model.state.iter().filter(|(key, _)| key.as_str().starts_with(prefix(*p)));
            let under =
                under.map(|(key, (value, rev))| Record { key: key.clone(), value: value.clone(), rev: *rev });
            assert_eq!(list_all(store, prefix(*p), *limit).await, (under.collect(), Rev(model.rev)));
        }
        Act::Compact(before) => {
            store.compact(Rev(*before)).await.unwrap();
            model.compacted = model.compacted.max((*before).min(model.rev));
            // Operations of that time are forgotten with it.
            model.done.retain(|_, rev| rev.0 >= model.compacted);
        }
        Act::Watch { prefix: p, after } => {
            let after = Rev((*after).min(model.rev));
            match store.watch(prefix(*p), after).await {
                Ok(mut watch) => {
                    assert!(after.0 >= model.compacted);
                    for event in model.events(prefix(*p), after) {
                        assert_eq!(watch.next().await.unwrap(), event);
                    }
                }
                Err(error) => {
                    assert!(
                        matches!(error, StoreError::Compacted { min } if min.0 == model.compacted && after < min)
                    );
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_store_does_what_the_model_does(acts in proptest::collection::vec(act(), 1..60)) {
        run(async {
            let store = Embedded::in_memory(None).unwrap();
            let (mut model, mut past) = (Model::default(), Vec::new());
            for act in &acts {
                compare(&store, &mut model, act, &mut past).await;
            }
            assert_eq!(store.check().await.unwrap().problems, Vec::<String>::new());
        });
    }
}

//! What every store must do, as one suite: generic over [`Store`], so that a clustered one passes the very same.
//! Must never look behind the trait, nor rely on revisions without gaps.

use super::*;
use std::time::Instant;
use tokio::time::timeout;

/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn key(text: impl Into<String>) -> Key {
    Key::new(text).unwrap()
}

pub(super) fn op(n: u128) -> OpId {
    OpId::from_bits(n)
}

pub(super) fn committed(outcome: Outcome) -> Rev {
    match outcome {
        Outcome::Committed(rev) => rev,
        other @ (Outcome::Conflict(_) | Outcome::Unknown) => panic!("not committed: {other:?}"),
    }
}

async fn next(watch: &mut Box<dyn Watch>) -> Event {
    timeout(PATIENCE, watch.next()).await.expect("an event comes").expect("the history is there")
}

pub(super) async fn list_all(store: &impl Store, prefix: &str, limit: usize) -> (Vec<Record>, Rev) {
    let mut page = store.list(prefix, None, limit).await.unwrap();
    let (mut all, rev) = (page.records, page.rev);
    while let Some(cursor) = page.next {
        page = store.list(prefix, Some(cursor), limit).await.unwrap();
        assert_eq!(page.rev, rev, "a list sees one revision");
        all.append(&mut page.records);
    }
    (all, rev)
}

/// Runs all of it, each part on a fresh store.
pub(super) async fn suite<S: Store>(new: impl AsyncFn() -> S) {
    reads_and_writes(&new().await).await;
    guards(&new().await).await;
    resubmission(&new().await).await;
    limits(&new().await).await;
    lists_at_one_revision(&new().await).await;
    watches(&new().await).await;
    racing_increments(&new().await).await;
    leases(&new().await).await;
    fencing(&new().await).await;
    compaction(&new().await).await;
}

async fn reads_and_writes(store: &impl Store) {
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
    let first =
        committed(store.commit(Commit::new(op(1)).put(key("a"), "1").put(key("b"), "")).await.unwrap());
    let a = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((a.value.as_slice(), a.rev), (b"1".as_slice(), first));
    assert_eq!(
        store.get(&key("b")).await.unwrap().unwrap().rev,
        first,
        "keys of a commit share its revision"
    );
    assert_eq!(store.rev().await.unwrap(), first);
    let second =
        committed(store.commit(Commit::new(op(2)).delete(key("a")).delete(key("none"))).await.unwrap());
    assert!(second > first);
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
    assert_eq!(store.get(&key("b")).await.unwrap().unwrap().rev, first);
    let binary: Vec<u8> = (0..=255).collect();
    let _ = committed(store.commit(Commit::new(op(3)).put(key("c"), binary.clone())).await.unwrap());
    assert_eq!(store.get(&key("c")).await.unwrap().unwrap().value, binary);
}

async fn guards(store: &impl Store) {
    let create = |n, value| Commit::new(op(n)).guard(Guard::Absent(key("a"))).put(key("a"), value);
    let first = committed(store.commit(create(1, "1")).await.unwrap());
    assert_eq!(store.commit(create(2, "2")).await.unwrap(), Outcome::Conflict(vec![(key("a"), Some(first))]));
    let swap =
        |n, rev| Commit::new(op(n)).guard(Guard::Is(key("a"), rev)).put(key("a"), "3").put(key("b"), "3");
    let second = committed(store.commit(swap(3, first)).await.unwrap());
    let lost = swap(4, first).guard(Guard::Is(key("b"), second)).guard(Guard::Is(key("c"), second));
    let conflicts = vec![(key("a"), Some(second)), (key("c"), None)];
    assert_eq!(store.commit(lost).await.unwrap(), Outcome::Conflict(conflicts), "all that fail, only these");
    let _ = committed(
        store.commit(Commit::new(op(5)).guard(Guard::Is(key("a"), second)).delete(key("a"))).await.unwrap(),
    );
    assert!(committed(store.commit(create(6, "again")).await.unwrap()) > second, "a deleted key is absent");
}

async fn resubmission(store: &impl Store) {
    let commit = Commit::new(op(1)).guard(Guard::Absent(key("a"))).put(key("a"), "1");
    let rev = committed(store.commit(commit.clone()).await.unwrap());
    assert_eq!(
        store.commit(commit.clone()).await.unwrap(),
        Outcome::Committed(rev),
        "its own guard does not fail it"
    );
    let _ = committed(store.commit(Commit::new(op(2)).put(key("a"), "2")).await.unwrap());
    assert_eq!(store.commit(commit.clone()).await.unwrap(), Outcome::Committed(rev));
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().value, b"2", "it is applied once");
    let other = Commit::new(op(1)).put(key("b"), "1");
    assert!(matches!(store.commit(other).await, Err(StoreError::OpReused { .. })));
    assert_eq!(store.get(&key("b")).await.unwrap(), None);
    // One that was refused may be tried again under its id.
    let late = Commit::new(op(3)).guard(Guard::Absent(key("a"))).put(key("a"), "3");
    assert!(matches!(store.commit(late.clone()).await.unwrap(), Outcome::Conflict(_)));
    let _ = committed(store.commit(Commit::new(op(4)).delete(key("a"))).await.unwrap());
    let _ = committed(store.commit(late).await.unwrap());
}

async fn limits(store: &impl Store) {
    let many = |n: usize| (0..n).fold(Commit::new(op(n as u128)), |c, i| c.put(key(format!("k{i}")), "v"));
    let _ = committed(store.commit(many(COMMIT_KEYS_MAX)).await.unwrap());
    assert!(matches!(store.commit(many(COMMIT_KEYS_MAX + 1)).await, Err(StoreError::TooLarge { .. })));
    let guarded = (0..32).fold(Commit::new(op(900)), |c, i| {
        c.guard(Guard::Absent(key(format!("g{i}")))).put(key(format!("g{i}")), "")
    });
    let _ =
        committed(store.commit((0..32).fold(guarded, |c, i| c.delete(key(format!("d{i}"))))).await.unwrap());
    let large = |n, bytes: usize| Commit::new(op(n)).put(key("large"), vec![7; bytes]);
    let _ = committed(store.commit(large(901, COMMIT_BYTES_MAX - 5)).await.unwrap());
    assert!(matches!(store.commit(large(902, COMMIT_BYTES_MAX - 4)).await, Err(StoreError::TooLarge { .. })));
    let twice = Commit::new(op(903)).put(key("x"), "1").delete(key("x"));
    assert!(matches!(store.commit(twice).await, Err(StoreError::KeyTwice { .. })));
    let longest = "k".repeat(KEY_BYTES_MAX);
    assert!(Key::new(longest).is_ok());
    for bad in ["", "a b", "ä", "a\n", &"k".repeat(KEY_BYTES_MAX + 1)] {
        assert!(Key::new(bad).is_err(), "{bad:?} was taken");
    }
}

async fn lists_at_one_revision(store: &impl Store) {
    for i in 0..25u32 {
        let _ = committed(
            store.commit(Commit::new(op(u128::from(i))).put(key(format!("p/{i:02}")), "old")).await.unwrap(),
        );
    }
    let _ = committed(
        store
            .commit(Commit::new(op(100)).put(key("o"), "").put(key("q"), "").put(key("p0"), ""))
            .await
            .unwrap(),
    );
    let first = store.list("p/", None, 10).await.unwrap();
    assert_eq!(first.records.len(), 10);
    // What happens now is not in this list.
    let change = Commit::new(op(101)).delete(key("p/15")).put(key("p/16"), "new").put(key("p/99"), "new");
    let changed = committed(store.commit(change).await.unwrap());
    let mut names: Vec<String> = Vec::new();
    let mut page = first;
    loop {
        assert!(page.records.iter().all(|record| record.value == b"old"));
        names.extend(page.records.iter().map(|record| record.key.to_string()));
        match page.next {
            Some(cursor) => page = store.list("p/", Some(cursor), 10).await.unwrap(),
            None => break,
        }
    }
    assert_eq!(names, (0..25).map(|i| format!("p/{i:02}")).collect::<Vec<_>>());
    let (now, rev) = list_all(store, "p/", 7).await;
    assert_eq!((now.len(), rev), (25, changed));
    assert_eq!(list_all(store, "", 1000).await.0.len(), 28);
    assert_eq!(list_all(store, "zz", 10).await.0.len(), 0);
}

async fn watches(store: &impl Store) {
    let first = committed(
        store
            .commit(Commit::new(op(1)).put(key("w/a"), "1").put(key("x"), "1").put(key("w/b"), "1"))
            .await
            .unwrap(),
    );
    let mut early = store.watch("w/", Rev(0)).await.unwrap();
    let mut late = store.watch("w/", first).await.unwrap();
    let event = next(&mut early).await;
    let change = |name: &str, value: Option<&str>| Change {
        key: key(name),
        value: value.map(|v| v.as_bytes().to_vec()),
    };
    assert_eq!(
        event,
        Event { rev: first, changes: vec![change("w/a", Some("1")), change("w/b", Some("1"))] }
    );
    let waiting = async { (next(&mut late).await, next(&mut early).await) };
    let writing = async {
        let _ = committed(store.commit(Commit::new(op(2)).put(key("x"), "2")).await.unwrap());
        committed(store.commit(Commit::new(op(3)).delete(key("w/a"))).await.unwrap())
    };
    let ((seen, too), second) = tokio::join!(waiting, writing);
    assert_eq!(seen, Event { rev: second, changes: vec![change("w/a", None)] });
    assert_eq!(seen, too);
    // Many commits: all of them, in order, whole, none twice.
    let mut revs = Vec::new();
    for i in 0..300u32 {
        let commit = Commit::new(op(1000 + u128::from(i)))
            .put(key("w/n"), i.to_string())
            .put(key(format!("w/{i}")), "v");
        revs.push(committed(store.commit(commit).await.unwrap()));
    }
    let mut again = store.watch("w/", first).await.unwrap();
    assert_eq!(next(&mut again).await.rev, second);
    for watch in [&mut early, &mut late, &mut again] {
        for rev in &revs {
            let event = next(watch).await;
            assert_eq!((event.rev, event.changes.len()), (*rev, 2));
        }
    }
}

/// Compare-and-set from many tasks: no update is lost.
async fn racing_increments(store: &impl Store) {
    const TASKS: u32 = 8;
    const EACH: u32 = 25;
    let task = |task: u32| async move {
        let mut attempt = 0u128;
        let mut done = 0;
        while done < EACH {
            attempt += 1;
            let old = store.get(&key("n")).await.unwrap();
            let guard = old.as_ref().map_or(Guard::Absent(key("n")), |r| Guard::Is(key("n"), r.rev));
            let number: u32 = old.map_or(0, |r| String::from_utf8(r.value).unwrap().parse().unwrap());
            let commit = Commit::new(op(u128::from(task) << 64 | attempt)).guard(guard);
            match store.commit(commit.put(key("n"), (number + 1).to_string())).await.unwrap() {
                Outcome::Committed(_) => done += 1,
                Outcome::Conflict(_) | Outcome::Unknown => {}
            }
        }
    };
    let all: Vec<_> = (0..TASKS).map(|n| Box::pin(task(n))).collect();
    futures_join(all).await;
    assert_eq!(store.get(&key("n")).await.unwrap().unwrap().value, (TASKS * EACH).to_string().into_bytes());
}

/// Polls all until all are done.
async fn futures_join(mut all: Vec<std::pin::Pin<Box<impl Future<Output = ()>>>>) {
    std::future::poll_fn(|context| {
        all.retain_mut(|task| task.as_mut().poll(context).is_pending());
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

async fn leases(store: &impl Store) {
    let ttl = Duration::from_millis(1000);
    let began = Instant::now();
    let lease = store.lease(ttl).await.unwrap();
    let commit = Commit::new(op(1))
        .put_leased(key("l/a"), "1", lease)
        .put_leased(key("l/b"), "1", lease)
        .put(key("l/c"), "1");
    let rev = committed(store.commit(commit.put_leased(key("l/d"), "1", lease)).await.unwrap());
    // A key that is written again without the lease stays.
    let rev = committed(
        store
            .commit(Commit::new(op(2)).guard(Guard::Is(key("l/d"), rev)).put(key("l/d"), "2"))
            .await
            .unwrap(),
    );
    let mut watch = store.watch("l/", rev).await.unwrap();
    let gone = next(&mut watch).await;
    assert!(began.elapsed() >= ttl, "keys vanished after {:?}, before their time", began.elapsed());
    assert_eq!(
        gone.changes,
        vec![Change { key: key("l/a"), value: None }, Change { key: key("l/b"), value: None }]
    );
    let left: Vec<String> = list_all(store, "l/", 10).await.0.iter().map(|r| r.key.to_string()).collect();
    assert_eq!(left, ["l/c", "l/d"]);
    let dead = Commit::new(op(3)).put_leased(key("l/e"), "1", lease);
    assert!(matches!(store.commit(dead).await, Err(StoreError::LeaseGone { .. })));
    assert!(matches!(store.renew(lease).await, Err(StoreError::LeaseGone { .. })));
    a_renewed_lease_lives_on(store).await;
}

/// A renewed lease outlives its first time; a revoked one ends at once.
async fn a_renewed_lease_lives_on(store: &impl Store) {
    let ttl = Duration::from_millis(600);
    // On a stalled machine the renewal itself can come too late, which proves nothing: then once more.
    for attempt in 0..10 {
        let lease = store.lease(ttl).await.unwrap();
        let mut renewed = Instant::now();
        let began = renewed;
        let mut late = false;
        let commit = Commit::new(op(100 + attempt)).put_leased(key("l/f"), "1", lease);
        while !late && began.elapsed() < ttl * 2 {
            if began == renewed {
                late = store.commit(commit.clone()).await.is_err();
            }
            let answer = store.renew(lease).await;
            let there = store.get(&key("l/f")).await.unwrap().is_some();
            late |= renewed.elapsed() >= ttl;
            assert!(late || (answer.is_ok() && there), "gone before its time");
            renewed = Instant::now();
        }
        if !late {
            store.revoke(lease).await.unwrap();
            assert_eq!(store.get(&key("l/f")).await.unwrap(), None);
            return;
        }
    }
    panic!("this machine stalled for {ttl:?} ten times: nothing can be said of leases");
}

/// A leader that lost its lease cannot write any more, even if it does not know yet.
async fn fencing(store: &impl Store) {
    let lead = |n, who: &str, lease| {
        Commit::new(op(n)).guard(Guard::Absent(key("leader"))).put_leased(key("leader"), who, lease)
    };
    let first = store.lease(Duration::from_secs(60)).await.unwrap();
    let fence = committed(store.commit(lead(1, "first", first)).await.unwrap());
    let write =
        |n, fence| Commit::new(op(n)).guard(Guard::Is(key("leader"), fence)).put(key("state"), n.to_string());
    let _ = committed(store.commit(write(2, fence)).await.unwrap());
    store.revoke(first).await.unwrap();
    let second = store.lease(Duration::from_secs(60)).await.unwrap();
    let new_fence = committed(store.commit(lead(3, "second", second)).await.unwrap());
    assert!(matches!(store.commit(write(4, fence)).await.unwrap(), Outcome::Conflict(_)));
    let _ = committed(store.commit(write(5, new_fence)).await.unwrap());
    assert_eq!(store.get(&key("state")).await.unwrap().unwrap().value, b"5");
}

async fn compaction(store: &impl Store) {
    let mut revs = Vec::new();
    for i in 0..20u32 {
        let commit =
            Commit::new(op(u128::from(i))).put(key("c/a"), i.to_string()).put(key(format!("c/{i}")), "v");
        revs.push(committed(store.commit(commit).await.unwrap()));
    }
    let old = store.list("c/", None, 5).await.unwrap().next.unwrap();
    let gone = committed(store.commit(Commit::new(op(100)).delete(key("c/0"))).await.unwrap());
    let before = list_all(store, "c/", 100).await;
    let mut kept = store.watch("c/", gone).await.unwrap();
    let mut slow = store.watch("c/", revs[0]).await.unwrap();
    let _ = next(&mut slow).await;
    store.compact(gone).await.unwrap();
    assert_eq!(list_all(store, "c/", 100).await, before, "the state is as it was");
    assert!(
        matches!(store.list("c/", Some(old), 5).await, Err(StoreError::Compacted { min }) if min == gone)
    );
    assert!(matches!(store.watch("c/", revs[3]).await.err(), Some(StoreError::Compacted { .. })));
    let last = committed(store.commit(Commit::new(op(101)).put(key("c/z"), "v")).await.unwrap());
    assert_eq!(next(&mut kept).await.rev, last);
    let mut again = store.watch("c/", gone).await.unwrap();
    assert_eq!(next(&mut again).await.rev, last);
    // Backwards does nothing; beyond the end goes to the end.
    store.compact(revs[0]).await.unwrap();
    store.compact(Rev(u64::from(u32::MAX))).await.unwrap();
    assert_eq!(list_all(store, "c/", 3).await.0.len(), before.0.len() + 1);
    let next_one = committed(store.commit(Commit::new(op(102)).put(key("c/z"), "w")).await.unwrap());
    assert!(next_one > last);
}

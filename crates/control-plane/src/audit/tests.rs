//! The log under concurrency, and under everything that can be done to it behind its back.

use super::*;
use crate::store::embedded::Embedded;
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering};

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn entropy() -> Entropy {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Arc::new(|| u128::from(NEXT.fetch_add(1, Ordering::Relaxed)))
}

fn record(n: u64) -> AuditRecord {
    AuditRecord {
        evidence: json!({ "psi": 0.1 + n as f64, "z": [1, null], "a": "ü\n" }),
        rejected: vec![Alternative { action: "migrate".into(), why_not: "one host".into() }],
        predicted: json!({ "p99_ms": 1e-7 }),
        ..AuditRecord::new(UnixMillis(1_000 + n), "loop/shift", "morph.begin", "vm/web-1", "it waits for CPU")
    }
}

/// A log of `count` entries and its store.
async fn log(count: u64) -> (Arc<Embedded>, Audit) {
    let store = Arc::new(Embedded::in_memory(None).unwrap());
    let audit = Audit::new(store.clone(), entropy());
    for n in 1..=count {
        assert_eq!(audit.append(record(n)).await.unwrap().seq, n);
    }
    (store, audit)
}

async fn write(store: &Embedded, key: &str, value: Option<String>) {
    let commit = Commit::new(OpId::from_bits(entropy()()));
    let key = Key::new(key).unwrap();
    let commit = match value {
        Some(value) => commit.put(key, value),
        None => commit.delete(key),
    };
    assert!(matches!(store.commit(commit).await.unwrap(), Outcome::Committed(_)));
}

async fn raw(store: &Embedded, seq: u64) -> String {
    let value = store.get(&entry_key(seq).unwrap()).await.unwrap().unwrap().value;
    String::from_utf8(value).unwrap()
}

async fn broken(audit: &Audit, anchor: Option<Head>) -> (u64, Break) {
    match audit.verify(anchor).await {
        Err(AuditError::Broken { seq, how }) => (seq, how),
        other => panic!("not broken: {other:?}"),
    }
}

#[test]
fn entries_are_chained_listed_and_verified() {
    run(async {
        let (_, audit) = log(0).await;
        assert_eq!(audit.verify(None).await.unwrap(), Head::EMPTY);
        assert_eq!(audit.tail(None, 5).await.unwrap(), []);
        let (_, audit) = log(25).await;
        let all = audit.list(1, 1000).await.unwrap();
        assert_eq!(all.len(), 25);
        assert_eq!(all[0].prev, EntryHash::NONE);
        assert!(all.windows(2).all(|pair| pair[1].prev == pair[0].hash && pair[1].seq == pair[0].seq + 1));
        assert_eq!(all[7].record, record(8));
        assert_eq!(audit.list(20, 3).await.unwrap(), all[19..22]);
        assert_eq!(audit.tail(None, 3).await.unwrap(), all[22..]);
        assert_eq!(audit.tail(Some(23), 3).await.unwrap(), all[19..22]);
        assert_eq!(audit.tail(Some(3), 10).await.unwrap(), all[..2]);
        assert_eq!(audit.tail(Some(900), 2).await.unwrap(), all[23..]);
        for nothing in [0, 1] {
            assert_eq!(audit.tail(Some(nothing), 10).await.unwrap(), []);
        }
        assert_eq!(audit.list(26, 3).await.unwrap(), []);
        let head = audit.verify(None).await.unwrap();
        assert_eq!(head, audit.head().await.unwrap());
        assert_eq!(audit.verify(Some(Head { seq: 9, hash: all[8].hash })).await.unwrap(), head);
        let text = serde_json::to_string(&all[3]).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), all[3]);
    });
}

#[test]
fn many_logs_on_one_store_write_one_chain() {
    run(async {
        let (store, first) = log(0).await;
        let tasks: Vec<_> = (0..8u64)
            .flat_map(|task| {
                // Eight logs: as eight processes, which do not see each other's turns.
                let audit = Arc::new(Audit::new(store.clone(), entropy()));
                let also = audit.clone();
                [audit, also].map(|audit| {
                    tokio::spawn(async move {
                        for n in 0..10 {
                            // To be contended is a clear answer, not a lost entry.
                            while let Err(error) = audit.append(record(task * 100 + n)).await {
                                assert!(matches!(error, AuditError::Contended), "{error}");
                            }
                        }
                    })
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(first.verify(None).await.unwrap().seq, 160);
    });
}

#[test]
fn the_first_broken_link_is_found() {
    run(async {
        let changed = |text: &str| text.replace("web-1", "web-2");
        let (store, audit) = log(9).await;
        let text = raw(&store, 4).await;
        write(&store, entry_key(4).unwrap().as_str(), Some(changed(&text))).await;
        assert_eq!(broken(&audit, None).await, (4, Break::Changed));

        // With its own hash made anew, the next entry no longer follows.
        let body = changed(text.split_once('\n').unwrap().1);
        let forged = format!("{}\n{body}", EntryHash::of(body.as_bytes()));
        write(&store, entry_key(4).unwrap().as_str(), Some(forged)).await;
        assert_eq!(broken(&audit, None).await, (5, Break::Unlinked));

        let (store, audit) = log(9).await;
        write(&store, entry_key(6).unwrap().as_str(), None).await;
        assert_eq!(broken(&audit, None).await, (6, Break::Missing));
        let (store, audit) = log(9).await;
        write(&store, entry_key(9).unwrap().as_str(), None).await;
        assert_eq!(broken(&audit, None).await, (9, Break::Missing));
        let (store, audit) = log(9).await;
        write(&store, entry_key(2).unwrap().as_str(), Some("?".into())).await;
        assert_eq!(broken(&audit, None).await, (2, Break::Unreadable));
        let (store, audit) = log(9).await;
        let (two, three) = (raw(&store, 2).await, raw(&store, 3).await);
        write(&store, entry_key(2).unwrap().as_str(), Some(three)).await;
        write(&store, entry_key(3).unwrap().as_str(), Some(two)).await;
        assert_eq!(broken(&audit, None).await, (2, Break::Unlinked));
    });
}

#[test]
fn a_head_that_was_moved_and_a_chain_that_was_written_anew_are_found() {
    run(async {
        let (store, audit) = log(9).await;
        let kept = audit.head().await.unwrap();
        let entries = audit.list(1, 100).await.unwrap();
        let older = Head { seq: 7, hash: entries[6].hash };
        write(&store, HEAD_KEY, Some(serde_json::to_string(&older).unwrap())).await;
        assert_eq!(broken(&audit, None).await, (8, Break::BeyondHead));
        assert!(matches!(
            audit.append(record(1)).await,
            Err(AuditError::Broken { seq: 8, how: Break::BeyondHead })
        ));
        // The last two entries cut off, with the head: only what was kept elsewhere tells.
        write(&store, entry_key(8).unwrap().as_str(), None).await;
        write(&store, entry_key(9).unwrap().as_str(), None).await;
        assert_eq!(audit.verify(None).await.unwrap(), older);
        assert_eq!(broken(&audit, Some(kept)).await, (8, Break::Missing));
        // Others written in their place.
        let _ = audit.append(record(77)).await.unwrap();
        let _ = audit.append(record(78)).await.unwrap();
        assert_eq!(audit.verify(None).await.unwrap().seq, 9);
        assert_eq!(broken(&audit, Some(kept)).await, (9, Break::AnchorDiffers));
        write(&store, HEAD_KEY, Some(serde_json::to_string(&kept).unwrap())).await;
        assert_eq!(broken(&audit, None).await, (9, Break::HeadDiffers));
    });
}

#[test]
fn an_entry_has_a_largest_size() {
    run(async {
        let (_, audit) = log(1).await;
        let large = AuditRecord { evidence: Value::String("x".repeat(ENTRY_BYTES_MAX)), ..record(2) };
        assert!(matches!(audit.append(large).await, Err(AuditError::TooLarge { .. })));
        assert_eq!(audit.append(record(2)).await.unwrap().seq, 2);
    });
}

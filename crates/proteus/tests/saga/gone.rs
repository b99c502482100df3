//! What is left of a VM that was deleted: the audit log, and nothing else.

use crate::morph;
use crate::support::{Bench, bench, start_vm};
use proteus_control_plane::store::{COMMIT_KEYS_MAX, Commit, Key, Outcome, Store};
use proteus_model::execution::State;
use proteus_model::id::{OpId, VmId};
use proteus_model::unit::Millis;
use serde_json::{Value, json};

/// Keys of all records but those of the audit log and the table.
async fn keys(bench: &Bench) -> Vec<String> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let page = bench.store.list("", cursor, 500).await.unwrap();
        all.extend(page.records.into_iter().map(|record| record.key.as_str().to_owned()));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    all.retain(|key| !key.starts_with("audit") && key != "allocation");
    all
}

/// As many versions more as several commits hold.
async fn write_versions(bench: &Bench, vm: VmId) {
    for (op, part) in (10_u64..210).collect::<Vec<_>>().chunks(COMMIT_KEYS_MAX).enumerate() {
        let commit = part.iter().fold(Commit::new(OpId::from_bits(op as u128 + 1)), |commit, number| {
            let version = json!({ "number": number, "goal": null, "morph": null, "at": 0, "settings": [] });
            commit.put(Key::new(format!("version/{vm}/{number:010}")).unwrap(), version.to_string())
        });
        assert!(matches!(bench.store.commit(commit).await.unwrap(), Outcome::Committed(_)));
    }
}

async fn last_entry(bench: &Bench) -> Value {
    bench.control.audit_view().await.unwrap().entries.pop().unwrap()
}

#[tokio::test]
async fn what_only_a_deleted_vm_had_goes_with_it_and_the_audit_log_stays() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    start_vm(&bench, dir.path(), "other").await;
    assert_eq!(morph(&bench, "other").await.state, State::Committed);
    let before = keys(&bench).await;
    let vm = start_vm(&bench, dir.path(), "web").await;
    let committed = morph(&bench, "web").await;
    bench.control.create_snapshot("web", Some("one"), "test").await.unwrap();
    bench.control.look_at_vms().await.unwrap();
    write_versions(&bench, vm).await;
    assert!(keys(&bench).await.len() > before.len() + 200);
    bench.control.stop_vm("web", Millis(0), "test").await.unwrap();
    bench.control.delete_vm("web", "test").await.unwrap();
    assert_eq!(keys(&bench).await, before, "of the other VM all stays, of this one nothing");
    let forgotten = &last_entry(&bench).await["evidence"]["forgotten"];
    assert_eq!(*forgotten, json!({ "versions": 202, "snapshots": 1, "morphs": 1 }));
    let view = bench.control.audit_view().await.unwrap();
    assert!(view.intact, "{:?}", view.broken);
    let of_it = view.entries.iter().filter(|entry| entry["evidence"]["morph"] == committed.id.to_string());
    let told: Vec<_> = of_it.map(|entry| entry["action"].clone()).collect();
    assert_eq!(told, ["morph.begin", "morph.end"]);
    bench.control.plan_rollback("other", 0).await.expect("the other can go back");
}

#[tokio::test]
async fn what_was_once_left_of_a_deleted_vm_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    let vm = start_vm(&bench, dir.path(), "web").await;
    assert_eq!(morph(&bench, "web").await.state, State::Committed);
    let before = keys(&bench).await;
    assert_eq!(bench.control.forget_gone().await.unwrap(), 0);
    let gone = VmId::from_bits(0xdead);
    write_versions(&bench, gone).await;
    // A morph of the one that is gone, and one that is not over.
    let page = bench.store.list("morph/", None, 10).await.unwrap();
    let text = String::from_utf8(page.records[0].value.clone()).unwrap();
    let text = text.replace(&vm.to_string(), &gone.to_string());
    let running = text.replace("\"state\":\"committed\"", "\"state\":\"releasing\"");
    assert_ne!(text, running);
    let commit = Commit::new(OpId::from_bits(77))
        .put(Key::new(format!("morph/{:032x}", 1)).unwrap(), text)
        .put(Key::new(format!("morph/{:032x}", 2)).unwrap(), running)
        .put(Key::new(format!("snapshot/{gone}/one")).unwrap(), "{}")
        .put(Key::new(format!("boot/{gone}")).unwrap(), "{}");
    assert!(matches!(bench.store.commit(commit).await.unwrap(), Outcome::Committed(_)));
    assert_eq!(bench.control.forget_gone().await.unwrap(), 203);
    let mut after = keys(&bench).await;
    after.retain(|key| *key != format!("morph/{:032x}", 2));
    assert_eq!(after, before);
    assert_eq!(last_entry(&bench).await["action"], "history.forget");
    assert_eq!(bench.control.forget_gone().await.unwrap(), 0);
}

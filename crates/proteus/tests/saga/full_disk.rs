//! What is done, and what is said of it, while the store takes nothing: an act begins only once it is written down,
//! and one that was done is not called undone.

use crate::support::{Bench, bench_over, start_vm};
use async_trait::async_trait;
use proteus_control_plane::audit::AuditError;
use proteus_control_plane::control::ControlError;
use proteus_control_plane::store::{
    Commit, Cursor, Key, LeaseId, Outcome, Page, Record, Rev, Store, StoreError, Watch,
};
use proteus_model::id::OpId;
use proteus_model::unit::Millis;
use proteus_model::uplink::UplinkIntent;
use proteus_protocol::node::v1::{ExecIntent, NodeErrorCode};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A store whose disk is full: as many commits are taken as are left, `None`: all.
struct FullDisk {
    inner: Arc<dyn Store>,
    left: Arc<Mutex<Option<usize>>>,
}

#[async_trait]
impl Store for FullDisk {
    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        if let Some(left) = &mut *self.left.lock().unwrap() {
            *left = left.checked_sub(1).ok_or(StoreError::DiskFull { doing: "commit" })?;
        }
        self.inner.commit(commit).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        self.inner.list(prefix, cursor, limit).await
    }

    async fn watch(&self, prefix: &str, after: Rev) -> Result<Box<dyn Watch>, StoreError> {
        self.inner.watch(prefix, after).await
    }

    async fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.inner.lease(ttl).await
    }

    async fn renew(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.renew(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.revoke(lease).await
    }

    async fn compact(&self, before: Rev) -> Result<(), StoreError> {
        self.inner.compact(before).await
    }

    async fn rev(&self) -> Result<Rev, StoreError> {
        self.inner.rev().await
    }
}

type Left = Arc<Mutex<Option<usize>>>;

async fn bench(dir: &Path) -> (Bench, Left) {
    let left = Left::default();
    let shared = left.clone();
    let bench = bench_over(dir, None, |inner| Arc::new(FullDisk { inner, left: shared })).await;
    start_vm(&bench, dir, "web").await;
    (bench, left)
}

fn leave(left: &Left, commits: impl Into<Option<usize>>) {
    *left.lock().unwrap() = commits.into();
}

async fn actions(bench: &Bench) -> Vec<String> {
    let view = bench.control.audit_view().await.unwrap();
    view.entries.iter().map(|entry| entry["action"].as_str().unwrap().to_owned()).collect()
}

async fn snapshots(bench: &Bench) -> Vec<String> {
    let all = bench.control.snapshots("web").await.unwrap();
    all.into_iter().map(|(snapshot, _)| snapshot.name.to_string()).collect()
}

/// Refused before anything was done.
fn nothing_done<T>(outcome: Result<T, ControlError>) {
    let error = outcome.err().expect("it is refused");
    let full =
        matches!(&error, ControlError::Audit(AuditError::Store { source: StoreError::DiskFull { .. }, .. }));
    assert!(full, "{error:?}");
}

/// Done, and told so though it could not be written down.
fn done<T>(outcome: Result<T, ControlError>, what: &str) {
    match outcome.err().expect("it could not be written down") {
        ControlError::Untold { done, .. } => assert_eq!(done, what),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_snapshot_is_announced_before_it_is_taken_or_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (bench, left) = bench(dir.path()).await;
    leave(&left, 0);
    nothing_done(bench.control.create_snapshot("web", Some("first"), "test").await);
    assert_eq!(snapshots(&bench).await, Vec::<String>::new());

    leave(&left, 1);
    done(
        bench.control.create_snapshot("web", Some("first"), "test").await,
        "the snapshot first of web was taken",
    );
    assert_eq!(snapshots(&bench).await, ["first"]);
    assert_eq!(actions(&bench).await.last().unwrap(), "vm.snapshot.create");

    leave(&left, 0);
    nothing_done(bench.control.delete_snapshot("web", "first", "test").await);
    assert_eq!(snapshots(&bench).await, ["first"]);

    leave(&left, 1);
    done(
        bench.control.delete_snapshot("web", "first", "test").await,
        "the snapshot first of web was deleted",
    );
    assert_eq!(snapshots(&bench).await, Vec::<String>::new());

    leave(&left, None);
    bench.control.create_snapshot("web", Some("second"), "test").await.unwrap();
    bench.control.delete_snapshot("web", "second", "test").await.unwrap();
    let told = ["create", "created", "delete", "deleted"].map(|act| format!("vm.snapshot.{act}"));
    assert!(actions(&bench).await.ends_with(&told), "{:?}", actions(&bench).await);
}

#[tokio::test]
async fn a_program_is_announced_before_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (bench, left) = bench(dir.path()).await;
    let (argv, timeout) = (vec!["/bin/true".to_owned()], Millis(1000));
    let program = ExecIntent { argv, service: None, stdin: Vec::new(), timeout };
    leave(&left, 0);
    nothing_done(bench.control.exec("web", &program, "test").await);
    leave(&left, None);
    // A simulated guest has no agent that would run it, and that is told.
    bench.control.exec("web", &program, "test").await.unwrap_err();
    let told = ["vm.exec", "vm.exec_failed"].map(str::to_owned);
    assert!(actions(&bench).await.ends_with(&told), "{:?}", actions(&bench).await);
}

#[tokio::test]
async fn a_template_is_announced_before_its_vm_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (bench, left) = bench(dir.path()).await;
    leave(&left, 0);
    nothing_done(bench.control.make_template("web", "test").await);
    leave(&left, None);
    // A simulated VM has no agent: refused, and that is told too.
    let refused = bench.control.make_template("web", "test").await;
    assert!(
        matches!(&refused, Err(ControlError::Node(node)) if node.code == NodeErrorCode::Guest),
        "{refused:?}"
    );
    let told = ["vm.template", "vm.template_failed"].map(str::to_owned);
    assert!(actions(&bench).await.ends_with(&told), "{:?}", actions(&bench).await);
    assert!(bench.control.vm("web").await.unwrap().wanted);
}

#[tokio::test]
async fn a_stop_and_a_removal_that_were_done_are_not_called_undone() {
    let dir = tempfile::tempdir().unwrap();
    let (bench, left) = bench(dir.path()).await;
    leave(&left, 1);
    done(bench.control.stop_vm("web", Millis(0), "test").await, "web was stopped");
    leave(&left, 0);
    nothing_done(bench.control.delete_vm("web", "test").await);
    let vm = bench.control.vm("web").await.unwrap();
    bench.control.observe_vm(&vm).await.expect("it has its place still");
    leave(&left, 1);
    done(bench.control.delete_vm("web", "test").await, "web was removed from the host");
    leave(&left, None);
    bench.control.delete_vm("web", "test").await.unwrap();
    let told = ["vm.delete", "vm.deleted"].map(str::to_owned);
    assert!(actions(&bench).await.ends_with(&told), "{:?}", actions(&bench).await);
    assert!(bench.control.vm("web").await.is_err());
}

#[tokio::test]
async fn the_way_out_is_taken_away_once_that_is_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let (bench, left) = bench(dir.path()).await;
    let wanted = UplinkIntent { interface: None, dns: Vec::new(), allow: Vec::new() };
    let key = Key::new("uplink").unwrap();
    let commit = Commit::new(OpId::from_bits(1)).put(key, serde_json::to_vec(&wanted).unwrap());
    assert!(matches!(bench.store.commit(commit).await.unwrap(), Outcome::Committed(_)));
    leave(&left, 0);
    nothing_done(bench.control.disable_uplink("test").await);
    assert_eq!(bench.control.uplink().await.unwrap().0, Some(wanted));
    leave(&left, None);
    // Simulated guests have no network: what is written down is not wanted any more, and that it failed.
    bench.control.disable_uplink("test").await.unwrap_err();
    assert_eq!(bench.control.uplink().await.unwrap().0, None);
    let told = ["uplink.disable", "uplink.disable_failed"].map(str::to_owned);
    assert!(actions(&bench).await.ends_with(&told), "{:?}", actions(&bench).await);
}

#[tokio::test]
async fn a_morph_that_cannot_be_written_down_says_so_and_goes_on_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let (bench, left) = bench(dir.path()).await;
    bench.control.ensure_shipped_profiles().await.unwrap();
    let morph = bench.control.begin_morph(crate::plan(&bench, "web").await, "test").await.unwrap();
    leave(&left, 0);
    let control = bench.control.clone();
    let task = tokio::spawn(async move { control.see_through(morph.id).await });
    let limit = Duration::from_secs(60);
    let told = async {
        loop {
            if let Some(why) = bench.control.why_stuck(morph.id) {
                return why;
            }
            tokio::task::yield_now().await;
        }
    };
    let why = tokio::time::timeout(limit, told).await.unwrap();
    assert!(why.contains("no space"), "{why}");
    leave(&left, None);
    tokio::time::timeout(limit, task).await.unwrap().unwrap();
    assert_eq!(bench.control.why_stuck(morph.id), None);
    assert!(bench.control.morph(morph.id).await.unwrap().state.is_terminal());
}

//! Where the control plane keeps its records: atomic guarded commits with a store-wide revision, history, watch
//! and leases. The semantics are those that both an embedded database and etcd can honour exactly; whoever
//! implements [`Store`] passes the suite in `conformance`. Must never be used for telemetry, nor by nodes.
//!
//! What a caller may rely on:
//! 1. A [`Rev`] is store-wide and rises with each commit; all keys of a commit share it; there may be gaps.
//! 2. [`Store::get`] is linearizable. A [`Store::list`] sees one revision across all its pages.
//! 3. A [`Commit`] is applied whole or not at all.
//! 4. [`Outcome::Unknown`] means: applied now, later or never. Resubmit the same commit, with the same operation
//!    id, to learn which; it is applied at most once. Never conclude from a read.
//! 5. A [`Watch`] gives every commit after its revision, in order, whole, none twice; or says [`StoreError::Compacted`]:
//!    then list again and watch from that list's revision.
//! 6. The keys of a lease vanish not before its time, maybe later, and that is a commit like any other.
//!    A leader holds a leased key and guards **every** commit with that key's revision: that is the fence.
//! 7. History older than the last [`Store::compact`] is gone, and so are the operation ids of that time.

pub mod embedded;

#[cfg(test)]
mod conformance;

use proteus_model::id::OpId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Most keys that one commit may name, in guards, puts and deletes together. Half of etcd's 128 operations
/// per transaction: a guard and a put of one key are two.
pub const COMMIT_KEYS_MAX: usize = 64;

/// Most bytes of keys and values in one commit: below the 1.5 MiB that etcd takes as a request.
pub const COMMIT_BYTES_MAX: usize = 1 << 20;

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 512;

/// Most records in a page of a list: 1000 × 1 KiB stays below the 4 MiB of an etcd client's message.
pub const PAGE_RECORDS_MAX: usize = 1000;

/// Shortest lease: less is lost to one slow fsync.
pub const LEASE_MIN: Duration = Duration::from_millis(100);

/// A revision of the whole store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rev(pub u64);

impl fmt::Display for Rev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

/// The name of a record: printable ASCII without spaces, by custom parts between slashes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// Checks and wraps a key.
    pub fn new(text: impl Into<String>) -> Result<Self, StoreError> {
        let text = text.into();
        let ok = (1..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if ok { Ok(Self(text)) } else { Err(StoreError::InvalidKey { key: text.chars().take(80).collect() }) }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A value under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Vec<u8>,
    /// The commit that wrote it.
    pub rev: Rev,
}

/// What must be so for a commit to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// The key was last written by this commit.
    Is(Key, Rev),
    /// The key is not there.
    Absent(Key),
}

impl Guard {
    /// The key that it is about.
    pub fn key(&self) -> &Key {
        match self {
            Self::Is(key, _) | Self::Absent(key) => key,
        }
    }

    /// Whether it holds where the key's last write is `current`.
    pub fn holds(&self, current: Option<Rev>) -> bool {
        match self {
            Self::Is(_, rev) => current == Some(*rev),
            Self::Absent(_) => current.is_none(),
        }
    }

    /// Whether it is among the guards that [`Outcome::Conflict`] names.
    pub fn is_among(&self, failed: &[(Key, Option<Rev>)]) -> bool {
        failed.iter().any(|(key, _)| key == self.key())
    }
}

/// A value to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// Where.
    pub key: Key,
    /// What.
    pub value: Vec<u8>,
    /// The key vanishes with this lease.
    pub lease: Option<LeaseId>,
}

/// Changes that are applied together if every guard holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Identity of the attempt: the same id with the same content is the same commit, however often submitted.
    pub op_id: OpId,
    /// What must be so.
    pub guards: Vec<Guard>,
    /// What is written.
    pub puts: Vec<Put>,
    /// What is deleted; a key that is not there stays so.
    pub deletes: Vec<Key>,
    /// It helps out of a shortage, as a stop or an undo does: a store that keeps space back may use it for this.
    pub relief: bool,
}

impl Commit {
    /// An empty commit.
    pub fn new(op_id: OpId) -> Self {
        Self { op_id, guards: Vec::new(), puts: Vec::new(), deletes: Vec::new(), relief: false }
    }

    /// With one more guard.
    #[must_use]
    pub fn guard(mut self, guard: Guard) -> Self {
        self.guards.push(guard);
        self
    }

    /// With one more value to write.
    #[must_use]
    pub fn put(mut self, key: Key, value: impl Into<Vec<u8>>) -> Self {
        self.puts.push(Put { key, value: value.into(), lease: None });
        self
    }

    /// With one more value to write, which vanishes with a lease.
    #[must_use]
    pub fn put_leased(mut self, key: Key, value: impl Into<Vec<u8>>, lease: LeaseId) -> Self {
        self.puts.push(Put { key, value: value.into(), lease: Some(lease) });
        self
    }

    /// With one more key to delete.
    #[must_use]
    pub fn delete(mut self, key: Key) -> Self {
        self.deletes.push(key);
        self
    }

    /// Marked as one that helps out of a shortage.
    #[must_use]
    pub fn relief(self) -> Self {
        Self { relief: true, ..self }
    }

    /// Checks the limits that hold for every store.
    pub fn check(&self) -> Result<(), StoreError> {
        let mut guarded = BTreeSet::new();
        let mut written = BTreeSet::new();
        for key in self.guards.iter().map(Guard::key) {
            if !guarded.insert(key) {
                return Err(StoreError::KeyTwice { key: key.clone() });
            }
        }
        for key in self.puts.iter().map(|put| &put.key).chain(&self.deletes) {
            if !written.insert(key) {
                return Err(StoreError::KeyTwice { key: key.clone() });
            }
        }
        let keys = guarded.union(&written).count();
        if keys > COMMIT_KEYS_MAX {
            return Err(StoreError::TooLarge { what: "keys of a commit", given: keys, max: COMMIT_KEYS_MAX });
        }
        let names = guarded.iter().chain(&written).map(|key| key.as_str().len());
        let bytes: usize = names.chain(self.puts.iter().map(|put| put.value.len())).sum();
        if bytes > COMMIT_BYTES_MAX {
            return Err(StoreError::TooLarge {
                what: "bytes of a commit",
                given: bytes,
                max: COMMIT_BYTES_MAX,
            });
        }
        Ok(())
    }

    /// Digest of what is done, without the operation id, to tell a resubmission from a reused id.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut part = |tag: u8, key: &Key, number: u64, value: &[u8]| {
            hash.update([tag]);
            for bytes in [key.as_str().as_bytes(), &number.to_be_bytes(), value] {
                hash.update((bytes.len() as u64).to_be_bytes());
                hash.update(bytes);
            }
        };
        for guard in &self.guards {
            match guard {
                Guard::Is(key, rev) => part(1, key, rev.0, &[]),
                Guard::Absent(key) => part(2, key, 0, &[]),
            }
        }
        for put in &self.puts {
            match put.lease {
                Some(lease) => part(3, &put.key, lease.0, &put.value),
                None => part(4, &put.key, 0, &put.value),
            }
        }
        for key in &self.deletes {
            part(5, key, 0, &[]);
        }
        hash.finalize().into()
    }
}

/// What became of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Applied, now or at an earlier submission of the same commit, at this revision.
    Committed(Rev),
    /// Not applied: these guards did not hold; each key with its last write, `None` where it is not there.
    Conflict(Vec<(Key, Option<Rev>)>),
    /// Perhaps applied, perhaps later: resubmit the same commit.
    Unknown,
}

/// Where a list goes on: the revision that it sees and the last key that it gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The revision.
    pub rev: Rev,
    /// The last key of the page before.
    pub after: Key,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Records in the order of their keys.
    pub records: Vec<Record>,
    /// The revision that the whole list sees.
    pub rev: Rev,
    /// Where it goes on; `None` at the end.
    pub next: Option<Cursor>,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Key,
    /// Its value; `None`: deleted.
    pub value: Option<Vec<u8>>,
}

/// Everything that one commit changed under a watched prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The commit.
    pub rev: Rev,
    /// Its changes, in the order of their keys.
    pub changes: Vec<Change>,
}

/// A lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lease {}", self.0)
    }
}

/// Why the store did not do as asked. Nothing was changed, unless said otherwise.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the state folder.
    #[error("another Proteus{} has the state folder {}", of_pid(*pid), folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The other process, where it told.
        pid: Option<u32>,
    },
    /// The database was written by a newer Proteus.
    #[error("the state in {} has schema version {found}; this Proteus knows up to {known}", folder.display())]
    TooNew {
        /// The folder.
        folder: PathBuf,
        /// Its version.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// The file is a database, but not of Proteus.
    #[error("{} is not a Proteus database", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// No space is left; the store can be used again once there is.
    #[error(
        "no space left for the state while trying to {doing}; make room (VMs can still be stopped and deleted)"
    )]
    DiskFull {
        /// What was tried.
        doing: &'static str,
    },
    /// History that was asked for is gone.
    #[error("history before {min} is gone; list again")]
    Compacted {
        /// The oldest revision that is still there.
        min: Rev,
    },
    /// Not a key.
    #[error("{key:?} is not a key: expected 1 to {KEY_BYTES_MAX} printable ASCII characters without spaces")]
    InvalidKey {
        /// What was given.
        key: String,
    },
    /// A commit names a key twice.
    #[error("key {key} is twice in the commit")]
    KeyTwice {
        /// The key.
        key: Key,
    },
    /// Beyond a limit.
    #[error("{given} {what}, at most {max} are taken")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How many.
        given: usize,
        /// The limit.
        max: usize,
    },
    /// A lease is over or never was.
    #[error("{lease} is over")]
    LeaseGone {
        /// The lease.
        lease: LeaseId,
    },
    /// An operation id came again with another commit.
    #[error("operation {op_id} was another commit")]
    OpReused {
        /// The id.
        op_id: OpId,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The file system refused.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The database refused.
    #[error("the state's database failed to {doing}")]
    Database {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn of_pid(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

/// A running watch.
#[async_trait::async_trait]
pub trait Watch: Send {
    /// The next commit under the prefix; waits for it. Cancel-safe: nothing is lost if the future is dropped.
    async fn next(&mut self) -> Result<Event, StoreError>;
}

/// The store. See the module for what may be relied on.
#[async_trait::async_trait]
pub trait Store: Send + Sync {
    /// The record under a key.
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError>;

    /// Records whose keys begin with `prefix`, in the order of their keys: the first page, or the one at
    /// `cursor`, with at most `limit` records ([`PAGE_RECORDS_MAX`] at most, 1 at least).
    async fn list(&self, prefix: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page, StoreError>;

    /// Applies a commit. An error means that it was not applied.
    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError>;

    /// Watches the keys that begin with `prefix`, from the commit after `after` on.
    async fn watch(&self, prefix: &str, after: Rev) -> Result<Box<dyn Watch>, StoreError>;

    /// A new lease, [`LEASE_MIN`] at least.
    async fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Begins a lease's time again.
    async fn renew(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease now: its keys vanish.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Forgets history before a revision. Lists and watches from there on still work.
    async fn compact(&self, before: Rev) -> Result<(), StoreError>;

    /// The revision of the last commit.
    async fn rev(&self) -> Result<Rev, StoreError>;
}

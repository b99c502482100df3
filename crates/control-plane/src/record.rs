//! Typed records in the store: JSON under a key, with the revision that a later change is guarded by. Must never
//! write without saying what it expects to find.

use crate::store::{Commit, Guard, Key, Outcome, Rev, Store, StoreError};
use proteus_model::id::OpId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// How often a change is tried when others change the same record at the same time.
pub(crate) const TRIES: u32 = 32;

/// Records read per page of a listing.
const PAGE: usize = 500;

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Somebody else changed one of the records in between.
    #[error("{key} was changed by somebody else in the meantime")]
    Conflict {
        /// The first of them.
        key: String,
    },
    /// What is there cannot be read.
    #[error("the record {key} is damaged: {why}")]
    Damaged {
        /// Its key.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// The store failed.
    #[error("the store does not take or give records")]
    Store(#[from] StoreError),
}

/// A record and the revision it was read at.
#[derive(Debug, Clone)]
pub(crate) struct Versioned<T> {
    pub value: T,
    pub rev: Rev,
}

/// Changes that happen together or not at all.
pub(crate) struct Batch {
    commit: Commit,
}

impl Batch {
    /// Writes `value`; `expected` is the revision that must still be there, `None`: no such record yet.
    pub(crate) fn put<T: Serialize>(
        mut self,
        key: &str,
        value: &T,
        expected: Option<Rev>,
    ) -> Result<Self, RecordError> {
        let damaged = |e: serde_json::Error| RecordError::Damaged { key: key.to_owned(), why: e.to_string() };
        let bytes = serde_json::to_vec(value).map_err(damaged)?;
        self = self.only_if(key, expected)?;
        self.commit = self.commit.put(Key::new(key)?, bytes);
        Ok(self)
    }

    /// Changes nothing, and holds only where the record is still at `expected`, or still missing.
    pub(crate) fn only_if(mut self, key: &str, expected: Option<Rev>) -> Result<Self, RecordError> {
        let key = Key::new(key)?;
        let guard = match expected {
            Some(rev) => Guard::Is(key, rev),
            None => Guard::Absent(key),
        };
        self.commit = self.commit.guard(guard);
        Ok(self)
    }

    /// The changes, for a commit that holds more.
    pub(crate) fn as_commit(&self) -> &Commit {
        &self.commit
    }

    /// Marked as one that helps out of a shortage: it is taken on a full disk too, as long as the reserve lasts.
    #[must_use]
    pub(crate) fn relief(mut self) -> Self {
        self.commit = self.commit.relief();
        self
    }

    /// The error that names the first of our keys whose guard did not hold.
    pub(crate) fn conflict(&self, failed: &[(Key, Option<Rev>)]) -> RecordError {
        let guard = self.commit.guards.iter().find(|guard| guard.is_among(failed));
        RecordError::Conflict { key: guard.map(|guard| guard.key().to_string()).unwrap_or_default() }
    }

    /// Removes a record that must still be at `expected`.
    pub(crate) fn delete(mut self, key: &str, expected: Rev) -> Result<Self, RecordError> {
        self = self.only_if(key, Some(expected))?;
        self.commit = self.commit.delete(Key::new(key)?);
        Ok(self)
    }
}

/// Source of fresh ids: entropy in the product, a seed in the twin.
pub use crate::audit::Entropy;

/// The records.
#[derive(Clone)]
pub(crate) struct Records {
    store: Arc<dyn Store>,
    entropy: Entropy,
}

impl Records {
    pub(crate) fn new(store: Arc<dyn Store>, entropy: Entropy) -> Self {
        Self { store, entropy }
    }

    pub(crate) fn fresh(&self) -> u128 {
        (self.entropy)()
    }

    fn parse<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, RecordError> {
        let damaged = |e: serde_json::Error| RecordError::Damaged { key: key.to_owned(), why: e.to_string() };
        serde_json::from_slice(bytes).map_err(damaged)
    }

    /// An empty batch.
    pub(crate) fn batch(&self) -> Batch {
        Batch { commit: Commit::new(OpId::from_bits(self.fresh())) }
    }

    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        key: &str,
    ) -> Result<Option<Versioned<T>>, RecordError> {
        let Some(record) = self.store.get(&Key::new(key)?).await? else { return Ok(None) };
        Ok(Some(Versioned { value: Self::parse(key, &record.value)?, rev: record.rev }))
    }

    /// All records under `prefix`, by key.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        prefix: &str,
    ) -> Result<Vec<(String, Versioned<T>)>, RecordError> {
        let (all, damaged) = self.list_readable(prefix).await?;
        damaged.into_iter().next().map_or(Ok(all), Err)
    }

    /// The same without those that cannot be read, and what is wrong with these.
    pub(crate) async fn list_readable<T: DeserializeOwned>(
        &self,
        prefix: &str,
    ) -> Result<(Vec<(String, Versioned<T>)>, Vec<RecordError>), RecordError> {
        let (mut all, mut damaged, mut cursor) = (Vec::new(), Vec::new(), None);
        loop {
            let page = self.store.list(prefix, cursor, PAGE).await?;
            for record in page.records {
                match Self::parse(record.key.as_str(), &record.value) {
                    Ok(value) => {
                        all.push((record.key.as_str().to_owned(), Versioned { value, rev: record.rev }));
                    }
                    Err(error) => damaged.push(error),
                }
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok((all, damaged));
            }
        }
    }

    /// Moves a record that cannot be read to another key, as text, so that another can take its place.
    pub(crate) async fn put_aside(&self, key: &str, aside: &str) -> Result<(), RecordError> {
        let Some(record) = self.store.get(&Key::new(key)?).await? else { return Ok(()) };
        let before = self.store.get(&Key::new(aside)?).await?.map(|before| before.rev);
        let batch = self.batch().put(aside, &String::from_utf8_lossy(&record.value), before)?;
        self.commit(batch.delete(key, record.rev)?).await.map(drop)
    }

    /// What is wrong with each record under `prefix` that cannot be read as a `T`.
    pub(crate) async fn damaged<T: DeserializeOwned>(
        &self,
        prefix: &str,
    ) -> Result<Vec<RecordError>, StoreError> {
        match self.list_readable::<T>(prefix).await {
            Ok((_, damaged)) => Ok(damaged),
            Err(RecordError::Store(error)) => Err(error),
            Err(other) => Ok(vec![other]),
        }
    }

    /// Forgets versions that are older than the last `kept` commits and no longer a record's last.
    pub(crate) async fn forget_history(&self, kept: u64) -> Result<(), RecordError> {
        let rev = self.store.rev().await?;
        Ok(self.store.compact(Rev(rev.0.saturating_sub(kept))).await?)
    }

    /// Commits; an outcome that is not known is resolved by submitting the same commit again.
    pub(crate) async fn commit(&self, batch: Batch) -> Result<Rev, RecordError> {
        loop {
            match self.store.commit(batch.commit.clone()).await? {
                Outcome::Committed(rev) => return Ok(rev),
                Outcome::Conflict(failed) => return Err(batch.conflict(&failed)),
                Outcome::Unknown => tracing::warn!("outcome of a commit is not known, submitting it again"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::Embedded;

    fn records(store: Arc<Embedded>) -> Records {
        let next = std::sync::atomic::AtomicU64::new(1);
        let entropy: Entropy =
            Arc::new(move || u128::from(next.fetch_add(1, std::sync::atomic::Ordering::SeqCst)));
        Records::new(store, entropy)
    }

    #[tokio::test]
    async fn a_conflict_names_the_key_that_was_changed_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let records = records(Arc::new(Embedded::open(dir.path(), None).unwrap()));
        let put = |key: &str, expected| records.batch().put(key, &1, expected).unwrap();
        let first = records.commit(put("a", None).put("b", &1, None).unwrap()).await.unwrap();
        records.commit(put("b", Some(first))).await.unwrap();
        let stale = put("a", Some(first)).put("b", &2, Some(first)).unwrap();
        let error = records.commit(stale).await.unwrap_err();
        assert!(matches!(&error, RecordError::Conflict { key } if key == "b"), "{error}");
    }

    #[tokio::test]
    async fn one_that_cannot_be_read_hides_no_other_and_makes_room_when_it_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Embedded::open(dir.path(), None).unwrap());
        let records = records(store.clone());
        records.commit(records.batch().put("kind/a", &1, None).unwrap()).await.unwrap();
        for times in 0..2 {
            let garbage = Commit::new(OpId::from_bits(900 + times));
            let garbage = garbage.put(Key::new("kind/b").unwrap(), b"{\xff".to_vec());
            let outcome = store.commit(garbage).await.unwrap();
            assert!(matches!(outcome, Outcome::Committed(_)));
            let (readable, damaged) = records.list_readable::<u32>("kind/").await.unwrap();
            assert_eq!((readable.len(), readable[0].1.value), (1, 1));
            assert!(
                matches!(&damaged[..], [RecordError::Damaged { key, .. }] if key == "kind/b"),
                "{damaged:?}"
            );
            assert!(records.list::<u32>("kind/").await.is_err());
            records.put_aside("kind/b", "aside/b").await.unwrap();
            assert!(records.get::<u32>("kind/b").await.unwrap().is_none());
            assert_eq!(records.get::<String>("aside/b").await.unwrap().unwrap().value, "{\u{fffd}");
        }
        records.commit(records.batch().put("kind/b", &2, None).unwrap()).await.unwrap();
        records.put_aside("kind/none", "aside/none").await.unwrap();
        assert!(records.get::<String>("aside/none").await.unwrap().is_none());
    }
}

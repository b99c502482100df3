//! The audit log: what was done, by whom, why, and what came of it. Each entry holds the hash of the one before,
//! so that a change anywhere breaks the chain from there on. Must never change or delete an entry.
//!
//! Whoever can write the whole store can write a whole new chain. Against that, keep a [`Head`] elsewhere and
//! give it to [`Audit::verify`].

use crate::store::{
    COMMIT_BYTES_MAX, Commit, Cursor, Guard, Key, Outcome, PAGE_RECORDS_MAX, Record, Rev, Store, StoreError,
};
use proteus_model::id::OpId;
use proteus_model::profile::canonical;
use proteus_model::unit::UnixMillis;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use tokio::sync::Mutex;

#[cfg(test)]
mod tests;

/// How often an entry is tried again when another process was faster.
const TRIES_MAX: usize = 16;

/// How often a commit of unknown outcome is resubmitted.
const RESUBMITS_MAX: usize = 8;

/// Largest entry: a quarter of a commit, so that evidence is evidence and not a dump.
pub const ENTRY_BYTES_MAX: usize = COMMIT_BYTES_MAX / 4;

const HEAD_KEY: &str = "audit-head";
const ENTRY_PREFIX: &str = "audit/";

/// SHA-256 of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EntryHash([u8; 32]);

impl EntryHash {
    /// What the first entry holds as the hash of the one before.
    pub const NONE: Self = Self([0; 32]);

    fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for EntryHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The text is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a hash: expected 64 digits of 0-9 and a-f")]
pub struct HashError;

impl FromStr for EntryHash {
    type Err = HashError;
    fn from_str(text: &str) -> Result<Self, HashError> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(HashError),
        };
        let pairs = text.as_bytes().chunks_exact(2);
        if text.len() != 64 {
            return Err(HashError);
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(pairs) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(hash))
    }
}

impl TryFrom<String> for EntryHash {
    type Error = HashError;
    fn try_from(text: String) -> Result<Self, HashError> {
        text.parse()
    }
}

impl From<EntryHash> for String {
    fn from(hash: EntryHash) -> String {
        hash.to_string()
    }
}

/// Something else that could have been done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alternative {
    /// What.
    pub action: String,
    /// Why it was not.
    pub why_not: String,
}

/// What is to be written down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// When, by the clock of the caller.
    pub at: UnixMillis,
    /// Who: a person's token, a trigger, a loop.
    pub actor: String,
    /// What was done, as in `morph.begin`.
    pub action: String,
    /// To what, as in `vm/web-1`.
    pub subject: String,
    /// Why, in one sentence.
    pub why: String,
    /// What that is known from.
    pub evidence: Value,
    /// What else could have been done.
    pub rejected: Vec<Alternative>,
    /// The effect that was foreseen; null where none was.
    pub predicted: Value,
    /// The effect that was measured; null where it is not known yet.
    pub actual: Value,
}

impl AuditRecord {
    /// A record without evidence, alternatives and effects.
    pub fn new(at: UnixMillis, actor: &str, action: &str, subject: &str, why: &str) -> Self {
        Self {
            at,
            actor: actor.to_owned(),
            action: action.to_owned(),
            subject: subject.to_owned(),
            why: why.to_owned(),
            evidence: Value::Null,
            rejected: Vec::new(),
            predicted: Value::Null,
            actual: Value::Null,
        }
    }
}

/// A link of the chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// Hash of the entry before.
    pub prev: EntryHash,
    /// What was written down.
    #[serde(flatten)]
    pub record: AuditRecord,
    /// SHA-256 of the stored text of all of the above.
    pub hash: EntryHash,
}

/// What is hashed: the entry without its own hash.
#[derive(Serialize, Deserialize)]
struct Body {
    seq: u64,
    prev: EntryHash,
    #[serde(flatten)]
    record: AuditRecord,
}

/// The end of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Number of the last entry; 0: there is none.
    pub seq: u64,
    /// Its hash.
    pub hash: EntryHash,
}

impl Head {
    const EMPTY: Self = Self { seq: 0, hash: EntryHash::NONE };
}

/// How the chain is broken at an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Break {
    /// The entry is not there.
    Missing,
    /// The entry is not text of the expected form.
    Unreadable,
    /// Its text is not what its hash was made of.
    Changed,
    /// It does not hold the hash of the entry before.
    Unlinked,
    /// The head names another hash for it.
    HeadDiffers,
    /// The head that was kept elsewhere names another hash for it.
    AnchorDiffers,
    /// It comes after the head.
    BeyondHead,
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "is missing",
            Self::Unreadable => "cannot be read",
            Self::Changed => "was changed after it was written",
            Self::Unlinked => "does not follow from the entry before",
            Self::HeadDiffers => "is not the one that the head names",
            Self::AnchorDiffers => "is not the one that was noted elsewhere",
            Self::BeyondHead => "comes after the end of the chain",
        })
    }
}

/// What the log could not do.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The store did not take or give what it should.
    #[error("{doing} of the audit log")]
    Store {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        #[source]
        source: StoreError,
    },
    /// Others were faster every time.
    #[error("an audit entry was not written: others wrote {TRIES_MAX} times in between")]
    Contended,
    /// It is not known whether the entry was written.
    #[error("whether the audit entry {seq} was written is not known")]
    Unknown {
        /// Its number.
        seq: u64,
    },
    /// Too much for an entry.
    #[error("an audit entry of {bytes} bytes: at most {ENTRY_BYTES_MAX} are taken")]
    TooLarge {
        /// How much.
        bytes: usize,
    },
    /// The chain is broken.
    #[error("audit entry {seq} {how}")]
    Broken {
        /// The first entry where it is.
        seq: u64,
        /// How.
        how: Break,
    },
}

fn failed(doing: &'static str) -> impl Fn(StoreError) -> AuditError {
    move |source| AuditError::Store { doing, source }
}

/// What became of an entry that goes with other changes.
#[derive(Debug)]
pub enum Appended {
    /// Entry and changes are there.
    Written {
        /// The entry.
        entry: Box<Entry>,
        /// The revision of the commit.
        rev: Rev,
    },
    /// Nothing was written: these guards did not hold, one of the changes' own among them.
    Conflict(Vec<(Key, Option<Rev>)>),
}

/// Draws 128 bits: at random, or in the twin from a seed.
pub type Entropy = Arc<dyn Fn() -> u128 + Send + Sync>;

/// The log.
pub struct Audit {
    store: Arc<dyn Store>,
    entropy: Entropy,
    /// One at a time in this process: other processes are met at the store.
    turn: Mutex<()>,
}

fn entry_key(seq: u64) -> Result<Key, StoreError> {
    Key::new(format!("{ENTRY_PREFIX}{seq:020}"))
}

impl Body {
    fn text(&self) -> Result<String, serde_json::Error> {
        Ok(canonical::to_text(&serde_json::to_value(self)?))
    }

    fn sealed(self, hash: EntryHash) -> Entry {
        Entry { seq: self.seq, prev: self.prev, record: self.record, hash }
    }
}

/// An entry is stored as its hash, a line break, and exactly the bytes that were hashed: reading never has to
/// write the same text again to check it.
fn read_entry(seq: u64, value: &[u8]) -> Result<Entry, AuditError> {
    let broken = |how| AuditError::Broken { seq, how };
    let text = std::str::from_utf8(value).map_err(|_| broken(Break::Unreadable))?;
    let (hash, body) = text.split_once('\n').ok_or(broken(Break::Unreadable))?;
    let hash: EntryHash = hash.parse().map_err(|_| broken(Break::Unreadable))?;
    if EntryHash::of(body.as_bytes()) != hash {
        return Err(broken(Break::Changed));
    }
    let body: Body = serde_json::from_str(body).map_err(|_| broken(Break::Unreadable))?;
    if body.seq == seq { Ok(body.sealed(hash)) } else { Err(broken(Break::Unlinked)) }
}

impl Audit {
    /// The log in a store.
    pub fn new(store: Arc<dyn Store>, entropy: Entropy) -> Self {
        Self { store, entropy, turn: Mutex::new(()) }
    }

    async fn read_head(&self) -> Result<(Head, Option<Rev>), AuditError> {
        let key = Key::new(HEAD_KEY).map_err(failed("read the head"))?;
        let Some(record) = self.store.get(&key).await.map_err(failed("read the head"))? else {
            return Ok((Head::EMPTY, None));
        };
        let head = serde_json::from_slice(&record.value);
        let head = head.map_err(|_| AuditError::Broken { seq: 0, how: Break::Unreadable })?;
        Ok((head, Some(record.rev)))
    }

    /// The end of the chain; keep it elsewhere to notice a chain that was written anew.
    pub async fn head(&self) -> Result<Head, AuditError> {
        self.read_head().await.map(|(head, _)| head)
    }

    /// Writes an entry that goes with no other change: what it tells of was done already. It is durable when this
    /// returns.
    pub async fn append(&self, record: AuditRecord) -> Result<Entry, AuditError> {
        match self.append_with(record, Commit::new(OpId::from_bits(0)).relief()).await? {
            Appended::Written { entry, .. } => Ok(*entry),
            // Nothing but the chain was guarded.
            Appended::Conflict(_) => Err(AuditError::Contended),
        }
    }

    /// Writes an entry and the changes of `with` in one commit: both are there afterwards, or neither. The
    /// operation id of `with` is not used: each try is an operation of its own.
    pub async fn append_with(&self, record: AuditRecord, with: Commit) -> Result<Appended, AuditError> {
        self.append_numbered(record, |_| Ok(with.clone())).await
    }

    /// The same with changes that know the entry's number.
    pub(crate) async fn append_numbered(
        &self,
        record: AuditRecord,
        with: impl Fn(u64) -> Result<Commit, StoreError>,
    ) -> Result<Appended, AuditError> {
        let _turn = self.turn.lock().await;
        for _ in 0..TRIES_MAX {
            let (head, rev) = self.read_head().await?;
            let body = Body { seq: head.seq + 1, prev: head.hash, record: record.clone() };
            let with = with(body.seq).map_err(failed("append an entry"))?;
            if let Some(outcome) = self.try_append(body, rev, with).await? {
                return Ok(outcome);
            }
        }
        Err(AuditError::Contended)
    }

    /// `None` where another entry was faster.
    async fn try_append(
        &self,
        body: Body,
        head_rev: Option<Rev>,
        with: Commit,
    ) -> Result<Option<Appended>, AuditError> {
        let fail = failed("append an entry");
        let database = |error: serde_json::Error| StoreError::Database {
            doing: "encode a record",
            source: error.into(),
        };
        let text = body.text().map_err(|error| fail(database(error)))?;
        if text.len() > ENTRY_BYTES_MAX {
            return Err(AuditError::TooLarge { bytes: text.len() });
        }
        let hash = EntryHash::of(text.as_bytes());
        let head =
            serde_json::to_vec(&Head { seq: body.seq, hash }).map_err(|error| fail(database(error)))?;
        let head_key = Key::new(HEAD_KEY).map_err(&fail)?;
        let guard = match head_rev {
            Some(rev) => Guard::Is(head_key.clone(), rev),
            None => Guard::Absent(head_key.clone()),
        };
        let key = entry_key(body.seq).map_err(&fail)?;
        let commit = Commit { op_id: OpId::from_bits((self.entropy)()), ..with.clone() }
            .guard(guard)
            .guard(Guard::Absent(key.clone()))
            .put(head_key.clone(), head)
            .put(key, format!("{hash}\n{text}"));
        for _ in 0..RESUBMITS_MAX {
            match self.store.commit(commit.clone()).await.map_err(&fail)? {
                Outcome::Committed(rev) => {
                    return Ok(Some(Appended::Written { entry: Box::new(body.sealed(hash)), rev }));
                }
                Outcome::Conflict(failed) if with.guards.iter().any(|guard| guard.is_among(&failed)) => {
                    return Ok(Some(Appended::Conflict(failed)));
                }
                // An entry where the head says there is none yet would conflict for ever.
                Outcome::Conflict(now) if now.iter().all(|(key, _)| *key != head_key) => {
                    return Err(AuditError::Broken { seq: body.seq, how: Break::BeyondHead });
                }
                Outcome::Conflict(_) => return Ok(None),
                Outcome::Unknown => {}
            }
        }
        Err(AuditError::Unknown { seq: body.seq })
    }

    /// Entries from number `from` on, at most `limit` of them (1000 at most), each checked against its own hash.
    pub async fn list(&self, from: u64, limit: usize) -> Result<Vec<Entry>, AuditError> {
        let fail = failed("list entries");
        // After the entry before: a cursor at the present revision.
        let rev = self.store.rev().await.map_err(&fail)?;
        let after = entry_key(from.max(1) - 1).map_err(&fail)?;
        let cursor = Some(Cursor { rev, after });
        let page =
            self.store.list(ENTRY_PREFIX, cursor, limit.clamp(1, PAGE_RECORDS_MAX)).await.map_err(&fail)?;
        page.records.iter().map(|record| read_entry(seq_of(record), &record.value)).collect()
    }

    /// The last `limit` entries (1000 at most), or of those before number `before`; oldest first.
    pub async fn tail(&self, before: Option<u64>, limit: usize) -> Result<Vec<Entry>, AuditError> {
        let next = self.head().await?.seq + 1;
        let end = before.map_or(next, |before| before.min(next));
        let first = end.saturating_sub(limit.clamp(1, PAGE_RECORDS_MAX) as u64).max(1);
        match usize::try_from(end.saturating_sub(first)) {
            Ok(count) if count > 0 => self.list(first, count).await,
            _ => Ok(Vec::new()),
        }
    }

    /// Follows the whole chain, as of one revision. `anchor` is a head that was kept elsewhere. The error names
    /// the first entry where the chain is broken; the answer is the head.
    pub async fn verify(&self, anchor: Option<Head>) -> Result<Head, AuditError> {
        let fail = failed("read the chain");
        let mut last = Head::EMPTY;
        let mut cursor = None;
        let (head, _) = self.read_head().await?;
        loop {
            let page = self.store.list(ENTRY_PREFIX, cursor, PAGE_RECORDS_MAX).await.map_err(&fail)?;
            for record in &page.records {
                last = follow(last, record)?;
                let broken = |how| AuditError::Broken { seq: last.seq, how };
                if anchor.is_some_and(|anchor| anchor.seq == last.seq && anchor.hash != last.hash) {
                    return Err(broken(Break::AnchorDiffers));
                }
                // Entries that were written since the head was read are beyond it, and are linked too.
                if head.seq == last.seq && head.hash != last.hash {
                    return Err(broken(Break::HeadDiffers));
                }
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        let needed = head.seq.max(anchor.map_or(0, |anchor| anchor.seq));
        if last.seq < needed {
            return Err(AuditError::Broken { seq: last.seq + 1, how: Break::Missing });
        }
        // The head can have moved on meanwhile, but not stayed behind.
        let (now, _) = self.read_head().await?;
        if now.seq < last.seq {
            return Err(AuditError::Broken { seq: now.seq + 1, how: Break::BeyondHead });
        }
        Ok(last)
    }
}

/// The number in an entry's key; 0 where there is none.
fn seq_of(record: &Record) -> u64 {
    record.key.as_str().strip_prefix(ENTRY_PREFIX).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// The chain with one more entry.
fn follow(last: Head, record: &Record) -> Result<Head, AuditError> {
    let seq = last.seq + 1;
    if seq_of(record) != seq {
        return Err(AuditError::Broken { seq, how: Break::Missing });
    }
    let entry = read_entry(seq, &record.value)?;
    if entry.prev != last.hash {
        return Err(AuditError::Broken { seq, how: Break::Unlinked });
    }
    Ok(Head { seq, hash: entry.hash })
}

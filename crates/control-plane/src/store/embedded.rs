//! The store of one machine: SQLite in this process, in a folder that only one process may have. Must never
//! block the async runtime: the database lives on a thread of its own, reached over a bounded channel.
//!
//! ```text
//! callers --bounded channel--> thread "proteus-store": commits that wait together share one fsync
//!                                |-- answers, after the fsync
//!                                `-- tells watches that the revision rose; each then reads on by itself
//! ```

mod engine;

mod folder;

mod reserve;

mod worker;

#[cfg(test)]
mod tests;

use super::{
    Commit, Cursor, Event, Key, LEASE_MIN, LeaseId, Outcome, PAGE_RECORDS_MAX, Page, Record, Rev, Store,
    StoreError, Watch,
};
use engine::Engine;
use folder::StateFolder;
use reserve::Reserve;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use worker::{Ask, Request, Worker};

/// Requests that may wait for the database's thread: four groups of commits.
const REQUESTS_MAX: usize = 256;

/// Called on the store's thread around every commit that writes: with `"before commit"` when nothing of it is
/// durable yet, and with `"after commit"` when all of it is but nobody has been told. For crash tests.
pub type Probe = Arc<dyn Fn(&str) + Send + Sync>;

/// What [`Embedded::check`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
    /// Revision of the last commit.
    pub rev: Rev,
    /// Oldest revision that can still be listed and watched from.
    pub compacted: Rev,
    /// Keys that are there.
    pub keys: u64,
    /// Schema version.
    pub schema: u32,
    /// What is wrong; empty: nothing.
    pub problems: Vec<String>,
}

/// The embedded store. Clones share it.
#[derive(Clone)]
pub struct Embedded {
    requests: mpsc::Sender<Request>,
    rev: watch::Receiver<Rev>,
    thread: Arc<Mutex<Option<std::thread::JoinHandle<()>>>>,
}

impl Embedded {
    /// Opens the state folder, which is made where it is not there, and takes it for this process.
    /// Blocks for as long as the database's recovery takes (milliseconds).
    pub fn open(folder: &Path, probe: Option<Probe>) -> Result<Self, StoreError> {
        let folder = StateFolder::take(folder)?;
        let engine = Engine::open(&folder.database(), folder.path())?;
        Self::start(engine, Some(folder), probe)
    }

    /// A store in memory, for tests and the twin: same code, nothing durable.
    pub fn in_memory(probe: Option<Probe>) -> Result<Self, StoreError> {
        Self::start(Engine::in_memory()?, None, probe)
    }

    fn start(engine: Engine, folder: Option<StateFolder>, probe: Option<Probe>) -> Result<Self, StoreError> {
        let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
        let (rev_tx, rev) = watch::channel(engine.rev()?);
        let path = folder.as_ref().map_or_else(PathBuf::new, |f| f.path().to_owned());
        let reserve = folder.as_ref().map(|folder| Reserve::of(folder.path()));
        let worker = Worker::new(engine, inbox, rev_tx, probe, reserve)?;
        let thread = std::thread::Builder::new().name("proteus-store".to_owned()).spawn(move || {
            worker.run();
            // The database is closed before the folder is given up.
            drop(folder);
        });
        let thread =
            thread.map_err(|source| StoreError::Io { doing: "start the thread of", path, source })?;
        Ok(Self { requests, rev, thread: Arc::new(Mutex::new(Some(thread))) })
    }

    /// Copies the whole store into a new file that is itself a database, durable when this returns. Commits wait
    /// meanwhile.
    pub async fn backup(&self, to: &Path) -> Result<(), StoreError> {
        let to = to.to_owned();
        self.ask(|reply| Ask::Backup { to, reply }).await
    }

    /// Checks the database's structure and its content against the store's own rules.
    pub async fn check(&self) -> Result<CheckReport, StoreError> {
        self.ask(|reply| Ask::Check { reply }).await
    }

    /// Finishes what was asked for, closes the database and gives the folder up. Later requests get
    /// [`StoreError::Closed`].
    pub async fn close(&self) {
        // An error means that it is closed already.
        let _ = self.requests.send(Request::Close).await;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic of the thread was reported by the thread.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    async fn ask<T: Send>(
        &self,
        ask: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Ask + Send,
    ) -> Result<T, StoreError> {
        ask_on(&self.requests, ask).await
    }
}

async fn ask_on<T: Send>(
    requests: &mpsc::Sender<Request>,
    ask: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Ask + Send,
) -> Result<T, StoreError> {
    let (reply, answer) = oneshot::channel();
    requests.send(Request::Ask(ask(reply))).await.map_err(|_| StoreError::Closed)?;
    answer.await.unwrap_or(Err(StoreError::Closed))
}

#[async_trait::async_trait]
impl Store for Embedded {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let key = key.clone();
        self.ask(|reply| Ask::Get { key, reply }).await
    }

    async fn list(&self, prefix: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        let (prefix, limit) = (prefix.to_owned(), limit.clamp(1, PAGE_RECORDS_MAX));
        self.ask(|reply| Ask::List { prefix, cursor, limit, reply }).await
    }

    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        commit.check()?;
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Commit { commit, reply }).await.map_err(|_| StoreError::Closed)?;
        // The thread took it and is gone: what became of it is seen after the next opening.
        answer.await.unwrap_or(Ok(Outcome::Unknown))
    }

    async fn watch(&self, prefix: &str, after: Rev) -> Result<Box<dyn Watch>, StoreError> {
        let (requests, rev) = (self.requests.clone(), self.rev.clone());
        let mut watch =
            EmbeddedWatch { requests, rev, prefix: prefix.to_owned(), after, ready: VecDeque::new() };
        // Says at once whether the history is there.
        watch.read_on().await?;
        Ok(Box::new(watch))
    }

    async fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.ask(|reply| Ask::Lease { ttl: ttl.max(LEASE_MIN), reply }).await
    }

    async fn renew(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|reply| Ask::Renew { lease, reply }).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|reply| Ask::Revoke { lease, reply }).await
    }

    async fn compact(&self, before: Rev) -> Result<(), StoreError> {
        self.ask(|reply| Ask::Compact { before, reply }).await
    }

    async fn rev(&self) -> Result<Rev, StoreError> {
        self.ask(|reply| Ask::Rev { reply }).await
    }
}

/// Reads the history as it is asked for events: nothing queues up for a slow reader, who is told that it was
/// too slow when the history has gone.
struct EmbeddedWatch {
    requests: mpsc::Sender<Request>,
    rev: watch::Receiver<Rev>,
    prefix: String,
    after: Rev,
    ready: VecDeque<Event>,
}

impl EmbeddedWatch {
    /// Fetches the next events, if any, into `ready`.
    async fn read_on(&mut self) -> Result<(), StoreError> {
        let (prefix, after) = (self.prefix.clone(), self.after);
        let (events, upto) = ask_on(&self.requests, |reply| Ask::Events { prefix, after, reply }).await?;
        self.ready.extend(events);
        self.after = upto;
        Ok(())
    }
}

#[async_trait::async_trait]
impl Watch for EmbeddedWatch {
    async fn next(&mut self) -> Result<Event, StoreError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            // Seen before reading: a commit between the two wakes us once too often, never too rarely.
            let seen = *self.rev.borrow_and_update();
            if seen > self.after {
                self.read_on().await?;
                continue;
            }
            self.rev.changed().await.map_err(|_| StoreError::Closed)?;
        }
    }
}

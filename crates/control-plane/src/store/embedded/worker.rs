//! The thread that has the database: takes requests in order, lets commits that wait together share one fsync,
//! ends leases when their time is over. Must never answer a commit before it is durable.

use super::engine::{Engine, Unfinished};
use super::reserve::Reserve;
use super::{CheckReport, Probe};
use crate::store::{Commit, Cursor, Event, Key, LeaseId, Outcome, Page, Record, Rev, StoreError};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::warn;

/// Most commits that share one fsync: 16 already bring most of the gain.
const GROUP_MAX: usize = 64;

/// How long a lease that could not be ended (a full disk) waits for the next try.
const LEASE_RETRY: Duration = Duration::from_secs(1);

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the thread can be asked for besides commits.
pub(super) enum Ask {
    Get { key: Key, reply: Reply<Option<Record>> },
    List { prefix: String, cursor: Option<Cursor>, limit: usize, reply: Reply<Page> },
    Events { prefix: String, after: Rev, reply: Reply<(Vec<Event>, Rev)> },
    Lease { ttl: Duration, reply: Reply<LeaseId> },
    Renew { lease: LeaseId, reply: Reply<()> },
    Revoke { lease: LeaseId, reply: Reply<()> },
    Compact { before: Rev, reply: Reply<()> },
    Rev { reply: Reply<Rev> },
    Backup { to: PathBuf, reply: Reply<()> },
    Check { reply: Reply<CheckReport> },
}

/// One request.
pub(super) enum Request {
    Commit { commit: Commit, reply: Reply<Outcome> },
    Ask(Ask),
    Close,
}

/// A lease that runs: its time and when it is over.
struct Running {
    ttl: Duration,
    ends_at: Instant,
}

pub(super) struct Worker {
    engine: Engine,
    inbox: mpsc::Receiver<Request>,
    rev: watch::Sender<Rev>,
    probe: Option<Probe>,
    /// None in memory.
    reserve: Option<Reserve>,
    leases: BTreeMap<LeaseId, Running>,
    /// Only for waiting on the inbox with a time limit.
    runtime: Runtime,
}

/// A caller that has gone does not want its answer.
fn answer<T>(reply: Reply<T>, result: Result<T, StoreError>) {
    let _ = reply.send(result);
}

impl Worker {
    pub(super) fn new(
        engine: Engine,
        inbox: mpsc::Receiver<Request>,
        rev: watch::Sender<Rev>,
        probe: Option<Probe>,
        reserve: Option<Reserve>,
    ) -> Result<Self, StoreError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let io = |source| StoreError::Io { doing: "start the timer of", path: PathBuf::new(), source };
        let runtime = runtime.map_err(io)?;
        let now = Instant::now();
        // After a restart every lease gets its full time again: not before, maybe later.
        let leases = engine.leases()?.into_iter().map(|(id, ttl_ms)| {
            let ttl = Duration::from_millis(ttl_ms);
            (id, Running { ttl, ends_at: now + ttl })
        });
        let leases = leases.collect();
        Ok(Self { engine, inbox, rev, probe, reserve, leases, runtime })
    }

    /// Until it is told to close or nobody can ask any more.
    pub(super) fn run(mut self) {
        loop {
            self.end_leases();
            let first = match self.wait() {
                Waited::Request(request) => request,
                Waited::LeaseEnds => continue,
                Waited::Closed => return,
            };
            let mut group = Vec::new();
            let mut next = Some(first);
            // Bounded: GROUP_MAX commits, or the first other request.
            while let Some(request) = next.take() {
                match request {
                    Request::Commit { commit, reply } => group.push((commit, reply)),
                    Request::Ask(ask) => {
                        self.commit_group(std::mem::take(&mut group));
                        self.serve(ask);
                    }
                    Request::Close => {
                        self.commit_group(group);
                        return;
                    }
                }
                if group.len() < GROUP_MAX {
                    next = self.inbox.try_recv().ok();
                }
            }
            self.commit_group(group);
        }
    }

    fn wait(&mut self) -> Waited {
        let inbox = &mut self.inbox;
        let ends_at = self.leases.values().map(|lease| lease.ends_at).min();
        self.runtime.block_on(async move {
            let request = match ends_at {
                None => inbox.recv().await,
                Some(ends_at) => match tokio::time::timeout_at(ends_at, inbox.recv()).await {
                    Ok(request) => request,
                    Err(_) => return Waited::LeaseEnds,
                },
            };
            request.map_or(Waited::Closed, Waited::Request)
        })
    }

    fn probe(&self, point: &str) {
        if let Some(probe) = &self.probe {
            probe(point);
        }
    }

    /// Tells watches how far the store is.
    fn publish(&self) {
        if let Ok(rev) = self.engine.rev() {
            self.rev.send_if_modified(|known| std::mem::replace(known, rev) != rev);
        }
    }

    /// Commits all with one fsync; where that fails, each by itself, so that one cannot fail the others.
    fn commit_group(&mut self, group: Vec<(Commit, Reply<Outcome>)>) {
        if group.len() > 1 && self.has_reserve() {
            let commits: Vec<&Commit> = group.iter().map(|(commit, _)| commit).collect();
            if let Ok(results) = self.commit_together(&commits) {
                self.publish();
                group.into_iter().zip(results).for_each(|((_, reply), result)| answer(reply, result));
                return;
            }
        }
        for (commit, reply) in group {
            let single = self.commit_one(&commit);
            self.publish();
            answer(reply, single);
        }
    }

    /// Whether the space that is kept for a full disk is there, as far as any is kept.
    fn has_reserve(&mut self) -> bool {
        self.reserve.as_mut().is_none_or(Reserve::hold)
    }

    /// Only a commit that helps out of it is taken on a full disk.
    fn commit_one(&mut self, commit: &Commit) -> Result<Outcome, StoreError> {
        let single = |results: Vec<Result<Outcome, StoreError>>| {
            results.into_iter().next().unwrap_or(Err(StoreError::Closed))
        };
        if !self.has_reserve() && !commit.relief {
            return Err(StoreError::DiskFull { doing: "write a commit" });
        }
        match self.commit_together(&[commit]) {
            Err(StoreError::DiskFull { .. })
                if commit.relief && self.reserve.as_mut().is_some_and(Reserve::give_up) =>
            {
                self.commit_together(&[commit]).and_then(single)
            }
            other => other.and_then(single),
        }
    }

    /// One result for each commit; an error if none of them was applied.
    fn commit_together(
        &mut self,
        commits: &[&Commit],
    ) -> Result<Vec<Result<Outcome, StoreError>>, StoreError> {
        self.probe("before commit");
        let mut group = self.engine.group()?;
        let mut results = Vec::with_capacity(commits.len());
        for commit in commits {
            match group.apply(commit) {
                // These leave nothing half done.
                result @ (Ok(_) | Err(StoreError::LeaseGone { .. } | StoreError::OpReused { .. })) => {
                    results.push(result);
                }
                Err(error) => return Err(error),
            }
        }
        match group.finish() {
            Ok(()) => {}
            Err(Unfinished::No(error)) => return Err(error),
            Err(Unfinished::Perhaps) => {
                warn!("the disk failed while a commit was made durable");
                return Ok(commits.iter().map(|_| Ok(Outcome::Unknown)).collect());
            }
        }
        self.probe("after commit");
        Ok(results)
    }

    /// One write that is not a commit of a caller.
    fn write<T>(
        &mut self,
        change: impl FnOnce(&mut super::engine::Group<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut group = self.engine.group()?;
        let value = change(&mut group)?;
        match group.finish() {
            Ok(()) => {}
            Err(Unfinished::No(error)) => return Err(error),
            Err(Unfinished::Perhaps) => {
                let source = Box::new(std::io::Error::other("the disk failed"));
                return Err(StoreError::Database { doing: "finish a write", source });
            }
        }
        self.publish();
        Ok(value)
    }

    fn end_leases(&mut self) {
        let now = Instant::now();
        let over: Vec<LeaseId> =
            self.leases.iter().filter(|(_, lease)| lease.ends_at <= now).map(|(id, _)| *id).collect();
        for id in over {
            match self.write(|group| group.end_lease(id)) {
                Ok(_) => drop(self.leases.remove(&id)),
                Err(error) => {
                    warn!(%id, %error, "lease not ended, will be tried again");
                    if let Some(lease) = self.leases.get_mut(&id) {
                        lease.ends_at = now + LEASE_RETRY;
                    }
                }
            }
        }
    }

    fn serve(&mut self, ask: Ask) {
        match ask {
            Ask::Get { key, reply } => answer(reply, self.engine.get(&key)),
            Ask::List { prefix, cursor, limit, reply } => {
                answer(reply, self.engine.list(&prefix, cursor, limit))
            }
            Ask::Events { prefix, after, reply } => answer(reply, self.engine.events(&prefix, after)),
            Ask::Lease { ttl, reply } => answer(reply, self.begin_lease(ttl)),
            Ask::Renew { lease, reply } => answer(reply, self.renew(lease)),
            Ask::Revoke { lease, reply } => answer(reply, self.revoke(lease)),
            Ask::Compact { before, reply } => answer(reply, self.write(|group| group.compact(before))),
            Ask::Rev { reply } => answer(reply, self.engine.rev()),
            Ask::Backup { to, reply } => answer(reply, self.backup(&to)),
            Ask::Check { reply } => answer(reply, self.engine.check()),
        }
    }

    fn begin_lease(&mut self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX / 2);
        let id = self.write(|group| group.new_lease(ttl_ms))?;
        self.leases.insert(id, Running { ttl, ends_at: Instant::now() + ttl });
        Ok(id)
    }

    fn renew(&mut self, id: LeaseId) -> Result<(), StoreError> {
        let lease = self.leases.get_mut(&id).ok_or(StoreError::LeaseGone { lease: id })?;
        lease.ends_at = Instant::now() + lease.ttl;
        Ok(())
    }

    fn revoke(&mut self, id: LeaseId) -> Result<(), StoreError> {
        let there = self.write(|group| group.end_lease(id))?;
        self.leases.remove(&id);
        if there { Ok(()) } else { Err(StoreError::LeaseGone { lease: id }) }
    }

    fn backup(&self, to: &Path) -> Result<(), StoreError> {
        let io = |doing| move |source| StoreError::Io { doing, path: to.to_owned(), source };
        // Makes the file itself, so that it is ours alone and never somebody else's: VACUUM takes an empty one.
        let file = File::options().write(true).create_new(true).mode(0o600).open(to);
        let file = file.map_err(io("make the backup"))?;
        let written = self.engine.vacuum_into(to).and_then(|()| file.sync_all().map_err(io("make durable")));
        if written.is_err() {
            // What is left of it is no backup. If it cannot be removed either, the first error still says why.
            let _ = std::fs::remove_file(to);
            return written;
        }
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|folder| folder.sync_all()).map_err(io("make durable"))
    }
}

enum Waited {
    Request(Request),
    LeaseEnds,
    Closed,
}

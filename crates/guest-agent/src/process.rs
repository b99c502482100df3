//! A process that the agent started. It is named by a descriptor, so that a signal never hits another process
//! that got its number. Must be waited for by its owner; strangers' orphans are reaped by [`reap_orphans`].

use crate::sys::spawn::Spawned;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};
use std::fmt;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself.
    Exit(i32),
    /// By a signal.
    Signal(i32),
}

impl Ended {
    fn from_status(status: &WaitIdStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Exit(code),
            (None, signal) => Self::Signal(signal.unwrap_or(0)),
        }
    }

    /// Whether all went well.
    pub fn is_success(self) -> bool {
        self == Self::Exit(0)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// A process that the agent started.
#[derive(Debug)]
pub struct Process {
    spawned: Spawned,
    ended: Option<Ended>,
}

impl Process {
    /// Takes ownership of a started process.
    pub fn new(spawned: Spawned) -> Self {
        Self { spawned, ended: None }
    }

    /// Its id, seen from the agent.
    pub fn pid(&self) -> u32 {
        self.spawned.pid
    }

    /// Becomes readable when it ends.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.spawned.pidfd.as_fd()
    }

    /// How it ended, if it did. Reaps it.
    pub fn try_wait(&mut self) -> Option<Ended> {
        if self.ended.is_none() {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            self.ended = match waitid(WaitId::PidFd(self.pidfd()), options) {
                Ok(status) => status.as_ref().map(Ended::from_status),
                // Somebody else reaped it: it ended, nobody knows how.
                Err(_) => Some(Ended::Signal(0)),
            };
        }
        self.ended
    }

    /// Sends a signal; one that already ended needs none.
    pub fn signal(&self, signal: Signal) {
        // The only failures are "ended already" and a missing right, which the first process has.
        let _ = pidfd_send_signal(self.pidfd(), signal);
    }
}

/// Reaps ended children that nobody here started: as the first process the agent inherits every orphan.
/// `is_ours` says whose ends are waited for elsewhere; it stops at the first of these, and must be called again
/// when that one was waited for.
pub fn reap_orphans(is_ours: impl Fn(u32) -> bool) {
    // Each round reaps one, and the kernel bounds how many there are.
    while let Some(pid) = crate::sys::ended_child().filter(|pid| !is_ours(*pid)) {
        let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return };
        if waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG).is_err() {
            return;
        }
    }
}

//! What the people of this guest allow to be told of them. They say so inside it, with `proteus-guest consent`; it is
//! bound to this machine's identity, so it does not follow a clone. What was released is kept and repeated, never drawn
//! again. Must never hold, tell or log who somebody is, and never release what was not written down before.

pub mod command;

mod noise;

mod session;

use crate::failure::Failure;
use crate::procfs::read_text;
use crate::state::{self, Kept};
use proteus_protocol::guest::v1::findings::{self, RELEASES_MAX, Release, Users};
use serde::{Deserialize, Serialize};
use session::Told;
use std::path::PathBuf;

/// Its name in the folder of what the agent keeps.
const FILE: &str = "consent";
/// A release is of so long.
const WEEK_MS: u64 = 7 * 86_400_000;
/// Weeks that are looked at in one go: two years in which nobody asked.
const WEEKS_MAX: usize = 104;

/// What was allowed, and what was released since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Consent {
    /// The machine that it was given in.
    machine: String,
    given_ms: u64,
    /// The week that is released next, from 0.
    week: u64,
    releases: Vec<Release>,
}

/// Where it is kept, and what it is about.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
    machine_id: PathBuf,
    /// The log of sessions, and the one before it.
    sessions: [PathBuf; 2],
}

impl Default for Store {
    fn default() -> Self {
        Self {
            folder: state::FOLDER.into(),
            machine_id: "/etc/machine-id".into(),
            sessions: ["/var/log/wtmp".into(), "/var/log/wtmp.1".into()],
        }
    }
}

fn failure(operation: &str) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure::system(operation, &error)
}

/// What is told without consent.
pub fn withdrawn() -> Users {
    Users { budget: RELEASES_MAX as u32, ..Users::default() }
}

impl Consent {
    fn is_spent(&self) -> bool {
        self.releases.len() >= RELEASES_MAX
    }

    fn told(&self) -> Users {
        Users {
            consent: findings::Consent::Given,
            given_ms: Some(self.given_ms),
            // At most RELEASES_MAX, which is small.
            budget_spent: self.releases.len() as u32,
            budget: RELEASES_MAX as u32,
            releases: self.releases.clone(),
        }
    }

    /// Begins now where the clock was set back behind the consent; whether it does. Only where the log ends by now: what
    /// is counted from here on is then written after the consent, whatever the clock says next. A log that goes on
    /// beyond the clock says that the clock is behind, and sessions from before the consent would be counted.
    fn move_to(&mut self, now_ms: u64, is_log_over: impl Fn() -> bool) -> bool {
        let is_moved = self.given_ms > now_ms && is_log_over();
        if is_moved {
            (self.given_ms, self.week) = (now_ms, 0);
        }
        is_moved
    }

    /// Releases what weeks are over; whether anything is new.
    fn release(
        &mut self,
        now_ms: u64,
        count: impl Fn(u64, u64) -> Told,
        draw: &mut impl FnMut() -> Option<u64>,
    ) -> bool {
        let before = self.week;
        for _ in 0..WEEKS_MAX {
            let from_ms = self.given_ms.saturating_add(self.week.saturating_mul(WEEK_MS));
            let until_ms = from_ms.saturating_add(WEEK_MS);
            if self.is_spent() || until_ms > now_ms {
                break;
            }
            match count(from_ms, until_ms) {
                Told::Whole(hours) => {
                    let Some((by_hour, sessions)) = noise::with_noise(hours, draw) else { break };
                    let number = self.releases.len() as u32 + 1;
                    self.releases.push(Release { number, from_ms, until_ms, by_hour, sessions });
                }
                // It is left out: it would not be one with few sessions.
                Told::Lacking => {}
                // A clock that runs ahead would spend the whole budget on weeks that nobody lived through.
                Told::NotYet => break,
            }
            self.week += 1;
        }
        self.week != before
    }
}

impl Store {
    /// The identity of this machine; `None`: it has none, or none yet.
    fn machine(&self) -> Option<String> {
        let id = read_text(&self.machine_id).ok()?;
        (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
    }

    /// What was allowed in this machine. What is damaged or was given elsewhere is none, and is erased.
    fn load(&self) -> Result<Option<Consent>, Failure> {
        let consent = match state::read(&self.folder, FILE).map_err(failure("read the consent"))? {
            Kept::Absent => return Ok(None),
            Kept::Damaged => None,
            Kept::Whole(body) => serde_json::from_slice::<Consent>(&body).ok(),
        };
        let machine = self.machine();
        let own = consent.filter(|consent| machine.as_ref() == Some(&consent.machine));
        let own = own.filter(|consent| consent.releases.len() <= RELEASES_MAX);
        if own.is_none() {
            self.erase()?;
        }
        Ok(own)
    }

    fn save(&self, consent: &Consent) -> Result<(), Failure> {
        let body = serde_json::to_vec(consent).map_err(|e| Failure::invalid(&e))?;
        state::write(&self.folder, FILE, &body).map_err(failure("write the consent"))
    }

    fn lock(&self) -> Result<std::fs::File, Failure> {
        state::lock(&self.folder).map_err(failure("lock the consent"))
    }

    fn erase(&self) -> Result<(), Failure> {
        state::remove(&self.folder, FILE).map_err(failure("erase the consent"))
    }

    /// Erases it with all releases.
    pub fn withdraw(&self) -> Result<(), Failure> {
        let _lock = self.lock()?;
        self.erase()
    }

    /// Allows it from now on; false: it is allowed already. One whose budget is spent begins anew.
    fn give(&self, now_ms: u64) -> Result<bool, Failure> {
        if !state::is_on_disk(&self.folder) {
            let folder = self.folder.display();
            return Err(Failure::unsupported(format!(
                "{folder} is in memory: the consent would not be kept"
            )));
        }
        let machine = self.machine().ok_or_else(|| {
            let file = self.machine_id.display();
            Failure::unsupported(format!(
                "{file} has no machine id: the consent would follow a copy of this disk"
            ))
        })?;
        let _lock = self.lock()?;
        if self.load()?.is_some_and(|consent| !consent.is_spent()) {
            return Ok(false);
        }
        self.save(&Consent { machine, given_ms: now_ms, week: 0, releases: Vec::new() }).map(|()| true)
    }

    /// What is told now. A release is written down before it is told: one that is drawn twice tells more than one.
    pub fn told(&self, now_ms: u64) -> Result<Users, Failure> {
        self.told_with(now_ms, &mut noise::random)
    }

    fn told_with(&self, now_ms: u64, draw: &mut impl FnMut() -> Option<u64>) -> Result<Users, Failure> {
        if !self.folder.exists() {
            return Ok(withdrawn());
        }
        let _lock = self.lock()?;
        let Some(mut consent) = self.load()? else { return Ok(withdrawn()) };
        let count = |from_ms, until_ms| session::by_hour(&self.sessions, from_ms, until_ms);
        let is_moved = consent.move_to(now_ms, || session::is_over(&self.sessions, now_ms));
        if consent.release(now_ms, count, draw) || is_moved {
            self.save(&consent)?;
        }
        Ok(consent.told())
    }

    /// Why nothing can be released here though it is allowed.
    pub fn missing(&self) -> Option<String> {
        let log = &self.sessions[0];
        let why = format!("{} is not in this guest: sessions are not counted", log.display());
        (!log.exists() && self.folder.join(FILE).exists()).then_some(why)
    }
}

/// Whether there is a consent in this guest. Costs one look at a file.
pub fn is_given() -> bool {
    let store = Store::default();
    store.folder.join(FILE).exists()
}

/// Takes away what a template's people allowed: its clone's are others.
pub fn forget() -> Result<(), Failure> {
    Store::default().erase()
}

#[cfg(test)]
mod tests;

//! How the guest's configuration changes, by whoever changes it: a snapshot of each aspect in turn, and what differs from
//! the one before. Must never tell what is in a file: of `/etc` there are digests with a key that stays in the guest.

mod etc;

mod read;

mod record;

mod sysctl;

use super::{Collect, Step, found, wall_ms};
use crate::failure::Failure;
use crate::state;
use proteus_protocol::guest::v1::findings::{Aspect, Collector, Findings};
use record::Record;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Takes away the history that a template had: its clone begins its own.
pub fn forget_history() -> Result<(), Failure> {
    let failure = |e| Failure::system("erase the history of the configuration", &e);
    state::remove(Path::new(state::FOLDER), record::FILE).map_err(failure)
}

/// What is looked at, in this order; files of `/etc` last, in several steps.
const ORDER: [Aspect; 8] = [
    Aspect::Kernel,
    Aspect::Devices,
    Aspect::Mounts,
    Aspect::Images,
    Aspect::Sysctl,
    Aspect::Units,
    Aspect::Packages,
    Aspect::Files,
];

/// Names and values of an aspect.
pub type Entries = BTreeMap<String, String>;

/// What one look at an aspect says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// All entries, and what is lacking of them.
    Seen(Entries, Option<String>),
    /// Nothing changed since the look before.
    Same,
    /// It cannot be known, for this reason.
    Unknown(String),
}

/// The history of this guest's configuration.
pub struct History {
    root: PathBuf,
    folder: PathBuf,
    record: Option<Record>,
    reader: read::Reader,
    etc: etc::Etc,
    next: usize,
    missing: BTreeMap<Aspect, String>,
}

impl History {
    fn new(root: PathBuf, folder: PathBuf) -> Self {
        Self {
            root,
            folder,
            record: None,
            reader: read::Reader::default(),
            etc: etc::Etc::default(),
            next: 0,
            missing: BTreeMap::new(),
        }
    }

    /// One look at what is next; `None`: it takes another step.
    fn look(&mut self, aspect: Aspect, key: [u64; 2]) -> Option<Look> {
        let root = &self.root;
        Some(match aspect {
            Aspect::Kernel => read::kernel(),
            Aspect::Devices => read::devices(root),
            Aspect::Mounts => read::mounts(root),
            Aspect::Images => read::images(root),
            Aspect::Sysctl => read::sysctl(root),
            Aspect::Units => read::units(root),
            Aspect::Packages => self.reader.packages(root),
            Aspect::Files => return self.etc.look(root, key),
            Aspect::Unknown => Look::Same,
        })
    }
}

impl Default for History {
    fn default() -> Self {
        Self::new("/".into(), state::FOLDER.into())
    }
}

impl Collect for History {
    fn name(&self) -> Collector {
        Collector::Configuration
    }

    fn period(&self) -> Duration {
        Duration::from_secs(300)
    }

    fn step(&mut self, findings: &mut Findings) -> Step {
        let now_ms = wall_ms();
        let key = self.record.get_or_insert_with(|| Record::open(&self.folder, now_ms)).key();
        let aspect = ORDER[self.next];
        let Some(look) = self.look(aspect, key) else { return Step::More };
        let Some(record) = &mut self.record else { return Step::Done };
        match look {
            Look::Seen(entries, lacking) => {
                record.take(aspect, entries, lacking.is_some(), now_ms);
                let _ = match lacking {
                    Some(lacking) => self.missing.insert(aspect, lacking),
                    None => self.missing.remove(&aspect),
                };
            }
            Look::Same => record.same(aspect, now_ms),
            Look::Unknown(why) => drop(self.missing.insert(aspect, why)),
        }
        self.next = (self.next + 1) % ORDER.len();
        if self.next != 0 {
            return Step::More;
        }
        record.keep(&self.folder);
        findings.configuration = found(record.told(&ORDER, &self.missing));
        Step::Done
    }

    fn forget(&mut self) {
        let (root, folder) = (std::mem::take(&mut self.root), std::mem::take(&mut self.folder));
        *self = Self::new(root, folder);
    }
}

#[cfg(test)]
mod tests;

//! The folder of the adapter's state: for each VM a history and a record, by id. Must never write outside it, and never
//! leave half a record.

use crate::domstats::State;
use anyhow::{Context, Result, bail};
use proteus_brain::personality::PersonalityRecord;
use proteus_host_agent::telemetry::Intake;
use proteus_model::id::VmId;
use proteus_model::telemetry::{Bucket, Tier};
use proteus_model::unit::{Bytes, UnixMillis};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// So long what is kept of a VM that is no more stays: as long as its history reaches back, sixty days.
const KEPT_MS: u64 = 60 * 24 * 3_600_000;

/// What is kept of a VM beside its history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Which.
    pub id: VmId,
    /// Its name when it was seen last.
    pub name: String,
    /// How it was.
    pub state: State,
    /// Its vCPUs.
    pub vcpus: Option<u32>,
    /// Its memory.
    pub memory: Option<Bytes>,
    /// When it was written.
    pub at: UnixMillis,
    /// What it is observed to be.
    pub record: PersonalityRecord,
}

/// The folder.
#[derive(Debug)]
pub struct Place {
    root: PathBuf,
    /// Held by who watches.
    lock: Option<File>,
}

fn make_dir(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("make the folder {}", path.display()))
}

impl Place {
    /// To look into.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), lock: None }
    }

    /// The same folder, to look into.
    pub fn reader(&self) -> Self {
        Self::new(&self.root)
    }

    /// To watch into: one at a time.
    pub fn hold(root: &Path) -> Result<Self> {
        make_dir(&root.join("vms"))?;
        let path = root.join("lock");
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = file.with_context(|| format!("open {}", path.display()))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => bail!("another watcher has the folder {}", root.display()),
            Err(error) => return Err(error).with_context(|| format!("lock {}", path.display())),
        }
        let place = Self { root: root.to_owned(), lock: Some(lock) };
        // Whoever held the lock before is no more, so nobody listens there.
        let _ = fs::remove_file(place.socket());
        Ok(place)
    }

    /// Where the watcher answers.
    pub fn socket(&self) -> PathBuf {
        self.root.join("proteus.sock")
    }

    /// A VM's own folder.
    pub fn dir(&self, vm: VmId) -> PathBuf {
        self.root.join("vms").join(vm.to_string())
    }

    /// Makes it.
    pub fn make(&self, vm: VmId) -> Result<PathBuf> {
        let dir = self.dir(vm);
        make_dir(&dir)?;
        Ok(dir)
    }

    /// What is kept of a VM; `None`: nothing.
    pub fn read(&self, vm: VmId) -> Result<Option<Kept>> {
        let path = self.dir(vm).join("record.json");
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("read {}", path.display()))?,
        };
        let kept = serde_json::from_slice(&bytes);
        kept.map(Some).with_context(|| format!("{} is no record of a VM", path.display()))
    }

    /// Puts a record that cannot be read out of the way.
    pub fn put_aside(&self, vm: VmId) {
        let path = self.dir(vm).join("record.json");
        let _ = fs::rename(&path, path.with_extension("unreadable"));
    }

    /// Keeps a record, whole or not at all.
    pub fn write(&self, kept: &Kept) -> Result<()> {
        debug_assert!(self.lock.is_some());
        let path = self.dir(kept.id).join("record.json");
        let next = path.with_extension("next");
        let write = || -> io::Result<()> {
            let mut options = File::options();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&next)?;
            file.write_all(&serde_json::to_vec(kept)?)?;
            file.sync_data()?;
            fs::rename(&next, &path)
        };
        write().with_context(|| format!("write {}", path.display()))
    }

    /// Ids of all VMs of which anything is kept.
    fn ids(&self) -> Vec<VmId> {
        let entries = fs::read_dir(self.root.join("vms")).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// All that can be read of what is kept.
    pub fn all(&self) -> Vec<Kept> {
        self.ids().into_iter().filter_map(|id| self.read(id).ok().flatten()).collect()
    }

    /// Gives up VMs that were not seen for so long that their histories tell nothing any more; how many.
    pub fn prune(&self, now: UnixMillis, there: impl Fn(VmId) -> bool) -> usize {
        let old = |kept: &Kept| now.0.saturating_sub(kept.at.0) > KEPT_MS && !there(kept.id);
        let old: Vec<Kept> = self.all().into_iter().filter(old).collect();
        old.iter().filter(|kept| fs::remove_dir_all(self.dir(kept.id)).is_ok()).count()
    }

    /// A VM's minutes of the last hour and its long buckets.
    pub fn history(&self, vm: VmId, since: UnixMillis) -> Result<[Vec<Bucket>; 2]> {
        debug_assert_eq!(Tier::ALL[1].step_s, 60);
        let dir = self.dir(vm);
        let (mut minutes, _) = Intake::history(&dir, 1)?;
        minutes.retain(|bucket| bucket.begins_at >= since);
        Ok([minutes, Intake::history(&dir, 2)?.0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(id: u128, at: u64) -> Kept {
        Kept {
            id: VmId::from_bits(id),
            name: "a\n\"b\"".to_owned(),
            state: State::Running,
            vcpus: Some(2),
            memory: None,
            at: UnixMillis(at),
            record: PersonalityRecord::new(UnixMillis(1)),
        }
    }

    #[test]
    fn one_watcher_at_a_time_and_what_it_keeps_is_there_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("state");
        let place = Place::hold(&root).unwrap();
        assert!(Place::hold(&root).unwrap_err().to_string().starts_with("another watcher has the folder"));
        for one in [kept(1, 5), kept(2, 2 * KEPT_MS)] {
            place.make(one.id).unwrap();
            place.write(&one).unwrap();
            assert_eq!(place.read(one.id).unwrap(), Some(one));
        }
        drop(place);
        let place = Place::hold(&root).unwrap();
        assert_eq!(place.all().len(), 2);
        let now = UnixMillis(2 * KEPT_MS + 5);
        assert_eq!(place.prune(now, |id| id == VmId::from_bits(1)), 0);
        assert_eq!(place.prune(now, |_| false), 1);
        assert_eq!(place.all(), [kept(2, 2 * KEPT_MS)]);
        assert_eq!(place.read(VmId::from_bits(1)).unwrap(), None);
        fs::write(place.dir(VmId::from_bits(2)).join("record.json"), "{").unwrap();
        assert!(place.read(VmId::from_bits(2)).is_err() && place.all().is_empty());
    }
}

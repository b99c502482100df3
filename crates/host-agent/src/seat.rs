//! The places of VMs on this host, as files: `vms/ID/seat.json`, and beside it the highest generation seen.
//! Written whole or not at all. Must never hand out a slot twice.

use proteus_hypervisor::driver::{SLOT_MAX, Seat};
use proteus_model::id::{Generation, VmId};
use proteus_model::vm::VmIntent;
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// All seats of a host.
pub(crate) struct Seats {
    dir: PathBuf,
    taken: BTreeMap<VmId, Seat>,
    fences: BTreeMap<VmId, Generation>,
}

/// Why a seat could not be given or kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeatError {
    #[error("{doing} {path}")]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is damaged: {why}")]
    Damaged { path: PathBuf, why: String },
    #[error("the host has a place for {SLOT_MAX} VMs, and all are taken")]
    Full,
}

fn file_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SeatError {
    let path = path.to_owned();
    move |source| SeatError::File { doing, path, source }
}

/// Writes a file so that a crash leaves the old one or the new one. For nobody else to read: a seat holds what its
/// owner keeps for the guest alone.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), SeatError> {
    let next = path.with_extension("next");
    let write = || {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&next, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(file_error("write", path))
}

impl Seats {
    /// Reads all seats below `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Self, SeatError> {
        fs::create_dir_all(dir).map_err(file_error("make", dir))?;
        let mut seats = Self { dir: dir.to_owned(), taken: BTreeMap::new(), fences: BTreeMap::new() };
        for entry in fs::read_dir(dir).map_err(file_error("read", dir))? {
            let place = entry.map_err(file_error("read", dir))?.path();
            let path = place.join("seat.json");
            let text = match fs::read(&path) {
                // A folder without a seat is one whose making was cut short, or whose removal was.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs::remove_dir_all(&place).map_err(file_error("clear", &place))?;
                    continue;
                }
                other => other.map_err(file_error("read", &path))?,
            };
            // Once they were open to everybody.
            fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(file_error("close", &path))?;
            let seat: Seat = serde_json::from_slice(&text)
                .map_err(|e| SeatError::Damaged { path: path.clone(), why: e.to_string() })?;
            let fence = fs::read_to_string(place.join("generation")).unwrap_or_default();
            seats.fences.insert(seat.id, Generation(fence.trim().parse().unwrap_or(0)));
            seats.taken.insert(seat.id, seat);
        }
        Ok(seats)
    }

    pub(crate) fn get(&self, vm: VmId) -> Option<&Seat> {
        self.taken.get(&vm)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Seat> {
        self.taken.values()
    }

    /// Gives the VM a place; the same one when asked again.
    pub(crate) fn ensure(&mut self, vm: VmId, intent: &VmIntent) -> Result<&Seat, SeatError> {
        if !self.taken.contains_key(&vm) {
            let used: std::collections::BTreeSet<u16> = self.taken.values().map(|s| s.slot).collect();
            let slot = (0..SLOT_MAX).find(|slot| !used.contains(slot)).ok_or(SeatError::Full)?;
            let dir = self.dir.join(vm.to_string());
            let seat = Seat {
                id: vm,
                slot,
                dir,
                intent: intent.clone(),
                attached: Vec::new(),
                furnished: false,
                newborn: false,
            };
            self.save(seat)?;
        }
        self.taken.get(&vm).ok_or(SeatError::Full)
    }

    /// Keeps a changed seat.
    pub(crate) fn save(&mut self, seat: Seat) -> Result<(), SeatError> {
        fs::create_dir_all(&seat.dir).map_err(file_error("make", &seat.dir))?;
        let path = seat.dir.join("seat.json");
        let text = serde_json::to_vec_pretty(&seat).map_err(io::Error::other);
        write_whole(&path, &text.map_err(file_error("write", &path))?)?;
        self.taken.insert(seat.id, seat);
        Ok(())
    }

    /// Takes the place away, with all files in it: overlays and seed too. A file that the owner brought is never
    /// in it.
    pub(crate) fn remove(&mut self, vm: VmId) -> Result<(), SeatError> {
        let Some(seat) = self.taken.remove(&vm) else { return Ok(()) };
        self.fences.remove(&vm);
        // The seat first: a folder without one is swept at the next start.
        let path = seat.dir.join("seat.json");
        fs::remove_file(&path).map_err(file_error("remove", &path))?;
        fs::remove_dir_all(&seat.dir).map_err(file_error("remove", &seat.dir))
    }

    /// The highest generation seen of a VM.
    pub(crate) fn fence(&self, vm: VmId) -> Generation {
        self.fences.get(&vm).copied().unwrap_or_default()
    }

    /// Raises it; never lowers.
    pub(crate) fn raise_fence(&mut self, vm: VmId, to: Generation) -> Result<(), SeatError> {
        let Some(seat) = self.taken.get(&vm) else { return Ok(()) };
        if to > self.fence(vm) {
            write_whole(&seat.dir.join("generation"), to.0.to_string().as_bytes())?;
            self.fences.insert(vm, to);
        }
        Ok(())
    }
}

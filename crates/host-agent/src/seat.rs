//! The places of VMs on this host, as files: `vms/ID/seat.json`, and beside it the highest generation seen.
//! Written whole or not at all. Must never hand out a slot twice. A place that cannot be read is set aside with the
//! reason: the other VMs of the host need Proteus.
//!
//! Which slot a VM has its seat says, and nothing else: neither its user nor any file's owner tells. The file `slot`
//! beside it is that number once more, made to say the same whenever a seat is read, for when the seat cannot be.

use crate::claim::{self, Clash};
use proteus_hypervisor::driver::{DriverError, SLOT_MAX, Seat};
use proteus_hypervisor::whole;
use proteus_model::id::{Generation, VmId};
use proteus_model::vm::VmIntent;
use proteus_protocol::cause::chain;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// All seats of a host.
pub(crate) struct Seats {
    dir: PathBuf,
    taken: BTreeMap<VmId, Seat>,
    fences: BTreeMap<VmId, Generation>,
    /// Places that cannot be read, and why.
    damaged: BTreeMap<VmId, String>,
    /// Slots of theirs, as far as they can be told.
    reserved: BTreeSet<u16>,
    /// Those of them whose slot cannot be told.
    slotless: BTreeSet<PathBuf>,
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
    #[error("{why}; mend the file, then start Proteus again")]
    Damaged { why: String },
    #[error(transparent)]
    Clash(#[from] Clash),
    /// The host has no user left for its VMM, or its users cannot be read.
    #[error("no user for its VMM")]
    User(#[source] DriverError),
    #[error("the host has a place for {SLOT_MAX} VMs, and all are taken")]
    Full,
    #[error("{} cannot be read, and nothing tells which slot its VM has: a new one could get the same", place.display())]
    SlotUnknown { place: PathBuf },
}

fn file_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SeatError {
    let path = path.to_owned();
    move |source| SeatError::File { doing, path, source }
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), SeatError> {
    whole::write(path, bytes).map_err(file_error("write", path))
}

/// Reads the place in a folder; `None` where it has none.
fn read_place(place: &Path) -> Result<Option<(Seat, Generation)>, SeatError> {
    let path = place.join("seat.json");
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(file_error("read", &path))?,
    };
    // Once they were open to everybody.
    fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(file_error("close", &path))?;
    let damaged = |why: &dyn fmt::Display, path: &Path| SeatError::Damaged {
        why: format!("{} is damaged: {why}", path.display()),
    };
    let seat: Seat = serde_json::from_slice(&text).map_err(|error| damaged(&error, &path))?;
    let path = place.join("generation");
    let fence = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(file_error("read", &path)(error)),
        // A fence that is not known must not be taken for the lowest.
        Ok(text) => text.trim().parse().map_err(|error| damaged(&error, &path))?,
    };
    Ok(Some((seat, Generation(fence))))
}

/// The number that a place's file `slot` says.
fn noted_slot(place: &Path) -> Option<u16> {
    let text = fs::read_to_string(place.join("slot")).ok()?;
    text.trim().parse().ok().filter(|slot| *slot < SLOT_MAX)
}

/// Makes the file `slot` say what the seat says.
fn note_slot(seat: &Seat) -> Result<(), SeatError> {
    if noted_slot(&seat.dir) == Some(seat.slot) {
        return Ok(());
    }
    write_whole(&seat.dir.join("slot"), seat.slot.to_string().as_bytes())
}

/// The slot of a seat that is no whole seat, as far as it is text of that form.
fn legible_slot(place: &Path) -> Option<u16> {
    #[derive(Deserialize)]
    struct Slot {
        slot: u16,
    }
    let text = fs::read(place.join("seat.json")).ok()?;
    let Slot { slot } = serde_json::from_slice(&text).ok()?;
    Some(slot).filter(|slot| *slot < SLOT_MAX)
}

impl Seats {
    /// Reads all seats below `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Self, SeatError> {
        fs::create_dir_all(dir).map_err(file_error("make", dir))?;
        let mut seats = Self {
            dir: dir.to_owned(),
            taken: BTreeMap::new(),
            fences: BTreeMap::new(),
            damaged: BTreeMap::new(),
            reserved: BTreeSet::new(),
            slotless: BTreeSet::new(),
        };
        for entry in fs::read_dir(dir).map_err(file_error("read", dir))? {
            let place = entry.map_err(file_error("read", dir))?.path();
            let name = place.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Ok(vm) = name.parse::<VmId>() else {
                tracing::warn!(path = %place.display(), "is no VM's place and left alone");
                continue;
            };
            match read_place(&place).and_then(|found| seats.check_place(vm, found)) {
                // A folder without a seat is one whose making was cut short, or whose removal was.
                Ok(None) => fs::remove_dir_all(&place).map_err(file_error("clear", &place))?,
                Ok(Some((seat, fence))) => {
                    // On a full disk Proteus must come up again.
                    if let Err(error) = note_slot(&seat) {
                        tracing::warn!(%vm, error = %chain(&error), "its slot is not noted beside its seat");
                    }
                    seats.fences.insert(vm, fence);
                    seats.taken.insert(vm, seat);
                }
                Err(error) => {
                    let why = match error {
                        SeatError::Damaged { why } => why,
                        other => chain(&other),
                    };
                    tracing::error!(%vm, %why, "VM set aside");
                    match legible_slot(&place).or_else(|| noted_slot(&place)) {
                        Some(slot) => drop(seats.reserved.insert(slot)),
                        None => drop(seats.slotless.insert(place)),
                    }
                    seats.damaged.insert(vm, why);
                }
            }
        }
        Ok(seats)
    }

    /// A place must be the one of its folder, with a slot of its own.
    fn check_place(
        &self,
        vm: VmId,
        found: Option<(Seat, Generation)>,
    ) -> Result<Option<(Seat, Generation)>, SeatError> {
        let Some((seat, fence)) = found else { return Ok(None) };
        let path = self.dir.join(vm.to_string()).join("seat.json");
        let damaged =
            |why: String| SeatError::Damaged { why: format!("{} is damaged: {why}", path.display()) };
        if seat.id != vm {
            return Err(damaged(format!("it is the place of {}", seat.id)));
        }
        if seat.slot >= SLOT_MAX {
            return Err(damaged(format!("there is no slot {}", seat.slot)));
        }
        match self.taken.values().find(|other| other.slot == seat.slot) {
            Some(other) => Err(damaged(format!("slot {} is taken by {}", seat.slot, other.intent.name))),
            None => Ok(Some((seat, fence))),
        }
    }

    /// Fails where the VM's place was set aside.
    pub(crate) fn check(&self, vm: VmId) -> Result<(), SeatError> {
        self.damaged.get(&vm).map_or(Ok(()), |why| Err(SeatError::Damaged { why: why.clone() }))
    }

    pub(crate) fn get(&self, vm: VmId) -> Option<&Seat> {
        self.taken.get(&vm)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Seat> {
        self.taken.values()
    }

    fn place(&self, vm: VmId, slot: u16, intent: &VmIntent) -> Seat {
        Seat {
            id: vm,
            slot,
            dir: self.dir.join(vm.to_string()),
            intent: intent.clone(),
            attached: Vec::new(),
            furnished: false,
            newborn: false,
            user: None,
        }
    }

    /// Fails where a VM of this intent, which has no place yet, would have a disk that is another's.
    pub(crate) fn check_disks(&self, intent: &VmIntent) -> Result<(), SeatError> {
        Ok(claim::check(&self.place(VmId::from_bits(0), 0, intent), self.all())?)
    }

    /// Fails where a VM has a disk that is another's by now.
    pub(crate) fn check_own_disks(&self, seat: &Seat) -> Result<(), SeatError> {
        Ok(claim::check(seat, self.all())?)
    }

    /// Gives the VM a place; the same one when asked again. `claim_user` gives a new one its VMM's user. Who has
    /// which disk is decided here, one VM at a time.
    pub(crate) fn ensure(
        &mut self,
        vm: VmId,
        intent: &VmIntent,
        claim_user: impl FnOnce(&Path, u16) -> Result<Option<u32>, DriverError>,
    ) -> Result<&Seat, SeatError> {
        self.check(vm)?;
        if !self.taken.contains_key(&vm) {
            if let Some(place) = self.slotless.first().cloned() {
                return Err(SeatError::SlotUnknown { place });
            }
            let used: BTreeSet<u16> = self.taken.values().map(|s| s.slot).collect();
            let free = |slot: &u16| !used.contains(slot) && !self.reserved.contains(slot);
            let slot = (0..SLOT_MAX).find(free).ok_or(SeatError::Full)?;
            let seat = self.place(vm, slot, intent);
            self.check_own_disks(&seat)?;
            // A folder without a seat is cleared at the next start, and who has none has no user.
            fs::create_dir_all(&seat.dir).map_err(file_error("make", &seat.dir))?;
            let user = claim_user(&seat.dir, slot).map_err(SeatError::User)?;
            let seat = Seat { user, ..seat };
            self.save(seat)?;
        }
        self.taken.get(&vm).ok_or(SeatError::Full)
    }

    /// Keeps a changed seat.
    pub(crate) fn save(&mut self, seat: Seat) -> Result<(), SeatError> {
        fs::create_dir_all(&seat.dir).map_err(file_error("make", &seat.dir))?;
        // Once more by itself, and first: a seat that cannot be read keeps its slot.
        note_slot(&seat)?;
        let path = seat.dir.join("seat.json");
        let text = serde_json::to_vec_pretty(&seat).map_err(io::Error::other);
        write_whole(&path, &text.map_err(file_error("write", &path))?)?;
        self.taken.insert(seat.id, seat);
        Ok(())
    }

    /// Takes the place away, with all files in it: overlays and seed too. A file that the owner brought is never
    /// in it.
    pub(crate) fn remove(&mut self, vm: VmId) -> Result<(), SeatError> {
        self.check(vm)?;
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

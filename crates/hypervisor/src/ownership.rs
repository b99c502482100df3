//! Files of the host that a VMM's user gets for the time of the VM: whose they were is written down before they
//! change hands, in `owners.json` in the VM's own folder, and they get that owner and mode back when the VM is removed.
//! Must never touch a file that meanwhile is another one, or somebody else's, nor be silent of one that it cannot give
//! back.

use crate::driver::{DriverError, Seat, UID_BASE, UID_END};
use crate::whole;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// What a file was before it was handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Before {
    /// Device and inode: the path can be another file's by the time it is given back.
    device: u64,
    inode: u64,
    uid: u32,
    gid: u32,
    /// Permission bits.
    mode: u32,
}

fn owners_path(seat: &Seat) -> PathBuf {
    seat.dir.join("owners.json")
}

/// What is written down; `Err`: what is wrong with the file.
fn load(seat: &Seat) -> Result<BTreeMap<PathBuf, Before>, String> {
    let path = owners_path(seat);
    let damaged = |error: &dyn std::fmt::Display| format!("{} is damaged: {error}", path.display());
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| damaged(&error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(damaged(&error)),
    }
}

/// Whether an owner is the user of some VM's VMM, and so nobody to give a file back to.
fn is_vmm(uid: u32) -> bool {
    (UID_BASE..UID_END).contains(&uid)
}

/// Whether somebody has a lock on any part of a file, as QEMU has on a disk that it writes to (fcntl(2), open file
/// description locks).
#[allow(unsafe_code, reason = "F_OFD_GETLK has no safe wrapper")]
fn is_locked(path: &Path) -> io::Result<bool> {
    use std::os::fd::AsRawFd;
    let file = fs::File::options().read(true).write(true).open(path)?;
    // SAFETY: `flock` is plain integers, for which all zeroes is a value: from the begin, of no end.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    (lock.l_type, lock.l_whence) = (libc::F_WRLCK as i16, libc::SEEK_SET as i16);
    // SAFETY: the file is open for the whole call, and the kernel writes to `lock` alone, which outlives it.
    let asked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    if asked != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

/// Makes a file that belongs to its owner the VMM's. Refused while somebody has it open to write to. Files in the VM's own folder go with the VM and need no note.
pub(crate) fn hand_over(seat: &Seat, path: &Path) -> io::Result<()> {
    let uid = seat.uid();
    let now = fs::metadata(path)?;
    if !path.starts_with(&seat.dir) && now.uid() != uid {
        if is_locked(path)? {
            return Err(io::Error::other(format!(
                "{} is in use: another program, as a VM of another Proteus, has it open; stop that first",
                path.display()
            )));
        }
        let damaged =
            |what| format!("{what}; it says whose the VM's disks are: mend it, or give them back by hand");
        let mut owners = load(seat).map_err(damaged).map_err(io::Error::other)?;
        let noted = owners.get(path).filter(|known| (known.device, known.inode) == (now.dev(), now.ino()));
        let (owner, group) = match noted {
            // Another VM had it meanwhile: the first owner stays its owner.
            Some(known) if is_vmm(now.uid()) => (known.uid, known.gid),
            None if is_vmm(now.uid()) => (0, 0),
            Some(_) | None => (now.uid(), now.gid()),
        };
        let before =
            Before { device: now.dev(), inode: now.ino(), uid: owner, gid: group, mode: now.mode() & 0o7777 };
        owners.insert(path.to_owned(), before);
        whole::write(&owners_path(seat), &serde_json::to_vec_pretty(&owners).map_err(io::Error::other)?)?;
    }
    chown(path, Some(uid), Some(uid))
}

/// Who has a VM's disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// The VM's own user.
    Vmm,
    /// Root: nobody writes to a template's disks.
    Template,
}

/// Gives every file back that was handed over and still is the VM's. What could not be given back, and what to do about
/// it. Can be done again.
pub fn give_back(seat: &Seat, holder: Holder) -> Result<Vec<String>, DriverError> {
    let held_by = match holder {
        Holder::Vmm => seat.uid(),
        Holder::Template => 0,
    };
    let owners = match load(seat) {
        Ok(owners) => owners,
        Err(damaged) => return close(seat, &damaged),
    };
    let mut left = Vec::new();
    for (path, before) in owners {
        let file = format!("{} of user {}", path.display(), before.uid);
        let one = || match fs::metadata(&path) {
            Ok(now) if (now.dev(), now.ino()) != (before.device, before.inode) => {
                Ok(Some("is another file by now"))
            }
            // Somebody else's by now.
            Ok(now) if now.uid() != held_by => Ok(None),
            Ok(_) => {
                fs::set_permissions(&path, Permissions::from_mode(before.mode))?;
                chown(&path, Some(before.uid), Some(before.gid)).map(|()| None)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some("is not there any more")),
            Err(error) => Err(error),
        };
        let moved = one().map_err(DriverError::host(format!("give {} back to its owner", path.display())))?;
        left.extend(moved.map(|how| {
            let (uid, gid, mode) = (before.uid, before.gid, before.mode);
            format!(
                "{file} {how}; if it was moved: `chown {uid}:{gid}` and `chmod {mode:o}` it, it still has user {held_by}"
            )
        }));
    }
    Ok(left)
}

/// Where it is not known whose the VM's disks were: they become root's, so that no later VM with this one's user has
/// them.
fn close(seat: &Seat, damaged: &str) -> Result<Vec<String>, DriverError> {
    let mut left = Vec::new();
    for disk in seat.intent.disks.iter().filter(|disk| !disk.overlay && !disk.read_only) {
        let path = &disk.path;
        if fs::metadata(path).is_ok_and(|now| now.uid() == seat.uid()) {
            let closed = fs::set_permissions(path, Permissions::from_mode(0o600))
                .and_then(|()| chown(path, Some(0), Some(0)));
            closed.map_err(DriverError::host(format!("close {}", path.display())))?;
            left.push(format!("{damaged}; {} is root's now: `chown` it to whom it belongs", path.display()));
        }
    }
    if left.is_empty() {
        left.push(format!("{damaged}; none of the VM's disks has its user"));
    }
    Ok(left)
}

#[cfg(test)]
mod tests;

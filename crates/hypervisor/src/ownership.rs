//! Files of the host that a VMM's user gets for the time of the VM: whose they were is written down before they
//! change hands, in `owners.json` in the VM's own folder, and they get that owner and mode back when the VM is removed.
//! Must never touch a file that meanwhile is another one, or somebody else's.

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

fn load(seat: &Seat) -> io::Result<BTreeMap<PathBuf, Before>> {
    match fs::read(owners_path(seat)) {
        Ok(text) => serde_json::from_slice(&text).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error),
    }
}

/// Whether an owner is the user of some VM's VMM, and so nobody to give a file back to.
fn is_vmm(uid: u32) -> bool {
    (UID_BASE..UID_END).contains(&uid)
}

/// Makes a file that belongs to its owner the VMM's. Files in the VM's own folder go with the VM and need no note.
pub(crate) fn hand_over(seat: &Seat, path: &Path) -> io::Result<()> {
    let uid = seat.uid();
    let now = fs::metadata(path)?;
    if !path.starts_with(&seat.dir) && now.uid() != uid {
        let mut owners = load(seat)?;
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

/// Gives every file back that was handed over and is still the VMM's. Can be done again.
pub fn give_back(seat: &Seat) -> Result<(), DriverError> {
    let owners = load(seat).map_err(DriverError::host(format!("read {}", owners_path(seat).display())))?;
    for (path, before) in owners {
        let one = || match fs::metadata(&path) {
            Ok(now) if (now.dev(), now.ino(), now.uid()) != (before.device, before.inode, seat.uid()) => {
                Ok(())
            }
            Ok(_) => {
                fs::set_permissions(&path, Permissions::from_mode(before.mode))?;
                chown(&path, Some(before.uid), Some(before.gid))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        one().map_err(DriverError::host(format!("give {} back to its owner", path.display())))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;

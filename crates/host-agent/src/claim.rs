//! Which files VMs write to and which they read: a file that a disk writes to is nobody else's, neither as a disk nor
//! below one. Files are known by device and inode, so that no link hides one. Must never open a file to write.

use crate::backing::{self, FileId};
use crate::template::is_template;
use proteus_hypervisor::driver::Seat;
use proteus_model::vm::DiskIntent;
use std::path::{Path, PathBuf};

/// Two disks that cannot be beside each other, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Clash(String);

/// What a disk does with files.
struct Claim {
    disk: String,
    writes: Option<(FileId, PathBuf)>,
    reads: Vec<(FileId, PathBuf)>,
}

fn claim_of(disk: &DiskIntent, writes: bool) -> Claim {
    // As far as it goes: what is not there, or broken, is in nobody's way.
    let mut files = backing::chain(&disk.path, disk.format).0;
    let writes = if writes && !files.is_empty() { Some(files.remove(0)) } else { None };
    Claim { disk: disk.name.to_string(), writes, reads: files }
}

fn claims(seat: &Seat) -> Vec<Claim> {
    let frozen = is_template(seat);
    // An overlay that is not made yet stands for what it will lie over.
    let of = |(asked, opened): (&DiskIntent, DiskIntent)| match opened.path.exists() {
        true => claim_of(&opened, !opened.read_only && !frozen),
        false => claim_of(asked, !asked.read_only && !asked.overlay && !frozen),
    };
    seat.intent.disks.iter().zip(seat.disks()).map(of).collect()
}

fn clash(one: &Claim, other: &Claim, name: &str) -> Option<Clash> {
    let told = |wants: &str, path: &Path, does: &str| {
        let (disk, path) = (&one.disk, path.display());
        Clash(format!("the disk {disk} cannot {wants} {path}: the disk {} of {name} {does}", other.disk))
    };
    let reads =
        |claim: &Claim, id| claim.reads.iter().find(|(known, _)| *known == id).map(|(_, path)| path.clone());
    if let Some((id, path)) = &one.writes {
        if other.writes.as_ref().is_some_and(|(theirs, _)| theirs == id) {
            return Some(told("write to", path, "writes to that file"));
        }
        if reads(other, *id).is_some() {
            return Some(told("write to", path, "reads that file"));
        }
    }
    let (theirs, _) = other.writes.as_ref()?;
    reads(one, *theirs).map(|path| told("lie over or read", &path, "writes to that file"))
}

/// Refuses a VM one of whose disks cannot be beside another of its own, or of `others`.
pub(crate) fn check<'a>(seat: &Seat, others: impl Iterator<Item = &'a Seat>) -> Result<(), Clash> {
    let own = claims(seat);
    for (index, disk) in own.iter().enumerate() {
        let before = own[..index].iter();
        if let Some(clash) = before.filter_map(|earlier| clash(disk, earlier, "the same VM")).next() {
            return Err(clash);
        }
    }
    for other in others.filter(|other| other.id != seat.id) {
        let theirs = claims(other);
        let pairs = own.iter().flat_map(|disk| theirs.iter().map(move |their| (disk, their)));
        if let Some(clash) =
            pairs.filter_map(|(disk, their)| clash(disk, their, other.intent.name.as_str())).next()
        {
            return Err(clash);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

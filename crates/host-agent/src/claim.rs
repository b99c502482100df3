//! Which files VMs write to and which they read: a file that a disk writes to is nobody else's, neither as a disk nor
//! below one. Files are known by device and inode, so that no link hides one. Must never open a file to write.

use crate::template::is_template;
use proteus_hypervisor::driver::Seat;
use proteus_model::vm::{DiskFormat, DiskIntent};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Most files below each other that are followed: beyond that an image is broken, or made to keep us busy.
const CHAIN_MAX: usize = 64;
/// How a qcow2 file begins.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
/// Longest name of a file below another, by the format.
const BACKING_NAME_MAX: usize = 1023;
/// The extension of a header that names the format of the file below.
const BACKING_FORMAT: usize = 0xE279_2ACA;
/// Header, extensions and that name are one after the other in the first cluster, which is 64 KiB as a rule.
const HEAD_BYTES: u64 = 64 << 10;

/// A file, whatever it is called.
type FileId = (u64, u64);

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

fn id_of(path: &Path) -> Option<FileId> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// What a qcow2 file says of the file below it.
struct Backing {
    name: String,
    /// Whether that one is raw: what looks like a header there is its guest's data.
    raw: bool,
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(four.try_into().ok()?) as usize)
}

/// Reads the beginning of a qcow2 file (docs/interop/qcow2.txt of QEMU); `None`: there is no file below it.
fn backing(path: &Path) -> io::Result<Option<Backing>> {
    let mut head = Vec::new();
    File::open(path)?.take(HEAD_BYTES).read_to_end(&mut head)?;
    Ok(parse(&head))
}

fn parse(head: &[u8]) -> Option<Backing> {
    if !head.starts_with(&QCOW2_MAGIC) || number(head, 8)? != 0 {
        return None;
    }
    let (at, length) = (number(head, 12)?, number(head, 16)?);
    if at == 0 || length == 0 || length > BACKING_NAME_MAX {
        return None;
    }
    let name = std::str::from_utf8(head.get(at..at + length)?).ok()?;
    let name = name.strip_prefix("file:").unwrap_or(name).to_owned();
    // Before it: extensions, each its kind, its length and its data up to a multiple of eight.
    let mut extension = if number(head, 4)? == 2 { 72 } else { number(head, 100)? };
    let mut raw = false;
    while let (Some(kind @ 1..), Some(length)) = (number(head, extension), number(head, extension + 4)) {
        let data = extension + 8;
        raw |= kind == BACKING_FORMAT && head.get(data..data + length) == Some(b"raw");
        extension = data + length.next_multiple_of(8);
    }
    Some(Backing { name, raw })
}

/// The file and those below it, as far as they are there.
fn chain(path: &Path, format: DiskFormat) -> Vec<(FileId, PathBuf)> {
    let mut files: Vec<(FileId, PathBuf)> = Vec::new();
    let mut next = Some((path.to_owned(), format == DiskFormat::Raw));
    while let Some((path, raw)) = next.take() {
        let Some(id) = id_of(&path) else { break };
        if files.len() == CHAIN_MAX || files.iter().any(|(known, _)| *known == id) {
            break;
        }
        // Only what is a file can be read here: a pipe would wait for ever.
        if !raw && path.is_file() {
            let below = backing(&path).ok().flatten();
            // A relative name begins where the file really is.
            let whole = path.canonicalize().unwrap_or_else(|_| path.clone());
            next = below.and_then(|below| Some((whole.parent()?.join(below.name), below.raw)));
        }
        files.push((id, path));
    }
    files
}

fn claim_of(disk: &DiskIntent, writes: bool) -> Claim {
    let mut files = chain(&disk.path, disk.format);
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

//! The files that a disk lies over, one below the other, as QEMU finds them: each qcow2 file names the next. Files are
//! known by device and inode, so that no link hides one. Must never read what a guest writes for a header, open what is no
//! file, or follow without an end.

use proteus_model::vm::DiskFormat;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Most files below each other that are followed: beyond that an image is broken, or made to keep us busy.
pub(crate) const CHAIN_MAX: usize = 64;
/// How a qcow2 file begins.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
/// Longest name of a file below another, by the format.
const BACKING_NAME_MAX: usize = 1023;
/// The extension of a header that names the format of the file below.
const BACKING_FORMAT: usize = 0xE279_2ACA;
/// Header, extensions and that name are one after the other in the first cluster, which is 64 KiB as a rule.
const HEAD_BYTES: u64 = 64 << 10;

/// A file, whatever it is called.
pub(crate) type FileId = (u64, u64);

/// Why a chain was not followed to its last file, and at which one.
#[derive(Debug)]
pub(crate) enum Broken {
    /// It is not there.
    Gone(PathBuf),
    /// It cannot be read.
    Unreadable(PathBuf, io::Error),
    /// It lies over one that lies over it.
    Loop(PathBuf),
    /// More than [`CHAIN_MAX`] files.
    TooLong,
    /// It lies over something that is no plain path of a file, as `nbd://…` and `json:…`: QEMU would open that, and
    /// nobody could say what it is.
    NoFile(PathBuf, String),
}

/// What a qcow2 file says of the file below it.
struct Backing {
    name: String,
    /// Whether that one is raw: what looks like a header there is its guest's data.
    raw: bool,
}

fn id_of(path: &Path) -> io::Result<FileId> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
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

/// Whether a name is none of a file, as `nbd://…`: a word and a colon before any slash, as QEMU takes it.
fn is_elsewhere(name: &str) -> bool {
    name.split('/').next().is_some_and(|first| first.contains(':'))
}

/// The file and those below it, from the top, as far as they can be followed, and what ended that.
pub(crate) fn chain(path: &Path, format: DiskFormat) -> (Vec<(FileId, PathBuf)>, Result<(), Broken>) {
    let mut files: Vec<(FileId, PathBuf)> = Vec::new();
    let mut next = Some((path.to_owned(), format == DiskFormat::Raw));
    while let Some((path, raw)) = next.take() {
        let id = match id_of(&path) {
            Ok(id) => id,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (files, Err(Broken::Gone(path))),
            Err(error) => return (files, Err(Broken::Unreadable(path, error))),
        };
        if files.iter().any(|(known, _)| *known == id) {
            return (files, Err(Broken::Loop(path)));
        }
        if files.len() == CHAIN_MAX {
            return (files, Err(Broken::TooLong));
        }
        files.push((id, path.clone()));
        // Only what is a file can be read here: a pipe would wait for ever.
        if raw || !path.is_file() {
            continue;
        }
        match backing(&path) {
            Ok(Some(below)) if is_elsewhere(&below.name) => {
                return (files, Err(Broken::NoFile(path, below.name)));
            }
            Ok(below) => {
                next = below.map(|below| {
                    // A relative name begins at the file's own, and not where a link leads.
                    (path.parent().unwrap_or(Path::new("/")).join(below.name), below.raw)
                });
            }
            Err(error) => return (files, Err(Broken::Unreadable(path, error))),
        }
    }
    (files, Ok(()))
}

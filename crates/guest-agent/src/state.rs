//! What the agent keeps over its own end and the guest's: small files in one folder, each replaced as a whole, each with
//! a digest that shows damage. Must never leave half a file, nor take one that is not as it was written.

use crate::digest::digest;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open, statfs};
use rustix::io::Errno;
use std::fs::{DirBuilder, File};
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// The folder.
pub const FOLDER: &str = "/var/lib/proteus";
/// Longest file that is read.
const BYTES_MAX: u64 = 8 << 20;
/// File systems in memory: `TMPFS_MAGIC` and `RAMFS_MAGIC` of linux/magic.h.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
/// Against damage, not against people: who can write the file can also write the digest.
const KEY: [u64; 2] = [0x7072_6f74_6575_7331, 0x7374_6174_6566_696c];

/// What came of reading.
#[derive(Debug, PartialEq, Eq)]
pub enum Kept {
    /// There is none.
    Absent,
    /// It is not as it was written, or another program's.
    Damaged,
    /// Its content.
    Whole(Vec<u8>),
}

/// Whether what is written there outlives the guest's end.
pub fn is_on_disk(folder: &Path) -> bool {
    let there = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    statfs(there).is_ok_and(|says| !u64::try_from(says.f_type).is_ok_and(|kind| IN_MEMORY.contains(&kind)))
}

fn ensure_folder(folder: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn head(name: &str, body: &[u8]) -> String {
    format!("proteus {name} 1 {:032x}\n", digest(KEY, body))
}

/// Replaces a file, so that after a power cut there is the old or the new one.
pub fn write(folder: &Path, name: &str, body: &[u8]) -> std::io::Result<()> {
    ensure_folder(folder)?;
    let new = folder.join(format!(".{name}.new"));
    // A link that somebody put there is not followed.
    remove_if_there(&new)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(open(&new, flags, Mode::RUSR | Mode::WUSR)?);
    let written = file
        .write_all(head(name, body).as_bytes())
        .and_then(|()| file.write_all(body))
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&new, folder.join(name)));
    if written.is_err() {
        // The disk may be full: half a file is of no use.
        let _ = std::fs::remove_file(&new);
    }
    written.and_then(|()| File::open(folder)?.sync_all())
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a file, for good.
pub fn remove(folder: &Path, name: &str) -> std::io::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    remove_if_there(&folder.join(format!(".{name}.new")))?;
    remove_if_there(&folder.join(name))?;
    File::open(folder)?.sync_all()
}

/// Reads a file.
pub fn read(folder: &Path, name: &str) -> std::io::Result<Kept> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match open(folder.join(name), flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Kept::Absent),
        Err(error) => return Err(error.into()),
    };
    let mut content = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut content)?;
    let end = content.iter().position(|byte| *byte == b'\n').map_or(content.len(), |end| end + 1);
    let body = content.split_off(end);
    let is_whole = content == head(name, &body).as_bytes();
    Ok(if is_whole { Kept::Whole(body) } else { Kept::Damaged })
}

/// Puts a damaged file aside, for whoever wants to look at it; the one before it goes.
pub fn put_aside(folder: &Path, name: &str) {
    // Where that fails, the next write replaces it.
    let _ = std::fs::rename(folder.join(name), folder.join(format!("{name}.damaged")));
}

/// Keeps others from the folder's files until it is dropped: a person's command and the collectors may meet.
pub fn lock(folder: &Path) -> std::io::Result<File> {
    ensure_folder(folder)?;
    let lock = File::open(folder)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_any_flipped_or_missing_byte_shows() {
        let folder = std::env::temp_dir().join(format!("proteus-state-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        assert_eq!(read(&folder, "a").unwrap(), Kept::Absent);
        write(&folder, "a", b"one").unwrap();
        write(&folder, "a", b"two").unwrap();
        assert_eq!(read(&folder, "a").unwrap(), Kept::Whole(b"two".to_vec()));
        let whole = std::fs::read(folder.join("a")).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            std::fs::write(folder.join("a"), flipped).unwrap();
            assert_eq!(read(&folder, "a").unwrap(), Kept::Damaged, "byte {at}");
            std::fs::write(folder.join("a"), &whole[..at]).unwrap();
            assert_eq!(read(&folder, "a").unwrap(), Kept::Damaged, "cut at {at}");
        }
        std::fs::write(folder.join("b"), &whole).unwrap();
        assert_eq!(read(&folder, "b").unwrap(), Kept::Damaged, "another file's");
        put_aside(&folder, "b");
        assert_eq!(read(&folder, "b").unwrap(), Kept::Absent);
        remove(&folder, "a").unwrap();
        assert_eq!(read(&folder, "a").unwrap(), Kept::Absent);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_file_is_its_owners_alone_and_memory_is_no_disk() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("proteus-state-mode-{}", std::process::id()));
        write(&folder, "a", b"x").unwrap();
        assert_eq!(std::fs::metadata(folder.join("a")).unwrap().permissions().mode() & 0o777, 0o600);
        let _lock = lock(&folder).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(!is_on_disk(Path::new("/dev/shm/not/there")));
    }
}

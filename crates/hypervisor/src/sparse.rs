//! Holes of a guest's memory file: pages that it gave back to the host. Reading such a page through a mapping makes
//! the kernel fill it, so whoever reads a guest's whole memory gives the holes back afterwards. Must only be used
//! while the guest stands still.

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// What is read at a time when looking for zeros.
const CHUNK: usize = 1 << 20;
/// Least piece that is given back: a page.
const PAGE: usize = 4096;

/// The holes of `file`, in order.
pub(crate) fn holes(file: &File) -> io::Result<Vec<Range<u64>>> {
    let length = file.metadata()?.len();
    let (mut all, mut at) = (Vec::new(), 0);
    while at < length {
        let begin = seek(file, SeekFrom::Hole(at))?;
        if begin >= length {
            break;
        }
        let end = match seek(file, SeekFrom::Data(begin)) {
            Ok(end) => end,
            // No data after it: the hole goes on to the end.
            Err(rustix::io::Errno::NXIO) => length,
            Err(error) => return Err(error.into()),
        };
        all.push(begin..end);
        at = end;
    }
    Ok(all)
}

/// Gives a range back to the host; it then reads as zeros.
pub(crate) fn punch(file: &File, range: &Range<u64>) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(file, flags, range.start, range.end - range.start)?)
}

/// Gives back every page that holds only zeros.
pub(crate) fn punch_zeros(file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut buffer = vec![0; CHUNK];
    let (mut at, mut zeros) = (0, 0..0);
    while at < length {
        let end = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        // Whole chunks from the start of the data on.
        at = end - end % PAGE as u64;
        let size = CHUNK.min(usize::try_from(length - at).unwrap_or(CHUNK));
        file.read_exact_at(&mut buffer[..size], at)?;
        for (index, page) in buffer[..size].chunks(PAGE).enumerate() {
            let begin = at + (index * PAGE) as u64;
            if page.iter().any(|byte| *byte != 0) {
                continue;
            }
            if zeros.end != begin {
                give_back(file, &zeros)?;
                zeros.start = begin;
            }
            zeros.end = begin + page.len() as u64;
        }
        at += size as u64;
    }
    give_back(file, &zeros)
}

fn give_back(file: &File, range: &Range<u64>) -> io::Result<()> {
    if range.is_empty() { Ok(()) } else { punch(file, range) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn holes_are_found_filled_and_given_back() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = dir.path().join("ram");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(8 << 20).unwrap();
        assert_eq!(holes(&file).unwrap(), std::iter::once(0..8 << 20).collect::<Vec<_>>());
        file.write_all_at(&[7; PAGE], 4 << 20).unwrap();
        let before = holes(&file).unwrap();
        assert_eq!(before, [0..4 << 20, (4 << 20) + 4096..8 << 20]);
        // As a read through a mapping does: zeros where holes were.
        file.write_all_at(&vec![0; 3 << 20], 0).unwrap();
        file.write_all_at(&vec![0; 1 << 20], 6 << 20).unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 > 3 << 20);
        let filled = std::fs::read(&path).unwrap();
        punch_zeros(&file).unwrap();
        assert_eq!(holes(&file).unwrap(), before);
        assert_eq!(std::fs::read(&path).unwrap(), filled);
        file.write_all_at(&[0; PAGE], 0).unwrap();
        punch(&file, &before[0]).unwrap();
        assert_eq!(holes(&file).unwrap(), before);
    }
}

//! How fast a guest changes its memory, by looking twice at a sample of the pages in its memory file. Must never write
//! there, nor read in a way that makes the host keep a page that the guest does not have: a read of a hole is zeroes and
//! leaves it a hole, which a mapping would not.

use proteus_model::unit::Bytes;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const PAGE: u64 = 4096;
const GIB: u64 = 1 << 30;
/// Pages that are looked at of each GiB, as QEMU would; of less than 2 GiB and of more than 16 GiB so many in all. 8192
/// pages are 32 MiB to read, twice a minute.
const PAGES_OF_GIB: u64 = 512;
const PAGES_MIN: u64 = 1024;
const PAGES_MAX: u64 = 8192;

/// A number from which nothing can be told of the next: splitmix64, by its author in the public domain.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Which content a page has: two that differ have the same number once in 2^64.
fn content(page: &[u8; PAGE as usize]) -> u64 {
    let words = page.as_chunks::<8>().0.iter().map(|eight| u64::from_ne_bytes(*eight));
    words.fold(0, |sum, word| (sum.rotate_left(5) ^ word).wrapping_mul(0x517C_C1B7_2722_0A95))
}

/// Pages of a VM's memory, and what was in them at a first look.
pub(crate) struct Sample {
    /// The file of each, which page of it, and its content.
    pages: Vec<(usize, u64, u64)>,
    files: Vec<File>,
    memory: Bytes,
}

impl Sample {
    /// Chooses one page by chance in each of as many stretches as there are pages to look at, and looks at them. Of the
    /// files of a memory the second may be missing.
    pub(crate) fn take(files: &[&Path], mut seed: u64) -> io::Result<Self> {
        let open = |path: &&Path| match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(other),
        };
        let files: Vec<File> = files.iter().filter_map(open).collect::<io::Result<_>>()?;
        let lengths: Vec<u64> = files
            .iter()
            .map(|file| file.metadata().map(|meta| meta.len() / PAGE))
            .collect::<io::Result<_>>()?;
        let all: u64 = lengths.iter().sum();
        // All of them where the memory is smaller than its sample.
        let wanted = (all * PAGE * PAGES_OF_GIB / GIB).clamp(PAGES_MIN, PAGES_MAX).min(all);
        let mut sample = Self { pages: Vec::new(), files, memory: Bytes(all * PAGE) };
        let mut buffer = [0; PAGE as usize];
        for stretch in 0..wanted {
            let (from, until) = (stretch * all / wanted, (stretch + 1) * all / wanted);
            let mut page = from + next(&mut seed) % (until - from);
            let mut file = 0;
            while page >= lengths[file] {
                page -= lengths[file];
                file += 1;
            }
            sample.files[file].read_exact_at(&mut buffer, page * PAGE)?;
            sample.pages.push((file, page, content(&buffer)));
        }
        Ok(sample)
    }

    /// How many pages it has.
    pub(crate) fn len(&self) -> u64 {
        self.pages.len() as u64
    }

    /// What it stands for.
    pub(crate) fn memory(&self) -> Bytes {
        self.memory
    }

    /// How many of them have another content by now.
    pub(crate) fn changed(&self) -> io::Result<u64> {
        let (mut buffer, mut changed) = ([0; PAGE as usize], 0);
        for (file, page, before) in &self.pages {
            self.files[*file].read_exact_at(&mut buffer, page * PAGE)?;
            changed += u64::from(content(&buffer) != *before);
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const MIB: u64 = 1 << 20;

    fn memory(dir: &Path, name: &str, length: u64) -> (File, std::path::PathBuf) {
        let path = dir.join(name);
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        file.set_len(length).unwrap();
        (file, path)
    }

    #[test]
    fn as_many_pages_are_looked_at_as_the_memory_asks_for() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        for (length, pages) in
            [(0, 0), (PAGE, 1), (2 * MIB, 512), (256 * MIB, 1024), (4096 * MIB, 2048), (64 << 30, PAGES_MAX)]
        {
            let (file, path) = memory(dir.path(), "ram", length);
            let sample = Sample::take(&[&path], 7).unwrap();
            assert_eq!((sample.len(), sample.memory()), (pages, Bytes(length)));
            assert_eq!(sample.changed().unwrap(), 0);
            assert_eq!(file.metadata().unwrap().blocks(), 0, "a hole stays a hole");
        }
    }

    #[test]
    fn what_changed_is_found_in_both_files_and_by_a_single_byte() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let (ram, ram_path) = memory(dir.path(), "ram", MIB);
        let (hot, hot_path) = memory(dir.path(), "hot", 2 * MIB);
        let (absent, files) = (dir.path().join("absent"), [&*ram_path, &*hot_path]);
        // Of so little memory each page is looked at.
        let sample = Sample::take(&files, 1).unwrap();
        assert_eq!((sample.len(), sample.memory()), (768, Bytes(3 * MIB)));
        ram.write_all_at(&[1], 5 * PAGE + 4095).unwrap();
        hot.write_all_at(&[1], 2 * MIB - 1).unwrap();
        hot.write_all_at(&[0; 4096], 0).unwrap();
        assert_eq!(sample.changed().unwrap(), 2, "zeroes over a hole change nothing");
        ram.write_all_at(&[0], 5 * PAGE + 4095).unwrap();
        assert_eq!(sample.changed().unwrap(), 1);
        assert_eq!(Sample::take(&[&ram_path, &absent], 1).unwrap().memory(), Bytes(MIB));
        // A file that is cut meanwhile tells nothing.
        hot.set_len(MIB).unwrap();
        assert!(sample.changed().is_err());
    }

    #[test]
    fn a_half_of_a_large_memory_is_found_to_be_a_half() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let (ram, path) = memory(dir.path(), "ram", 32 * MIB);
        let sample = Sample::take(&[&path], 42).unwrap();
        for page in (0..32 * MIB / PAGE).step_by(2) {
            ram.write_all_at(&[9], page * PAGE).unwrap();
        }
        let share = sample.changed().unwrap() as f64 / sample.len() as f64;
        // Four standard deviations of 1024 throws of a coin: 4 × 0.5 / √1024.
        assert!((share - 0.5).abs() < 0.0625, "{share}");
    }
}

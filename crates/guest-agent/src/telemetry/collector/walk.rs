//! A walk over one file system, in parts. It holds the names of the folders that it is in and its place in each, so its
//! memory is bounded by depth, whatever a folder holds; between two parts it holds nothing open, so nobody's unmounting
//! waits for it. Never follows a link, never leaves the file system.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, SeekFrom, Stat, fstat, open, openat, openat2,
    seek, statat,
};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};

/// The beginning of a file, read so that nobody notices: not the time at which it was read, no waiting at a pipe that
/// took its name meanwhile.
pub fn beginning<'a>(
    folder: BorrowedFd<'_>,
    (name, inode): (&CStr, u64),
    most: usize,
    buffer: &'a mut Vec<u8>,
) -> Option<&'a [u8]> {
    let flags = OFlags::RDONLY | OFlags::NOATIME | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(folder, name, flags, Mode::empty()).ok()?;
    let stat = fstat(&file).ok()?;
    let is_it = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_ino == inode;
    is_it.then_some(())?;
    buffer.resize(most, 0);
    let mut length = 0;
    while length < most {
        match rustix::io::read(&file, &mut buffer[length..]) {
            Ok(0) => break,
            Ok(got) => length += got,
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    Some(&buffer[..length])
}

/// Deepest folder that is entered.
const DEPTH_MAX: usize = 128;
/// Longest path below the file system's root: `PATH_MAX` of the kernel, less its end.
const PATH_BYTES_MAX: usize = 4095;
/// Room for a part of a folder's listing.
const LISTING_BYTES: usize = 8192;

/// A folder that the walk is in.
struct Level {
    name: CString,
    /// The kernel's mark of the entry that is next; 0: the first.
    next: u64,
    /// Whether it was said that it was entered.
    is_told: bool,
}

impl Level {
    fn new(name: CString) -> Self {
        Self { name, next: 0, is_told: false }
    }
}

/// What was met.
pub enum Met<'a> {
    /// A part of a listing was read: so many bytes.
    Listing(usize),
    /// An entry that is not looked at further.
    Passed,
    /// A regular file: its folder, its name, what is known of it.
    File(BorrowedFd<'a>, &'a CStr, &'a Stat),
    /// A folder was entered.
    Folder,
    /// A folder could not be.
    Unread,
}

/// Whether a part is to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    On,
    /// After what was just met, which is met no more.
    Pause,
}

/// A walk.
pub struct Walk {
    root: PathBuf,
    levels: Vec<Level>,
}

fn is_dots(name: &CStr) -> bool {
    name == c"." || name == c".."
}

impl Walk {
    /// From the root of a file system, where it is mounted.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), levels: vec![Level::new(c".".to_owned())] }
    }

    fn path(&self) -> Vec<u8> {
        let names: Vec<&[u8]> = self.levels.iter().map(|level| level.name.to_bytes()).collect();
        names.join(&b'/')
    }

    fn open(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let root = open(&self.root, flags | OFlags::PATH, Mode::empty())?;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        let read = |flags| openat2(&root, self.path(), flags | OFlags::RDONLY, Mode::empty(), within);
        match read(flags | OFlags::NOATIME) {
            // Another's folder: only its owner and root may look without a trace.
            Err(Errno::PERM) => read(flags),
            other => other,
        }
    }

    /// A part: until `meet`, which is told the path of the folder below the root as `./a/b`, wants a pause; false: the
    /// walk is over.
    pub fn go_on(&mut self, mut meet: impl FnMut(&[u8], Met<'_>) -> Go) -> bool {
        loop {
            let path = self.path();
            let Some(level) = self.levels.last_mut() else { return false };
            let is_told = std::mem::replace(&mut level.is_told, true);
            let met = match self.open() {
                Ok(folder) => {
                    if !is_told && meet(&path, Met::Folder) == Go::Pause {
                        return true;
                    }
                    match self.list(folder, &mut |met| meet(&path, met)) {
                        Go::On => continue,
                        Go::Pause => return !self.levels.is_empty(),
                    }
                }
                // Another file system's place, or gone meanwhile.
                Err(Errno::XDEV | Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Met::Passed,
                Err(_) => Met::Unread,
            };
            self.levels.pop();
            if meet(&path, met) == Go::Pause {
                return !self.levels.is_empty();
            }
        }
    }

    /// Goes on in the folder that it is in, until that ends, or a folder in it is entered.
    fn list(&mut self, folder: OwnedFd, meet: &mut impl FnMut(Met<'_>) -> Go) -> Go {
        let depth = self.levels.len();
        let bytes = self.path().len();
        let Some(level) = self.levels.last_mut() else { return Go::On };
        if seek(&folder, SeekFrom::Start(level.next)).is_err() {
            self.levels.pop();
            return meet(Met::Unread);
        }
        let mut buffer = [MaybeUninit::uninit(); LISTING_BYTES];
        let mut listing = RawDir::new(folder.as_fd(), &mut buffer);
        loop {
            let is_read = listing.is_buffer_empty();
            let entry = match listing.next() {
                Some(Ok(entry)) => entry,
                // Removed meanwhile, or at its end.
                None | Some(Err(Errno::NOENT)) => break,
                Some(Err(_)) => {
                    self.levels.pop();
                    return meet(Met::Unread);
                }
            };
            level.next = entry.next_entry_cookie();
            // A pause after the listing comes after the entry in hand, which would not be met again.
            let pause = is_read && meet(Met::Listing(LISTING_BYTES)) == Go::Pause;
            match meet_entry(&folder, entry.file_name(), entry.file_type(), meet) {
                Entry::Met(Go::On) if !pause => {}
                Entry::Met(_) => return Go::Pause,
                Entry::Folder(name)
                    if depth > DEPTH_MAX || bytes + name.count_bytes() + 1 > PATH_BYTES_MAX =>
                {
                    if meet(Met::Unread) == Go::Pause || pause {
                        return Go::Pause;
                    }
                }
                Entry::Folder(name) => {
                    self.levels.push(Level::new(name));
                    return if pause { Go::Pause } else { Go::On };
                }
            }
        }
        self.levels.pop();
        Go::On
    }
}

/// Says what an entry is, unless it is a folder.
fn meet_entry(folder: &OwnedFd, name: &CStr, kind: FileType, meet: &mut impl FnMut(Met<'_>) -> Go) -> Entry {
    if is_dots(name) {
        return Entry::Met(Go::On);
    }
    match kind {
        FileType::Directory => Entry::Folder(name.to_owned()),
        FileType::RegularFile | FileType::Unknown => {
            let Ok(stat) = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT) else {
                return Entry::Met(meet(Met::Passed));
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Entry::Met(meet(Met::File(folder.as_fd(), name, &stat))),
                FileType::Directory => Entry::Folder(name.to_owned()),
                _ => Entry::Met(meet(Met::Passed)),
            }
        }
        _ => Entry::Met(meet(Met::Passed)),
    }
}

/// What became of an entry.
enum Entry {
    Met(Go),
    Folder(CString),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// A folder of this test's own, which goes with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("proteus-walk-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// All files that a walk meets when it pauses after each `stride`th meeting, and the parts it took.
    fn walked(root: &Path, stride: usize) -> (Vec<String>, usize) {
        let (mut walk, mut files, mut parts) = (Walk::new(root), Vec::new(), 1);
        let mut count = 0;
        while walk.go_on(|_, met| {
            if let Met::File(_, name, _) = met {
                files.push(name.to_str().unwrap().to_owned());
            }
            count += 1;
            if count % stride == 0 { Go::Pause } else { Go::On }
        }) {
            parts += 1;
        }
        (files, parts)
    }

    #[test]
    fn every_file_is_met_once_however_often_the_walk_pauses() {
        let folder = Folder::new("all");
        for dir in 0..5 {
            let inner = folder.0.join(format!("d{dir}/e"));
            std::fs::create_dir_all(&inner).unwrap();
            for file in 0..300 {
                std::fs::write(inner.join(format!("{dir}-{file}")), "").unwrap();
            }
            std::fs::write(folder.0.join(format!("top{dir}")), "").unwrap();
        }
        std::os::unix::fs::symlink("/", folder.0.join("link")).unwrap();
        for stride in [1, 7, 100_000] {
            let (files, parts) = walked(&folder.0, stride);
            assert_eq!(files.len(), 1505, "each {stride}");
            assert_eq!(files.iter().collect::<BTreeSet<_>>().len(), 1505);
            assert!(stride > 1 || parts >= 1505);
        }
    }

    #[test]
    fn a_deep_tree_ends_at_its_bound_and_one_that_goes_away_is_left() {
        let folder = Folder::new("deep");
        let mut path = folder.0.clone();
        for _ in 0..DEPTH_MAX + 20 {
            path.push("d");
        }
        std::fs::create_dir_all(&path).unwrap();
        let (mut folders, mut unread, mut walk) = (0, 0, Walk::new(&folder.0));
        walk.go_on(|_, met| {
            folders += usize::from(matches!(met, Met::Folder));
            unread += usize::from(matches!(met, Met::Unread));
            Go::On
        });
        assert_eq!((folders, unread), (DEPTH_MAX + 1, 1));
        let mut walk = Walk::new(&folder.0);
        let mut left = 3;
        while walk.go_on(|_, _| Go::Pause) && left > 0 {
            left -= 1;
        }
        std::fs::remove_dir_all(folder.0.join("d")).unwrap();
        assert!(!walk.go_on(|_, _| Go::On));
    }
}

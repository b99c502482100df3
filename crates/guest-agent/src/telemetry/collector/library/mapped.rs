//! The libraries that programs have mapped, each file once however many have it, also in a container or a changed root:
//! what is opened is what the kernel itself mapped, not what a path leads to by now. Must never hold a file open between
//! two parts, so that nobody's unmounting waits for it.

use super::elf::places;
use super::known::{LIBRARIES, library};
use crate::procfs::{Reader, process_ids};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::MetadataExt;

/// Processes that are looked at in one step: the kernel writes some hundred lines for each.
const STEP: usize = 8;
/// Processes that are looked at in one round: those that are new first, then those that were longest ago.
const ROUND_MAX: usize = 96;
/// Most files that are known.
const FILES_MAX: usize = 16;
/// Most files that are known to have no function of interest: whoever has so many is asked for them again.
const EMPTY_MAX: usize = 64;
/// Most files that are counted one by one among those that could not be looked into.
const UNREAD_MAX: usize = 256;
/// Most processes by which a file is found again: any of them may end.
const PATHS_MAX: usize = 4;
/// Largest file that is looked into.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// A file, as it tells itself apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId {
    device: u64,
    inode: u64,
    size: u64,
    changed_at: (i64, i64),
}

impl FileId {
    fn of(file: &File) -> Option<Self> {
        let stat = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        let changed_at = (stat.ctime(), stat.ctime_nsec());
        Some(Self { device: stat.dev(), inode: stat.ino(), size: stat.size(), changed_at })
    }
}

/// A library that some process has.
#[derive(Debug, Clone)]
pub struct Mapped {
    /// Which it is of those that are known.
    pub library: usize,
    /// Its functions by their numbers, and where each is in the file.
    pub places: Vec<(usize, u64)>,
    /// Where the kernel gives it to be opened, by some of the processes that have it, the first that was seen first.
    paths: Vec<String>,
}

/// All that are known.
#[derive(Default)]
pub struct Files {
    known: BTreeMap<FileId, Mapped>,
    /// Files without a function of interest, and in which round they were seen last. They take nobody's place.
    empty: BTreeMap<FileId, u64>,
    /// In which round a process was looked at.
    looked: BTreeMap<u32, u64>,
    round: u64,
    queue: Vec<u32>,
    /// Files that are too large, and those beyond the most, each once however many have it.
    unread: BTreeSet<FileId>,
    reader: Reader,
}

impl Files {
    /// Begins a round.
    pub fn begin(&mut self) {
        self.round += 1;
        self.unread.clear();
        let mut ids = process_ids();
        let looked = std::mem::take(&mut self.looked);
        self.looked = ids.iter().filter_map(|pid| Some((*pid, *looked.get(pid)?))).collect();
        ids.sort_by_key(|pid| self.looked.get(pid).copied().unwrap_or(0));
        ids.truncate(ROUND_MAX);
        ids.reverse();
        self.queue = ids;
    }

    /// Looks at some processes more; false: the round is over.
    pub fn step(&mut self) -> bool {
        for _ in 0..STEP {
            let Some(pid) = self.queue.pop() else { return false };
            self.looked.insert(pid, self.round);
            let Some(text) = self.reader.read(format!("/proc/{pid}/maps")) else { continue };
            let ranges: Vec<(usize, String)> = text.lines().filter_map(mapped).collect();
            for (library, range) in ranges {
                self.take(library, format!("/proc/{pid}/map_files/{range}"));
            }
        }
        true
    }

    fn take(&mut self, library: usize, path: String) {
        let Some((id, file)) = File::open(&path).ok().and_then(|file| Some((FileId::of(&file)?, file)))
        else {
            // A process that ended meanwhile has none.
            return;
        };
        if let Some(known) = self.known.get_mut(&id) {
            if !known.paths.contains(&path) {
                // Who has it for longest stays: it will for longest.
                if known.paths.len() >= PATHS_MAX {
                    known.paths.remove(1);
                }
                known.paths.push(path);
            }
        } else if let Some(seen) = self.empty.get_mut(&id) {
            *seen = self.round;
        } else if id.size > FILE_BYTES_MAX || self.known.len() >= FILES_MAX || !self.has_room_for_empty() {
            if self.unread.len() < UNREAD_MAX {
                self.unread.insert(id);
            }
        } else {
            let names: Vec<&str> = LIBRARIES[library].functions.iter().map(|(_, name)| *name).collect();
            match places(file, &names).unwrap_or_default() {
                places if places.is_empty() => drop(self.empty.insert(id, self.round)),
                places => drop(self.known.insert(id, Mapped { library, places, paths: vec![path] })),
            }
        }
    }

    /// Lets go of the file that was not seen for longest; false: all were seen in this round.
    fn has_room_for_empty(&mut self) -> bool {
        if self.empty.len() < EMPTY_MAX {
            return true;
        }
        let oldest = self.empty.iter().map(|(id, seen)| (*seen, *id)).min();
        let oldest = oldest.filter(|(seen, _)| *seen < self.round);
        oldest.is_some_and(|(_, id)| self.empty.remove(&id).is_some())
    }

    /// Files that could not be looked into in this round.
    pub fn unread(&self) -> u32 {
        // At most UNREAD_MAX, which is small.
        self.unread.len() as u32
    }

    /// Those with functions to count.
    pub fn known(&self) -> Vec<(FileId, Mapped)> {
        self.known.iter().map(|(id, mapped)| (*id, mapped.clone())).collect()
    }

    /// Opens it; `None`: none of the processes that had it has it any more. Whoever has it still is found in the next
    /// round.
    pub fn open(&mut self, id: &FileId) -> Option<File> {
        let known = self.known.get_mut(id)?;
        while let Some(path) = known.paths.first() {
            if let Some(file) = File::open(path).ok().filter(|file| FileId::of(file).as_ref() == Some(id)) {
                return Some(file);
            }
            known.paths.remove(0);
        }
        self.known.remove(id);
        self.looked.clear();
        None
    }

    /// Looks at one process only.
    #[cfg(test)]
    pub fn only_of(&mut self, pid: u32) {
        self.queue = vec![pid];
    }
}

/// Which library a line of `maps` tells of, where it is code, and its range.
fn mapped(line: &str) -> Option<(usize, String)> {
    // 7f00-7f10 r-xp 00001000 fd:00 42    /lib/libz.so.1
    let (range, rest) = line.split_once(' ')?;
    let path = rest.get(rest.find('/')?..)?;
    let is_code = rest.as_bytes().get(2) == Some(&b'x');
    Some((library(path).filter(|_| is_code)?, range.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_libraries_is_found_in_lines() {
        let line = |text: &str| mapped(text).map(|(which, range)| (LIBRARIES[which].name, range));
        let code = "7f2a-7f2b r-xp 00003000 fe:01 1234      /usr/lib/libz.so.1.2.13";
        assert_eq!(line(code), Some(("libz", "7f2a-7f2b".to_owned())));
        for other in [
            "",
            "7f2a-7f2b",
            "7f2a-7f2b r--p 00003000 fe:01 1234      /usr/lib/libz.so.1.2.13",
            "7f2a-7f2b r-xp 00003000 fe:01 1234      /usr/bin/cat",
            "7f2a-7f2b r-xp 00000000 00:00 0         [vdso]",
            "7f2a-7f2b rwxp 00000000 00:00 0",
        ] {
            assert_eq!(line(other), None, "{other}");
        }
    }

    /// A file of its own that is no library of any functions.
    fn empty(folder: &std::path::Path, number: usize) -> String {
        let path = folder.join(format!("{number}"));
        std::fs::write(&path, b"nothing").unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[test]
    fn files_without_functions_take_no_place_and_each_file_counts_once() {
        let folder = std::env::temp_dir().join(format!("proteus-mapped-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let own = std::fs::read_to_string("/proc/self/maps").unwrap();
        let own = own.lines().find_map(|line| Some((mapped(line)?.0, line.split_ascii_whitespace().nth(5)?)));
        let (libc, path) = own.unwrap();
        let mut files = Files { round: 1, ..Files::default() };
        let paths: Vec<String> = (0..EMPTY_MAX + 3).map(|number| empty(&folder, number)).collect();
        for path in paths.iter().chain(&paths[EMPTY_MAX..]) {
            files.take(libc, path.clone());
        }
        assert_eq!((files.empty.len(), files.unread(), files.known.len()), (EMPTY_MAX, 3, 0));
        // A round later there is room for others, and a library has its place whatever came before.
        files.round = 2;
        files.unread.clear();
        files.take(libc, paths[EMPTY_MAX].clone());
        files.take(libc, path.to_owned());
        assert_eq!((files.empty.len() <= EMPTY_MAX, files.unread(), files.known.len()), (true, 0, 1));
        // Beyond the most, a file counts once however many have it.
        let known = files.known.values().next().unwrap().clone();
        let (id, _) = files.empty.pop_first().unwrap();
        let more =
            (0..FILES_MAX as u64).map(|inode| (FileId { inode: u64::MAX - inode, ..id }, known.clone()));
        files.known.extend(more);
        let fresh = empty(&folder, EMPTY_MAX + 9);
        (0..5).for_each(|_| files.take(libc, fresh.clone()));
        assert_eq!(files.unread(), 1);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_library_of_this_process_is_found_once_and_forgotten_when_nobody_has_it() {
        let mut files = Files::default();
        // Only this process and a child of it: others may come and go.
        let look = |files: &mut Files, pids: &[u32]| {
            files.queue = pids.to_vec();
            while files.step() {}
        };
        use std::io::{Read, Write};
        use std::process::{Command, Stdio};
        let mut child =
            Command::new("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // Who answers has begun, with its libraries.
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        look(&mut files, &[child.id()]);
        let Some((id, of_child)) =
            files.known().into_iter().find(|(_, one)| LIBRARIES[one.library].name == "libc")
        else {
            // Without the right to it there is nothing to see.
            assert!(!rustix::process::geteuid().is_root());
            child.kill().unwrap();
            child.wait().unwrap();
            return;
        };
        let mut of_both = Files::default();
        look(&mut of_both, &[child.id(), std::process::id()]);
        look(&mut of_both, &[child.id(), std::process::id()]);
        assert_eq!(of_both.known().iter().filter(|(_, one)| one.library == of_child.library).count(), 1);
        assert!(files.open(&id).is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(of_both.open(&id).is_some(), "this process has it still");
        assert!(files.open(&id).is_none() && !files.known.contains_key(&id));
    }
}

//! The libraries that programs have mapped, each file once however many have it, also in a container or a changed root:
//! what is opened is what the kernel itself mapped, not what a path leads to by now. Must never hold a file open between
//! two parts, so that nobody's unmounting waits for it.

use super::elf::places;
use super::known::{LIBRARIES, library};
use crate::procfs::{Reader, process_ids};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;

/// Processes that are looked at in one step: the kernel writes some hundred lines for each.
const STEP: usize = 8;
/// Processes that are looked at in one round: those that are new first, then those that were longest ago.
const ROUND_MAX: usize = 96;
/// Most files that are known.
const FILES_MAX: usize = 16;
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
    /// In which round a process was looked at.
    looked: BTreeMap<u32, u64>,
    round: u64,
    queue: Vec<u32>,
    /// Files that nobody may open or that are too large, and those beyond the most.
    unread: u32,
    reader: Reader,
}

impl Files {
    /// Begins a round.
    pub fn begin(&mut self) {
        self.round += 1;
        self.unread = 0;
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
        } else if id.size > FILE_BYTES_MAX || self.known.len() >= FILES_MAX {
            self.unread += 1;
        } else {
            let names: Vec<&str> = LIBRARIES[library].functions.iter().map(|(_, name)| *name).collect();
            let places = places(file, &names).unwrap_or_default();
            self.known.insert(id, Mapped { library, places, paths: vec![path] });
        }
    }

    /// Files that could not be looked into in this round.
    pub fn unread(&self) -> u32 {
        self.unread
    }

    /// Those with functions to count.
    pub fn known(&self) -> Vec<(FileId, Mapped)> {
        let some = self.known.iter().filter(|(_, mapped)| !mapped.places.is_empty());
        some.map(|(id, mapped)| (*id, mapped.clone())).collect()
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

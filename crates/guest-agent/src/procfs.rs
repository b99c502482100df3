//! Reads the small text files of `/proc`, `/sys` and the control groups. Must never allocate per read more than
//! its one reused buffer, and never turn what is missing into a zero.

use rustix::fs::{FileType, Mode, OFlags, RawDir, open};
use rustix::io::Errno;
use std::ffi::CStr;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Largest file that is read: `/proc/vmstat` has about 5 KiB, `/proc/stat` grows by 80 bytes per CPU and 2 per
/// interrupt line.
const FILE_BYTES_MAX: usize = 256 * 1024;

/// Room for a part of a folder's listing: about 300 processes.
const LISTING_BYTES: usize = 8192;

/// A reused buffer.
#[derive(Debug, Default)]
pub struct Reader {
    buffer: Vec<u8>,
    /// How much of it the last file filled.
    length: usize,
}

impl Reader {
    /// The content of an open file, from its beginning.
    pub fn read_file(&mut self, file: &File) -> Option<&str> {
        let mut length = 0;
        loop {
            if self.buffer.len() < length + 4096 {
                if length >= FILE_BYTES_MAX {
                    return None;
                }
                self.buffer.resize(length + 8192, 0);
            }
            match file.read_at(&mut self.buffer[length..], length as u64) {
                Ok(0) => break,
                Ok(got) => length += got,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        self.length = length;
        std::str::from_utf8(&self.buffer[..length]).ok()
    }

    /// The content of a file that is kept open in `slot` for the next time. What was opened before and is no more (a
    /// process that ended, a control group that was removed) is opened anew: another may have its name.
    pub fn read_kept(&mut self, slot: &mut Option<File>, path: impl AsRef<Path>) -> Option<&str> {
        let kept = slot.take().filter(|file| self.read_file(file).is_some());
        let file = match kept {
            Some(file) => file,
            None => {
                let file = File::open(path).ok()?;
                self.read_file(&file)?;
                file
            }
        };
        *slot = Some(file);
        std::str::from_utf8(&self.buffer[..self.length]).ok()
    }

    /// The content of a file by path.
    pub fn read(&mut self, path: impl AsRef<Path>) -> Option<&str> {
        let file = File::open(path).ok()?;
        self.read_file(&file)
    }
}

/// The content of a small file, without the white space around it.
pub fn read_text(path: impl AsRef<Path>) -> std::io::Result<String> {
    let mut text = std::fs::read_to_string(path)?;
    let trimmed = text.trim();
    if trimmed.len() != text.len() {
        text = trimmed.to_owned();
    }
    Ok(text)
}

/// Writes a value to a file of the kernel with one call; never makes a file.
pub fn write_text(path: impl AsRef<Path>, value: &str) -> std::io::Result<()> {
    let fd = open(path.as_ref(), OFlags::WRONLY | OFlags::CLOEXEC | OFlags::TRUNC, Mode::empty())?;
    let written = rustix::io::write(&fd, value.as_bytes())?;
    if written == value.len() { Ok(()) } else { Err(Errno::IO.into()) }
}

/// The numbers after `keys`, all different, in lines such as `key 12` or `key: 12 kB`: one pass for all.
pub fn fields<const N: usize>(text: &str, keys: [&str; N]) -> [Option<u64>; N] {
    let mut found = [None; N];
    let mut left = N;
    for line in text.lines() {
        let Some(end) = line.find([':', ' ']) else { continue };
        let Some(which) = keys.iter().position(|key| *key == &line[..end]) else { continue };
        if found[which].is_none() {
            found[which] = line[end + 1..].split_ascii_whitespace().next().and_then(|word| word.parse().ok());
            left -= usize::from(found[which].is_some());
        }
        if left == 0 {
            break;
        }
    }
    found
}

/// What `/proc/PID/stat` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessStat<'a> {
    /// Name of the program.
    pub name: &'a str,
    /// The kernel's letter.
    pub state: char,
    /// Parent.
    pub parent: u32,
    /// The kernel's `PF_*` flags.
    pub flags: u64,
    /// User and system time, in clock ticks.
    pub cpu_ticks: u64,
    /// Threads.
    pub threads: u32,
    /// Start, in clock ticks since boot.
    pub started_ticks: u64,
    /// Resident pages.
    pub resident_pages: u64,
}

/// `PF_KTHREAD` of linux/sched.h.
const PF_KTHREAD: u64 = 0x0020_0000;

impl ProcessStat<'_> {
    /// Whether it is a thread of the kernel.
    pub fn is_kernel(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }
}

/// Reads a line of `/proc/PID/stat`. The name may hold anything, parentheses too: the last `)` ends it.
pub fn process_stat(text: &str) -> Option<ProcessStat<'_>> {
    let open = text.find('(')?;
    let close = text.rfind(')')?;
    let name = text.get(open + 1..close)?;
    // Fields are numbered from 3 (state) here: proc(5).
    let mut fields = text.get(close + 1..)?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let flags = fields.nth(4)?.parse().ok()?; // 9
    let user: u64 = fields.nth(4)?.parse().ok()?; // 14
    let system: u64 = fields.next()?.parse().ok()?; // 15
    let threads = fields.nth(4)?.parse().ok()?; // 20
    let started_ticks = fields.nth(1)?.parse().ok()?; // 22
    let resident_pages = fields.nth(1)?.parse().ok()?; // 24
    let cpu_ticks = user + system;
    Some(ProcessStat { name, state, parent, flags, cpu_ticks, threads, started_ticks, resident_pages })
}

/// Ids of all processes.
pub fn process_ids() -> Vec<u32> {
    numeric_entries("/proc")
}

/// Ids of all threads of a process.
pub fn thread_ids(pid: u32) -> Vec<u32> {
    numeric_entries(format!("/proc/{pid}/task"))
}

fn numeric_entries(path: impl AsRef<Path>) -> Vec<u32> {
    let mut numbers = Vec::new();
    each_entry(path, |name, _| numbers.extend(name.to_str().ok().and_then(|name| name.parse::<u32>().ok())));
    numbers
}

/// Each entry of a folder, and whether the kernel says that it is a folder itself. Nothing is allocated for an entry:
/// the kernel's own folders have hundreds. False: there may be more, which could not be read; of a folder that is not
/// there, there is nothing more.
pub fn each_entry(path: impl AsRef<Path>, mut on_entry: impl FnMut(&CStr, bool)) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = match open(path.as_ref(), flags, Mode::empty()) {
        Ok(folder) => folder,
        Err(error) => return matches!(error, Errno::NOENT | Errno::NOTDIR),
    };
    let mut buffer = [MaybeUninit::uninit(); LISTING_BYTES];
    let mut listing = RawDir::new(folder, &mut buffer);
    while let Some(entry) = listing.next() {
        let Ok(entry) = entry else { return false };
        let name = entry.file_name();
        if name != c"." && name != c".." {
            on_entry(name, entry.file_type() == FileType::Directory);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_is_read_whole() {
        let line = "42 (a) (b c) S 7 42 42 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 3 0 9000 1000 77 0";
        let stat = process_stat(line).unwrap();
        assert_eq!((stat.name, stat.state, stat.parent, stat.cpu_ticks), ("a) (b c", 'S', 7, 200));
        assert_eq!((stat.threads, stat.started_ticks, stat.resident_pages), (3, 9000, 77));
        assert!(!stat.is_kernel());
    }

    #[test]
    fn nonsense_is_nothing() {
        for text in ["", "1", "1 (", "1 )(", "1 (a)", "1 (a) S x"] {
            assert_eq!(process_stat(text), None, "{text:?}");
        }
    }

    #[test]
    fn fields_are_whole_words() {
        let text = "MemTotal:  100 kB\nMem: 5\nnonsense\npgmajfault 7\nMemTotal: 3\nempty:\n";
        let keys = ["pgmajfault", "MemTotal", "Mem", "pgmaj", "empty"];
        assert_eq!(fields(text, keys), [Some(7), Some(100), Some(5), None, None]);
        assert_eq!(fields("", ["a"]), [None]);
    }

    #[test]
    fn a_kept_file_is_opened_anew_when_its_process_is_another() {
        let mut reader = Reader::default();
        let mut child = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let path = format!("/proc/{}/stat", child.id());
        let mut slot = None;
        assert!(reader.read_kept(&mut slot, &path).unwrap().contains("(sleep)"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(reader.read_kept(&mut slot, &path), None);
        assert!(slot.is_none());
    }

    #[test]
    fn folders_are_listed_without_themselves() {
        let mut seen = Vec::new();
        each_entry("/proc/self", |name, is_dir| seen.push((name.to_str().unwrap().to_owned(), is_dir)));
        for wanted in [("task", true), ("stat", false)] {
            assert_eq!(seen.iter().filter(|(name, is_dir)| (name.as_str(), *is_dir) == wanted).count(), 1);
        }
        assert!(seen.iter().all(|(name, _)| name != "." && name != ".."));
    }

    #[test]
    fn this_process_can_be_read() {
        let mut reader = Reader::default();
        let me = std::process::id();
        let stat = process_stat(reader.read(format!("/proc/{me}/stat")).unwrap()).unwrap();
        assert!(stat.threads >= 1 && stat.resident_pages > 0);
        assert!(process_ids().contains(&me));
    }
}

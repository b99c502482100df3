//! How much services write to their logs: text files below `/var/log` by their growth, the journal by its own count of
//! entries. Only counts are kept; no line is. What the agent's own services say it counts itself.

use super::{Collect, Step, found, wall_ms};
use crate::procfs::each_entry;
use proteus_protocol::guest::v1::findings::{Collector, Findings, LOGS_MAX, LogRate};
use rustix::fs::{FileType, Mode, OFlags, fstat, lstat, open};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const FOLDER: &str = "/var/log";
/// The journal's folders, each with one folder a machine.
const JOURNALS: [&str; 2] = ["/run/log/journal", "/var/log/journal"];
/// Most files that are watched.
const FILES_MAX: usize = 64;
/// Of what is new in a file, so much is read; its lines stand for all of it.
const READ_BYTES_MAX: usize = 256 << 10;
/// Longest name of a service.
const NAME_BYTES_MAX: usize = 64;
/// Words that make a line one that speaks of an error.
const WORDS: [&[u8]; 5] = [b"error", b"fatal", b"panic", b"crit", b"emerg"];

/// Whether a line speaks of an error.
fn speaks_of_error(line: &[u8]) -> bool {
    WORDS.iter().any(|word| line.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word)))
}

/// One file, as it was left.
struct Followed {
    inode: u64,
    bytes: u64,
    at_ms: u64,
    /// Entries of a journal.
    entries: Option<u64>,
}

/// The logs of this guest.
#[derive(Default)]
pub struct Logs {
    known: BTreeMap<PathBuf, Followed>,
    /// Files of this round that are still to be looked at.
    left: Vec<PathBuf>,
    rates: Vec<LogRate>,
}

/// Files with one of these ends in a folder and the folders in it.
fn files(folder: &Path, end: &str, depth: usize, into: &mut Vec<PathBuf>) {
    let mut folders = Vec::new();
    each_entry(folder, |name, is_folder| {
        let Ok(name) = name.to_str() else { return };
        match is_folder {
            true => folders.push(folder.join(name)),
            false if name.ends_with(end) && into.len() < FILES_MAX => into.push(folder.join(name)),
            false => {}
        }
    });
    folders.sort_unstable();
    for folder in folders.into_iter().filter(|_| depth > 0).take(FILES_MAX) {
        files(&folder, end, depth - 1, into);
    }
}

/// Entries of a journal file, by its header: `n_entries` at byte 152 (systemd, "Journal File Format").
fn entries(file: &File) -> Option<u64> {
    let mut header = [0u8; 160];
    file.read_exact_at(&mut header, 0).ok()?;
    header.starts_with(b"LPKSHHRH").then_some(())?;
    header[152..].try_into().ok().map(u64::from_le_bytes)
}

/// Lines of a part, and those that speak of an error.
pub fn count_lines(part: &[u8]) -> (u64, u64) {
    let lines = part.iter().filter(|byte| **byte == b'\n').count() as u64;
    let errors = part.split(|byte| *byte == b'\n').filter(|line| speaks_of_error(line)).count() as u64;
    (lines, errors)
}

/// The service that a file is of: its folder below the logs and its name, without its end. Whoever owns a folder of logs
/// chooses the name, so it is cut, and no line of a terminal is made of it.
fn service(path: &Path) -> String {
    if path.extension().is_some_and(|end| end == "journal") {
        return "journal".to_owned();
    }
    let below = path.strip_prefix(FOLDER).unwrap_or(path).with_extension("");
    let plain = |letter: char| if letter.is_control() { '?' } else { letter };
    let mut name: String = below.to_string_lossy().chars().map(plain).collect();
    let end = (0..=NAME_BYTES_MAX.min(name.len())).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
    name.truncate(end);
    name
}

/// Opens a file of text. Folders of logs belong to others than root: a link, a pipe or a device among them is not
/// opened, for it would lead elsewhere, make the agent wait, or start a watchdog.
fn open_file(path: &Path) -> Option<File> {
    let is_regular = |mode: u32| FileType::from_raw_mode(mode) == FileType::RegularFile;
    let seen = lstat(path).ok().filter(|seen| is_regular(seen.st_mode))?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::empty()).ok()?;
    // Another may have its name meanwhile.
    let is = fstat(&file).ok()?;
    let is_it = is_regular(is.st_mode) && (is.st_dev, is.st_ino) == (seen.st_dev, seen.st_ino);
    is_it.then(|| file.into())
}

/// One rate for each service: several files may be of one, such as the journals in memory and on the disk.
fn summed(rates: Vec<LogRate>) -> Vec<LogRate> {
    let mut all: BTreeMap<String, LogRate> = BTreeMap::new();
    for rate in rates {
        let Some(sum) = all.get_mut(&rate.service) else {
            all.insert(rate.service.clone(), rate);
            continue;
        };
        // Files of one round are looked at within moments.
        sum.window_ms = sum.window_ms.max(rate.window_ms);
        sum.lines = sum.lines.saturating_add(rate.lines);
        sum.errors = sum.errors.zip(rate.errors).map(|(some, more)| some.saturating_add(more));
    }
    all.into_values().collect()
}

impl Logs {
    fn look(&mut self, path: &Path) -> Option<LogRate> {
        let file = open_file(path)?;
        let is = file.metadata().ok()?;
        let now = Followed { inode: is.ino(), bytes: is.len(), at_ms: wall_ms(), entries: entries(&file) };
        let (bytes, at_ms, in_all) = (now.bytes, now.at_ms, now.entries);
        let before = self.known.insert(path.to_owned(), now);
        // A new file is read from its end on: what it holds is of an unknown time. One that shrank was begun anew.
        let before = before.filter(|before| before.inode == is.ino() && before.bytes <= bytes)?;
        let window_ms = at_ms.checked_sub(before.at_ms).filter(|ms| *ms > 0)?;
        let rate = |lines, errors| LogRate { service: service(path), window_ms, lines, errors };
        if let Some(in_all) = in_all {
            return Some(rate(in_all.checked_sub(before.entries?)?, None));
        }
        let grown = bytes - before.bytes;
        let mut part = vec![0u8; READ_BYTES_MAX.min(usize::try_from(grown).unwrap_or(READ_BYTES_MAX))];
        let got = if part.is_empty() { 0 } else { file.read_at(&mut part, before.bytes).ok()? };
        let (lines, errors) = count_lines(&part[..got]);
        let whole = |counted: u64| match got as u64 {
            0 => 0,
            got => (u128::from(counted) * u128::from(grown) / u128::from(got)) as u64,
        };
        Some(rate(whole(lines), Some(whole(errors))))
    }
}

impl Collect for Logs {
    fn name(&self) -> Collector {
        Collector::Logs
    }

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn step(&mut self, findings: &mut Findings) -> Step {
        if self.left.is_empty() && self.rates.is_empty() {
            files(Path::new(FOLDER), ".log", 1, &mut self.left);
            JOURNALS.iter().for_each(|folder| files(Path::new(folder), "system.journal", 1, &mut self.left));
            self.known.retain(|path, _| self.left.contains(path));
        }
        if let Some(path) = self.left.pop() {
            let rate = self.look(&path);
            self.rates.extend(rate);
            if !self.left.is_empty() {
                return Step::More;
            }
        }
        let mut rates = summed(std::mem::take(&mut self.rates));
        rates.sort_by(|a, b| b.lines.cmp(&a.lines).then_with(|| a.service.cmp(&b.service)));
        rates.truncate(LOGS_MAX);
        findings.logs = found(rates);
        Step::Done
    }

    fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn growth_is_counted_from_when_a_file_was_first_seen() {
        let path = std::env::temp_dir().join(format!("proteus-log-{}.log", std::process::id()));
        let mut file = File::create(&path).unwrap();
        file.write_all(b"old error\n").unwrap();
        let mut logs = Logs::default();
        assert_eq!(logs.look(&path), None);
        logs.known.get_mut(&path).unwrap().at_ms -= 5;
        file.write_all(b"fine\nan ERROR here\nfine\n").unwrap();
        let rate = logs.look(&path).unwrap();
        assert_eq!((rate.lines, rate.errors), (3, Some(1)));
        assert!(rate.window_ms >= 5);
        file.set_len(0).unwrap();
        assert_eq!(logs.look(&path), None, "it was begun anew");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_journal_tells_its_entries_and_no_lines() {
        let path = std::env::temp_dir().join(format!("proteus-log-{}.journal", std::process::id()));
        let write = |count: u64| {
            let mut header = [0u8; 256];
            header[..8].copy_from_slice(b"LPKSHHRH");
            header[152..160].copy_from_slice(&count.to_le_bytes());
            std::fs::write(&path, header).unwrap();
        };
        write(10);
        let mut logs = Logs::default();
        assert_eq!(logs.look(&path), None);
        logs.known.get_mut(&path).unwrap().at_ms -= 5;
        write(17);
        let rate = logs.look(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((rate.service.as_str(), rate.lines, rate.errors), ("journal", 7, None));
    }

    #[test]
    fn a_files_service_is_its_place_below_the_logs() {
        assert_eq!(service(Path::new("/var/log/nginx/access.log")), "nginx/access");
        let odd = service(Path::new("/var/log/a\u{1b}[2J\n/\u{e4}.log"));
        assert_eq!(odd, "a?[2J?/\u{e4}");
        let long = service(Path::new(&format!("/var/log/x{}.log", "\u{e4}".repeat(50))));
        assert_eq!(long.len(), 63, "cut between letters");
        assert!(speaks_of_error(b"12:00 [CRIT] x"));
        assert!(!speaks_of_error(b"all is well"));
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let folder = std::env::temp_dir().join(format!("proteus-log-odd-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let (pipe, link, file) = (folder.join("x.log"), folder.join("y.log"), folder.join("z.log"));
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        std::fs::write(&file, "line\n").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let mut logs = Logs::default();
        for path in [&pipe, &link, &file, &folder] {
            assert_eq!(logs.look(path), None);
        }
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(logs.known.keys().collect::<Vec<_>>(), [&file]);
    }

    #[test]
    fn files_of_one_service_are_one_rate() {
        let rate = |service: &str, window_ms, lines, errors| LogRate {
            service: service.to_owned(),
            window_ms,
            lines,
            errors,
        };
        let told =
            summed(vec![rate("journal", 9, 1, None), rate("a", 9, 5, Some(2)), rate("journal", 10, 2, None)]);
        assert_eq!(told, [rate("a", 9, 5, Some(2)), rate("journal", 10, 3, None)]);
    }
}

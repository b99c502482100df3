//! How much services write to their logs: text files below `/var/log` by their growth, the system's journal by unit and
//! priority. Only counts are kept; no line is. The journals of people are not looked at. What the agent's own services
//! say it counts itself.

mod journal;

use super::{Collect, Step, found, wall_ms};
use crate::procfs::each_entry;
use journal::{Follow, Seen, Tally};
use proteus_protocol::guest::v1::findings::{Collector, Findings, LOGS_MAX, LogRate};
use rustix::fs::{FileType, Mode, OFlags, fstat, lstat, open};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FOLDER: &str = "/var/log";
/// The journal's folders, each with one folder a machine.
const JOURNALS: [&str; 2] = ["/run/log/journal", "/var/log/journal"];
/// The journal of the system in them. Others are of people, or are written no more.
const JOURNAL: &str = "system.journal";
/// What stands for entries that say of no service, and for those that were not looked at.
const REST: &str = "journal";
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
}

/// A journal, as it was left. It stays open, so that what came before its file was put aside for another can be read.
struct Journal {
    follow: Follow<File>,
    /// When the last look at it began, and how long before that the one before.
    since: Instant,
    window_ms: u64,
    /// Whether another file has its name, and that file.
    is_over: bool,
    next: Option<Follow<File>>,
}

/// The logs of this guest.
#[derive(Default)]
pub struct Logs {
    known: BTreeMap<PathBuf, Followed>,
    journals: BTreeMap<PathBuf, Journal>,
    is_in_round: bool,
    /// The journal that is looked at.
    reading: Option<PathBuf>,
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

/// Lines of a part, and those that speak of an error.
pub fn count_lines(part: &[u8]) -> (u64, u64) {
    let lines = part.iter().filter(|byte| **byte == b'\n').count() as u64;
    let errors = part.split(|byte| *byte == b'\n').filter(|line| speaks_of_error(line)).count() as u64;
    (lines, errors)
}

/// A name that others chose: it is cut, and no line of a terminal is made of it.
fn shown(name: &str) -> String {
    let plain = |letter: char| if letter.is_control() { '?' } else { letter };
    let mut name: String = name.chars().map(plain).collect();
    let end = (0..=NAME_BYTES_MAX.min(name.len())).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
    name.truncate(end);
    name
}

/// The service that a file is of: its folder below the logs and its name, without its end.
fn service(path: &Path) -> String {
    shown(&path.strip_prefix(FOLDER).unwrap_or(path).with_extension("").to_string_lossy())
}

/// Opens a log. Folders of logs belong to others than root: a link, a pipe or a device among them is not
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

/// What a journal tells of each service.
fn rates(seen: Seen, window_ms: u64) -> Vec<LogRate> {
    let rate = |service: &str, tally: Tally| LogRate {
        service: service.to_owned(),
        window_ms,
        lines: tally.lines,
        errors: (tally.unknown == 0).then_some(tally.errors),
    };
    let mut rest = seen.others;
    rest.lines = rest.lines.saturating_add(seen.cut);
    rest.unknown = rest.unknown.saturating_add(seen.cut);
    let mut rates: Vec<LogRate> =
        seen.services.iter().map(|(service, tally)| rate(service, *tally)).collect();
    rates.extend((rest.lines > 0).then(|| rate(REST, rest)));
    rates
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
        let now = Followed { inode: is.ino(), bytes: is.len(), at_ms: wall_ms() };
        let (bytes, at_ms) = (now.bytes, now.at_ms);
        let before = self.known.insert(path.to_owned(), now);
        // A new file is read from its end on: what it holds is of an unknown time. One that shrank was begun anew.
        let before = before.filter(|before| before.inode == is.ino() && before.bytes <= bytes)?;
        let window_ms = at_ms.checked_sub(before.at_ms).filter(|ms| *ms > 0)?;
        let rate = |lines, errors| LogRate { service: service(path), window_ms, lines, errors };
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

impl Logs {
    /// Begins to look at a journal; one that is new is followed from its end on.
    fn begin(&mut self, path: PathBuf) {
        let Some(file) = open_file(&path) else { return };
        let since = Instant::now();
        let Some(journal) = self.journals.get_mut(&path) else {
            let journal = |follow| Journal { follow, since, window_ms: 0, is_over: false, next: None };
            self.journals.extend(Follow::from_end(file).map(|follow| (path, journal(follow))));
            return;
        };
        let window = since.saturating_duration_since(journal.since).as_millis();
        (journal.since, journal.window_ms) = (since, u64::try_from(window).unwrap_or(u64::MAX).max(1));
        if !journal.follow.is(&file) {
            // All that is in the new one came after the last look.
            (journal.is_over, journal.next) = (true, Follow::from_begin(file));
        }
        if journal.follow.begin() {
            self.reading = Some(path);
        } else {
            self.end(path);
        }
    }

    /// Looks at some more of a journal.
    fn read(&mut self, path: PathBuf) {
        let Some(journal) = self.journals.get_mut(&path) else { return };
        match journal.follow.step() {
            None => self.reading = Some(path),
            Some(seen) => {
                self.rates.extend(rates(seen, journal.window_ms));
                if journal.is_over {
                    self.end(path);
                }
            }
        }
    }

    /// Takes leave of a journal, for the one that has its name now; where there is none, it is new in the next round.
    fn end(&mut self, path: PathBuf) {
        let Some(mut journal) = self.journals.remove(&path) else { return };
        let Some(next) = journal.next.take() else { return };
        (journal.follow, journal.is_over) = (next, false);
        if journal.follow.begin() {
            self.journals.insert(path.clone(), journal);
            self.reading = Some(path);
        }
    }

    /// What there is to be looked at in a round.
    fn list(&mut self) {
        JOURNALS.iter().for_each(|folder| files(Path::new(folder), JOURNAL, 1, &mut self.left));
        files(Path::new(FOLDER), ".log", 1, &mut self.left);
        self.known.retain(|path, _| self.left.contains(path));
        self.journals.retain(|path, _| self.left.contains(path));
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
        if !self.is_in_round {
            self.list();
            self.is_in_round = true;
        }
        if let Some(path) = self.reading.take() {
            self.read(path);
            return Step::More;
        }
        if let Some(path) = self.left.pop() {
            if path.file_name().is_some_and(|name| name == JOURNAL) {
                self.begin(path);
            } else {
                let rate = self.look(&path);
                self.rates.extend(rate);
            }
            return Step::More;
        }
        self.is_in_round = false;
        let mut rates = summed(std::mem::take(&mut self.rates));
        // What speaks of errors is not left out for what only says much.
        let has_errors = |rate: &LogRate| rate.errors.is_some_and(|errors| errors > 0);
        rates.sort_by(|a, b| {
            (has_errors(b), b.lines).cmp(&(has_errors(a), a.lines)).then_with(|| a.service.cmp(&b.service))
        });
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
    use super::journal::Book;
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
    fn a_journal_that_is_put_aside_is_read_to_its_end_and_the_next_from_its_begin() {
        let folder = std::env::temp_dir().join(format!("proteus-log-journal-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(JOURNAL);
        let look = |logs: &mut Logs| {
            logs.begin(path.clone());
            for _ in 0..1000 {
                let Some(path) = logs.reading.take() else { return summed(std::mem::take(&mut logs.rates)) };
                logs.read(path);
            }
            panic!("a look without end");
        };
        let (unit, fine, bad) = ("_SYSTEMD_UNIT=nginx.service", "PRIORITY=6", "PRIORITY=3");
        let mut first = Book::new(1, true);
        first.entry(&[unit, bad]);
        std::fs::write(&path, &first.bytes).unwrap();
        let mut logs = Logs::default();
        assert_eq!(look(&mut logs), []);
        first.entry(&[unit, bad]);
        std::fs::write(&path, &first.bytes).unwrap();
        let told = |rates: &[LogRate]| -> Vec<_> {
            rates.iter().map(|rate| (rate.service.clone(), rate.lines, rate.errors)).collect()
        };
        assert_eq!(told(&look(&mut logs)), [("nginx.service".to_owned(), 1, Some(1))]);
        first.entry(&[unit, fine]);
        std::fs::write(&path, &first.bytes).unwrap();
        std::fs::rename(&path, folder.join("system@1.journal")).unwrap();
        let mut second = Book::new(2, true);
        (0..4).for_each(|_| second.entry(&[unit, bad]));
        second.entry(&["MESSAGE=of nobody"]);
        second.entry_of(&[8]);
        std::fs::write(&path, &second.bytes).unwrap();
        let rates = look(&mut logs);
        assert_eq!(told(&rates), [(REST.to_owned(), 2, None), ("nginx.service".to_owned(), 5, Some(4))]);
        assert!(rates.iter().all(|rate| rate.window_ms > 0));
        // One that is no journal any more is forgotten, and new when it is one again.
        std::fs::write(&path, b"nonsense").unwrap();
        assert_eq!(look(&mut logs), []);
        std::fs::write(&path, &first.bytes).unwrap();
        assert_eq!((look(&mut logs), logs.journals.len()), (Vec::new(), 1));
        std::fs::remove_dir_all(&folder).unwrap();
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

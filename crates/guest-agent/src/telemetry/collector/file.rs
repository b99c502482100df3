//! What a guest's files are: kinds, sizes, growth, and classes of what is sensitive in them. One walk over the guest's
//! own disks in small parts, at a bounded rate. Counts leave this file, and nothing else: never a path, a name or a part
//! of a content, not in an error either.

mod content;

mod kind;

mod number;

mod place;

use super::walk::{Go, Met, Walk, beginning};
use super::{Collect, Step, found, wall_ms};
use content::SensitiveClassIndex;
use place::{Place, places};
use proteus_protocol::guest::v1::findings::{
    Collector, FileKind, Files, Findings, KindCount, SIZES, SensitiveCount,
};
use rustix::fd::BorrowedFd;
use rustix::fs::Stat;
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Entries of folders in one round.
const ENTRIES_MAX: u64 = 2_000_000;
/// A step looks at so many, or reads so much of files: one to two ms. Less would cost more in waking up than in work.
const STEP_ENTRIES: u64 = 512;
const STEP_BYTES: usize = 256 << 10;
/// Files of a round whose beginning is read, and how much of each. The share of files is chosen for fewer, so that the
/// bound does not cut off what is walked last.
const SAMPLES_MAX: u64 = 2000;
const SAMPLES: u64 = 1600;
const SAMPLE_BYTES: usize = 64 << 10;
/// Files that may be sampled where nothing tells their number.
const FILES_GUESSED: u64 = 100_000;
/// What the walk may read in a second, and what is saved up of it.
const BYTES_A_SECOND: u64 = 1 << 20;
const BYTES_SAVED_MAX: i64 = 256 << 10;
/// What the look at one file is counted as: an inode and some of its block.
const LOOK_BYTES: usize = 512;
const DAY_MS: u64 = 86_400_000;

/// The bucket of bytes.
struct Rate {
    left: i64,
    filled_at: Instant,
}

impl Rate {
    fn new(now: Instant) -> Self {
        Self { left: BYTES_SAVED_MAX, filled_at: now }
    }

    /// How long nothing may be read.
    fn wait(&mut self, now: Instant) -> Option<Duration> {
        let micros = now.saturating_duration_since(self.filled_at).as_micros();
        let brought = micros * u128::from(BYTES_A_SECOND) / 1_000_000;
        if brought > 0 {
            self.filled_at = now;
            self.left =
                self.left.saturating_add(i64::try_from(brought).unwrap_or(i64::MAX)).min(BYTES_SAVED_MAX);
        }
        let lacking = u64::try_from(-self.left).ok().filter(|lacking| *lacking > 0)?;
        Some(Duration::from_micros(lacking.saturating_mul(1_000_000) / BYTES_A_SECOND + 1000))
    }

    fn spend(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// A number that looks like chance, of a file: splitmix64.
fn chance(salt: u64, stat: &Stat) -> u64 {
    let mut mixed = (stat.st_ino ^ stat.st_dev.rotate_left(32) ^ salt).wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// The class of a size: 0, and one for each number of digits.
fn size_class(bytes: u64) -> usize {
    bytes.checked_ilog10().map_or(0, |power| (power as usize + 1).min(SIZES - 1))
}

/// What a file takes on its disk: less than its size where it has holes. A name of several counts its share.
fn bytes_on_disk(stat: &Stat) -> u64 {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let taken = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    // Small ones may lie in their inode, and take no block.
    let bytes = if taken == 0 && size <= 4096 { size } else { size.min(taken) };
    bytes / u64::from(u32::try_from(stat.st_nlink).unwrap_or(u32::MAX).max(1))
}

/// What is counted in a round.
struct Tally {
    files: Files,
    kinds: BTreeMap<FileKind, KindCount>,
    sensitive: [(u64, u64); SensitiveClassIndex::COUNT],
    entries: u64,
    /// What this step read of files so far.
    read: usize,
    /// A file is sampled when its number is below this.
    share: u64,
    salt: u64,
    now_ms: u64,
    buffer: Vec<u8>,
}

impl Tally {
    fn new(salt: u64, expected: u64) -> Self {
        let share = u128::from(u64::MAX) * u128::from(SAMPLES) / u128::from(expected.max(SAMPLES));
        Self {
            files: Files { complete: true, sizes: vec![0; SIZES], ..Files::default() },
            kinds: BTreeMap::new(),
            sensitive: [(0, 0); SensitiveClassIndex::COUNT],
            entries: 0,
            read: 0,
            share: u64::try_from(share).unwrap_or(u64::MAX),
            salt,
            now_ms: wall_ms(),
            buffer: Vec::new(),
        }
    }

    /// Whether a time of a file is within the last day.
    fn is_of_today(&self, seconds: i64) -> bool {
        let ms = u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
        ms > self.now_ms.saturating_sub(DAY_MS)
    }

    /// Counts a file; what it is.
    fn count(&mut self, (name, stat): (&CStr, &Stat), is_below_etc: bool, keeps_read_time: bool) -> FileKind {
        let kind = kind::kind(name.to_bytes(), stat.st_mode & 0o111 != 0, is_below_etc);
        let bytes = bytes_on_disk(stat);
        let (changed, read) = (self.is_of_today(stat.st_mtime), self.is_of_today(stat.st_atime));
        let new = KindCount { kind, files: 0, bytes: 0, changed_day: 0, read_day: None };
        let counted = self.kinds.entry(kind).or_insert(new);
        counted.files += 1;
        counted.bytes += bytes;
        counted.changed_day += u64::from(changed);
        if keeps_read_time {
            *counted.read_day.get_or_insert(0) += u64::from(read);
        }
        self.files.files += 1;
        self.files.bytes += bytes;
        self.files.without_read_time += u64::from(!keeps_read_time);
        self.files.sizes[size_class(u64::try_from(stat.st_size).unwrap_or(0))] += 1;
        if let Some(class) = kind::sensitive(name.to_bytes()) {
            let at = SensitiveClassIndex::ALL.iter().position(|each| *each == class);
            at.into_iter().for_each(|at| self.sensitive[at].0 += 1);
        }
        kind
    }

    /// Reads the beginning of a file, where it is chosen; how much that was.
    fn sample(
        &mut self,
        folder: BorrowedFd<'_>,
        (name, stat): (&CStr, &Stat),
        kind: FileKind,
    ) -> Option<usize> {
        if !kind::is_samplable(kind) || stat.st_size <= 0 {
            return None;
        }
        self.files.samplable += 1;
        if self.files.sampled >= SAMPLES_MAX || chance(self.salt, stat) > self.share {
            return None;
        }
        let text = beginning(folder, (name, stat.st_ino), SAMPLE_BYTES, &mut self.buffer)?;
        let found = content::classes(text);
        let length = text.len();
        self.files.sampled += 1;
        self.sensitive.iter_mut().zip(found).for_each(|((_, by_content), is)| *by_content += u64::from(is));
        Some(length)
    }

    /// Takes notice of what a walk met; how much was read for it, and whether the step is over.
    fn meet(&mut self, path: &[u8], place: &Place, met: Met<'_>) -> (usize, Go) {
        self.entries += 1;
        let go = if self.entries.is_multiple_of(STEP_ENTRIES) { Go::Pause } else { Go::On };
        match met {
            Met::Listing(bytes) => (bytes, go),
            Met::Passed => (0, go),
            Met::Folder => {
                self.files.folders += 1;
                (LOOK_BYTES, go)
            }
            Met::Unread => {
                self.files.folders_unread += 1;
                (LOOK_BYTES, go)
            }
            Met::File(folder, name, stat) => {
                let is_etc = path == b"./etc" || path.starts_with(b"./etc/");
                let is_below_etc = place.point == Path::new("/") && is_etc;
                let kind = self.count((name, stat), is_below_etc, place.keeps_read_time);
                let read = self.sample(folder, (name, stat), kind).unwrap_or(0);
                // Small ones cost a look at least: 64 of them fill a step.
                self.read += if read == 0 { 0 } else { read.max(STEP_BYTES / 64) };
                let go = if self.read >= STEP_BYTES { Go::Pause } else { go };
                (LOOK_BYTES + read, go)
            }
        }
    }

    fn close(mut self) -> Files {
        self.files.kinds = std::mem::take(&mut self.kinds).into_values().collect();
        let classes = SensitiveClassIndex::ALL.into_iter().zip(self.sensitive);
        self.files.sensitive = classes
            .map(|(class, (by_name, by_content))| SensitiveCount { class, by_name, by_content })
            .collect();
        self.files
    }
}

/// A round.
struct Round {
    began: Instant,
    /// File systems that are still to be walked.
    left: Vec<Place>,
    walk: Option<(Place, Walk)>,
    tally: Tally,
}

impl Round {
    /// Files that may be there, by what the file systems say of themselves.
    fn expected(places: &[Place]) -> u64 {
        let used = |place: &Place| {
            let says = rustix::fs::statvfs(&place.point).ok()?;
            Some(says.f_files.saturating_sub(says.f_ffree))
        };
        match places.iter().filter_map(used).sum() {
            0 => FILES_GUESSED,
            used => used,
        }
    }

    fn new(mounts: &Path, salt: u64, before: Option<u64>) -> Option<Self> {
        let places = places(mounts)?;
        let expected = before.unwrap_or_else(|| Self::expected(&places.walked));
        let mut tally = Tally::new(salt, expected);
        tally.files.complete = !places.is_cut;
        tally.files.images_skipped = places.images;
        tally.files.filesystems = u32::try_from(places.walked.len()).unwrap_or(u32::MAX);
        Some(Self { began: Instant::now(), left: places.walked, walk: None, tally })
    }

    /// A part; false: the round is over.
    fn go_on(&mut self, rate: &mut Rate) -> bool {
        if self.tally.entries >= ENTRIES_MAX {
            self.tally.files.complete = false;
            return false;
        }
        if self.walk.is_none() {
            let next = self.left.pop().map(|place| (place.clone(), Walk::new(&place.point)));
            self.walk = next;
        }
        let Some((place, walk)) = &mut self.walk else { return false };
        self.tally.read = 0;
        let is_left = walk.go_on(|path, met| {
            let (bytes, go) = self.tally.meet(path, place, met);
            rate.spend(bytes);
            go
        });
        if !is_left {
            self.walk = None;
        }
        is_left || !self.left.is_empty()
    }
}

/// The files of this guest.
pub struct FileKinds {
    mounts: PathBuf,
    salt: Option<u64>,
    rate: Rate,
    round: Option<Round>,
    /// Bytes at the end of the last whole round, and when that was.
    before: Option<(u64, Instant)>,
    /// Files that the last whole round could sample.
    samplable: Option<u64>,
}

impl Default for FileKinds {
    fn default() -> Self {
        Self {
            mounts: super::mount::MOUNTS.into(),
            salt: None,
            rate: Rate::new(Instant::now()),
            round: None,
            before: None,
            samplable: None,
        }
    }
}

/// Growth in bytes a day.
fn growth(before: u64, now: u64, over: Duration) -> Option<i64> {
    let ms = i128::try_from(over.as_millis()).ok().filter(|ms| *ms > 0)?;
    let grown = (i128::from(now) - i128::from(before)) * i128::from(DAY_MS) / ms;
    // What a file system cannot hold is no growth: the bound of the wire.
    i64::try_from(grown).ok().filter(|grown| grown.unsigned_abs() <= 1 << 62)
}

impl FileKinds {
    fn close(&mut self, round: Round, now: Instant) -> Files {
        let took = now.saturating_duration_since(round.began).as_millis();
        let mut files = round.tally.close();
        files.took_ms = u64::try_from(took).unwrap_or(u64::MAX);
        if files.complete {
            let before = self.before.replace((files.bytes, now));
            files.growth_per_day =
                before.and_then(|(bytes, at)| growth(bytes, files.bytes, now.saturating_duration_since(at)));
            self.samplable = Some(files.samplable);
        }
        files
    }
}

impl Collect for FileKinds {
    fn name(&self) -> Collector {
        Collector::Files
    }

    fn period(&self) -> Duration {
        Duration::from_secs(6 * 3600)
    }

    fn missing(&mut self) -> Option<String> {
        let is_known = self.round.is_some() || places(&self.mounts).is_some_and(|all| !all.walked.is_empty());
        (!is_known).then(|| "no file system is on a disk of this guest".to_owned())
    }

    fn step(&mut self, findings: &mut Findings) -> Step {
        let now = Instant::now();
        if let Some(wait) = self.rate.wait(now) {
            return Step::Later(wait);
        }
        if self.round.is_none() {
            // The same files are sampled in each round, so that a difference is one of the files.
            let salt = *self.salt.get_or_insert_with(super::random);
            self.round = Round::new(&self.mounts, salt, self.samplable);
        }
        let Some(round) = &mut self.round else { return Step::Done };
        if round.go_on(&mut self.rate) {
            return Step::More;
        }
        if let Some(round) = self.round.take() {
            findings.files = found(self.close(round, now));
        }
        Step::Done
    }

    fn forget(&mut self) {
        let mounts = std::mem::take(&mut self.mounts);
        *self = Self { mounts, ..Self::default() };
    }
}

#[cfg(test)]
mod tests;

//! A VM's history as one file of a fixed size: for each tier a ring of slots, each with a checksum of its own. A slot
//! that was torn by a crash, or damaged, is a bucket that is missing, and counted; it is never shown. It is to travel
//! with its VM as it is. Must never grow, and never believe a byte that it did not check.
//!
//! ```text
//! | heading, 4096 B                                     | ring of tier 0 | ring of tier 1 | ring of tier 2 |
//! | magic | CRC-32 | length | JSON: VM, metrics, tiers  |
//! slot: | begins at, ms, u64 | readings, u16 | 5 × 14 bits for each metric, to a full byte | checksum, u32 |
//! ```
//! All of that is little endian, and of 14 bits the lowest come first.
//!
//! A slot's checksum is the CRC-32 of what is before it, XOR that of the heading's text, XOR its tier: a slot of another
//! VM's history, or of another ring, is none of this one's. Version 1 had the CRC-32 alone; both 1 and 2 had 16 bits.
//!
//! A value v is kept as its logarithm: round(592 · ln(1 + v)), which is exact to 0.1 % up to 10^12; 16383 is "missing".
//! 12 240 slots of 233 bytes are 2.9 MB a VM. Since version 3 a file is of its full length from the beginning, so that
//! one that was cut is seen; it takes only the disk of what was written. With 16 bits for each of 25 metrics
//! it would be 3.2 MB.

use proteus_brain::telemetry::{Closed, pool};
use proteus_model::id::VmId;
use proteus_model::telemetry::{Bucket, METRICS, Metric, Summary, Tier};
use proteus_model::unit::UnixMillis;
use proteus_protocol::guest::frame::crc32;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const MAGIC: &[u8; 16] = b"proteus history\n";
const VERSION: u32 = 3;
/// The oldest that is read. What it has is taken over into one of today.
const VERSION_MIN: u32 = 1;
/// No moment is later: the year 10000.
const MOMENT_END: UnixMillis = UnixMillis(253_402_300_800_000);
const HEADING_BYTES: usize = 4096;
/// Magic, checksum, length.
const HEADING_FIXED: usize = 16 + 4 + 4;
/// Least, median, 95th percentile, most, mean.
const VALUES: usize = 5;
/// The first version whose slots are tied to their history and ring, and the first of short codes and full length.
const VERSION_TIED: u32 = 2;
const VERSION_SHORT: u32 = 3;
/// Most metrics that a file of another version may have.
const METRICS_MAX: usize = 128;

const ALL_TIERS: [usize; Tier::ALL.len()] = [0, 1, 2];

/// Why a history could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
    #[error("{doing} {path}")]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("it is no history of Proteus: {0}")]
    Foreign(String),
    #[error("it is cut off: {has} of {of} bytes")]
    Cut { has: u64, of: u64 },
}

/// What a file says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Heading {
    version: u32,
    vm: VmId,
    /// Columns, by name: a later Proteus may have more.
    metrics: Vec<String>,
    tiers: Vec<(u64, u64)>,
}

impl Heading {
    fn own(vm: VmId) -> Self {
        Self {
            version: VERSION,
            vm,
            metrics: Metric::ALL.iter().map(|metric| metric.name().to_owned()).collect(),
            tiers: Tier::ALL.iter().map(|tier| (tier.step_s, tier.slots)).collect(),
        }
    }

    /// Its bytes, and the checksum of its text.
    fn encode(&self) -> io::Result<(Vec<u8>, u32)> {
        let text = serde_json::to_vec(self)?;
        let (mut bytes, sum) = (MAGIC.to_vec(), crc32(&text));
        bytes.extend(sum.to_le_bytes());
        bytes.extend(u32::try_from(text.len()).map_err(io::Error::other)?.to_le_bytes());
        bytes.extend(text);
        if bytes.len() > HEADING_BYTES {
            return Err(io::Error::other("the heading does not fit"));
        }
        bytes.resize(HEADING_BYTES, 0);
        Ok((bytes, sum))
    }

    /// The heading, and the checksum of its text.
    fn decode(bytes: &[u8]) -> Result<(Self, u32), HistoryError> {
        let foreign = |why: &str| HistoryError::Foreign(why.to_owned());
        let short = || foreign("it is cut off in its heading");
        let fixed = bytes.get(..HEADING_FIXED).ok_or_else(short)?;
        if fixed[..16] != *MAGIC {
            return Err(foreign("it does not begin as one"));
        }
        let number = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let length = number(20) as usize;
        let end = HEADING_FIXED.checked_add(length).filter(|end| *end <= HEADING_BYTES);
        let text = bytes.get(HEADING_FIXED..end.ok_or_else(short)?).ok_or_else(short)?;
        let sum = crc32(text);
        if sum != number(16) {
            return Err(foreign("its heading is damaged"));
        }
        let heading: Self =
            serde_json::from_slice(text).map_err(|error| HistoryError::Foreign(error.to_string()))?;
        if !(VERSION_MIN..=VERSION).contains(&heading.version) {
            let why = format!("it is of version {}, and this Proteus reads up to {VERSION}", heading.version);
            return Err(HistoryError::Foreign(why));
        }
        let tiers: Vec<(u64, u64)> = Tier::ALL.iter().map(|tier| (tier.step_s, tier.slots)).collect();
        if heading.tiers != tiers || heading.metrics.len() > METRICS_MAX {
            return Err(foreign("it has other resolutions or too many columns"));
        }
        Ok((heading, sum))
    }

    /// `sum`: the checksum of its text.
    fn layout(&self, sum: u32) -> Layout {
        let columns = self.metrics.iter().map(|name| Metric::named(name)).collect();
        let scale = if self.version >= VERSION_SHORT { Scale::SHORT } else { Scale::LONG };
        Layout { columns, scale, key: (self.version >= VERSION_TIED).then_some(sum) }
    }
}

/// How a value is kept: so many bits, the largest of their numbers for "missing", and so many steps to a factor of e.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scale {
    bits: usize,
    steps: f32,
}

impl Scale {
    /// 16382 steps reach to 10^12: 592 · ln(10^12) is 16 358.
    const SHORT: Self = Self { bits: 14, steps: 592.0 };
    /// 65534 steps do: 2370 · ln(10^12) is 65 486.
    const LONG: Self = Self { bits: 16, steps: 2370.0 };

    fn missing(self) -> u16 {
        u16::MAX >> (16 - self.bits)
    }

    fn code(self, value: f32) -> u16 {
        let scaled = (value.max(0.0).ln_1p() * self.steps).round();
        // Saturates: what is beyond 10^12 is kept as that.
        (scaled as u16).min(self.missing() - 1)
    }

    fn value(self, code: u16) -> Option<f32> {
        (code != self.missing()).then(|| (f32::from(code) / self.steps).exp_m1())
    }

    /// Bytes that so many codes take.
    fn bytes(self, codes: usize) -> usize {
        (codes * self.bits).div_ceil(8)
    }

    fn pack(self, codes: impl Iterator<Item = u16>, bytes: &mut Vec<u8>) {
        let (mut held, mut bits) = (0u32, 0);
        for code in codes {
            held |= u32::from(code) << bits;
            bits += self.bits;
            while bits >= 8 {
                bytes.push(held as u8);
                held >>= 8;
                bits -= 8;
            }
        }
        bytes.extend((bits > 0).then_some(held as u8));
    }

    fn unpack(self, bytes: &[u8]) -> Vec<u16> {
        let (mut codes, mut held, mut bits) = (Vec::with_capacity(bytes.len() * 8 / self.bits), 0u32, 0);
        for byte in bytes {
            held |= u32::from(*byte) << bits;
            bits += 8;
            if bits >= self.bits {
                codes.push(held as u16 & self.missing());
                held >>= self.bits;
                bits -= self.bits;
            }
        }
        codes
    }

    /// The values of a summary, in their order; `Ok(None)`: not measured. `Err`: nobody wrote that, as some are missing and
    /// others are not, or the least is not the least.
    fn summary(self, codes: &[u16]) -> Result<Option<Summary>, ()> {
        let [min, p50, p95, max, mean] = *codes else { return Err(()) };
        if codes.iter().all(|code| *code == self.missing()) {
            return Ok(None);
        }
        if min > p50 || p50 > p95 || p95 > max || mean < min || mean > max {
            return Err(());
        }
        let values: Option<Vec<f32>> = codes.iter().map(|code| self.value(*code)).collect();
        let [min, p50, p95, max, mean] = values.and_then(|values| values.try_into().ok()).ok_or(())?;
        Ok(Some(Summary { min, p50, p95, max, mean }))
    }
}

/// Where things are in a file with these columns; a column of `None` is a metric that we do not know.
#[derive(Debug, Clone, PartialEq)]
struct Layout {
    columns: Vec<Option<Metric>>,
    scale: Scale,
    /// Tells its slots from those of others; `None`: it is too old to.
    key: Option<u32>,
}

impl Layout {
    fn slot_bytes(&self) -> usize {
        8 + 2 + self.scale.bytes(self.columns.len() * VALUES) + 4
    }

    fn ring_at(&self, tier: usize) -> u64 {
        let before: u64 = Tier::ALL[..tier].iter().map(|tier| tier.slots).sum();
        HEADING_BYTES as u64 + before * self.slot_bytes() as u64
    }

    /// All of a file.
    fn file_bytes(&self) -> u64 {
        self.ring_at(Tier::ALL.len())
    }

    fn slot_at(&self, tier: usize, begins_at: UnixMillis) -> u64 {
        let Tier { step_s, slots } = Tier::ALL[tier];
        self.ring_at(tier) + begins_at.0 / (step_s * 1000) % slots * self.slot_bytes() as u64
    }

    fn checksum(&self, tier: usize, body: &[u8]) -> u32 {
        let key = self.key.map_or(0, |key| key ^ tier as u32);
        crc32(body) ^ key
    }

    fn encode(&self, tier: usize, bucket: &Bucket) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.slot_bytes());
        bytes.extend(bucket.begins_at.0.to_le_bytes());
        bytes.extend(bucket.readings.to_le_bytes());
        let codes = self.columns.iter().flat_map(|column| {
            let summary = column.and_then(|metric| bucket.summaries[metric as usize]);
            let codes = summary.map(|s| [s.min, s.p50, s.p95, s.max, s.mean].map(|v| self.scale.code(v)));
            codes.unwrap_or([self.scale.missing(); VALUES])
        });
        self.scale.pack(codes, &mut bytes);
        bytes.extend(self.checksum(tier, &bytes).to_le_bytes());
        bytes
    }

    /// `Ok(None)`: never written. `Err`: torn or damaged.
    fn decode(&self, tier: usize, slot: u64, bytes: &[u8]) -> Result<Option<Bucket>, ()> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(())?;
        if self.checksum(tier, body) != u32::from_le_bytes(*sum) {
            return Err(());
        }
        let (begins_at, rest) = body.split_first_chunk::<8>().ok_or(())?;
        let (readings, values) = rest.split_first_chunk::<2>().ok_or(())?;
        let begins_at = UnixMillis(u64::from_le_bytes(*begins_at));
        let Tier { step_s, slots } = Tier::ALL[tier];
        // Whole, but of another place: as when a file was put together by hand.
        if begins_at >= MOMENT_END
            || !begins_at.0.is_multiple_of(step_s * 1000)
            || begins_at.0 / (step_s * 1000) % slots != slot
        {
            return Err(());
        }
        let mut summaries = [None; METRICS];
        let codes = self.scale.unpack(values);
        for (column, codes) in self.columns.iter().zip(codes.chunks_exact(VALUES)) {
            if let Some(metric) = column {
                summaries[*metric as usize] = self.scale.summary(codes)?;
            }
        }
        Ok(Some(Bucket { begins_at, readings: u16::from_le_bytes(*readings), summaries }))
    }
}

/// Buckets that were read, and how many slots were damaged.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// By tier, oldest first.
    pub(crate) buckets: [Vec<Bucket>; Tier::ALL.len()],
    /// Slots that were torn or damaged.
    pub(crate) damaged: u64,
}

impl Found {
    /// Adds a bucket that is later than all of its tier. Of what comes in only as much is held as a history does.
    pub(super) fn push_latest(&mut self, closed: Closed) {
        let slots = slots(closed.tier);
        let buckets = &mut self.buckets[closed.tier];
        if buckets.len() >= 2 * slots {
            buckets.drain(..slots);
        }
        buckets.push(closed.bucket);
    }

    /// Leaves out what is of the future: somebody's clock was wrong when it was written. It stays in its place, for it may
    /// be the clock of now that is.
    pub(super) fn leave_out_future(&mut self, now: UnixMillis) {
        for (tier, buckets) in self.buckets.iter_mut().enumerate() {
            buckets.retain(|bucket| !is_of_future(tier, bucket, now));
        }
    }

    /// Gives up what the ring would, too.
    pub(super) fn keep_latest(&mut self) {
        for (tier, buckets) in self.buckets.iter_mut().enumerate() {
            buckets.drain(..buckets.len().saturating_sub(slots(tier)));
        }
    }
}

/// Whether a bucket begins more than its own length from now: two clocks differ a little.
fn is_of_future(tier: usize, bucket: &Bucket, now: UnixMillis) -> bool {
    bucket.begins_at.0 > now.0.saturating_add(Tier::ALL[tier].step_s * 1000)
}

fn slots(tier: usize) -> usize {
    usize::try_from(Tier::ALL[tier].slots).unwrap_or(usize::MAX)
}

/// Whether bytes begin as a history does.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Reads a history that came from somewhere, all of it. The VM that it was of.
pub(super) fn decode(bytes: &[u8]) -> Result<(VmId, Found), HistoryError> {
    let (heading, sum) = Heading::decode(bytes)?;
    let (has, of) = (bytes.len() as u64, heading.layout(sum).file_bytes());
    if heading.version >= VERSION_SHORT && has < of {
        return Err(HistoryError::Cut { has, of });
    }
    Ok((heading.vm, decode_tiers(bytes, &(heading, sum), &ALL_TIERS)))
}

/// What there is of some tiers, also in a file that was cut; the others are empty.
fn decode_tiers(bytes: &[u8], (heading, sum): &(Heading, u32), wanted: &[usize]) -> Found {
    let layout = heading.layout(*sum);
    let mut found = Found::default();
    for (tier, kind) in Tier::ALL.into_iter().enumerate().filter(|(tier, _)| wanted.contains(tier)) {
        for slot in 0..kind.slots {
            let begin = usize::try_from(layout.ring_at(tier)).unwrap_or(usize::MAX)
                + usize::try_from(slot).unwrap_or(usize::MAX) * layout.slot_bytes();
            // What a file ends before was never written; what it ends in is torn.
            let Some(rest) = bytes.get(begin..).filter(|rest| !rest.is_empty()) else { break };
            let bytes = rest.get(..layout.slot_bytes()).unwrap_or(rest);
            match layout.decode(tier, slot, bytes) {
                Ok(Some(bucket)) => found.buckets[tier].push(bucket),
                Ok(None) => {}
                Err(()) => found.damaged += 1,
            }
        }
        found.buckets[tier].sort_by_key(|bucket| bucket.begins_at);
    }
    found
}

/// The buckets of one tier up to now, the oldest first, and how many slots of that are damaged. Nothing where there is no
/// history. Changes nothing, so it meets nobody who writes.
pub(super) fn read(path: &Path, tier: usize, now: UnixMillis) -> Result<(Vec<Bucket>, u64), HistoryError> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        other => other.map_err(History::error(path, "read"))?,
    };
    let mut found = decode_tiers(&bytes, &Heading::decode(&bytes)?, &[tier]);
    found.leave_out_future(now);
    Ok((found.buckets.get_mut(tier).map(std::mem::take).unwrap_or_default(), found.damaged))
}

/// Held by who opens a history: two that take the same old file over at once would each put one in its place, and what
/// one of them writes would be lost.
static OPENING: Mutex<()> = Mutex::new(());

/// An open history.
#[derive(Debug)]
pub(crate) struct History {
    path: PathBuf,
    file: File,
    layout: Layout,
}

impl History {
    fn error(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> HistoryError {
        let path = path.to_owned();
        move |source| HistoryError::File { doing, path, source }
    }

    /// Opens the history of a VM, making it where there is none. One that cannot be read, as of another Proteus, is put
    /// aside under another name, which is told, and a new one begun.
    pub(crate) fn open(path: &Path, vm: VmId) -> Result<(Self, Option<PathBuf>), HistoryError> {
        let _alone = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        let heading = Heading::own(vm);
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(other.map_err(Self::error(path, "read"))?),
        };
        let kept = bytes.as_deref().map(Heading::decode);
        if let Some(Ok((kept, sum))) = &kept
            && *kept == heading
        {
            let file = File::options().read(true).write(true).open(path);
            let (path, file) = (path.to_owned(), file.map_err(Self::error(path, "open"))?);
            return Self { path, file, layout: heading.layout(*sum) }
                .lengthen()
                .map(|history| (history, None));
        }
        let aside = matches!(kept, Some(Err(_))).then(|| path.with_extension("unreadable"));
        if let Some(aside) = &aside {
            std::fs::rename(path, aside).map_err(Self::error(path, "put aside"))?;
        }
        // Older, of fewer columns, or of the VM that it was cloned from: what it has is taken over.
        let found = bytes.as_deref().zip(kept.and_then(Result::ok));
        let found = found.map(|(bytes, kept)| decode_tiers(bytes, &kept, &ALL_TIERS));
        let next = path.with_extension("next");
        let made = Self::make(&next, &heading)?;
        for (tier, buckets) in found.unwrap_or_default().buckets.iter().enumerate() {
            buckets.iter().try_for_each(|bucket| made.put(tier, bucket))?;
        }
        // Until it is on disk the old one is the only one.
        made.sync()?;
        std::fs::rename(&next, path).map_err(Self::error(path, "put in place"))?;
        Ok((Self { path: path.to_owned(), ..made }, aside))
    }

    fn make(path: &Path, heading: &Heading) -> Result<Self, HistoryError> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(path).map_err(Self::error(path, "make"))?;
        let (bytes, sum) = heading.encode().map_err(Self::error(path, "make"))?;
        file.write_all_at(&bytes, 0).map_err(Self::error(path, "write"))?;
        Self { path: path.to_owned(), file, layout: heading.layout(sum) }.lengthen()
    }

    /// Of its full length, without taking disk for it.
    fn lengthen(self) -> Result<Self, HistoryError> {
        let (has, of) = (self.file.metadata().map(|metadata| metadata.len()), self.layout.file_bytes());
        let longer = has.and_then(|has| if has < of { self.file.set_len(of) } else { Ok(()) });
        longer.map_err(Self::error(&self.path, "lengthen"))?;
        Ok(self)
    }

    /// Keeps a bucket in the place of the oldest. Where there is one of the same time already, as of a VM that was stopped
    /// and started within it, a longer one is made anew of the shorter ones that are kept; of all these the fullest stays.
    pub(crate) fn put(&self, tier: usize, bucket: &Bucket) -> Result<(), HistoryError> {
        let Some(there) = self.of_time(tier, bucket.begins_at) else { return self.write(tier, bucket) };
        let whole = self.of_parts(tier, bucket.begins_at).filter(|whole| whole.readings > bucket.readings);
        let fuller = whole.as_ref().unwrap_or(bucket);
        if there.readings > fuller.readings { Ok(()) } else { self.write(tier, fuller) }
    }

    fn write(&self, tier: usize, bucket: &Bucket) -> Result<(), HistoryError> {
        let (at, bytes) = (self.layout.slot_at(tier, bucket.begins_at), self.layout.encode(tier, bucket));
        self.file.write_all_at(&bytes, at).map_err(Self::error(&self.path, "write"))
    }

    /// The bucket that is kept of this time.
    fn of_time(&self, tier: usize, begins_at: UnixMillis) -> Option<Bucket> {
        let there = self.slot(tier, self.layout.slot_at(tier, begins_at)).ok().flatten();
        there.filter(|there| there.begins_at == begins_at)
    }

    /// A longer bucket of the shorter ones that are kept of its time.
    fn of_parts(&self, tier: usize, begins_at: UnixMillis) -> Option<Bucket> {
        let shorter = tier.checked_sub(1)?;
        let (step, whole) = (Tier::ALL[shorter].step_s, Tier::ALL[tier].step_s);
        let begins = (0..whole / step).map(|part| UnixMillis(begins_at.0 + part * step * 1000));
        let parts: Vec<Bucket> = begins.filter_map(|begin| self.of_time(shorter, begin)).collect();
        (!parts.is_empty()).then(|| pool(begins_at, &parts))
    }

    /// The same of a bucket of before: the place of a newer one is not its. One of the future gives way.
    pub(super) fn put_unless_newer(
        &self,
        tier: usize,
        bucket: &Bucket,
        now: UnixMillis,
    ) -> Result<(), HistoryError> {
        let there = self.slot(tier, self.layout.slot_at(tier, bucket.begins_at));
        match there {
            Ok(Some(there)) if there.begins_at > bucket.begins_at && !is_of_future(tier, &there, now) => {
                Ok(())
            }
            _ => self.put(tier, bucket),
        }
    }

    fn slot(&self, tier: usize, at: u64) -> Result<Option<Bucket>, ()> {
        let mut bytes = vec![0; self.layout.slot_bytes()];
        let slot = (at - self.layout.ring_at(tier)) / self.layout.slot_bytes() as u64;
        self.file.read_exact_at(&mut bytes, at).map_err(|_| ())?;
        self.layout.decode(tier, slot, &bytes)
    }

    /// All that is kept.
    pub(crate) fn read(&self) -> Result<Found, HistoryError> {
        let bytes = self.export()?;
        Ok(decode_tiers(&bytes, &Heading::decode(&bytes)?, &ALL_TIERS))
    }

    /// The whole file, in the form that [`decode`] reads.
    pub(super) fn export(&self) -> Result<Vec<u8>, HistoryError> {
        std::fs::read(&self.path).map_err(Self::error(&self.path, "read"))
    }

    /// Makes all that was put in durable.
    pub(crate) fn sync(&self) -> Result<(), HistoryError> {
        self.file.sync_data().map_err(Self::error(&self.path, "write"))
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod fuzz;

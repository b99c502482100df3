//! Sessions by the hour at which they began, of the log that login programs write (utmp(5)). Of a record only its kind
//! and its time are looked at: never the name, the terminal or the address beside them.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Length of a record of glibc on x86-64.
pub const RECORD_BYTES: usize = 384;
/// Kind of a session's begin, `USER_PROCESS`.
const USER_PROCESS: i16 = 7;
/// Where a record has its time, in seconds.
const TIME_AT: usize = 340;
/// Records of one read, and bytes of one log that are looked at, from its end.
const RECORDS_READ: usize = 128;
const LOG_BYTES_MAX: u64 = 64 << 20;

/// What the logs tell of a time.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Counts {
    by_hour: [u64; 24],
    /// The earliest time in them, ms.
    begin_ms: Option<u64>,
    /// The latest.
    end_ms: Option<u64>,
}

/// What the logs tell of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Sessions that began in each hour of the day, UTC.
    Whole([u64; 24]),
    /// They begin later: they will never tell all of it.
    Lacking,
    /// They end before it does, or cannot be read: a clock alone does not say that it is over.
    NotYet,
}

impl Counts {
    fn take(&mut self, records: &[u8], from_ms: u64, until_ms: u64) {
        for record in records.chunks_exact(RECORD_BYTES) {
            let kind = i16::from_le_bytes([record[0], record[1]]);
            let time = [record[TIME_AT], record[TIME_AT + 1], record[TIME_AT + 2], record[TIME_AT + 3]];
            // Unsigned, so that it lasts until 2106.
            let seconds = u64::from(u32::from_le_bytes(time));
            if kind == 0 || seconds == 0 {
                continue;
            }
            let at_ms = seconds * 1000;
            self.begin_ms = Some(self.begin_ms.map_or(at_ms, |begin| begin.min(at_ms)));
            self.end_ms = self.end_ms.max(Some(at_ms));
            if kind == USER_PROCESS && (from_ms..until_ms).contains(&at_ms) {
                // Below 24.
                self.by_hour[(seconds / 3600 % 24) as usize] += 1;
            }
        }
    }

    fn read(&mut self, log: &Path, from_ms: u64, until_ms: u64) -> std::io::Result<()> {
        let mut file = File::open(log)?;
        let bytes = file.metadata()?.len();
        let skipped = bytes.saturating_sub(LOG_BYTES_MAX).next_multiple_of(RECORD_BYTES as u64);
        file.seek(SeekFrom::Start(skipped))?;
        let mut file = file.take(LOG_BYTES_MAX);
        let mut buffer = Vec::with_capacity(RECORDS_READ * RECORD_BYTES);
        loop {
            buffer.clear();
            // Whole records, but for the last one, which may be half written.
            let got = file.by_ref().take((RECORDS_READ * RECORD_BYTES) as u64).read_to_end(&mut buffer)?;
            if got == 0 {
                return Ok(());
            }
            self.take(&buffer, from_ms, until_ms);
        }
    }
}

/// All logs; `None`: they cannot be read.
fn counts(logs: &[PathBuf], from_ms: u64, until_ms: u64) -> Option<Counts> {
    if !cfg!(target_arch = "x86_64") {
        return None;
    }
    let mut counts = Counts::default();
    let (first, others) = logs.split_first()?;
    counts.read(first, from_ms, until_ms).ok()?;
    for log in others.iter().filter(|log| log.exists()) {
        counts.read(log, from_ms, until_ms).ok()?;
    }
    Some(counts)
}

/// Sessions by the hour at which they began, over a time.
pub fn by_hour(logs: &[PathBuf], from_ms: u64, until_ms: u64) -> Told {
    let Some(counts) = counts(logs, from_ms, until_ms) else { return Told::NotYet };
    match (counts.begin_ms, counts.end_ms) {
        (Some(begin), Some(end)) if end >= until_ms => match begin <= from_ms {
            true => Told::Whole(counts.by_hour),
            false => Told::Lacking,
        },
        _ => Told::NotYet,
    }
}

/// Whether the logs can be read and hold nothing later than this.
pub fn is_over(logs: &[PathBuf], at_ms: u64) -> bool {
    counts(logs, 0, 0).is_some_and(|counts| counts.end_ms.is_none_or(|end| end <= at_ms))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A record of a kind at a time, with a name that must not get out.
    pub fn record(kind: i16, seconds: u32) -> Vec<u8> {
        let mut record = vec![0; RECORD_BYTES];
        record[..2].copy_from_slice(&kind.to_le_bytes());
        record[44..49].copy_from_slice(b"alice");
        record[TIME_AT..TIME_AT + 4].copy_from_slice(&seconds.to_le_bytes());
        record
    }

    fn counts(records: &[(i16, u32)], from_s: u64, until_s: u64) -> Counts {
        let log: Vec<u8> = records.iter().flat_map(|(kind, at)| record(*kind, *at)).collect();
        let mut counts = Counts::default();
        counts.take(&log, from_s * 1000, until_s * 1000);
        counts
    }

    #[test]
    fn sessions_of_the_time_are_counted_by_their_hour() {
        let told = counts(
            &[(2, 50), (7, 99), (7, 3600), (8, 3700), (7, 7199), (7, 90_000), (7, 200_000)],
            100,
            100_000,
        );
        assert_eq!((told.by_hour[1], told.by_hour.iter().sum::<u64>()), (3, 3));
        assert_eq!((told.begin_ms, told.end_ms), (Some(50_000), Some(200_000_000)));
    }

    #[test]
    fn a_log_that_begins_later_tells_nothing_of_the_time() {
        let folder = std::env::temp_dir().join(format!("proteus-session-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let logs = [folder.join("wtmp"), folder.join("wtmp.1")];
        assert_eq!(by_hour(&logs, 1000, 2000), Told::NotYet, "there is none");
        assert!(!is_over(&logs, 2000));
        let mut cut = [record(7, 500), record(7, 900)].concat();
        cut.extend(&record(7, 950)[..100]);
        std::fs::write(&logs[0], cut).unwrap();
        assert_eq!(by_hour(&logs, 400_000, 800_000), Told::Lacking);
        std::fs::write(&logs[1], record(2, 100)).unwrap();
        let Told::Whole(hours) = by_hour(&logs, 400_000, 900_000) else { panic!("the log before tells it") };
        assert_eq!(hours[0], 1);
        assert_eq!(by_hour(&logs, 400_000, 1_000_000), Told::NotYet, "it may have sessions still");
        assert!(is_over(&logs, 900_000) && !is_over(&logs, 899_999));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    proptest! {
        /// The sensitivity that the noise is made for: one session is one in one hour.
        #[test]
        fn one_session_more_is_one_more_in_one_hour(
            records in prop::collection::vec((0..10i16, 1..2_000_000u32), 0..60),
            at in 1_000u32..1_000_000,
            place in 0..60usize,
        ) {
            let before = counts(&records, 1_000, 1_000_000).by_hour;
            let mut more = records.clone();
            more.insert(place.min(more.len()), (USER_PROCESS, at));
            let after = counts(&more, 1_000, 1_000_000).by_hour;
            let differ: Vec<u64> = (0..24).map(|hour| after[hour] - before[hour]).collect();
            prop_assert_eq!(differ.iter().sum::<u64>(), 1);
            prop_assert_eq!(differ[(at / 3600 % 24) as usize], 1);
        }

        #[test]
        fn any_bytes_are_read(log in prop::collection::vec(any::<u8>(), 0..2000)) {
            Counts::default().take(&log, 0, u64::MAX);
        }
    }
}

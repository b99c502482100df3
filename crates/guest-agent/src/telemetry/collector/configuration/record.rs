//! What was known last of each aspect, and the changes since: kept on the disk, where there is one, so that changes while
//! the agent was away are seen. Must never grow with what a guest does: entries, changes and texts are bounded.

use super::Entries;
use crate::digest::digest;
use crate::state::{self, Kept};
use proteus_protocol::guest::v1::findings::{
    Aspect, AspectStatus, Author, CHANGES_MAX, Change, Configuration, NAME_CHANGED_BYTES_MAX,
    VALUE_CHANGED_BYTES_MAX,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

/// Its name in the folder.
pub const FILE: &str = "configuration";
/// Most entries of one aspect that are watched.
const ENTRIES_MAX: usize = 8192;

/// One aspect as it was last.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Known {
    at_ms: u64,
    entries: Entries,
}

/// The record.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    history: String,
    key: [u64; 2],
    began_ms: u64,
    sequence: u64,
    lost: u64,
    known: BTreeMap<Aspect, Known>,
    changes: VecDeque<Change>,
    #[serde(skip)]
    is_changed: bool,
    #[serde(skip)]
    is_kept: bool,
}

/// A text of at most `max` bytes without what a line or JSON would have to escape. What is longer ends in a part of its
/// digest, so that two that begin alike stay two.
fn bounded(text: &str, max: usize, key: [u64; 2]) -> String {
    let plain = |letter: char| match letter {
        '"' => '\'',
        '\\' => '/',
        letter if letter.is_control() => ' ',
        letter => letter,
    };
    let clean: String = text.chars().map(plain).collect();
    if clean.len() <= max {
        return clean;
    }
    let end = (0..=max - 9).rev().find(|at| clean.is_char_boundary(*at)).unwrap_or(0);
    // 32 bits of it: names of one guest that begin with the same 87 bytes are few.
    format!("{}~{:08x}", &clean[..end], digest(key, text.as_bytes()) as u32)
}

impl Record {
    fn new(now_ms: u64) -> Self {
        Self {
            history: crate::identity::new_instance(),
            key: [super::super::random(), super::super::random()],
            began_ms: now_ms,
            sequence: 0,
            lost: 0,
            known: BTreeMap::new(),
            changes: VecDeque::new(),
            is_changed: true,
            is_kept: false,
        }
    }

    /// What was kept; else it begins now. What is damaged is put aside.
    pub fn open(folder: &Path, now_ms: u64) -> Self {
        match state::read(folder, FILE) {
            Ok(Kept::Whole(body)) => match serde_json::from_slice::<Self>(&body) {
                Ok(record) if record.changes.len() <= CHANGES_MAX => return Self { is_kept: true, ..record },
                _ => state::put_aside(folder, FILE),
            },
            Ok(Kept::Damaged) => state::put_aside(folder, FILE),
            Ok(Kept::Absent) | Err(_) => {}
        }
        Self::new(now_ms)
    }

    /// The key of the digests.
    pub fn key(&self) -> [u64; 2] {
        self.key
    }

    /// An aspect was looked at, and is as it was.
    pub fn same(&mut self, aspect: Aspect, now_ms: u64) {
        self.known.entry(aspect).or_default().at_ms = now_ms;
    }

    /// An aspect as it is now. Where the look was cut or could not see all, what is absent from it is not gone.
    pub fn take(&mut self, aspect: Aspect, seen: Entries, is_lacking: bool, now_ms: u64) {
        let key = self.key;
        let bound = |(name, value): (String, String)| {
            (bounded(&name, NAME_CHANGED_BYTES_MAX, key), bounded(&value, VALUE_CHANGED_BYTES_MAX, key))
        };
        let mut seen: Entries = seen.into_iter().map(bound).collect();
        let Some(before) = self.known.remove(&aspect) else {
            self.is_changed = true;
            let entries = seen.into_iter().take(ENTRIES_MAX).collect();
            self.known.insert(aspect, Known { at_ms: now_ms, entries });
            return;
        };
        let (mut entries, mut gone, mut other) = (Entries::new(), Vec::new(), Vec::new());
        for (name, from) in before.entries {
            match seen.remove(&name) {
                Some(to) => {
                    if from != to {
                        other.push((name.clone(), Some(from), Some(to.clone())));
                    }
                    entries.insert(name, to);
                }
                None if is_lacking => drop(entries.insert(name, from)),
                None => gone.push((name, Some(from), None)),
            }
        }
        // Those that were watched stay so: else a new name would push another out, which is not gone.
        for (name, to) in seen.into_iter().take(ENTRIES_MAX.saturating_sub(entries.len())) {
            other.push((name.clone(), None, Some(to.clone())));
            entries.insert(name, to);
        }
        other.sort_unstable();
        for (name, from, to) in gone.into_iter().chain(other) {
            self.sequence += 1;
            // Nobody else mounts there.
            let by = (aspect == Aspect::Images).then_some(Author::Proteus);
            let (sequence, at_ms, after_ms) = (self.sequence, now_ms, before.at_ms);
            self.changes.push_back(Change { sequence, at_ms, after_ms, aspect, name, from, to, by });
            if self.changes.len() > CHANGES_MAX {
                self.changes.pop_front();
                self.lost += 1;
            }
            self.is_changed = true;
        }
        self.known.insert(aspect, Known { at_ms: now_ms, entries });
    }

    /// Writes it to the disk, where there is one and something is new.
    pub fn keep(&mut self, folder: &Path) {
        if !self.is_changed {
            return;
        }
        // Where it cannot be written now (a full disk), the next round tries again; meanwhile it says that it is not kept.
        let body = serde_json::to_vec(self).unwrap_or_default();
        self.is_kept = state::is_on_disk(folder) && state::write(folder, FILE, &body).is_ok();
        self.is_changed = !self.is_kept;
    }

    /// What is told of it.
    pub fn told(&self, aspects: &[Aspect], missing: &BTreeMap<Aspect, String>) -> Configuration {
        let status = |aspect: &Aspect| {
            let entries = self.known.get(aspect).map_or(0, |known| known.entries.len());
            let entries = u32::try_from(entries).unwrap_or(u32::MAX);
            AspectStatus { aspect: *aspect, entries, missing: missing.get(aspect).cloned() }
        };
        Configuration {
            history: self.history.clone(),
            began_ms: self.began_ms,
            kept: self.is_kept,
            sequence: self.sequence,
            lost: self.lost,
            aspects: aspects.iter().map(status).collect(),
            changes: self.changes.iter().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proteus_model::telemetry as model;

    fn entries(of: &[(&str, &str)]) -> Entries {
        of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn told(record: &Record) -> Configuration {
        record.told(&super::super::ORDER, &BTreeMap::new())
    }

    #[test]
    fn the_first_look_is_the_baseline_and_each_later_one_tells_what_differs() {
        let mut record = Record::new(5);
        record.take(Aspect::Packages, entries(&[("a", "1"), ("b", "1")]), false, 10);
        assert!(record.changes.is_empty());
        record.take(Aspect::Packages, entries(&[("b", "2"), ("c", "1")]), false, 20);
        let changes = told(&record).changes;
        let said = changes.iter().map(|c| (c.sequence, c.name.as_str(), c.from.as_deref(), c.to.as_deref()));
        let wanted = [(1, "a", Some("1"), None), (2, "b", Some("1"), Some("2")), (3, "c", None, Some("1"))];
        assert!(said.eq(wanted), "{changes:?}");
        assert_eq!((changes[0].after_ms, changes[0].at_ms, changes[0].by), (10, 20, None));
        record.take(Aspect::Images, entries(&[]), false, 20);
        record.take(Aspect::Images, entries(&[("web", "vdb")]), false, 30);
        assert_eq!(told(&record).changes[3].by, Some(Author::Proteus));
    }

    #[test]
    fn what_a_look_could_not_see_is_not_gone() {
        let mut record = Record::new(5);
        record.take(Aspect::Files, entries(&[("a", "1"), ("b", "1")]), false, 10);
        record.take(Aspect::Files, entries(&[("b", "2"), ("c", "1")]), true, 20);
        let said = |record: &Record| {
            let changes = told(record).changes.into_iter();
            changes.map(|c| (c.name, c.to)).collect::<Vec<_>>()
        };
        let wanted = [("b".to_owned(), Some("2".to_owned())), ("c".to_owned(), Some("1".to_owned()))];
        assert_eq!(said(&record), wanted);
        record.take(Aspect::Files, entries(&[("b", "2"), ("c", "1")]), false, 30);
        assert_eq!(said(&record)[2], ("a".to_owned(), None), "a whole look says so");
    }

    #[test]
    fn one_entry_too_many_pushes_none_out() {
        let mut record = Record::new(5);
        let many = |from: usize| -> Entries {
            (from..=ENTRIES_MAX).map(|number| (format!("{number:05}"), String::new())).collect()
        };
        record.take(Aspect::Files, many(1), false, 10);
        record.take(Aspect::Files, many(0), false, 20);
        assert_eq!((record.sequence, record.known[&Aspect::Files].entries.len()), (0, ENTRIES_MAX));
        record.take(Aspect::Files, Entries::from([("new".to_owned(), String::new())]), true, 30);
        assert_eq!((record.sequence, record.known[&Aspect::Files].entries.len()), (0, ENTRIES_MAX));
    }

    #[test]
    fn the_latest_are_kept_within_100_kib_whatever_they_are_called() {
        let mut record = Record::new(5);
        record.take(Aspect::Files, Entries::new(), false, 10);
        let long = |number: u32| (format!("\"\\\u{1b}{number}{}", "ä\"".repeat(300)), "\\".repeat(999));
        record.take(Aspect::Files, (0..300).map(long).collect(), false, 20);
        record.take(
            Aspect::Files,
            (0..300).map(|number| (long(number).0, "\"".repeat(999))).collect(),
            false,
            30,
        );
        let told = told(&record);
        assert_eq!((told.changes.len(), told.lost, told.sequence), (CHANGES_MAX, 600 - 256, 600));
        let bytes = serde_json::to_vec(&told).unwrap().len();
        assert!(bytes < 100 << 10, "{bytes}");
        let taken = model::ConfigurationObserved::try_from(told).unwrap();
        assert_eq!(taken.changes.last().unwrap().sequence, 600);
    }

    #[test]
    fn it_outlives_the_agent_and_what_is_damaged_is_put_aside() {
        let folder = std::env::temp_dir().join(format!("proteus-record-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let mut record = Record::open(&folder, 5);
        record.take(Aspect::Kernel, entries(&[("release", "6.1")]), false, 10);
        record.keep(&folder);
        let history = record.history.clone();
        let mut again = Record::open(&folder, 50);
        assert_eq!((&again.history, again.key, again.began_ms), (&history, record.key, 5));
        again.take(Aspect::Kernel, entries(&[("release", "6.12")]), false, 60);
        assert_eq!((again.changes[0].after_ms, again.changes[0].from.as_deref()), (10, Some("6.1")));
        again.keep(&folder);
        assert_eq!(Record::open(&folder, 70).sequence, 1);
        let whole = std::fs::read(folder.join(FILE)).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 4;
        for damaged in [&whole[..whole.len() - 3], &flipped, b"somebody else's"] {
            std::fs::write(folder.join(FILE), damaged).unwrap();
            let anew = Record::open(&folder, 80);
            assert_ne!(anew.history, history);
            assert_eq!((anew.sequence, anew.began_ms, anew.known.len()), (0, 80, 0));
            assert!(folder.join("configuration.damaged").exists() && !folder.join(FILE).exists());
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn long_names_that_begin_alike_stay_two() {
        let (a, b) = (format!("{}a", "x".repeat(200)), format!("{}b", "x".repeat(200)));
        let short = |text: &str| bounded(text, NAME_CHANGED_BYTES_MAX, [1, 2]);
        assert_ne!(short(&a), short(&b));
        assert_eq!(short(&a).len(), NAME_CHANGED_BYTES_MAX);
    }

    proptest! {
        /// Whoever applies the changes to the first look has the last one, as long as none was lost.
        #[test]
        fn changes_lead_from_one_look_to_the_next(
            looks in prop::collection::vec(prop::collection::btree_map("[a-f]", "[xyz]", 0..6), 1..12),
        ) {
            let mut record = Record::new(1);
            for look in &looks {
                record.take(Aspect::Sysctl, look.clone(), false, 2);
            }
            let mut now = looks[0].clone();
            for change in told(&record).changes {
                prop_assert_eq!(now.get(&change.name), change.from.as_ref());
                let _ = match change.to {
                    Some(to) => now.insert(change.name, to),
                    None => now.remove(&change.name),
                };
            }
            prop_assert_eq!(Some(&now), looks.last());
        }

        #[test]
        fn any_text_is_bounded_and_plain(text in any::<String>(), max in 16..100usize) {
            let bound = bounded(&text, max, [1, 2]);
            prop_assert!(bound.len() <= max);
            prop_assert_eq!(serde_json::to_string(&bound).unwrap().len(), bound.len() + 2);
        }
    }
}

//! Which kinds of files a guest holds, as it travels: counts, and nothing else.

use super::super::sample::SampleError;
use super::limit::{counter, list, no_more};
use proteus_model::telemetry as model;
use proteus_model::unit::{Bytes, Millis};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Classes of sizes: empty files, and one for each number of digits from 1 to 15; the last holds all beyond.
pub const SIZES: usize = 16;
/// Kinds and classes that are told: as many as there are, and room for a newer agent's.
const COUNTS_MAX: usize = 32;
/// A file system is not larger than 2^62 bytes, so it grows and shrinks by no more in a day.
const GROWTH_MAX: u64 = 1 << 62;

/// What a file is, by the end of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each means what its namesake in the model means")]
pub enum FileKind {
    Document,
    Image,
    Media,
    Archive,
    Database,
    Log,
    Source,
    Program,
    Configuration,
    VirtualDisk,
    Mail,
    Other,
    /// Of a newer agent: ignored.
    #[serde(other)]
    Unknown,
}

/// A class of what is sensitive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each means what its namesake in the model means")]
pub enum SensitiveClass {
    PrivateKeys,
    Credentials,
    CardNumbers,
    AccountNumbers,
    EmailAddresses,
    NationalNumbers,
    /// Of a newer agent: ignored.
    #[serde(other)]
    Unknown,
}

/// The files of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct KindCount {
    pub kind: FileKind,
    pub files: u64,
    pub bytes: u64,
    pub changed_day: u64,
    pub read_day: Option<u64>,
}

/// How many files are of a class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct SensitiveCount {
    pub class: SensitiveClass,
    pub by_name: u64,
    pub by_content: u64,
}

/// What a guest's own file systems hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct Files {
    pub complete: bool,
    pub took_ms: u64,
    pub filesystems: u32,
    pub images_skipped: u32,
    pub files: u64,
    pub folders: u64,
    pub folders_unread: u64,
    pub bytes: u64,
    pub without_read_time: u64,
    pub kinds: Vec<KindCount>,
    pub sizes: Vec<u64>,
    pub growth_per_day: Option<i64>,
    pub samplable: u64,
    pub sampled: u64,
    pub sensitive: Vec<SensitiveCount>,
}

impl From<FileKind> for Option<model::FileKind> {
    fn from(w: FileKind) -> Self {
        Some(match w {
            FileKind::Document => model::FileKind::Document,
            FileKind::Image => model::FileKind::Image,
            FileKind::Media => model::FileKind::Media,
            FileKind::Archive => model::FileKind::Archive,
            FileKind::Database => model::FileKind::Database,
            FileKind::Log => model::FileKind::Log,
            FileKind::Source => model::FileKind::Source,
            FileKind::Program => model::FileKind::Program,
            FileKind::Configuration => model::FileKind::Configuration,
            FileKind::VirtualDisk => model::FileKind::VirtualDisk,
            FileKind::Mail => model::FileKind::Mail,
            FileKind::Other => model::FileKind::Other,
            FileKind::Unknown => return None,
        })
    }
}

impl From<SensitiveClass> for Option<model::SensitiveClass> {
    fn from(w: SensitiveClass) -> Self {
        Some(match w {
            SensitiveClass::PrivateKeys => model::SensitiveClass::PrivateKeys,
            SensitiveClass::Credentials => model::SensitiveClass::Credentials,
            SensitiveClass::CardNumbers => model::SensitiveClass::CardNumbers,
            SensitiveClass::AccountNumbers => model::SensitiveClass::AccountNumbers,
            SensitiveClass::EmailAddresses => model::SensitiveClass::EmailAddresses,
            SensitiveClass::NationalNumbers => model::SensitiveClass::NationalNumbers,
            SensitiveClass::Unknown => return None,
        })
    }
}

/// A kind or class that is told twice is told falsely.
fn each_once<K: Ord, V>(
    field: &'static str,
    told: Vec<Option<(K, V)>>,
) -> Result<BTreeMap<K, V>, SampleError> {
    let mut all = BTreeMap::new();
    for (key, value) in told.into_iter().flatten() {
        if all.insert(key, value).is_some() {
            return Err(SampleError { field, given: all.len() as u64, expected: "each once" });
        }
    }
    Ok(all)
}

fn kind(w: KindCount, of: u64) -> Result<Option<(model::FileKind, model::FileKindObserved)>, SampleError> {
    let Some(kind) = Option::<model::FileKind>::from(w.kind) else { return Ok(None) };
    let observed = model::FileKindObserved {
        files: no_more("files.kind.files", w.files, of)?,
        bytes: Bytes(counter("files.kind.bytes", w.bytes)?),
        changed_day: no_more("files.kind.changed_day", w.changed_day, w.files)?,
        read_day: w.read_day.map(|count| no_more("files.kind.read_day", count, w.files)).transpose()?,
    };
    Ok(Some((kind, observed)))
}

fn sensitive(
    w: SensitiveCount,
    of: (u64, u64),
) -> Result<Option<(model::SensitiveClass, model::SensitiveObserved)>, SampleError> {
    let Some(class) = Option::<model::SensitiveClass>::from(w.class) else { return Ok(None) };
    let observed = model::SensitiveObserved {
        by_name: no_more("files.sensitive.by_name", w.by_name, of.0)?,
        by_content: no_more("files.sensitive.by_content", w.by_content, of.1)?,
    };
    Ok(Some((class, observed)))
}

impl TryFrom<Files> for model::FilesObserved {
    type Error = SampleError;
    fn try_from(w: Files) -> Result<Self, SampleError> {
        let files = counter("files.files", w.files)?;
        let samplable = no_more("files.samplable", w.samplable, files)?;
        let sampled = no_more("files.sampled", w.sampled, samplable)?;
        let kinds = list("files.kinds", w.kinds, COUNTS_MAX, |count| kind(count, files))?;
        let classes =
            list("files.sensitive", w.sensitive, COUNTS_MAX, |count| sensitive(count, (files, sampled)))?;
        if let Some(growth) = w.growth_per_day.filter(|growth| growth.unsigned_abs() > GROWTH_MAX) {
            let (field, given) = ("files.growth_per_day", growth.unsigned_abs());
            return Err(SampleError { field, given, expected: "at most 2^62 either way" });
        }
        Ok(Self {
            complete: w.complete,
            took: Millis(counter("files.took_ms", w.took_ms)?),
            filesystems: w.filesystems,
            images_skipped: w.images_skipped,
            files,
            folders: counter("files.folders", w.folders)?,
            folders_unread: counter("files.folders_unread", w.folders_unread)?,
            bytes: Bytes(counter("files.bytes", w.bytes)?),
            without_read_time: no_more("files.without_read_time", w.without_read_time, files)?,
            kinds: each_once("files.kinds", kinds)?,
            sizes: list("files.sizes", w.sizes, SIZES, |count| no_more("files.sizes", count, files))?,
            growth_per_day: w.growth_per_day,
            samplable,
            sampled,
            sensitive: each_once("files.sensitive", classes)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kinds_and_classes_have_one_name_on_both_sides() {
        for own in model::FileKind::ALL {
            let wire: FileKind = serde_json::from_value(serde_json::to_value(own).unwrap()).unwrap();
            assert_eq!(Option::<model::FileKind>::from(wire), Some(own));
        }
        for own in model::SensitiveClass::ALL {
            let wire: SensitiveClass = serde_json::from_value(serde_json::to_value(own).unwrap()).unwrap();
            assert_eq!(Option::<model::SensitiveClass>::from(wire), Some(own));
        }
    }

    #[test]
    fn parts_are_no_more_than_their_whole_and_told_once() {
        let part = |kind| KindCount { kind, files: 2, bytes: 5, changed_day: 1, read_day: None };
        let whole = Files { files: 2, kinds: vec![part(FileKind::Log)], ..Files::default() };
        let refused = |files: Files| model::FilesObserved::try_from(files).unwrap_err().field;
        assert!(model::FilesObserved::try_from(whole.clone()).is_ok());
        assert_eq!(refused(Files { files: 1, ..whole.clone() }), "files.kind.files");
        let twice = vec![part(FileKind::Log); 2];
        assert_eq!(refused(Files { kinds: twice, ..whole.clone() }), "files.kinds");
        let newer = vec![part(FileKind::Unknown); 2];
        let taken = model::FilesObserved::try_from(Files { kinds: newer, ..whole.clone() }).unwrap();
        assert!(taken.kinds.is_empty());
        assert_eq!(refused(Files { sampled: 1, ..whole.clone() }), "files.sampled");
        assert_eq!(
            refused(Files { growth_per_day: Some(i64::MIN), ..whole.clone() }),
            "files.growth_per_day"
        );
        assert_eq!(refused(Files { sizes: vec![0; SIZES + 1], ..whole }), "files.sizes");
    }

    fn any_files() -> impl Strategy<Value = Files> {
        let count = prop_oneof![0..20u64, any::<u64>()];
        let kind = (0..13usize, any::<[u8; 4]>()).prop_map(|(which, [files, bytes, changed, read])| {
            let name = model::FileKind::ALL.get(which).map(|kind| serde_json::to_value(kind).unwrap());
            let kind = name.map_or(FileKind::Unknown, |name| serde_json::from_value(name).unwrap());
            let (bytes, changed_day, read_day) = (bytes.into(), changed.into(), Some(read.into()));
            KindCount { kind, files: files.into(), bytes, changed_day, read_day }
        });
        let lists = (prop::collection::vec(kind, 0..4), prop::collection::vec(0..300u64, 0..20));
        (prop::array::uniform5(count), lists, any::<Option<i64>>()).prop_map(
            |([files, samplable, sampled, bytes, took_ms], (kinds, sizes), growth_per_day)| Files {
                files,
                samplable,
                sampled,
                bytes,
                took_ms,
                kinds,
                sizes,
                growth_per_day,
                ..Files::default()
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_taken_adds_up(files in any_files()) {
            if let Ok(taken) = model::FilesObserved::try_from(files) {
                prop_assert!(taken.sampled <= taken.samplable && taken.samplable <= taken.files);
                prop_assert!(taken.sizes.len() <= SIZES && taken.bytes.0 <= 1 << 62);
                prop_assert!(taken.sampled_share().is_none_or(|share| share.0 <= 1000));
                for kind in taken.kinds.values() {
                    prop_assert!(kind.files <= taken.files && kind.changed_day <= kind.files);
                    prop_assert!(kind.read_day.is_none_or(|read| read <= kind.files));
                }
            }
        }
    }
}

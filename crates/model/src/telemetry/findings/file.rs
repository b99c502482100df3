//! Which kinds of files a guest holds, and how much in them is sensitive. Counts only: must never hold a path, a name
//! or anything of a content.

use crate::unit::{Bytes, Millis, Permille};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a file is, by the end of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each says what it is")]
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
}

impl FileKind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Document,
        Self::Image,
        Self::Media,
        Self::Archive,
        Self::Database,
        Self::Log,
        Self::Source,
        Self::Program,
        Self::Configuration,
        Self::VirtualDisk,
        Self::Mail,
        Self::Other,
    ];
}

/// A class of what is sensitive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SensitiveClass {
    /// Private keys, as PEM or OpenSSH write them.
    PrivateKeys,
    /// Passwords and tokens.
    Credentials,
    /// Numbers of payment cards whose check digit is right.
    CardNumbers,
    /// Numbers of bank accounts (IBAN) whose check digits are right.
    AccountNumbers,
    /// Many addresses of people.
    EmailAddresses,
    /// Social security numbers of the USA.
    NationalNumbers,
}

impl SensitiveClass {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::PrivateKeys,
        Self::Credentials,
        Self::CardNumbers,
        Self::AccountNumbers,
        Self::EmailAddresses,
        Self::NationalNumbers,
    ];
}

/// The files of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileKindObserved {
    /// How many.
    pub files: u64,
    /// What they take on the disk.
    pub bytes: Bytes,
    /// Those of them that were written within the day before the look.
    pub changed_day: u64,
    /// Those of them that were read within that day; `None`: no file system with such files keeps the time. Most keep
    /// it only roughly (`relatime`), so it is a little low.
    pub read_day: Option<u64>,
}

/// How many files are of a class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SensitiveObserved {
    /// By their names, of all files.
    pub by_name: u64,
    /// By their content, of those that were sampled.
    pub by_content: u64,
}

/// What a guest's own file systems hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesObserved {
    /// Whether all was looked at; else the round was cut at its bound.
    pub complete: bool,
    /// How long the round took.
    pub took: Millis,
    /// File systems that were walked.
    pub filesystems: u32,
    /// Read-only images, which were not.
    pub images_skipped: u32,
    /// Files that were looked at.
    pub files: u64,
    /// Folders that were.
    pub folders: u64,
    /// Folders that could not be.
    pub folders_unread: u64,
    /// What the files take on the disk.
    pub bytes: Bytes,
    /// Files on file systems that do not keep the time at which they were read.
    pub without_read_time: u64,
    /// By kind.
    pub kinds: BTreeMap<FileKind, FileKindObserved>,
    /// Files by size: empty ones, those of 1 to 9 bytes, of 10 to 99 and so on; the last holds all beyond.
    pub sizes: Vec<u64>,
    /// Growth in bytes a day since the whole round before; `None`: there is none.
    pub growth_per_day: Option<i64>,
    /// Files whose content may tell something, as far as they were looked at.
    pub samplable: u64,
    /// Those of them whose beginning was read.
    pub sampled: u64,
    /// By class.
    pub sensitive: BTreeMap<SensitiveClass, SensitiveObserved>,
}

impl FilesObserved {
    /// How many of those that may tell something were sampled; `None`: there is none.
    pub fn sampled_share(&self) -> Option<Permille> {
        let share = u128::from(self.sampled) * 1000;
        let share = share.checked_div(u128::from(self.samplable))?;
        u32::try_from(share).ok().map(Permille)
    }
}

//! The parts of a journal's file (systemd, "Journal File Format"), each by its bytes. A file that another writes to at
//! this moment, or that is damaged, may say anything. Must never believe a length or a place that was not checked here.

use super::super::shown;

/// What is read of a file's begin: up to the field behind the last that is wanted.
pub const HEADER_BYTES: usize = 208;
/// `struct ObjectHeader`.
pub const OBJECT_BYTES: usize = 16;
/// A data object's own fields, and those that its compact form has more.
const DATA_BYTES: usize = 64;
const DATA_COMPACT_BYTES: usize = 72;
/// An entry's own fields, before its items.
const ENTRY_BYTES: usize = 64;
/// What of a data object is read: its fields, and so much of what it holds.
pub const DATA_READ: usize = DATA_COMPACT_BYTES + 152;
/// Most items of an entry that are looked at: no entry has more (`ENTRY_FIELD_COUNT_MAX` of journald).
pub const ITEMS_MAX: usize = 1024;
/// Most bytes of an entry that are read: such many items of 16 bytes.
pub const ENTRY_READ: usize = ENTRY_BYTES + ITEMS_MAX * 16;

/// `HEADER_INCOMPATIBLE_COMPACT`, and all such flags that are known: three kinds of compression, keyed hashes.
const COMPACT: u32 = 16;
const KNOWN: u32 = 1 | 2 | 4 | 8 | COMPACT;
/// `OBJECT_COMPRESSED_MASK`: three kinds.
const COMPRESSED: u8 = 1 | 2 | 4;

/// Objects begin at multiples of eight.
pub const fn aligned(size: u64) -> Option<u64> {
    size.checked_next_multiple_of(8)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// What a file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which file it is, whatever it is called by now.
    pub id: [u8; 16],
    /// Entries in it.
    pub entries: u64,
    /// Where the first object is.
    pub begin: u64,
    /// Where the last object is; `None`: the file has none, or is of a form that is not known here.
    pub tail: Option<u64>,
    /// Whether offsets are of four bytes.
    pub is_compact: bool,
}

impl Header {
    /// Of a file's begin; `None`: it is no journal.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        let flags = u32_at(bytes, 12).filter(|_| bytes.starts_with(b"LPKSHHRH"))?;
        let (begin, tail) = (u64_at(bytes, 88)?, u64_at(bytes, 136)?);
        let is_known = flags & !KNOWN == 0 && begin >= HEADER_BYTES as u64 && begin.is_multiple_of(8);
        Some(Self {
            id: bytes.get(24..40)?.try_into().ok()?,
            entries: u64_at(bytes, 152)?,
            begin,
            tail: Some(tail).filter(|tail| is_known && *tail >= begin && tail.is_multiple_of(8)),
            is_compact: flags & COMPACT != 0,
        })
    }
}

/// Kinds of objects that are looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Data,
    Entry,
    Other,
}

/// The begin of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object {
    pub kind: Kind,
    /// Its length.
    pub size: u64,
    is_compressed: bool,
}

impl Object {
    /// `None`: here is none.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (kind, least) = match *bytes.first()? {
            1 => (Kind::Data, DATA_BYTES),
            3 => (Kind::Entry, ENTRY_BYTES),
            2 | 4..=7 => (Kind::Other, OBJECT_BYTES),
            _ => return None,
        };
        let size = u64_at(bytes, 8).filter(|size| *size >= least as u64)?;
        Some(Self { kind, size, is_compressed: *bytes.get(1)? & COMPRESSED != 0 })
    }
}

/// What a field says, as far as it is of interest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// `PRIORITY`, from 0, an emergency, to 7.
    Priority(u8),
    /// Whose entry it is, and how much that counts: the least counts most.
    Name(u8, String),
    /// Anything else, and what is compressed.
    Other,
}

/// Names of fields that tell whose an entry is, what counts most first.
const NAMES: [&[u8]; 3] = [b"_SYSTEMD_UNIT=", b"_SYSTEMD_USER_UNIT=", b"SYSLOG_IDENTIFIER="];

/// What the kernel says has no name of its own where a program wrote it to `/dev/kmsg`.
const KERNEL: &[u8] = b"_TRANSPORT=kernel";

/// A field, by the begin of its data object; `None`: it is none.
pub fn field(bytes: &[u8], is_compact: bool) -> Option<Field> {
    let object = Object::parse(bytes).filter(|object| object.kind == Kind::Data)?;
    let from = if is_compact { DATA_COMPACT_BYTES } else { DATA_BYTES };
    let length = usize::try_from(object.size).ok()?.checked_sub(from)?;
    if object.is_compressed {
        return Some(Field::Other);
    }
    let read = bytes.get(from..)?;
    let payload = &read[..length.min(read.len())];
    if let Some([digit @ b'0'..=b'7']) = payload.strip_prefix(b"PRIORITY=") {
        return Some(Field::Priority(digit - b'0'));
    }
    if payload == KERNEL {
        return Some(Field::Name(NAMES.len() as u8, "kernel".to_owned()));
    }
    let named = NAMES.iter().zip(0..).find_map(|(name, rank)| Some((rank, payload.strip_prefix(*name)?)));
    let name = named.map(|(rank, value)| (rank, service(&String::from_utf8_lossy(value))));
    Some(
        name.filter(|(_, name)| !name.is_empty())
            .map_or(Field::Other, |(rank, name)| Field::Name(rank, name)),
    )
}

/// A unit as it is told. What stands behind an `@` may be a person's number or the address of who called, and the name
/// of a session or of what was started for the moment counts up without end: neither is told.
fn service(unit: &str) -> String {
    let mut name = unit.to_owned();
    let end = name.rfind('.').unwrap_or(name.len());
    let is_passing = |begin: &str| {
        let rest = name[..end].strip_prefix(begin);
        rest.is_some_and(|rest| rest.chars().any(|letter| letter.is_ascii_digit()))
    };
    if let Some(at) = name[..end].find('@') {
        name.replace_range(at + 1..end, "");
    } else if let Some(begin) = ["session-", "run-"].into_iter().find(|begin| is_passing(begin)) {
        name.replace_range(begin.len() - 1..end, "");
    }
    shown(&name)
}

/// Where the data objects of an entry are; `None`: it is no entry.
pub fn items(bytes: &[u8], is_compact: bool) -> Option<impl Iterator<Item = u64>> {
    let size = Object::parse(bytes).filter(|object| object.kind == Kind::Entry)?.size;
    let (read, each) = (bytes.get(ENTRY_BYTES..)?, if is_compact { 4 } else { 16 });
    let length = usize::try_from(size).ok()?.checked_sub(ENTRY_BYTES)?.min(read.len());
    let place = move |item: &[u8]| match is_compact {
        true => u32_at(item, 0).map(u64::from),
        false => u64_at(item, 0),
    };
    Some(read[..length].chunks_exact(each).take(ITEMS_MAX).filter_map(place))
}

//! Entries of a journal of systemd, by unit and priority. What came since the last look is walked over, object by object
//! and in order, a bounded part at a time; of an entry only the fields that say whose it is and how urgent are read. The
//! file may say anything: each object is behind the one before, so a walk has an end. Must never read a message, nor hold
//! more than some thousand short fields.

mod format;

use format::{DATA_READ, ENTRY_READ, Field, HEADER_BYTES, Header, Kind, OBJECT_BYTES, Object, aligned};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

/// What is read in one step: one part of the file, and with it fields that are further in front.
const STEP_BYTES: usize = 64 << 10;
/// What is read in one look: at about 700 bytes an entry, a hundred a second. What is beyond is skipped.
const LOOK_BYTES_MAX: usize = 4 << 20;
/// Most fields that are known by their places, which are 16 bytes and a name each.
const FIELDS_MAX: usize = 4096;
/// Most services of one look.
const NAMES_MAX: usize = 64;

/// Where a journal is read from.
pub trait Source {
    /// Bytes at a place, as many as there are; none where there is nothing.
    fn read(&self, into: &mut [u8], at: u64) -> usize;
}

impl Source for File {
    fn read(&self, into: &mut [u8], at: u64) -> usize {
        let mut got = 0;
        while got < into.len() {
            match self.read_at(&mut into[got..], at.saturating_add(got as u64)) {
                Ok(0) => break,
                Ok(more) => got += more,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        got
    }
}

/// Entries of a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// All of them.
    pub lines: u64,
    /// Those with a priority of an error or worse.
    pub errors: u64,
    /// Those of which the priority could not be read.
    pub unknown: u64,
}

/// What a look found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// By service.
    pub services: BTreeMap<Rc<str>, Tally>,
    /// Of services beyond those that can be told apart, and of entries that say of none.
    pub others: Tally,
    /// Entries that were not looked at: beyond the bound, or behind a damaged part.
    pub cut: u64,
}

/// What an entry says; a name that is `None` says of no service, a priority that could not be read of nothing.
type Said = (Option<Rc<str>>, Option<bool>);

/// What of a field is known.
#[derive(Debug, Clone)]
enum Known {
    Priority(u8),
    Name(u8, Rc<str>),
    Other,
}

/// A look under way.
#[derive(Debug)]
struct Look {
    /// Where the last object is, and where it ends.
    tail: u64,
    end: u64,
    /// Entries in the file.
    entries: u64,
    /// Entries that were walked over.
    walked: u64,
    /// Bytes that may still be read.
    left: usize,
    seen: Seen,
}

/// A journal that is followed.
pub struct Follow<S> {
    source: S,
    header: Header,
    /// The first object that was not walked over.
    at: u64,
    /// From here on each object up to `at` was walked over, so that a field there which is not known is of no interest.
    walked_from: u64,
    /// Entries before `at`.
    entries: u64,
    fields: HashMap<u64, Known>,
    look: Option<Look>,
}

/// A file's header.
fn header<S: Source>(source: &S) -> Option<Header> {
    let mut bytes = [0u8; HEADER_BYTES];
    let got = source.read(&mut bytes, 0);
    Header::parse(&bytes[..got])
}

/// Where the last object ends; `None`: it does not say, or there is none.
fn end<S: Source>(source: &S, header: &Header) -> Option<u64> {
    let mut bytes = [0u8; OBJECT_BYTES];
    let got = source.read(&mut bytes, header.tail?);
    header.tail?.checked_add(aligned(Object::parse(&bytes[..got])?.size)?)
}

impl<S: Source> Follow<S> {
    /// From now on; `None`: it is no journal.
    pub fn from_end(source: S) -> Option<Self> {
        let header = header(&source)?;
        let at = end(&source, &header).unwrap_or(header.begin);
        Some(Self::new(source, header, at, header.entries))
    }

    /// From its begin on.
    pub fn from_begin(source: S) -> Option<Self> {
        let header = header(&source)?;
        Some(Self::new(source, header, header.begin, 0))
    }

    fn new(source: S, header: Header, at: u64, entries: u64) -> Self {
        Self { source, header, at, walked_from: at, entries, fields: HashMap::new(), look: None }
    }

    /// Whether another file is the same journal.
    pub fn is(&self, other: &S) -> bool {
        header(other).is_some_and(|other| other.id == self.header.id)
    }

    /// Begins a look at what came since; false: the file was begun anew, or its end is not where it says.
    pub fn begin(&mut self) -> bool {
        let now = header(&self.source).filter(|now| now.id == self.header.id && now.entries >= self.entries);
        let Some(now) = now.filter(|now| now.is_compact == self.header.is_compact) else { return false };
        // Of a form that is not known here nothing but the count is read.
        let (tail, end) = match now.tail {
            None => (self.at, Some(self.at)),
            Some(tail) => (tail, end(&self.source, &now).filter(|end| *end >= self.at)),
        };
        let Some(end) = end else { return false };
        let (entries, left) = (now.entries, LOOK_BYTES_MAX);
        self.look = Some(Look { tail, end, entries, walked: 0, left, seen: Seen::default() });
        true
    }

    /// Looks at some more; `Some`: the look is over.
    pub fn step(&mut self) -> Option<Seen> {
        let mut look = self.look.take()?;
        if self.walk(&mut look) {
            self.look = Some(look);
            return None;
        }
        if self.at < look.end {
            // What is skipped is not known.
            (self.at, self.walked_from) = (look.end, look.end);
        }
        let walked = self.entries.saturating_add(look.walked);
        look.seen.cut = look.entries.saturating_sub(walked);
        // The writer counts an entry after it put it there.
        self.entries = look.entries.max(walked);
        Some(look.seen)
    }

    /// Walks over one part of the file; false: that was all, or it leads no further.
    fn walk(&mut self, look: &mut Look) -> bool {
        let whole = look.end.saturating_sub(self.at).min(STEP_BYTES as u64) as usize;
        let mut part = vec![0u8; whole.min(look.left)];
        let got = self.source.read(&mut part, self.at);
        part.truncate(got);
        look.left -= got;
        let (from, left_before) = (self.at, look.left);
        while self.at < look.end {
            let begin = usize::try_from(self.at - from).unwrap_or(usize::MAX);
            let Some(bytes) = part.get(begin..).filter(|bytes| bytes.len() >= OBJECT_BYTES) else {
                // The next part begins here, unless there is nothing more to read.
                return begin > 0 && look.left > 0;
            };
            let Some((object, next)) = self.object(bytes, look) else { return false };
            let wanted = match object.kind {
                Kind::Data => DATA_READ,
                Kind::Entry => ENTRY_READ,
                Kind::Other => OBJECT_BYTES,
            };
            let wanted = usize::try_from(object.size).unwrap_or(wanted).min(wanted);
            let Some(bytes) = bytes.get(..wanted) else { return begin > 0 && look.left > 0 };
            match object.kind {
                Kind::Data => self.learn(bytes),
                Kind::Entry => {
                    let said = self.entry(bytes, look);
                    look.count(said);
                }
                Kind::Other => {}
            }
            self.at = next;
            if look.left == 0 || left_before - look.left > STEP_BYTES {
                return look.left > 0;
            }
        }
        false
    }

    /// An object and where the next one is; `None`: here is none, or it would reach beyond the last.
    fn object(&self, bytes: &[u8], look: &Look) -> Option<(Object, u64)> {
        let object = Object::parse(bytes)?;
        let next = self.at.checked_add(aligned(object.size)?)?;
        let is_within = if self.at == look.tail { next == look.end } else { next <= look.tail };
        is_within.then_some((object, next))
    }

    /// Takes notice of a field that is walked over.
    fn learn(&mut self, bytes: &[u8]) {
        if let Some(field) = format::field(bytes, self.header.is_compact)
            && field != Field::Other
        {
            self.keep(self.at, field);
        }
    }

    fn keep(&mut self, at: u64, field: Field) -> Known {
        if self.fields.len() >= FIELDS_MAX {
            self.fields.clear();
            self.walked_from = self.at;
        }
        let known = match field {
            Field::Priority(priority) => Known::Priority(priority),
            Field::Name(rank, name) => Known::Name(rank, name.into()),
            Field::Other => Known::Other,
        };
        self.fields.insert(at, known.clone());
        known
    }

    /// The field at a place; `None`: there is none.
    fn field(&mut self, at: u64, look: &mut Look) -> Option<Known> {
        if let Some(known) = self.fields.get(&at) {
            return Some(known.clone());
        }
        if !at.is_multiple_of(8) || !(self.header.begin..self.at).contains(&at) {
            return None;
        }
        if at >= self.walked_from {
            return Some(Known::Other);
        }
        look.left = look.left.checked_sub(DATA_READ)?;
        let mut bytes = [0u8; DATA_READ];
        let got = self.source.read(&mut bytes, at);
        let field = format::field(&bytes[..got], self.header.is_compact)?;
        Some(self.keep(at, field))
    }

    /// What an entry says.
    fn entry(&mut self, bytes: &[u8], look: &mut Look) -> Said {
        let (mut name, mut priority) = (None::<(u8, Rc<str>)>, None);
        let (mut known, mut unknown) = (0u32, 0u32);
        for at in format::items(bytes, self.header.is_compact).into_iter().flatten() {
            let Some(field) = self.field(at, look) else {
                unknown += 1;
                continue;
            };
            known += 1;
            match field {
                Known::Priority(found) => priority = Some(found),
                Known::Name(rank, found) if name.as_ref().is_none_or(|(known, _)| rank < *known) => {
                    name = Some((rank, found));
                }
                Known::Name(..) | Known::Other => {}
            }
        }
        // An entry without a priority is no error; one of which a part is not known may be.
        let is_whole = known > 0 && unknown == 0;
        let is_error = priority.map(|priority| priority <= 3).or(is_whole.then_some(false));
        (name.map(|(_, name)| name), is_error)
    }
}

impl Look {
    fn count(&mut self, (name, is_error): Said) {
        self.walked += 1;
        let services = &mut self.seen.services;
        let is_told = |name: &Rc<str>| services.contains_key(name) || services.len() < NAMES_MAX;
        let tally = match name.filter(is_told) {
            Some(name) => services.entry(name).or_default(),
            None => &mut self.seen.others,
        };
        tally.lines += 1;
        tally.errors += u64::from(is_error == Some(true));
        tally.unknown += u64::from(is_error.is_none());
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub use tests::Book;

#[cfg(test)]
mod fuzz;

//! Journals that are made here, byte by byte, as journald makes them. Must never wait for time to go by.

use super::*;
use std::cell::RefCell;

/// A journal under way.
pub struct Book {
    pub bytes: Vec<u8>,
    is_compact: bool,
    known: HashMap<Vec<u8>, u64>,
}

fn put(bytes: &mut [u8], at: usize, number: u64) {
    bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
}

impl Book {
    pub fn new(id: u8, is_compact: bool) -> Self {
        let mut bytes = vec![0u8; 272];
        bytes[..8].copy_from_slice(b"LPKSHHRH");
        // Keyed hashes and zstd, as Debian's journald has them.
        bytes[12] = 4 | 8 | if is_compact { 16 } else { 0 };
        bytes[24..40].fill(id);
        put(&mut bytes, 88, 272);
        let mut book = Self { bytes, is_compact, known: HashMap::new() };
        book.object(5, 0, &[0; 64]);
        book.object(4, 0, &[0; 128]);
        book
    }

    /// One of these bytes.
    pub fn of(bytes: Vec<u8>) -> Self {
        Self { bytes, is_compact: false, known: HashMap::new() }
    }

    /// An object behind the others.
    pub fn object(&mut self, kind: u8, flags: u8, body: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let at = self.bytes.len() as u64;
        self.bytes.extend_from_slice(&[kind, flags, 0, 0, 0, 0, 0, 0]);
        self.bytes.extend_from_slice(&(body.len() as u64 + 16).to_le_bytes());
        self.bytes.extend_from_slice(body);
        put(&mut self.bytes, 136, at);
        at
    }

    pub fn field(&mut self, payload: &[u8], flags: u8) -> u64 {
        if let Some(at) = self.known.get(payload) {
            return *at;
        }
        let own = if self.is_compact { 56 } else { 48 };
        let at = self.object(1, flags, &[&vec![0; own][..], payload].concat());
        self.known.insert(payload.to_vec(), at);
        at
    }

    /// An entry of fields that are somewhere.
    pub fn entry_of(&mut self, fields: &[u64]) {
        let mut body = vec![0u8; 48];
        for at in fields {
            match self.is_compact {
                true => body.extend_from_slice(&(*at as u32).to_le_bytes()),
                false => body.extend_from_slice(&[at.to_le_bytes(), [7; 8]].concat()),
            }
        }
        self.object(3, 0, &body);
        let entries = u64::from_le_bytes(self.bytes[152..160].try_into().unwrap());
        put(&mut self.bytes, 152, entries + 1);
    }

    pub fn entry(&mut self, fields: &[&str]) {
        let fields: Vec<u64> = fields.iter().map(|field| self.field(field.as_bytes(), 0)).collect();
        self.entry_of(&fields);
        // The list of entries of a field grows behind some of them.
        if self.bytes.len().is_multiple_of(3) {
            self.object(6, 0, &[0; 40]);
        }
    }
}

impl Source for Rc<RefCell<Book>> {
    fn read(&self, into: &mut [u8], at: u64) -> usize {
        let bytes = &self.borrow().bytes;
        let from = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        let length = into.len().min(bytes.len() - from);
        into[..length].copy_from_slice(&bytes[from..from + length]);
        length
    }
}

fn book(is_compact: bool) -> Rc<RefCell<Book>> {
    Rc::new(RefCell::new(Book::new(1, is_compact)))
}

/// A whole look.
pub fn look<S: Source>(follow: &mut Follow<S>) -> Option<Seen> {
    follow.begin().then(|| {
        for _ in 0..2 * LOOK_BYTES_MAX / OBJECT_BYTES {
            if let Some(seen) = follow.step() {
                return seen;
            }
        }
        panic!("a look without end");
    })
}

fn tally(lines: u64, errors: u64) -> Tally {
    Tally { lines, errors, unknown: 0 }
}

fn told(seen: &Seen) -> Vec<(&str, u64, u64)> {
    seen.services.iter().map(|(name, tally)| (&**name, tally.lines, tally.errors)).collect()
}

#[test]
fn entries_are_counted_by_unit_and_priority_from_when_a_journal_was_first_seen() {
    for is_compact in [false, true] {
        let book = book(is_compact);
        let nginx = ["_SYSTEMD_UNIT=nginx.service", "PRIORITY=6", "SYSLOG_IDENTIFIER=nginx"];
        book.borrow_mut().entry(&[&nginx[..], &["MESSAGE=before"]].concat());
        let mut follow = Follow::from_end(Rc::clone(&book)).unwrap();
        assert_eq!(look(&mut follow).unwrap(), Seen::default());
        {
            let mut book = book.borrow_mut();
            // Fields that are far in front, and new ones.
            (0..3).for_each(|_| book.entry(&[&nginx[..], &["MESSAGE=PRIORITY=3"]].concat()));
            book.entry(&["_SYSTEMD_UNIT=ssh.service", "PRIORITY=3", "MESSAGE=x"]);
            book.entry(&["_SYSTEMD_UNIT=ssh.service", "PRIORITY=4", "_PID=7"]);
            book.entry(&["SYSLOG_IDENTIFIER=kernel", "PRIORITY=2"]);
            book.entry(&["_SYSTEMD_UNIT=ssh.service", "MESSAGE=without priority"]);
            book.entry(&["MESSAGE=of nobody", "PRIORITY=0"]);
        }
        let seen = look(&mut follow).unwrap();
        assert_eq!(told(&seen), [("kernel", 1, 1), ("nginx.service", 3, 0), ("ssh.service", 3, 1)]);
        assert_eq!((seen.others, seen.cut), (tally(1, 1), 0));
        assert_eq!(look(&mut follow).unwrap(), Seen::default(), "each is counted once");
    }
}

#[test]
fn a_unit_counts_more_than_who_says_so_in_whatever_order() {
    let book = book(false);
    let mut follow = Follow::from_end(Rc::clone(&book)).unwrap();
    let (unit, user) = ("_SYSTEMD_UNIT=a.service", "_SYSTEMD_USER_UNIT=b.service");
    book.borrow_mut().entry(&["SYSLOG_IDENTIFIER=c", user, unit, "PRIORITY=6"]);
    book.borrow_mut().entry(&[unit, "SYSLOG_IDENTIFIER=c", "PRIORITY=6"]);
    book.borrow_mut().entry(&["SYSLOG_IDENTIFIER=c", user, "PRIORITY=6"]);
    book.borrow_mut().entry(&["_TRANSPORT=kernel", "SYSLOG_IDENTIFIER=d", "PRIORITY=6"]);
    book.borrow_mut().entry(&["PRIORITY=3", "_TRANSPORT=kernel"]);
    let seen = look(&mut follow).unwrap();
    assert_eq!(told(&seen), [("a.service", 2, 0), ("b.service", 1, 0), ("d", 1, 0), ("kernel", 1, 1)]);
}

#[test]
fn what_names_people_or_callers_is_told_of_all_of_them_together() {
    let name = |unit: &str| {
        let mut book = Book::new(1, false);
        let at = book.field(format!("_SYSTEMD_UNIT={unit}").as_bytes(), 0) as usize;
        match format::field(&book.bytes[at..], false).unwrap() {
            Field::Name(0, name) => name,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(name("nginx.service"), "nginx.service");
    assert_eq!(name("user@1000.service"), "user@.service");
    assert_eq!(name("sshd@3-10.0.0.1:22-10.0.0.9:4711.service"), "sshd@.service");
    assert_eq!(
        (name("session-12.scope"), name("run-u7.service")),
        ("session.scope".into(), "run.service".into())
    );
    assert_eq!(name("session-store.service"), "session-store.service");
    assert_eq!(name("a\u{1b}[2J\nb"), "a?[2J?b");
    assert!(name(&"x".repeat(300)).len() <= 64);
}

#[test]
fn what_is_beyond_the_bound_is_skipped_and_said() {
    let book = book(true);
    let mut follow = Follow::from_end(Rc::clone(&book)).unwrap();
    let total = LOOK_BYTES_MAX / 1000 + 2000;
    for number in 0..total {
        let message = format!("MESSAGE={number:0>1000}");
        book.borrow_mut().entry(&["_SYSTEMD_UNIT=loud.service", "PRIORITY=3", &message]);
    }
    let seen = look(&mut follow).unwrap();
    let (lines, errors) = (seen.services["loud.service"].lines, seen.services["loud.service"].errors);
    assert!(seen.cut >= 1000 && lines >= 1000, "{seen:?}");
    assert_eq!((lines + seen.cut, lines), (total as u64, errors));
    book.borrow_mut().entry(&["_SYSTEMD_UNIT=loud.service", "PRIORITY=6"]);
    let seen = look(&mut follow).unwrap();
    assert_eq!((told(&seen), seen.cut), (vec![("loud.service", 1, 0)], 0), "it goes on where the cut ends");
}

#[test]
fn services_and_fields_without_end_are_bounded_and_nothing_is_lost() {
    let book = book(false);
    let mut follow = Follow::from_end(Rc::clone(&book)).unwrap();
    for number in 0..2 * FIELDS_MAX / 3 {
        let (unit, tag) =
            (format!("_SYSTEMD_UNIT=u{number}.service"), format!("SYSLOG_IDENTIFIER=i{number}"));
        book.borrow_mut().entry(&[&unit, &tag, "PRIORITY=3"]);
    }
    let seen = look(&mut follow).unwrap();
    assert!(follow.fields.len() <= FIELDS_MAX && seen.services.len() == NAMES_MAX);
    let all = seen
        .services
        .values()
        .fold(seen.others, |sum, one| tally(sum.lines + one.lines, sum.errors + one.errors));
    assert_eq!((all, seen.cut), (tally(2 * FIELDS_MAX as u64 / 3, 2 * FIELDS_MAX as u64 / 3), 0));
}

#[test]
fn a_field_that_is_large_or_compressed_is_passed_over() {
    let book = book(false);
    let mut follow = Follow::from_end(Rc::clone(&book)).unwrap();
    {
        let mut book = book.borrow_mut();
        let dump = book.field(&[b"COREDUMP=".as_slice(), &vec![0; 3 * STEP_BYTES]].concat(), 0);
        let packed = book.field(b"_SYSTEMD_UNIT=never.service", 4);
        let (unit, priority) = (book.field(b"_SYSTEMD_UNIT=a.service", 0), book.field(b"PRIORITY=2", 0));
        book.entry_of(&[dump, packed, unit, priority]);
        book.entry_of(&[packed, priority]);
    }
    let seen = look(&mut follow).unwrap();
    assert_eq!((told(&seen), seen.others, seen.cut), (vec![("a.service", 1, 1)], tally(1, 1), 0));
}

#[test]
fn places_that_lead_elsewhere_are_harmless_and_told_as_unknown() {
    let book = book(false);
    let mut follow = Follow::from_end(Rc::clone(&book)).unwrap();
    {
        let mut book = book.borrow_mut();
        let unit = book.field(b"_SYSTEMD_UNIT=a.service", 0);
        let behind = book.bytes.len() as u64 + 4096;
        // Into the header, between two objects, at no field, behind the end, beyond everything.
        book.entry_of(&[unit, 8, unit + 4, 272, behind, u64::MAX - 7, u64::MAX]);
        book.entry_of(&[]);
        // An object that says it ends nowhere; what is behind it cannot be found.
        let broken = book.object(1, 0, &[0; 64]) as usize;
        book.entry(&["_SYSTEMD_UNIT=b.service", "PRIORITY=3"]);
        put(&mut book.bytes, broken + 8, u64::MAX);
    }
    let seen = look(&mut follow).unwrap();
    assert_eq!(seen.services["a.service"], Tally { lines: 1, errors: 0, unknown: 1 });
    assert_eq!((seen.others, seen.cut), (Tally { lines: 1, errors: 0, unknown: 1 }, 1));
    book.borrow_mut().entry(&["_SYSTEMD_UNIT=b.service", "PRIORITY=3"]);
    assert_eq!(told(&look(&mut follow).unwrap()), [("b.service", 1, 1)], "it goes on behind it");
}

#[test]
fn another_form_is_counted_only_and_what_is_begun_anew_is_no_more_the_same() {
    let book = book(false);
    book.borrow_mut().bytes[12] |= 128;
    let mut follow = Follow::from_end(Rc::clone(&book)).unwrap();
    book.borrow_mut().entry(&["_SYSTEMD_UNIT=a.service", "PRIORITY=3"]);
    let seen = look(&mut follow).unwrap();
    assert_eq!((seen.services.len(), seen.cut), (0, 1));
    let whole = book.borrow().bytes.clone();
    for length in [0, 100, 200, 300] {
        book.borrow_mut().bytes.truncate(length);
        let is_there = look(&mut follow).is_some();
        assert_eq!(is_there, length >= HEADER_BYTES, "a form that is not known is its header alone");
        book.borrow_mut().bytes.clone_from(&whole);
    }
    let mut follow = Follow::from_end(Rc::new(RefCell::new(Book::new(1, false)))).unwrap();
    follow.source.borrow_mut().bytes.truncate(280);
    assert!(look(&mut follow).is_none(), "its end is gone");
    assert!(!follow.is(&Rc::new(RefCell::new(Book::new(2, false)))));
    assert!(Follow::from_end(Rc::new(RefCell::new(Book::of(vec![0; 500])))).is_none());
}

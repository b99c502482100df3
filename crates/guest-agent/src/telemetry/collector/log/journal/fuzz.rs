//! Journals of any bytes: damaged, cut, written to meanwhile. No bytes may panic, keep a look from its end, make what is
//! held grow, or tell of more entries than the file has room for.

use super::tests::{Book, look};
use super::*;
use crate::fuzz::{Random, mutate, run};
use std::cell::RefCell;

const ITERATIONS: u64 = 15_000;

const PIECES: [&[u8]; 8] = [
    b"LPKSHHRH",
    b"_SYSTEMD_UNIT=",
    b"PRIORITY=3",
    &[1, 0, 0, 0, 0, 0, 0, 0, 80, 0, 0, 0, 0, 0, 0, 0],
    &[3, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0],
    &[0; 8],
    &[255; 8],
    &[0, 0, 0, 0, 0, 0, 0, 128],
];

/// A whole journal, with what came after it was first seen.
fn whole(random: &mut Random) -> (Book, Book) {
    let is_compact = random.below(2) == 0;
    let mut book = Book::new(1, is_compact);
    let write = |book: &mut Book, random: &mut Random| {
        for _ in 0..random.below(12) {
            let unit = format!("_SYSTEMD_UNIT=u{}.service", random.below(5));
            let (priority, message) =
                (format!("PRIORITY={}", random.below(9)), format!("MESSAGE={}", random.next()));
            book.entry(&[&unit, &priority, &message, "_TRANSPORT=journal"]);
        }
    };
    write(&mut book, random);
    let before = book.bytes.clone();
    write(&mut book, random);
    (Book::of(before), book)
}

#[test]
fn a_journal_of_any_bytes() {
    let make = |random: &mut Random| {
        let (_, mut book) = whole(random);
        // Most of what is damaged is what is read first of all: the header's places and flags.
        if random.below(3) == 0 {
            let at = [12, 88, 136, 137, 152][random.below(5)];
            book.bytes[at] = random.next() as u8;
        }
        mutate(random, &mut book.bytes, &PIECES);
        book.bytes
    };
    run(ITERATIONS, make, |bytes: &Vec<u8>| {
        let book = Rc::new(RefCell::new(Book::of(bytes.clone())));
        let Some(mut follow) = Follow::from_begin(Rc::clone(&book)) else { return false };
        let Some(seen) = look(&mut follow) else { return false };
        let all = seen.services.values().chain([&seen.others]);
        let lines = all.clone().fold(0, |sum, one| sum + one.lines);
        assert!(all.clone().all(|one| one.errors + one.unknown <= one.lines));
        assert!(lines <= bytes.len() as u64 / 64, "an entry has 64 bytes at least");
        assert!(seen.services.len() <= NAMES_MAX && follow.fields.len() <= FIELDS_MAX);
        assert!(seen.services.keys().all(|name| name.len() <= 64 && !name.contains(char::is_control)));
        // What is there once is not counted again.
        if let Some(again) = look(&mut follow) {
            assert!(again.services.is_empty() && again.others == Tally::default(), "{again:?}");
        }
        lines > 0
    });
}

#[test]
fn what_is_whole_is_counted_whole_however_it_came() {
    let make = |random: &mut Random| {
        let (before, book) = whole(random);
        [&(before.bytes.len() as u64).to_le_bytes()[..], &before.bytes, &book.bytes].concat()
    };
    run(999, make, |input: &Vec<u8>| {
        let length = u64::from_le_bytes(input[..8].try_into().unwrap()) as usize;
        let (before, after) = input[8..].split_at(length);
        let count = |bytes: &[u8]| Header::parse(bytes).unwrap().entries;
        let book = Rc::new(RefCell::new(Book::of(before.to_vec())));
        let mut follow = Follow::from_end(Rc::clone(&book)).unwrap();
        let mut all = Follow::from_begin(Rc::clone(&book)).unwrap();
        let seen = |follow: &mut Follow<_>| {
            let seen = look(follow).unwrap();
            let lines: u64 = seen.services.values().map(|one| one.lines).sum();
            assert_eq!((seen.others, seen.cut), (Tally::default(), 0));
            lines
        };
        assert_eq!((seen(&mut follow), seen(&mut all)), (0, count(before)));
        book.borrow_mut().bytes = after.to_vec();
        let new = count(after) - count(before);
        assert_eq!((seen(&mut follow), seen(&mut all)), (new, new));
        new > 0
    });
}

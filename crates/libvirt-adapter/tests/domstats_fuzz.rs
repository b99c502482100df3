//! Fuzz target of what virsh prints, for the stable toolchain: mutates real answers. No text may panic, no domain may be
//! given a number that is not in the text, and what is made of it must stay in bounds. A short run by default;
//! `PROTEUS_FUZZ_ITERATIONS=1000000` for a long one, `PROTEUS_FUZZ_SEED=…` to repeat one.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "a test may be told how long to run")]

#[path = "../../../tests/support/fuzz.rs"]
mod fuzz;

use fuzz::Random;
use proteus_libvirt::domstats::{Listing, State, parse};
use proteus_libvirt::fleet::Fleet;
use proteus_libvirt::{metric, text};
use proteus_model::unit::UnixMillis;
use std::collections::BTreeSet;

const ITERATIONS: u64 = 5_000;
const MARK: &str = "mark";

const SEED: &str = include_str!("domstats.txt");

const PIECES: [&str; 26] = [
    "\n",
    "\r\n",
    "\0",
    "'",
    "=",
    "  ",
    "\u{1b}[2J",
    "\u{202e}",
    "é",
    "Domain: '",
    "Domain: 'büsy'\n",
    "mark\n",
    "mark",
    "-1",
    "18446744073709551615",
    "9223372036854775806",
    "99999999999999999999",
    "4096",
    "4097",
    "0",
    "  cpu.time=5\n",
    "  state.state=1\n",
    "  net.count=3\n",
    "  block.count=1\n",
    "11111111-2222-3333-4444-555555555502 x\n",
    "\u{feff}",
];

fn mutate(random: &mut Random, text: &mut String) {
    for _ in 0..random.below(8) {
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let at = places[random.below(places.len())];
        let end = places[random.below(places.len())].max(at).min(at + 40);
        let end = (end..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap();
        match random.below(7) {
            0 => text.truncate(at),
            1 => drop(text.drain(at..end)),
            2 | 3 => text.replace_range(at..end, PIECES[random.below(PIECES.len())]),
            4 | 5 => text.insert_str(at, PIECES[random.below(PIECES.len())]),
            _ => text.insert_str(at, SEED),
        }
    }
}

/// What is made of an answer is in it, and of one domain each.
fn check(text: &str, listing: &Listing) {
    let ids: BTreeSet<_> = listing.domains.iter().map(|domain| domain.id).collect();
    assert_eq!(ids.len(), listing.domains.len());
    for domain in &listing.domains {
        assert!(text.contains(&domain.name) && !domain.name.contains('\n'));
        let counters = &domain.counters;
        if !domain.state.runs() {
            assert_eq!(*counters, Default::default(), "{:?}", domain.state);
        }
        let single = [counters.vmm_run_ns, domain.vcpus[0].map(u64::from)];
        for number in single.into_iter().flatten() {
            assert!(text.contains(&format!("={number}")) || text.contains("=0"), "{number}");
        }
        if domain.state == State::Unknown {
            assert_eq!(domain.shape, Default::default());
        }
    }
}

#[test]
fn an_answer_of_any_text() {
    let make = |random: &mut Random| {
        let mut text = SEED.to_owned();
        mutate(random, &mut text);
        text
    };
    fuzz::run(ITERATIONS, make, |answer| {
        let Ok(listing) = parse(answer, MARK) else { return false };
        check(answer, &listing);
        // All that is made of it goes on: rounds before and after a whole one, and the page of metrics.
        let whole = parse(SEED, MARK).unwrap();
        let mut fleet = Fleet::new("test:///".to_owned(), None);
        for (round, listing) in [whole.clone(), listing, whole].into_iter().enumerate() {
            let at = round as u64 * 5000;
            let events = fleet.take(listing, UnixMillis(1_800_000_000_000 + at), at);
            assert!(events.iter().all(|event| !text::shown(&event.vm).contains(char::is_control)));
            for line in metric::page(&fleet).lines().filter(|line| !line.starts_with('#')) {
                let value = line.rsplit_once(' ').unwrap().1;
                assert!(value.parse::<f64>().is_ok_and(|value| value.is_finite() && value >= 0.0), "{line}");
            }
        }
        assert!(fleet.vms().count() >= 2, "what a whole answer has is watched");
        true
    });
}

//! Throws bytes at the reader of profiles: mutated profiles, and pure noise. It must answer each with a profile
//! or with problems, in bounded time, and what it takes must survive being written and read again.
//!
//! `PROTEUS_FUZZ_ITERATIONS` (default 3000) and `PROTEUS_FUZZ_SEED` make it run longer, or again as it failed.

use proptest::prelude::*;
use proteus_model::profile::document::{self, Format};
use std::path::Path;
use std::time::{Duration, Instant};

const FORMATS: [Option<Format>; 4] = [None, Some(Format::Json), Some(Format::Yaml), Some(Format::Toml)];

/// splitmix64: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Pieces that mean something in one of the formats.
const PIECES: [&[u8]; 40] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b": ",
    b",",
    b"\n",
    b"\n  ",
    b"- ",
    b"? ",
    b"\t",
    b"\"",
    b"'",
    b"&a ",
    b"*a",
    b"!!x ",
    b"---\n",
    b"...\n",
    b"<<: ",
    b"|\n",
    b">-\n",
    b"#",
    b"\\u0000",
    b"\\ud83d",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b".nan",
    b".inf",
    b"nan",
    b"1e999",
    b"-0",
    b"99999999999999999999999999999999999999999",
    b"0x",
    b"null",
    b"[[a]]\n",
    b"a.b.c = 1\n",
    b"../../etc/passwd",
    "\u{202e}\u{1f600}".as_bytes(),
];

fn mutate(text: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    for _ in 0..=random.below(6) {
        let at = random.below(text.len() + 1);
        let end = (at + random.below(24)).min(text.len());
        match random.below(7) {
            0 if at < text.len() => text[at] ^= 1 << random.below(8),
            1 => drop(text.drain(at..end)),
            2 => {
                let piece = PIECES[random.below(PIECES.len())];
                text.splice(at..at, piece.iter().copied());
            }
            3 => {
                let piece = PIECES[random.below(PIECES.len())].repeat(1 + random.below(60));
                text.splice(at..end, piece);
            }
            4 => {
                let copy = text[at..end].to_vec();
                let to = random.below(text.len() + 1);
                text.splice(to..to, copy);
            }
            5 => {
                // A line of another document.
                let other = &corpus[random.below(corpus.len())];
                let lines: Vec<&[u8]> = other.split_inclusive(|b| *b == b'\n').collect();
                let line = lines[random.below(lines.len())].to_vec();
                text.splice(at..at, line);
            }
            _ => text.truncate(at.max(8)),
        }
    }
}

/// Returns whether the text was taken.
fn try_all(text: &[u8]) -> bool {
    let mut taken = false;
    for format in FORMATS {
        let began = Instant::now();
        match document::parse("fuzz", text, format) {
            Ok(profile) => {
                taken = true;
                let json = profile.canonical_json();
                let again = document::parse("again.json", json.as_bytes(), None);
                assert_eq!(again.as_ref(), Ok(&profile), "written and read again: {json}");
                assert!(profile.violations().is_empty(), "taken with violations: {json}");
            }
            Err(problems) => {
                assert!(!problems.is_empty() && problems.len() <= 101);
                for problem in problems {
                    let shown = problem.to_string();
                    assert!(problem.line >= 1 && problem.column >= 1, "no place: {shown}");
                    assert!(!shown.contains(|c: char| c.is_control()), "not printable: {shown:?}");
                }
            }
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{format:?} took {:?}", began.elapsed());
    }
    taken
}

fn env_number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn mutated_profiles_are_taken_or_refused() {
    // Its own seeds, and the profiles that ship.
    let folders =
        ["fuzz/corpus/profile", "../../profiles"].map(|f| Path::new(env!("CARGO_MANIFEST_DIR")).join(f));
    let entries = folders.into_iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let corpus: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(corpus.len() >= 5, "the corpus is gone");
    corpus.iter().for_each(|text| assert!(try_all(text), "a seed is refused"));

    let iterations = env_number("PROTEUS_FUZZ_ITERATIONS").unwrap_or(3000);
    let seed = env_number("PROTEUS_FUZZ_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_nanos() as u64
    });
    println!("PROTEUS_FUZZ_SEED={seed} PROTEUS_FUZZ_ITERATIONS={iterations}");
    let mut taken = 0u64;
    for iteration in 0..iterations {
        let mut random = Random(seed ^ iteration.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let mut text = corpus[random.below(corpus.len())].clone();
        mutate(&mut text, &corpus, &mut random);
        let outcome = std::panic::catch_unwind(|| try_all(&text));
        match outcome {
            Ok(was_taken) => taken += u64::from(was_taken),
            Err(panic) => {
                eprintln!("iteration {iteration} of seed {seed}, text: {}", String::from_utf8_lossy(&text));
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{iterations} mutated texts, {taken} of them taken");
}

proptest! {
    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        try_all(&bytes);
    }

    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        try_all(text.as_bytes());
    }

    #[test]
    fn any_json_like_text_is_answered(text in "[\\[\\]{},:\"a-c0-9 .\\n-]{0,200}") {
        try_all(text.as_bytes());
    }
}

//! Words that have no place where they stand: shortcuts outside tests, unsafe code outside its two places, paths of
//! somebody's machine, registries other than the public one.

use super::Finding;
use super::source::Source;

/// Only in tests. (The second halves are apart so that this file does not find itself.)
const TESTS_ONLY: [(&str, &str); 4] = [
    (".unwrap()", "name the failure, or say with `expect` why it cannot be"),
    ("todo!", "finish it"),
    ("unimplemented!", "finish it"),
    ("dbg!", "take it out"),
];

/// Where unsafe code may be.
const UNSAFE_PLACES: [&str; 3] =
    ["crates/hypervisor/src/", "crates/guest-agent/src/sys.rs", "crates/guest-agent/src/sys/"];

/// The only registry that dependencies may come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks the code of a Rust file.
pub fn check_source(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let unsafe_place = UNSAFE_PLACES.iter().any(|place| source.path.starts_with(place));
    for (line, code, test) in source.lines() {
        for (word, instead) in TESTS_ONLY.iter().filter(|(word, _)| !test && has(code, word)) {
            findings.push(Finding::new(&source.path, line, format!("`{word}` outside tests: {instead}")));
        }
        if has(code, "unsafe") && !unsafe_place {
            let what = "unsafe code outside hypervisor and guest-agent's sys";
            findings.push(Finding::new(&source.path, line, what));
        }
    }
    findings
}

/// Whether the word is there, and not as the end or beginning of another.
fn has(code: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let joins_before = word.starts_with(is_word) && code[..at].ends_with(is_word);
        let joins_after = word.ends_with(is_word) && code[at + word.len()..].starts_with(is_word);
        !joins_before && !joins_after
    })
}

/// Checks the text of any file.
pub fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lock = path.ends_with("Cargo.lock");
    let cargo = path.ends_with("Cargo.toml") || path.contains(".cargo/config");
    // Put together, so that this file does not find itself.
    let machines = ["/wo\u{72}k/", "/hom\u{65}/", "/User\u{73}/"];
    for (at, line) in text.lines().enumerate() {
        let mut tell = |what: String| findings.push(Finding::new(path, at + 1, what));
        for place in machines.iter().filter(|place| is_path(line, place)) {
            tell(format!("`{place}` is a path of somebody's machine"));
        }
        if let Some(source) = line.strip_prefix("source = \"").filter(|_| lock)
            && !source.starts_with(REGISTRY)
        {
            tell(format!("a dependency from another place than crates.io: {source}"));
        }
        if cargo && ["replace-with", "[source.", "[registries", "registry ="].iter().any(|w| line.contains(w))
        {
            tell("dependencies come from crates.io: no other registry in the repository".to_owned());
        }
    }
    findings
}

/// Whether the line has an absolute path that starts so.
fn is_path(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "._-/}*".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        check_source(&Source::new(path, text)).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn shortcuts_are_for_tests() {
        let text = "fn a() {\n  b.unwrap();\n  // c.unwrap()\n  d.unwrap_or(1);\n}\n";
        assert_eq!(found("crates/a/src/b.rs", text).len(), 1);
        assert!(found("crates/a/src/b.rs", text)[0].starts_with("crates/a/src/b.rs:2: `.unwrap()`"));
        assert!(found("crates/a/tests/b.rs", text).is_empty());
        assert!(found("crates/a/src/b.rs", &format!("#[cfg(test)]\nmod tests {{\n{text}}}\n")).is_empty());
        assert_eq!(found("crates/a/src/b.rs", "todo!();\ndbg!(1);\nmy_todo!();\n\"todo!\";\n").len(), 2);
    }

    #[test]
    fn unsafe_code_has_two_places() {
        let text = "unsafe { a() }\n#![forbid(unsafe_code)]\n";
        assert_eq!(found("crates/brain/src/a.rs", text).len(), 1);
        assert!(found("crates/hypervisor/src/a.rs", text).is_empty());
        assert!(found("crates/guest-agent/src/sys/spawn.rs", text).is_empty());
        assert_eq!(found("crates/guest-agent/src/system.rs", text).len(), 1);
    }

    #[test]
    fn paths_of_a_machine_are_found() {
        for (line, bad) in [
            ("cd /wo\u{72}k/main", true),
            ("\"/hom\u{65}/somebody\"", true),
            ("net/wo\u{72}k/policy.rs", false),
            ("$ROOT/wo\u{72}k/x", false),
            ("see /var/lib/proteus", false),
        ] {
            assert_eq!(!check("README.md", line).is_empty(), bad, "{line}");
        }
    }

    #[test]
    fn other_registries_are_found() {
        let good = format!("source = \"{REGISTRY}\"\n");
        assert!(check("Cargo.lock", &good).is_empty());
        assert_eq!(check("Cargo.lock", "source = \"registry+https://mirror.example/\"\n").len(), 1);
        assert_eq!(check(".cargo/config.toml", "[source.crates-io]\nreplace-with = \"x\"\n").len(), 2);
    }
}

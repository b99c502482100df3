//! A Rust file, read just closely enough: its code without comments and texts, and which of its lines are tests.

/// A file.
pub struct Source {
    /// Its path in the repository.
    pub path: String,
    /// As it is.
    pub text: String,
    /// The same, byte for byte as long, with spaces for comments and for what stands in quotes.
    pub code: String,
    /// For each line, whether it is part of a test.
    pub test: Vec<bool>,
}

impl Source {
    /// Reads a file.
    pub fn new(path: &str, text: &str) -> Self {
        let code = blank(text);
        let mut source = Self {
            path: path.to_owned(),
            text: text.to_owned(),
            test: vec![false; text.lines().count()],
            code,
        };
        // Everything of cargo that is built for tests only.
        let built_for_tests =
            ["/tests/", "/benches/", "/examples/", "/fuzz/"].iter().any(|dir| path.contains(dir));
        if built_for_tests {
            source.mark_test();
        }
        for (from, to) in source.test_items().into_iter().map(|item| item.lines) {
            source.test[from..to].fill(true);
        }
        source
    }

    /// The whole file is a test.
    pub fn mark_test(&mut self) {
        self.test.fill(true);
    }

    /// Lines of code with their numbers (from 1), and whether they are of a test.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str, bool)> {
        self.code.lines().zip(&self.test).enumerate().map(|(at, (line, test))| (at + 1, line, *test))
    }

    /// Files of modules that are compiled for tests only (`#[cfg(test)] mod name;`).
    pub fn test_modules(&self) -> Vec<String> {
        let (dir, file) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let stem = file.trim_end_matches(".rs");
        let dir =
            if ["lib", "main", "mod"].contains(&stem) { dir.to_owned() } else { format!("{dir}/{stem}") };
        self.test_items()
            .into_iter()
            .filter_map(|item| {
                let name = item.text.strip_prefix("mod ")?.strip_suffix(';')?.trim().to_owned();
                Some(format!("{dir}/{name}.rs"))
            })
            .collect()
    }

    /// What follows each `#[cfg(test)]`.
    fn test_items(&self) -> Vec<TestItem> {
        const MARK: &str = "#[cfg(test)]";
        let mut items = Vec::new();
        for (at, _) in self.code.match_indices(MARK) {
            let start = after_attributes(&self.code, at + MARK.len());
            let end = item_end(&self.code, start);
            let lines = (line_of(&self.code, at), line_of(&self.code, end.saturating_sub(1)) + 1);
            items.push(TestItem { lines, text: self.code[start..end].to_owned() });
        }
        items
    }
}

struct TestItem {
    /// From (0-based) to (after the last).
    lines: (usize, usize),
    text: String,
}

/// Number (0-based) of the line that the byte is in.
pub fn line_of(code: &str, at: usize) -> usize {
    code.as_bytes()[..at.min(code.len())].iter().filter(|byte| **byte == b'\n').count()
}

/// Position of the first byte that is neither space nor part of an attribute.
fn after_attributes(code: &str, from: usize) -> usize {
    let mut at = from;
    // Ends: each round moves `at` forward.
    loop {
        let rest = &code[at..];
        at += rest.len() - rest.trim_start().len();
        if !code[at..].starts_with("#[") {
            return at;
        }
        let mut depth = 0;
        for (offset, byte) in code[at..].bytes().enumerate() {
            depth += i32::from(byte == b'[') - i32::from(byte == b']');
            if byte == b']' && depth == 0 {
                at += offset + 1;
                break;
            }
        }
        if depth != 0 {
            return code.len();
        }
    }
}

/// Where the item that starts at `from` ends: after its `;`, or after the brace that closes its first.
pub fn item_end(code: &str, from: usize) -> usize {
    let (mut round, mut curly) = (0, 0);
    for (offset, byte) in code[from..].bytes().enumerate() {
        match byte {
            b'(' | b'[' => round += 1,
            b')' | b']' => round -= 1,
            b'{' => curly += 1,
            b'}' => {
                curly -= 1;
                if curly == 0 && round == 0 {
                    return from + offset + 1;
                }
            }
            b';' if round == 0 && curly == 0 => return from + offset + 1,
            _ => {}
        }
    }
    code.len()
}

/// Puts spaces for comments and for what stands in quotes; line ends stay.
pub fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match quoted_end(bytes, at) {
            Some(end) => end.min(bytes.len()),
            None => {
                at += 1;
                continue;
            }
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    // Only whole comments and texts were replaced, each byte by an ASCII one.
    String::from_utf8_lossy(&out).into_owned()
}

/// If a comment, a text or a character starts at `at`: where it ends.
fn quoted_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => Some(at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())),
        [b'/', b'*', ..] => Some(at + block_comment(rest)),
        [b'"', ..] => Some(at + text_end(rest, 1)),
        [b'b' | b'c', b'"', ..] if !word_before => Some(at + text_end(rest, 2)),
        [b'r', b'"' | b'#', ..] if !word_before => raw_end(rest, 1).map(|end| at + end),
        [b'b' | b'c', b'r', b'"' | b'#', ..] if !word_before => raw_end(rest, 2).map(|end| at + end),
        [b'\'', ..] => char_end(rest).map(|end| at + end),
        _ => None,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// End of a text whose first byte after the quote is at `from`.
fn text_end(rest: &[u8], from: usize) -> usize {
    let mut at = from;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// End of a raw text whose hashes start at `from`; none if it is a raw identifier (`r#type`).
fn raw_end(rest: &[u8], from: usize) -> Option<usize> {
    let hashes = rest[from..].iter().take_while(|b| **b == b'#').count();
    let start = from + hashes;
    if rest.get(start) != Some(&b'"') {
        return None;
    }
    let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
    let found = rest[start + 1..].windows(close.len()).position(|window| window == close);
    Some(found.map_or(rest.len(), |offset| start + 1 + offset + close.len()))
}

/// End of a character; none if the quote begins a lifetime.
fn char_end(rest: &[u8]) -> Option<usize> {
    match rest {
        [_, b'\\', _, more @ ..] => more.iter().take(12).position(|b| *b == b'\'').map(|offset| offset + 4),
        [_, first, ..] => {
            let length = match first {
                0x00..=0x7f => 1,
                0x80..=0xdf => 2,
                0xe0..=0xef => 3,
                _ => 4,
            };
            (rest.get(1 + length) == Some(&b'\'')).then_some(length + 2)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        blank(text).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn comments_texts_and_characters_are_blank() {
        assert_eq!(words("a // b\nc"), "a c");
        assert_eq!(words("a /* b /* c */ d */ e"), "a e");
        assert_eq!(words(r#"a("b\"c", 'd', '\'', '\u{1f600}', 'é') e"#), "a( , , , , ) e");
        assert_eq!(words(r##"a(r#"b"c"#, br"d", b"e", c"f") g"##), "a( , , , ) g");
        assert_eq!(words("fn a<'b>(c: &'b str, r#type: d) {}"), "fn a<'b>(c: &'b str, r#type: d) {}");
        assert_eq!(words("f(b'{', b'\\'') {"), "f(b , b ) {");
    }

    #[test]
    fn blanking_keeps_every_line_and_byte_in_place() {
        let text = "let a = \"x\ny\"; // é\n/* z\n */ b";
        assert_eq!(blank(text).len(), text.len());
        assert_eq!(blank(text).lines().count(), text.lines().count());
    }

    #[test]
    fn what_cfg_test_marks_is_a_test() {
        let text = "fn a() {}\n#[cfg(test)]\n#[allow(x[1])]\nmod tests {\n  fn b() {}\n}\nfn c() {}\n#[cfg(test)]\nuse d;\n";
        let source = Source::new("crates/a/src/lib.rs", text);
        assert_eq!(source.test, [false, true, true, true, true, true, false, true, true]);
        assert!(Source::new("crates/a/tests/b.rs", "fn a() {}\n").test[0]);
    }

    #[test]
    fn a_test_module_in_a_file_of_its_own_is_found() {
        let text = "#[cfg(test)]\nmod tests;\n";
        assert_eq!(Source::new("crates/a/src/b.rs", text).test_modules(), ["crates/a/src/b/tests.rs"]);
        assert_eq!(Source::new("crates/a/src/lib.rs", text).test_modules(), ["crates/a/src/tests.rs"]);
    }
}

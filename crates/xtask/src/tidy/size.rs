//! How large things are: lines of a file that are no tests, lines of a function, and how often a fixed sleep is
//! written. Must never judge: the ratchet does.

use super::source::{Source, item_end, line_of};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Lines of a file that are no tests.
    File,
    /// Lines of a function, from `fn` to its last brace.
    Function,
    /// Places in a file where a fixed time is slept.
    Sleep,
}

impl Rule {
    pub const ALL: [Self; 3] = [Self::File, Self::Function, Self::Sleep];

    /// As it is written in the ratchet.
    pub fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Function => "function",
            Self::Sleep => "sleep",
        }
    }

    /// What there may be without an entry in the ratchet.
    pub fn limit(self) -> usize {
        match self {
            Self::File => 800,
            Self::Function => 70,
            Self::Sleep => 0,
        }
    }

    /// How to say that something is too large.
    pub fn complaint(self, count: usize, most: usize) -> String {
        match self {
            Self::File => format!("{count} lines that are no tests, {most} at most: split the file"),
            Self::Function => format!("function of {count} lines, {most} at most: split it"),
            Self::Sleep => {
                format!("{count} fixed sleeps, {most} at most: wait for a condition with a limit")
            }
        }
    }
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    pub rule: Rule,
    pub path: String,
    /// Which function; empty for a whole file.
    pub item: String,
    /// Where, from 1.
    pub line: usize,
    pub count: usize,
}

/// Measures a file.
pub fn measure(source: &Source) -> Vec<Measured> {
    let one = |rule, item: &str, line, count| Measured {
        rule,
        path: source.path.clone(),
        item: item.to_owned(),
        line,
        count,
    };
    let lines = source.test.iter().filter(|test| !**test).count();
    let mut all = vec![one(Rule::File, "", 1, lines)];
    for (name, line, count) in functions(&source.code) {
        all.push(one(Rule::Function, &name, line, count));
    }
    let sleeps: Vec<usize> = fixed_sleeps(&source.code);
    if let Some(first) = sleeps.first() {
        all.push(one(Rule::Sleep, "", *first, sleeps.len()));
    }
    all
}

/// Functions with a body: name, line of `fn` (from 1), lines.
fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    for (at, _) in code.match_indices("fn ") {
        if at > 0 && is_word(code.as_bytes()[at - 1]) {
            continue;
        }
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let end = item_end(code, at);
        // A type (`fn (u8)`), or a declaration without a body.
        if name.is_empty() || !code[..end].ends_with('}') {
            continue;
        }
        let (first, last) = (line_of(code, at), line_of(code, end - 1));
        found.push((name, first + 1, last - first + 1));
    }
    found
}

/// Lines (from 1) where a time that is written down as a number is slept outside a loop, so that no condition can be
/// what is waited for.
fn fixed_sleeps(code: &str) -> Vec<usize> {
    const WORD: &str = "sleep(";
    let fixed = |rest: &str| {
        let argument = rest.split_once("from_").and_then(|(_, rest)| rest.split_once('('));
        argument.is_some_and(|(_, argument)| argument.trim_start().starts_with(|c: char| c.is_ascii_digit()))
    };
    let lines = code.match_indices(WORD).filter(|(at, _)| {
        let rest = &code[at + WORD.len()..];
        fixed(rest.split(';').next().unwrap_or(rest)) && !in_loop(code, *at)
    });
    lines.map(|(at, _)| line_of(code, at) + 1).collect()
}

/// Whether the byte is inside a loop of the function that it is in.
fn in_loop(code: &str, at: usize) -> bool {
    let (mut header, mut open) = (0, Vec::new());
    for (offset, byte) in code[..at].bytes().enumerate() {
        match byte {
            b'{' => open.push(&code[header..offset]),
            b'}' => drop(open.pop()),
            b';' => {}
            _ => continue,
        }
        header = offset + 1;
    }
    let has = |header: &str, words: &[&str]| {
        header.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| words.contains(&word))
    };
    let function = open.iter().rposition(|header| has(header, &["fn"])).unwrap_or(0);
    open[function..].iter().any(|header| !has(header, &["fn"]) && has(header, &["loop", "while", "for"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_measured_from_fn_to_its_brace() {
        let code = "impl A {\n  pub async fn a<T>(x: [u8; 3])\n  where T: B,\n  {\n    if x { }\n  }\n  fn b(&self);\n}\nlet f: fn (u8);\nfn c() {}\n";
        let expected = [("a".to_owned(), 2, 5), ("c".to_owned(), 10, 1)];
        assert_eq!(functions(code), expected);
    }

    #[test]
    fn sleeps_of_a_written_time_count_outside_loops() {
        let code = "fn a() {\n\
            sleep(Duration::from_millis(20));\n\
            tokio::time::sleep(POLL).await;\n\
            sleep(Duration::from_millis(ms));\n\
            if x { thread::sleep(time::Duration::from_secs( 1)); }\n\
            while !ready() { sleep(Duration::from_millis(20)); }\n\
            loop { if x { break; } sleep(Duration::from_millis(20)); }\n\
            }\n\
            impl A for B { fn b() { sleep(Duration::from_millis(20)); } }\n";
        assert_eq!(fixed_sleeps(code), [2, 5, 9]);
    }

    #[test]
    fn lines_of_tests_are_not_counted() {
        let source = Source::new("crates/a/src/b.rs", "fn a() {}\n#[cfg(test)]\nmod tests {\n}\n");
        let file = &measure(&source)[0];
        assert_eq!((file.rule, file.count), (Rule::File, 1));
    }
}

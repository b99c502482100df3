//! JSON text to a tree, strictly by RFC 8259, with the place of every value. Its own reader because
//! `serde_json` keeps no places and merges duplicate keys. Must never read a value deeper than the tree may be.

use super::super::tree::{DEPTH_MAX, Key, Node, Place, Value, printable};
use super::{Refusal, VALUES_MAX};
use std::collections::BTreeSet;

pub(super) fn read(text: &str) -> Result<Node, Refusal> {
    let mut reader = Reader { rest: text, place: Place { line: 1, column: 1 }, values: 0 };
    reader.skip_space();
    let node = reader.value(DEPTH_MAX)?;
    reader.skip_space();
    match reader.rest.chars().next() {
        None => Ok(node),
        Some(_) => Err(reader.unexpected("the end of the document")),
    }
}

struct Reader<'t> {
    rest: &'t str,
    place: Place,
    values: usize,
}

impl<'t> Reader<'t> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    /// Goes on by one character.
    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        if c == '\n' {
            self.place = Place { line: self.place.line + 1, column: 1 };
        } else {
            self.place.column += 1;
        }
        Some(c)
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.next();
        }
    }

    fn unexpected(&self, expected: &str) -> Refusal {
        let found = match self.peek() {
            Some(c) => format!("\"{}\"", printable(&c.to_string())),
            None => "the end of the text".to_owned(),
        };
        Refusal::new(self.place, expected, found)
    }

    fn value(&mut self, depth: usize) -> Result<Node, Refusal> {
        let place = self.place;
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(Refusal::too_many(place));
        }
        let value = match self.peek() {
            Some('{') => self.map(depth.checked_sub(1).ok_or_else(|| Refusal::too_deep(place))?)?,
            Some('[') => self.list(depth.checked_sub(1).ok_or_else(|| Refusal::too_deep(place))?)?,
            Some('"') => Value::Text(self.text()?),
            Some('-' | '0'..='9') => self.number()?,
            Some('a'..='z' | 'A'..='Z') => self.word()?,
            Some('\'') => return Err(self.unexpected("a value").hint("JSON text stands in double quotes")),
            Some('#' | '/') => return Err(self.unexpected("a value").hint("JSON has no comments; YAML has")),
            Some(_) | None => return Err(self.unexpected("a value")),
        };
        Ok(Node { place, value })
    }

    fn map(&mut self, depth: usize) -> Result<Value, Refusal> {
        self.next();
        let mut fields = Vec::new();
        let mut seen = BTreeSet::new();
        self.skip_space();
        if self.peek() == Some('}') {
            self.next();
            return Ok(Value::Map(fields));
        }
        loop {
            let place = self.place;
            if self.peek() != Some('"') {
                return Err(self.unexpected("a key in double quotes"));
            }
            let text = self.text()?;
            if !seen.insert(text.clone()) {
                return Err(Refusal::duplicate(place, &text));
            }
            self.skip_space();
            if self.peek() != Some(':') {
                return Err(self.unexpected("':' after a key"));
            }
            self.next();
            self.skip_space();
            fields.push((Key { place, text }, self.value(depth)?));
            if !self.goes_on('}', "',' or '}'")? {
                return Ok(Value::Map(fields));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, Refusal> {
        self.next();
        let mut items = Vec::new();
        self.skip_space();
        if self.peek() == Some(']') {
            self.next();
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value(depth)?);
            if !self.goes_on(']', "',' or ']'")? {
                return Ok(Value::List(items));
            }
        }
    }

    /// After an item: whether another follows.
    fn goes_on(&mut self, end: char, expected: &str) -> Result<bool, Refusal> {
        self.skip_space();
        match self.peek() {
            Some(c) if c == end => {
                self.next();
                Ok(false)
            }
            Some(',') => {
                self.next();
                self.skip_space();
                if self.peek() == Some(end) {
                    return Err(self
                        .unexpected("an item after ','")
                        .hint("JSON allows no comma before the end"));
                }
                Ok(true)
            }
            Some(_) | None => Err(self.unexpected(expected)),
        }
    }

    fn word(&mut self) -> Result<Value, Refusal> {
        let refusal = self.unexpected("a value").hint("JSON text stands in double quotes");
        let length = self.rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(self.rest.len());
        let value = match &self.rest[..length] {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "null" => Value::Null,
            _ => return Err(refusal),
        };
        (0..length).for_each(|_| {
            self.next();
        });
        Ok(value)
    }

    fn number(&mut self) -> Result<Value, Refusal> {
        let place = self.place;
        let is_part = |c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E');
        let length = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let text = &self.rest[..length];
        (0..length).for_each(|_| {
            self.next();
        });
        if !is_number(text) {
            return Err(Refusal::new(place, "a number", format!("\"{}\"", printable(text))));
        }
        if let Ok(whole) = text.parse::<i128>() {
            return Ok(Value::Integer(whole));
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Decimal(number, text.to_owned())),
            Ok(_) | Err(_) => Err(Refusal::new(place, "a finite number", format!("\"{}\"", printable(text)))),
        }
    }

    fn text(&mut self) -> Result<String, Refusal> {
        self.next();
        let mut text = String::new();
        loop {
            let place = self.place;
            match self.next() {
                Some('"') => return Ok(text),
                Some('\\') => text.push(self.escape(place)?),
                Some(c) if c < ' ' => {
                    return Err(Refusal::new(place, "text without control characters", format!("{c:?}")));
                }
                Some(c) => text.push(c),
                None => {
                    return Err(Refusal::new(place, "'\"' at the end of a text", "the end of the document"));
                }
            }
        }
    }

    fn escape(&mut self, place: Place) -> Result<char, Refusal> {
        let refusal = || Refusal::new(place, "an escape of JSON, as in \\n or \\u00e9", "another");
        match self.next() {
            Some(c @ ('"' | '\\' | '/')) => Ok(c),
            Some('b') => Ok('\u{8}'),
            Some('f') => Ok('\u{c}'),
            Some('n') => Ok('\n'),
            Some('r') => Ok('\r'),
            Some('t') => Ok('\t'),
            Some('u') => {
                let first = self.hex().ok_or_else(refusal)?;
                let unit = if (0xd800..0xdc00).contains(&first) {
                    let paired = self.next() == Some('\\') && self.next() == Some('u');
                    let second = self.hex().filter(|unit| paired && (0xdc00..0xe000).contains(unit));
                    0x10000 + ((first - 0xd800) << 10) + (second.ok_or_else(refusal)? - 0xdc00)
                } else {
                    first
                };
                char::from_u32(unit).ok_or_else(refusal)
            }
            Some(_) | None => Err(refusal()),
        }
    }

    /// Four hexadecimal digits.
    fn hex(&mut self) -> Option<u32> {
        (0..4).try_fold(0, |sum, _| Some(sum * 16 + self.next()?.to_digit(16)?))
    }
}

/// Whether this is a number by the grammar of JSON, which `f64::from_str` exceeds.
fn is_number(text: &str) -> bool {
    fn digits(text: &str) -> Option<&str> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        (end > 0).then(|| &text[end..])
    }
    let whole = text.strip_prefix('-').unwrap_or(text);
    let Some(mut rest) = digits(whole) else { return false };
    if whole.len() - rest.len() > 1 && whole.starts_with('0') {
        return false;
    }
    if let Some(part) = rest.strip_prefix('.') {
        match digits(part) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        match digits(exponent) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

//! A parsed document before it is understood: values, each with the place where it stands. One tree serves
//! JSON, YAML, TOML and values in memory. Must never hold more nesting than [`DEPTH_MAX`]: everything that
//! walks it may recurse.

use std::fmt;

/// Deepest nesting that is read. The deepest field of a profile is six levels down.
pub const DEPTH_MAX: usize = 32;

/// Where a value stands in its text, both counted from 1; columns count characters. Zero: no text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// One step from a value into a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The field or key of this name.
    Field(String),
    /// The item at this index, from 0.
    Index(usize),
}

/// The way from the root to a value: `resources.memory.min`, `components[2].kind`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Path(pub Vec<Step>);

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(name) if n == 0 => write!(f, "{}", printable(name))?,
                Step::Field(name) => write!(f, ".{}", printable(name))?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Longest piece of somebody's text that is repeated back to them.
const SHOWN_CHARS_MAX: usize = 60;

/// Text cut to a length that fits in a message, with everything that a terminal could act on escaped.
pub fn printable(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(SHOWN_CHARS_MAX)
        .flat_map(|c| {
            let escape = c.is_control() || is_format_control(c);
            let escaped = escape.then(|| c.escape_default());
            escaped.into_iter().flatten().chain((!escape).then_some(c))
        })
        .collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// Characters that are invisible and change how the text around them is shown: bidirectional controls and
/// zero-width marks (Unicode technical report 36, "Unicode Security Considerations").
pub fn is_format_control(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub place: Place,
    /// What it is.
    pub value: Value,
}

/// What a document can say.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i128),
    /// Any other number, not always finite; the text is as it was written.
    Decimal(f64, String),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Keys with their values, in the order of the text, each key once.
    Map(Vec<(Key, Node)>),
}

/// A key and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Where it begins.
    pub place: Place,
    /// The key.
    pub text: String,
}

impl Node {
    /// The kind and value in a few words, for messages.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Integer(number) => format!("the number {number}"),
            Value::Decimal(_, text) => format!("the number {}", printable(text)),
            Value::Text(text) => format!("\"{}\"", printable(text)),
            Value::List(items) => format!("a list of {}", items.len()),
            Value::Map(_) => "a group of fields".to_owned(),
        }
    }

    /// The place of what `path` leads to, or of the nearest thing on the way that is there.
    pub fn place_of(&self, path: &Path) -> Place {
        let mut at = self;
        for step in &path.0 {
            let next = match (&at.value, step) {
                (Value::Map(fields), Step::Field(name)) => {
                    fields.iter().find(|(key, _)| key.text == *name).map(|(_, node)| node)
                }
                (Value::List(items), Step::Index(index)) => items.get(*index),
                (
                    Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Decimal(..) | Value::Text(_),
                    Step::Field(_) | Step::Index(_),
                )
                | (Value::Map(_), Step::Index(_))
                | (Value::List(_), Step::Field(_)) => None,
            };
            match next {
                Some(node) => at = node,
                None => break,
            }
        }
        at.place
    }

    /// From a value in memory, without places; `None` where it is nested too deep.
    pub fn from_json(value: &serde_json::Value) -> Option<Self> {
        Self::from_json_within(value, DEPTH_MAX)
    }

    fn from_json_within(value: &serde_json::Value, depth: usize) -> Option<Self> {
        use serde_json::Value as Json;
        let below = depth.checked_sub(1);
        let value = match value {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match number.as_i128() {
                Some(whole) => Value::Integer(whole),
                None => Value::Decimal(number.as_f64()?, number.to_string()),
            },
            Json::String(text) => Value::Text(text.clone()),
            Json::Array(items) => {
                let below = below?;
                let items: Option<Vec<_>> = items.iter().map(|i| Self::from_json_within(i, below)).collect();
                Value::List(items?)
            }
            Json::Object(fields) => {
                let below = below?;
                let pair = |(key, value): (&String, &Json)| {
                    let key = Key { place: Place::default(), text: key.clone() };
                    Some((key, Self::from_json_within(value, below)?))
                };
                let fields: Option<Vec<_>> = fields.iter().map(pair).collect();
                Value::Map(fields?)
            }
        };
        Some(Self { place: Place::default(), value })
    }
}

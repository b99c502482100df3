//! Reads a profile from text: JSON, YAML or TOML, from anybody. Says everything that is wrong with it at once,
//! each with its place. Must never trust the text: size, nesting, number of values and number of problems are
//! bounded before anything is built from them.

mod json;

mod toml;

mod yaml;

use super::Profile;
use super::extends::ExtendsError;
use super::field::{Field, PROBLEMS_MAX, Violation, Violations};
use super::tree::{Node, Place, printable};
use crate::id::ProfileName;
use semver::VersionReq;
use std::fmt;

/// Largest text that is looked at.
pub const TEXT_BYTES_MAX: usize = 1 << 20;

/// Most values in one text, keys not counted: twenty times the largest profile that was ever written here.
pub const VALUES_MAX: usize = 20_000;

/// The forms that a profile is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// RFC 8259, strictly.
    Json,
    /// YAML 1.2 without anchors, aliases, tags and several documents.
    Yaml,
    /// TOML 1.0.
    Toml,
}

impl Format {
    /// By the end of a file's name; `None` where it says nothing.
    pub fn of_file_name(name: &str) -> Option<Self> {
        let (_, end) = name.rsplit_once('.')?;
        match end.to_ascii_lowercase().as_str() {
            "json" => Some(Self::Json),
            "yaml" | "yml" => Some(Self::Yaml),
            "toml" => Some(Self::Toml),
            _ => None,
        }
    }
}

/// One thing that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as the caller named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The field, as in `resources.memory.min`; `document` for the text as a whole.
    pub field: String,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
    /// What to do about it, where that is known.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, field, expected, found, hint } = self;
        write!(f, "{file}:{line}:{column}: {field}: expected {expected}, found {found}")?;
        match hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}

impl Problem {
    fn new(file: &str, place: Place, violation: Violation) -> Self {
        let field = violation.field.to_string();
        Self {
            file: file.to_owned(),
            line: place.line.max(1),
            column: place.column.max(1),
            field: if field.is_empty() { "document".to_owned() } else { field },
            expected: violation.expected,
            found: violation.found,
            hint: violation.hint,
        }
    }
}

/// Why a text gave no tree: it is not of its format, or beyond a limit.
struct Refusal {
    place: Place,
    expected: String,
    found: String,
    hint: Option<String>,
}

impl Refusal {
    fn new(place: Place, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { place, expected: expected.into(), found: found.into(), hint: None }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    fn too_deep(place: Place) -> Self {
        Self::new(place, format!("at most {} levels of nesting", super::tree::DEPTH_MAX), "more")
    }

    fn too_many(place: Place) -> Self {
        Self::new(place, format!("at most {VALUES_MAX} values"), "more")
    }

    fn duplicate(place: Place, key: &str) -> Self {
        Self::new(place, "each key once", format!("\"{}\" again", printable(key)))
    }

    fn into_problem(self, file: &str) -> Problem {
        Problem {
            file: file.to_owned(),
            line: self.place.line.max(1),
            column: self.place.column.max(1),
            field: "document".to_owned(),
            expected: self.expected,
            found: self.found,
            hint: self.hint,
        }
    }
}

/// Reads a profile. `format` where it is known, else by the file's name, else by how the text begins.
/// The error holds at least one problem and at most [`PROBLEMS_MAX`] + 1, in the order of the text.
pub fn parse(file_name: &str, text: &[u8], format: Option<Format>) -> Result<Profile, Vec<Problem>> {
    let tree = read_tree(file_name, text, format).map_err(|refusal| vec![refusal.into_problem(file_name)])?;
    let mut violations = Violations::default();
    let profile = Profile::decode(&tree, &mut violations);
    let (mut list, too_many) = violations.into_list();
    match profile {
        Some(profile) if list.is_empty() => Ok(profile),
        Some(_) | None => {
            list.sort_by_key(|(place, _)| *place);
            list.dedup();
            let mut problems: Vec<Problem> = list
                .into_iter()
                .map(|(place, violation)| Problem::new(file_name, place, violation))
                .collect();
            if too_many || problems.is_empty() {
                let expected = format!("a profile with at most {PROBLEMS_MAX} problems");
                problems.push(Refusal::new(Place::default(), expected, "more").into_problem(file_name));
            }
            Err(problems)
        }
    }
}

/// Completes a profile with what it extends: see [`super::extends::resolve`].
pub fn resolve(
    profile: Profile,
    lookup: &dyn Fn(&ProfileName, Option<&VersionReq>) -> Option<Profile>,
) -> Result<Profile, ExtendsError> {
    super::extends::resolve(profile, lookup)
}

/// The published JSON Schema as text, as it is checked in at `openapi/profile.schema.json`.
pub fn json_schema_text() -> String {
    let mut text = serde_json::to_string_pretty(&sorted(Profile::json_schema())).unwrap_or_default();
    text.push('\n');
    text
}

/// With every map in the order of its keys, whatever map type a dependency turned on.
fn sorted(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value as Json;
    match value {
        Json::Object(fields) => {
            let mut pairs: Vec<_> = fields.into_iter().collect();
            pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
            Json::Object(pairs.into_iter().map(|(key, value)| (key, sorted(value))).collect())
        }
        Json::Array(items) => Json::Array(items.into_iter().map(sorted).collect()),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => value,
    }
}

fn read_tree(file_name: &str, text: &[u8], format: Option<Format>) -> Result<Node, Refusal> {
    let start = Place { line: 1, column: 1 };
    if text.len() > TEXT_BYTES_MAX {
        let expected = format!("at most {} MiB", TEXT_BYTES_MAX >> 20);
        return Err(Refusal::new(start, expected, format!("{} bytes", text.len())));
    }
    let text = match std::str::from_utf8(text) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let good = String::from_utf8_lossy(&text[..error.valid_up_to()]);
            let place = place_at(&good, good.len());
            let found = format!("the byte 0x{:02x}", text[error.valid_up_to()]);
            return Err(Refusal::new(place, "text in UTF-8", found));
        }
    };
    if text.trim().is_empty() {
        return Err(Refusal::new(start, "a profile", "an empty text"));
    }
    let by_text = || if text.trim_start().starts_with('{') { Format::Json } else { Format::Yaml };
    match format.or_else(|| Format::of_file_name(file_name)).unwrap_or_else(by_text) {
        Format::Json => json::read(text),
        Format::Yaml => yaml::read(text),
        Format::Toml => toml::read(text),
    }
}

/// The place of a byte in a text; beyond the end, the end.
fn place_at(text: &str, offset: usize) -> Place {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line_start = before.rfind('\n').map_or(0, |n| n + 1);
    Place { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
}

#[cfg(test)]
mod tests;

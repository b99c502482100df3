//! What a VM is, in a word, and what it became. Must never tell more than was seen: "don't know" is an answer.

use super::{Trait, TraitVector};
use crate::unit::UnixMillis;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Longest label.
pub const LABEL_CHARS_MAX: usize = 40;

/// What stands where no label does.
pub const UNKNOWN: &str = "don't know";

/// What a VM is called, as in `web frontend`: lower-case words of letters and digits, with a blank or `-` between.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

/// Why a text is no label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} is no label: expected lower-case letters and digits, in words with a blank or a dash between, {LABEL_CHARS_MAX} characters at most"
)]
pub struct LabelError {
    given: String,
}

impl Label {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        let is_word = |word: &str| {
            !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        };
        if text.len() <= LABEL_CHARS_MAX && text.split([' ', '-']).all(is_word) {
            return Ok(Self(text.to_owned()));
        }
        Err(LabelError { given: text.chars().take(80).collect() })
    }
}

impl TryFrom<String> for Label {
    type Error = LabelError;

    fn try_from(text: String) -> Result<Self, LabelError> {
        text.parse()
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a VM that bears a label was seen to be: what others are held against.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prototype {
    /// Its label.
    pub label: Label,
    /// Where it was seen, in words.
    pub source: String,
    /// The median of its trait vectors.
    pub traits: TraitVector,
    /// Programs that used most of its CPU; those that are known to speak for its label need not be named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<String>,
}

/// How near a VM is to a label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Which.
    pub label: Label,
    /// Distance to its nearest prototype: weighted root mean square of robust deviations, 0 and more.
    pub distance: f32,
}

/// What speaks for a label, or against it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The trait; `None`: it is programs that the guest names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Trait>,
    /// What was seen, in words.
    pub seen: String,
    /// How much it speaks for the label (positive) or for the runner-up (negative), in squared deviations.
    pub weight: f32,
}

/// What one look at a VM says it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// Its label; `None`: don't know.
    pub label: Option<Label>,
    /// How sure, 0–1: the part of the nearest label in the two nearest, d₂ / (d₁ + d₂).
    pub confidence: f32,
    /// All labels, the nearest first.
    pub candidates: Vec<Candidate>,
    /// What speaks for the nearest and against it, the strongest first.
    pub evidence: Vec<Evidence>,
    /// Why it is not known, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
    /// Whether the guest's word had a part in it.
    pub with_guest: bool,
}

/// Since when a VM bears a label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Labelled {
    /// Since.
    pub since: UnixMillis,
    /// Its label; `None`: not known.
    pub label: Option<Label>,
}

/// Kinds of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It became something else, and stays it.
    Shift,
    /// It does what it never did, without becoming something else.
    Anomaly,
}

impl ChangeKind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shift => "shift",
            Self::Anomaly => "anomaly",
        }
    }
}

/// That a VM changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PersonalityChange {
    /// Which kind.
    pub kind: ChangeKind,
    /// When it began.
    pub began_at: UnixMillis,
    /// When it was told.
    pub told_at: UnixMillis,
    /// What it was before.
    pub from: Option<Label>,
    /// What it is since; of an anomaly the same.
    pub to: Option<Label>,
    /// What speaks for it, the strongest first.
    pub evidence: Vec<Evidence>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_a_label() {
        for good in ["idle", "web frontend", "build-farm 2"] {
            assert_eq!(good.parse::<Label>().unwrap().as_str(), good);
        }
        for bad in ["", " idle", "Web", "a  b", "../x", "ü", &"x".repeat(41), "a\nb"] {
            assert!(bad.parse::<Label>().is_err(), "{bad:?}");
        }
    }
}

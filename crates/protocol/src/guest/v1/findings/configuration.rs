//! How the configuration of a guest changes, as it travels. The whole stays below 100 KiB: 256 changes of at most 96
//! bytes of name and twice 64 of value, which the agent keeps to.

use super::super::sample::SampleError;
use super::limit::{clean, counter, list};
use proteus_model::telemetry as model;
use proteus_model::unit::UnixMillis;
use serde::{Deserialize, Serialize};

/// Most changes that are told.
pub const CHANGES_MAX: usize = 256;
/// Longest name of what changed.
pub const NAME_CHANGED_BYTES_MAX: usize = 96;
/// Longest value of what changed.
pub const VALUE_CHANGED_BYTES_MAX: usize = 64;
/// Aspects that are told: as many as there are, and room for a newer agent's.
const ASPECTS_MAX: usize = 16;

/// A part of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each means what its namesake in the model means")]
pub enum Aspect {
    Packages,
    Units,
    Sysctl,
    Mounts,
    Files,
    Devices,
    Kernel,
    Images,
    /// Of a newer agent: ignored.
    #[serde(other)]
    Unknown,
}

/// How an aspect fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct AspectStatus {
    pub aspect: Aspect,
    pub entries: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// Who made a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each means what its namesake in the model means")]
pub enum Author {
    Proteus,
    /// Of a newer agent: as if it were not known.
    #[serde(other)]
    Unknown,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct Change {
    pub sequence: u64,
    pub at_ms: u64,
    pub after_ms: u64,
    pub aspect: Aspect,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Author>,
}

/// The history of a guest's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct Configuration {
    pub history: String,
    pub began_ms: u64,
    pub kept: bool,
    pub sequence: u64,
    pub lost: u64,
    pub aspects: Vec<AspectStatus>,
    pub changes: Vec<Change>,
}

impl From<Aspect> for Option<model::ConfigurationAspect> {
    fn from(w: Aspect) -> Self {
        Some(match w {
            Aspect::Packages => model::ConfigurationAspect::Packages,
            Aspect::Units => model::ConfigurationAspect::Units,
            Aspect::Sysctl => model::ConfigurationAspect::Sysctl,
            Aspect::Mounts => model::ConfigurationAspect::Mounts,
            Aspect::Files => model::ConfigurationAspect::Files,
            Aspect::Devices => model::ConfigurationAspect::Devices,
            Aspect::Kernel => model::ConfigurationAspect::Kernel,
            Aspect::Images => model::ConfigurationAspect::Images,
            Aspect::Unknown => return None,
        })
    }
}

impl From<model::ConfigurationAspect> for Aspect {
    fn from(m: model::ConfigurationAspect) -> Self {
        match m {
            model::ConfigurationAspect::Packages => Self::Packages,
            model::ConfigurationAspect::Units => Self::Units,
            model::ConfigurationAspect::Sysctl => Self::Sysctl,
            model::ConfigurationAspect::Mounts => Self::Mounts,
            model::ConfigurationAspect::Files => Self::Files,
            model::ConfigurationAspect::Devices => Self::Devices,
            model::ConfigurationAspect::Kernel => Self::Kernel,
            model::ConfigurationAspect::Images => Self::Images,
        }
    }
}

fn moment(field: &'static str, given: u64) -> Result<UnixMillis, SampleError> {
    Ok(UnixMillis(counter(field, given)?))
}

/// What is longer than an agent says is refused: of 256 such a frame would not hold the rest.
fn bounded(field: &'static str, given: &str, max: usize) -> Result<String, SampleError> {
    let fits = given.len() <= max;
    let refused = SampleError { field, given: given.len() as u64, expected: "a shorter text" };
    fits.then(|| clean(given)).ok_or(refused)
}

/// `None`: of an aspect of a newer agent.
fn change(w: Change) -> Result<Option<model::ConfigurationChange>, SampleError> {
    let Some(aspect) = Option::<model::ConfigurationAspect>::from(w.aspect) else { return Ok(None) };
    let value = |field, given: Option<String>| {
        given.map(|given| bounded(field, &given, VALUE_CHANGED_BYTES_MAX)).transpose()
    };
    Ok(Some(model::ConfigurationChange {
        sequence: counter("configuration.change.sequence", w.sequence)?,
        at: moment("configuration.change.at_ms", w.at_ms)?,
        after: moment("configuration.change.after_ms", w.after_ms)?,
        aspect,
        name: bounded("configuration.change.name", &w.name, NAME_CHANGED_BYTES_MAX)?,
        from: value("configuration.change.from", w.from)?,
        to: value("configuration.change.to", w.to)?,
        by: match w.by {
            Some(Author::Proteus) => Some(model::ChangeAuthor::Proteus),
            Some(Author::Unknown) | None => None,
        },
    }))
}

fn status(w: AspectStatus) -> Result<Option<model::AspectObserved>, SampleError> {
    let Some(aspect) = Option::<model::ConfigurationAspect>::from(w.aspect) else { return Ok(None) };
    let missing = w.missing.as_deref().map(clean);
    Ok(Some(model::AspectObserved { aspect, entries: w.entries, missing }))
}

impl TryFrom<Configuration> for model::ConfigurationObserved {
    type Error = SampleError;
    fn try_from(w: Configuration) -> Result<Self, SampleError> {
        let changes = list("configuration.changes", w.changes, CHANGES_MAX, change)?;
        let changes: Vec<_> = changes.into_iter().flatten().collect();
        let sequence = counter("configuration.sequence", w.sequence)?;
        let numbers = changes.iter().map(|change| change.sequence).chain([sequence.saturating_add(1)]);
        // Strictly rising, from 1 on, and none beyond the last: a reader takes what is beyond what it has.
        let is_rising =
            numbers.is_sorted_by(|a, b| a < b) && changes.iter().all(|change| change.sequence > 0);
        if !is_rising {
            let (field, given) = ("configuration.change.sequence", sequence);
            return Err(SampleError { field, given, expected: "rising numbers up to this" });
        }
        let aspects = list("configuration.aspects", w.aspects, ASPECTS_MAX, status)?;
        Ok(Self {
            history: bounded("configuration.history", &w.history, VALUE_CHANGED_BYTES_MAX)?,
            began_at: moment("configuration.began_ms", w.began_ms)?,
            kept: w.kept,
            sequence,
            lost: counter("configuration.lost", w.lost)?,
            aspects: aspects.into_iter().flatten().collect(),
            changes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn change_of(sequence: u64, name: &str) -> Change {
        Change {
            sequence,
            at_ms: 20,
            after_ms: 10,
            aspect: Aspect::Files,
            name: name.to_owned(),
            from: None,
            to: Some("b\u{1b}".to_owned()),
            by: None,
        }
    }

    fn history(sequence: u64, changes: Vec<Change>) -> Configuration {
        Configuration { history: "h".to_owned(), sequence, changes, ..Configuration::default() }
    }

    #[test]
    fn aspects_have_one_name_on_both_sides() {
        for own in model::ConfigurationAspect::ALL {
            let wire = Aspect::from(own);
            assert_eq!(Option::<model::ConfigurationAspect>::from(wire), Some(own));
            assert_eq!(serde_json::to_value(wire).unwrap(), serde_json::to_value(own).unwrap());
            assert_eq!(serde_json::to_value(wire).unwrap(), own.name());
        }
    }

    #[test]
    fn numbers_rise_up_to_the_last_and_texts_are_short_and_clean() {
        let taken = model::ConfigurationObserved::try_from(history(3, vec![change_of(3, "x")])).unwrap();
        assert_eq!(taken.changes[0].to.as_deref(), Some("b"));
        let refused = |given: Configuration| model::ConfigurationObserved::try_from(given).unwrap_err().field;
        let number = "configuration.change.sequence";
        assert_eq!(refused(history(2, vec![change_of(3, "x")])), number);
        assert_eq!(refused(history(9, vec![change_of(3, "x"), change_of(3, "y")])), number);
        assert_eq!(refused(history(9, vec![change_of(0, "x")])), number);
        let long = "x".repeat(NAME_CHANGED_BYTES_MAX + 1);
        assert_eq!(refused(history(3, vec![change_of(3, &long)])), "configuration.change.name");
        let many = (1..=CHANGES_MAX as u64 + 1).map(|number| change_of(number, "x")).collect();
        assert_eq!(refused(history(1000, many)), "configuration.changes");
    }

    #[test]
    fn a_newer_agents_aspects_and_authors_are_left_out() {
        let text = r#"{"history":"h","began_ms":1,"kept":true,"sequence":2,"lost":0,
            "aspects":[{"aspect":"dreams","entries":1}],"changes":[
            {"sequence":1,"at_ms":1,"after_ms":1,"aspect":"dreams","name":"x"},
            {"sequence":2,"at_ms":1,"after_ms":1,"aspect":"kernel","name":"release","by":"a_ghost"}]}"#;
        let taken: Configuration = serde_json::from_str(text).unwrap();
        let taken = model::ConfigurationObserved::try_from(taken).unwrap();
        assert_eq!((taken.aspects.len(), taken.changes.len(), taken.changes[0].by), (0, 1, None));
    }

    proptest! {
        #[test]
        fn any_numbers_are_taken_only_when_they_rise(
            numbers in prop::collection::vec(0..6u64, 0..5),
            last in 0..6u64,
        ) {
            let changes = numbers.iter().map(|number| change_of(*number, "x")).collect();
            let rises = numbers.windows(2).all(|two| two[0] < two[1]);
            let fits = numbers.iter().all(|number| (1..=last).contains(number));
            let taken = model::ConfigurationObserved::try_from(history(last, changes));
            prop_assert_eq!(taken.is_ok(), rises && fits);
        }
    }
}

//! A configuration between two moments, by its changes. Must never tell as other what came back to what it was.

use proteus_model::telemetry::{ConfigurationAspect, ConfigurationChange};
use proteus_model::unit::UnixMillis;
use std::collections::BTreeMap;

/// One entry that is other at the end than it was at the beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differing {
    /// What it was.
    pub from: Option<String>,
    /// What it is.
    pub to: Option<String>,
    /// How often it changed in between.
    pub changes: u64,
    /// When it was last seen to.
    pub at: UnixMillis,
}

/// What differs, by aspect and name, between two moments: after `since`, until `until`.
pub fn differences(
    changes: &[ConfigurationChange],
    since: UnixMillis,
    until: UnixMillis,
) -> BTreeMap<(ConfigurationAspect, String), Differing> {
    let mut all: BTreeMap<(ConfigurationAspect, String), Differing> = BTreeMap::new();
    for change in changes.iter().filter(|change| change.at > since && change.at <= until) {
        let known = all.entry((change.aspect, change.name.clone())).or_insert_with(|| Differing {
            from: change.from.clone(),
            to: None,
            changes: 0,
            at: change.at,
        });
        known.to.clone_from(&change.to);
        known.changes += 1;
        known.at = change.at;
    }
    all.retain(|_, differing| differing.from != differing.to);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn change(sequence: u64, name: &str, from: Option<&str>, to: Option<&str>) -> ConfigurationChange {
        ConfigurationChange {
            sequence,
            at: UnixMillis(sequence * 10),
            after: UnixMillis(sequence * 10 - 5),
            aspect: ConfigurationAspect::Packages,
            name: name.to_owned(),
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
            by: None,
        }
    }

    #[test]
    fn what_came_back_is_not_other_and_what_changed_twice_is_told_from_end_to_end() {
        let changes = [
            change(1, "nginx", Some("1.22"), Some("1.24")),
            change(2, "redis", None, Some("7.0")),
            change(3, "nginx", Some("1.24"), Some("1.26")),
            change(4, "redis", Some("7.0"), None),
        ];
        let all = differences(&changes, UnixMillis(0), UnixMillis(100));
        assert_eq!(all.len(), 1, "{all:?}");
        let nginx = &all[&(ConfigurationAspect::Packages, "nginx".to_owned())];
        assert_eq!(
            (nginx.from.as_deref(), nginx.to.as_deref(), nginx.changes),
            (Some("1.22"), Some("1.26"), 2)
        );
        let middle = differences(&changes, UnixMillis(10), UnixMillis(30));
        assert_eq!(middle.len(), 2);
        assert!(differences(&changes, UnixMillis(40), UnixMillis(100)).is_empty());
    }

    proptest! {
        #[test]
        fn any_two_stretches_together_tell_what_the_whole_tells(
            values in proptest::collection::vec((0u8..3, proptest::option::of(0u8..3)), 0..24), cut in 0u64..25,
        ) {
            let mut now = BTreeMap::new();
            let mut changes = Vec::new();
            for (at, (name, to)) in values.iter().enumerate() {
                let from = now.insert(*name, *to).flatten();
                let text = |value: Option<u8>| value.map(|value| value.to_string());
                changes.push(change(at as u64 + 1, &name.to_string(), text(from).as_deref(), text(*to).as_deref()));
            }
            let (begin, middle, end) = (UnixMillis(0), UnixMillis(cut * 10), UnixMillis(1000));
            let whole = differences(&changes, begin, end);
            let (first, second) = (differences(&changes, begin, middle), differences(&changes, middle, end));
            for key in first.keys().chain(second.keys()).chain(whole.keys()) {
                let (a, b) = (first.get(key), second.get(key));
                let from = a.or(b).map(|one| one.from.clone());
                let to = b.or(a).map(|one| one.to.clone());
                let both = from.zip(to).filter(|(from, to)| from != to);
                prop_assert_eq!(whole.get(key).map(|one| (one.from.clone(), one.to.clone())), both);
            }
        }
    }
}

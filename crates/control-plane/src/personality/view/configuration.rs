//! How a VM's configuration changed: by Proteus's versions and by what its agent saw change inside, as one time series,
//! and between any two moments. Must never tell who did something that is not known.

use super::collected::Collected;
use crate::control::{Control, ControlError};
use proteus_brain::personality::configuration::differences;
use proteus_brain::personality::{CHANGES_KEPT, PersonalityRecord};
use proteus_model::execution::Version;
use proteus_model::setting::Setting;
use proteus_model::telemetry::{ChangeAuthor, ConfigurationChange};
use proteus_model::unit::UnixMillis;
use proteus_protocol::api::v1::{ConfigurationDiffView, ConfigurationView, DifferingView, PartView};
use std::collections::BTreeMap;

/// Versions and changes inside that are shown of each, the latest.
const SHOWN: usize = 50;

/// The settings of each version that are other than in the one before.
fn of_versions(versions: &[Version]) -> Vec<ConfigurationView> {
    let empty = Vec::new();
    let view = |at: usize| {
        let version = &versions[at];
        let before = at.checked_sub(1).map_or(&empty, |before| &versions[before].settings);
        let new = version.settings.iter().filter(|setting| !before.contains(setting));
        ConfigurationView {
            at: version.at,
            version: version.number,
            profile: version.profile.clone(),
            morph: version.morph.map(|morph| morph.to_string()),
            changed: new.map(ToString::to_string).collect(),
            by: Some("proteus".to_owned()),
            after: None,
        }
    };
    (versions.len().saturating_sub(SHOWN)..versions.len()).map(view).collect()
}

/// The version that was in force at a moment.
fn in_force(versions: &[Version], at: UnixMillis) -> Option<&Version> {
    versions.iter().rev().find(|version| version.at <= at)
}

fn of_change(change: &ConfigurationChange, versions: &[Version]) -> ConfigurationView {
    let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "not there".to_owned());
    let version = in_force(versions, change.at);
    ConfigurationView {
        at: change.at,
        version: version.map_or(0, |version| version.number),
        profile: version.and_then(|version| version.profile.clone()),
        morph: None,
        changed: vec![format!(
            "{} {}: {} → {}",
            change.aspect,
            change.name,
            or_none(&change.from),
            or_none(&change.to)
        )],
        by: change.by.map(|ChangeAuthor::Proteus| "proteus".to_owned()),
        after: Some(change.after),
    }
}

/// All of it in the order of time.
pub(super) fn configuration(
    versions: &[Version],
    record: &PersonalityRecord,
    collected: &Collected<'_>,
) -> PartView<Vec<ConfigurationView>> {
    let mut all = of_versions(versions);
    let from = record.configured.len().saturating_sub(SHOWN);
    all.extend(record.configured[from..].iter().map(|change| of_change(change, versions)));
    all.sort_by_key(|view| view.at);
    let inside = collected.configuration_at();
    PartView {
        source: if inside.is_some() { "records and guest" } else { "records" }.to_owned(),
        at: versions.last().map(|version| version.at).max(inside),
        coverage: if inside.is_some() { 1.0 } else { 0.5 },
        value: Some(all),
        missing: collected.configuration_missing(record.configured_lost),
    }
}

/// Settings of Proteus's own that differ between the versions in force at two moments.
fn settings(versions: &[Version], since: UnixMillis, until: UnixMillis) -> Vec<DifferingView> {
    let at = |moment| {
        let all = in_force(versions, moment).map(|version| version.settings.as_slice()).unwrap_or_default();
        all.iter()
            .map(|setting| (setting.knob().to_string(), setting))
            .collect::<BTreeMap<String, &Setting>>()
    };
    let (before, after) = (at(since), at(until));
    let changes = versions.iter().filter(|version| version.at > since && version.at <= until).count() as u64;
    let moment = in_force(versions, until).map_or(until, |version| version.at);
    let names = before.keys().chain(after.keys()).collect::<std::collections::BTreeSet<_>>();
    let differing = |name: &String| {
        let text = |all: &BTreeMap<String, &Setting>| all.get(name).map(ToString::to_string);
        let (from, to) = (text(&before), text(&after));
        let (aspect, name) = ("settings".to_owned(), name.clone());
        (from != to).then_some(DifferingView { aspect, name, from, to, changes, at: moment })
    };
    names.into_iter().filter_map(differing).collect()
}

impl Control {
    /// How a VM's configuration differs between two moments.
    pub async fn configuration_diff(
        &self,
        vm: &str,
        since: UnixMillis,
        until: UnixMillis,
    ) -> Result<ConfigurationDiffView, ControlError> {
        if since >= until {
            return Err(ControlError::Invalid {
                what: "the earlier moment is not before the later one".into(),
                hint: "as in `--since 2d --until 1h`, or two moments such as 2026-11-28T10:00:00Z".into(),
            });
        }
        let found = self.vm(vm).await?;
        let versions = self.versions(&found).await?;
        let record = self.record_of(&found).await?;
        let failed = self.personalities.failed(found.id);
        let collected = Collected::of(&record, failed.as_deref());
        let mut missing = collected.configuration_missing(record.configured_lost);
        let first = record.configured.first().map(|change| change.at).or(collected.configuration_at());
        match (collected.configuration_began_at(), first) {
            (Some(began), _) if began > since => {
                missing.push("what changed inside before it was looked at first".to_owned());
            }
            (_, Some(first)) if first > since && record.configured.len() >= CHANGES_KEPT => {
                missing.push(format!(
                    "what changed inside long ago: the latest {CHANGES_KEPT} changes are kept"
                ));
            }
            _ => {}
        }
        let inside = differences(&record.configured, since, until);
        let mut differing = settings(&versions, since, until);
        differing.extend(inside.into_iter().map(|((aspect, name), seen)| DifferingView {
            aspect: aspect.name().to_owned(),
            name,
            from: seen.from,
            to: seen.to,
            changes: seen.changes,
            at: seen.at,
        }));
        Ok(ConfigurationDiffView { vm: found.intent.name.to_string(), since, until, differing, missing })
    }
}

//! What was changed on a VM: its versions, its morphs and what changed inside, as marks on the time axis and as tables.
//! Must never tell a change that was undone as one that stayed.

use super::chart::{Event, Mark};
use super::markup::{Row, escape, table};
use crate::output::{comparison, moment, verdict};
use proteus_model::execution::{Morph, State, Version};
use proteus_model::setting::Setting;
use proteus_model::unit::{Millis, UnixMillis};
use proteus_protocol::api::v1::{ConfigurationView, PersonalityView};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Marks of versions, and of morphs that did not come about, in the order of time.
pub(super) fn marks(versions: &[Version], morphs: &[Morph]) -> Vec<Mark> {
    let version = |version: &Version| Mark {
        at: version.at.0,
        what: Event::Version(version.number),
        link: format!("version-{}", version.number),
    };
    let morph = |morph: &Morph| {
        let what = match morph.state {
            State::RolledBack => Event::Undone,
            State::Parked => Event::Parked,
            _ => return None,
        };
        let at = morph.ended_at.unwrap_or(morph.began_at).0;
        Some(Mark { at, what, link: format!("morph-{}", morph.id) })
    };
    let mut marks: Vec<Mark> = versions.iter().map(version).chain(morphs.iter().filter_map(morph)).collect();
    marks.sort_by_key(|mark| (mark.at, mark.what));
    marks
}

/// What changed inside, by the moments at which it was seen, oldest first.
fn inside(view: &PersonalityView) -> Vec<(UnixMillis, Vec<&ConfigurationView>)> {
    let all = view.record.configuration_history.value.as_deref().unwrap_or_default();
    let mut moments: Vec<(UnixMillis, Vec<&ConfigurationView>)> = Vec::new();
    for change in all.iter().filter(|change| change.after.is_some()) {
        match moments.last_mut() {
            Some((at, together)) if *at == change.at => together.push(change),
            _ => moments.push((change.at, vec![change])),
        }
    }
    moments
}

/// Marks of what changed inside, one for all that was seen at once.
pub(super) fn marks_inside(view: &PersonalityView) -> Vec<Mark> {
    let mark =
        |(at, _): &(UnixMillis, _)| Mark { at: at.0, what: Event::Inside, link: format!("inside-{}", at.0) };
    inside(view).iter().map(mark).collect()
}

/// What changed inside, the newest first, and what of it is not known.
pub(super) fn changes_inside(view: &PersonalityView) -> String {
    let row = |(at, together): &(UnixMillis, Vec<&ConfigurationView>)| {
        let after = together.iter().filter_map(|change| change.after).min();
        let by: BTreeSet<&str> =
            together.iter().map(|change| change.by.as_deref().unwrap_or("not known")).collect();
        Row {
            id: Some(format!("inside-{}", at.0)),
            cells: vec![
                format!("<span class=\"num\">{}</span>", moment(*at)),
                format!("<span class=\"num\">{}</span>", after.map_or("–".to_owned(), moment)),
                escape(&by.into_iter().collect::<Vec<_>>().join(", ")),
                list(together.iter().flat_map(|change| change.changed.iter().cloned())),
            ],
        }
    };
    let rows: Vec<Row> = inside(view).iter().rev().map(row).collect();
    let mut text = match rows.is_empty() {
        true => "<p>None was seen.</p>\n".to_owned(),
        false => table("inside", &["Seen, UTC", "Not yet so, UTC", "By", "What changed"], &rows),
    };
    for missing in &view.record.configuration_history.missing {
        let _ = writeln!(text, "<p class=\"faint\">Not known: {}.</p>", escape(missing));
    }
    text
}

/// What one version has otherwise than the one before.
fn difference(before: &[Setting], after: &[Setting]) -> Vec<String> {
    let old = |setting: &Setting| before.iter().find(|old| old.knob() == setting.knob());
    let mut changes: Vec<String> = after
        .iter()
        .filter_map(|setting| match old(setting) {
            Some(old) if old == setting => None,
            Some(old) => Some(format!("{}: {old} → {setting}", setting.knob())),
            None => Some(format!("{}: {setting}", setting.knob())),
        })
        .collect();
    let gone = before.iter().filter(|old| !after.iter().any(|setting| setting.knob() == old.knob()));
    changes.extend(gone.map(|old| format!("{}: not managed any more", old.knob())));
    changes
}

fn list(lines: impl IntoIterator<Item = String>) -> String {
    let items: String = lines.into_iter().map(|line| format!("<li>{}</li>", escape(&line))).collect();
    if items.is_empty() { "–".to_owned() } else { format!("<ul>{items}</ul>") }
}

/// Versions, the newest first.
pub(super) fn versions(all: &[Version]) -> String {
    let row = |(index, version): (usize, &Version)| {
        let before = index.checked_sub(1).and_then(|before| all.get(before));
        let changes = match before {
            Some(before) => list(difference(&before.settings, &version.settings)),
            None if version.number == 0 => "as it was made".to_owned(),
            None => "<span class=\"faint\">the one before is not shown</span>".to_owned(),
        };
        let came_by = version.goal.as_ref().map_or("–".to_owned(), |goal| escape(&goal.to_string()));
        Row {
            id: Some(format!("version-{}", version.number)),
            cells: vec![
                format!("v{}", version.number),
                format!("<span class=\"num\">{}</span>", moment(version.at)),
                version.profile.as_deref().map_or("–".to_owned(), escape),
                came_by,
                changes,
            ],
        }
    };
    let rows: Vec<Row> = all.iter().enumerate().rev().map(row).collect();
    table("versions", &["Version", "Since, UTC", "Profile", "Asked for", "What changed"], &rows)
}

fn outcome(morph: &Morph) -> String {
    let (class, word) = match morph.state {
        State::Committed => ("good", "✓ committed"),
        State::RolledBack => ("bad", "↩ rolled back"),
        State::Parked => ("bad", "! parked"),
        other => ("faint", other.word()),
    };
    format!("<span class=\"num {class}\">{}</span>", escape(word))
}

fn found(morph: &Morph) -> String {
    let mut lines: Vec<String> = morph.reason.iter().cloned().collect();
    lines.extend(verdict(morph).map(str::to_owned));
    if let Some(report) = &morph.verification {
        lines.extend(report.comparisons.iter().filter(|c| c.limit.is_some()).map(comparison));
        lines.extend(report.unhealthy.iter().map(|check| format!("failed: {check}")));
    }
    lines.extend(
        morph.left_alone.iter().map(|left| {
            format!("left alone: {} was {}, somebody made it {}", left.knob, left.ours, left.found)
        }),
    );
    list(lines)
}

/// Morphs, the newest first, as they come from the API.
pub(super) fn morphs(all: &[Morph]) -> String {
    let row = |morph: &Morph| {
        let took = morph.ended_at.map(|ended| Millis(ended.0.saturating_sub(morph.began_at.0)).to_string());
        let blackout = Millis(morph.steps.iter().map(|step| step.blackout_ms.0).sum());
        Row {
            id: Some(format!("morph-{}", morph.id)),
            cells: vec![
                format!("<span class=\"num\">{}</span>", moment(morph.began_at)),
                escape(&morph.plan.goal.to_string()),
                outcome(morph),
                format!("<span class=\"num\">{}</span>", took.unwrap_or_else(|| "–".to_owned())),
                format!("<span class=\"num\">{blackout}</span>"),
                found(morph),
                escape(&morph.actor),
            ],
        }
    };
    let heading = ["Began, UTC", "To", "Outcome", "Took", "Stood still", "What was found", "By"];
    table("morphs", &heading, &all.iter().map(row).collect::<Vec<_>>())
}

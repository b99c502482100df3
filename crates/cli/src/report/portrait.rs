//! What a VM is observed to be: its label and why, its traits as a radar, its labels over time, and what it became. Must
//! never draw a trait that was not measured.

use super::chart::{Event, Mark};
use super::markup::{Row, escape, table};
use crate::output::moment;
use proteus_model::personality::UNKNOWN;
use proteus_model::unit::UnixMillis;
use proteus_protocol::api::v1::{JudgementView, PersonalityView, TraitView};
use std::fmt::Write as _;

/// Traits on the radar: those that count most.
const AXES: usize = 10;
/// Fewest that make a shape.
const AXES_MIN: usize = 3;
/// Size of the radar's own coordinates, and the radius of its outer ring.
const SIZE: (f64, f64) = (440.0, 300.0);
const RADIUS: f64 = 105.0;
/// Deviations that the outer ring is away from the middle one.
const FAR: f32 = 4.0;

/// Shifts and anomalies on the time axis.
pub(super) fn marks(view: &PersonalityView) -> Vec<Mark> {
    let mark = |(index, change): (usize, &proteus_protocol::api::v1::PersonalityChangeView)| Mark {
        at: change.began_at.0,
        what: if change.kind == "shift" { Event::Shift } else { Event::Anomaly },
        link: format!("change-{index}"),
    };
    view.changes.iter().enumerate().map(mark).collect()
}

/// Where a point of the radar is: so far around, so far out.
fn place(index: usize, count: usize, out: f64) -> (f64, f64) {
    let angle = std::f64::consts::TAU * index as f64 / count as f64;
    (SIZE.0 / 2.0 + RADIUS * out * angle.sin(), SIZE.1 / 2.0 - RADIUS * out * angle.cos())
}

fn ring(count: usize, out: f64) -> String {
    let points: Vec<String> = (0..count)
        .map(|index| {
            let (x, y) = place(index, count, out);
            format!("{x:.1},{y:.1}")
        })
        .collect();
    points.join(" ")
}

fn radar(traits: &[TraitView]) -> String {
    let mut shown: Vec<&TraitView> = traits.iter().collect();
    shown.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    shown.truncate(AXES);
    if shown.len() < AXES_MIN {
        return "<p class=\"note\">Too little was measured for a picture of its traits.</p>\n".to_owned();
    }
    let count = shown.len();
    let mut svg = format!("<svg class=\"radar\" viewBox=\"0 0 {} {}\" role=\"img\">\n", SIZE.0, SIZE.1);
    svg.push_str("<title>Its traits, as deviations from the median of all prototypes</title>\n");
    for (out, class) in [(0.25, "ring"), (0.5, "ring usual"), (0.75, "ring"), (1.0, "ring")] {
        let _ = writeln!(svg, "<polygon class=\"{class}\" points=\"{}\"/>", ring(count, out));
    }
    let mut area = Vec::new();
    for (index, one) in shown.iter().enumerate() {
        let out = f64::from((one.deviation.clamp(-FAR, FAR) + FAR) / (2.0 * FAR));
        let (x, y) = place(index, count, out);
        area.push(format!("{x:.1},{y:.1}"));
        let (x, y) = place(index, count, 1.12);
        let anchor = match x - SIZE.0 / 2.0 {
            off if off > 10.0 => "start",
            off if off < -10.0 => "end",
            _ => "middle",
        };
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            y + 4.0,
            escape(&one.name.replace('_', " "))
        );
    }
    let _ = writeln!(svg, "<polygon class=\"area\" points=\"{}\"/>\n</svg>", area.join(" "));
    svg.push_str(
        "<p class=\"note\">The dashed ring is the median of all that labels are told by; out is more, in is less, \
         four robust deviations either way.</p>\n",
    );
    svg
}

fn reasons(title: &str, view: &JudgementView) -> String {
    let label = view.label.as_deref().unwrap_or(UNKNOWN);
    let why = view.why_not.as_ref().map_or_else(String::new, |why| format!(": {}", escape(why)));
    let mut text = format!(
        "<h3>{title}: {}{why} <span class=\"faint\">({:.0} % sure)</span></h3>\n<ul>\n",
        escape(label),
        view.confidence * 100.0
    );
    for evidence in &view.evidence {
        let (class, side) = if evidence.weight >= 0.0 { ("good", "for") } else { ("bad", "against") };
        let _ = writeln!(text, "<li><span class=\"{class}\">{side}</span> {}</li>", escape(&evidence.seen));
    }
    text + "</ul>\n"
}

/// The labels that it bore, each as wide as it lasted.
fn strip(view: &PersonalityView, from: UnixMillis, until: UnixMillis) -> String {
    let Some(first) = view.labels.first() else {
        return "<p class=\"note\">It bore no label yet.</p>\n".to_owned();
    };
    let from = from.0.max(first.since.0).min(until.0);
    let ends = view.labels.iter().skip(1).map(|next| next.since.0).chain([until.0]);
    let mut text = String::from("<div class=\"strip\">");
    for (labelled, end) in view.labels.iter().zip(ends) {
        let (begin, end) = (labelled.since.0.max(from), end.max(from));
        if end <= begin {
            continue;
        }
        let class = if labelled.label.is_none() { " class=\"unknown\"" } else { "" };
        let label = escape(labelled.label.as_deref().unwrap_or(UNKNOWN));
        let _ = write!(
            text,
            "<span{class} style=\"flex:{} 1 0\" title=\"{label} since {} UTC\">{label}</span>",
            (end - begin) / 1000 + 1,
            moment(labelled.since)
        );
    }
    let _ = writeln!(
        text,
        "</div>\n<p class=\"note\">{} to {} UTC, each label as wide as it lasted.</p>",
        moment(UnixMillis(from)),
        moment(until)
    );
    text
}

fn became(view: &PersonalityView) -> String {
    if view.changes.is_empty() {
        return "<p>It became nothing else, and nothing out of the ordinary was seen.</p>\n".to_owned();
    }
    let row = |(index, change): (usize, &proteus_protocol::api::v1::PersonalityChangeView)| {
        let from = escape(change.from.as_deref().unwrap_or(UNKNOWN));
        let to = escape(change.to.as_deref().unwrap_or(UNKNOWN));
        let what = if change.kind == "shift" { format!("{from} → {to}") } else { format!("as {from}") };
        let seen: String =
            change.evidence.iter().take(3).map(|e| format!("<li>{}</li>", escape(&e.seen))).collect();
        let sign = if change.kind == "shift" { "⇄" } else { "?" };
        Row {
            id: Some(format!("change-{index}")),
            cells: vec![
                format!("<span class=\"num\">{}</span>", moment(change.began_at)),
                format!("{sign} {}", escape(&change.kind)),
                what,
                format!("<ul>{seen}</ul>"),
            ],
        }
    };
    let rows: Vec<Row> = view.changes.iter().enumerate().rev().map(row).collect();
    table("changes", &["Began, UTC", "Kind", "What", "What moved"], &rows)
}

/// The section of a page: from the begin of its history until it was asked for.
pub(super) fn section(view: &PersonalityView, from: UnixMillis, until: UnixMillis) -> String {
    let mut text = String::from("<h2>Personality</h2>\n");
    if let Some(judgement) = &view.judgement {
        let title = if judgement.with_guest { "By host and guest" } else { "By the host" };
        text.push_str(&reasons(title, judgement));
        if let Some(own) = view.host_only.as_ref().filter(|_| judgement.with_guest) {
            text.push_str(&reasons("By the host alone", own));
        }
    } else {
        text.push_str("<p>It was not judged since Proteus began: a VM is judged while it runs.</p>\n");
    }
    text.push_str("<h3>Traits</h3>\n");
    text.push_str(&radar(view.record.weighted_trait_vector.value.as_deref().unwrap_or_default()));
    text.push_str("<h3>Labels over time</h3>\n");
    text.push_str(&strip(view, from, until));
    text.push_str("<h3>What it became</h3>\n");
    text + &became(view)
}

//! `proteus vm show --personality` and `proteus personality`: what VMs are observed to be, and the labels that people
//! teach.

use super::{Outcome, Session, asked, collected, inside};
use crate::argument::Personality;
use crate::client::segment;
use crate::output::{moment, now, table};
use proteus_model::personality::UNKNOWN;
use proteus_model::unit::{Millis, three_digits as number};
use proteus_protocol::api::v1::{
    ApplicationView, ConfigurationView, JudgementView, LabelView, PartView, PerformanceView,
    PersonalityChangeView, PersonalityView, TeachRequest, TraitView,
};
use serde_json::json;
use std::fmt::Write as _;

pub(super) fn percent(share: f32) -> String {
    format!("{:.0} %", share * 100.0)
}

/// How long ago, as people say it.
pub(super) fn age(at: u64, now: u64) -> String {
    match now.saturating_sub(at) / 1000 {
        s if s < 120 => format!("{s} s ago"),
        s if s < 7200 => format!("{} min ago", s / 60),
        s if s < 172_800 => format!("{} h ago", s / 3600),
        s => format!("{} days ago", s / 86_400),
    }
}

fn judgement(text: &mut String, title: &str, view: &JudgementView) {
    let label = view.label.as_deref().unwrap_or(UNKNOWN);
    let why = view.why_not.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    let _ = writeln!(text, "{title}: {label}{why} (confidence {})", percent(view.confidence));
    for evidence in &view.evidence {
        let side = if evidence.weight >= 0.0 { "for" } else { "against" };
        let _ = writeln!(text, "  {side:<8} {}", evidence.seen);
    }
    let near: Vec<String> =
        view.candidates.iter().take(4).map(|c| format!("{} {}", c.label, number(c.distance))).collect();
    if !near.is_empty() {
        let _ = writeln!(text, "  nearest: {} (distances; beyond 1 is little alike)", near.join(", "));
    }
}

fn changes(text: &mut String, all: &[PersonalityChangeView]) {
    for change in all {
        let (from, to) = (change.from.as_deref(), change.to.as_deref());
        let what = match change.kind.as_str() {
            "shift" => format!("{} → {}", from.unwrap_or(UNKNOWN), to.unwrap_or(UNKNOWN)),
            _ => format!("as {}", from.unwrap_or(UNKNOWN)),
        };
        let _ = writeln!(text, "  {} UTC  {:<8} {what}", moment(change.began_at), change.kind);
        for evidence in change.evidence.iter().take(3) {
            let _ = writeln!(text, "      {}", evidence.seen);
        }
    }
}

/// A part under its heading: its value where there is one, and what is missing.
fn part<T>(text: &mut String, name: &str, part: &PartView<T>, now: u64, show: impl FnOnce(&T) -> String) {
    let at = part.at.map_or_else(|| "not seen".to_owned(), |at| age(at.0, now));
    let _ = writeln!(text, "\n{name} (by {}, {at}, {} known)", part.source, percent(part.coverage));
    if let Some(value) = &part.value {
        text.push_str(&show(value));
    }
    for missing in &part.missing {
        let _ = writeln!(text, "  missing: {missing}");
    }
}

pub(super) fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn configuration(all: &[ConfigurationView]) -> String {
    let row = |view: &ConfigurationView| {
        let profile = view.profile.clone().unwrap_or_else(|| "-".to_owned());
        let by = view.by.clone().unwrap_or_else(|| "not known".to_owned());
        vec![moment(view.at), view.version.to_string(), profile, by, view.changed.join(", ")]
    };
    indented(&table(
        &["WHEN (UTC)", "VERSION", "PROFILE", "BY", "CHANGED"],
        &all.iter().map(row).collect::<Vec<_>>(),
    ))
}

fn per_second(bytes: Option<f32>) -> String {
    bytes.map_or("-".to_owned(), |bytes| inside::amount(bytes as i128))
}

/// Starts by the hour, by the day where that says more.
fn how_often(app: &ApplicationView) -> String {
    match app.starts_per_hour {
        Some(rate) if rate >= 1.0 => format!("{} ({}/h)", app.starts, number(rate)),
        Some(rate) if rate > 0.0 => format!("{} ({}/d)", app.starts, number(rate * 24.0)),
        _ => app.starts.to_string(),
    }
}

/// How long its processes live: those that are gone in the mean, and the longest life.
fn how_long(app: &ApplicationView) -> String {
    let part = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), |ms| Millis(ms - ms % 1000).to_string());
    format!("{} / {}", part(app.life_mean_ms), part(app.life_longest_ms))
}

fn applications(all: &[ApplicationView]) -> String {
    let row = |app: &ApplicationView| {
        vec![
            app.name.clone(),
            percent(app.cpu_share),
            format!("{:.1} s", app.cpu_ms as f64 / 1000.0),
            app.processes.to_string(),
            how_often(app),
            how_long(app),
            format!("{} MiB", app.resident_max >> 20),
            per_second(app.read_per_second),
            per_second(app.written_per_second),
            app.sessions.map_or("-".to_owned(), |count| count.to_string()),
            app.requests.map_or("-".to_owned(), |rate| number(rate as f32)),
            moment(app.first_at),
        ]
    };
    let rows: Vec<_> = all.iter().take(12).map(row).collect();
    let heads = [
        "PROGRAM",
        "CPU",
        "CPU TIME",
        "NOW",
        "STARTS",
        "LIVES (MEAN / LONGEST)",
        "MOST MEMORY",
        "READ/S",
        "WRITTEN/S",
        "SESSIONS",
        "REQUESTS/S",
        "SINCE (UTC)",
    ];
    let mut text = table(&heads, &rows);
    for app in all.iter().take(rows.len()).filter(|app| !app.depends_on.is_empty()) {
        let _ = writeln!(text, "{} depends on {}", app.name, app.depends_on.join(", "));
    }
    if all.len() > rows.len() {
        let _ = writeln!(text, "and {} more", all.len() - rows.len());
    }
    indented(&text)
}

fn performance(all: &std::collections::BTreeMap<String, PerformanceView>) -> String {
    let row = |(name, view): (&String, &PerformanceView)| {
        let p99 = view.p99.map_or_else(|| "-".to_owned(), number);
        vec![name.clone(), number(view.p50), number(view.p95), p99, view.unit.clone()]
    };
    indented(&table(&["METRIC", "P50", "P95", "P99", "UNIT"], &all.iter().map(row).collect::<Vec<_>>()))
}

fn traits(all: &[TraitView]) -> String {
    let row = |view: &TraitView| {
        let by = if view.of_guest { "guest" } else { "host" };
        vec![
            view.name.clone(),
            number(view.value),
            format!("{:+.1}", view.deviation),
            number(view.weight),
            by.to_owned(),
            view.meaning.clone(),
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    indented(&table(&["TRAIT", "VALUE", "DEVIATION", "WEIGHT", "SAID BY", "WHAT IT IS"], &rows))
}

/// All of it, for people; `now` is the reader's clock, ms since 1970.
pub fn whole(view: &PersonalityView, now: u64) -> String {
    let mut text = String::new();
    let label = view.label.as_deref().unwrap_or(UNKNOWN);
    let at = view.at.map_or_else(|| "not judged yet".to_owned(), |at| age(at.0, now));
    let _ = writeln!(text, "{}: {label} ({at})", view.vm);
    if let Some(template) = &view.inherited_from {
        let _ = writeln!(text, "its first label is from its template, {template}");
    }
    if view.departed {
        let _ = writeln!(text, "it is away from what it was; what it becomes shows in some minutes");
    }
    text.push('\n');
    if let Some(view) = &view.judgement {
        judgement(
            &mut text,
            if view.with_guest { "now, by host and guest" } else { "now, by the host" },
            view,
        );
    }
    if let Some(own) = view.host_only.as_ref().filter(|_| view.judgement.iter().any(|all| all.with_guest)) {
        judgement(&mut text, "now, by the host alone", own);
    }
    if !view.labels.is_empty() {
        let _ = writeln!(text, "\nlabels over time");
        for labelled in &view.labels {
            let label = labelled.label.as_deref().unwrap_or(UNKNOWN);
            let _ = writeln!(text, "  {} UTC  {label}", moment(labelled.since));
        }
    }
    if !view.changes.is_empty() {
        let _ = writeln!(text, "\nshifts and anomalies");
        changes(&mut text, &view.changes);
    }
    let record = &view.record;
    let _ = writeln!(text, "\nVMID {}", record.vm_id);
    part(&mut text, "BaseImageID", &record.base_image_id, now, |digests| {
        let row = |(role, digest): (&String, &String)| vec![role.clone(), digest.clone()];
        indented(&table(&["FILE", "SHA-256"], &digests.iter().map(row).collect::<Vec<_>>()))
    });
    part(&mut text, "ConfigurationHistory", &record.configuration_history, now, |all| configuration(all));
    part(&mut text, "ApplicationUsageStats", &record.application_usage_stats, now, |all| applications(all));
    part(&mut text, "DataFootprintAnalysis", &record.data_footprint_analysis, now, inside::footprint);
    part(&mut text, "NetworkTrafficProfile", &record.network_traffic_profile, now, |traffic| {
        let or_dash = |value: Option<f32>, unit: &str| value.map_or("-".to_owned(), |v| number(v) + unit);
        let hours: Vec<Option<f32>> = traffic.by_hour.clone();
        format!(
            "  received {} KiB/s, sent {} KiB/s, share sent {}, packets of {} in and {} out, burstiness {}\n  by hour of the day (UTC): {}\n",
            number(traffic.received),
            number(traffic.sent),
            traffic.sent_share.map_or("-".to_owned(), percent),
            or_dash(traffic.packet_in, " B"),
            or_dash(traffic.packet_out, " B"),
            or_dash(traffic.burstiness, ""),
            crate::plot::line(&hours, 24)
        ) + &traffic
            .begun
            .as_ref()
            .map_or_else(String::new, |all| collected::begun(all, traffic.begun_at, now))
            + &traffic.connections.as_ref().map_or_else(String::new, |view| collected::connections(view, now))
    });
    part(&mut text, "ApplicationMetrics", &record.application_metrics, now, |all| collected::endpoints(all));
    part(&mut text, "ApiCallFrequency", &record.api_call_frequency, now, collected::calls);
    part(&mut text, "LogActivity", &record.log_activity, now, |all| collected::logs(all));
    part(&mut text, "GraphicsProcessors", &record.graphics_processors, now, |all| collected::gpus(all));
    part(&mut text, "UserBehaviorModel", &record.user_behavior_model, now, inside::users);
    part(&mut text, "PerformanceMetrics", &record.performance_metrics, now, performance);
    part(&mut text, "WeightedTraitVector", &record.weighted_trait_vector, now, |all| traits(all));
    text
}

fn labels(all: &[LabelView]) -> String {
    let row = |view: &LabelView| {
        let shipped = view.sources.len() - view.taught.min(view.sources.len());
        let own = view.sources.iter().skip(shipped).cloned().collect::<Vec<_>>().join(", ");
        vec![view.label.clone(), shipped.to_string(), view.taught.to_string(), own]
    };
    table(&["LABEL", "SHIPPED", "TAUGHT", "TAUGHT BY"], &all.iter().map(row).collect::<Vec<_>>())
}

impl Session {
    pub(super) async fn show_personality(&self, vm: &str) -> Outcome {
        let view: PersonalityView = self.client.get(&format!("/vms/{}/personality", segment(vm))).await?;
        let now = now().0;
        self.print(&view, || whole(&view, now));
        Ok(0)
    }

    pub(super) async fn personality(&self, command: &Personality) -> Outcome {
        match command {
            Personality::Labels => {
                let all: Vec<LabelView> = self.client.get("/labels").await?;
                self.print(&all, || labels(&all));
            }
            Personality::Teach { vm, label, dry_run } => {
                let path = format!("/vms/{}/personality/label", segment(vm));
                let request = TeachRequest { label: label.clone() };
                let view: LabelView = self.client.post(&asked(&path, *dry_run), &request).await?;
                let done = if *dry_run { "could be learned" } else { "is learned" };
                self.print(&view, || {
                    format!("{label} {done} from {vm} as it is now; `proteus vm show {vm} --personality` shows what comes of it\n")
                });
            }
            Personality::Forget { label, dry_run } => {
                let path = format!("/labels/{}", segment(label));
                let prototypes: usize = self.client.delete(&asked(&path, *dry_run)).await?;
                let done = if *dry_run { "would be forgotten" } else { "forgotten" };
                let whole = json!({ "label": label, "prototypes": prototypes, "forgotten": !dry_run });
                self.print(&whole, || {
                    format!("{prototypes} taught prototypes of {label} {done}; those that ship with Proteus stay\n")
                });
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests;

//! The demonstration's report: one value, as a table and as JSON.

use super::load::Measured;
use super::rounded;
use proteus_cli::output::table;
use proteus_model::execution::{Morph, State};
use proteus_model::plan::Change;
use proteus_model::setting::Setting;
use proteus_model::unit::Bytes;
use serde_json::{Value, json};

/// One morph.
pub(super) struct MorphRow {
    vm: &'static str,
    serves: &'static str,
    profile: String,
    outcome: &'static str,
    blackout_steps: usize,
    blackout_ms: f64,
    phases: [Measured; 3],
    /// What the guest may no longer use: the balloon, as QEMU read it before and after.
    returned: Bytes,
    /// What the guest's memory takes less on the host. A guest reports free pages by itself, so little of what it
    /// gives up was still backed by the host.
    freed: Option<Bytes>,
}

/// Memory that a committed morph took from its guest: each step was read back from QEMU before it counted as done.
fn given_up(morph: &Morph) -> Bytes {
    let memory = |settings: &mut dyn Iterator<Item = &Setting>| {
        let parts = settings.filter_map(|setting| match setting {
            Setting::Memory { target: bytes } | Setting::HotMemory { plugged: bytes } => Some(bytes.0),
            _ => None,
        });
        Bytes(parts.sum())
    };
    if morph.state != State::Committed {
        return Bytes::ZERO;
    }
    let changed: Vec<&Setting> = morph
        .plan
        .steps
        .iter()
        .filter_map(|step| match &step.change {
            Change::Set { to, .. } => Some(to),
            Change::ReplaceVmm | Change::Snapshot { .. } => None,
        })
        .collect();
    let was = morph.before.iter().filter(|b| changed.iter().any(|c| c.knob() == b.knob()));
    memory(&mut was.into_iter()).saturating_sub(memory(&mut changed.into_iter()))
}

impl MorphRow {
    pub(super) fn new(
        vm: &'static str,
        serves: &'static str,
        morph: &Morph,
        phases: [Measured; 3],
        freed: Option<Bytes>,
    ) -> Self {
        Self {
            vm,
            serves,
            profile: morph.plan.goal.to_string(),
            outcome: morph.state.word(),
            blackout_steps: morph.steps.iter().filter(|step| step.blackout_ms.0 > 0).count(),
            blackout_ms: morph.steps.iter().map(|step| step.blackout_ms.0).sum::<u64>() as f64,
            phases,
            returned: given_up(morph),
            freed,
        }
    }

    /// Requests lost while the morph ran and after it.
    fn lost(&self) -> u64 {
        self.phases[1].lost + self.phases[2].lost
    }
}

/// The bad profile.
pub(super) struct BadRow {
    pub(super) outcome: &'static str,
    pub(super) undo_ms: f64,
    pub(super) reason: String,
}

/// The crash.
pub(super) struct CrashRow {
    pub(super) outcome: &'static str,
    pub(super) killed_while: &'static str,
    pub(super) lost_requests: u64,
    pub(super) record_equals_vm: bool,
}

/// The report.
#[derive(Default)]
pub(super) struct Report {
    pub(super) morphs: Vec<MorphRow>,
    pub(super) bad_profile: Option<BadRow>,
    pub(super) crash: Option<CrashRow>,
    pub(super) leftovers: Vec<String>,
}

impl Report {
    /// Whether everything went as it is meant to.
    pub(super) fn all_well(&self) -> bool {
        self.morphs.iter().all(|row| row.outcome == "committed" && row.lost() == 0)
            && self.bad_profile.as_ref().is_some_and(|bad| bad.outcome == "rolled_back")
            && self.crash.as_ref().is_some_and(|crash| crash.record_equals_vm && crash.lost_requests == 0)
            && self.leftovers.is_empty()
    }

    pub(super) fn to_json(&self) -> String {
        let morph = |row: &MorphRow| {
            let [before, during, after] = &row.phases;
            json!({
                "vm": row.vm, "profile": row.profile, "outcome": row.outcome, "lost_requests": row.lost(),
                "blackout_steps": row.blackout_steps, "blackout_ms": row.blackout_ms,
                "throughput_before": before.throughput, "throughput_during": during.throughput,
                "throughput_after": after.throughput,
                "p99_ms_before": before.p99_ms, "p99_ms_during": during.p99_ms, "p99_ms_after": after.p99_ms,
                "memory_returned_bytes": row.returned.0, "host_memory_freed_bytes": row.freed.map(|bytes| bytes.0),
                "phases": [rounded(before), rounded(during), rounded(after)],
            })
        };
        let whole = json!({
            "morphs": self.morphs.iter().map(morph).collect::<Vec<Value>>(),
            "bad_profile": self.bad_profile.as_ref().map(|bad| {
                json!({"outcome": bad.outcome, "undo_ms": bad.undo_ms, "reason": bad.reason})
            }),
            "crash": self.crash.as_ref().map(|crash| {
                json!({"outcome": crash.outcome, "killed_while": crash.killed_while,
                    "lost_requests": crash.lost_requests, "record_equals_vm": crash.record_equals_vm})
            }),
            "leftovers": self.leftovers,
        });
        serde_json::to_string_pretty(&whole).unwrap_or_default() + "\n"
    }

    pub(super) fn to_table(&self) -> String {
        let mut rows = Vec::new();
        for row in &self.morphs {
            for (phase, seen) in ["before", "during", "after"].into_iter().zip(&row.phases) {
                let first = phase == "before";
                let only_first = |text: String| if first { text } else { String::new() };
                let last = phase == "after";
                rows.push(vec![
                    only_first(format!("{} ({})", row.vm, row.serves)),
                    only_first(row.profile.clone()),
                    phase.to_owned(),
                    format!("{:.0}", seen.throughput),
                    format!("{:.1}", seen.p99_ms),
                    seen.lost.to_string(),
                    if last { format!("{:.0} ms", row.blackout_ms) } else { String::new() },
                    if last { row.returned.to_string() } else { String::new() },
                    if last { row.outcome.to_owned() } else { String::new() },
                ]);
            }
        }
        let heading =
            ["VM", "PROFILE", "PHASE", "REQ/S", "P99 MS", "LOST", "BLACKOUT", "MEMORY BACK", "OUTCOME"];
        let mut text = format!("\n{}", table(&heading, &rows));
        if let Some(bad) = &self.bad_profile {
            text.push_str(&format!(
                "\nbad profile: {} in {:.0} ms, because {}\n",
                bad.outcome, bad.undo_ms, bad.reason
            ));
        }
        if let Some(crash) = &self.crash {
            let whole = if crash.record_equals_vm { "record and VM agree" } else { "RECORD AND VM DIFFER" };
            text.push_str(&format!(
                "crash while {}: {}, {whole}, {} requests lost\n",
                crash.killed_while, crash.outcome, crash.lost_requests
            ));
        }
        let left = if self.leftovers.is_empty() { "nothing".to_owned() } else { self.leftovers.join(", ") };
        text.push_str(&format!("left behind: {left}\n"));
        text
    }
}

//! Plans, morphs and versions as text. Must never tell a step that was undone as done.

use super::{moment, not_shown, or_dash, table};
use proteus_model::execution::{Morph, State, Version};
use proteus_model::plan::{Change, Plan, Undo};
use proteus_model::verification::Comparison;
use std::fmt::Write;

/// A plan, as it is shown before it is carried out.
pub fn plan(plan: &Plan, skip_unsupported: bool) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "Plan: {} → {}\n", plan.vm_name, plan.goal);
    for (index, step) in plan.steps.iter().enumerate() {
        let _ = match &step.change {
            Change::Set { from, to } => {
                writeln!(text, "  {}. {}: {from} → {to}", index + 1, to.knob())
            }
            Change::ReplaceVmm => writeln!(text, "  {}. replace the VMM process", index + 1),
            Change::Snapshot { name, disk_max } => {
                writeln!(text, "  {}. snapshot {name}: disks and RAM, up to {disk_max} of disk", index + 1)
            }
        };
        let undo = match &step.undo {
            Undo::TurnBack => "turned back to what it was".to_owned(),
            Undo::Nothing { because } => format!("nothing to undo: {because}"),
        };
        let blackout = if step.blackout_ms_max.0 == 0 {
            "none".to_owned()
        } else {
            format!("up to {}", step.blackout_ms_max)
        };
        let _ = writeln!(text, "     why      {}", step.why);
        let _ = writeln!(text, "     how      {}", step.mechanism);
        let risk = step.risk.as_str();
        let _ = writeln!(text, "     risk     {risk} · blackout {blackout} · undo {undo}");
    }
    if plan.steps.is_empty() {
        text.push_str("  nothing to change\n");
    }
    if !plan.already.is_empty() {
        let knobs: Vec<String> = plan.already.iter().map(|setting| setting.knob().to_string()).collect();
        let _ = writeln!(text, "\nAlready so: {}", knobs.join(", "));
    }
    if !plan.unsupported.is_empty() {
        text.push_str(match skip_unsupported {
            true => "\nNot supported here, and left out:\n",
            false => {
                "\nNot supported here (`morph apply` refuses this; `--skip-unsupported` leaves it out):\n"
            }
        });
        for item in &plan.unsupported {
            let _ = writeln!(text, "  {}: {}", item.field, item.why);
        }
    }
    for note in &plan.notes {
        let _ = writeln!(text, "\nNote: {note}");
    }
    if let Some(cost) = plan.cost.as_ref().and_then(|cost| cost.enter.as_ref()) {
        let settling = or_dash(cost.settling);
        let _ = writeln!(text, "\nCost: at its best again after {settling}, by its author's word");
    }
    let changes = plan.steps.len();
    let _ = writeln!(text, "\n{changes} to change, blackout at most {}", plan.blackout_ms_max());
    text
}

/// How one measure compares.
pub(crate) fn comparison(c: &Comparison) -> String {
    let told = |value: Option<f64>| or_dash(value.map(|value| c.told(value)));
    let (before, after, limit) = (told(c.before), told(c.after), told(c.limit));
    format!("{}: {before} before, {after} after, limit {limit}: {}", c.measure, c.why)
}

/// What verification came to, where there was one.
pub(crate) fn verdict(morph: &Morph) -> Option<&'static str> {
    let report = morph.verification.as_ref()?;
    let checks = morph.plan.verify.as_ref().is_some_and(|verify| !verify.health.is_empty());
    let limits = report.comparisons.iter().any(|c| c.limit.is_some());
    Some(match report.passed {
        true if !checks && !limits => "nothing to verify: no check and no limit is set",
        true => "verification passed",
        false => "verification failed",
    })
}

/// A morph.
pub fn morph(morph: &Morph) -> String {
    let mut text = String::new();
    let _ =
        writeln!(text, "{}  {} → {}  {}", morph.id, morph.plan.vm_name, morph.plan.goal, morph.state.word());
    let _ = writeln!(text, "  began {} UTC by {}", moment(morph.began_at), morph.actor);
    if let Some(reason) = &morph.reason {
        let _ = writeln!(text, "  because {reason}");
    }
    for step in &morph.steps {
        let name = morph.plan.steps.get(step.step).map(|step| match &step.change {
            Change::Set { to, .. } => format!("{} = {to}", to.knob()),
            Change::ReplaceVmm => "VMM replaced".to_owned(),
            Change::Snapshot { name, .. } => format!("snapshot {name}"),
        });
        let name = name.unwrap_or_default();
        let _ = writeln!(
            text,
            "  step {}: {name} ({}, blackout {})",
            step.step + 1,
            step.took_ms,
            step.blackout_ms
        );
    }
    for left in &morph.left_alone {
        let _ =
            writeln!(text, "  left alone: {} was {}, somebody made it {}", left.knob, left.ours, left.found);
    }
    if let Some(verdict) = verdict(morph) {
        let _ = writeln!(text, "  {verdict}");
    }
    if let Some(report) = &morph.verification {
        for c in report.comparisons.iter().filter(|c| c.limit.is_some()) {
            let _ = writeln!(text, "    {}", comparison(c));
        }
        for failed in &report.unhealthy {
            let _ = writeln!(text, "    failed: {failed}");
        }
    }
    if let Some(undo) = morph.undo_ms {
        let _ = writeln!(text, "  undone in {undo}");
    }
    if morph.state == State::Parked {
        let (id, vm, version) = (morph.id, &morph.plan.vm_name, morph.plan.base_version);
        let _ = writeln!(
            text,
            "  parked: it is left as it is; `proteus morph status {id}` shows this again, `proteus morph rollback {vm} --to \
             {version}` leads back to where it began"
        );
    }
    let taken = |step: &usize| morph.steps.iter().any(|done| done.step == *step);
    for (index, step) in morph.plan.steps.iter().enumerate().filter(|(index, _)| taken(index)) {
        if let Change::Snapshot { name, .. } = &step.change
            && morph.state.is_terminal()
        {
            let vm = &morph.plan.vm_name;
            let _ = writeln!(
                text,
                "  the snapshot {name} of step {} stays: `proteus vm snapshot restore|delete {vm} {name}`",
                index + 1
            );
        }
    }
    text
}

/// Exit code of a command that waited for a morph.
pub fn morph_exit(state: State) -> u8 {
    match state {
        State::Committed => 0,
        State::RolledBack => 5,
        State::Parked => 6,
        State::Planned
        | State::Validated
        | State::Reserved
        | State::Applying { .. }
        | State::Verifying
        | State::Committing
        | State::Undoing { .. }
        | State::Releasing => 0,
    }
}

/// Morphs, newest first; `earlier`: how many began before these.
pub fn morphs(all: &[Morph], earlier: u64) -> String {
    let Some(last) = all.last() else {
        return "no morphs yet\n".to_owned();
    };
    let row = |m: &Morph| {
        vec![
            m.id.to_string(),
            moment(m.began_at),
            m.plan.vm_name.to_string(),
            m.plan.goal.to_string(),
            m.state.word().to_owned(),
            m.reason.clone().unwrap_or_default(),
        ]
    };
    let heading = ["MORPH", "BEGAN (UTC)", "VM", "GOAL", "OUTCOME", "REASON"];
    let mut text = table(&heading, &all.iter().map(row).collect::<Vec<_>>());
    if earlier > 0 {
        text += &not_shown(earlier, "morph", &format!("proteus morph history --before {}", last.id));
    }
    text
}

/// Versions of a VM, oldest first.
pub fn versions(vm: &str, all: &[Version]) -> String {
    let row = |v: &Version| {
        let goal = v.goal.as_ref().map_or("as created".to_owned(), ToString::to_string);
        vec![v.number.to_string(), moment(v.at), goal, v.settings.len().to_string(), or_dash(v.morph)]
    };
    let heading = ["VERSION", "SINCE (UTC)", "BY", "MANAGED", "MORPH"];
    let mut text = table(&heading, &all.iter().map(row).collect::<Vec<_>>());
    // They are numbered from 0, without gaps.
    if let Some(first @ 1..) = all.first().map(|first| first.number) {
        text += &not_shown(first, "version", &format!("proteus morph history {vm} --before {first}"));
    }
    text
}

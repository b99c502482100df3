//! Answers as text. Every text form is made here from the same value that `--output json` prints.

use proteus_model::allocation::Capacity;
use proteus_model::capability::{Capability, CapabilityReport};
use proteus_model::execution::{Morph, State, Version};
use proteus_model::id::{HostName, VmName};
use proteus_model::plan::{Change, Plan, Undo};
use proteus_model::setting::Setting;
use proteus_model::unit::{Bytes, Millis, UnixMillis};
use proteus_model::verification::Comparison;
use proteus_model::vm::PowerState;
use proteus_protocol::api::v1::{
    AUDIT_ENTRIES_MAX, AllocationView, AuditView, DifferenceView, ExecView, HISTORY_MAX, HostView,
    ProfileView, RestoreView, ServiceView, SnapshotView, StopView, TokenView, UplinkView, VmView,
};
use proteus_protocol::guest::v1::request::EXEC_OUTPUT_BYTES_MAX;
use std::fmt::Write;

/// Rows under a heading, columns as wide as they must be.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            let pad = width.saturating_sub(cell.chars().count()) + 2;
            text.push_str(cell);
            text.push_str(&" ".repeat(pad));
        }
        text.trim_end().to_owned() + "\n"
    };
    let mut text = line(heading.to_vec());
    for row in rows {
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}

/// A value as people read it: three digits that tell something.
pub(crate) fn number(value: f32) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// The word for a state.
pub(crate) fn power_word(power: PowerState) -> &'static str {
    match power {
        PowerState::Stopped => "stopped",
        PowerState::Running => "running",
        PowerState::Paused => "paused",
        PowerState::Hung => "hung",
        PowerState::Unknown => "unknown",
    }
}

/// `2026-11-21 14:03:05` UTC (days to civil date: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
pub fn moment(at: UnixMillis) -> String {
    let seconds = at.0 / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// vCPUs and memory that a VM has, by what Proteus manages on it; what that does not say is as its owner asked.
pub(crate) fn present(vm: &VmView) -> (u32, Bytes) {
    let (mut vcpus, mut memory, mut plugged) = (vm.intent.vcpus, vm.intent.memory, Bytes::ZERO);
    for setting in &vm.managed {
        match setting {
            Setting::Vcpus { online } => vcpus = *online,
            Setting::Memory { target } => memory = *target,
            Setting::HotMemory { plugged: more } => plugged = *more,
            _ => {}
        }
    }
    (vcpus, memory.saturating_add(plugged))
}

/// All VMs.
pub fn vms(all: &[VmView]) -> String {
    if all.is_empty() {
        return "no VMs yet; `proteus vm create --help` says how to make one\n".to_owned();
    }
    let row = |vm: &VmView| {
        let (vcpus, memory) = present(vm);
        vec![
            vm.name.to_string(),
            if vm.template { "template" } else { power_word(vm.power) }.to_owned(),
            format!("{vcpus}/{}", vm.intent.vcpus_max),
            memory.to_string(),
            or_dash(vm.resident),
            or_dash(vm.address),
            or_dash(vm.profile.clone()),
            vm.version.to_string(),
            if vm.agent_silent_since.is_some() { "silent".to_owned() } else { or_dash(vm.agent.clone()) },
        ]
    };
    let heading = ["NAME", "POWER", "VCPUS", "MEMORY", "ON HOST", "ADDRESS", "PROFILE", "VERSION", "AGENT"];
    let mut text = table(&heading, &all.iter().map(row).collect::<Vec<_>>());
    for (name, problem) in all.iter().filter_map(|vm| Some((&vm.name, vm.problem.as_ref()?))) {
        let _ = writeln!(text, "\n{name}: {problem}");
    }
    for name in all.iter().filter(|vm| vm.disarmed).map(|vm| &vm.name) {
        let _ = writeln!(
            text,
            "\n{name} is disarmed: no morph of it goes forward; `proteus arm --vm {name}` arms it again"
        );
    }
    text
}

/// A VM that was deleted, or would be.
pub fn deleted(name: &VmName, dry_run: bool, not_given_back: &[String]) -> String {
    let mut text = format!("{} {name}\n", if dry_run { "would delete" } else { "deleted" });
    for what in not_given_back {
        let _ = writeln!(text, "not given back: {what}");
    }
    text
}

/// Where a VM is not as Proteus left it.
pub fn differences(vm: &str, all: &[DifferenceView]) -> String {
    if all.is_empty() {
        return format!("{vm} is as Proteus left it\n");
    }
    let row = |d: &DifferenceView| vec![d.knob.to_string(), d.recorded.to_string(), d.found.to_string()];
    table(&["SETTING", "AS PROTEUS LEFT IT", "AS IT IS"], &all.iter().map(row).collect::<Vec<_>>())
}

/// The same in a line.
fn drift(vm: &VmView, differences: &[DifferenceView]) -> Option<String> {
    let knobs: Vec<String> = differences.iter().map(|difference| difference.knob.to_string()).collect();
    let (are, it) = if knobs.len() == 1 { ("setting is", "it") } else { ("settings are", "them") };
    (!knobs.is_empty()).then(|| {
        let (count, knobs) = (knobs.len(), knobs.join(", "));
        format!(
            "{count} {are} not as Proteus left {it}: {knobs}; `proteus vm differences {}` shows how",
            vm.name
        )
    })
}

/// A VM that was stopped: how long its guest had, and why it was ended.
pub fn stopped(vm: &str, view: &StopView) -> String {
    // To a tenth of a second.
    let waited = Millis(view.waited_ms.0 / 100 * 100);
    let ended = match waited {
        Millis(0) => format!("{vm} was ended at once"),
        _ if view.answered => format!("{vm} did not go within {waited} and was ended"),
        _ => format!("{vm} was ended after {waited}"),
    };
    match (view.by_itself, view.answered) {
        (true, _) => format!("{vm} stopped\n"),
        (false, true) => ended + "\n",
        (false, false) => ended + ": its VMM did not answer\n",
    }
}

/// One VM.
pub fn vm(
    vm: &VmView,
    report: Option<&CapabilityReport>,
    services: &[ServiceView],
    differences: &[DifferenceView],
) -> String {
    let mut text = vms(std::slice::from_ref(vm));
    if let Some(why) = &vm.halted {
        let _ = writeln!(
            text,
            "\nit stands still: {why}\nmend that, then `proteus vm start {}` lets it go on",
            vm.name
        );
    }
    if vm.power == PowerState::Running && vm.agent.is_none() {
        let _ = match vm.agent_silent_since {
            Some(at) => {
                writeln!(text, "\nits agent does not answer; it was heard last at {} UTC", moment(at))
            }
            None => writeln!(text, "\nno agent answers, and none did since the VM or Proteus started"),
        };
    }
    if !services.is_empty() {
        text.push_str("\nservices\n");
        for service in services {
            let _ = writeln!(text, "  {}: {}", service.name, service.state);
            for note in &service.notes {
                let _ = writeln!(text, "    {note}");
            }
        }
    }
    if !vm.managed.is_empty() {
        text.push_str("\nmanaged by Proteus\n");
        for setting in &vm.managed {
            let _ = writeln!(text, "  {}: {setting}", setting.knob());
        }
    }
    if let Some(drift) = drift(vm, differences) {
        let _ = writeln!(text, "\n{drift}");
    }
    if let Some(report) = report {
        let _ = writeln!(text, "\ncan be done live ({}, {})", report.driver, report.accelerator);
        let mut lacking = String::new();
        for (word, capability) in &report.abilities {
            let _ = match capability {
                Capability::Supported { mechanism, blackout_ms_max } if blackout_ms_max.0 > 0 => {
                    writeln!(text, "  {word}: {mechanism}, pause up to {blackout_ms_max}")
                }
                Capability::Supported { mechanism, .. } => writeln!(text, "  {word}: {mechanism}"),
                Capability::Unsupported { why } => writeln!(lacking, "  {word}: {why}"),
            };
        }
        if !lacking.is_empty() {
            let _ = write!(text, "\ncannot be done, here and now\n{lacking}");
        }
    }
    text
}

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

/// That output of a program is not whole. Its exit code stays the program's: that one ended as it says.
pub fn cut(view: &ExecView) -> Option<String> {
    view.truncated.then(|| {
        format!(
            "cut: of standard output and of standard error only the first {} each are kept; for more, let the program \
             write to a file inside",
            Bytes(EXEC_OUTPUT_BYTES_MAX.into())
        )
    })
}

/// Snapshots of a VM, oldest first.
pub fn snapshots(vm: &str, all: &[SnapshotView]) -> String {
    if all.is_empty() {
        return format!("{vm} has no snapshots; `proteus vm snapshot create {vm}` takes one\n");
    }
    let row = |s: &SnapshotView| {
        let by = s.morph.map_or_else(|| or_dash(s.actor.clone()), |morph| format!("morph {morph}"));
        let version = or_dash(s.version);
        vec![s.name.to_string(), moment(s.at), s.ram.to_string(), version, or_dash(s.profile.clone()), by]
    };
    let heading = ["SNAPSHOT", "TAKEN (UTC)", "RAM", "VERSION", "PROFILE", "BY"];
    table(&heading, &all.iter().map(row).collect::<Vec<_>>())
}

/// What going back to a snapshot loses.
pub fn restore_loses(vm: &VmView, snapshot: &SnapshotView) -> String {
    let (name, at) = (&vm.name, moment(snapshot.at));
    let mut text = format!(
        "{name} goes back to {at} UTC ({}). Lost: all that was written to its disks and its memory since, answers \
         that\nclients were given included; every open connection. Its clock goes on from then until it is set.\n",
        snapshot.name
    );
    match snapshot.version {
        Some(then) if then != vm.version => {
            let _ = writeln!(
                text,
                "Its record stays at version {} (it was {then} then): the {} managed settings are turned to it again.",
                vm.version,
                vm.managed.len()
            );
        }
        _ => {}
    }
    text
}

/// A VM that went back.
pub fn restored(vm: &str, name: &str, view: &RestoreView) -> String {
    let mut text = format!("{vm} runs as of {name} (blackout {}); ", view.blackout_ms);
    let _ = match view.failed.as_slice() {
        [] => writeln!(text, "{} managed settings are as recorded", view.settings),
        failed => writeln!(text, "settings that are not as recorded:\n  {}", failed.join("\n  ")),
    };
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

/// That not all is shown.
fn not_shown(earlier: u64, what: &str, more: &str) -> String {
    let are = if earlier == 1 { format!("{what} is") } else { format!("{what}s are") };
    format!(
        "\n{earlier} earlier {are} not shown; `{more}` goes on with them, --limit takes up to {HISTORY_MAX} at once\n"
    )
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

/// Profiles.
pub fn profiles(all: &[ProfileView]) -> String {
    let row = |p: &ProfileView| {
        let signed = if p.signed { "yes" } else { "no" };
        vec![p.label.clone(), p.origin.clone(), signed.to_owned(), p.summary.clone().unwrap_or_default()]
    };
    table(&["PROFILE", "FROM", "SIGNED", "SUMMARY"], &all.iter().map(row).collect::<Vec<_>>())
}

/// Tokens.
pub fn tokens(all: &[TokenView]) -> String {
    let row =
        |t: &TokenView| vec![t.name.clone(), format!("{:?}", t.role).to_lowercase(), moment(t.created_at)];
    table(&["TOKEN", "ROLE", "CREATED (UTC)"], &all.iter().map(row).collect::<Vec<_>>())
}

/// The host.
pub fn host(host: &HostView) -> String {
    let mut text = String::new();
    let available = or_dash(host.memory_available);
    let _ =
        writeln!(text, "{}: {} CPUs, {} memory ({available} available)", host.name, host.cpus, host.memory);
    let _ = writeln!(
        text,
        "guests run on {} ({}), QEMU {}",
        host.accelerator, host.accelerator_why, host.hypervisor
    );
    if let Some(namespace) = &host.namespace {
        let _ = writeln!(text, "guests' network: namespace {namespace} (ip netns exec {namespace} ...)");
    }
    if let Some(actor) = &host.disarmed_by {
        let _ = writeln!(text, "DISARMED by {actor}: no morph begins; `proteus arm` ends that");
    }
    text
}

/// Who has what.
pub fn allocation(view: &AllocationView) -> String {
    let all = &view.table;
    let host_row = |(host, capacity): (&HostName, &Capacity)| {
        let (whole, free) = (capacity.shareable(), view.free.get(host).copied().unwrap_or_default());
        let (cpu, memory) = (whole.cpu.to_string(), whole.memory.to_string());
        vec![host.to_string(), cpu, free.cpu.to_string(), memory, free.memory.to_string()]
    };
    let mut rows = Vec::new();
    for (vm, allocation) in all.vms() {
        let name = view.names.get(vm).map_or_else(|| vm.to_string(), ToString::to_string);
        let held = all.reservations().iter().find(|(_, reservation)| reservation.vm == *vm);
        for (host, has) in &allocation.slices {
            let after = held.and_then(|(morph, r)| Some((morph, r.after.get(host)?)));
            let after = after.map(|(morph, after)| format!("{}, {} by {morph}", after.cpu, after.memory));
            let (cpu, memory) = (has.cpu.to_string(), has.memory.to_string());
            rows.push(vec![name.clone(), host.to_string(), cpu, memory, or_dash(after)]);
        }
    }
    rows.sort();
    let hosts: Vec<_> = all.hosts().iter().map(host_row).collect();
    let mut text = String::new();
    if !hosts.is_empty() {
        text += &table(&["HOST", "CPU TO SHARE", "FREE", "MEMORY TO SHARE", "FREE"], &hosts);
        text.push('\n');
    }
    match rows.as_slice() {
        [] => text.push_str("no VM has a share; it gets one when it starts\n"),
        rows => text += &table(&["VM", "HOST", "CPU", "MEMORY", "RESERVED"], rows),
    }
    text
}

/// The guests' way out.
pub fn uplink(view: &UplinkView) -> String {
    let Some(up) = &view.uplink else {
        return match view.wanted {
            true => "guests reach nothing outside, though that is wanted; the log of Proteus says why, and \
                     `proteus host uplink enable` tries again\n"
                .to_owned(),
            false => "guests reach nothing outside; `proteus host uplink enable` lets them\n".to_owned(),
        };
    };
    let list = |all: Vec<String>, none: &str| if all.is_empty() { none.to_owned() } else { all.join(", ") };
    let dns = list(up.dns.iter().map(ToString::to_string).collect(), "none: give --dns ADDRESS");
    let allow = list(up.allow.iter().map(ToString::to_string).collect(), "none");
    let forwards = if up.made_forward { "only since and for this" } else { "already before" };
    format!(
        "guests reach the outside over {}\n  link             {} ({}, guests are {})\n  name servers     {dns}\n  \
         private networks {allow}\n  {} forwards {forwards}\n",
        up.interface, up.link, up.host_address, up.guest_address, up.interface
    )
}

/// What would be taken away with the guests' way out.
pub fn uplink_end(view: &UplinkView) -> String {
    let Some(up) = &view.uplink else {
        return match view.wanted {
            true => "guests reach nothing outside already; would no longer try to let them\n".to_owned(),
            false => "guests reach nothing outside; nothing to take away\n".to_owned(),
        };
    };
    let (link, interface) = (&up.link, &up.interface);
    let forwards = if up.made_forward { "would stop forwarding" } else { "would forward on, as before" };
    format!(
        "guests would reach nothing outside\n  link             {link}, would be removed with its rules\n  \
         {interface} {forwards}\n"
    )
}

/// Longest evidence of an entry in the text form, in letters: a line beside what else there is; JSON has all of it.
const EVIDENCE_SHOWN: usize = 120;

/// What an entry of the audit log is known from, in a line; `None`: from nothing.
fn evidence(entry: &serde_json::Value) -> Option<String> {
    let fields = entry["evidence"].as_object().filter(|fields| !fields.is_empty())?;
    // As JSON, so that no word of it can be a control character.
    let words =
        fields.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| format!("{name}={value}"));
    let line = words.collect::<Vec<_>>().join(" ");
    Some(match line.char_indices().nth(EVIDENCE_SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    })
}

/// The audit log.
pub fn audit(view: &AuditView) -> String {
    let row = |entry: &serde_json::Value| {
        let word = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        let at = UnixMillis(entry["at"].as_u64().unwrap_or(0));
        let hash = word("hash").chars().take(12).collect();
        vec![
            entry["seq"].to_string(),
            moment(at),
            word("actor"),
            word("action"),
            word("subject"),
            word("why"),
            hash,
        ]
    };
    let heading = ["SEQ", "WHEN (UTC)", "WHO", "WHAT", "OF", "WHY", "HASH"];
    let rows = table(&heading, &view.entries.iter().map(row).collect::<Vec<_>>());
    let mut lines = rows.lines();
    let mut text = lines.next().unwrap_or_default().to_owned() + "\n";
    for (line, entry) in lines.zip(&view.entries) {
        let _ = writeln!(text, "{line}");
        if let Some(evidence) = evidence(entry).filter(|evidence| !evidence.is_empty()) {
            let _ = writeln!(text, "     {evidence}");
        }
    }
    if let (1.., Some(first)) = (view.earlier, view.entries.first()) {
        let (earlier, first) = (view.earlier, &first["seq"]);
        let are = if earlier == 1 { "entry is" } else { "entries are" };
        let _ = writeln!(
            text,
            "\n{earlier} earlier {are} not shown; `proteus audit --before {first}` goes on with them, --limit takes up to \
             {AUDIT_ENTRIES_MAX} at once"
        );
    }
    let _ = match &view.broken {
        None => writeln!(text, "\nthe chain of hashes holds"),
        Some(broken) => writeln!(text, "\nTHE CHAIN IS BROKEN: {broken}"),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proteus_model::allocation::{Amount, Bounds, Reservation};
    use proteus_model::capability::Ability;
    use proteus_model::id::{Generation, MorphId, VmId};
    use proteus_model::plan::Goal;
    use proteus_model::setting::{KnobKind, Weight};
    use proteus_model::unit::{Bytes, MilliCpu, Millis, Permille};
    use proteus_model::vm::{Boot, VmIntent};

    /// A VM that runs, of 256 MiB and a vCPU at its beginning.
    fn view(more: serde_json::Value) -> VmView {
        let intent = VmIntent::new("web".parse().unwrap(), Boot::Firmware, Bytes::mib(256));
        let mut whole = serde_json::json!({
            "id": VmId::from_bits(1), "name": "web", "power": "running", "version": 0, "disarmed": false,
            "intent": intent, "managed": [],
        });
        whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn a_vm_is_as_large_as_it_is_now() {
        let row = |managed: &[Setting]| vms(&[view(serde_json::json!({ "managed": managed }))]);
        assert!(row(&[]).contains("running  1/1    256 MiB  "), "{}", row(&[]));
        let smaller = Setting::Memory { target: Bytes::mib(192) };
        assert!(row(std::slice::from_ref(&smaller)).contains("  192 MiB  "));
        let larger =
            [smaller, Setting::HotMemory { plugged: Bytes::mib(1024) }, Setting::Vcpus { online: 3 }];
        assert!(row(&larger).contains("  3/1    1.2 GiB  "), "{}", row(&larger));
    }

    #[test]
    fn a_vm_that_is_disarmed_is_shown_to_be() {
        let said = "\nweb is disarmed: no morph of it goes forward; `proteus arm --vm web` arms it again\n";
        let disarmed = view(serde_json::json!({ "disarmed": true }));
        assert!(vms(std::slice::from_ref(&disarmed)).contains(said));
        assert!(vm(&disarmed, None, &[], &[]).contains(said));
        assert!(!vms(&[view(serde_json::json!({}))]).contains("disarmed"));
    }

    #[test]
    fn what_somebody_else_changed_is_shown_of_a_vm() {
        let weight = |weight| Setting::CpuWeight { weight: Weight(weight) };
        let view = view(serde_json::json!({ "managed": [weight(200)] }));
        let (recorded, found) = (weight(200), weight(777));
        let one = DifferenceView { knob: recorded.knob(), recorded, found };
        let told = vm(&view, None, &[], std::slice::from_ref(&one));
        let line =
            "\n1 setting is not as Proteus left it: cpu weight; `proteus vm differences web` shows how\n";
        assert!(told.ends_with(line), "{told}");
        assert!(!vm(&view, None, &[], &[]).contains("Proteus left it"));
        assert_eq!(
            differences("web", &[one]),
            "SETTING     AS PROTEUS LEFT IT  AS IT IS\ncpu weight  200                 777\n"
        );
        assert_eq!(differences("web", &[]), "web is as Proteus left it\n");
    }

    #[test]
    fn output_that_was_cut_is_said_to_be() {
        let view = |truncated| ExecView {
            exit_code: Some(0),
            signal: None,
            timed_out: false,
            stdout: String::new(),
            stderr: String::new(),
            truncated,
        };
        assert_eq!(cut(&view(false)), None);
        assert!(cut(&view(true)).unwrap().contains("only the first 64 KiB each"));
    }

    #[test]
    fn moments_are_civil_dates() {
        assert_eq!(moment(UnixMillis(0)), "1970-01-01 00:00:00");
        assert_eq!(moment(UnixMillis(951_782_400_000)), "2000-02-29 00:00:00");
        assert_eq!(moment(UnixMillis(1_795_269_785_000)), "2026-11-21 14:03:05");
    }

    #[test]
    fn an_agent_that_does_not_answer_is_not_shown_as_if_it_did() {
        let view = |agent: serde_json::Value, silent: serde_json::Value| {
            view(serde_json::json!({ "agent": agent, "agent_silent_since": silent }))
        };
        let told = |agent, silent| vm(&view(agent, silent), None, &[], &[]);
        assert!(told("0.1.0".into(), ().into()).ends_with("  0.1.0\n"));
        let silent = told(().into(), 1_795_269_785_000_u64.into());
        let said = "  silent\n\nits agent does not answer; it was heard last at 2026-11-21 14:03:05 UTC\n";
        assert!(silent.ends_with(said), "{silent}");
        assert!(told(().into(), ().into()).contains("no agent answers"));
    }

    #[test]
    fn what_cannot_be_done_is_not_under_what_can() {
        let mut report = CapabilityReport {
            driver: "qemu".into(),
            accelerator: "kvm".into(),
            ..CapabilityReport::default()
        };
        report.lacks(Ability::Knob(KnobKind::Thp), "the guest's agent does not answer");
        report.supports(Ability::Knob(KnobKind::Memory), "virtio-balloon", Millis(0));
        report.supports(Ability::ReplaceVmm, "shared memory file", Millis(500));
        let told = vm(&view(serde_json::json!({})), Some(&report), &[], &[]);
        let end = "\ncan be done live (qemu, kvm)\n  memory: virtio-balloon\n  replace_vmm: shared memory file, \
                   pause up to 500 ms\n\ncannot be done, here and now\n  thp: the guest's agent does not answer\n";
        assert!(told.ends_with(end), "{told}");
    }

    #[test]
    fn who_has_what_is_a_table() {
        let mut view = AllocationView { table: Default::default(), free: [].into(), names: [].into() };
        assert_eq!(allocation(&view), "no VM has a share; it gets one when it starts\n");
        let (host, vm): (HostName, _) = ("box".parse().unwrap(), VmId::from_bits(1));
        let amount = |cpu, mib| Amount::new(MilliCpu(cpu), Bytes::mib(mib));
        let capacity =
            Capacity { cpu: MilliCpu(2000), cpu_overcommit: Permille(4000), memory: Bytes::mib(2048) };
        view.table.set_host(host.clone(), capacity).unwrap();
        view.table.admit(vm, host.clone(), amount(1000, 256), Bounds::NONE).unwrap();
        let after = [(host.clone(), amount(1500, 384))].into();
        let morph = MorphId::from_bits(2);
        view.table.reserve(morph, Reservation { vm, generation: Generation(1), after }).unwrap();
        view.names = [(vm, "web".parse().unwrap())].into();
        view.free = [(host.clone(), view.table.free(&host).unwrap())].into();
        assert_eq!(
            allocation(&view),
            format!(
                "HOST  CPU TO SHARE  FREE      MEMORY TO SHARE  FREE\n\
                 box   8 CPU         6.50 CPU  2 GiB            1.6 GiB\n\n\
                 VM   HOST  CPU    MEMORY   RESERVED\n\
                 web  box   1 CPU  256 MiB  1.50 CPU, 384 MiB by {morph}\n"
            )
        );
    }

    #[test]
    fn a_plan_says_what_becomes_of_what_is_not_supported() {
        let shown: Plan = serde_json::from_value(serde_json::json!({
            "vm": VmId::from_bits(1), "vm_name": "web", "goal": Goal::Version { number: 0, profile: None }, "base_version": 0,
            "base_generation": 0, "steps": [], "already": [], "notes": [], "verify": null,
            "unsupported": [{"field": "knobs.thp", "why": "no such file"}],
        }))
        .unwrap();
        let refused = plan(&shown, false);
        assert!(
            refused.contains("`morph apply` refuses this; `--skip-unsupported` leaves it out"),
            "{refused}"
        );
        let skipped = plan(&shown, true);
        assert!(skipped.contains("and left out:\n  knobs.thp: no such file\n"), "{skipped}");
        assert!(!skipped.contains("refuses"), "{skipped}");
    }

    /// A morph of a VM at version 3, and what is known of it besides.
    fn ended(verify: serde_json::Value, more: serde_json::Value) -> String {
        let mut whole = serde_json::json!({
            "id": MorphId::from_bits(2), "generation": 1, "actor": "root", "began_at": 0, "ended_at": 1, "before": [],
            "baseline": null, "steps": [], "verification": null, "left_alone": [], "reason": null, "undo_ms": null,
            "plan": {
                "vm": VmId::from_bits(1), "vm_name": "web", "goal": Goal::Version { number: 1, profile: None },
                "base_version": 3, "base_generation": 0, "steps": [], "already": [], "notes": [], "unsupported": [],
                "verify": verify,
            },
        });
        whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        morph(&serde_json::from_value(whole).unwrap())
    }

    #[test]
    fn a_parked_morph_says_what_can_be_done_next() {
        let of = |state: State| ended(().into(), serde_json::to_value(state).unwrap());
        let (parked, id) = (of(State::Parked), MorphId::from_bits(2));
        assert!(parked.contains(&format!("`proteus morph status {id}`")), "{parked}");
        assert!(parked.contains("`proteus morph rollback web --to 3`"), "{parked}");
        assert!(!of(State::Committed).contains("rollback"));
    }

    #[test]
    fn what_nothing_was_judged_by_is_not_called_verified() {
        let of = |verify, passed, unhealthy: &[&str]| {
            let mut more = serde_json::to_value(State::Committed).unwrap();
            more["verification"] =
                serde_json::json!({ "passed": passed, "unhealthy": unhealthy, "comparisons": [] });
            ended(verify, more)
        };
        let bare = of(().into(), true, &[]);
        assert!(bare.contains("nothing to verify") && !bare.contains("passed"), "{bare}");
        let check: proteus_model::profile::promise::Verify =
            serde_json::from_value(serde_json::json!({ "health": [{ "tcp": { "port": 80 } }] })).unwrap();
        let check = serde_json::to_value(check).unwrap();
        assert!(of(check.clone(), true, &[]).contains("verification passed"));
        assert!(of(check, false, &["tcp 80"]).contains("verification failed"));
    }

    #[test]
    fn what_is_compared_has_units() {
        let told = |measure: &str, before, after, limit| {
            let why = "within the limit".to_owned();
            let (measure, noise, limit) = (measure.to_owned(), None, Some(limit));
            comparison(&Comparison { measure, before, noise, after, limit, harm: false, why })
        };
        assert_eq!(
            told("throttled", None, Some(123.4), 600.0),
            "throttled: - before, 12.3 % after, limit 60.0 %: within the limit"
        );
        assert_eq!(
            told("probe_latency", Some(1_500.0), Some(20_049.0), 500_000.0),
            "probe_latency: 1.5 ms before, 20.0 ms after, limit 500.0 ms: within the limit"
        );
    }

    #[test]
    fn a_history_says_how_much_of_it_is_not_shown() {
        let version = |number| Version {
            number,
            goal: None,
            morph: None,
            at: UnixMillis(0),
            profile: None,
            settings: Vec::new(),
        };
        let all = versions("web", &[version(0), version(1)]);
        assert!(!all.contains("not shown"), "{all}");
        let end = versions("web", &[version(7), version(8)]);
        let said = "\n7 earlier versions are not shown; `proteus morph history web --before 7` goes on with them, \
                    --limit takes up to 1000 at once\n";
        assert!(end.ends_with(said), "{end}");
    }

    #[test]
    fn an_audit_entry_has_its_evidence_in_a_line() {
        let entry = |seq: u64, evidence: serde_json::Value| {
            serde_json::json!({ "seq": seq, "at": 0, "actor": "root", "action": "vm.exec", "subject": "vm/web",
                "why": "asked for", "hash": "ab", "evidence": evidence })
        };
        let of = |evidence| {
            let entries = vec![entry(1, ().into()), entry(2, evidence)];
            audit(&AuditView { entries, earlier: 0, intact: true, broken: None })
        };
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let plain = lines(&of(serde_json::json!({})));
        assert_eq!(plain.len(), 5, "{plain:?}");
        let some = of(
            serde_json::json!({ "argv": ["/bin/sh", "a\nb\u{1b}"], "service": null, "timeout_ms": 60000 }),
        );
        let some = lines(&some);
        assert_eq!(some[..3], plain[..3]);
        assert_eq!(some[3], r#"     argv=["/bin/sh","a\nb\u001b"] timeout_ms=60000"#);
        let long = lines(&of(serde_json::json!({ "argv": ["ü".repeat(500)] })));
        assert!(long[3].ends_with('…') && long[3].chars().count() == 5 + EVIDENCE_SHOWN + 1, "{}", long[3]);
    }

    #[test]
    fn tables_are_as_wide_as_they_must_be() {
        let rows = vec![vec!["a".to_owned(), "bcd".to_owned()]];
        assert_eq!(table(&["LONG", "X"], &rows), "LONG  X\na     bcd\n");
    }

    #[test]
    fn a_stop_says_how_long_was_waited_and_why() {
        let told = |by_itself, answered, waited| {
            stopped("web", &StopView { by_itself, answered, waited_ms: Millis(waited) })
        };
        assert_eq!(told(true, true, 900), "web stopped\n");
        assert_eq!(told(false, true, 2012), "web did not go within 2 s and was ended\n");
        assert_eq!(told(false, false, 60_030), "web was ended after 1 min: its VMM did not answer\n");
        assert_eq!(told(false, true, 3), "web was ended at once\n");
        assert_eq!(told(false, false, 0), "web was ended at once: its VMM did not answer\n");
    }
}

//! Answers as text. Every text form is made here from the same value that `--output json` prints.

mod change;

pub(crate) use change::{comparison, verdict};
pub use change::{morph, morph_exit, morphs, plan, versions};

use proteus_model::allocation::Capacity;
use proteus_model::capability::{Capability, CapabilityReport};
use proteus_model::id::{HostName, VmName};
use proteus_model::setting::Setting;
use proteus_model::unit::{Bytes, Millis, UnixMillis};
use proteus_model::vm::PowerState;
use proteus_protocol::api::v1::{
    AUDIT_ENTRIES_MAX, AllocationView, AuditView, DifferenceView, ExecView, HISTORY_MAX, HostView,
    ProfileView, RestoreView, ServiceView, SnapshotView, StopView, TokenView, UplinkView, VmView,
};
use proteus_protocol::guest::v1::request::EXEC_OUTPUT_BYTES_MAX;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

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

/// What this machine's clock says.
pub(crate) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
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

/// That not all is shown.
fn not_shown(earlier: u64, what: &str, more: &str) -> String {
    let are = if earlier == 1 { format!("{what} is") } else { format!("{what}s are") };
    format!(
        "\n{earlier} earlier {are} not shown; `{more}` goes on with them, --limit takes up to {HISTORY_MAX} at once\n"
    )
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
mod tests;

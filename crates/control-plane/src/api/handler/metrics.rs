//! `/metrics`: what Prometheus reads, in its text format. Must never show what could not be read: missing is not zero.

use super::Shared;
use crate::api::refusal::Refusal;
use crate::look::Glance;
use crate::personality::LatelySeen;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use proteus_model::personality::{Label, Trait};
use proteus_model::telemetry::{CollectorState, Findings, Found, LATENCY_BOUNDS_US, Latencies, Metric};
use proteus_model::vm::{GroupCounters, PowerState};
use proteus_protocol::node::v1::{Measurement, NodeErrorCode, UsageObserved};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// A family: name, type, help.
type Family = (&'static str, &'static str, &'static str);

/// Most rows of a VM whose names its guest chooses: of logs, of what applications tell, and of libraries' classes.
const LOGS_MAX: usize = 16;
const APPLICATION_ROWS_MAX: usize = 200;
const LIBRARIES_MAX: usize = 24;
/// Most peers of a VM that are shown, those with whom the most was begun: anybody may speak to a VM.
const FLOWS_MAX: usize = 8;
/// Most graphics processors of a VM.
const GPUS_MAX: usize = 16;

/// Seconds in a nanosecond and in a microsecond.
const NS: f64 = 1e-9;
const US: f64 = 1e-6;
/// Bytes in a KiB and in a MiB.
const KIB: f64 = 1024.0;
const MIB: f64 = 1_048_576.0;

const RUNNING: Family = ("proteus_vm_running", "gauge", "Whether the VM runs.");
const ANSWERING: Family =
    ("proteus_vm_answering", "gauge", "Whether the VM's process says how the VM is; 0: it hangs.");
const RESIDENT: Family = ("proteus_vm_resident_bytes", "gauge", "Host memory of the guest.");
const CPU: Family = ("proteus_vm_cpu_seconds_total", "counter", "CPU time of the vCPUs.");
const VMM_CPU: Family =
    ("proteus_vm_process_cpu_seconds_total", "counter", "CPU time of the VM's process, vCPUs and all.");
const RUN_DELAY: Family = ("proteus_vm_run_delay_seconds_total", "counter", "Runnable and not running.");
const THROTTLED: Family = ("proteus_vm_throttled_seconds_total", "counter", "Held back by the CPU cap.");
const NET_BYTES: Family = (
    "proteus_vm_network_bytes_total",
    "counter",
    "Carried by the VM's link; direction as the guest sees it.",
);
const NET_PACKETS: Family = (
    "proteus_vm_network_packets_total",
    "counter",
    "Packets on the VM's link; direction as the guest sees it.",
);
const DISK_BYTES: Family =
    ("proteus_vm_disk_bytes_total", "counter", "Read from and written to the VM's disks.");
const DISK_OPERATIONS: Family =
    ("proteus_vm_disk_operations_total", "counter", "Operations done on the VM's disks.");
const DISK_SECONDS: Family = (
    "proteus_vm_disk_seconds_total",
    "counter",
    "Time that operations on the VM's disks took, each for itself.",
);
const INSTRUCTIONS: Family = (
    "proteus_vm_instructions_total",
    "counter",
    "Instructions that the vCPUs carried out, where the host's processor counts them.",
);
const CYCLES: Family = (
    "proteus_vm_cycles_total",
    "counter",
    "Cycles in which the vCPUs were at work, where the host's processor counts them.",
);
const CACHE_MISSES: Family = (
    "proteus_vm_cache_misses_total",
    "counter",
    "Accesses of the vCPUs that missed the last cache, where the host's processor counts them.",
);
const DIRTY: Family = (
    "proteus_vm_dirty_bytes_per_second",
    "gauge",
    "Memory whose content changed within a second, by a sample of pages once a minute.",
);
const AVAILABLE: Family =
    ("proteus_vm_guest_available_bytes", "gauge", "What the guest says it could hand out.");
const STALLED: Family =
    ("proteus_vm_guest_stalled_seconds_total", "counter", "Time in which something in the guest waited.");
const HOST_STALLED: Family = (
    "proteus_vm_host_stalled_seconds_total",
    "counter",
    "Time in which something of the VM's process waited for the host (its cgroup's pressure, v2 only).",
);
const FAULTS: Family =
    ("proteus_vm_sample_faults_total", "counter", "Samples of the VM that were left out, by what was wrong.");
const DISAGREEMENT: Family = (
    "proteus_vm_guest_disagreement_ratio",
    "gauge",
    "How far the guest's count of its CPU time, steal time, disks or links is from the host's.",
);
const LABEL: Family = ("proteus_vm_label", "gauge", "1 for the label that the VM bears, as `database`.");
const CHANGES: Family =
    ("proteus_vm_personality_changes_total", "counter", "Shifts and anomalies of the VM that were told.");
const AGENT_CPU: Family =
    ("proteus_vm_agent_cpu_ratio", "gauge", "CPU time of the agent and its collectors as a share of a core.");
const AGENT_RESIDENT: Family =
    ("proteus_vm_agent_resident_bytes", "gauge", "Memory of the agent and its collectors.");
const COLLECTOR_CPU: Family =
    ("proteus_vm_collector_cpu_seconds_total", "counter", "CPU time of a collector inside the VM.");
const COLLECTOR_SHED: Family =
    ("proteus_vm_collector_shed", "gauge", "Whether a collector is left out, to keep within the budget.");
const TCP: Family = ("proteus_vm_tcp_connections", "gauge", "Established TCP connections.");
const ROUND_TRIP: Family =
    ("proteus_vm_tcp_round_trip_seconds", "gauge", "Round-trip times of TCP connections to other machines.");
const CALLS: Family =
    ("proteus_vm_system_calls_per_second", "gauge", "System calls of all programs, by class.");
const LIBRARY_CALLS: Family = (
    "proteus_vm_library_calls_per_second",
    "gauge",
    "Calls of libraries by all programs, by library and class.",
);
const LOG_LINES: Family = ("proteus_vm_log_lines_per_second", "gauge", "Lines that a service logs.");
const LOG_ERRORS: Family =
    ("proteus_vm_log_errors_per_second", "gauge", "Lines that a service logs and that speak of an error.");
const APPLICATION: Family = (
    "proteus_vm_application",
    "gauge",
    "What applications tell of themselves: levels as they are, what they count per second.",
);
const LATENCY: Family = (
    "proteus_vm_disk_latency_seconds",
    "histogram",
    "How long operations on the VM's disks took, from some seconds after each disk was plugged; without a sum.",
);
const GROUP_MEMORY: Family = (
    "proteus_vm_cgroup_memory_bytes",
    "gauge",
    "Host memory charged to the VM's process (its cgroup, v2 only).",
);
const GROUP_ANONYMOUS: Family = (
    "proteus_vm_cgroup_anonymous_bytes",
    "gauge",
    "Of the memory charged to the VM's process what is of no file (v2 only).",
);
const GROUP_FILE: Family = (
    "proteus_vm_cgroup_file_bytes",
    "gauge",
    "Of the memory charged to the VM's process pages of files, the guest's memory among them (v2 only).",
);
const OOM_KILLS: Family = (
    "proteus_vm_cgroup_oom_kills_total",
    "counter",
    "Processes of the VM that the host killed for lack of memory (v2 only).",
);
const GROUP_IO_BYTES: Family = (
    "proteus_vm_cgroup_io_bytes_total",
    "counter",
    "Read from and written to the host's block devices by the VM's process (v2 only).",
);
const GROUP_IO: Family = (
    "proteus_vm_cgroup_io_operations_total",
    "counter",
    "Operations of the VM's process on the host's block devices (v2 only).",
);
const GUEST_USED: Family = (
    "proteus_vm_guest_used_bytes",
    "gauge",
    "Memory that the guest says is in use: all but what is available.",
);
const SWITCHES: Family =
    ("proteus_vm_guest_context_switches_per_second", "gauge", "Context switches in the guest, by its word.");
const FORKS: Family = ("proteus_vm_guest_forks_per_second", "gauge", "Tasks made in the guest, by its word.");
const GPU: Family =
    ("proteus_vm_gpu_busy_ratio", "gauge", "How busy a graphics processor in the guest is, by its word.");
const FILES: Family =
    ("proteus_vm_files_bytes", "gauge", "What files in the guest take on its disks, by kind, by its word.");
const SENSITIVE: Family = (
    "proteus_vm_sensitive_files",
    "gauge",
    "Files in the guest that seem to hold what is sensitive, by class: by their names of all, by content of a sample.",
);
const TRAIT: Family = (
    "proteus_vm_trait",
    "gauge",
    "The VM's trait vector of the last minute, each in its own unit; see the docs.",
);
const TRAIT_VALID: Family = (
    "proteus_vm_trait_valid",
    "gauge",
    "Whether a trait could be told of the last minute; 0: it is missing, which is not zero.",
);
const FLOW: Family = (
    "proteus_vm_flow_begun",
    "gauge",
    "Connections (tcp) or packets (udp) begun with those peers with whom the most were, of about the last ten minutes.",
);
const FLOWS_FULL: Family = (
    "proteus_vm_flows_full",
    "gauge",
    "Whether there were more peers than are counted at one time, so that some are missing.",
);
const MORPHS: Family = ("proteus_morphs", "gauge", "Morphs by state.");
const STUCK: Family = ("proteus_morphs_stuck", "gauge", "Morphs that cannot go on now.");

/// All of them, in the order in which they are shown.
const FAMILIES: [Family; 53] = [
    RUNNING,
    ANSWERING,
    RESIDENT,
    CPU,
    VMM_CPU,
    RUN_DELAY,
    THROTTLED,
    NET_BYTES,
    NET_PACKETS,
    DISK_BYTES,
    DISK_OPERATIONS,
    DISK_SECONDS,
    INSTRUCTIONS,
    CYCLES,
    CACHE_MISSES,
    DIRTY,
    AVAILABLE,
    STALLED,
    HOST_STALLED,
    FAULTS,
    DISAGREEMENT,
    LABEL,
    CHANGES,
    AGENT_CPU,
    AGENT_RESIDENT,
    COLLECTOR_CPU,
    COLLECTOR_SHED,
    TCP,
    ROUND_TRIP,
    CALLS,
    LIBRARY_CALLS,
    LOG_LINES,
    LOG_ERRORS,
    APPLICATION,
    LATENCY,
    GROUP_MEMORY,
    GROUP_ANONYMOUS,
    GROUP_FILE,
    OOM_KILLS,
    GROUP_IO_BYTES,
    GROUP_IO,
    GUEST_USED,
    SWITCHES,
    FORKS,
    GPU,
    FILES,
    SENSITIVE,
    TRAIT,
    TRAIT_VALID,
    FLOW,
    FLOWS_FULL,
    MORPHS,
    STUCK,
];

/// A word as the value of a label. Names of VMs, faults and states are letters, digits, `-` and `_`; what a guest says
/// may be anything.
fn escaped(word: &str) -> String {
    word.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Rows by family.
#[derive(Default)]
struct Page(BTreeMap<&'static str, Vec<String>>);

impl Page {
    fn put(&mut self, family: Family, labels: &[(&str, &str)], value: Option<f64>) {
        let Some(value) = value else { return };
        let labels: Vec<String> =
            labels.iter().map(|(name, word)| format!("{name}=\"{}\"", escaped(word))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        self.0.entry(family.0).or_default().push(format!("{}{labels} {value}", family.0));
    }

    fn count(&mut self, family: Family, labels: &[(&str, &str)], total: Option<u64>, scale: f64) {
        self.put(family, labels, total.map(|total| total as f64 * scale));
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (name, kind, help) in FAMILIES {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for row in self.0.get(name).into_iter().flatten() {
                let _ = writeln!(text, "{row}");
            }
        }
        text
    }

    /// Whether a VM runs, and whether it says so.
    fn power(&mut self, vm: &str, seen: &Glance<Measurement>) {
        let answers = match &seen.power {
            Some(Ok(PowerState::Running | PowerState::Paused)) => Some(1.0),
            Some(Ok(PowerState::Hung)) | None => Some(0.0),
            // There is nobody to answer, or nobody can tell.
            Some(Ok(PowerState::Stopped | PowerState::Unknown) | Err(_)) => None,
        };
        let runs = match &seen.power {
            Some(Ok(power)) => Some(*power == PowerState::Running),
            Some(Err(error)) if error.code == NodeErrorCode::NotFound => Some(false),
            // Missing is not "no".
            Some(Err(_)) | None => None,
        };
        self.put(ANSWERING, &[("vm", vm)], answers);
        self.put(RUNNING, &[("vm", vm)], runs.map(|runs| f64::from(u8::from(runs))));
    }

    fn measured(&mut self, vm: &str, seen: &Measurement) {
        let (own, counters) = ([("vm", vm)], &seen.counters);
        self.count(RESIDENT, &own, counters.resident.map(|bytes| bytes.0), 1.0);
        self.count(CPU, &own, counters.vcpu_run_ns, NS);
        self.count(VMM_CPU, &own, counters.vmm_run_ns, NS);
        self.count(RUN_DELAY, &own, counters.vcpu_wait_ns, NS);
        self.count(THROTTLED, &own, counters.throttled_ns, NS);
        for (on, total) in
            [("cpu", counters.psi_cpu_us), ("memory", counters.psi_memory_us), ("io", counters.psi_io_us)]
        {
            self.count(HOST_STALLED, &[("vm", vm), ("on", on)], total, US);
        }
        let (to, from) = ([("vm", vm), ("direction", "receive")], [("vm", vm), ("direction", "transmit")]);
        self.count(NET_BYTES, &to, counters.net_to_guest, 1.0);
        self.count(NET_BYTES, &from, counters.net_from_guest, 1.0);
        self.count(NET_PACKETS, &to, counters.packets_to_guest, 1.0);
        self.count(NET_PACKETS, &from, counters.packets_from_guest, 1.0);
        let (read, write) = ([("vm", vm), ("kind", "read")], [("vm", vm), ("kind", "write")]);
        self.count(DISK_BYTES, &read, counters.disk_read, 1.0);
        self.count(DISK_BYTES, &write, counters.disk_written, 1.0);
        self.count(DISK_OPERATIONS, &read, counters.disk_reads, 1.0);
        self.count(DISK_OPERATIONS, &write, counters.disk_writes, 1.0);
        self.count(DISK_OPERATIONS, &[("vm", vm), ("kind", "flush")], counters.disk_flushes, 1.0);
        self.count(DISK_SECONDS, &own, counters.disk_took_ns, NS);
        self.count(INSTRUCTIONS, &own, counters.instructions, 1.0);
        self.count(CYCLES, &own, counters.cycles, 1.0);
        self.count(CACHE_MISSES, &own, counters.cache_misses, 1.0);
        self.of_group(vm, &counters.group);
        if let Some(all) = &counters.disk_latencies {
            for (kind, seen) in [("read", &all.reads), ("write", &all.writes), ("flush", &all.flushes)] {
                self.histogram(LATENCY, [("vm", vm), ("kind", kind)], seen);
            }
        }
        self.count(AVAILABLE, &own, seen.guest_available.map(|bytes| bytes.0), 1.0);
        for (on, total) in [("cpu", seen.psi_cpu_us), ("memory", seen.psi_memory_us), ("io", seen.psi_io_us)]
        {
            self.count(STALLED, &[("vm", vm), ("on", on)], total, US);
        }
    }

    /// What the VM's process took of the host.
    fn of_group(&mut self, vm: &str, seen: &GroupCounters) {
        let own = [("vm", vm)];
        for (family, bytes) in
            [(GROUP_MEMORY, seen.memory), (GROUP_ANONYMOUS, seen.anonymous), (GROUP_FILE, seen.file)]
        {
            self.count(family, &own, bytes.map(|bytes| bytes.0), 1.0);
        }
        self.count(OOM_KILLS, &own, seen.oom_kills, 1.0);
        let (read, write) = ([("vm", vm), ("kind", "read")], [("vm", vm), ("kind", "write")]);
        self.count(GROUP_IO_BYTES, &read, seen.read, 1.0);
        self.count(GROUP_IO_BYTES, &write, seen.written, 1.0);
        self.count(GROUP_IO, &read, seen.reads, 1.0);
        self.count(GROUP_IO, &write, seen.writes, 1.0);
    }

    /// A histogram of times: of each bound how many took no longer. Their sum is not known, for QEMU's own is of more.
    fn histogram(&mut self, family: Family, own: [(&str, &str); 2], seen: &Latencies) {
        let (name, _, _) = family;
        let labels = own.map(|(name, word)| format!("{name}=\"{}\"", escaped(word))).join(",");
        let rows = self.0.entry(name).or_default();
        let mut so_far = 0u64;
        for (bin, bound_us) in seen.0.iter().zip(LATENCY_BOUNDS_US) {
            so_far = so_far.saturating_add(*bin);
            rows.push(format!("{name}_bucket{{{labels},le=\"{}\"}} {so_far}", bound_us as f64 / 1e6));
        }
        let all = seen.count();
        rows.push(format!("{name}_bucket{{{labels},le=\"+Inf\"}} {all}"));
        rows.push(format!("{name}_count{{{labels}}} {all}"));
    }

    fn watched(&mut self, vm: &str, seen: &UsageObserved) {
        for (fault, times) in &seen.faults {
            self.count(FAULTS, &[("vm", vm), ("fault", fault)], Some(*times), 1.0);
        }
        let others = seen.disagreements.iter().map(|(of, off)| (of.as_str(), *off));
        for (of, off) in seen.disagreement.map(|off| ("cpu", off)).into_iter().chain(others) {
            self.put(DISAGREEMENT, &[("vm", vm), ("of", of)], Some(f64::from(off)));
        }
        let dirty = seen.values.get(&Metric::DirtyRate);
        self.put(DIRTY, &[("vm", vm)], dirty.map(|kib| f64::from(*kib) * KIB));
        let said = [
            (GUEST_USED, Metric::GuestMemory, MIB),
            (SWITCHES, Metric::Switches, 1.0),
            (FORKS, Metric::Forks, 1.0),
        ];
        for (family, metric, unit) in said {
            self.put(family, &[("vm", vm)], seen.values.get(&metric).map(|value| f64::from(*value) * unit));
        }
    }

    /// What the collectors inside found.
    fn collected(&mut self, vm: &str, found: &Findings) {
        self.put(AGENT_CPU, &[("vm", vm)], found.cpu_share());
        self.count(AGENT_RESIDENT, &[("vm", vm)], found.resident.map(|bytes| bytes.0), 1.0);
        for one in &found.collectors {
            let labels = [("vm", vm), ("collector", one.name.name())];
            self.count(COLLECTOR_CPU, &labels, Some(one.cpu_us), US);
            self.put(COLLECTOR_SHED, &labels, Some(f64::from(u8::from(one.state == CollectorState::Shed))));
        }
        if let Some(Found { value: seen, .. }) = &found.connections {
            self.count(TCP, &[("vm", vm)], Some(seen.established.into()), 1.0);
            for (quantile, rtt) in [("0.5", seen.rtt_p50_us), ("0.95", seen.rtt_p95_us)] {
                self.count(ROUND_TRIP, &[("vm", vm), ("quantile", quantile)], rtt.map(u64::from), US);
            }
        }
        if let Some(Found { value: seen, .. }) = &found.calls {
            let per_call = 1e3 / seen.window.0.max(1) as f64;
            for (class, calls) in &seen.classes {
                self.count(CALLS, &[("vm", vm), ("class", class)], Some(*calls), per_call);
            }
        }
        self.files(vm, found);
        self.named_by_the_guest(vm, found);
    }

    /// What its files are, by kinds and classes that we name.
    fn files(&mut self, vm: &str, found: &Findings) {
        let Some(Found { value: seen, .. }) = &found.files else { return };
        for (kind, files) in &seen.kinds {
            self.count(FILES, &[("vm", vm), ("kind", &word(kind))], Some(files.bytes.0), 1.0);
        }
        for (class, files) in &seen.sensitive {
            for (by, count) in [("name", files.by_name), ("content", files.by_content)] {
                let labels = [("vm", vm), ("class", &*word(class)), ("by", by)];
                self.count(SENSITIVE, &labels, Some(count), 1.0);
            }
        }
    }

    /// Rows whose names the guest chooses: bounded, so that it fills nobody's Prometheus, and each once.
    fn named_by_the_guest(&mut self, vm: &str, found: &Findings) {
        let libraries = found.libraries.iter().flat_map(|seen| seen.value.per_second());
        for (name, rate) in libraries.take(LIBRARIES_MAX) {
            let (library, class) = name.split_once('/').unwrap_or((&name, ""));
            self.put(LIBRARY_CALLS, &[("vm", vm), ("library", library), ("class", class)], Some(rate));
        }
        let mut known = BTreeSet::new();
        for log in found.logs.iter().flat_map(|logs| &logs.value).take(LOGS_MAX) {
            if !known.insert(log.service.as_str()) {
                continue;
            }
            let (labels, per_line) =
                ([("vm", vm), ("log", log.service.as_str())], 1e3 / log.window.0.max(1) as f64);
            self.count(LOG_LINES, &labels, Some(log.lines), per_line);
            self.count(LOG_ERRORS, &labels, log.errors, per_line);
        }
        let mut known = BTreeSet::new();
        for gpu in found.gpus.iter().flat_map(|gpus| &gpus.value).take(GPUS_MAX) {
            if known.insert(gpu.address.as_str()) {
                let busy = gpu.busy.map(|busy| f64::from(busy.0) / 1e3);
                self.put(GPU, &[("vm", vm), ("gpu", &gpu.address)], busy);
            }
        }
        let (mut known, mut left) = (BTreeSet::new(), APPLICATION_ROWS_MAX);
        for one in found.endpoints.iter().flat_map(|endpoints| &endpoints.value) {
            if !known.insert((&one.kind, &one.address)) {
                continue;
            }
            for (metric, value) in one.metrics.iter().take(left) {
                let labels = [
                    ("vm", vm),
                    ("application", one.kind.as_str()),
                    ("address", &one.address),
                    ("metric", metric),
                ];
                self.put(APPLICATION, &labels, Some(*value));
                left -= 1;
            }
        }
    }

    fn judged(&mut self, vm: &str, label: Option<&str>, told: [u64; 2]) {
        if let Some(label) = label {
            self.put(LABEL, &[("vm", vm), ("label", label)], Some(1.0));
        }
        for (kind, times) in ["shift", "anomaly"].into_iter().zip(told) {
            self.count(CHANGES, &[("vm", vm), ("kind", kind)], Some(times), 1.0);
        }
    }

    /// What it is like now, and with whom it speaks.
    fn lately(&mut self, vm: &str, seen: &LatelySeen) {
        for this in seen.traits.iter().flat_map(|_| Trait::ALL) {
            let labels = [("vm", vm), ("trait", this.name())];
            let value = seen.traits.and_then(|traits| traits.get(this));
            self.put(TRAIT_VALID, &labels, Some(f64::from(u8::from(value.is_some()))));
            self.put(TRAIT, &labels, value.map(|value| f64::from(this.natural(value))));
        }
        let Some(flows) = &seen.flows else { return };
        self.put(FLOWS_FULL, &[("vm", vm)], Some(f64::from(u8::from(flows.full))));
        for flow in flows.all.iter().take(FLOWS_MAX) {
            let (direction, peer, port) =
                (word(flow.direction), flow.peer.to_string(), flow.port.to_string());
            let labels = [
                ("vm", vm),
                ("direction", &direction),
                ("protocol", &flow.protocol),
                ("peer", &peer),
                ("port", &port),
            ];
            self.count(FLOW, &labels, Some(flow.begun), 1.0);
        }
    }
}

/// A word of ours as JSON has it.
fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

pub(in crate::api) async fn metrics(State(control): Shared) -> Result<impl IntoResponse, Refusal> {
    let records = control.vms().await?;
    let ids: Vec<_> = records.iter().map(|record| record.id).collect();
    let mut page = Page::default();
    for (record, seen) in records.iter().zip(control.measure_all(&ids).await) {
        let vm = record.intent.name.to_string();
        page.power(&vm, &seen);
        if let Some(Ok(seen)) = &seen.whole {
            page.measured(&vm, seen);
        }
        // A VM without a place was never watched.
        if let Ok(seen) = control.node().usage(record.id).await {
            page.watched(&vm, &seen);
        }
        if let Some((label, told)) = control.personalities.shown(record.id) {
            page.judged(&vm, label.as_ref().map(Label::as_str), told);
        }
        page.lately(&vm, &control.personalities.lately(record.id, control.now()));
        if let Some(found) = control.collected_lately(record.id) {
            page.collected(&vm, &found);
        }
    }
    let mut outcomes = BTreeMap::<&str, u64>::new();
    for morph in control.morphs().await? {
        *outcomes.entry(morph.state.word()).or_default() += 1;
    }
    for (state, count) in outcomes {
        page.count(MORPHS, &[("state", state)], Some(count), 1.0);
    }
    page.count(STUCK, &[], Some(control.all_stuck().len() as u64), 1.0);
    Ok((StatusCode::OK, [("content-type", "text/plain; version=0.0.4")], page.text()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every family that what ships for Prometheus and Grafana asks for.
    fn asked_for(text: &str) -> Vec<&str> {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        words.filter(|word| word.starts_with("proteus_")).collect()
    }

    #[test]
    fn dashboard_and_alerts_ask_for_what_there_is() {
        let dashboard = include_str!("../../../../../packaging/grafana/proteus.json");
        let parsed: serde_json::Value = serde_json::from_str(dashboard).unwrap();
        assert!(parsed["panels"].as_array().is_some_and(|panels| panels.len() >= 8));
        for text in [dashboard, include_str!("../../../../../packaging/prometheus/proteus.rules.yml")] {
            let asked = asked_for(text);
            assert!(!asked.is_empty());
            for name in asked {
                assert!(FAMILIES.iter().any(|family| family.0 == name), "{name} is no metric of Proteus");
            }
        }
    }

    #[test]
    fn what_a_guest_says_cannot_break_out_of_its_label() {
        let mut page = Page::default();
        page.put(LOG_LINES, &[("vm", "web"), ("log", "a\"} 1\nb\\")], Some(2.0));
        let row = page.0[LOG_LINES.0][0].clone();
        assert_eq!(row, "proteus_vm_log_lines_per_second{vm=\"web\",log=\"a\\\"} 1\\nb\\\\\"} 2");
    }

    #[test]
    fn rows_of_libraries_are_bounded_and_what_is_left_out_has_none() {
        use proteus_model::telemetry::{LibrariesObserved, LibraryClassObserved};
        let row = |class: String, calls: Option<u64>| LibraryClassObserved {
            library: "libz".to_owned(),
            class,
            window: proteus_model::unit::Millis(500),
            calls,
            left_out: u32::from(calls.is_none()),
        };
        let mut classes: Vec<_> = (0..80).map(|at| row(format!("c{at:02}"), Some(at))).collect();
        classes.push(row("a".to_owned(), None));
        let value = LibrariesObserved { classes, unread: 0 };
        let libraries = Some(Found { at: proteus_model::unit::UnixMillis(1), value });
        let mut page = Page::default();
        page.collected("web", &Findings { libraries, ..Findings::default() });
        let rows = &page.0[LIBRARY_CALLS.0];
        assert_eq!(rows.len(), LIBRARIES_MAX);
        assert_eq!(
            rows[3],
            "proteus_vm_library_calls_per_second{vm=\"web\",library=\"libz\",class=\"c03\"} 6"
        );
    }

    #[test]
    fn times_of_disks_are_a_histogram_and_books_that_are_not_kept_are_no_rows() {
        let mut all = proteus_model::telemetry::DiskLatencies::default();
        (all.reads.0[0], all.reads.0[4], all.reads.0[17]) = (5, 2, 1);
        let counters = proteus_model::vm::VmCounters { disk_latencies: Some(all), ..Default::default() };
        let mut page = Page::default();
        page.measured("web", &Measurement { counters, ..Measurement::default() });
        let rows = &page.0[LATENCY.0];
        let own = "proteus_vm_disk_latency_seconds_bucket{vm=\"web\",kind=\"read\"";
        assert_eq!(rows.len(), 3 * (LATENCY_BOUNDS_US.len() + 2));
        assert_eq!(rows[0], format!("{own},le=\"0.00005\"}} 5"));
        assert_eq!(rows[4], format!("{own},le=\"0.001\"}} 7"));
        assert_eq!(rows[16], format!("{own},le=\"10\"}} 7"));
        assert_eq!(rows[17], format!("{own},le=\"+Inf\"}} 8"));
        assert_eq!(rows[18], "proteus_vm_disk_latency_seconds_count{vm=\"web\",kind=\"read\"} 8");
        assert!(page.0.keys().all(|name| !name.contains("cgroup")), "missing is not zero");
        let group = GroupCounters { oom_kills: Some(0), read: Some(7), ..GroupCounters::default() };
        let counters = proteus_model::vm::VmCounters { group, ..Default::default() };
        page.measured("db", &Measurement { counters, ..Measurement::default() });
        assert_eq!(page.0[OOM_KILLS.0], ["proteus_vm_cgroup_oom_kills_total{vm=\"db\"} 0"]);
        assert_eq!(page.0[GROUP_IO_BYTES.0].len(), 1);
        assert!(!page.0.contains_key(GROUP_MEMORY.0));
    }

    #[test]
    fn flows_and_traits_are_bounded_and_a_trait_that_is_missing_says_so() {
        use proteus_model::telemetry::{FlowBegun, FlowDirection, FlowsBegun};
        let flow = |host: u8| FlowBegun {
            direction: FlowDirection::Inbound,
            protocol: "tcp".to_owned(),
            peer: [10, 0, 0, host].into(),
            port: 443,
            begun: 100 - u64::from(host),
        };
        let mut traits = proteus_model::personality::TraitVector::default();
        traits.set(Trait::CpuUse, Some(0.25));
        let flows = FlowsBegun { all: (0..60).map(flow).collect(), full: true };
        let mut page = Page::default();
        page.lately("web", &LatelySeen { traits: Some(traits), flows: Some(flows) });
        assert_eq!(page.0[FLOW.0].len(), FLOWS_MAX);
        let first = "proteus_vm_flow_begun{vm=\"web\",direction=\"inbound\",protocol=\"tcp\",peer=\"10.0.0.0\",port=\"443\"} 100";
        assert_eq!((page.0[FLOW.0][0].as_str(), page.0[FLOWS_FULL.0].len()), (first, 1));
        assert_eq!(page.0[TRAIT.0], ["proteus_vm_trait{vm=\"web\",trait=\"cpu_use\"} 0.25"]);
        let valid = &page.0[TRAIT_VALID.0];
        assert_eq!(valid.len(), Trait::ALL.len());
        assert_eq!(valid.iter().filter(|row| row.ends_with("} 1")).count(), 1);
        // Of a VM that nobody looked at lately there is nothing.
        let mut page = Page::default();
        page.lately("db", &LatelySeen::default());
        assert!(page.0.is_empty());
    }

    #[test]
    fn what_a_guest_says_of_itself_and_its_files_is_shown_by_our_words() {
        use proteus_model::telemetry::{
            FileKind, FileKindObserved, FilesObserved, GpuObserved, SensitiveClass, SensitiveObserved,
        };
        use proteus_model::unit::{Bytes, Permille, UnixMillis};
        let kinds = [(FileKind::VirtualDisk, FileKindObserved { bytes: Bytes(9), ..Default::default() })];
        let sensitive = [(SensitiveClass::PrivateKeys, SensitiveObserved { by_name: 2, by_content: 1 })];
        let files =
            FilesObserved { kinds: kinds.into(), sensitive: sensitive.into(), ..FilesObserved::default() };
        let gpu = |address: String, busy: Option<Permille>| GpuObserved {
            address,
            device: "10de:2204".to_owned(),
            driver: None,
            busy,
            missing: None,
        };
        let mut gpus = vec![gpu("0000:0\"1".to_owned(), Some(Permille(500))), gpu("x".to_owned(), None)];
        gpus.extend((0..40).map(|at| gpu(format!("g{at}"), Some(Permille(0)))));
        let at = UnixMillis(1);
        let found = Findings {
            files: Some(Found { at, value: files }),
            gpus: Some(Found { at, value: gpus }),
            ..Findings::default()
        };
        let mut page = Page::default();
        page.collected("web", &found);
        assert_eq!(page.0[FILES.0], ["proteus_vm_files_bytes{vm=\"web\",kind=\"virtual_disk\"} 9"]);
        assert_eq!(page.0[SENSITIVE.0].len(), 2);
        assert_eq!(
            page.0[SENSITIVE.0][1],
            "proteus_vm_sensitive_files{vm=\"web\",class=\"private_keys\",by=\"content\"} 1"
        );
        assert_eq!(page.0[GPU.0].len(), GPUS_MAX - 1, "how busy one is is not known");
        assert_eq!(page.0[GPU.0][0], "proteus_vm_gpu_busy_ratio{vm=\"web\",gpu=\"0000:0\\\"1\"} 0.5");
        let values = [(Metric::GuestMemory, 2.0), (Metric::Switches, 3.5)].into();
        page.watched("web", &UsageObserved { values, ..UsageObserved::default() });
        assert_eq!(page.0[GUEST_USED.0], ["proteus_vm_guest_used_bytes{vm=\"web\"} 2097152"]);
        assert!(page.0.contains_key(SWITCHES.0) && !page.0.contains_key(FORKS.0));
    }

    #[test]
    fn what_could_not_be_read_is_not_shown_and_what_is_named_total_is_a_counter() {
        let mut page = Page::default();
        let counters =
            proteus_model::vm::VmCounters { vcpu_run_ns: Some(1_500_000_000), ..Default::default() };
        page.measured("web", &Measurement { counters, psi_io_us: Some(2_000_000), ..Measurement::default() });
        let values = [(Metric::DirtyRate, 2.0), (Metric::Cpu, 1.0)].into();
        let disagreements = [("disks".to_owned(), 0.5)].into();
        let off =
            UsageObserved { values, disagreement: Some(0.25), disagreements, ..UsageObserved::default() };
        page.watched("web", &off);
        page.watched("db", &UsageObserved::default());
        let text = page.text();
        assert!(text.contains("proteus_vm_cpu_seconds_total{vm=\"web\"} 1.5\n"), "{text}");
        assert!(text.contains("proteus_vm_guest_stalled_seconds_total{vm=\"web\",on=\"io\"} 2\n"), "{text}");
        assert!(text.contains("proteus_vm_dirty_bytes_per_second{vm=\"web\"} 2048\n"), "{text}");
        for (of, off) in [("cpu", 0.25), ("disks", 0.5)] {
            let row = format!("proteus_vm_guest_disagreement_ratio{{vm=\"web\",of=\"{of}\"}} {off}\n");
            assert!(text.contains(&row), "{text}");
        }
        assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), 5, "{text}");
        for (name, kind, _) in FAMILIES {
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
        }
    }
}

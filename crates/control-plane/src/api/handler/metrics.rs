//! `/metrics`: what Prometheus reads, in its text format. Must never show what could not be read: missing is not zero.

use super::Shared;
use crate::api::refusal::Refusal;
use crate::look::Glance;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use proteus_model::personality::Label;
use proteus_model::telemetry::{CollectorState, Findings, Found, Metric};
use proteus_model::vm::PowerState;
use proteus_protocol::node::v1::{Measurement, NodeErrorCode, UsageObserved};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// A family: name, type, help.
type Family = (&'static str, &'static str, &'static str);

/// Most rows of a VM whose names its guest chooses: of logs, of what applications tell, and of libraries' classes.
const LOGS_MAX: usize = 16;
const APPLICATION_ROWS_MAX: usize = 200;
const LIBRARIES_MAX: usize = 24;

/// Seconds in a nanosecond and in a microsecond.
const NS: f64 = 1e-9;
const US: f64 = 1e-6;
/// Bytes in a KiB.
const KIB: f64 = 1024.0;

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
const MORPHS: Family = ("proteus_morphs", "gauge", "Morphs by state.");
const STUCK: Family = ("proteus_morphs_stuck", "gauge", "Morphs that cannot go on now.");

/// All of them, in the order in which they are shown.
const FAMILIES: [Family; 36] = [
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
        self.count(AVAILABLE, &own, seen.guest_available.map(|bytes| bytes.0), 1.0);
        for (on, total) in [("cpu", seen.psi_cpu_us), ("memory", seen.psi_memory_us), ("io", seen.psi_io_us)]
        {
            self.count(STALLED, &[("vm", vm), ("on", on)], total, US);
        }
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
        self.named_by_the_guest(vm, found);
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

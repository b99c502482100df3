//! `/metrics`: what Prometheus reads, under the names that Proteus itself uses. Must never show what could not be read:
//! missing is not zero.

use crate::fleet::{Fleet, Rounds};
use crate::vm::Vm;
use proteus_model::vm::VmCounters;
use std::fmt::Write as _;

/// Seconds in a nanosecond.
const NS: f64 = 1e-9;

/// A family of one number a VM: name, type, help, and how it is read.
type Family = (&'static str, &'static str, &'static str, fn(&VmCounters) -> Option<f64>);

fn seconds(ns: Option<u64>) -> Option<f64> {
    ns.map(|ns| ns as f64 * NS)
}

fn plain(count: Option<u64>) -> Option<f64> {
    count.map(|count| count as f64)
}

const COUNTED: [Family; 5] = [
    ("proteus_vm_resident_bytes", "gauge", "Host memory of the VM's process.", |c| {
        plain(c.resident.map(|b| b.0))
    }),
    ("proteus_vm_cpu_seconds_total", "counter", "CPU time of the vCPUs.", |c| seconds(c.vcpu_run_ns)),
    (
        "proteus_vm_process_cpu_seconds_total",
        "counter",
        "CPU time of the VM's process, vCPUs and all.",
        |c| seconds(c.vmm_run_ns),
    ),
    ("proteus_vm_run_delay_seconds_total", "counter", "Runnable and not running.", |c| {
        seconds(c.vcpu_wait_ns)
    }),
    (
        "proteus_vm_disk_seconds_total",
        "counter",
        "Time that operations on the VM's disks took, each for itself.",
        |c| seconds(c.disk_took_ns),
    ),
];

/// A number of one value of a label, and how it is read.
type Split = (&'static str, fn(&VmCounters) -> Option<u64>);
/// A family of several numbers a VM: name, help, the label, and its values.
type SplitFamily = (&'static str, &'static str, &'static str, &'static [Split]);

const SPLIT: [SplitFamily; 4] = [
    (
        "proteus_vm_network_bytes_total",
        "Carried by the VM's links; direction as the guest sees it.",
        "direction",
        &[("receive", |c| c.net_to_guest), ("transmit", |c| c.net_from_guest)],
    ),
    (
        "proteus_vm_network_packets_total",
        "Packets on the VM's links; direction as the guest sees it.",
        "direction",
        &[("receive", |c| c.packets_to_guest), ("transmit", |c| c.packets_from_guest)],
    ),
    (
        "proteus_vm_disk_bytes_total",
        "Read from and written to the VM's disks.",
        "kind",
        &[("read", |c| c.disk_read), ("write", |c| c.disk_written)],
    ),
    (
        "proteus_vm_disk_operations_total",
        "Operations done on the VM's disks.",
        "kind",
        &[("read", |c| c.disk_reads), ("write", |c| c.disk_writes), ("flush", |c| c.disk_flushes)],
    ),
];

/// A text as the value of a label.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// The labels that tell a VM from others. Two may have had one name one after the other.
fn vm_labels(vm: &Vm) -> String {
    format!("vm=\"{}\",id=\"{}\"", quoted(&vm.domain.name), vm.domain.id)
}

fn rounds(text: &mut String, rounds: &Rounds, vms: usize) {
    let mut one = |name: &str, kind: &str, help: &str, value: f64| {
        head(text, name, kind, help);
        let _ = writeln!(text, "{name} {value}");
    };
    let up = f64::from(u8::from(rounds.error.is_none() && rounds.at.is_some()));
    one("proteus_libvirt_up", "gauge", "Whether libvirt answered when it was asked last.", up);
    one("proteus_libvirt_vms", "gauge", "VMs that are watched.", vms as f64);
    one("proteus_libvirt_rounds_total", "counter", "Rounds that brought an answer.", rounds.done as f64);
    one("proteus_libvirt_failures_total", "counter", "Rounds that brought none.", rounds.failed as f64);
    let strange = "Lines and sections of answers that were not understood or not believed.";
    one("proteus_libvirt_strange_total", "counter", strange, rounds.strange as f64);
    let [asked, made] = rounds.took_ms.map(|ms| ms as f64 / 1000.0);
    one("proteus_libvirt_answer_seconds", "gauge", "Time that the last answer took.", asked);
    one("proteus_libvirt_intake_seconds", "gauge", "Time that was needed to take it in.", made);
    if let Some(at) = rounds.at {
        let help = "When the last answer came, seconds since 1970.";
        one("proteus_libvirt_answered_at_seconds", "gauge", help, at.0 as f64 / 1000.0);
    }
}

/// The whole page.
pub fn page(fleet: &Fleet) -> String {
    let mut text = String::new();
    let vms: Vec<&Vm> = fleet.vms().collect();
    rounds(&mut text, &fleet.rounds, vms.len());
    head(&mut text, "proteus_vm_running", "gauge", "Whether the VM runs.");
    for vm in &vms {
        let _ =
            writeln!(text, "proteus_vm_running{{{}}} {}", vm_labels(vm), u8::from(vm.domain.state.runs()));
    }
    for (name, kind, help, read) in COUNTED {
        head(&mut text, name, kind, help);
        for vm in &vms {
            let Some(value) = read(&vm.domain.counters) else { continue };
            let _ = writeln!(text, "{name}{{{}}} {value}", vm_labels(vm));
        }
    }
    for (name, help, label, values) in SPLIT {
        head(&mut text, name, "counter", help);
        for vm in &vms {
            for (word, value) in
                values.iter().filter_map(|(word, read)| Some((word, read(&vm.domain.counters)?)))
            {
                let _ = writeln!(text, "{name}{{{},{label}=\"{word}\"}} {value}", vm_labels(vm));
            }
        }
    }
    personalities(&mut text, &vms);
    text
}

fn personalities(text: &mut String, vms: &[&Vm]) {
    let name = "proteus_vm_label";
    head(text, name, "gauge", "1 for the label that the VM bears, as `database`.");
    for vm in vms {
        if let Some(label) = vm.judged.label.borne() {
            let _ = writeln!(text, "{name}{{{},label=\"{label}\"}} 1", vm_labels(vm));
        }
    }
    let name = "proteus_vm_personality_changes_total";
    head(text, name, "counter", "Shifts and anomalies of the VM that were told.");
    for vm in vms {
        for (kind, times) in ["shift", "anomaly"].into_iter().zip(vm.judged.record.told) {
            let _ = writeln!(text, "{name}{{{},kind=\"{kind}\"}} {times}", vm_labels(vm));
        }
    }
    let name = "proteus_vm_sample_faults_total";
    head(text, name, "counter", "Samples of the VM that were left out, by what was wrong.");
    for vm in vms {
        for (fault, times) in vm.intake().faults().counted() {
            let _ = writeln!(text, "{name}{{{},fault=\"{}\"}} {times}", vm_labels(vm), fault.name());
        }
    }
}

//! A VM as a row: the words and figures of its columns. Must never fill a column with a value that was not measured.

use super::{Entry, Sort, Top};
use crate::output::{power_word, present, table};
use proteus_model::execution::{Morph, State};
use proteus_model::telemetry::Metric;
use proteus_model::unit::Bytes;
use proteus_model::vm::PowerState;
use proteus_protocol::api::v1::{UsageView, VmView};
use serde_json::json;
use std::fmt::Write as _;

/// What a VM uses, by what is sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Figures {
    /// Thousandths of a CPU.
    pub cpu: Option<f32>,
    /// Memory of the host, MiB.
    pub memory: Option<f32>,
    /// The highest pressure, ‰ of time, and of what.
    pub pressure: Option<(f32, &'static str)>,
    /// Read and written, KiB/s.
    pub disk: Option<f32>,
    /// Received and sent, KiB/s.
    pub traffic: Option<f32>,
}

impl Figures {
    /// Of a VM and what was measured of it.
    pub fn of(vm: &VmView, usage: Option<&UsageView>) -> Self {
        let resident = vm.resident.map(|bytes| (bytes.0 >> 10) as f32 / 1024.0);
        let Some(usage) = usage else { return Self { memory: resident, ..Self::default() } };
        let value = |metric: Metric| usage.values.get(metric.name()).map(|value| value.value);
        let both = |a, b| Some(value(a)? + value(b)?);
        let pressures =
            [(Metric::PressureCpu, "cpu"), (Metric::PressureMemory, "mem"), (Metric::PressureIo, "io")];
        let pressures = pressures.into_iter().filter_map(|(metric, word)| Some((value(metric)?, word)));
        Self {
            cpu: value(Metric::Cpu),
            memory: value(Metric::Memory).or(resident),
            pressure: pressures.max_by(|a, b| a.0.total_cmp(&b.0)),
            disk: both(Metric::DiskRead, Metric::DiskWritten),
            traffic: both(Metric::Received, Metric::Sent),
        }
    }

    /// What is sorted by.
    pub fn by(&self, sort: Sort) -> Option<f32> {
        match sort {
            Sort::Name => None,
            Sort::Cpu => self.cpu,
            Sort::Memory => self.memory,
            Sort::Pressure => self.pressure.map(|(value, _)| value),
            Sort::Disk => self.disk,
            Sort::Traffic => self.traffic,
        }
    }
}

/// How a VM is, as a row is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// It runs.
    Well,
    /// A morph holds it.
    Changing,
    /// It does not run, and shall not.
    Asleep,
    /// It does not answer, or nobody can tell.
    Unwell,
}

/// A column: its heading, whether it holds figures, the least width, and what is in it.
pub(super) struct Column {
    pub heading: &'static str,
    pub right: bool,
    pub width: u16,
    pub cell: fn(&Top, &Entry) -> String,
}

const DASH: &str = "-";

fn dash<T>(value: Option<T>, told: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| DASH.to_owned(), told)
}

fn amount(kib: f32) -> String {
    Bytes((f64::from(kib) * 1024.0).round() as u64).to_string()
}

/// In the order of their worth: where there is no room, the last are left out.
pub(super) const COLUMNS: &[Column] = &[
    Column { heading: "NAME", right: false, width: 12, cell: |_, entry| entry.vm.name.to_string() },
    Column { heading: "STATE", right: false, width: 13, cell: |top, entry| top.state(entry).0 },
    Column {
        heading: "CPU",
        right: true,
        width: 6,
        cell: |_, entry| dash(entry.figures.cpu, |cpu| format!("{:.2}", cpu / 1000.0)),
    },
    Column {
        heading: "MEMORY",
        right: true,
        width: 10,
        cell: |_, entry| dash(entry.figures.memory, |memory| amount(memory * 1024.0)),
    },
    Column {
        heading: "PRESSURE",
        right: true,
        width: 10,
        cell: |_, entry| {
            dash(entry.figures.pressure, |(value, word)| format!("{word} {:.1} %", value / 10.0))
        },
    },
    Column {
        heading: "LABEL",
        right: false,
        width: 15,
        cell: |_, entry| dash(entry.vm.label.clone(), |label| label),
    },
    Column {
        heading: "PROFILE",
        right: false,
        width: 18,
        cell: |_, entry| dash(entry.vm.profile.clone(), |profile| profile),
    },
    Column { heading: "DISK/S", right: true, width: 10, cell: |_, entry| dash(entry.figures.disk, amount) },
    Column {
        heading: "NETWORK/S",
        right: true,
        width: 10,
        cell: |_, entry| dash(entry.figures.traffic, amount),
    },
];

/// Where a morph is, in few words.
pub(super) fn stage(morph: &Morph) -> String {
    let steps = morph.plan.steps.len();
    match morph.state {
        State::Applying { step } | State::Undoing { step } => {
            format!("{} {}/{steps}", morph.state.word(), step + 1)
        }
        other => other.word().to_owned(),
    }
}

impl Top {
    /// How a VM is, in a word or two.
    pub(super) fn state(&self, entry: &Entry) -> (String, Mood) {
        let vm = &entry.vm;
        match vm.power {
            _ if vm.template => ("template".to_owned(), Mood::Asleep),
            PowerState::Hung | PowerState::Unknown => (power_word(vm.power).to_owned(), Mood::Unwell),
            PowerState::Running if matches!(entry.usage, Some(Err(_))) => {
                ("no answer".to_owned(), Mood::Unwell)
            }
            _ if vm.morph.is_some() => {
                let morph = self.morphs.iter().find(|morph| Some(morph.id) == vm.morph);
                (morph.map_or_else(|| "morph".to_owned(), stage), Mood::Changing)
            }
            PowerState::Running => ("running".to_owned(), Mood::Well),
            PowerState::Paused if vm.halted.is_some() => ("stands still".to_owned(), Mood::Unwell),
            PowerState::Paused | PowerState::Stopped => (power_word(vm.power).to_owned(), Mood::Asleep),
        }
    }

    /// What the host has and what of it is in use, in two lines.
    pub(super) fn summary(&self) -> [String; 2] {
        let Some(host) = &self.host else { return ["asking Proteus …".to_owned(), String::new()] };
        let mut first =
            format!("{} · {} CPUs · {} · {}", host.name, host.cpus, host.memory, host.accelerator);
        if let Some(who) = &host.disarmed_by {
            let _ = write!(first, " · disarmed by {who}");
        }
        let running = || self.entries.iter().filter(|entry| entry.vm.power == PowerState::Running);
        let known: Vec<f32> = running().filter_map(|entry| entry.figures.cpu).collect();
        // The sum of nothing is -0.
        let cpu = known.iter().sum::<f32>().abs() / 1000.0;
        let memory: f32 = self.entries.iter().filter_map(|entry| entry.figures.memory).sum();
        let vcpus: u32 = running().map(|entry| present(&entry.vm).0).sum();
        let unwell = match self.entries.iter().filter(|entry| self.state(entry).1 == Mood::Unwell).count() {
            0 => String::new(),
            count => format!(", {count} not well"),
        };
        let so_far = if known.len() < running().count() { " as far as known" } else { "" };
        let second = format!(
            "{} of {} VMs run{unwell} · {vcpus} vCPUs use {cpu:.2} of {} CPUs{so_far} · memory {}",
            running().count(),
            self.entries.len(),
            host.cpus,
            amount(memory * 1024.0)
        );
        [first, second]
    }

    /// A morph in a line.
    pub(super) fn morph_line(morph: &Morph) -> String {
        format!("morph {} → {}: {}", morph.plan.vm_name, morph.plan.goal, stage(morph))
    }
}

/// All of it for programs, in the order in which it is shown.
pub(crate) fn value(top: &Top) -> serde_json::Value {
    let vm = |entry: &Entry| {
        let (usage, problem) = match &entry.usage {
            Some(Ok(usage)) => (Some(usage), None),
            Some(Err(why)) => (None, Some(why)),
            None => (None, None),
        };
        json!({ "vm": entry.vm, "usage": usage, "problem": problem })
    };
    json!({ "host": top.host, "vms": top.entries.iter().map(vm).collect::<Vec<_>>(), "morphs": top.morphs })
}

/// All of it as text, for who has no terminal.
pub(crate) fn plain(top: &Top) -> String {
    let mut text = String::new();
    for line in top.summary() {
        let _ = writeln!(text, "{line}");
    }
    for morph in &top.morphs {
        let _ = writeln!(text, "{}", Top::morph_line(morph));
    }
    if top.entries.is_empty() {
        return text;
    }
    let heading: Vec<&str> = COLUMNS.iter().map(|column| column.heading).collect();
    let row = |entry: &Entry| COLUMNS.iter().map(|column| (column.cell)(top, entry)).collect();
    let rows: Vec<Vec<String>> = top.entries.iter().map(row).collect();
    let _ = write!(text, "\n{}", table(&heading, &rows));
    for entry in &top.entries {
        if let Some(Err(why)) = &entry.usage {
            let _ = writeln!(text, "\n{}: {why}", entry.vm.name);
        }
    }
    text
}

//! Which metrics share a plot, and what they are called there.

use super::chart::{Chart, Line};
use super::series::{Columns, series};
use proteus_model::telemetry::Metric;
use proteus_protocol::api::v1::HistoryView;

/// A plot and its metrics.
pub(super) struct Part {
    title: &'static str,
    metrics: &'static [(Metric, &'static str)],
}

const CPU: Part = Part {
    title: "CPU time",
    metrics: &[(Metric::Cpu, "its vCPUs"), (Metric::Overhead, "its VMM beside them")],
};
const MEMORY: Part = Part {
    title: "Memory",
    metrics: &[(Metric::Memory, "taken of the host"), (Metric::GuestMemory, "in use inside")],
};
const PRESSURE: Part = Part {
    title: "Pressure inside: time in which some task waited",
    metrics: &[
        (Metric::PressureCpu, "for a CPU"),
        (Metric::PressureMemory, "for memory"),
        (Metric::PressureIo, "for a disk"),
    ],
};

/// All that is measured of a VM.
pub(super) const ALL: &[Part] = &[
    CPU,
    Part {
        title: "CPU held back, of one CPU’s time",
        metrics: &[(Metric::RunDelay, "ready and not run"), (Metric::Throttled, "stopped by its cap")],
    },
    MEMORY,
    PRESSURE,
    Part {
        title: "Disk throughput",
        metrics: &[(Metric::DiskRead, "read"), (Metric::DiskWritten, "written")],
    },
    Part {
        title: "Disk operations",
        metrics: &[(Metric::Reads, "reads"), (Metric::Writes, "writes"), (Metric::Flushes, "flushes")],
    },
    Part { title: "Time of a disk operation", metrics: &[(Metric::DiskLatency, "mean of each look")] },
    Part { title: "Network throughput", metrics: &[(Metric::Received, "received"), (Metric::Sent, "sent")] },
    Part {
        title: "Network packets",
        metrics: &[(Metric::PacketsReceived, "received"), (Metric::PacketsSent, "sent")],
    },
    Part { title: "Context switches inside", metrics: &[(Metric::Switches, "switches")] },
    Part {
        title: "What the processor counts",
        metrics: &[(Metric::Instructions, "instructions"), (Metric::Cycles, "cycles")],
    },
    Part { title: "Cache misses", metrics: &[(Metric::CacheMisses, "of the last cache")] },
    Part { title: "Memory changed within a second", metrics: &[(Metric::DirtyRate, "by a sample of it")] },
    Part { title: "New tasks inside", metrics: &[(Metric::Forks, "forks")] },
];

/// What a page of all VMs shows of each.
pub(super) const BRIEF: &[Part] = &[CPU, MEMORY, PRESSURE];

/// The metrics that those need, as the API takes them.
pub(crate) fn brief_metrics() -> String {
    let names = BRIEF.iter().flat_map(|part| part.metrics).map(|(metric, _)| metric.name());
    names.collect::<Vec<_>>().join(",")
}

impl Part {
    /// Its plot, filled from a history.
    pub fn chart(&self, view: &HistoryView, columns: &Columns) -> Chart {
        let line = |(metric, name): &(Metric, &'static str)| Line {
            name,
            of_guest: metric.is_of_guest(),
            series: series(view, metric.name(), columns),
        };
        Chart {
            title: self.title,
            unit: self.metrics.first().map_or("", |(metric, _)| metric.unit()),
            lines: self.metrics.iter().map(line).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_its_plot_and_shares_it_only_with_others_of_its_unit() {
        for metric in Metric::ALL {
            let homes = ALL.iter().filter(|part| part.metrics.iter().any(|(other, _)| *other == metric));
            assert_eq!(homes.count(), 1, "{metric}");
        }
        for part in ALL.iter().chain(BRIEF) {
            assert!(part.metrics.len() <= 3, "{}: there are three colours", part.title);
            assert!(part.metrics.iter().all(|(metric, _)| metric.unit() == part.metrics[0].0.unit()));
        }
    }
}

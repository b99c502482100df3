//! Words of `proteus bench`. Must never have a default that costs hours.

use clap::Subcommand;
use std::path::PathBuf;

/// Measurements.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// What a morph costs beyond the hypervisor's own time, what journaling costs, and, on a real guest, what each
    /// step takes and how long the guest stands still.
    Morph {
        /// Morphs to run on a simulated VM.
        #[arg(long, default_value_t = 200)]
        rounds: u32,
        /// Folder of guests and images: boots a real guest and measures each step on it.
        #[arg(long, value_name = "DIR")]
        images: Option<PathBuf>,
    },
    /// How well VMs are told apart: real guests serve, compile, compress and do nothing, and the labels that they get
    /// are counted, by host and guest and by the host alone; one VM changes its work twice. About half an hour.
    Personality {
        /// Folder of guests and images: `small`, `nginx`, `redis`, `postgresql`, `compiler`.
        #[arg(long, default_value = "/var/lib/proteus/images", value_name = "DIR")]
        images: PathBuf,
        /// Boot this guest of `proteus image build debian` instead of `small`; its systemd runs the services.
        #[arg(long, value_name = "DIR")]
        guest: Option<PathBuf>,
        /// Only guests of this service, as `nginx`, and no VM that changes its work.
        #[arg(long, value_name = "SERVICE")]
        only: Option<String>,
        /// Write prototypes of work that is not judged afterwards to this file, and judge nothing.
        #[arg(long, value_name = "FILE")]
        record: Option<PathBuf>,
        /// Serve on for so many minutes, and count what is told that did not happen.
        #[arg(long, default_value_t = 0, value_name = "MINUTES", value_parser = clap::value_parser!(u32).range(0..=10_080))]
        steady: u32,
    },
    /// What the guest agent costs in a real guest, beside QEMU's guest agent and Prometheus's node exporter in the
    /// same guest, each asked once a second.
    Agent {
        /// Folder of guests and images: `small`, and to be beside them `qemu-guest-agent` and `node-exporter`.
        #[arg(long, default_value = "/var/lib/proteus/images", value_name = "DIR")]
        images: PathBuf,
        /// For how long.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(5..=3600))]
        seconds: u32,
    },
    /// What the steady look at every VM costs the host, with a real VMM, tap and control group behind each; no guest
    /// boots, and everything is removed.
    Telemetry {
        /// VMs that are looked at.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
        vms: u16,
        /// For how long.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(10..=3600))]
        seconds: u32,
        /// Instead of that: takes in readings of so many VMs that there are not, each every ten seconds of so long,
        /// as fast as it can.
        #[arg(long, value_name = "VMS", conflicts_with = "vms", value_parser = clap::value_parser!(u32).range(1..=100_000))]
        ingest: Option<u32>,
    },
}

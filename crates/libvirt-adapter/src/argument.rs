//! What can be typed. Parsed once; unknown words are errors.

use crate::virsh::Virsh;
use clap::{Args, Parser, Subcommand};
use proteus_cli::argument::OutputForm;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const EXIT_CODES: &str = "Exit codes: 0 done · 1 failed · 2 wrong words · 3 not found · 7 libvirt not reachable\n\n\
Libvirt is asked through `virsh -r`, which it allows no change; nothing is installed in host or guest, and nothing is \
written outside the folder of --state.";

/// Watches the VMs of a libvirt that runs already, read-only, and says what each is.
#[derive(Debug, Parser)]
#[command(name = "proteus-libvirt", version, about, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Cli {
    /// Which libvirt, and how.
    #[command(flatten)]
    pub target: Target,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Heading of the options that every command takes.
const EVERYWHERE: &str = "Options of every command";

/// Which libvirt, where what is known is kept, and how answers are written.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// Which libvirt.
    #[arg(
        short,
        long,
        global = true,
        help_heading = EVERYWHERE,
        env = "LIBVIRT_DEFAULT_URI",
        default_value = "qemu:///system",
        value_name = "URI"
    )]
    pub connect: String,
    /// Folder of histories and records: the only one that is written to.
    #[arg(
        long,
        global = true,
        help_heading = EVERYWHERE,
        env = "PROTEUS_LIBVIRT_STATE",
        default_value = "/var/lib/proteus-libvirt",
        value_name = "DIR"
    )]
    pub state: PathBuf,
    /// The program that speaks with libvirt.
    #[arg(long, global = true, help_heading = EVERYWHERE, default_value = "virsh", value_name = "FILE")]
    pub virsh: PathBuf,
    /// Longest wait for an answer of libvirt, seconds.
    #[arg(
        long,
        global = true,
        help_heading = EVERYWHERE,
        default_value_t = 20,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=600)
    )]
    pub limit: u64,
    /// How answers are written.
    #[arg(
        long,
        global = true,
        help_heading = EVERYWHERE,
        value_enum,
        default_value_t = OutputForm::Text,
        value_name = "FORM"
    )]
    pub output: OutputForm,
}

impl Target {
    /// The way to it.
    pub fn virsh(&self) -> Virsh {
        Virsh {
            program: self.virsh.clone(),
            uri: self.connect.clone(),
            limit: Duration::from_secs(self.limit),
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// All domains, running or not, with what is known of them.
    List,
    /// Sample all running VMs, keep their histories, say what they are and when that changes, until SIGINT or SIGTERM.
    Watch(Watch),
    /// What a VM is, and why: by the watcher that runs, else by what the last one kept, or by own sampling.
    Show(Show),
    /// Write a VM's history to a file that `proteus telemetry import VM FILE` takes.
    Export(Export),
    /// What a round costs, beside the plain question to libvirt.
    Bench(Bench),
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|error| format!("{error}: expected ADDRESS:PORT"))?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err("only loopback, as 127.0.0.1:9178: nobody is asked who they are there".to_owned())
}

/// How to watch.
#[derive(Debug, Clone, Args)]
pub struct Watch {
    /// Seconds between two rounds: each asks libvirt once for all VMs.
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=30))]
    pub every: u64,
    /// Serve /metrics, /vms, /vms/NAME/personality, /healthz and /readyz there too; always at DIR/proteus.sock.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = loopback)]
    pub listen: Option<SocketAddr>,
}

impl Watch {
    /// Time between two rounds.
    pub fn every(&self) -> Duration {
        Duration::from_secs(self.every)
    }
}

/// What to show.
#[derive(Debug, Clone, Args)]
pub struct Show {
    /// Name, UUID or id.
    pub vm: String,
    /// Ask neither a watcher nor its folder: sample for so many seconds, and keep nothing.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(40..=3600))]
    pub sample: Option<u64>,
}

/// What to write.
#[derive(Debug, Clone, Args)]
pub struct Export {
    /// Name, UUID or id.
    pub vm: String,
    /// The file, which must not be there yet.
    pub file: PathBuf,
}

/// How to measure.
#[derive(Debug, Clone, Args)]
pub struct Bench {
    /// Rounds of each kind.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: u32,
}

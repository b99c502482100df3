//! What a VM is made of, what is collected inside it, and what is shown of its past, in words of the command line. Must
//! never check what only the host can tell.

use clap::{Args, ValueEnum};
use proteus_model::id::VmName;
use proteus_model::unit::Bytes;
use std::path::PathBuf;

/// A VM to make.
#[derive(Debug, Args)]
pub struct VmCreate {
    /// Its name.
    pub name: VmName,
    /// vCPUs at start.
    #[arg(long, default_value_t = 1)]
    pub vcpus: u32,
    /// vCPUs that may be plugged in all.
    #[arg(long)]
    pub vcpus_max: Option<u32>,
    /// Memory at start.
    #[arg(long, default_value = "512MiB", value_name = "SIZE")]
    pub memory: Bytes,
    /// Memory that there may be in all.
    #[arg(long, value_name = "SIZE")]
    pub memory_max: Option<Bytes>,
    /// Folder of a guest made by `proteus image build small` or `debian`: its kernel, its initramfs, and where it
    /// has one, its disk, of which the VM gets an overlay.
    #[arg(long, value_name = "DIR", conflicts_with = "kernel")]
    pub guest: Option<PathBuf>,
    /// Kernel to start directly.
    #[arg(long, requires = "initrd", value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Its initramfs.
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Words for the kernel's command line.
    #[arg(long, default_value = "", value_name = "WORDS")]
    pub append: String,
    /// A disk; qcow2 by its ending, else raw. With `,overlay` the VM writes into a disk of its own over FILE, which
    /// stays as it is; with `,ro` it only reads. The first is booted from. One that is named SERVICE-data and holds
    /// ext4 keeps that service's data. May be given again.
    #[arg(long = "disk", value_name = "NAME=FILE[,overlay|,ro]")]
    pub disks: Vec<String>,
    /// A read-only image of software with its service, made by `proteus image build`. May be given again.
    #[arg(long = "image", value_name = "FILE")]
    pub images: Vec<PathBuf>,
    /// What cloud-init in the guest shall do: a document that begins with `#cloud-config`, or a script.
    #[arg(long, value_name = "FILE")]
    pub user_data: Option<PathBuf>,
    /// Its meta-data; without it the VM's id is the instance and its name the host name.
    #[arg(long, requires = "user_data", value_name = "FILE")]
    pub meta_data: Option<PathBuf>,
    /// Its network configuration; without it the address comes by DHCP.
    #[arg(long, requires = "user_data", value_name = "FILE")]
    pub network_config: Option<PathBuf>,
    /// Start it whenever the host starts.
    #[arg(long)]
    pub autostart: bool,
    /// Only check.
    #[arg(long)]
    pub dry_run: bool,
}

/// What is collected inside a VM.
#[derive(Debug, Args)]
pub struct VmCollectors {
    /// Which.
    pub vm: String,
    /// Switch a collector off and forget what it found: connections, calls, logs, gpus, endpoints, files,
    /// configuration, users, libraries. May be given again.
    #[arg(long, value_name = "COLLECTOR")]
    pub off: Vec<String>,
    /// Switch a collector on again. May be given again.
    #[arg(long, value_name = "COLLECTOR")]
    pub on: Vec<String>,
    /// Whether its users are to be known of; they must consent inside the guest (`proteus-guest consent give`).
    #[arg(long, value_name = "BOOL")]
    pub users: Option<bool>,
    /// Whether calls of libraries as OpenSSL and zlib are to be counted, half a second a minute each; programs that call
    /// them run slower meanwhile.
    #[arg(long, value_name = "BOOL")]
    pub libraries: Option<bool>,
    /// Ask an application for its metrics in the OpenMetrics format, at an address of the guest itself, as
    /// `http://127.0.0.1:9100/metrics`. nginx, redis and PostgreSQL are found without. May be given again.
    #[arg(long, value_name = "URL")]
    pub endpoint: Vec<String>,
    /// Ask it no more. May be given again.
    #[arg(long, value_name = "URL")]
    pub no_endpoint: Vec<String>,
    /// Thousandths of a core that agent and collectors may use together; 5 where nothing was ever said.
    #[arg(long, value_name = "PERMILLE")]
    pub budget: Option<u32>,
    /// Only say what would be.
    #[arg(long)]
    pub dry_run: bool,
}

/// Which history is shown.
#[derive(Debug, Args)]
pub struct VmHistory {
    /// Of which VM.
    pub vm: String,
    /// How fine: ten seconds reach back two hours, a minute two days, ten minutes sixty days.
    #[arg(long, value_enum, default_value = "1m")]
    pub step: Step,
    /// Of what: `cpu`, `memory`, `disk_read`, …; without: everything that is known. May be given again.
    #[arg(long = "metric", value_name = "NAME")]
    pub metrics: Vec<String>,
}

/// A resolution.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Step {
    /// Ten seconds.
    #[value(name = "10s")]
    TenSeconds,
    /// A minute.
    #[value(name = "1m")]
    Minute,
    /// Ten minutes.
    #[value(name = "10m")]
    TenMinutes,
}

impl Step {
    /// Its length, s.
    pub fn seconds(self) -> u64 {
        match self {
            Self::TenSeconds => 10,
            Self::Minute => 60,
            Self::TenMinutes => 600,
        }
    }
}

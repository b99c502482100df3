//! What can be typed. Parsed once; unknown words are errors.

mod prometheus;

pub use prometheus::FromPrometheus;

mod bench;

pub use bench::Bench;

mod label;

mod vm;

mod when;

pub use label::Personality;
pub use vm::{Step, VmCollectors, VmCreate, VmHistory};
pub use when::When;

pub use crate::top::Sort;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use proteus_model::id::VmName;
use proteus_model::policy::Cidr;
use proteus_model::unit::Millis;
use proteus_model::uplink::InterfaceName;
use proteus_protocol::api::v1::{AUDIT_ENTRIES_MAX, AUDIT_ENTRIES_SHOWN, HISTORY_MAX, HISTORY_SHOWN};
use std::path::PathBuf;

const EXIT_CODES: &str = "Exit codes: 0 done · 1 failed · 2 wrong words · 3 not found · 4 refused as things are · \
5 morph rolled back · 6 morph parked · 7 Proteus not reachable · 8 not allowed\n\n\
With --output json an error is one JSON object on standard error: code, message, detail (a list of causes), hint. Codes \
are those of the API, and usage, file, failed, timed_out, unreachable.";

/// Heading of the options that every command takes.
const EVERYWHERE: &str = "Options of every command";

/// Reshapes virtual machines while they run.
#[derive(Debug, Parser)]
#[command(name = "proteus", version, about, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Cli {
    /// Folder of Proteus's state.
    #[arg(
        long,
        global = true,
        help_heading = EVERYWHERE,
        env = "PROTEUS_STATE",
        default_value = "/var/lib/proteus",
        value_name = "DIR"
    )]
    pub state: PathBuf,
    /// Another server than the one on this host: http://ADDRESS:PORT or https://NAME:PORT.
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "PROTEUS_SERVER", value_name = "URL")]
    pub server: Option<String>,
    /// Token for that server.
    #[arg(
        long,
        global = true,
        help_heading = EVERYWHERE,
        env = "PROTEUS_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    pub token: Option<String>,
    /// Certificate authority of that server (PEM), for https.
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "PROTEUS_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
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
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputForm {
    /// For people.
    Text,
    /// For programs: one JSON value.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run Proteus on this host.
    Serve(Serve),
    /// Run the demonstration on real VMs.
    Demo(Demo),
    /// Tell what this machine can do, what is missing, and the command that mends it.
    Doctor,
    /// Virtual machines.
    #[command(subcommand)]
    Vm(Vm),
    /// Guests and images of software.
    #[command(subcommand)]
    Image(Image),
    /// Profiles: what a VM is asked to be.
    #[command(subcommand)]
    Profile(Profile),
    /// Morphs: carrying out a plan on a running VM.
    #[command(subcommand)]
    Morph(Morph),
    /// The host.
    #[command(subcommand)]
    Host(Host),
    /// Who has what.
    #[command(subcommand)]
    Allocation(Allocation),
    /// Let no forward step begin; running morphs are undone.
    Disarm(Disarm),
    /// Let forward steps begin again.
    Arm(Arm),
    /// Show the audit log and check its chain.
    Audit(Audit),
    /// Tokens for the API.
    #[command(subcommand)]
    Token(Token),
    /// Labels: what VMs are known by.
    #[command(subcommand)]
    Personality(Personality),
    /// Histories of VMs, as files.
    #[command(subcommand)]
    Telemetry(Telemetry),
    /// Write what is known of a VM, or of all, into an HTML page with plots: no server and no network is needed to read it.
    Report(Report),
    /// Watch all VMs: what they use, where they wait, which morphs are under way.
    Top(Top),
    /// The state of Proteus.
    #[command(subcommand)]
    Store(Store),
    /// Measurements, each beside a baseline.
    #[command(subcommand)]
    Bench(Bench),
    /// Completion for a shell.
    Completion {
        /// Which shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// How to run Proteus.
#[derive(Debug, Args)]
pub struct Serve {
    /// Address for the HTTP API. Any other than loopback takes TLS.
    #[arg(long, default_value = "127.0.0.1:7313", value_name = "ADDRESS")]
    pub listen: std::net::SocketAddr,
    /// Certificate chain (PEM).
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Serve the unix socket only.
    #[arg(long, conflicts_with_all = ["tls_cert"])]
    pub no_http: bool,
}

/// How to run the demonstration.
#[derive(Debug, Args)]
pub struct Demo {
    /// Folder of guests and images, made with `proteus image build`.
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// Leave everything running, and say how to stop it.
    #[arg(long)]
    pub keep: bool,
    /// Where the report goes.
    #[arg(long, default_value = "demo-report.json", value_name = "FILE")]
    pub report: PathBuf,
}

/// Virtual machines.
#[derive(Debug, Subcommand)]
pub enum Vm {
    /// Make a VM.
    Create(Box<VmCreate>),
    /// Start a VM.
    Start {
        /// Which.
        vm: String,
        /// Wait until its agent answers and the services that it was given serve: at most 5 minutes. Ends at once, with
        /// exit code 1 and the reason, when one of them failed or the VM ended.
        #[arg(long)]
        wait: bool,
    },
    /// Stop a VM: the guest is asked, and ended when its time is up.
    Stop {
        /// Which.
        vm: String,
        /// How long the guest may take.
        #[arg(long, default_value = "30s", value_name = "TIME")]
        grace: Millis,
    },
    /// Give a VM another name. All that is known of it stays; its guest keeps its host name.
    Rename {
        /// Which.
        vm: String,
        /// The name.
        name: VmName,
        /// Only say whether it could have it.
        #[arg(long)]
        dry_run: bool,
    },
    /// Make a running VM a template: it ends for good, and clones begin from it in a moment.
    Template {
        /// Which.
        vm: String,
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Start a new VM from a template: running at once, with an identity of its own.
    Clone {
        /// The template.
        template: String,
        /// Name of the new VM.
        name: VmName,
        /// Wait until its services serve; ends at once, with exit code 1, when one of them failed.
        #[arg(long)]
        wait: bool,
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove a stopped VM.
    Delete {
        /// Which.
        vm: String,
        /// Only say what would be removed.
        #[arg(long)]
        dry_run: bool,
    },
    /// All VMs.
    List,
    /// One VM: what it is, has and can do live.
    Show {
        /// Which.
        vm: String,
        /// What it is observed to be: its label and why, what it became, and the whole record, part by part.
        #[arg(long)]
        personality: bool,
    },
    /// Where a VM is not as Proteus left it: settings that somebody else changed, and such as a guest moves by itself,
    /// as its memory.
    Differences {
        /// Which.
        vm: String,
    },
    /// Its serial console. Who opens it, when, and how much they type is in the audit log; what they type is not.
    Console {
        /// Which.
        vm: String,
        /// Print what is there and end; also of a VM that ended since Proteus runs.
        #[arg(long)]
        dump: bool,
    },
    /// What it uses now, look by look, until interrupted: from the host's own books, and from its agent what only a
    /// guest can know. What was not measured is not shown.
    Watch {
        /// Which.
        vm: String,
        /// End after so many looks.
        #[arg(long, value_name = "N")]
        count: Option<u32>,
    },
    /// What is collected inside it beyond its use, and what that costs; with options, what shall be. A collector
    /// sheds itself when agent and collectors would pass their budget, 0.5 % of a core and 20 MB.
    Collectors(VmCollectors),
    /// How its configuration differs between two moments: settings that Proteus turns and, where its agent is heard,
    /// packages, units, kernel parameters, mounts, files below /etc and devices, whoever changed them.
    Configuration {
        /// Which.
        vm: String,
        /// The earlier moment: so long ago, as `2h`, or as 2026-11-28T18:00:00Z.
        #[arg(long, default_value = "24h", value_name = "WHEN")]
        since: When,
        /// The later one; now without.
        #[arg(long, value_name = "WHEN")]
        until: Option<When>,
    },
    /// What it used over time, as the host keeps it: also of a VM that does not run.
    History(VmHistory),
    /// Snapshots of disks and RAM together.
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Run a program inside; its exit code becomes this one's. The words of the command, up to 4 KiB, and how it ended
    /// are in the audit log. No secret belongs among them: give it on standard input with `-i`, which only
    /// its length is told of. Of standard output and of standard error the first 64 KiB each come out; where that
    /// was not all, it is said on standard error.
    Exec {
        /// Which.
        vm: String,
        /// Give the program what comes on standard input, to its end; at most 64 KiB. Without: nothing.
        #[arg(short = 'i', long = "stdin")]
        stdin: bool,
        /// In the file system of this service.
        #[arg(long, value_name = "SERVICE")]
        service: Option<String>,
        /// When to end it; at most 10 minutes. Begin what takes longer in the background:
        /// `sh -c 'PROGRAM >FILE 2>&1 &'`.
        #[arg(long, default_value = "60s", value_name = "TIME")]
        timeout: Millis,
        /// Program and arguments. One without a path is looked up by the shell inside.
        #[arg(last = true, required = true)]
        argv: Vec<String>,
    },
}

/// Histories of VMs, as files.
#[derive(Debug, Subcommand)]
pub enum Telemetry {
    /// Write the whole history of a VM into a new file: all its resolutions, to be imported elsewhere.
    Export {
        /// Of which VM.
        vm: String,
        /// Where to; nothing is written over.
        #[arg(short, long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Take a history in beside what is known: a file of `telemetry export`, or CSV, whose first line names `time` and
    /// metrics (`time,cpu,memory`), times being seconds since 1970 or as 2026-11-28T18:00:00Z. An empty field was not
    /// measured. Or from a Prometheus, with --prometheus. All of it is read before any of it is taken; of two stretches
    /// of the same time the fuller stays.
    Import {
        /// To which VM.
        vm: String,
        /// The file; `-` is standard input.
        #[arg(required_unless_present = "prometheus")]
        file: Option<PathBuf>,
        /// Or a server.
        #[command(flatten)]
        from: Box<FromPrometheus>,
        /// Only say what it has.
        #[arg(long)]
        dry_run: bool,
    },
}

/// What a page is about, and where it goes.
#[derive(Debug, Args)]
pub struct Report {
    /// This VM: what it is, all that is kept of what it used, its versions and morphs.
    #[arg(required_unless_present = "fleet", conflicts_with = "fleet")]
    pub vm: Option<String>,
    /// All VMs, and what they take of the host together. There is one host: `--host` is the same.
    #[arg(long, visible_alias = "host")]
    pub fleet: bool,
    /// The page. A file that is there is replaced once the new one is whole.
    #[arg(short, long, value_name = "FILE.html")]
    pub out: PathBuf,
    /// How fine. Without: of a VM the finest that reaches back over all that is kept of it, of all VMs a minute. Of all
    /// VMs the last half-hour, three hours or thirty hours are shown.
    #[arg(long, value_enum)]
    pub step: Option<Step>,
}

/// How all VMs are watched.
#[derive(Debug, Args)]
pub struct Top {
    /// Print it once as a table, and end: for programs, and where there is no terminal.
    #[arg(long)]
    pub once: bool,
    /// In which order at first; keys change it.
    #[arg(long, value_enum, default_value = "cpu")]
    pub sort: Sort,
    /// Time between two looks, at least 500ms. Of many VMs those on the screen are asked for at each, the others in turn.
    #[arg(long, default_value = "2s", value_name = "TIME", conflicts_with = "once")]
    pub interval: Millis,
}

/// Snapshots of a VM. They are kept inside its qcow2 disks.
#[derive(Debug, Subcommand)]
pub enum Snapshot {
    /// Save disks and RAM; the guest stands still meanwhile.
    Create {
        /// Of which VM.
        vm: String,
        /// What to call it; without: the next free snapshot-N.
        name: Option<String>,
        /// Only say whether it can be done and what it costs.
        #[arg(long)]
        dry_run: bool,
    },
    /// All snapshots of a VM.
    List {
        /// Which VM.
        vm: String,
    },
    /// Go back to a snapshot. Whatever came after it is lost.
    Restore {
        /// Which VM.
        vm: String,
        /// Which snapshot.
        name: String,
        /// Yes, lose what came after it.
        #[arg(long)]
        yes: bool,
        /// Only say what would be lost.
        #[arg(long)]
        dry_run: bool,
    },
    /// Forget a snapshot, and free its disk.
    Delete {
        /// Which VM.
        vm: String,
        /// Which snapshot.
        name: String,
        /// Only say what would be deleted.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Guests and images.
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Build guests and images: `small`, `debian`, or packages: `nginx`, `redis`, `postgresql`;
    /// for `bench agent` also `qemu-guest-agent`, `node-exporter`.
    Build {
        /// What to build.
        #[arg(required = true)]
        what: Vec<String>,
        /// Where to; without: the folder `images` of the state.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// The static guest agent.
        #[arg(long, default_value = "/usr/lib/proteus/proteus-guest", value_name = "FILE")]
        agent: PathBuf,
        /// `debian` with cloud-init, in a folder `debian-cloud-init`; `vm create --user-data` gives it its seed.
        #[arg(long)]
        cloud_init: bool,
    },
}

/// Profiles.
#[derive(Debug, Subcommand)]
pub enum Profile {
    /// Check a document; every problem with file, line, field and hint.
    Validate {
        /// The documents; `-` is standard input.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// All profiles.
    List,
    /// One profile.
    Show {
        /// NAME or NAME@VERSION.
        label: String,
    },
    /// Take a document into the registry.
    Push {
        /// The document; `-` is standard input.
        file: PathBuf,
        /// Only say whether it would be taken; `profile validate` checks documents without asking Proteus.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Where a morph leads.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Goal {
    /// A profile: NAME or NAME@VERSION.
    #[arg(long)]
    pub profile: Option<String>,
    /// A new VMM process under the same guest.
    #[arg(long)]
    pub fresh_vmm: bool,
}

/// Morphs.
#[derive(Debug, Subcommand)]
pub enum Morph {
    /// Show what would change, why, at what risk, and how it is undone. Changes nothing.
    Plan {
        /// Which VM.
        vm: String,
        /// Where it leads.
        #[command(flatten)]
        goal: Goal,
        /// Begin with a snapshot of disks and RAM, to go back to by hand.
        #[arg(long)]
        snapshot: bool,
        /// Plan as it is carried out without what is not supported here.
        #[arg(long)]
        skip_unsupported: bool,
    },
    /// Carry it out: verified, and undone by itself if it does harm.
    Apply {
        /// Which VM.
        vm: String,
        /// Where it leads.
        #[command(flatten)]
        goal: Goal,
        /// Begin with a snapshot of disks and RAM, to go back to by hand.
        #[arg(long)]
        snapshot: bool,
        /// Go on without what is not supported here.
        #[arg(long)]
        skip_unsupported: bool,
        /// Only show the plan, and say whether it could begin.
        #[arg(long)]
        dry_run: bool,
        /// Do not wait for the end.
        #[arg(long)]
        detach: bool,
    },
    /// One morph.
    Status {
        /// Which.
        morph: String,
    },
    /// Stop a running morph and undo it.
    Abort {
        /// Which.
        morph: String,
        /// Leave it where it is instead.
        #[arg(long)]
        hold: bool,
    },
    /// Go back to an earlier version of a VM.
    Rollback {
        /// Which VM.
        vm: String,
        /// Which version; `proteus morph history VM` shows them.
        #[arg(long)]
        to: u64,
        /// Begin with a snapshot of disks and RAM, to go back to by hand.
        #[arg(long)]
        snapshot: bool,
        /// Only show the plan, and say whether it could begin.
        #[arg(long)]
        dry_run: bool,
    },
    /// All morphs, or the versions of one VM.
    History {
        /// Of this VM.
        vm: Option<String>,
        /// How many at most, the last of them.
        #[arg(
            long,
            default_value_t = HISTORY_SHOWN,
            value_name = "NUMBER",
            value_parser = RangedU64ValueParser::<usize>::new().range(1..=HISTORY_MAX as u64)
        )]
        limit: usize,
        /// Of those before this morph, or of a VM this version.
        #[arg(long, value_name = "MORPH|VERSION")]
        before: Option<String>,
    },
}

/// The host.
#[derive(Debug, Subcommand)]
pub enum Host {
    /// What it is and has.
    Show,
    /// Whether and how guests reach the outside.
    #[command(subcommand)]
    Uplink(Uplink),
}

/// The guests' way out. Kept over restarts until it is disabled.
#[derive(Debug, Subcommand)]
pub enum Uplink {
    /// Let guests reach the outside: not the host itself, not private networks, and nobody reaches them.
    Enable {
        /// The host's interface; without: that of its default route.
        #[arg(long, value_name = "IFACE")]
        interface: Option<InterfaceName>,
        /// Name server for guests that ask for an address; without: the host's own. May be given again.
        #[arg(long, value_name = "ADDRESS")]
        dns: Vec<std::net::Ipv4Addr>,
        /// A private network behind the interface that guests may reach all the same. May be given again.
        #[arg(long, value_name = "NETWORK")]
        allow: Vec<Cidr>,
        /// Only say what would be made.
        #[arg(long)]
        dry_run: bool,
    },
    /// Let guests reach nothing outside.
    Disable {
        /// Only say what would be taken away.
        #[arg(long)]
        dry_run: bool,
    },
    /// How it is.
    Show,
}

/// Who has what.
#[derive(Debug, Subcommand)]
pub enum Allocation {
    /// The table.
    Show,
}

/// What to disarm.
#[derive(Debug, Args)]
pub struct Disarm {
    /// Only this VM.
    #[arg(long)]
    pub vm: Option<String>,
    /// Leave running morphs where they are.
    #[arg(long)]
    pub hold: bool,
}

/// What to arm.
#[derive(Debug, Args)]
pub struct Arm {
    /// Only this VM.
    #[arg(long)]
    pub vm: Option<String>,
}

/// What to show of the audit log.
#[derive(Debug, Args)]
pub struct Audit {
    /// How many entries at most, the last of them.
    #[arg(
        long,
        default_value_t = AUDIT_ENTRIES_SHOWN,
        value_name = "NUMBER",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=AUDIT_ENTRIES_MAX as u64)
    )]
    pub limit: usize,
    /// Of those before this one.
    #[arg(long, value_name = "SEQ")]
    pub before: Option<u64>,
}

/// What a token may do.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RoleWord {
    /// Look.
    Viewer,
    /// Look, and change VMs.
    Operator,
    /// Everything.
    Admin,
}

/// Tokens.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token; its secret is shown once.
    Create {
        /// Who it is for.
        name: String,
        /// What it may do.
        #[arg(long, value_enum, default_value = "viewer")]
        role: RoleWord,
    },
    /// All tokens.
    List,
    /// Make a token worthless.
    Revoke {
        /// Which.
        name: String,
    },
}

/// The state.
#[derive(Debug, Subcommand)]
pub enum Store {
    /// Copy records, journal and audit log into a file that can be opened as it is, also while Proteus serves; what is
    /// to be written waits meanwhile. Disks of VMs and images are not in it.
    Backup {
        /// Where to; without: a new file in the folder `backups` of the state. Not with `--server`, which writes on
        /// its own host.
        to: Option<PathBuf>,
    },
    /// Look whether the state is whole. Not while Proteus serves: then a backup can be checked.
    Check,
}

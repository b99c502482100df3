//! A node that looks at VMs: real VMMs with taps and control groups, whose guests sleep in their boot sector. Each VM
//! that is begun is ended, its files with it, however the bench ends short of a SIGKILL.

use super::baseline::{self, Files};
use super::{Line, MEMORY, MEMORY_VM, cpu, interruption, megabytes, print, resident, share, times};
use crate::demo::host::leftovers;
use crate::service;
use anyhow::{Context, Result, bail, ensure};
use proteus_cli::argument::Cli;
use proteus_cli::terminal;
use proteus_host_agent::node::{HostAgent, HostFacts, Reach};
use proteus_hypervisor::driver::Driver;
use proteus_hypervisor::qemu::QemuDriver;
use proteus_model::id::VmId;
use proteus_model::telemetry::Metric;
use proteus_model::unit::{Bytes, Millis};
use proteus_model::vm::{Boot, DiskFormat, DiskIntent, VmIntent};
use proteus_protocol::node::v1::Node;
use rustix::time::ClockId;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// Share of a core that looking at [`GOAL_VMS`] may take, percent.
const GOAL_CORE: f64 = 2.0;
const GOAL_VMS: u16 = 50;
/// Memory of each guest, of which it touches next to nothing.
const GUEST: Bytes = Bytes::mib(96);
/// vCPUs of each guest.
const VCPUS: u32 = 2;
/// Longest wait for every VM to have been looked at and asked: that is once in ten seconds.
const SEEN_LIMIT: Duration = Duration::from_secs(60);
/// So long after its start the node greets a guest that does not answer (`bring_up.rs` of the node).
const GREETED: Duration = Duration::from_secs(300);
/// How often that is looked for.
const POLL: Duration = Duration::from_millis(100);
/// Longest wait for the kernel to take an ended VMM out of sight.
const GONE_LIMIT: Duration = Duration::from_secs(10);

/// A boot sector that stops its CPU for good: `cli`, `hlt`, and back to it.
fn boot_sector() -> [u8; 512] {
    let mut sector = [0; 512];
    sector[..4].copy_from_slice(&[0xFA, 0xF4, 0xEB, 0xFD]);
    sector[510..].copy_from_slice(&[0x55, 0xAA]);
    sector
}

fn intent(number: u16, dir: &Path) -> Result<VmIntent> {
    let path = dir.join(format!("{number}.raw"));
    std::fs::write(&path, boot_sector()).with_context(|| format!("write {}", path.display()))?;
    let disk =
        DiskIntent { name: "boot".parse()?, path, format: DiskFormat::Raw, read_only: false, overlay: false };
    let intent = VmIntent::new(format!("bench-{number}").parse()?, Boot::Firmware, GUEST);
    Ok(VmIntent { vcpus: VCPUS, vcpus_max: VCPUS, disks: vec![disk], ..intent })
}

/// The node in this process, and what it was given.
struct Bench {
    dir: TempDir,
    instance: String,
    driver: Arc<QemuDriver>,
    node: Arc<HostAgent>,
    vms: Vec<VmId>,
    pids: Vec<u32>,
}

/// What the node took over some time.
struct Taken {
    cpu: Duration,
    time: Duration,
}

impl Taken {
    fn share(&self) -> f64 {
        share(self.cpu, self.time)
    }
}

/// What was measured.
struct Measured {
    /// The node with its VMs, and nobody looks.
    idle: Taken,
    /// Reading the files alone, in the same time.
    plain: Duration,
    looks: u32,
    /// The node that looks.
    looking: Taken,
    resident: u64,
}

impl Bench {
    async fn open() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("proteus-bench-").tempdir().context("make a folder")?;
        // VMMs, each of a user of its own, pass through it.
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o711))?;
        let instance = service::instance(dir.path())?;
        let driver = Arc::new(QemuDriver::open(&instance, dir.path()).await.context("open the host")?);
        let probe = driver.probe_report();
        terminal::say_aside(format_args!("guests run on {} ({})", probe.accelerator.word(), probe.why));
        let facts = HostFacts {
            accelerator: probe.accelerator.word().to_owned(),
            accelerator_why: probe.why.clone(),
            hypervisor: probe.version.clone(),
        };
        let reach = Reach::Network(driver.network().clone());
        match HostAgent::open(driver.clone(), reach, facts, dir.path()).await {
            Ok(node) => {
                let (node, vms, pids) = (Arc::new(node), Vec::new(), Vec::new());
                Ok(Self { dir, instance, driver, node, vms, pids })
            }
            Err(error) => {
                driver.close_if_idle().await.context("give the host back")?;
                Err(error).context("open the node")
            }
        }
    }

    async fn start(&mut self, vms: u16, stop: &CancellationToken) -> Result<()> {
        for number in 0..vms {
            ensure!(!stop.is_cancelled(), "told to end");
            let vm = VmId::from_bits((u128::from(number) + 1) << 96);
            // From here on it is to be removed.
            self.vms.push(vm);
            self.node.create(vm, &intent(number, self.dir.path())?).await?;
            self.node.start(vm).await?;
            self.pids.push(self.driver.pid(vm).await.context("a VM ended at once")?);
        }
        Ok(())
    }

    /// What this process takes until so many seconds have gone by.
    async fn take(&self, seconds: u32, stop: &CancellationToken) -> Result<Taken> {
        let (begin, start) = (cpu(ClockId::ProcessCPUTime), Instant::now());
        let time = Duration::from_secs(seconds.into());
        // Cancel-safe: a token that is not waited for again.
        if tokio::time::timeout(time, stop.cancelled()).await.is_ok() {
            bail!("told to end");
        }
        Ok(Taken { cpu: cpu(ClockId::ProcessCPUTime).saturating_sub(begin), time: start.elapsed() })
    }

    fn files(&self) -> Vec<Files> {
        let ram = Path::new("/dev/shm").join(format!("proteus-{}", self.instance));
        let of = |(vm, pid): (&VmId, &u32)| {
            Files::of(&self.instance, &vm.short(), *pid, ram.join(format!("{vm}.ram")))
        };
        self.vms.iter().zip(&self.pids).map(of).collect()
    }

    /// Nobody looks, and beside it the files are read.
    async fn take_idle(&self, seconds: u32, stop: &CancellationToken) -> Result<(Taken, Duration, u32)> {
        let (go_on, told) = std::sync::mpsc::channel();
        let (files, namespace) = (self.files(), self.driver.network().namespace().to_owned());
        let reading = tokio::task::spawn_blocking(move || {
            // On a thread of its own: it does not leave the guests' network again.
            let reader = std::thread::spawn(move || baseline::read(&namespace, &files, &told));
            reader.join().unwrap_or_else(|_| bail!("the plain reading failed"))
        });
        let taken = self.take(seconds, stop).await;
        drop(go_on);
        let (plain, rounds) = reading.await??;
        let mut taken = taken?;
        taken.cpu = taken.cpu.saturating_sub(plain);
        Ok((taken, plain, rounds))
    }

    /// Waits until every VM was looked at twice and its disks were asked for: what is not measured costs nothing.
    async fn wait_seen(&self, stop: &CancellationToken) -> Result<()> {
        const WANTED: [Metric; 5] =
            [Metric::Cpu, Metric::Memory, Metric::Overhead, Metric::PacketsSent, Metric::Reads];
        let start = Instant::now();
        for vm in &self.vms {
            loop {
                ensure!(!stop.is_cancelled(), "told to end");
                let seen = self.node.usage(*vm).await?;
                let Some(missing) = WANTED.iter().find(|metric| !seen.values.contains_key(metric)) else {
                    break;
                };
                ensure!(start.elapsed() < SEEN_LIMIT, "{missing} of {vm} is not measured");
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    async fn measure(&mut self, vms: u16, seconds: u32, stop: &CancellationToken) -> Result<Measured> {
        terminal::say_aside(format_args!("{vms} VMs are started"));
        let start = Instant::now();
        self.start(vms, stop).await?;
        terminal::say_aside(format_args!(
            "for {seconds} s nobody looks, and the files are read for themselves"
        ));
        let (idle, plain, looks) = self.take_idle(seconds, stop).await?;
        let end = CancellationToken::new();
        let watching = tokio::spawn(self.node.clone().watch(end.clone()));
        terminal::say_aside(format_args!("for {seconds} s the node looks, once all were seen"));
        let looking = match self.wait_seen(stop).await {
            Ok(()) => self.take(seconds, stop).await,
            Err(error) => Err(error),
        };
        let resident = resident();
        if start.elapsed() > GREETED {
            terminal::say_aside(format_args!(
                "the node gave up greeting guests meanwhile: one look costs more than the difference says"
            ));
        }
        end.cancel();
        watching.await.context("the task that looks at VMs failed")?;
        Ok(Measured { idle, plain, looks, looking: looking?, resident: resident? })
    }

    /// Ends and removes everything. What is left nevertheless.
    async fn end(self) -> Vec<String> {
        let mut left = Vec::new();
        for vm in &self.vms {
            // What was never made is not found, and what does not run is stopped already.
            let _ = self.node.stop(*vm, Millis(0)).await;
            let _ = self.node.delete(*vm).await;
        }
        if let Err(error) = self.driver.close_if_idle().await {
            left.push(error.to_string());
        }
        let start = Instant::now();
        loop {
            let seen = leftovers(&self.instance, &self.pids);
            if seen.is_empty() || start.elapsed() > GONE_LIMIT {
                left.extend(seen);
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        let path = self.dir.path().display().to_string();
        if let Err(error) = self.dir.close() {
            left.push(format!("{path}: {error}"));
        }
        left
    }
}

fn lines(vms: u16, measured: &Measured) -> Vec<Line> {
    let Measured { idle, plain, looks, looking, resident } = measured;
    let goal = GOAL_CORE * f64::from(vms) / f64::from(GOAL_VMS);
    // Per second: the stretches are not of exactly the same length.
    let own = looking.cpu.div_f64(looking.time.as_secs_f64());
    let rest = idle.cpu.div_f64(idle.time.as_secs_f64());
    let look = own.saturating_sub(rest);
    let plain = *plain / (*looks).max(1);
    let memory = MEMORY + MEMORY_VM * u64::from(vms);
    vec![
        Line::new(
            format!("node that looks at {vms} VMs once a second"),
            format!("{:.2} % of a core", looking.share()),
        )
        .goal(format!("at most {goal:.2} %"))
        .beside(format!("{} the plain reading", times(own, plain))),
        Line::new("the same node while nobody looks", format!("{:.2} % of a core", idle.share()))
            .beside("it greets guests that do not answer"),
        Line::new(
            "so one look at one VM",
            format!("{:.0} µs of CPU", look.as_secs_f64() * 1e6 / f64::from(vms)),
        )
        .beside(format!("{} the plain reading", times(look, plain))),
        Line::new(
            "the same files, read and thrown away, per VM",
            format!("{:.0} µs of CPU", plain.as_secs_f64() * 1e6 / f64::from(vms)),
        )
        .beside("baseline"),
        Line::new("resident memory of the node", megabytes(*resident))
            .goal(format!("at most {}", megabytes(memory)))
            .beside(format!("{:.0} % of the goal", *resident as f64 / memory as f64 * 100.0)),
    ]
}

/// Runs it.
pub(in crate::bench) async fn run(cli: &Cli, vms: u16, seconds: u32) -> Result<u8> {
    let stop = interruption()?;
    // Outside of the task that measures: also where that panics everything is removed.
    let bench = Arc::new(Mutex::new(Bench::open().await?));
    let (measuring, told) = (bench.clone(), stop.clone());
    let task = tokio::spawn(async move { measuring.lock().await.measure(vms, seconds, &told).await });
    let measured = task.await.context("the bench failed");
    let bench = Arc::into_inner(bench).context("the bench goes on though it ended")?.into_inner();
    for left in bench.end().await {
        terminal::say_aside(format_args!("left behind: {left}"));
    }
    print(cli, lines(vms, &measured??));
    terminal::say_aside(format_args!(
        "no guest runs an agent here: what guests say is in `--ingest`, not in this"
    ));
    Ok(0)
}

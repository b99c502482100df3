//! Readings of many VMs that there are not, through the node's own way into real history files, as fast as one core
//! can. Must never count the making of what is taken in.

use super::{Line, MEMORY, MEMORY_VM, cpu, interruption, megabytes, print, resident, share, times};
use anyhow::{Context, Result, ensure};
use proteus_cli::argument::Cli;
use proteus_cli::terminal;
use proteus_host_agent::telemetry::Intake;
use proteus_model::id::VmId;
use proteus_model::unit::{Bytes, UnixMillis};
use proteus_model::vm::{GroupCounters, VmCounters};
use proteus_protocol::guest::GUEST_PAYLOAD_BYTES_MAX;
use proteus_protocol::guest::frame::{Decoder, encode};
use proteus_protocol::guest::v1::sample::{Cpu, Disk, Memory, Nic, Pressure, PressureSet, Process};
use proteus_protocol::guest::v1::{GuestMessage, Reply, Sample};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::ClockId;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Time between two readings of a VM.
const STEP: Duration = Duration::from_secs(10);
/// Files that are open beside the histories.
const FILES_BESIDE: u64 = 200;
/// Processes that a guest tells of.
const PROCESSES: u64 = 8;
/// Bytes of a history that is full, and of one of its slots (`telemetry/history.rs` of the node).
const HISTORY_BYTES: u64 = 4096 + 12_240 * SLOT_BYTES;
const SLOT_BYTES: u64 = 233;
/// When the made-up time begins: a full ten minutes.
const BEGIN: UnixMillis = UnixMillis(1_790_000_400_000);

/// What was measured.
struct Measured {
    rounds: u32,
    took: Duration,
    plain: Duration,
    before: u64,
    after: u64,
    on_disk: u64,
}

fn counters(round: u64, vm: u64) -> VmCounters {
    // Of each VM another load, from one second to the next.
    let (busy, moved) = (round * (1_000_000_000 + vm * 50_000), round * (4096 * (1 + vm % 512)));
    VmCounters {
        at: UnixMillis(BEGIN.0 + round * 10_000),
        vcpu_run_ns: Some(busy),
        vcpu_wait_ns: Some(busy / 50),
        throttled_ns: Some(0),
        psi_cpu_us: None,
        psi_memory_us: None,
        psi_io_us: None,
        vmm_run_ns: Some(busy + busy / 10),
        resident: Some(Bytes::mib(64 + (vm + round) % 256)),
        net_to_guest: Some(moved),
        net_from_guest: Some(moved * 2),
        packets_to_guest: Some(moved / 1000),
        packets_from_guest: Some(moved / 500),
        disk_read: Some(moved * 3),
        disk_written: Some(moved * 5),
        disk_reads: Some(moved / 4096),
        disk_writes: Some(moved / 2048),
        disk_flushes: Some(round * 3),
        disk_took_ns: Some(moved * 40),
        instructions: Some(busy * 3),
        cycles: Some(busy * 2),
        cache_misses: Some(busy / 500),
        vcpus: Some(1),
        disk_latencies: None,
        group: GroupCounters::default(),
    }
}

/// What a guest says, as it comes out of its channel.
fn word(round: u64) -> Result<Vec<u8>> {
    let pressure = |total_us| Some(Pressure { avg10: 20, avg60: 10, total_us });
    let process = |number| Process {
        pid: 100 + number as u32,
        started_ticks: 5000 + number,
        name: format!("worker-{number}"),
        cpu_us: round * 100_000,
        resident: 8 << 20,
        threads: 4,
        read: Some(round * 4096),
        written: Some(round * 40_960),
    };
    let sample = Sample {
        sequence: round,
        taken_at_ms: BEGIN.0 + round * 10_000,
        uptime_ms: Some(round * 10_000),
        cpu: Some(Cpu {
            user_us: round * 800_000,
            system_us: round * 150_000,
            idle_us: round * 9_000_000,
            online: 2,
            switches: Some(round * 4000),
            forks: Some(round * 20),
            ..Cpu::default()
        }),
        memory: Some(Memory { total: 512 << 20, available: 300 << 20, ..Memory::default() }),
        pressure: PressureSet {
            cpu_some: pressure(round * 90_000),
            memory_some: pressure(round * 10_000),
            io_some: pressure(round * 40_000),
            ..PressureSet::default()
        },
        disks: Some(vec![Disk { name: "vda".into(), reads: round, ..Disk::default() }]),
        nics: Some(vec![Nic { name: "eth0".into(), received: round * 9000, ..Nic::default() }]),
        processes: Some((0..PROCESSES).map(process).collect()),
    };
    let message =
        GuestMessage::Reply { id: round, reply: Box::new(Reply::Sample { sample: Box::new(sample) }) };
    encode(&message, GUEST_PAYLOAD_BYTES_MAX).context("write a guest's word")
}

/// Takes one word out of a channel's bytes.
fn heard(bytes: &[u8]) -> Option<Sample> {
    let mut decoder = Decoder::<GuestMessage>::new(GUEST_PAYLOAD_BYTES_MAX);
    decoder.push(bytes);
    match decoder.next()?.ok()? {
        GuestMessage::Reply { reply, .. } => match *reply {
            Reply::Sample { sample } => Some(*sample),
            _ => None,
        },
        GuestMessage::Event { .. } | GuestMessage::Unknown => None,
    }
}

/// As many files at once as there are histories.
fn allow_files(vms: u32) -> Result<()> {
    let wanted = u64::from(vms) + FILES_BESIDE;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    ensure!(
        limit.maximum.is_none_or(|most| most >= wanted),
        "{vms} histories are as many open files, and this process may have {} (`ulimit -Hn`)",
        limit.maximum.unwrap_or(0)
    );
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit }).context("allow more open files")
}

fn open(dir: &Path, vms: u32) -> Result<Vec<Intake>> {
    let open = |number: u32| {
        let place = dir.join(number.to_string());
        std::fs::create_dir(&place).with_context(|| format!("make {}", place.display()))?;
        let vm = VmId::from_bits((u128::from(number) + 1) << 96);
        Ok(Intake::open(&place, vm, format!("bench-{number}").parse()?))
    };
    (0..vms).map(open).collect()
}

/// Blocks of the disk under all histories, bytes.
fn on_disk(dir: &Path, vms: u32) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let of = |number: u32| -> Result<u64> {
        let path = dir.join(number.to_string()).join("history");
        // Where one could not be opened the node goes on without, and this would measure less.
        let blocks = std::fs::metadata(&path).with_context(|| format!("find {}", path.display()))?.blocks();
        Ok(blocks * 512)
    };
    (0..vms).map(of).sum()
}

/// Writing as much to the same files and nothing else: a slot for each reading.
fn plain(dir: &Path, vms: u32, rounds: u32) -> Result<Duration> {
    let path = |number: u32| dir.join(number.to_string()).join("plain");
    let files: Vec<File> = (0..vms).map(|number| File::create(path(number))).collect::<Result<_, _>>()?;
    let (slot, begin) = ([7; SLOT_BYTES as usize], cpu(ClockId::ThreadCPUTime));
    for round in 0..rounds {
        for file in &files {
            file.write_all_at(&slot, u64::from(round) * SLOT_BYTES)?;
        }
    }
    Ok(cpu(ClockId::ThreadCPUTime).saturating_sub(begin))
}

fn measure(dir: &Path, vms: u32, rounds: u32, stop: &CancellationToken) -> Result<Measured> {
    allow_files(vms)?;
    let before = resident()?;
    let mut all = open(dir, vms)?;
    let (mut took, mut refused) = (Duration::ZERO, 0u64);
    // The first has no rates and ends no stretch of time: it is not counted.
    for round in 0..=rounds {
        ensure!(!stop.is_cancelled(), "told to end");
        let (at, steady_ms) = (UnixMillis(BEGIN.0 + u64::from(round) * 10_000), u64::from(round) * 10_000);
        let said = word(u64::from(round) + 1)?;
        let host: Vec<VmCounters> = (0..vms).map(|vm| counters(u64::from(round) + 1, vm.into())).collect();
        let begin = cpu(ClockId::ThreadCPUTime);
        for (intake, counters) in all.iter_mut().zip(&host) {
            let well = heard(&said).is_some_and(|sample| intake.hear(at, steady_ms, sample));
            refused += u64::from(!well);
            intake.look(at, steady_ms, counters);
        }
        if round > 0 {
            took += cpu(ClockId::ThreadCPUTime).saturating_sub(begin);
        }
    }
    ensure!(refused == 0, "{refused} words were refused");
    let after = resident()?;
    let on_disk = on_disk(dir, vms)?;
    drop(all);
    Ok(Measured { rounds, took, plain: plain(dir, vms, rounds)?, before, after, on_disk })
}

fn lines(vms: u32, measured: &Measured) -> Vec<Line> {
    let Measured { rounds, took, plain, before, after, on_disk } = measured;
    let (round, write) = (*took / (*rounds).max(1), *plain / (*rounds).max(1));
    let memory = MEMORY + MEMORY_VM * u64::from(vms);
    let full = HISTORY_BYTES * u64::from(vms);
    let each = after.saturating_sub(*before) as f64 / f64::from(vms) / 1000.0;
    vec![
        Line::new(
            format!("a round: {vms} VMs, of each what the host counted and what its guest said"),
            format!("{:.3} s of CPU", round.as_secs_f64()),
        )
        .goal(format!("less than the {} s until the next", STEP.as_secs()))
        .beside(format!("{} the plain write", times(round, write))),
        Line::new("share of one core", format!("{:.2} %", share(round, STEP))).goal("less than 100 %"),
        Line::new(
            "as much written to as many files, and nothing else",
            format!("{:.3} s of CPU", write.as_secs_f64()),
        )
        .beside("baseline"),
        Line::new("resident memory", megabytes(*after))
            .goal(format!("at most {}", megabytes(memory)))
            .beside(format!("{each:.1} kB more for each VM")),
        Line::new("histories on disk", megabytes(*on_disk)).beside(format!(
            "only what {rounds} rounds wrote: full ones, after sixty days, would be {} and are not kept here",
            megabytes(full)
        )),
    ]
}

/// Runs it.
pub(in crate::bench) async fn run(cli: &Cli, vms: u32, seconds: u32) -> Result<u8> {
    let stop = interruption()?;
    let dir = tempfile::Builder::new().prefix("proteus-bench-").tempdir().context("make a folder")?;
    let rounds = seconds / u32::try_from(STEP.as_secs())?;
    terminal::say_aside(format_args!("{rounds} rounds of {vms} VMs, into {}", dir.path().display()));
    let place = dir.path().to_owned();
    let measured = tokio::task::spawn_blocking(move || measure(&place, vms, rounds, &stop)).await;
    dir.close().context("remove the histories")?;
    print(cli, lines(vms, &measured.context("the bench failed")??));
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_up_is_taken_in_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let measured = measure(dir.path(), 3, 7, &CancellationToken::new()).unwrap();
        assert_eq!(measured.rounds, 7);
        // A heading and a slot of each of the first two rings at least.
        assert!(measured.on_disk >= 3 * 3 * 4096, "{}", measured.on_disk);
        let told = CancellationToken::new();
        told.cancel();
        assert!(measure(&dir.path().join("none"), 0, 1, &told).is_err());
    }
}

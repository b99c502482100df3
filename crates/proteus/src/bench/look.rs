//! `proteus bench telemetry`: what the steady look at VMs costs the host, held against what it may cost. Both ways go
//! through the node's own code, and nothing of them must stay.

mod baseline;

mod ingest;

mod node;

use anyhow::{Context, Result};
use proteus_cli::argument::{Cli, OutputForm};
use proteus_cli::output::table;
use proteus_cli::terminal;
use proteus_cli::told::Told;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub(super) use ingest::run as ingest;
pub(super) use node::run as node;

/// What a node may take by itself, bytes: 30 MB.
const MEMORY: u64 = 30_000_000;
/// What it may take more for each VM, bytes: 3 MB.
const MEMORY_VM: u64 = 3_000_000;

/// One line of the result.
struct Line {
    what: String,
    measured: String,
    goal: String,
    beside: String,
}

impl Line {
    fn new(what: impl Into<String>, measured: impl Into<String>) -> Self {
        Self { what: what.into(), measured: measured.into(), goal: String::new(), beside: String::new() }
    }

    fn goal(self, goal: impl Into<String>) -> Self {
        Self { goal: goal.into(), ..self }
    }

    fn beside(self, beside: impl Into<String>) -> Self {
        Self { beside: beside.into(), ..self }
    }
}

fn print(cli: &Cli, lines: Vec<Line>) {
    if cli.output == OutputForm::Json {
        for line in lines {
            let told = json!({
                "what": line.what, "measured": line.measured, "goal": line.goal, "beside": line.beside
            });
            terminal::say(format_args!("{told}"));
        }
        return;
    }
    let cells: Vec<Vec<String>> =
        lines.into_iter().map(|line| vec![line.what, line.measured, line.goal, line.beside]).collect();
    terminal::write(&table(&["WHAT", "MEASURED", "GOAL", "BESIDE"], &cells));
}

/// CPU time that a clock of this process, or of this thread, has counted.
fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}

/// Memory of this process that is in RAM, bytes.
fn resident() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status").context("read what this process takes")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS is told")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().context("read VmRSS")?;
    Ok(kib * 1024)
}

/// Share of one core, in percent.
fn share(cpu: Duration, time: Duration) -> f64 {
    cpu.as_secs_f64() / time.as_secs_f64().max(1e-9) * 100.0
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn times(one: Duration, other: Duration) -> String {
    format!("{:.1} x", one.as_secs_f64() / other.as_secs_f64().max(1e-9))
}

/// A token that is cancelled once somebody wants this to end, by ctrl-C or a TERM: what was made is removed then.
fn interruption() -> Result<CancellationToken> {
    let (stop, mut told) = (CancellationToken::new(), Told::listen()?);
    let ended = stop.clone();
    tokio::spawn(async move {
        told.wait().await;
        ended.cancel();
    });
    Ok(stop)
}

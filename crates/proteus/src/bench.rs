//! `proteus bench`: what Proteus itself costs, each figure beside a baseline of the same run. Quote the ratios:
//! absolute times are this machine's.

mod agent;

mod label;

mod look;

use crate::demo::host::{Host, unless_told};
use crate::service;
use anyhow::{Context, Result, ensure};
use proteus_cli::argument::{Bench, Cli, OutputForm};
use proteus_cli::output::table;
use proteus_cli::terminal;
use proteus_cli::wait::wait_serving;
use proteus_control_plane::control::Control;
use proteus_control_plane::store::embedded::Embedded;
use proteus_host_agent::node::{HostAgent, HostFacts, Reach};
use proteus_hypervisor::sim::SimDriver;
use proteus_model::execution::{Morph, State};
use proteus_model::plan::{Change, Goal, Plan, Step, Undo};
use proteus_model::profile::promise::Risk;
use proteus_model::setting::{Setting, Weight};
use proteus_model::unit::{Bytes, Millis};
use proteus_model::vm::{Boot, VmIntent};
use proteus_protocol::api::v1::{
    AuditView, CloneRequest, MorphRequest, MorphView, PlanRequest, RestoreView, SnapshotRequest,
    SnapshotTaken, StopRequest, StopView, VmView,
};
use proteus_protocol::node::v1::HealthObserved;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for the real guest.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// Longest wait for a morph: seconds are usual.
const MORPH_LIMIT: Duration = Duration::from_secs(180);
/// How often the real guest's VMM is replaced.
const REPLACEMENTS: usize = 5;
/// How often the real guest is saved and put back.
const SNAPSHOTS: usize = 3;

/// How many clones are started, one after the other.
const CLONES: usize = 12;

/// One line of the result.
struct Row {
    what: String,
    p50_ms: f64,
    p99_ms: f64,
    baseline: String,
}

fn row(what: impl Into<String>, mut samples: Vec<Duration>, baseline: impl Into<String>) -> Row {
    samples.sort_unstable();
    let at = |share: usize| {
        let index = (samples.len() * share / 100).min(samples.len().saturating_sub(1));
        samples.get(index).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    };
    Row { what: what.into(), p50_ms: at(50), p99_ms: at(99), baseline: baseline.into() }
}

/// Runs it.
pub async fn run(cli: &Cli, bench: &Bench) -> Result<u8> {
    let (rounds, images) = match bench {
        Bench::Agent { images, seconds } => return agent::run(cli, images, *seconds).await,
        Bench::Personality { images, guest, only, record, steady } => {
            let wanted =
                label::Wanted { only: only.as_deref(), record: record.as_deref(), steady_minutes: *steady };
            return label::run(cli, (images, guest.as_deref()), &wanted).await;
        }
        Bench::Telemetry { ingest: Some(vms), seconds, .. } => {
            return look::ingest(cli, *vms, *seconds).await;
        }
        Bench::Telemetry { vms, seconds, ingest: None } => return look::node(cli, *vms, *seconds).await,
        Bench::Morph { rounds, images } => (rounds, images),
    };
    let mut rows = simulated(*rounds).await?;
    rows.extend(start_times().await?);
    if let Some(images) = images {
        rows.extend(real(&std::fs::canonicalize(images)?).await?);
    }
    if cli.output == OutputForm::Json {
        for row in &rows {
            terminal::say(format_args!(
                "{}",
                json!({"what": row.what, "p50_ms": row.p50_ms, "p99_ms": row.p99_ms, "beside": row.baseline})
            ));
        }
        return Ok(0);
    }
    let cells: Vec<Vec<String>> = rows
        .into_iter()
        .map(|r| vec![r.what, format!("{:.3}", r.p50_ms), format!("{:.3}", r.p99_ms), r.baseline])
        .collect();
    terminal::write(&table(&["WHAT", "P50 MS", "P99 MS", "BESIDE"], &cells));
    Ok(0)
}

fn bench_intent() -> Result<VmIntent> {
    Ok(VmIntent::new(
        "bench".parse()?,
        Boot::Kernel {
            kernel: "/proc/self/exe".into(),
            initrd: "/proc/self/exe".into(),
            append: String::new(),
        },
        Bytes::mib(256),
    ))
}

/// A plan of one step that costs the simulated hypervisor next to nothing.
async fn one_step(control: &Control, weight: Weight) -> Result<Plan> {
    let record = control.vm("bench").await?;
    let from = control.node().read(record.id, &proteus_model::setting::Knob::CpuWeight).await?;
    Ok(Plan {
        vm: record.id,
        vm_name: record.intent.name.clone(),
        goal: Goal::Version { number: record.version, profile: None },
        base_version: record.version,
        base_generation: record.generation,
        steps: vec![Step {
            change: Change::Set { from, to: Setting::CpuWeight { weight } },
            why: "bench".into(),
            risk: Risk::Low,
            mechanism: "simulated".into(),
            blackout_ms_max: Millis(0),
            undo: Undo::TurnBack,
        }],
        already: Vec::new(),
        unsupported: Vec::new(),
        notes: Vec::new(),
        verify: None,
        cost: None,
    })
}

async fn simulated(rounds: u32) -> Result<Vec<Row>> {
    let dir = tempfile::tempdir()?;
    let driver = Arc::new(SimDriver::open(&dir.path().join("sim"))?);
    let well = |_, _: &_| HealthObserved { healthy: true, latency_us: 0, detail: String::new() };
    let facts =
        HostFacts { accelerator: "sim".into(), accelerator_why: "a bench".into(), hypervisor: "sim".into() };
    let node = HostAgent::open(driver, Reach::Simulated(Arc::new(well)), facts, dir.path()).await?;
    let store = Arc::new(Embedded::open(&dir.path().join("state"), None)?);
    let control = Control::new(store.clone(), Arc::new(node), service::clock(), service::entropy());
    control.create_vm(bench_intent()?, "bench").await?;
    control.start_vm("bench", "bench").await?;
    let mut morphs = Vec::new();
    for round in 0..rounds {
        let plan = one_step(&control, Weight(100 + 100 * (round % 2 + 1))).await?;
        let start = Instant::now();
        let morph = control.begin_morph(plan, "bench").await?;
        let ended = control.run_morph(morph.id).await?;
        morphs.push(start.elapsed());
        ensure!(ended.state == State::Committed, "a morph ended {}", ended.state.word());
    }
    let commits = commit_times(rounds, &store).await?;
    let synced = sync_times(rounds, dir.path())?;
    let mut rows = vec![row("write and fsync of 700 B, no store", synced, "baseline of the two below")];
    let base = rows.first().map_or(1.0, |row| row.p50_ms).max(1e-6);
    let commit = row("journal commit, 700 B in one record", commits, "");
    let morph = row("whole morph of one step, simulated hypervisor", morphs, "");
    for mut next in [commit, morph] {
        next.baseline = format!("{:.1} x the baseline", next.p50_ms / base);
        rows.push(next);
    }
    control.stop().await;
    store.close().await;
    Ok(rows)
}

async fn commit_times(rounds: u32, store: &Arc<Embedded>) -> Result<Vec<Duration>> {
    use proteus_control_plane::store::{Commit, Key, Outcome, Store};
    let mut times = Vec::new();
    for round in 0..rounds {
        let op = proteus_model::id::OpId::from_bits((service::entropy())());
        let commit = Commit::new(op).put(Key::new(format!("bench/{}", round % 16))?, vec![b'x'; 700]);
        let start = Instant::now();
        let outcome = store.commit(commit).await?;
        times.push(start.elapsed());
        ensure!(matches!(outcome, Outcome::Committed(_)), "a commit was not taken");
    }
    Ok(times)
}

fn sync_times(rounds: u32, dir: &Path) -> Result<Vec<Duration>> {
    let mut file = std::fs::File::create(dir.join("baseline"))?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        file.write_all(&[b'x'; 700])?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    Ok(times)
}

/// Start of the command line, beside `/bin/true`.
async fn start_times() -> Result<Vec<Row>> {
    let program = std::env::current_exe().context("find this program")?;
    let mut timed = Vec::new();
    for (program, args) in
        [(Path::new("/bin/true"), [].as_slice()), (program.as_path(), ["--version"].as_slice())]
    {
        let mut times = Vec::new();
        for _ in 0..20 {
            let start = Instant::now();
            let output = tokio::process::Command::new(program).args(args).output().await?;
            times.push(start.elapsed());
            ensure!(output.status.success(), "{} failed", program.display());
        }
        timed.push(times);
    }
    let own = timed.pop().unwrap_or_default();
    let base = row("start of /bin/true", timed.pop().unwrap_or_default(), "baseline of the one below");
    let mut cli = row("start of the command line (--version)", own, "");
    cli.baseline = format!("{:.1} x the baseline", cli.p50_ms / base.p50_ms.max(1e-6));
    Ok(vec![base, cli])
}

/// Runs a morph on the real guest to its end.
async fn morph(host: &Host, request: &PlanRequest) -> Result<Morph> {
    let plan: Plan = host.client.post("/vms/web/plan", request).await?;
    let view: MorphView =
        host.client.post("/morphs", &MorphRequest { plan, skip_unsupported: true, dry_run: false }).await?;
    let start = Instant::now();
    loop {
        let view: MorphView = host.client.get(&format!("/morphs/{}", view.morph.id)).await?;
        if view.morph.state.is_terminal() {
            return Ok(view.morph);
        }
        ensure!(start.elapsed() < MORPH_LIMIT, "the morph stays {}", view.morph.state.word());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn real(images: &Path) -> Result<Vec<Row>> {
    let start = Instant::now();
    let mut host = Host::start().await?;
    let started = start.elapsed();
    let rows = unless_told(measure_real(&host, images)).await;
    for left in host.end(&["web"]).await {
        terminal::say_aside(format_args!("left behind: {left}"));
    }
    let mut rows = rows?;
    rows.insert(0, row("start of the service, accelerator probed", vec![started], "until it answers"));
    Ok(rows)
}

async fn measure_real(host: &Host, images: &Path) -> Result<Vec<Row>> {
    terminal::say_aside(format_args!("a real guest boots"));
    let start = Instant::now();
    let web = host.create_vm_with("web", &["nginx"], images, vec![host.empty_disk("web").await?]).await?;
    wait_serving(&host.client, web, BOOT_LIMIT).await?;
    let booted = start.elapsed();
    let request = PlanRequest { profile: Some("web-frontend".into()), ..PlanRequest::default() };
    let mut rows = Vec::new();
    let done = morph(host, &request).await?;
    ensure!(done.state == State::Committed, "web-frontend ended {}: {:?}", done.state.word(), done.reason);
    for step in &done.steps {
        let name = match done.plan.steps.get(step.step).map(|step| &step.change) {
            Some(Change::Set { to, .. }) => to.knob().to_string(),
            _ => continue,
        };
        let blackout = format!("blackout {} ms", step.blackout_ms.0);
        rows.push(row(format!("step on a real guest: {name}"), vec![Duration::from(step.took_ms)], blackout));
    }
    let request = PlanRequest { fresh_vmm: true, ..PlanRequest::default() };
    let (mut took, mut blackouts) = (Vec::new(), Vec::new());
    for _ in 0..REPLACEMENTS {
        let done = morph(host, &request).await?;
        ensure!(done.state == State::Committed, "the VMM was not replaced: {:?}", done.reason);
        for step in &done.steps {
            took.push(Duration::from(step.took_ms));
            blackouts.push(Duration::from(step.blackout_ms));
        }
    }
    let mut blackouts = row("", blackouts, "");
    blackouts.baseline = format!("blackout p50 {:.0}, max {:.0} ms", blackouts.p50_ms, blackouts.p99_ms);
    rows.push(row("step on a real guest: replace the VMM", took, blackouts.baseline));
    rows.extend(measure_snapshots(host).await?);
    rows.extend(clones(host, booted).await?);
    Ok(rows)
}

/// A start by clone beside a start by boot, both until nginx serves.
async fn clones(host: &Host, booted: Duration) -> Result<Vec<Row>> {
    terminal::say_aside(format_args!("the guest becomes a template"));
    // What the morph plugged in does not go into a template.
    let request = PlanRequest { version: Some(0), ..PlanRequest::default() };
    let done = morph(host, &request).await?;
    ensure!(done.state == State::Committed, "the guest was not rolled back: {:?}", done.reason);
    let start = Instant::now();
    let _: VmView = host.client.post("/vms/web/template", &json!({})).await?;
    let saved = start.elapsed();
    let (mut ran, mut whole, mut times) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..CLONES {
        let name = format!("clone-{number}");
        let start = Instant::now();
        let clone: VmView =
            host.client.post("/vms/web/clone", &CloneRequest { name: name.parse()?, dry_run: false }).await?;
        whole.push(start.elapsed());
        wait_serving(&host.client, clone, BOOT_LIMIT).await?;
        times.push(start.elapsed());
        ran.push(ran_after(host, &name).await?);
        let request = StopRequest { grace_ms: Millis(0) };
        let _: StopView = host.client.post(&format!("/vms/{name}/stop"), &request).await?;
    }
    let boot =
        row("start of a VM by booting it", vec![booted], "until nginx serves: baseline of the one below");
    let mut clone = row("start of a VM by cloning a template", times, "");
    clone.baseline = format!("until nginx serves: 1/{:.0} of the boot", boot.p50_ms / clone.p50_ms.max(1e-6));
    let ran = row("clone of a template, until its guest runs", ran, "off the network, still as its template");
    let whole = row(
        "clone of a template, until it is itself",
        whole,
        "name, address, randomness of its own, and on the network",
    );
    Ok(vec![
        row("save of the template", vec![saved], "its memory is copied to disk"),
        boot,
        ran,
        whole,
        clone,
    ])
}

/// How long it took until the guest of a clone ran, as the audit log has it.
async fn ran_after(host: &Host, clone: &str) -> Result<Duration> {
    let audit: AuditView = host.client.get("/audit").await?;
    let is_it = |entry: &&Value| entry["action"] == "vm.cloned" && entry["subject"] == format!("vm/{clone}");
    let entry = audit.entries.iter().rev().find(is_it).context("nothing says how long the clone took")?;
    entry["evidence"]["ran_after_ms"].as_u64().map(Duration::from_millis).context("no time is in the entry")
}

/// Saves and restores the real guest; the blackout is what the hypervisor itself measured.
async fn measure_snapshots(host: &Host) -> Result<Vec<Row>> {
    let (mut saves, mut restores, mut pauses, mut gaps) = (vec![], vec![], vec![], vec![]);
    let mut ram = Bytes::ZERO;
    for round in 1..=SNAPSHOTS {
        let request = SnapshotRequest { name: Some(format!("bench-{round}")) };
        let taken: SnapshotTaken = host.client.post("/vms/web/snapshots", &request).await?;
        saves.push(Duration::from(taken.took_ms));
        pauses.push(Duration::from(taken.blackout_ms));
        ram = taken.snapshot.ram;
        let path = format!("/vms/web/snapshots/bench-{round}/restore");
        let back: RestoreView = host.client.post(&path, &json!({})).await?;
        ensure!(back.failed.is_empty(), "settings after a restore: {:?}", back.failed);
        restores.push(Duration::from(back.took_ms));
        gaps.push(Duration::from(back.blackout_ms));
    }
    let beside = |blackouts| {
        let blackouts = row("", blackouts, "");
        format!("blackout p50 {:.0}, max {:.0} ms; {ram} of RAM", blackouts.p50_ms, blackouts.p99_ms)
    };
    Ok(vec![
        row("step on a real guest: snapshot of disk and RAM", saves, beside(pauses)),
        row("by hand on a real guest: back to a snapshot", restores, beside(gaps)),
    ])
}

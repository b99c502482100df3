//! `proteus demo`: the main job on real VMs. Boots three, drives them with real clients, morphs each under load,
//! lets a bad profile be undone, kills Proteus in the middle of a morph, and measures all of it from the clients'
//! side. Uses Proteus only as a user does: through a served API, in a process of its own.

pub(crate) mod host;

mod load;

mod report;

use anyhow::{Context, Result, bail, ensure};
use host::{Host, unless_told};
use load::{Load, Measured, Tool};
use proteus_cli::argument::{Demo, OutputForm};
use proteus_cli::client::{Client, segment};
use proteus_cli::terminal;
use proteus_cli::wait::wait_serving;
use proteus_model::execution::{Morph, State};
use proteus_model::plan::Plan;
use proteus_protocol::api::v1::{DocumentRequest, MorphRequest, MorphView, PlanRequest, ProfileView, VmView};
use report::{BadRow, CrashRow, MorphRow, Report};
use serde_json::json;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the clients run before and after a morph.
const LOAD_TIME: Duration = Duration::from_secs(6);
/// Longest wait for a morph: 30 s are usual on an emulated guest under load.
const MORPH_LIMIT: Duration = Duration::from_secs(180);
/// Longest wait for the three VMs: they boot beside each other on emulated CPUs.
const BOOT_LIMIT: Duration = Duration::from_secs(300);

/// A VM of the demonstration.
struct Guest {
    name: &'static str,
    image: &'static str,
    profile: &'static str,
    tool: Tool,
}

const GUESTS: [Guest; 3] = [
    Guest { name: "web", image: "nginx", profile: "web-frontend", tool: Tool::Wrk },
    Guest { name: "cache", image: "redis", profile: "cache", tool: Tool::RedisBenchmark },
    Guest { name: "db", image: "postgresql", profile: "database", tool: Tool::Pgbench },
];

/// A profile that starves a web server of CPU. Its limits are what saves the VM.
const BAD_PROFILE: &str = "
name: starved
version: 1.0.0
summary: A mistake - a tenth of a CPU for a busy web server
resources:
  vcpus: { preferred: 100m }
verify:
  health: [ { http: { port: 80 } } ]
  performance: { throttled: 30%, probe_latency: 2000ms }
  window: { before: 4s, after: 6s }
";

/// Runs it.
pub async fn run(args: &Demo, form: OutputForm) -> Result<u8> {
    let start = Instant::now();
    let images =
        std::fs::canonicalize(&args.images).with_context(|| format!("find {}", args.images.display()))?;
    let mut host = Host::start().await?;
    let outcome = unless_told(play(&mut host, &images, start)).await;
    let leftovers = match (&outcome, args.keep) {
        (Ok(_), true) => Vec::new(),
        _ => host.end(GUESTS.map(|guest| guest.name).as_slice()).await,
    };
    let mut report = outcome?;
    report.leftovers = leftovers;
    std::fs::write(&args.report, report.to_json())
        .with_context(|| format!("write {}", args.report.display()))?;
    if form == OutputForm::Json {
        terminal::write(&report.to_json());
        if args.keep {
            terminal::say_aside(format_args!("{}", host.how_to_go_on()));
        }
        return Ok(u8::from(!report.all_well()));
    }
    terminal::write(&report.to_table());
    terminal::say(format_args!(
        "\nreport: {} · took {:.0} s",
        args.report.display(),
        start.elapsed().as_secs_f64()
    ));
    if args.keep {
        terminal::say(format_args!("\n{}", host.how_to_go_on()));
    } else {
        terminal::say(format_args!(
            "\nTry next: ./demo --keep, then `proteus morph plan web --profile batch`, `proteus audit`, `proteus --help`."
        ));
    }
    Ok(u8::from(!report.all_well()))
}

fn say(start: Instant, what: &str) {
    terminal::say_aside(format_args!("[{:>4.0} s] {what}", start.elapsed().as_secs_f64()));
}

async fn play(host: &mut Host, images: &Path, start: Instant) -> Result<Report> {
    let mut report = Report::default();
    say(start, &format!("Proteus runs; {}", host.description().await?));
    let mut started = Vec::new();
    for guest in &GUESTS {
        started.push(host.create_vm(guest.name, guest.image, images).await?);
    }
    say(start, "three VMs boot: nginx, redis, postgresql");
    for (guest, view) in GUESTS.iter().zip(started) {
        wait_serving(&host.client, view, BOOT_LIMIT).await?;
        say(start, &format!("{} serves {}", guest.name, guest.image));
    }
    let namespace = host.namespace().await?;
    for guest in &GUESTS {
        let address = address_of(&host.client, guest.name).await?;
        let load = Load { tool: guest.tool, namespace: namespace.clone(), address };
        report.morphs.push(morph_under_load(host, guest, &load, start).await?);
    }
    let address = address_of(&host.client, "web").await?;
    let load = Load { tool: Tool::Wrk, namespace, address };
    report.bad_profile = Some(bad_profile(host, &load, start).await?);
    report.crash = Some(crash(host, &load, start).await?);
    Ok(report)
}

async fn vm(client: &Client, name: &str) -> Result<VmView> {
    Ok(client.get(&format!("/vms/{}", segment(name))).await?)
}

async fn address_of(client: &Client, name: &str) -> Result<Ipv4Addr> {
    vm(client, name).await?.address.with_context(|| format!("{name} has no address"))
}

async fn begin(client: &Client, vm: &str, profile: &str) -> Result<Morph> {
    let request = PlanRequest { profile: Some(profile.to_owned()), ..PlanRequest::default() };
    let plan: Plan = client.post(&format!("/vms/{}/plan", segment(vm)), &request).await?;
    ensure!(!plan.steps.is_empty(), "{profile} changes nothing on {vm}");
    let view: MorphView =
        client.post("/morphs", &MorphRequest { plan, skip_unsupported: false, dry_run: false }).await?;
    Ok(view.morph)
}

/// Waits until `reached` says so of the morph's state.
async fn wait_morph(client: &Client, morph: &Morph, reached: impl Fn(State) -> bool) -> Result<Morph> {
    let start = Instant::now();
    loop {
        let view: MorphView = client.get(&format!("/morphs/{}", morph.id)).await?;
        if reached(view.morph.state) {
            return Ok(view.morph);
        }
        if start.elapsed() > MORPH_LIMIT {
            bail!("the morph of {} stays {}", morph.plan.vm_name, view.morph.state.word());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn morph_under_load(host: &Host, guest: &Guest, load: &Load, start: Instant) -> Result<MorphRow> {
    let client = &host.client;
    load.prepare().await?;
    say(start, &format!("{}: {} for {} s", guest.name, guest.tool.name(), LOAD_TIME.as_secs()));
    let before = load.run_for(LOAD_TIME).await?;
    let resident_before = vm(client, guest.name).await?.resident;
    say(start, &format!("{}: morph to {} under load", guest.name, guest.profile));
    let running = load.start().await?;
    let morph = begin(client, guest.name, guest.profile).await?;
    let morph = wait_morph(client, &morph, State::is_terminal).await?;
    let during = running.stop().await?;
    let reason = morph.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    say(
        start,
        &format!(
            "{}: {}{reason}; {} again for {} s",
            guest.name,
            morph.state.word(),
            guest.tool.name(),
            LOAD_TIME.as_secs()
        ),
    );
    let resident_after = vm(client, guest.name).await?.resident;
    let after = load.run_for(LOAD_TIME).await?;
    let returned = match (resident_before, resident_after) {
        (Some(before), Some(after)) => Some(before.saturating_sub(after)),
        _ => None,
    };
    Ok(MorphRow::new(guest.name, guest.image, &morph, [before, during, after], returned))
}

/// A profile that harms: undone by itself.
async fn bad_profile(host: &Host, load: &Load, start: Instant) -> Result<BadRow> {
    let document = DocumentRequest { file: "starved.yaml".into(), text: BAD_PROFILE.into(), dry_run: false };
    let _: ProfileView = host.client.post("/profiles", &document).await?;
    say(start, "web: a bad profile, a tenth of a CPU, under load");
    let running = load.start().await?;
    let morph = begin(&host.client, "web", "starved").await?;
    let morph = wait_morph(&host.client, &morph, State::is_terminal).await?;
    running.stop().await?;
    let reason = morph.reason.clone().unwrap_or_default();
    say(start, &format!("web: {} ({reason})", morph.state.word()));
    Ok(BadRow { outcome: morph.state.word(), undo_ms: morph.undo_ms.map_or(0.0, |ms| ms.0 as f64), reason })
}

/// SIGKILL in the middle of a morph.
async fn crash(host: &mut Host, load: &Load, start: Instant) -> Result<CrashRow> {
    say(start, "web: morph to batch, and Proteus is killed in the middle of it");
    let running = load.start().await?;
    let morph = begin(&host.client, "web", "batch").await?;
    let caught = wait_morph(&host.client, &morph, |state| {
        state.is_terminal() || matches!(state, State::Applying { .. } | State::Verifying)
    })
    .await?;
    host.kill().await?;
    say(
        start,
        &format!(
            "web: Proteus is dead (SIGKILL) while the morph was {}; it starts again",
            caught.state.word()
        ),
    );
    host.start_again().await?;
    let morph = wait_morph(&host.client, &morph, State::is_terminal).await?;
    let seen = running.stop().await?;
    let differences: Vec<serde_json::Value> = host.client.get("/vms/web/differences").await?;
    say(start, &format!("web: {}; {} requests lost", morph.state.word(), seen.lost));
    Ok(CrashRow {
        outcome: morph.state.word(),
        killed_while: caught.state.word(),
        lost_requests: seen.lost,
        record_equals_vm: differences.is_empty(),
    })
}

/// What the clients saw of one phase, for the report.
fn rounded(measured: &Measured) -> serde_json::Value {
    json!({ "throughput": measured.throughput, "p99_ms": measured.p99_ms, "lost": measured.lost })
}

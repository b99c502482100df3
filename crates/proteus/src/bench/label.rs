//! `proteus bench personality`: real guests do real work, and the labels that they get are counted. Prototypes are
//! recorded of some work (`--record`), and other work of the same kinds is judged, so that nothing is judged that was
//! learned. Must never count a look whose minute has more than one work in it, but to tell how long a label took.

mod case;

mod unit;

use super::BOOT_LIMIT;
use crate::demo::host::{Host, unless_told};
use anyhow::{Context, Result, ensure};
use case::{COMPILER, Case, GUESTS, Guest, Work, ready};
use proteus_brain::personality::traits::{TRAIT_BUCKETS, median, traits};
use proteus_cli::argument::{Cli, OutputForm};
use proteus_cli::output::table;
use proteus_cli::terminal;
use proteus_cli::wait::wait_serving;
use proteus_model::personality::{Prototype, TraitVector, UNKNOWN};
use proteus_model::telemetry::{Bucket, METRICS, Metric};
use proteus_model::unit::{Millis, UnixMillis};
use proteus_protocol::api::v1::{
    BucketView, ExecRequest, ExecView, HistoryView, JudgementView, PersonalityView, StopRequest, StopView,
    VmView,
};
use proteus_protocol::guest::v1::Blob;
use rustix::process::{Pid, Signal};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

/// Stretches of ten seconds that are left out at the begin of a work: what began it is in the first.
const LEFT_OUT: u64 = 1;
/// Stretches of one prototype: three vectors of a minute.
const RECORDED: usize = 8;
/// Longest wait for them: twice their time.
const RECORD_LIMIT: Duration = Duration::from_secs(200);
/// How long each work is judged.
const JUDGED: Duration = Duration::from_secs(150);
/// From when on a look's minute has nothing else in it.
const SETTLED: Duration = Duration::from_secs(80);
/// Longest time of each work that a VM changes to, and how often its personality is asked for.
const CHANGED: Duration = Duration::from_secs(240);
const ASK_EVERY: Duration = Duration::from_secs(2);
/// Longest run inside a guest that is asked for at once.
const INSIDE: Millis = Millis(600_000);

/// Work that is under way.
enum Busy {
    Nothing,
    Client(Child),
    Inside(JoinHandle<()>),
}

impl Busy {
    async fn end(self, place: &Place<'_>, vm: &str) -> Result<()> {
        match self {
            Self::Nothing => {}
            Self::Client(mut child) => {
                let ended = child.try_wait().context("look at the client")?;
                // What it did no more was judged as if it had.
                ensure!(ended.is_none(), "the client of {vm} ended by itself");
                // With all that it started: a client may be a loop of a shell.
                let group = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
                if let Some(group) = group {
                    // Nobody is left in it where all have ended.
                    let _ = rustix::process::kill_process_group(group, Signal::KILL);
                }
                child.wait().await.context("end the client")?;
            }
            Self::Inside(task) => {
                task.abort();
                // The loop sees it before its next round.
                inside(place, vm, "touch /data/stop; while [ -e /data/busy ]; do sleep 1; done").await?;
            }
        }
        Ok(())
    }
}

fn request(service: Option<&str>, script: &str) -> ExecRequest {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    ExecRequest { argv, service: service.map(str::to_owned), stdin: Blob::default(), timeout_ms: INSIDE }
}

async fn exec(host: &Host, vm: &str, service: Option<&str>, script: &str) -> Result<ExecView> {
    Ok(host.client.post(&format!("/vms/{vm}/exec"), &request(service, script)).await?)
}

/// What the VMs of a run are made of, and where their work is.
struct Place<'a> {
    host: &'a Host,
    images: &'a Path,
    /// A full guest; `None`: small ones.
    full: Option<&'a Path>,
}

impl Place<'_> {
    /// A script that is run where the compiler is.
    fn within(&self, script: &str) -> ExecRequest {
        match self.full {
            Some(_) => request(None, &unit::within(COMPILER, script)),
            None => request(Some(COMPILER), script),
        }
    }
}

async fn inside(place: &Place<'_>, vm: &str, script: &str) -> Result<()> {
    let request = place.within(script);
    let ended: ExecView = place.host.client.post(&format!("/vms/{vm}/exec"), &request).await?;
    ensure!(ended.exit_code == Some(0), "in {vm}: {script}: {}", ended.stderr);
    Ok(())
}

async fn begin(place: &Place<'_>, vm: &str, address: Ipv4Addr, case: &Case) -> Result<Busy> {
    let host = place.host;
    if let Some(script) = ready(case.label) {
        inside(place, vm, script).await?;
    }
    match case.work {
        Work::Idle => Ok(Busy::Nothing),
        Work::Client(words) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &host.namespace().await?]);
            command.args(words.iter().map(|word| word.replace("{}", &address.to_string())));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
            command.process_group(0);
            Ok(Busy::Client(command.spawn().with_context(|| format!("run {}", words[0]))?))
        }
        Work::Inside(script) => {
            let script = format!(
                "rm -f /data/stop; touch /data/busy; while [ ! -e /data/stop ]; do {script}; done; rm -f /data/busy"
            );
            let (client, path) = (host.client.clone(), format!("/vms/{vm}/exec"));
            let request = place.within(&script);
            // Told apart by what the VM does, not by what this answers.
            Ok(Busy::Inside(tokio::spawn(async move {
                let _ = client.post::<ExecView>(&path, &request).await;
            })))
        }
    }
}

/// Fills the database that pgbench asks. Its port is open before it takes anybody in.
async fn fill_database(namespace: &str, address: Ipv4Addr) -> Result<()> {
    let begun = Instant::now();
    loop {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, "pgbench", "-i", "-q", "-s", "2"]);
        let made = command.args(["-h", &address.to_string(), "-U", "bench", "bench"]).output().await?;
        let why = String::from_utf8_lossy(&made.stderr);
        if made.status.success() {
            return Ok(());
        }
        let is_starting = why.contains("the database system is starting up");
        ensure!(is_starting && begun.elapsed() < BOOT_LIMIT, "pgbench: {why}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Boots a guest that serves; its address.
async fn boot(place: &Place<'_>, vm: &str, services: &[&str], disk: bool) -> Result<Ipv4Addr> {
    let host = place.host;
    let started = match place.full {
        Some(guest) => host.create_full_vm(vm, services, place.images, guest).await?,
        None => {
            let disks = match disk {
                true => vec![host.data_disk(vm, services[0]).await?],
                false => Vec::new(),
            };
            host.create_vm_with(vm, services, place.images, disks).await?
        }
    };
    let view: VmView = wait_serving(&host.client, started, BOOT_LIMIT).await?;
    if place.full.is_some() {
        unit::start(host, vm, services).await?;
    }
    let address = view.address.context("the guest has no address")?;
    if services.contains(&"postgresql") {
        fill_database(&host.namespace().await?, address).await?;
    }
    Ok(address)
}

async fn stop(host: &Host, vm: &str) -> Result<()> {
    let _: StopView =
        host.client.post(&format!("/vms/{vm}/stop"), &StopRequest { grace_ms: Millis(15_000) }).await?;
    Ok(())
}

fn now() -> UnixMillis {
    (crate::service::clock())()
}

fn bucket(view: &BucketView) -> Bucket {
    let mut summaries = [None; METRICS];
    for metric in Metric::ALL {
        summaries[metric as usize] = view.values.get(metric.name()).map(|summary| summary.clone().into());
    }
    Bucket { begins_at: view.begins_at, readings: view.readings, summaries }
}

/// The median of the vectors of the work that began at `began`, once there are enough.
async fn recorded(host: &Host, vm: &str, began: UnixMillis) -> Result<TraitVector> {
    let from = UnixMillis((began.0 / 10_000 + 1 + LEFT_OUT) * 10_000);
    let start = Instant::now();
    loop {
        let path = format!("/vms/{vm}/history?step_s=10&since={}", from.0);
        let view: HistoryView = host.client.get(&path).await?;
        if view.buckets.len() >= RECORDED {
            let buckets: Vec<Bucket> = view.buckets.iter().map(bucket).collect();
            let vectors: Vec<TraitVector> =
                buckets.windows(TRAIT_BUCKETS).map(|minute| traits(minute, 1)).collect();
            return Ok(median(&vectors));
        }
        ensure!(start.elapsed() < RECORD_LIMIT, "{vm} has no history of its work");
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Three digits after the point: more would be noise.
fn rounded(vector: &TraitVector) -> TraitVector {
    vector.known().map(|(this, value)| (this, (value * 1000.0).round() / 1000.0)).collect::<Vec<_>>().into()
}

async fn record(place: &Place<'_>, vm: &str, guest: &Guest) -> Result<Vec<Prototype>> {
    let host = place.host;
    let address = boot(place, vm, &[guest.service], guest.disk).await?;
    let mut all = Vec::new();
    for case in guest.cases.iter().filter(|case| case.recorded) {
        let busy = begin(place, vm, address, case).await?;
        let vector = recorded(host, vm, now()).await?;
        busy.end(place, vm).await?;
        terminal::say_aside(format_args!("recorded {}: {}", case.label, case.name));
        all.push(Prototype {
            label: case.label.parse()?,
            source: case.name.to_owned(),
            traits: rounded(&vector),
            programs: Vec::new(),
        });
    }
    stop(host, vm).await?;
    Ok(all)
}

/// How a stretch of work was judged.
#[derive(Debug, Clone, Default, PartialEq)]
struct Outcome {
    vm: String,
    truth: &'static str,
    name: &'static str,
    /// Looks by label, all that is known and the host alone.
    looks: [BTreeMap<String, usize>; 2],
    /// Seconds until a look said the right label and every later one did too; `None`: the last did not.
    right_after: [Option<u64>; 2],
    /// Shifts and anomalies that were told.
    told: Vec<String>,
}

fn said(judgement: Option<&JudgementView>) -> String {
    judgement.and_then(|view| view.label.clone()).unwrap_or_else(|| UNKNOWN.to_owned())
}

/// Watches a VM at one work for so long.
async fn watch(host: &Host, vm: &str, case: &Case, time: Duration) -> Result<Outcome> {
    let (start, began) = (Instant::now(), now());
    let mut outcome = Outcome { vm: vm.to_owned(), truth: case.label, name: case.name, ..Outcome::default() };
    let mut seen = None;
    while start.elapsed() < time {
        let view: PersonalityView = host.client.get(&format!("/vms/{vm}/personality")).await?;
        let after = start.elapsed();
        // A look of before this work began says nothing of it.
        if view.at.is_some_and(|at| at > began) && view.at != seen {
            seen = view.at;
            for (which, judgement) in
                [view.judgement.as_ref(), view.host_only.as_ref()].into_iter().enumerate()
            {
                let label = said(judgement);
                let is_right = label == case.label;
                let first = outcome.right_after[which].unwrap_or(after.as_secs());
                outcome.right_after[which] = is_right.then_some(first);
                if after >= SETTLED {
                    *outcome.looks[which].entry(label).or_default() += 1;
                }
            }
        }
        let new = view.changes.iter().filter(|change| change.told_at >= began);
        outcome.told = new
            .map(|change| {
                let word = |label: &Option<String>| label.clone().unwrap_or_else(|| UNKNOWN.to_owned());
                let seconds = (change.told_at.0 - began.0) / 1000;
                format!("{} {} → {} after {seconds} s", change.kind, word(&change.from), word(&change.to))
            })
            .collect();
        tokio::time::sleep(ASK_EVERY).await;
    }
    Ok(outcome)
}

async fn judge(place: &Place<'_>, vm: &str, guest: &Guest) -> Result<Vec<Outcome>> {
    let host = place.host;
    let address = boot(place, vm, &[guest.service], guest.disk).await?;
    let mut all = Vec::new();
    for case in guest.cases.iter().filter(|case| !case.recorded) {
        let busy = begin(place, vm, address, case).await?;
        let outcome = watch(host, vm, case, JUDGED).await?;
        busy.end(place, vm).await?;
        terminal::say_aside(format_args!(
            "{}: {} was {}",
            case.name,
            case.label,
            in_words(&outcome.looks[0])
        ));
        all.push(outcome);
    }
    stop(host, vm).await?;
    Ok(all)
}

fn in_words(looks: &BTreeMap<String, usize>) -> String {
    let words: Vec<String> = looks.iter().map(|(label, count)| format!("{label} {count} ×")).collect();
    if words.is_empty() { "not looked at".to_owned() } else { words.join(", ") }
}

/// One VM that serves pages, becomes a cache, and serves pages again; then, where asked for, goes on.
async fn change(place: &Place<'_>, vm: &str, steady: u32) -> Result<Vec<Outcome>> {
    let host = place.host;
    let address = boot(place, vm, &["nginx", "redis"], false).await?;
    let find = |label: &str| {
        let judged = GUESTS.iter().flat_map(|guest| guest.cases).filter(|case| !case.recorded);
        judged.copied().find(|case| case.label == label && case.work != Work::Idle)
    };
    let (web, cache) = (find("web frontend").context("no work")?, find("cache").context("no work")?);
    let mut all = Vec::new();
    for case in [web, cache, web] {
        let busy = begin(place, vm, address, &case).await?;
        let mut time = CHANGED;
        if all.len() == 2 {
            time += Duration::from_secs(u64::from(steady) * 60);
        }
        let outcome = watch(host, vm, &case, time).await?;
        busy.end(place, vm).await?;
        terminal::say_aside(format_args!("{vm}: {}: {}", case.name, outcome.told.join("; ")));
        all.push(outcome);
    }
    stop(host, vm).await?;
    Ok(all)
}

/// The confusion table of one of the two ways to judge.
fn confusion(outcomes: &[Outcome], which: usize) -> String {
    let mut labels: Vec<&str> = outcomes.iter().map(|outcome| outcome.truth).collect();
    labels.sort_unstable();
    labels.dedup();
    let columns: Vec<&str> = labels.iter().copied().chain([UNKNOWN]).collect();
    let row = |truth: &&str| {
        let count = |label: &&str| {
            let own = outcomes.iter().filter(|outcome| outcome.truth == *truth);
            own.filter_map(|outcome| outcome.looks[which].get(*label)).sum::<usize>().to_string()
        };
        std::iter::once((*truth).to_owned()).chain(columns.iter().map(count)).collect::<Vec<_>>()
    };
    let heading: Vec<&str> = std::iter::once("WAS \\ SAID").chain(columns.iter().copied()).collect();
    table(&heading, &labels.iter().map(row).collect::<Vec<_>>())
}

fn print(form: OutputForm, judged: &[Outcome], changed: &[Outcome]) {
    let ways = ["host and guest", "host alone"];
    if form == OutputForm::Json {
        for (part, outcomes) in [("labels", judged), ("changes", changed)] {
            for o in outcomes {
                terminal::say(format_args!(
                    "{}",
                    json!({"bench": part, "vm": o.vm, "label": o.truth, "work": o.name,
                        "looks": {"host and guest": o.looks[0], "host alone": o.looks[1]},
                        "right_after_s": {"host and guest": o.right_after[0], "host alone": o.right_after[1]},
                        "told": o.told})
                ));
            }
        }
        return;
    }
    for (which, way) in ways.into_iter().enumerate() {
        terminal::say(format_args!("looks at settled work, by {way}"));
        terminal::write(&(confusion(judged, which) + "\n"));
    }
    let after = |seconds: Option<u64>| seconds.map_or("-".to_owned(), |s| format!("{s} s"));
    let row = |o: &Outcome| {
        let told = if o.told.is_empty() { "-".to_owned() } else { o.told.join("; ") };
        vec![o.name.to_owned(), o.truth.to_owned(), after(o.right_after[0]), after(o.right_after[1]), told]
    };
    let rows: Vec<_> = judged.iter().chain(changed).map(row).collect();
    terminal::write(&table(&["WORK", "IS", "RIGHT AFTER", "BY THE HOST", "TOLD"], &rows));
}

/// What is wanted of a run.
pub(super) struct Wanted<'a> {
    /// Guests of this service alone.
    pub(super) only: Option<&'a str>,
    /// Where prototypes go; `None`: work is judged.
    pub(super) record: Option<&'a Path>,
    /// How long steady work is watched at the end.
    pub(super) steady_minutes: u32,
}

/// A VM and what it is to do.
type Named = (String, &'static Guest);

/// Runs it.
pub(super) async fn run(
    cli: &Cli,
    (images, full): (&Path, Option<&Path>),
    wanted: &Wanted<'_>,
) -> Result<u8> {
    let images = std::fs::canonicalize(images).with_context(|| format!("find {}", images.display()))?;
    let is_wanted = |guest: &&Guest| wanted.only.is_none_or(|only| only == guest.service);
    let guests: Vec<Named> = GUESTS
        .iter()
        .filter(is_wanted)
        .enumerate()
        .map(|(at, guest)| (format!("work-{at}"), guest))
        .collect();
    let known: Vec<&str> = GUESTS.iter().map(|guest| guest.service).collect();
    ensure!(!guests.is_empty(), "--only: expected one of {}", known.join(", "));
    for (_, Guest { service: name, .. }) in &guests {
        ensure!(
            images.join(format!("{name}.json")).is_file(),
            "there is no image of {name}: `proteus image build small nginx redis postgresql compiler --out {}` makes them",
            images.display()
        );
    }
    let mut host = Host::start().await?;
    let place = Place { host: &host, images: &images, full };
    let is_changing = wanted.record.is_none() && wanted.only.is_none();
    let done = match wanted.record {
        Some(out) => unless_told(record_all(&place, &guests, out)).await,
        None => {
            let steady = is_changing.then_some(wanted.steady_minutes);
            unless_told(judge_all(&place, &guests, steady))
                .await
                .map(|(judged, changed)| print(cli.output, &judged, &changed))
        }
    };
    let all: Vec<&str> =
        guests.iter().map(|(vm, _)| vm.as_str()).chain(is_changing.then_some("changes")).collect();
    for left in host.end(&all).await {
        terminal::say_aside(format_args!("left behind: {left}"));
    }
    done.map(|()| 0)
}

/// All guests, two at a time; what came of each, in one list.
async fn two_at_a_time<'a, T, F>(
    guests: &'a [Named],
    work: impl Fn(&'a str, &'static Guest) -> F,
) -> Result<Vec<T>>
where
    F: Future<Output = Result<Vec<T>>>,
{
    let queue = Mutex::new(guests.iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let worker = || async {
        let mut all = Vec::new();
        while let Some((vm, guest)) = next() {
            all.extend(work(vm, guest).await?);
        }
        Ok::<_, anyhow::Error>(all)
    };
    let (mut one, other) = tokio::try_join!(worker(), worker())?;
    one.extend(other);
    Ok(one)
}

async fn record_all(place: &Place<'_>, guests: &[Named], out: &Path) -> Result<()> {
    let all = two_at_a_time(guests, |vm, guest| record(place, vm, guest)).await?;
    let mut lines: Vec<String> = all.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    lines.sort();
    // One to a line, so that a difference shows which.
    std::fs::write(out, format!("[\n  {}\n]\n", lines.join(",\n  ")))
        .with_context(|| format!("write {}", out.display()))
}

/// `steady`: for how many minutes the last work of the VM that changes is watched; `None`: there is no such VM.
async fn judge_all(
    place: &Place<'_>,
    guests: &[Named],
    steady: Option<u32>,
) -> Result<(Vec<Outcome>, Vec<Outcome>)> {
    let judged = two_at_a_time(guests, |vm, guest| judge(place, vm, guest)).await?;
    let changed = match steady {
        Some(steady) => change(place, "changes", steady).await?,
        None => Vec::new(),
    };
    Ok((judged, changed))
}

//! `list`, `show` and `export`. Must never show what was sampled some time ago as of now.

use crate::argument::{Export, Show, Target};
use crate::domstats::Listing;
use crate::fleet::find;
use crate::place::{Kept, Place};
use crate::text::{now, shown};
use crate::view::{self, Shown, VmRow};
use crate::virsh::VirshError;
use crate::watch::{Watcher, until_told};
use anyhow::Result;
use proteus_brain::personality::label::{Labels, shipped};
use proteus_brain::personality::portrait::LATELY_MS;
use proteus_cli::argument::OutputForm;
use proteus_cli::client::{Client, ClientError, segment};
use proteus_cli::command::personality_text;
use proteus_cli::error::CommandError;
use proteus_cli::output::table;
use proteus_cli::terminal;
use proteus_host_agent::telemetry::Intake;
use proteus_model::id::VmId;
use proteus_model::personality::UNKNOWN;
use proteus_model::unit::UnixMillis;
use proteus_protocol::api::v1::PersonalityView;
use proteus_protocol::cause::chain;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

/// Time between two looks of an own sampling.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

fn missing(vm: &str) -> CommandError {
    let hint = "`proteus-libvirt list` shows those that there are".to_owned();
    CommandError::Missing { what: format!("there is no VM {}", shown(vm)), hint }
}

/// Why libvirt could not be asked, for people.
pub fn unreachable(error: &VirshError) -> CommandError {
    let because = chain(error);
    let what = error.to_string();
    let because = because.strip_prefix(&what).map(|rest| rest.trim_start_matches(": ").to_owned());
    let because = because.into_iter().filter(|rest| !rest.is_empty()).collect();
    CommandError::Unreachable { what, because, hint: error.hint().to_owned() }
}

fn failed(error: &anyhow::Error, hint: &str) -> CommandError {
    let because = error.chain().skip(1).map(ToString::to_string).collect();
    CommandError::Failed { what: error.to_string(), because, hint: hint.to_owned() }
}

async fn ask(target: &Target) -> Result<Listing, CommandError> {
    target.virsh().domains().await.map_err(|error| unreachable(&error))
}

fn print<T: serde::Serialize>(form: OutputForm, value: &T, text: impl FnOnce() -> String) {
    match form {
        OutputForm::Json => {
            terminal::say(format_args!("{}", serde_json::to_string_pretty(value).unwrap_or_default()))
        }
        OutputForm::Text => terminal::write(&text()),
    }
}

fn rows(all: &[VmRow], now: u64) -> String {
    let row = |row: &VmRow| {
        let age = row.judged_at.map(|at| format!("{} s ago", now.saturating_sub(at.0) / 1000));
        let memory = row.memory.map(|bytes| format!("{} MiB", bytes >> 20));
        vec![
            shown(&row.name),
            row.state.word().to_owned(),
            row.vcpus.map_or("-".to_owned(), |vcpus| vcpus.to_string()),
            memory.unwrap_or("-".to_owned()),
            row.label.clone().unwrap_or_else(|| if age.is_some() { UNKNOWN } else { "-" }.to_owned()),
            age.unwrap_or("never".to_owned()),
            row.id.to_string(),
        ]
    };
    table(
        &["VM", "STATE", "VCPUS", "MEMORY", "LABEL", "JUDGED", "ID"],
        &all.iter().map(row).collect::<Vec<_>>(),
    )
}

/// All domains, as libvirt lists them now; labels are those that the watcher kept.
pub async fn list(target: &Target) -> Result<(), CommandError> {
    let listing = ask(target).await?;
    let watched: Result<Vec<VmRow>, ClientError> = Client::local(&target.state).get("/vms").await;
    let mut live: BTreeMap<VmId, VmRow> =
        watched.into_iter().flatten().map(|row: VmRow| (row.id, row)).collect();
    let place = Place::new(&target.state);
    let row = |domain: &crate::domstats::Domain| {
        let row = VmRow::new(domain);
        match (live.remove(&domain.id), place.read(domain.id)) {
            (Some(live), _) => {
                VmRow { label: live.label, confidence: live.confidence, judged_at: live.judged_at, ..row }
            }
            (None, Ok(Some(kept))) => row.known(&kept.record, None),
            _ => row,
        }
    };
    let all: Vec<VmRow> = listing.domains.iter().map(row).collect();
    print(target.output, &all, || rows(&all, now().0));
    Ok(())
}

fn show_view(target: &Target, view: &PersonalityView, by: &str) {
    if target.output == OutputForm::Text {
        terminal::say(format_args!("by {by}"));
    }
    let safe = || PersonalityView { vm: shown(&view.vm), ..view.clone() };
    print(target.output, view, || personality_text(&safe(), now().0));
}

/// By what a watcher kept; `None`: it knew no such VM.
fn kept(target: &Target, vm: &str) -> Result<Option<(PersonalityView, Kept)>, CommandError> {
    let place = Place::new(&target.state);
    let all = place.all();
    let Some(kept) = find(all.iter(), vm, |kept| (kept.id, &kept.name)).cloned() else { return Ok(None) };
    let since = UnixMillis(now().0.saturating_sub(LATELY_MS));
    let history = place.history(kept.id, since);
    let [minutes, long] =
        history.map_err(|error| failed(&error, "may this user read the folder of --state?"))?;
    let shown = Shown {
        id: kept.id,
        name: kept.name.clone(),
        record: kept.record.clone(),
        judgements: None,
        departed: false,
    };
    let labels = Labels::new(&shipped());
    Ok(Some((view::personality(shown, &minutes, &long, &labels, now()), kept)))
}

/// By own sampling, of which nothing is kept.
async fn sampled(target: &Target, vm: &str, seconds: u64) -> Result<PersonalityView, CommandError> {
    let stop = until_told().map_err(|error| failed(&error, "try again"))?;
    let mut watcher = Watcher::new(target.virsh(), None);
    // The first one tells what can be wrong.
    watcher.round().await.map_err(|error| unreachable(&error))?;
    if crate::api::locked(&watcher.fleet).vm(vm).is_none() {
        return Err(missing(vm));
    }
    let fleet = watcher.fleet.clone();
    let view = |at: UnixMillis| {
        let fleet = crate::api::locked(&fleet);
        let vm = fleet.vm(vm)?;
        let minutes = view::with_open_minute(Vec::new(), &vm.intake().recent());
        Some(view::personality(Shown::watched(&vm.domain, &vm.judged), &minutes, &[], &fleet.labels, at))
    };
    let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
    while tokio::time::timeout_at(end.min(tokio::time::Instant::now() + SAMPLE_EVERY), stop.cancelled())
        .await
        .is_err()
    {
        if tokio::time::Instant::now() >= end {
            break;
        }
        watcher.round().await.map_err(|error| unreachable(&error))?;
    }
    view(now()).ok_or_else(|| missing(vm))
}

/// What a VM is.
pub async fn show(target: &Target, args: &Show) -> Result<(), CommandError> {
    if let Some(seconds) = args.sample {
        let view = sampled(target, &args.vm, seconds).await?;
        show_view(target, &view, &format!("own sampling for {seconds} s, of which nothing is kept"));
        return Ok(());
    }
    let live: Result<PersonalityView, ClientError> =
        Client::local(&target.state).get(&format!("/vms/{}/personality", segment(&args.vm))).await;
    match live {
        Ok(view) => {
            show_view(target, &view, "the watcher that runs");
            Ok(())
        }
        Err(ClientError::Unreachable { .. } | ClientError::Refused { status: 404, .. }) => {
            let Some((view, kept)) = kept(target, &args.vm)? else {
                let hint = "is it watched? `proteus-libvirt watch` does that, and `show VM --sample 60` looks for itself";
                return Err(CommandError::Missing {
                    what: format!("nothing is known of a VM {}", shown(&args.vm)),
                    hint: hint.to_owned(),
                });
            };
            let age = now().0.saturating_sub(kept.at.0) / 1000;
            show_view(target, &view, &format!("what was kept {age} s ago; it is not watched now"));
            Ok(())
        }
        Err(other) => Err(other.into()),
    }
}

/// Writes a history to a file.
pub fn export(target: &Target, args: &Export) -> Result<(), CommandError> {
    let place = Place::new(&target.state);
    let all = place.all();
    let Some(kept) = find(all.iter(), &args.vm, |kept| (kept.id, &kept.name)) else {
        return Err(missing(&args.vm));
    };
    let hint = "`proteus-libvirt watch` makes histories; may this user read them?";
    let bytes = Intake::export(&place.dir(kept.id)).map_err(|error| failed(&error.into(), hint))?;
    let bytes = bytes.ok_or_else(|| missing(&args.vm))?;
    let write = || File::create_new(&args.file).and_then(|mut file| file.write_all(&bytes));
    write().map_err(|source| CommandError::Written { path: args.file.clone(), source })?;
    let done = serde_json::json!({ "vm": kept.name, "id": kept.id, "bytes": bytes.len() });
    print(target.output, &done, || {
        format!(
            "{} bytes; `proteus telemetry import VM {}` takes them in\n",
            bytes.len(),
            args.file.display()
        )
    });
    Ok(())
}

//! `proteus-libvirt watch`: a round every few seconds until told to end. Must never give up because libvirt does not
//! answer, nor ask it faster because of that.

use crate::api::{self, Shared, locked};
use crate::argument::{Target, Watch};
use crate::fleet::{Event, Fleet};
use crate::place::Place;
use crate::text::{now, shown};
use crate::virsh::{Virsh, VirshError};
use anyhow::{Context, Result};
use proteus_cli::argument::OutputForm;
use proteus_cli::output::moment;
use proteus_cli::terminal;
use proteus_cli::told::Told;
use proteus_protocol::cause::chain;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest pause between two rounds while libvirt does not answer.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Ends when the process is told to.
pub fn until_told() -> Result<CancellationToken> {
    let (stop, mut told) =
        (CancellationToken::new(), Told::listen().context("listen for SIGINT and SIGTERM")?);
    let ended = stop.clone();
    tokio::spawn(async move {
        told.wait().await;
        ended.cancel();
    });
    Ok(stop)
}

fn print(form: OutputForm, event: &Event) {
    match form {
        OutputForm::Json => {
            terminal::say(format_args!("{}", serde_json::to_string(event).unwrap_or_default()))
        }
        OutputForm::Text => terminal::say(format_args!(
            "{} UTC  {:<9} {}: {}",
            moment(event.at),
            event.event,
            shown(&event.vm),
            shown(&event.detail)
        )),
    }
}

/// Pause after so many rounds in a row that brought nothing.
pub fn pause(every: Duration, failed: u32) -> Duration {
    if failed == 0 {
        every
    } else {
        every.saturating_mul(2u32.saturating_pow(failed.min(16))).min(PAUSE_MAX.max(every))
    }
}

/// Asks libvirt, and takes in what it says.
pub struct Watcher {
    /// All VMs.
    pub fleet: Shared,
    virsh: Virsh,
    began: Instant,
    /// Rounds in a row that brought nothing.
    failed: u32,
}

impl Watcher {
    /// One that has not asked yet.
    pub fn new(virsh: Virsh, place: Option<Place>) -> Self {
        let fleet = Arc::new(Mutex::new(Fleet::new(virsh.uri.clone(), place)));
        Self { fleet, virsh, began: Instant::now(), failed: 0 }
    }

    /// One round. What happened, or why libvirt did not answer.
    pub async fn round(&mut self) -> Result<Vec<Event>, VirshError> {
        let start = Instant::now();
        let listing = match self.virsh.domains().await {
            Ok(listing) => listing,
            Err(error) => {
                self.failed = self.failed.saturating_add(1);
                let mut fleet = locked(&self.fleet);
                fleet.rounds.failed += 1;
                fleet.rounds.error = Some(chain(&error));
                return Err(error);
            }
        };
        let asked = start.elapsed();
        let steady_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let fleet = self.fleet.clone();
        let taken = tokio::task::spawn_blocking(move || {
            let mut fleet = locked(&fleet);
            let events = fleet.take(listing, now(), steady_ms);
            let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            fleet.rounds.took_ms = [ms(asked), ms(start.elapsed().saturating_sub(asked))];
            fleet.rounds.done += 1;
            (fleet.rounds.at, fleet.rounds.error) = (Some(now()), None);
            events
        });
        self.failed = 0;
        Ok(taken.await.unwrap_or_default())
    }

    /// Rounds until told to stop, each told as it comes.
    pub async fn run(&mut self, every: Duration, stop: &CancellationToken, mut tell: impl FnMut(&Event)) {
        let mut next = Instant::now();
        let mut strange = 0;
        loop {
            let before = self.failed;
            let round = tokio::select! {
                // Cancel-safe: a token that is waited for again.
                () = stop.cancelled() => break,
                // Cancel-safe: a virsh that is not waited for any more is killed, and what is being taken in is taken in.
                round = self.round() => round,
            };
            match round {
                Ok(events) => {
                    if before > 0 {
                        tracing::info!(uri = %shown(&self.virsh.uri), "libvirt answers again");
                    }
                    events.iter().for_each(&mut tell);
                }
                // Told once, until it answers again.
                Err(error) if before == 0 => {
                    tracing::warn!(uri = %shown(&self.virsh.uri), error = %chain(&error), hint = error.hint(), "libvirt does not answer; what is known of its VMs is kept");
                }
                Err(error) => tracing::debug!(error = %chain(&error), "libvirt still does not answer"),
            }
            let now_strange = locked(&self.fleet).rounds.strange;
            if now_strange > strange && strange == 0 {
                tracing::warn!(
                    lines = now_strange,
                    "parts of libvirt's answer are not believed; /metrics counts them"
                );
            }
            strange = now_strange;
            // Rounds keep their distance also where one took long, and none is made up for.
            next = (next + pause(every, self.failed)).max(Instant::now());
            let wait = next.saturating_duration_since(Instant::now());
            if tokio::time::timeout(wait, stop.cancelled()).await.is_ok() {
                break;
            }
        }
        let fleet = self.fleet.clone();
        let _ = tokio::task::spawn_blocking(move || locked(&fleet).end(now())).await;
    }
}

/// Serves on both ways until told to stop.
async fn listen(
    fleet: Shared,
    args: &Watch,
    place: &Place,
    stop: &CancellationToken,
) -> Result<Vec<JoinHandle<std::io::Result<()>>>> {
    let router = api::router(fleet);
    let path = place.socket();
    let unix = UnixListener::bind(&path).with_context(|| format!("listen at {}", path.display()))?;
    // Whoever may not enter the folder does not reach it meanwhile either.
    let own = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&path, own).with_context(|| format!("set the mode of {}", path.display()))?;
    let stopped = stop.clone().cancelled_owned();
    let mut tasks =
        vec![tokio::spawn(axum::serve(unix, router.clone()).with_graceful_shutdown(stopped).into_future())];
    if let Some(address) = args.listen {
        let tcp = TcpListener::bind(address).await.with_context(|| format!("listen at {address}"))?;
        let address = tcp.local_addr().unwrap_or(address);
        tracing::info!(%address, "metrics and personalities are served");
        let stopped = stop.clone().cancelled_owned();
        tasks.push(tokio::spawn(axum::serve(tcp, router).with_graceful_shutdown(stopped).into_future()));
    }
    Ok(tasks)
}

/// Watches until told to end.
pub async fn watch(target: &Target, args: &Watch) -> Result<()> {
    let stop = until_told()?;
    let place = Place::hold(&target.state)?;
    let reader = Place::new(&target.state);
    let mut watcher = Watcher::new(target.virsh(), Some(place));
    let tasks = listen(watcher.fleet.clone(), args, &reader, &stop).await?;
    tracing::info!(uri = %shown(&target.connect), state = %target.state.display(), "VMs are watched, read-only");
    watcher.run(args.every(), &stop, |event| print(target.output, event)).await;
    for task in tasks {
        // Who reads slowly does not hold up the end.
        let _ = tokio::time::timeout(Duration::from_secs(2), task).await;
    }
    let _ = std::fs::remove_file(reader.socket());
    Ok(())
}

#[cfg(test)]
mod tests;

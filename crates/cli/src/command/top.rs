//! `proteus top`: asks the API again and again, a bounded part of the VMs each time, and shows what it said until a key
//! ends it. Must always leave the terminal as it was.

use super::{Outcome, Session, each};
use crate::argument::{OutputForm, Top as Words};
use crate::client::{Client, ClientError, segment};
use crate::error::{CommandError, usage};
use crate::top::{Lists, Look, Sort, Top, Turn, choose, draw, plain, room, value};
use proteus_model::id::VmId;
use proteus_model::unit::Millis;
use proteus_model::vm::PowerState;
use proteus_protocol::api::v1::{HostView, MorphView, UsageView, VmView};
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// Morphs that are asked for in one look.
const MORPHS_ASKED_MAX: usize = 8;
/// Longest wait for what one VM uses: Proteus says it without asking the VM.
const USAGE_LIMIT: Duration = Duration::from_secs(3);
/// Longest wait for a list: a VM that hangs holds it up for some seconds.
const LIST_LIMIT: Duration = Duration::from_secs(10);
/// How often the thread that reads keys looks whether it is to end.
const KEY_PAUSE: Duration = Duration::from_millis(200);
/// Shortest time between two looks.
const INTERVAL_MIN: Millis = Millis(500);
/// Longest one: VMs that are not on the screen come in turn, and what is known of them must not be too old when it is
/// theirs again.
const INTERVAL_MAX: Millis = Millis(10_000);

/// An answer, or why there is none in time.
async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, String> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer.map_err(|why| why.to_string()),
        Err(_) => Err(format!("Proteus does not answer within {} s", limit.as_secs())),
    }
}

async fn lists(client: &Client) -> Result<Lists, ClientError> {
    let host: HostView = client.get("/host").await?;
    let vms: Vec<VmView> = client.get("/vms").await?;
    let mut morphs = Vec::new();
    for id in vms.iter().filter_map(|vm| vm.morph).take(MORPHS_ASKED_MAX) {
        let view: Result<MorphView, _> = client.get(&format!("/morphs/{id}")).await;
        // One that ended meanwhile is not under way.
        morphs.extend(view.ok().map(|view| view.morph).filter(|morph| !morph.state.is_terminal()));
    }
    Ok(Lists { host, vms, morphs })
}

async fn usages(client: &Client, ids: Vec<VmId>) -> BTreeMap<VmId, Result<UsageView, String>> {
    let ask = |id: VmId| {
        let client = client.clone();
        async move {
            let path = format!("/vms/{}/usage", segment(&id.to_string()));
            (id, within(USAGE_LIMIT, client.get(&path)).await)
        }
    };
    each(ids.into_iter().map(ask)).await.into_iter().collect()
}

/// Asks again and again until nobody listens.
async fn ask(
    client: Client,
    interval: Duration,
    seen: watch::Receiver<Vec<VmId>>,
    looks: mpsc::Sender<Look>,
) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        ticks.tick().await;
        let lists = within(LIST_LIMIT, lists(&client)).await;
        let mut ids = Vec::new();
        if let Ok(lists) = &lists {
            (ids, last) = choose(&lists.vms, &seen.borrow(), last);
        }
        let usages = usages(&client, ids).await;
        if looks.send(Look { lists, usages }).await.is_err() {
            return;
        }
    }
}

/// Reads keys until nobody listens. A thread: reading the terminal waits.
fn read_keys() -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        while !sender.is_closed() {
            match event::poll(KEY_PAUSE) {
                Ok(false) => {}
                Ok(true) => match event::read() {
                    Ok(event) => {
                        if sender.blocking_send(event).is_err() {
                            return;
                        }
                    }
                    Err(_) => return,
                },
                Err(_) => return,
            }
        }
    });
    receiver
}

/// The terminal, taken; given back however this ends, a panic too.
struct Screen(ratatui::DefaultTerminal);

impl Screen {
    fn take() -> std::io::Result<Self> {
        ratatui::try_init().map(Self).inspect_err(|_| {
            // It may have been taken in part.
            let _ = ratatui::try_restore();
        })
    }

    fn show(&mut self, top: &mut Top) -> std::io::Result<()> {
        let height = self.0.size()?.height;
        top.fit(room(top, height));
        self.0.draw(|frame| draw(frame, top)).map(|_| ())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Where the terminal is gone there is nothing to give back.
        let _ = ratatui::try_restore();
    }
}

fn no_terminal(source: std::io::Error) -> CommandError {
    CommandError::Failed {
        what: "show it on this terminal".to_owned(),
        because: vec![source.to_string()],
        hint: "`proteus top --once` prints it as a table".to_owned(),
    }
}

impl Session {
    pub(super) async fn top(&self, words: &Words) -> Outcome {
        if words.once {
            return self.top_once(words.sort).await;
        }
        let hint = "`proteus top --once` prints it once, as a table or with --output json";
        if self.form == OutputForm::Json {
            return Err(usage("what is shown until a key ends it is no JSON value".to_owned(), hint));
        }
        if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
            let what = "expected a terminal on standard input and output, found a file or a pipe";
            return Err(usage(what.to_owned(), hint));
        }
        if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&words.interval) {
            let what = format!("--interval {}: expected {INTERVAL_MIN} to {INTERVAL_MAX}", words.interval);
            return Err(usage(what, "what a VM uses is looked at once a second"));
        }
        // Refused here, with its reason, and not on a screen that says nothing else.
        let _: HostView = self.client.get("/host").await?;
        let interval = Duration::from_millis(words.interval.0);
        self.top_live(Top::new(words.sort), interval).await.map_err(no_terminal)?;
        Ok(0)
    }

    async fn top_once(&self, sort: Sort) -> Outcome {
        let lists = lists(&self.client).await?;
        let running = lists.vms.iter().filter(|vm| vm.power == PowerState::Running);
        let usages = usages(&self.client, running.map(|vm| vm.id).collect()).await;
        let mut top = Top::new(sort);
        top.take(Look { lists: Ok(lists), usages });
        self.print(&value(&top), || plain(&top));
        Ok(0)
    }

    async fn top_live(&self, mut top: Top, interval: Duration) -> std::io::Result<()> {
        let (mut ended, mut gone) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
        // From outside: what is typed is a key.
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut screen = Screen::take()?;
        let mut keys = read_keys();
        let (seen_sender, seen) = watch::channel(Vec::new());
        let (look_sender, mut looks) = mpsc::channel(1);
        let asking = tokio::spawn(ask(self.client.clone(), interval, seen, look_sender));
        loop {
            screen.show(&mut top)?;
            seen_sender.send_replace(top.wanted());
            // Cancel-safe: each arm is a receive, which loses nothing that it did not give out.
            tokio::select! {
                key = keys.recv() => match key {
                    Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                        if top.press(key.code, key.modifiers) == Turn::Quit {
                            break;
                        }
                    }
                    // Of another size, or something that nobody asked for: it is drawn anew.
                    Some(_) => {}
                    None => break,
                },
                look = looks.recv() => match look {
                    Some(look) => top.take(look),
                    None => return Err(std::io::Error::other("asking Proteus ended")),
                },
                _ = ended.recv() => break,
                _ = gone.recv() => break,
                _ = interrupted.recv() => break,
            }
        }
        asking.abort();
        Ok(())
    }
}

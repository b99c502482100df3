//! The host's end of the guest channel: one link per VM, opened when first needed and again when it broke. What a
//! guest says is advice: bounded in size, rate and time, and never believed where the host has a counter.

use crate::clock::now;
use proteus_model::unit::UnixMillis;
use proteus_protocol::guest::frame::{Decoder, encode};
use proteus_protocol::guest::v1::{
    ErrorCode, Event, GuestMessage, HelloReply, HelloRequest, HostMessage, PROTOCOL_VERSION, Reply, Request,
};
use proteus_protocol::guest::{GUEST_PAYLOAD_BYTES_MAX, HOST_PAYLOAD_BYTES_MAX};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// Longest wait for an answer to a plain request: p99 of a busy emulated guest is 44 ms, an apply step of it 2 s.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Wait for a word of the agent after the first greeting before it is said again. An idle one is heard in a few ms, and
/// one that did not hear the greeting speaks by itself; a second greeting costs a clone, to whom everything is new,
/// tens of milliseconds. Each next wait is twice as long, for guests that are slow.
const KNOCK_FIRST: Duration = Duration::from_millis(250);
/// The longest of these waits.
const KNOCK_LIMIT: Duration = Duration::from_secs(1);
/// Bytes that a guest may send in a second before the link is cut: 30 MB/s is what the channel carries at most;
/// an honest agent sends 60 KiB a second.
const FLOOD_BYTES_PER_SECOND: u64 = 4 << 20;
/// Broken frames after which the link is cut and opened anew. A few come with each reconnect.
const BROKEN_FRAMES_MAX: u64 = 64;

/// Why the agent did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum GuestError {
    #[error("the guest has no channel")]
    NoChannel,
    #[error("open the guest channel: {0}")]
    Open(String),
    #[error("the guest channel closed{0}")]
    Closed(String),
    #[error("the agent did not answer within {0} s")]
    TimedOut(u64),
    #[error("the agent refused: {message}")]
    Refused { code: ErrorCode, message: String },
    #[error("the agent answered something else than was asked")]
    Confused,
}

type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Reply>>>>>;

struct Link {
    /// Whether the agent was heard on this link.
    heard: Arc<watch::Sender<bool>>,
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    waiting: Waiting,
    reader: JoinHandle<()>,
    why_closed: Arc<Mutex<String>>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// The way to one VM's agent.
pub(crate) struct Guest {
    next_id: AtomicU64,
    link: tokio::sync::Mutex<Option<(PathBuf, Arc<Link>)>>,
    hello: Mutex<Option<HelloReply>>,
    heard: Mutex<Heard>,
    /// How often the guest had started anew when it was last hung up on.
    reboots: AtomicU64,
}

/// When the agent was heard, and whether it left somebody without an answer since.
#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    at: Option<(Instant, UnixMillis)>,
    in_vain: bool,
}

/// A guest may still answer what an earlier host asked: ids of two hosts differ, so that nobody takes that answer.
fn first_id() -> u64 {
    let mut bits = [0; 4];
    // Only an interruption before any byte came leaves zeros, which are as good as any.
    let _ = rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty());
    // 2^52 at most, which any JSON reader holds exactly, and 2^20 questions apart.
    u64::from(u32::from_ne_bytes(bits)) << 20
}

impl Guest {
    pub(crate) fn new() -> Self {
        Self {
            next_id: AtomicU64::new(first_id()),
            link: tokio::sync::Mutex::default(),
            hello: Mutex::default(),
            heard: Mutex::default(),
            reboots: AtomicU64::new(0),
        }
    }

    /// From now on the agent that answers is that of a guest that has started anew so often.
    pub(crate) fn keep_reboots(&self, reboots: u64) {
        self.reboots.store(reboots, Ordering::SeqCst);
    }

    /// Hangs up on a guest that has started anew so often: whoever waits for an answer of the old one is told that
    /// there will be none, and what it said of itself is forgotten.
    pub(crate) async fn hang_up(&self, reboots: u64) {
        let mut slot = self.link.lock().await;
        if let Some((_, link)) = slot.take() {
            *link.why_closed.lock().unwrap_or_else(PoisonError::into_inner) =
                ": the guest started anew".into();
            link.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        *self.hello.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.heard() = Heard::default();
        self.keep_reboots(reboots);
    }

    /// The kernel's word for this boot of a guest that has started anew so often; `None`: nobody said it yet.
    pub(crate) fn boot_id(&self, reboots: u64) -> Option<String> {
        let current = self.reboots.load(Ordering::SeqCst) == reboots;
        self.hello().filter(|hello| current && !hello.boot_id.is_empty()).map(|hello| hello.boot_id)
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since when nothing is heard of an agent that was asked; `None`: it answered what it was asked last, or never
    /// anything.
    pub(crate) fn silent_since(&self) -> Option<UnixMillis> {
        let heard = *self.heard();
        heard.at.filter(|_| heard.in_vain).map(|(_, at)| at)
    }

    /// What the agent said of itself last.
    pub(crate) fn hello(&self) -> Option<HelloReply> {
        self.hello.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps what the agent said of itself.
    pub(crate) fn keep_hello(&self, hello: &HelloReply) {
        *self.hello.lock().unwrap_or_else(PoisonError::into_inner) = Some(hello.clone());
    }

    async fn link(&self, path: &Path) -> Result<Arc<Link>, GuestError> {
        let mut slot = self.link.lock().await;
        if let Some((known, link)) = slot.as_ref() {
            let open = link.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            if open && known == path {
                return Ok(link.clone());
            }
        }
        // The old link must be gone first: QEMU's socket takes one client at a time.
        *slot = None;
        let stream = UnixStream::connect(path).await.map_err(|e| GuestError::Open(e.to_string()))?;
        let (read, write) = stream.into_split();
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let why_closed = Arc::new(Mutex::new(String::new()));
        let heard = Arc::new(watch::Sender::new(false));
        let reader = tokio::spawn(read_messages(read, waiting.clone(), why_closed.clone(), heard.clone()));
        let writer = tokio::sync::Mutex::new(write);
        let link = Arc::new(Link { heard, writer, waiting, reader, why_closed });
        *slot = Some((path.to_owned(), link.clone()));
        Ok(link)
    }

    async fn exchange(&self, link: &Link, request: Request) -> Result<Reply, GuestError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let closed =
            || GuestError::Closed(link.why_closed.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let (sender, receiver) = oneshot::channel();
        match link.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(waiting) => waiting.insert(id, sender),
            None => return Err(closed()),
        };
        let forget = Forget { waiting: &link.waiting, id };
        let frame = encode(&HostMessage { id, request }, HOST_PAYLOAD_BYTES_MAX);
        let frame = frame.map_err(|e| GuestError::Open(e.to_string()))?;
        link.writer.lock().await.write_all(&frame).await.map_err(|_| closed())?;
        let reply = receiver.await.map_err(|_| closed());
        drop(forget);
        if reply.is_ok() {
            *self.heard() = Heard { at: Some((Instant::now(), now())), in_vain: false };
            link.heard.send_replace(true);
        }
        reply
    }

    /// Greets until the agent is heard: what is asked before the guest's kernel has told the agent of the new host
    /// (after a reconnect, a replaced VMM) is read by it and its answer dropped, so a greeting may be lost. Once told,
    /// the agent says hello by itself, and from then on answers.
    async fn knock(&self, link: &Link) -> Result<(), GuestError> {
        let mut patience = KNOCK_FIRST;
        let mut heard = link.heard.subscribe();
        while !*heard.borrow() {
            let greeting = self.exchange(link, Request::Hello { hello: hello_request() });
            let word = async {
                // Cancel-safe: nobody needs the answer to a greeting, and the other only waits.
                tokio::select! {
                    answer = greeting => answer.map(drop),
                    _ = heard.wait_for(|heard| *heard) => Ok(()),
                }
            };
            if let Ok(answer) = tokio::time::timeout(patience, word).await {
                return answer;
            }
            patience = KNOCK_LIMIT.min(patience * 2);
        }
        Ok(())
    }

    /// Asks the agent behind the socket `path`, waiting at most `limit`.
    pub(crate) async fn ask_within(
        &self,
        path: &Path,
        request: Request,
        limit: Duration,
    ) -> Result<Reply, GuestError> {
        let begun = Instant::now();
        let asked = async {
            let link = self.link(path).await?;
            self.knock(&link).await?;
            self.exchange(&link, request).await
        };
        let answer = tokio::time::timeout(limit, asked).await;
        let answer = answer.unwrap_or(Err(GuestError::TimedOut(limit.as_secs())));
        if answer.is_err() {
            let mut heard = self.heard();
            // It may have answered somebody else meanwhile, and only be slow in this.
            heard.in_vain |= heard.at.is_none_or(|(at, _)| at < begun);
        }
        match answer? {
            Reply::Error { code, message } => Err(GuestError::Refused { code, message }),
            reply => Ok(reply),
        }
    }

    /// Asks an agent that was never asked anything on this link, and does not wait for its first word. Agents of before
    /// may lose what comes before their kernel has told them of the host: it is asked again then, so it must be
    /// something that can be done twice.
    pub(crate) async fn ask_first(
        &self,
        path: &Path,
        request: Request,
        limit: Duration,
    ) -> Result<Reply, GuestError> {
        let asked = async {
            let link = self.link(path).await?;
            let lost = async {
                // An agent answers in order: with the answer to a later question, that to an earlier one is here or lost.
                self.knock(&link).await?;
                self.exchange(&link, Request::Ping).await
            };
            // Cancel-safe: the first that answers is the one that is wanted; nobody needs the answers of `lost`.
            tokio::select! {
                biased;
                answer = self.exchange(&link, request.clone()) => return answer,
                word = lost => drop(word?),
            }
            self.exchange(&link, request).await
        };
        let answer = tokio::time::timeout(limit, asked).await;
        match answer.unwrap_or(Err(GuestError::TimedOut(limit.as_secs())))? {
            Reply::Error { code, message } => Err(GuestError::Refused { code, message }),
            reply => Ok(reply),
        }
    }

    /// Asks with the usual limit.
    pub(crate) async fn ask(&self, path: &Path, request: Request) -> Result<Reply, GuestError> {
        self.ask_within(path, request, ANSWER_LIMIT).await
    }

    /// Whether the agent behind `path` said who it is, and was heard on the link that is open.
    pub(crate) async fn is_known(&self, path: &Path) -> bool {
        let slot = self.link.lock().await;
        let heard = slot.as_ref().is_some_and(|(known, link)| known == path && *link.heard.borrow());
        heard && self.hello().is_some()
    }

    /// Introduces the host and learns who answers.
    pub(crate) async fn greet(&self, path: &Path, limit: Duration) -> Result<HelloReply, GuestError> {
        match self.ask_within(path, Request::Hello { hello: hello_request() }, limit).await? {
            Reply::Hello { hello } => {
                self.keep_hello(&hello);
                Ok(hello)
            }
            _ => Err(GuestError::Confused),
        }
    }
}

fn hello_request() -> HelloRequest {
    HelloRequest { protocol: PROTOCOL_VERSION, version: env!("CARGO_PKG_VERSION").to_owned() }
}

/// Takes the request out of the waiting list, however the wait ends.
struct Forget<'a> {
    waiting: &'a Waiting,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            waiting.remove(&self.id);
        }
    }
}

/// Counts what comes, to cut a link that floods.
struct Meter {
    since: Instant,
    bytes: u64,
}

impl Meter {
    fn floods(&mut self, bytes: usize) -> bool {
        if self.since.elapsed() > Duration::from_secs(1) {
            *self = Self { since: Instant::now(), bytes: 0 };
        }
        self.bytes += bytes as u64;
        self.bytes > FLOOD_BYTES_PER_SECOND
    }
}

async fn read_messages(
    mut read: OwnedReadHalf,
    waiting: Waiting,
    why_closed: Arc<Mutex<String>>,
    heard: Arc<watch::Sender<bool>>,
) {
    let mut decoder: Decoder<GuestMessage> = Decoder::new(GUEST_PAYLOAD_BYTES_MAX);
    let mut meter = Meter { since: Instant::now(), bytes: 0 };
    let mut buffer = vec![0u8; 64 << 10];
    let why = loop {
        let count = match read.read(&mut buffer).await {
            Ok(0) => break String::new(),
            Ok(count) => count,
            Err(error) => break format!(": {error}"),
        };
        if meter.floods(count) {
            break format!(": the guest sent more than {FLOOD_BYTES_PER_SECOND} bytes in a second");
        }
        decoder.push(&buffer[..count]);
        while let Some(message) = decoder.next() {
            match message {
                Ok(GuestMessage::Reply { id, reply }) => deliver(&waiting, id, *reply),
                Ok(GuestMessage::Event { event: Event::Hello { .. } }) => drop(heard.send_replace(true)),
                Ok(GuestMessage::Event { .. } | GuestMessage::Unknown) => {}
                Err(error) => tracing::debug!(%error, "guest frame dropped"),
            }
        }
        if decoder.report().broken_frames > BROKEN_FRAMES_MAX {
            break format!(": more than {BROKEN_FRAMES_MAX} broken frames came");
        }
    };
    *why_closed.lock().unwrap_or_else(PoisonError::into_inner) = why;
    // Whoever still waits sees its sender dropped: "closed".
    waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
}

fn deliver(waiting: &Waiting, id: u64, reply: Reply) {
    let sender = match waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        Some(waiting) => waiting.remove(&id),
        None => None,
    };
    if let Some(sender) = sender {
        // The caller may have given up waiting.
        let _ = sender.send(reply);
    }
}

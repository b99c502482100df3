//! The virtio-serial port to the host. What cannot be sent is queued up to a limit, then dropped: a host that does
//! not listen must never make the agent grow or stop.

use proteus_protocol::guest::frame::{Decoder, encode_into};
use proteus_protocol::guest::v1::{Event, GuestMessage, HostMessage, Reply};
use proteus_protocol::guest::{GUEST_PAYLOAD_BYTES_MAX, HOST_PAYLOAD_BYTES_MAX, PORT_NAME};
use rustix::event::epoll;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Most bytes that wait to be sent: two full answers.
const QUEUE_BYTES_MAX: usize = 2 * GUEST_PAYLOAD_BYTES_MAX;
/// Once all is sent, so much of the queue's memory is kept.
const QUEUE_BYTES_KEPT: usize = 64 * 1024;
/// A frame whose rest does not come within this is given up.
const FRAME_PATIENCE: Duration = Duration::from_secs(2);

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// No such port.
    #[error("no virtio-serial port is named {PORT_NAME}; add a virtserialport with that name to the VM")]
    Missing,
    /// It could not be opened.
    #[error("open {path}")]
    Open {
        /// The device.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The open port.
pub struct Channel {
    port: OwnedFd,
    /// Wakes on the edges of the port's state: the port itself, while no host is there, is always "hung up".
    edges: OwnedFd,
    decoder: Decoder<Incoming>,
    queue: Vec<u8>,
    sent: usize,
    connected: bool,
    mid_frame_since: Option<Instant>,
    /// Reading stopped before the port was empty: there will be no new edge.
    unread: bool,
    dropped_messages: u64,
}

/// What arrives: a request, or something whose sender can at least be told that it is none.
#[derive(serde::Deserialize)]
#[serde(untagged)]
pub enum Incoming {
    /// A request.
    Message(HostMessage),
    /// No request, but with an id to answer to.
    Malformed {
        /// The id.
        id: u64,
    },
}

/// Finds the device of the port by its name.
fn find_port() -> Option<PathBuf> {
    let by_name = Path::new("/dev/virtio-ports").join(PORT_NAME);
    if by_name.exists() {
        return Some(by_name);
    }
    let entries = std::fs::read_dir("/sys/class/virtio-ports").ok()?;
    entries.flatten().find_map(|entry| {
        let name = crate::procfs::read_text(entry.path().join("name")).ok()?;
        (name == PORT_NAME).then(|| Path::new("/dev").join(entry.file_name()))
    })
}

impl Channel {
    /// Opens the port.
    pub fn open() -> Result<Self, ChannelError> {
        let path = find_port().ok_or(ChannelError::Missing)?;
        let error = |source: Errno| ChannelError::Open { path: path.clone(), source: source.into() };
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let port = open(&path, flags, Mode::empty()).map_err(error)?;
        let edges = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(error)?;
        let interest = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&edges, &port, epoll::EventData::new_u64(0), interest).map_err(error)?;
        Ok(Self {
            port,
            edges,
            decoder: Decoder::new(HOST_PAYLOAD_BYTES_MAX),
            queue: Vec::new(),
            sent: 0,
            connected: true,
            mid_frame_since: None,
            unread: true,
            dropped_messages: 0,
        })
    }

    /// Becomes readable when [`Channel::pump`] has something to do.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.edges.as_fd()
    }

    /// Whether a host is at the other end.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Whether everything was sent, or nobody is there to read it.
    pub fn is_flushed(&self) -> bool {
        !self.connected || self.queue.is_empty()
    }

    /// When [`Channel::pump`] must be called even if nothing happens.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        if self.unread {
            return Some(now);
        }
        self.mid_frame_since.map(|since| since + FRAME_PATIENCE)
    }

    /// Reads and writes as much as is possible now, and gives the requests that arrived whole to `on_message`.
    /// An undecodable frame is dropped: its id is unknown, so there is nobody to answer.
    pub fn pump(&mut self, now: Instant, mut on_message: impl FnMut(Incoming)) {
        self.note_edges();
        self.flush();
        self.unread = self.read_some(&mut on_message);
        self.mid_frame_since = self.decoder.is_mid_frame().then(|| self.mid_frame_since.unwrap_or(now));
        if self.mid_frame_since.is_some_and(|since| since + FRAME_PATIENCE <= now) {
            self.decoder.resynchronise();
            self.mid_frame_since = None;
            self.take_messages(&mut on_message);
        }
    }

    fn take_messages(&mut self, on_message: &mut impl FnMut(Incoming)) {
        while let Some(message) = self.decoder.next() {
            if let Ok(message) = message {
                on_message(message);
            }
        }
    }

    /// Reads what is there, at most 64 × 8 KiB, so that a flooding host does not starve the rest. True: there may
    /// be more.
    fn read_some(&mut self, on_message: &mut impl FnMut(Incoming)) -> bool {
        let mut chunk = [0u8; 8192];
        for _ in 0..64 {
            match rustix::io::read(&self.port, &mut chunk) {
                Ok(0) => return false,
                Ok(got) => {
                    // Who writes is there, also where the kernel has not told it yet: two queues bring the two, and the
                    // answer to the first question must not be lost to their order. It is sent at the edge that comes.
                    self.connected = true;
                    self.decoder.push(&chunk[..got]);
                    self.take_messages(on_message);
                }
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        true
    }

    fn note_edges(&mut self) {
        let mut events = Vec::with_capacity(4);
        let no_wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        if epoll::wait(&self.edges, rustix::buffer::spare_capacity(&mut events), Some(&no_wait)).is_err() {
            return;
        }
        for event in events {
            let flags = event.flags;
            let hung_up = flags.contains(epoll::EventFlags::HUP);
            if hung_up && self.connected {
                // The host is gone: half a frame of either side helps nobody, nor what it asked and nobody waits for.
                self.read_some(&mut |_| {});
                self.decoder.reset();
                self.queue.clear();
                self.sent = 0;
            }
            self.connected = !hung_up;
        }
    }

    fn flush(&mut self) {
        while self.connected && self.sent < self.queue.len() {
            match rustix::io::write(&self.port, &self.queue[self.sent..]) {
                Ok(0) => break,
                Ok(wrote) => self.sent += wrote,
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        if self.sent == self.queue.len() {
            self.queue.clear();
            self.sent = 0;
            self.queue.shrink_to(QUEUE_BYTES_KEPT);
        }
    }

    fn send(&mut self, message: &GuestMessage) {
        if !self.connected {
            return;
        }
        if self.queue.len() - self.sent > QUEUE_BYTES_MAX {
            self.dropped_messages += 1;
            return;
        }
        if encode_into(&mut self.queue, message, GUEST_PAYLOAD_BYTES_MAX).is_err() {
            self.dropped_messages += 1;
        }
        self.flush();
    }

    /// Answers a request.
    pub fn reply(&mut self, id: u64, reply: Reply) {
        self.send(&GuestMessage::Reply { id, reply: Box::new(reply) });
    }

    /// Says something unasked.
    pub fn event(&mut self, event: Event) {
        self.send(&GuestMessage::Event { event });
    }
}

//! The agent's one loop: wait, then let each part do what it can without waiting, then send what came of it.
//! Must never wait anywhere but in its one `poll`.

mod dispatch;

mod ending;

mod job;

use crate::boot::console;
use crate::channel::{Channel, Incoming};
use crate::execution::network_policy::Policies;
use crate::failure::Failure;
use crate::identity;
use crate::image::Images;
use crate::outbox::{Outbox, Outgoing};
use crate::process::reap_orphans;
use crate::procfs::read_text;
use crate::service::Services;
use crate::sys;
use crate::telemetry::{Collectors, Sampler};
use ending::Ending;
use job::Jobs;
use proteus_protocol::cause::chain;
use proteus_protocol::guest::v1::request::GuestKind;
use proteus_protocol::guest::v1::{ErrorCode, Event};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// Between two attempts to open a channel that is not there, as the first process; a port can be plugged later.
const CHANNEL_RETRY: Duration = Duration::from_secs(1);
/// Between two looks for a disk that is being plugged.
const MOUNT_RETRY: Duration = Duration::from_millis(20);
/// A disk that is being plugged appears within this.
const MOUNT_PATIENCE: Duration = Duration::from_secs(10);
/// Most requests that wait for something at a time.
const WAITING_MAX: usize = 64;

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It has no way to the host.
    #[error("open the channel to the host: {0}")]
    Channel(String),
    /// It cannot take signals.
    #[error("take signals: {0}")]
    Signals(std::io::Error),
}

/// An image whose disk is not there yet.
struct PendingMount {
    id: u64,
    serial: String,
    name: String,
    deadline: Instant,
}

/// The agent.
pub struct Agent {
    kind: GuestKind,
    instance: String,
    boot_id: String,
    channel: Option<Channel>,
    channel_retry_at: Instant,
    signals: OwnedFd,
    buttons: Vec<OwnedFd>,
    sampler: Sampler,
    collectors: Collectors,
    services: Services,
    images: Images,
    mounts: Vec<PendingMount>,
    jobs: Jobs,
    ending: Option<Ending>,
    outbox: Outbox,
    incoming: Vec<Incoming>,
}

/// Runs until the guest ends, or, beside another init, until it is told to stop.
pub fn run(kind: GuestKind) -> Result<(), AgentError> {
    let signals = sys::signal_fd().map_err(AgentError::Signals)?;
    let now = Instant::now();
    let mut agent = Agent {
        kind,
        instance: identity::new_instance(),
        boot_id: read_text("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
        channel: None,
        channel_retry_at: now,
        signals,
        buttons: if kind == GuestKind::Pid1 { crate::boot::power_buttons() } else { Vec::new() },
        sampler: Sampler::new(),
        collectors: Collectors::default(),
        services: Services::default(),
        images: Images::default(),
        mounts: Vec::new(),
        jobs: Jobs::new(Policies::load()),
        ending: None,
        outbox: Outbox::default(),
        incoming: Vec::new(),
    };
    agent.open_channel(now)?;
    while agent.turn() {
        agent.wait();
    }
    Ok(())
}

impl Agent {
    /// Opens the channel. Only the first process goes on without one.
    fn open_channel(&mut self, now: Instant) -> Result<(), AgentError> {
        match Channel::open() {
            Ok(channel) => {
                self.channel = Some(channel);
                self.outbox.event(Event::Hello { hello: self.hello(None) });
                Ok(())
            }
            Err(error) if self.kind == GuestKind::Pid1 => {
                if self.channel_retry_at == now {
                    console(&chain(&error));
                }
                self.channel_retry_at = now + CHANNEL_RETRY;
                Ok(())
            }
            Err(error) => Err(AgentError::Channel(chain(&error))),
        }
    }

    /// Does everything that can be done now. False: it is over.
    fn turn(&mut self) -> bool {
        let now = Instant::now();
        if self.channel.is_none() && now >= self.channel_retry_at {
            // As the first process this cannot fail, and others do not get here without a channel.
            let _ = self.open_channel(now);
        }
        if !self.take_signals(now) {
            return false;
        }
        self.take_button_presses(now);
        self.receive(now);
        self.services.step(now, &mut self.outbox);
        self.step_jobs(now);
        self.collectors.step(now);
        self.step_mounts(now);
        if self.kind == GuestKind::Pid1 {
            let (services, jobs, collectors) = (&self.services, &self.jobs, &self.collectors);
            reap_orphans(|pid| services.owns(pid) || jobs.owns(pid) || collectors.owns(pid));
        }
        self.step_ending(now);
        self.send();
        true
    }

    fn take_signals(&mut self, now: Instant) -> bool {
        while let Some(signal) = sys::read_signal(self.signals.as_fd()) {
            match (signal, self.kind) {
                (libc::SIGINT, GuestKind::Pid1) => {
                    self.end(proteus_protocol::guest::v1::Shutdown::Reboot, now)
                }
                (libc::SIGTERM | libc::SIGPWR, GuestKind::Pid1) => {
                    self.end(proteus_protocol::guest::v1::Shutdown::Poweroff, now);
                }
                (libc::SIGTERM | libc::SIGINT, _) => return false,
                _ => {}
            }
        }
        true
    }

    /// A press of the power button is a wish to power off.
    fn take_button_presses(&mut self, now: Instant) {
        // struct input_event of linux/input.h: 16 bytes of time, type, code, value. EV_KEY is 1, KEY_POWER 116.
        let mut pressed = false;
        let mut event = [0u8; 24];
        for button in &self.buttons {
            while rustix::io::read(button, &mut event) == Ok(event.len()) {
                let (kind, code) =
                    (u16::from_ne_bytes([event[16], event[17]]), u16::from_ne_bytes([event[18], event[19]]));
                pressed |= kind == 1 && code == 116 && event[20] == 1;
            }
        }
        if pressed {
            self.end(proteus_protocol::guest::v1::Shutdown::Poweroff, now);
        }
    }

    fn receive(&mut self, now: Instant) {
        let Some(channel) = &mut self.channel else { return };
        let was_connected = channel.is_connected();
        let incoming = &mut self.incoming;
        channel.pump(now, |message| incoming.push(message));
        if channel.is_connected() && !was_connected {
            let hello = self.hello(None);
            self.outbox.event(Event::Hello { hello });
        }
        for message in std::mem::take(&mut self.incoming) {
            match message {
                Incoming::Message(message) => self.dispatch(message, now),
                Incoming::Malformed { id } => {
                    let failure = Failure::new(ErrorCode::Invalid, "the request is malformed");
                    self.outbox.reply(id, failure.into_reply());
                }
            }
        }
    }

    fn step_mounts(&mut self, now: Instant) {
        for mount in std::mem::take(&mut self.mounts) {
            match self.images.ensure_mounted(&mount.serial, &mount.name) {
                Err(failure) if failure.code == ErrorCode::NotFound && now < mount.deadline => {
                    self.mounts.push(mount)
                }
                result => {
                    let reply = result.map(|image| proteus_protocol::guest::v1::Reply::Image { image });
                    self.outbox.answer(mount.id, reply);
                }
            }
        }
    }

    fn send(&mut self) {
        for outgoing in self.outbox.drain() {
            let Some(channel) = &mut self.channel else { continue };
            match outgoing {
                Outgoing::Reply(id, reply) => channel.reply(id, reply),
                Outgoing::Event(event) => channel.event(event),
            }
        }
    }

    fn deadline(&self, now: Instant) -> Option<Instant> {
        let channel = match &self.channel {
            Some(channel) => channel.deadline(now),
            None => Some(self.channel_retry_at),
        };
        let mounts = (!self.mounts.is_empty()).then(|| now + MOUNT_RETRY);
        let ending = self.ending.as_ref().map(Ending::deadline);
        [channel, mounts, ending, self.services.deadline(), self.jobs.deadline(), self.collectors.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    fn wait(&self) {
        let now = Instant::now();
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        fds.extend(self.buttons.iter().map(|button| PollFd::new(button, PollFlags::IN)));
        if let Some(channel) = &self.channel {
            fds.push(PollFd::from_borrowed_fd(channel.wake_fd(), PollFlags::IN));
        }
        self.services.wake_fds(&mut fds);
        self.jobs.wake_fds(&mut fds);
        self.collectors.wake_fds(&mut fds);
        let timeout = self.deadline(now).map(|deadline| {
            let left = deadline.saturating_duration_since(now);
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
        });
        // An interruption ends the waiting, which is all that is wanted from it.
        let _ = poll(&mut fds, timeout.as_ref());
    }
}

//! The state machine of one service: see [`ServiceState`] for its picture. Every move is made in [`Service::step`]
//! or by a request; each leaves the old generation serving until the new one was checked.

use super::ensure_cgroup;
use super::generation::{Generation, Log, open_sockets};
use super::probe::Prober;
use crate::execution::application::cgroup_dir;
use crate::failure::Failure;
use crate::image::Image;
use crate::outbox::Outbox;
use crate::process::Ended;
use crate::procfs::Reader;
use crate::task::{Task, TaskOutcome, TaskSpec};
use proteus_protocol::guest::v1::service::{ServiceState, SocketOwnership};
use proteus_protocol::guest::v1::{ErrorCode, Event, Reply, ServiceManifest, ServiceStatus};
use rustix::event::PollFd;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, open};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Ends within this time count against a service.
const EXIT_WINDOW: Duration = Duration::from_secs(60);
/// So many ends within the window, and it is not started again.
const EXITS_MAX: usize = 8;
/// The delay before the second start; it doubles with each. The first is at once.
const BACKOFF: Duration = Duration::from_millis(100);
/// The delay never exceeds this.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Between two looks at a new generation's workers.
const WORKERS_INTERVAL: Duration = Duration::from_millis(50);

/// Waits for a generation to be ready: an answer, then its workers.
struct Readiness {
    prober: Option<Prober>,
    look_at: Instant,
    deadline: Instant,
}

impl Readiness {
    fn new(manifest: &ServiceManifest, now: Instant) -> Self {
        let deadline = now + Duration::from_millis(manifest.ready.timeout_ms);
        Self { prober: Some(Prober::new(manifest.ready.probe.clone(), now)), look_at: now, deadline }
    }

    fn step(&mut self, generation: &Generation, cgroup: &str, now: Instant) -> bool {
        if let Some(prober) = &mut self.prober {
            if !prober.step(now) {
                return false;
            }
            self.prober = None;
        }
        if now < self.look_at {
            return false;
        }
        self.look_at = now + WORKERS_INTERVAL;
        generation.has_workers(cgroup, &mut Reader::default())
    }

    fn deadline(&self) -> Instant {
        let next = self.prober.as_ref().map_or(self.look_at, Prober::deadline);
        next.min(self.deadline)
    }
}

enum Phase {
    Stopped,
    Preparing { step: usize, task: Option<Task> },
    Starting(Readiness),
    Ready,
    HandingOver(Readiness),
    Reloading(Readiness),
    BackingOff { until: Instant },
    Stopping { deadline: Instant, killed: bool, then: AfterStop },
    Failed { why: String },
}

/// What follows when a service has stopped.
enum AfterStop {
    Nothing,
    Fail(String),
    Start(Box<Generation>),
}

enum Goal {
    Ready,
    Stopped,
}

/// A generation that ends when its connections are done.
struct Retiring {
    generation: Generation,
    deadline: Instant,
    killed: bool,
}

/// One service.
pub struct Service {
    name: String,
    cgroup: String,
    cgroup_fd: OwnedFd,
    sockets: Vec<OwnedFd>,
    data_serial: Option<String>,
    phase: Phase,
    current: Option<Generation>,
    next: Option<Generation>,
    retiring: Vec<Retiring>,
    starts: u32,
    builds: u32,
    restarts: u32,
    exits: VecDeque<Instant>,
    last_exit: Option<String>,
    log: Log,
    /// Whether it answered since it was last asked to start.
    was_ready: bool,
    waiting: Vec<(u64, Goal)>,
}

impl Service {
    /// A service that was never started.
    pub fn new(name: &str) -> Result<Self, Failure> {
        let cgroup = ensure_cgroup(name)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let cgroup_fd = open(cgroup_dir(&cgroup), flags, Mode::empty())
            .map_err(|e| Failure::system(format!("open control group {cgroup}"), &e))?;
        Ok(Self {
            name: name.to_owned(),
            cgroup,
            cgroup_fd,
            sockets: Vec::new(),
            data_serial: None,
            phase: Phase::Stopped,
            current: None,
            next: None,
            retiring: Vec::new(),
            starts: 0,
            builds: 0,
            restarts: 0,
            exits: VecDeque::new(),
            last_exit: None,
            log: Log::default(),
            was_ready: false,
            waiting: Vec::new(),
        })
    }

    /// Lines that it wrote so far, and those of them that speak of an error.
    pub fn log_counted(&self) -> (u64, u64) {
        self.log.counted()
    }

    /// Where it is in its life.
    pub fn state(&self) -> ServiceState {
        match self.phase {
            Phase::Stopped => ServiceState::Stopped,
            Phase::Preparing { .. } => ServiceState::Preparing,
            Phase::Starting(_) => ServiceState::Starting,
            Phase::Ready => ServiceState::Ready,
            Phase::HandingOver(_) | Phase::Reloading(_) => ServiceState::HandingOver,
            Phase::BackingOff { .. } => ServiceState::BackingOff,
            Phase::Stopping { .. } => ServiceState::Stopping,
            Phase::Failed { .. } => ServiceState::Failed,
        }
    }

    /// Whether nothing of it runs.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Stopped | Phase::Failed { .. }) && self.retiring.is_empty()
    }

    /// The image of its newest generation.
    pub fn image(&self) -> Option<&str> {
        self.next.as_ref().or(self.current.as_ref()).map(|generation| generation.image.as_str())
    }

    /// Whether a generation of it is mounted over this image.
    pub fn uses_image(&self, image: &str) -> bool {
        let after = match &self.phase {
            Phase::Stopping { then: AfterStop::Start(generation), .. } => Some(generation.as_ref()),
            _ => None,
        };
        let retiring = self.retiring.iter().map(|r| &r.generation);
        self.current.iter().chain(&self.next).chain(after).chain(retiring).any(|g| g.image == image)
    }

    /// Whether it waits for the end of this process.
    pub fn owns(&self, pid: u32) -> bool {
        let retiring = self.retiring.iter().map(|r| &r.generation);
        let runs = self.current.iter().chain(&self.next).chain(retiring).any(|g| g.pid() == Some(pid));
        runs || matches!(&self.phase, Phase::Preparing { task: Some(task), .. } if task.pid() == pid)
    }

    /// As the host sees it.
    pub fn status(&self) -> ServiceStatus {
        let generation = self.next.as_ref().or(self.current.as_ref());
        let manifest = generation.map(|g| &g.manifest);
        let mut notes = Vec::new();
        if let Some(SocketOwnership::Service { why }) = manifest.map(|m| &m.sockets) {
            notes.push(format!("owns its sockets, so a restart refuses connections meanwhile: {why}"));
        }
        if manifest.is_some_and(|m| m.data_dir.is_some()) && self.data_serial.is_none() {
            let name = &self.name;
            notes.push(format!("has no data disk ({name}-data): its data is in memory and ends with it"));
        }
        if let Phase::Failed { why } = &self.phase {
            notes.push(why.clone());
        }
        ServiceStatus {
            name: self.name.clone(),
            image: generation.map(|g| g.image.clone()).unwrap_or_default(),
            version: manifest.map(|m| m.version.clone()).unwrap_or_default(),
            state: self.state(),
            pid: self.current.as_ref().and_then(Generation::pid),
            generation: self.starts,
            restarts: self.restarts,
            cgroup: self.cgroup.clone(),
            listen: manifest.map(|m| m.listen.clone()).unwrap_or_default(),
            sockets_kept: manifest.is_some_and(|m| m.sockets.is_agent()),
            notes,
            last_exit: self.last_exit.clone(),
            log: self.log.text(),
        }
    }

    /// Answers this request when the service is ready, or will not be.
    pub fn answer_when_ready(&mut self, id: u64) {
        self.waiting.push((id, Goal::Ready));
    }

    /// Answers this request when the service is gone.
    pub fn answer_when_stopped(&mut self, id: u64) {
        self.waiting.push((id, Goal::Stopped));
    }

    /// Answers those whose wish has come true, or never will.
    pub fn settle(&mut self, out: &mut Outbox) {
        let failed = match &self.phase {
            Phase::Failed { why } => Some(why.clone()),
            Phase::Stopped | Phase::Stopping { then: AfterStop::Nothing, .. } => {
                Some("it was stopped".to_owned())
            }
            _ => None,
        };
        let (ready, idle) = (matches!(self.phase, Phase::Ready), self.is_idle());
        for (id, goal) in std::mem::take(&mut self.waiting) {
            match (&goal, &failed) {
                (Goal::Ready, _) if ready => out.reply(id, Reply::Service { status: self.status() }),
                (Goal::Stopped, _) if idle => out.reply(id, Reply::Service { status: self.status() }),
                (Goal::Ready, Some(why)) => out.answer(id, Err(self.failure(why))),
                _ => self.waiting.push((id, goal)),
            }
        }
    }

    fn failure(&self, why: &str) -> Failure {
        let log = self.log.text();
        let tail: Vec<&str> = log.lines().rev().take(3).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        let message =
            format!("service {} is not ready: {why}; it said last: {}", self.name, tail.join(" | "));
        Failure::new(ErrorCode::NotEffective, message)
    }

    fn enter(&mut self, phase: Phase, out: &mut Outbox) {
        let before = self.state();
        self.phase = phase;
        if self.state() != before {
            out.event(Event::Service { status: self.status() });
        }
    }

    fn build(&mut self, image: &Image, name: &str, manifest: ServiceManifest) -> Result<Generation, Failure> {
        self.builds += 1;
        Generation::build(self.builds, name, &image.dir, manifest, self.data_serial.as_deref())
    }

    /// Starts it from an image. Only when idle.
    pub fn start(
        &mut self,
        image: &Image,
        image_name: &str,
        manifest: ServiceManifest,
        data_serial: Option<String>,
        now: Instant,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        assert!(self.is_idle(), "a running service is handed over or restarted, not started");
        self.data_serial = data_serial;
        self.current = None;
        self.was_ready = false;
        self.exits.clear();
        let generation = self.build(image, image_name, manifest)?;
        self.begin(generation, now, out)
    }

    fn begin(&mut self, generation: Generation, now: Instant, out: &mut Outbox) -> Result<(), Failure> {
        if generation.manifest.sockets.is_agent() && self.sockets.is_empty() {
            self.sockets = open_sockets(&self.cgroup, &generation.manifest.listen)?;
        }
        self.current = Some(generation);
        self.enter(Phase::Preparing { step: 0, task: None }, out);
        self.step(now, out);
        Ok(())
    }

    /// Asks it to read its configuration again, and waits until it answers.
    pub fn reload(&mut self, now: Instant, out: &mut Outbox) -> Result<(), Failure> {
        let (Phase::Ready, Some(current)) = (&self.phase, &self.current) else {
            return Err(self.not_ready());
        };
        let Some(signal) = current.manifest.reload_signal else {
            return Err(Failure::unsupported(format!("service {} cannot reload; restart it", self.name)));
        };
        current.signal(signal);
        let readiness = Readiness::new(&current.manifest, now);
        self.enter(Phase::Reloading(readiness), out);
        Ok(())
    }

    fn not_ready(&self) -> Failure {
        Failure::busy(format!("service {} is {:?}, not ready", self.name, self.state()))
    }

    /// Starts a new generation on the same sockets.
    pub fn hand_over(
        &mut self,
        image: &Image,
        image_name: &str,
        manifest: ServiceManifest,
        now: Instant,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let (Phase::Ready, Some(current)) = (&self.phase, &self.current) else {
            return Err(self.not_ready());
        };
        let (old, new) = (&current.manifest, &manifest);
        if !old.sockets.is_agent() || old.sockets != new.sockets || old.listen != new.listen {
            let message =
                format!("service {} cannot hand over: the agent does not own the same sockets", self.name);
            return Err(Failure::unsupported(message));
        }
        let mut next = self.build(image, image_name, manifest)?;
        // A running generation cannot wait for programs; only folders may be prepared here.
        for step in 0..next.manifest.prepare.len() {
            if next.prepare(step, self.cgroup_fd.as_fd(), now)?.is_some() {
                return Err(Failure::unsupported("a service that prepares by a program cannot hand over"));
            }
        }
        next.start(self.cgroup_fd.as_fd(), &self.sockets)?;
        self.starts += 1;
        let readiness = Readiness::new(&next.manifest, now);
        self.next = Some(next);
        self.enter(Phase::HandingOver(readiness), out);
        Ok(())
    }

    /// Stops it and starts it from an image; sockets that the agent owns stay open meanwhile.
    pub fn restart(
        &mut self,
        image: &Image,
        image_name: &str,
        manifest: ServiceManifest,
        now: Instant,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let Some(current) = self.current.as_ref().filter(|_| matches!(self.phase, Phase::Ready)) else {
            return Err(self.not_ready());
        };
        let keeps_sockets = current.manifest.listen == manifest.listen && manifest.sockets.is_agent();
        let next = self.build(image, image_name, manifest)?;
        self.stop_with(AfterStop::Start(Box::new(next)), now, out);
        if !keeps_sockets {
            self.sockets.clear();
        }
        Ok(())
    }

    /// Asks it to end.
    pub fn stop(&mut self, now: Instant, out: &mut Outbox) {
        if !matches!(self.phase, Phase::Stopped | Phase::Failed { .. }) {
            self.sockets.clear();
            self.stop_with(AfterStop::Nothing, now, out);
        }
    }

    fn stop_with(&mut self, then: AfterStop, now: Instant, out: &mut Outbox) {
        if let Some(next) = self.next.take() {
            self.retire(next, true, now);
        }
        let mut deadline = now;
        if let Some(current) = &self.current {
            current.signal(current.manifest.stop_signal);
            deadline += Duration::from_millis(current.manifest.stop_timeout_ms);
        }
        self.enter(Phase::Stopping { deadline, killed: false, then }, out);
    }

    fn retire(&mut self, generation: Generation, at_once: bool, now: Instant) {
        if at_once {
            generation.kill();
        } else {
            generation.signal(generation.manifest.stop_signal);
        }
        let deadline = now + Duration::from_millis(generation.manifest.stop_timeout_ms);
        self.retiring.push(Retiring { generation, deadline, killed: at_once });
    }

    /// Runs a program in its root and control group.
    pub fn run_beside(&self, spec: TaskSpec<'_>, now: Instant) -> Result<Task, Failure> {
        let Some(current) = &self.current else { return Err(self.not_ready()) };
        current.run_beside(spec, self.cgroup_fd.as_fd(), now)
    }

    /// What wakes it.
    pub fn wake_fds<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        let retiring = self.retiring.iter().map(|r| &r.generation);
        self.current.iter().chain(&self.next).chain(retiring).for_each(|g| g.wake_fds(fds));
        match &self.phase {
            Phase::Preparing { task: Some(task), .. } => task.wake_fds(fds),
            Phase::Starting(Readiness { prober: Some(prober), .. })
            | Phase::Reloading(Readiness { prober: Some(prober), .. })
            | Phase::HandingOver(Readiness { prober: Some(prober), .. }) => prober.wake_fds(fds),
            _ => {}
        }
    }

    /// When it must be stepped even if nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        let own = match &self.phase {
            Phase::Preparing { task, .. } => task.as_ref().and_then(Task::deadline),
            Phase::Starting(readiness) | Phase::HandingOver(readiness) | Phase::Reloading(readiness) => {
                Some(readiness.deadline())
            }
            Phase::BackingOff { until } => Some(*until),
            Phase::Stopping { deadline, killed: false, .. } => Some(*deadline),
            Phase::Stopping { .. } | Phase::Stopped | Phase::Ready | Phase::Failed { .. } => None,
        };
        let retiring = self.retiring.iter().filter(|r| !r.killed).map(|r| r.deadline);
        retiring.chain(own).min()
    }

    /// Moves as far as it goes now.
    pub fn step(&mut self, now: Instant, out: &mut Outbox) {
        self.step_retiring(now);
        let next_ended = self.next.as_mut().and_then(|next| next.take_end(&mut self.log));
        if let Some(ended) = next_ended {
            self.abandon_next(&format!("the new generation ended with {ended}"), now, out);
        }
        let ended = self.current.as_mut().and_then(|current| current.take_end(&mut self.log));
        if let Some(ended) = ended {
            self.note_end(ended, now, out);
        }
        // Each round makes one move, and no round of moves comes back to where it began without an event between.
        while self.advance(now, out) {}
        self.settle(out);
    }

    fn step_retiring(&mut self, now: Instant) {
        let log = &mut self.log;
        self.retiring.retain_mut(|retiring| {
            if retiring.generation.take_end(log).is_some() || retiring.generation.pid().is_none() {
                return false;
            }
            if now >= retiring.deadline && !retiring.killed {
                retiring.generation.kill();
                retiring.killed = true;
            }
            true
        });
    }

    /// The first process of the current generation ended.
    fn note_end(&mut self, ended: Ended, now: Instant, out: &mut Outbox) {
        self.last_exit = Some(ended.to_string());
        match &self.phase {
            // The new generation is not checked yet, but there is no other.
            Phase::HandingOver(_) => {
                self.restarts += 1;
                self.current = self.next.take();
                let manifest = self.current.as_ref().map(|current| current.manifest.clone());
                if let Some(manifest) = manifest {
                    self.enter(Phase::Starting(Readiness::new(&manifest, now)), out);
                }
            }
            Phase::Starting(_) | Phase::Ready | Phase::Reloading(_) => {
                self.back_off(&ended.to_string(), now, out)
            }
            Phase::Stopping { .. } | Phase::Preparing { .. } | Phase::BackingOff { .. } => {}
            Phase::Stopped | Phase::Failed { .. } => {}
        }
    }

    fn back_off(&mut self, why: &str, now: Instant, out: &mut Outbox) {
        self.exits.push_back(now);
        while self.exits.front().is_some_and(|at| now.duration_since(*at) > EXIT_WINDOW) {
            self.exits.pop_front();
        }
        if self.exits.len() > EXITS_MAX {
            let why =
                format!("it ended {EXITS_MAX} times within {} s, last with {why}", EXIT_WINDOW.as_secs());
            self.fail(why, out);
            return;
        }
        self.restarts += 1;
        let delay = match self.exits.len() {
            0 | 1 => Duration::ZERO,
            n => BACKOFF.saturating_mul(1 << (n - 2)).min(BACKOFF_MAX),
        };
        self.enter(Phase::BackingOff { until: now + delay }, out);
    }

    /// It does not come up. Nothing of it runs any more.
    fn fail(&mut self, why: String, out: &mut Outbox) {
        self.sockets.clear();
        self.enter(Phase::Failed { why }, out);
    }

    /// Drops the new generation; the old one goes on as if nothing had been.
    fn abandon_next(&mut self, why: &str, now: Instant, out: &mut Outbox) {
        if let Some(next) = self.next.take() {
            self.retire(next, true, now);
        }
        self.disappoint(why, out);
        if matches!(self.phase, Phase::HandingOver(_)) {
            self.enter(Phase::Ready, out);
        }
    }

    /// Tells those who wait for something new that it did not come.
    fn disappoint(&mut self, why: &str, out: &mut Outbox) {
        for (id, goal) in std::mem::take(&mut self.waiting) {
            match goal {
                Goal::Ready => out.answer(id, Err(self.failure(why))),
                Goal::Stopped => self.waiting.push((id, goal)),
            }
        }
    }

    /// It started, but does not answer. One that never did has failed; one that did before is killed, and started
    /// again as after a crash.
    fn give_up_start(&mut self, now: Instant, out: &mut Outbox) {
        let Some(current) = &self.current else { return };
        let why = format!("it did not answer within {} ms", current.manifest.ready.timeout_ms);
        if self.was_ready {
            current.kill();
            let patience = Duration::from_millis(current.manifest.ready.timeout_ms);
            if let Phase::Starting(readiness) = &mut self.phase {
                readiness.deadline = now + patience;
            }
        } else {
            self.stop_with(AfterStop::Fail(why), now, out);
        }
    }

    /// Makes one move, if one can be made now.
    fn advance(&mut self, now: Instant, out: &mut Outbox) -> bool {
        match &mut self.phase {
            Phase::Preparing { .. } => self.advance_preparing(now, out),
            Phase::Starting(readiness) => {
                let Some(current) = &self.current else { return false };
                if readiness.step(current, &self.cgroup, now) {
                    self.was_ready = true;
                    self.enter(Phase::Ready, out);
                } else if now >= readiness.deadline {
                    self.give_up_start(now, out);
                }
                false
            }
            Phase::Reloading(readiness) => {
                let Some(current) = &self.current else { return false };
                if readiness.step(current, &self.cgroup, now) {
                    self.enter(Phase::Ready, out);
                } else if now >= readiness.deadline {
                    self.disappoint("it did not answer after the reload", out);
                    self.enter(Phase::Ready, out);
                }
                false
            }
            Phase::HandingOver(readiness) => {
                let Some(next) = &self.next else { return false };
                if readiness.step(next, &self.cgroup, now) {
                    self.promote_next(now, out);
                } else if now >= readiness.deadline {
                    self.abandon_next("the new generation did not answer in time", now, out);
                }
                false
            }
            Phase::BackingOff { until } if now >= *until => {
                self.start_process(now, out);
                true
            }
            Phase::Stopping { .. } => self.advance_stopping(now, out),
            Phase::BackingOff { .. } | Phase::Stopped | Phase::Ready | Phase::Failed { .. } => false,
        }
    }

    fn promote_next(&mut self, now: Instant, out: &mut Outbox) {
        let old = std::mem::replace(&mut self.current, self.next.take());
        if let Some(old) = old {
            self.retire(old, false, now);
        }
        self.enter(Phase::Ready, out);
    }

    fn advance_preparing(&mut self, now: Instant, out: &mut Outbox) -> bool {
        let (Phase::Preparing { step, task }, Some(current)) = (&mut self.phase, &self.current) else {
            return false;
        };
        let result = match task {
            Some(running) => match running.step(now) {
                None => return false,
                Some(outcome) => {
                    *task = None;
                    prepared(&outcome)
                }
            },
            None if *step >= current.manifest.prepare.len() => {
                self.start_process(now, out);
                return true;
            }
            None => match current.prepare(*step, self.cgroup_fd.as_fd(), now) {
                Ok(Some(started)) => {
                    *task = Some(started);
                    return true;
                }
                Ok(None) => Ok(()),
                Err(failure) => Err(failure.message),
            },
        };
        let failed_step = *step;
        *step += 1;
        if let Err(why) = result {
            self.fail(format!("prepare step {failed_step}: {why}"), out);
        }
        true
    }

    fn start_process(&mut self, now: Instant, out: &mut Outbox) {
        let Some(current) = &mut self.current else { return };
        match current.start(self.cgroup_fd.as_fd(), &self.sockets) {
            Ok(()) => {
                self.starts += 1;
                let readiness = Readiness::new(&current.manifest, now);
                self.enter(Phase::Starting(readiness), out);
            }
            Err(failure) => self.fail(failure.message, out),
        }
    }

    fn advance_stopping(&mut self, now: Instant, out: &mut Outbox) -> bool {
        let Phase::Stopping { deadline, killed, then } = &mut self.phase else { return false };
        if let Some(current) = self.current.as_ref().filter(|current| current.pid().is_some()) {
            if now >= *deadline && !*killed {
                *killed = true;
                current.kill();
            }
            return false;
        }
        if !self.retiring.is_empty() {
            let late = now >= *deadline;
            self.retiring.iter_mut().filter(|r| late && !r.killed).for_each(|r| {
                r.generation.kill();
                r.killed = true;
            });
            return false;
        }
        match std::mem::replace(then, AfterStop::Nothing) {
            AfterStop::Nothing => {
                self.current = None;
                self.enter(Phase::Stopped, out);
            }
            AfterStop::Fail(why) => self.fail(why, out),
            AfterStop::Start(generation) => {
                if let Err(failure) = self.begin(*generation, now, out) {
                    self.fail(failure.message, out);
                }
            }
        }
        false
    }
}

fn prepared(outcome: &TaskOutcome) -> Result<(), String> {
    if outcome.ended.is_success() && !outcome.timed_out {
        return Ok(());
    }
    let reason = if outcome.timed_out { "took too long".to_owned() } else { outcome.ended.to_string() };
    let said = [outcome.stdout.as_slice(), outcome.stderr.as_slice()].concat();
    Err(format!("{reason}: {}", String::from_utf8_lossy(&said).trim()))
}

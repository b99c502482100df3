//! The collectors: what is looked at rarely, because it costs more than a sample. They run in a process of their own,
//! this program as `proteus-guest collect`, idle in priority and bounded in memory: a collector that waits for an
//! application, or falls over what that says, holds nobody up. One step of one collector at a time, and only while
//! [`Budget`] allows. It reads its policy from its input, a line each, and writes all that was found as a line of its
//! output. Must never write anything into the guest but its own state, nor outlive the agent.

mod budget;

mod call;

mod configuration;

mod connection;

mod endpoint;

mod file;

mod gpu;

mod library;

mod log;

mod mount;

mod user;

mod walk;

use crate::sys;
use budget::Budget;
pub use configuration::forget_history;
pub use log::count_lines;
use proteus_protocol::guest::v1::findings::{
    CollectPolicy, Collector, CollectorState, CollectorStatus, Findings, Found,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Between two lines of output.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Between two looks whether a collector can work after all.
const MISSING_RETRY: Duration = Duration::from_secs(600);
/// Exit code of a process that passed its memory: what was let go of stays with a process, so it ends, and is started
/// anew after a while.
pub const PASSED_MEMORY: i32 = 3;
/// Why one is off that is off unless it is asked for.
const NOT_ASKED: &str = "the owner of the VM did not ask for it";
/// Longest line of findings: what a frame carries, less some.
pub const LINE_BYTES_MAX: usize = 200 << 10;
/// Longest line of policy: 64 endpoints of 256 bytes, and some.
const POLICY_BYTES_MAX: usize = 64 << 10;
/// What this process may take for its data: beyond that it ends and is started anew. Well above the budget, so that a
/// collector is told to let go first.
const DATA_BYTES_MAX: u64 = 48 << 20;

/// What a collector wants after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The round goes on as soon as the budget allows.
    More,
    /// The round goes on after a while.
    Later(Duration),
    /// The round is over.
    Done,
}

/// One collector.
pub trait Collect {
    /// Which it is.
    fn name(&self) -> Collector;
    /// From the end of a round to the begin of the next.
    fn period(&self) -> Duration;
    /// Takes notice of what is asked for.
    fn follow(&mut self, _policy: &CollectPolicy) {}
    /// Why it cannot work in this guest; asked before a round.
    fn missing(&mut self) -> Option<String> {
        None
    }
    /// A small part of the work: some milliseconds of CPU, at most a second of waiting.
    fn step(&mut self, findings: &mut Findings) -> Step;
    /// Whether something is on that costs others until the next step: it is not put off, and nobody else begins one.
    fn is_open(&self) -> bool {
        false
    }
    /// Lets go of all that it holds, and of the round that it is in.
    fn forget(&mut self);
}

/// The guest's clock, ms since 1970.
pub fn wall_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// A number that nobody foresees.
fn random() -> u64 {
    let mut bits = [0u8; 8];
    // The only failure is an interruption before any byte came: then the clock is what there is.
    match rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty()) {
        Ok(8) => u64::from_ne_bytes(bits),
        _ => wall_ms(),
    }
}

/// What was found just now.
pub fn found<T>(value: T) -> Option<Found<T>> {
    Some(Found { at_ms: wall_ms(), value })
}

/// Takes away what a collector found.
fn clear(findings: &mut Findings, name: Collector) {
    match name {
        Collector::Connections => findings.connections = None,
        Collector::Calls => findings.calls = None,
        Collector::Libraries => findings.libraries = None,
        Collector::Logs => findings.logs = None,
        Collector::Gpus => findings.gpus = None,
        Collector::Endpoints => findings.endpoints = None,
        Collector::Files => findings.files = None,
        Collector::Configuration => findings.configuration = None,
        Collector::Users => findings.users = None,
        Collector::Unknown => {}
    }
}

/// A collector, and how it fares.
struct Member {
    collect: Box<dyn Collect>,
    state: CollectorState,
    why: String,
    due: Instant,
    cpu_us: u64,
    runs: u64,
}

impl Member {
    fn new(collect: Box<dyn Collect>, now: Instant) -> Self {
        Self { collect, state: CollectorState::On, why: String::new(), due: now, cpu_us: 0, runs: 0 }
    }

    fn set(&mut self, state: CollectorState, why: String) {
        (self.state, self.why) = (state, why);
    }

    fn status(&self) -> CollectorStatus {
        CollectorStatus {
            name: self.collect.name(),
            state: self.state.clone(),
            why: self.why.clone(),
            cpu_us: self.cpu_us,
            runs: self.runs,
        }
    }

    /// How much too late it is, in its own periods; negative: not due yet.
    fn lateness(&self, now: Instant) -> f64 {
        let period = self.collect.period().as_secs_f64().max(1.0);
        let late = now.saturating_duration_since(self.due).as_secs_f64();
        let early = self.due.saturating_duration_since(now).as_secs_f64();
        (late - early) / period
    }

    /// Whether its next step must not be put off.
    fn is_held_open(&self) -> bool {
        self.state != CollectorState::Off && self.collect.is_open()
    }

    /// One step, whose CPU time is put down to it.
    fn step(&mut self, now: Instant, findings: &mut Findings, spent_us: impl Fn() -> u64) {
        let before = spent_us();
        if let Some(why) = self.collect.missing() {
            clear(findings, self.collect.name());
            self.set(CollectorState::Unsupported, why);
            self.due = now + MISSING_RETRY;
        } else {
            self.set(CollectorState::On, String::new());
            self.due = match self.collect.step(findings) {
                Step::More => now,
                Step::Later(wait) => Instant::now() + wait,
                Step::Done => {
                    self.runs += 1;
                    Instant::now() + self.collect.period()
                }
            };
        }
        self.cpu_us += spent_us().saturating_sub(before);
    }
}

/// All collectors.
struct Crew {
    members: Vec<Member>,
    policy: CollectPolicy,
    findings: Findings,
    budget: Budget,
}

impl Crew {
    fn new(members: Vec<Box<dyn Collect>>, now: Instant) -> Self {
        let findings = Findings { instance: crate::identity::new_instance(), ..Findings::default() };
        let members = members.into_iter().map(|collect| Member::new(collect, now)).collect();
        Self { members, policy: CollectPolicy::default(), findings, budget: Budget::new(now) }
    }

    /// Does from now on what is asked for. What is switched off is forgotten.
    fn follow(&mut self, policy: CollectPolicy, now: Instant) {
        for member in &mut self.members {
            let name = member.collect.name();
            member.collect.follow(&policy);
            let why = match name {
                name if policy.off.contains(&name) => "it is switched off",
                Collector::Users if !policy.users => NOT_ASKED,
                Collector::Libraries if !policy.libraries => NOT_ASKED,
                _ => {
                    if member.state == CollectorState::Off {
                        member.set(CollectorState::On, String::new());
                        member.due = now;
                    }
                    continue;
                }
            };
            member.collect.forget();
            member.set(CollectorState::Off, why.to_owned());
            clear(&mut self.findings, name);
        }
        self.budget.set(policy.budget_permille.unwrap_or(budget::PERMILLE));
        self.policy = policy;
    }

    /// One step of the collector that is latest, where there is one that is due and it can be paid. While one has
    /// something on that costs others nobody else begins a step, which might take a second.
    fn step(&mut self, now: Instant) {
        self.budget.account(now);
        let permille = self.budget.permille();
        let open = self.members.iter_mut().filter(|member| member.is_held_open());
        if let Some(member) = open.min_by_key(|member| member.due) {
            // Paid for or not: it costs others for as long as it stays.
            if member.due <= now {
                member.step(now, &mut self.findings, budget::own_cpu_us);
            }
            return;
        }
        let working = self.members.iter_mut().filter(|member| member.state != CollectorState::Off);
        if self.budget.allows() {
            let latest = working.max_by(|a, b| a.lateness(now).total_cmp(&b.lateness(now)));
            if let Some(member) = latest.filter(|member| member.due <= now) {
                member.step(now, &mut self.findings, budget::own_cpu_us);
            }
            return;
        }
        for member in working.filter(|member| member.lateness(now) > 1.0) {
            let why = format!("the agent would pass {permille} ‰ of a core");
            member.set(CollectorState::Shed, why);
        }
    }

    /// When there is something to do; `None`: everything is switched off.
    fn next_at(&self, now: Instant) -> Option<Instant> {
        let open = self.members.iter().filter(|member| member.is_held_open()).map(|member| member.due).min();
        let working = self.members.iter().filter(|member| member.state != CollectorState::Off);
        let paid = || Some(working.map(|member| member.due).min()?.max(self.budget.allows_at(now)));
        open.or_else(paid)
    }

    fn tell(&mut self) -> std::io::Result<()> {
        self.findings.collectors = self.members.iter().map(Member::status).collect();
        (self.findings.watched_ms, self.findings.cpu_us, self.findings.resident) = self.budget.cost();
        let mut line = line(&mut self.findings)?;
        line.push(b'\n');
        std::io::stdout().write_all(&line)
    }
}

/// All that was found, as one line. What does not fit is left out, the largest parts that others choose first, and said to
/// be.
fn line(findings: &mut Findings) -> serde_json::Result<Vec<u8>> {
    for name in [Collector::Endpoints, Collector::Logs, Collector::Configuration, Collector::Connections] {
        let line = serde_json::to_vec(findings)?;
        if line.len() < LINE_BYTES_MAX {
            return Ok(line);
        }
        clear(findings, name);
        for status in findings.collectors.iter_mut().filter(|status| status.name == name) {
            (status.state, status.why) = (CollectorState::Shed, "it found more than can be told".to_owned());
        }
    }
    serde_json::to_vec(findings)
}

/// Lines of policy from the agent.
#[derive(Default)]
struct Input {
    buffer: Vec<u8>,
}

impl Input {
    /// Takes what is there; false: the agent is gone, or says what is no policy.
    fn take(&mut self) -> bool {
        let mut chunk = [0u8; 4096];
        // Not through the library's own buffer: what waited in there would wake nobody.
        match rustix::io::read(std::io::stdin(), &mut chunk) {
            Ok(0) => false,
            Ok(got) => {
                self.buffer.extend_from_slice(&chunk[..got]);
                self.buffer.len() <= POLICY_BYTES_MAX
            }
            Err(error) => error == rustix::io::Errno::INTR,
        }
    }

    /// The last whole policy; `Err`: it is none.
    fn policy(&mut self) -> Result<Option<CollectPolicy>, serde_json::Error> {
        let Some(end) = self.buffer.iter().rposition(|byte| *byte == b'\n') else { return Ok(None) };
        let lines: Vec<u8> = self.buffer.drain(..=end).collect();
        let last = lines[..end].rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        serde_json::from_slice(last).map(Some)
    }
}

/// As quiet as a process can be. What of it the kernel refuses is done without.
fn become_quiet() {
    let me = std::process::id();
    let _ = rustix::process::setpriority_process(None, 19);
    // IOPRIO_CLASS_IDLE of linux/ioprio.h, in the upper bits.
    let _ = sys::set_io_priority(me, 3 << 13);
    let limit = rustix::process::Rlimit { current: Some(DATA_BYTES_MAX), maximum: Some(DATA_BYTES_MAX) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Data, limit);
}

/// Runs until the agent closes the input.
pub fn run() -> ExitCode {
    become_quiet();
    let mut now = Instant::now();
    let listeners = endpoint::Listeners::default();
    let mut crew = Crew::new(
        vec![
            Box::new(gpu::Gpus),
            Box::new(log::Logs::default()),
            Box::new(call::Calls::default()),
            Box::new(library::Libraries::default()),
            Box::new(connection::Connections::new(listeners.clone())),
            Box::new(endpoint::Endpoints::new(listeners)),
            Box::new(user::People::default()),
            Box::new(configuration::History::default()),
            Box::new(file::FileKinds::default()),
        ],
        now,
    );
    let (mut input, mut tell_at, mut asked) = (Input::default(), now, false);
    loop {
        let next = if asked { crew.next_at(now) } else { None };
        let until = next.map(|next| next.min(tell_at.max(now + Duration::from_secs(1))));
        match wait_for_input(now, if asked { Some(until.unwrap_or(tell_at)) } else { None }) {
            true if !input.take() => return ExitCode::SUCCESS,
            _ => {}
        }
        now = Instant::now();
        match input.policy() {
            Ok(Some(policy)) => {
                crew.follow(policy, now);
                (asked, tell_at) = (true, now);
            }
            Ok(None) => {}
            Err(_) => return ExitCode::FAILURE,
        }
        if asked {
            crew.step(now);
        }
        if crew.budget.memory_is_passed() {
            return ExitCode::from(PASSED_MEMORY as u8);
        }
        if asked && now >= tell_at {
            tell_at = now + TELL_EVERY;
            if crew.tell().is_err() {
                return ExitCode::SUCCESS;
            }
        }
    }
}

/// Waits; whether there is input.
fn wait_for_input(now: Instant, until: Option<Instant>) -> bool {
    let timeout = until.map(|until| {
        let left = until.saturating_duration_since(now);
        Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
    });
    let stdin = std::io::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    poll(&mut fds, timeout.as_ref()).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests;

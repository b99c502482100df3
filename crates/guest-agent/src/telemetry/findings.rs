//! The agent's end of its collectors: starts their process when the host first asks, starts it anew when it ended, and
//! holds what they said last. Must never wait for them, nor hold more than one line of theirs.

use super::collector::{LINE_BYTES_MAX, PASSED_MEMORY};
use crate::failure::Failure;
use crate::process::{Ended, Process};
use crate::sys::spawn::{SpawnSpec, spawn};
use crate::task::c_strings;
use proteus_protocol::guest::v1::findings::{
    CollectPolicy, Collector, CollectorState, CollectorStatus, Findings, Found, LOGS_MAX, LogRate,
};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::collections::BTreeMap;
use std::fs::File;
use std::time::{Duration, Instant};

/// Wait before ended collectors are started anew; each time twice as long.
const RESTART_FIRST: Duration = Duration::from_secs(10);
const RESTART_MAX: Duration = Duration::from_secs(600);
/// They say something every ten seconds: who is silent for so long waits for something without end.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// Who lived so long did not end by how it began.
const HEALTHY: Duration = Duration::from_secs(3600);

/// The process of the collectors.
struct Running {
    process: Process,
    input: OwnedFd,
    output: OwnedFd,
    buffer: Vec<u8>,
    /// What is still to be written.
    unsent: Vec<u8>,
    since: Instant,
    /// When they said something last.
    heard_at: Instant,
}

/// Lines of services so far, and those of them that speak of an error.
type Counted = BTreeMap<String, (u64, u64)>;

/// What the collectors say.
#[derive(Default)]
pub struct Collectors {
    policy: Option<CollectPolicy>,
    running: Option<Running>,
    restart_at: Option<Instant>,
    patience: Duration,
    ended: Option<Ended>,
    /// The last whole line.
    said: Vec<u8>,
    /// Lines and errors of the agent's own services when it was told last, and when that was.
    services: Option<(Instant, Counted)>,
}

/// Starts the process: this very program, with pipes for its input and output.
fn start(now: Instant) -> Result<Running, Failure> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|e| Failure::system("make a pipe", &e));
    let (input_read, input) = pipe()?;
    let (output, output_write) = pipe()?;
    for fd in [&input, &output] {
        rustix::io::ioctl_fionbio(fd, true).map_err(|e| Failure::system("prepare a pipe", &e))?;
    }
    // Not by its path: a package that is upgraded puts another program there.
    let argv = c_strings(&["/proc/self/exe".to_owned(), "collect".to_owned()])?;
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(|e| Failure::system("open /dev/null", &e))?;
    let spawned = spawn(&SpawnSpec {
        argv: &argv,
        environment: &[],
        root: None,
        pid_namespace: false,
        cgroup: None,
        user: None,
        stdio: [input_read.as_fd(), output_write.as_fd(), null.as_fd()],
        inherited: &[],
        confined: false,
    })
    .map_err(|e| Failure::system("start the collectors", &e))?;
    Ok(Running {
        process: Process::new(spawned),
        input,
        output,
        buffer: Vec::new(),
        unsent: Vec::new(),
        since: now,
        heard_at: now,
    })
}

/// Says that there is no consent wherever there is none, also where nobody asks or the collectors are silent: a host that
/// keeps what people allowed before is to drop it, and what they withdrew since it was collected is not told.
fn say_withdrawn(findings: &mut Findings, is_given: bool) {
    if !is_given {
        let at_ms = super::collector::wall_ms();
        findings.users = Some(Found { at_ms, value: crate::consent::withdrawn() });
    }
}

impl Running {
    fn write(&mut self) {
        while !self.unsent.is_empty() {
            match rustix::io::write(&self.input, &self.unsent) {
                Ok(wrote) => drop(self.unsent.drain(..wrote)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // It ended, which its owner sees.
                Err(_) => self.unsent.clear(),
            }
        }
    }

    /// The last whole line that came; false: it says more than it may.
    fn read(&mut self, said: &mut Vec<u8>, now: Instant) -> bool {
        let mut chunk = [0u8; 4096];
        // A bound on one turn: they say a line of some KiB every ten seconds.
        for _ in 0..64 {
            match rustix::io::read(&self.output, &mut chunk) {
                Ok(0) => break,
                Ok(got) => self.buffer.extend_from_slice(&chunk[..got]),
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
            if let Some(end) = self.buffer.iter().rposition(|byte| *byte == b'\n') {
                let begin = self.buffer[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                *said = self.buffer[begin..end].to_vec();
                self.buffer.drain(..=end);
                self.heard_at = now;
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return false;
            }
        }
        true
    }
}

impl Collectors {
    /// Whether it waits for the end of this process.
    pub fn owns(&self, pid: u32) -> bool {
        self.running.as_ref().is_some_and(|running| running.process.pid() == pid)
    }

    /// What wakes it.
    pub fn wake_fds<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        let Some(running) = &self.running else { return };
        fds.push(PollFd::from_borrowed_fd(running.process.pidfd(), PollFlags::IN));
        fds.push(PollFd::new(&running.output, PollFlags::IN));
        if !running.unsent.is_empty() {
            fds.push(PollFd::new(&running.input, PollFlags::OUT));
        }
    }

    /// Ends them, to be started anew: this guest became another, and what they hold is of the one that it was.
    pub fn begin_anew(&mut self) {
        self.said.clear();
        if let Some(running) = &self.running {
            running.process.signal(rustix::process::Signal::KILL);
        }
    }

    /// When it must be stepped even if nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        let silence = self.running.as_ref().map(|running| running.heard_at + SILENCE_MAX);
        silence.or(self.restart_at)
    }

    /// Takes what was said, and starts anew what ended.
    pub fn step(&mut self, now: Instant) {
        if let Some(running) = &mut self.running {
            running.write();
            let is_sane = running.read(&mut self.said, now);
            if !is_sane || now.saturating_duration_since(running.heard_at) >= SILENCE_MAX {
                running.process.signal(rustix::process::Signal::KILL);
            }
            if let Some(ended) = running.process.try_wait() {
                let lived = now.saturating_duration_since(running.since);
                self.running = None;
                self.ended = Some(ended);
                // What an ended process said may be of what is not so any more.
                self.said.clear();
                if lived >= HEALTHY {
                    self.patience = Duration::ZERO;
                }
                self.patience = (self.patience * 2).clamp(RESTART_FIRST, RESTART_MAX);
                self.restart_at = Some(now + self.patience);
            }
        } else if self.restart_at.is_some_and(|at| now >= at) {
            self.ensure_running(now);
        }
    }

    fn ensure_running(&mut self, now: Instant) {
        self.restart_at = None;
        let Some(policy) = self.policy.clone().filter(|_| self.running.is_none()) else { return };
        match start(now) {
            Ok(running) => {
                self.running = Some(running);
                self.send(&policy);
            }
            Err(failure) => {
                crate::boot::console(&failure.message);
                self.patience = (self.patience * 2).clamp(RESTART_FIRST, RESTART_MAX);
                self.restart_at = Some(now + self.patience);
            }
        }
    }

    fn send(&mut self, policy: &CollectPolicy) {
        let Some(running) = &mut self.running else { return };
        // A structure of lists of names always is JSON.
        running.unsent.extend(serde_json::to_vec(policy).unwrap_or_default());
        running.unsent.push(b'\n');
        running.write();
    }

    /// What was found so far; from now on `policy` is followed.
    pub fn ask<'a>(
        &mut self,
        policy: CollectPolicy,
        services: impl Iterator<Item = (&'a str, (u64, u64))>,
        now: Instant,
    ) -> Findings {
        if self.policy.as_ref() != Some(&policy) {
            self.send(&policy);
            self.policy = Some(policy);
            // What was found may be of what is switched off now.
            self.said.clear();
        }
        if self.restart_at.is_none() {
            self.ensure_running(now);
        }
        let mut findings: Findings = serde_json::from_slice(&self.said).unwrap_or_default();
        if let (None, Some(ended)) = (&self.running, self.ended) {
            let why = match ended {
                Ended::Exit(PASSED_MEMORY) => {
                    "agent and collectors passed their memory of 20 MB; these are started anew".to_owned()
                }
                ended => format!("the collectors ended ({ended}) and are started anew"),
            };
            let shed = |name| CollectorStatus {
                name,
                state: CollectorState::Shed,
                why: why.clone(),
                cpu_us: 0,
                runs: 0,
            };
            findings.collectors =
                proteus_model::telemetry::Collector::ALL.map(|name| shed(name.into())).to_vec();
        }
        say_withdrawn(&mut findings, crate::consent::is_given());
        self.add_services(&mut findings, services, now);
        findings.now_ms = super::collector::wall_ms();
        findings
    }

    /// Puts the agent's own services among the logs: lines and errors of each since it was told last.
    fn add_services<'a>(
        &mut self,
        findings: &mut Findings,
        services: impl Iterator<Item = (&'a str, (u64, u64))>,
        now: Instant,
    ) {
        let counted: Counted = services.map(|(name, counted)| (name.to_owned(), counted)).collect();
        let before = self.services.replace((now, counted.clone()));
        let is_off = self.policy.as_ref().is_some_and(|policy| policy.off.contains(&Collector::Logs));
        let Some((since, before)) = before.filter(|_| !is_off && !counted.is_empty()) else { return };
        let window = now.saturating_duration_since(since).as_millis();
        let window_ms = u64::try_from(window).unwrap_or(u64::MAX).max(1);
        let rate = |(service, (lines, errors)): (String, (u64, u64))| {
            let (lines_before, errors_before) = *before.get(&service)?;
            let (lines, errors) = (lines.checked_sub(lines_before)?, errors.checked_sub(errors_before)?);
            Some(LogRate { service, window_ms, lines, errors: Some(errors) })
        };
        let at_ms = super::collector::wall_ms();
        let logs = findings.logs.get_or_insert_with(|| Found { at_ms, value: Vec::new() });
        logs.at_ms = at_ms;
        logs.value.splice(..0, counted.into_iter().filter_map(rate));
        logs.value.truncate(LOGS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proteus_protocol::guest::v1::findings::{Consent, Users};

    #[test]
    fn without_consent_it_is_said_that_there_is_none_whatever_was_collected() {
        let given = Users { consent: Consent::Given, given_ms: Some(1), ..crate::consent::withdrawn() };
        for users in [None, Some(Found { at_ms: 1, value: given })] {
            let mut findings = Findings { users: users.clone(), ..Findings::default() };
            say_withdrawn(&mut findings, true);
            assert_eq!(findings.users, users, "with consent it is as it was collected");
            say_withdrawn(&mut findings, false);
            let told = findings.users.unwrap();
            assert!(told.at_ms > 1 && told.value == crate::consent::withdrawn());
            assert_eq!(told.value.consent, Consent::Withdrawn);
        }
    }
}

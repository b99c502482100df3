//! Programs that run for a request, and what is made of their end. Changes of the network policy come one after
//! another: each writes the whole table, so two at once would lose one.

use super::Agent;
use crate::execution::network_policy::{Policies, list_argv, load_argv};
use crate::failure::Failure;
use crate::task::{Task, TaskOutcome, TaskSpec};
use crate::verification::{SYSTEMCTL, check_unit, unit_argv, unit_reply};
use proteus_protocol::guest::v1::request::{
    EXEC_OUTPUT_BYTES_MAX, EXEC_TIMEOUT_MS_MAX, GuestKind, ReloadMode,
};
use proteus_protocol::guest::v1::setting::{ApplicationSelector, NetworkPolicy};
use proteus_protocol::guest::v1::{Blob, ErrorCode, ExecOutcome, ExecRequest, Reply, Setting};
use rustix::event::PollFd;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// For `nft` and `systemctl show`.
const TOOL_TIMEOUT: Duration = Duration::from_secs(20);
/// For `systemctl reload`, which waits for the unit.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(90);
/// Between two looks whether control groups with a policy were made anew.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// A listing of 32 applications with 256 rules each is about 3 MiB.
const TOOL_OUTPUT_BYTES_MAX: usize = 4 << 20;

impl<'a> TaskSpec<'a> {
    /// A program beside the agent, with no input.
    pub fn plain(argv: &'a [String], timeout: Duration) -> Self {
        Self {
            argv,
            environment: &[],
            root: None,
            cgroup: None,
            user: None,
            confined: false,
            stdin: Vec::new(),
            timeout,
            output_bytes_max: TOOL_OUTPUT_BYTES_MAX,
        }
    }
}

/// What is made of a program's end.
enum Then {
    Nothing,
    Exec { id: u64 },
    Unit { id: u64 },
    UnitReloaded { id: u64, unit: String },
    PolicyLoaded(PolicyTurn),
    PolicyListed(PolicyTurn),
}

/// A change or a reading of the network policy.
struct PolicyTurn {
    /// Who is to be answered, about which application; `None`: the agent does it by itself.
    ask: Option<(u64, ApplicationSelector)>,
    /// What should be in force at its end.
    wanted: Policies,
}

/// What waits for its turn.
enum PolicyWish {
    Read { id: u64, application: ApplicationSelector },
    Apply { id: u64, application: ApplicationSelector, policy: Option<NetworkPolicy> },
}

/// Running programs.
pub struct Jobs {
    running: Vec<(Task, Then)>,
    policies: Policies,
    wishes: VecDeque<PolicyWish>,
    policy_busy: bool,
    watch_at: Instant,
}

fn script_spec(argv: &[String], script: String) -> TaskSpec<'_> {
    TaskSpec { stdin: script.into_bytes(), ..TaskSpec::plain(argv, TOOL_TIMEOUT) }
}

impl Jobs {
    /// None, with the policies of an earlier run of the agent.
    pub fn new(policies: Policies) -> Self {
        Self {
            running: Vec::new(),
            policies,
            wishes: VecDeque::new(),
            policy_busy: false,
            watch_at: Instant::now(),
        }
    }

    /// How many run or wait.
    pub fn len(&self) -> usize {
        self.running.len() + self.wishes.len()
    }

    /// Whether one of them waits for the end of this process.
    pub fn owns(&self, pid: u32) -> bool {
        self.running.iter().any(|(task, _)| task.pid() == pid)
    }

    /// What wakes them.
    pub fn wake_fds<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        self.running.iter().for_each(|(task, _)| task.wake_fds(fds));
    }

    /// When they must be stepped even if nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        let watch = (!self.policies.is_empty()).then_some(self.watch_at);
        self.running.iter().filter_map(|(task, _)| task.deadline()).chain(watch).min()
    }

    fn run(&mut self, spec: TaskSpec<'_>, then: Then, now: Instant) -> Result<(), Failure> {
        let task = Task::start(spec, now)?;
        self.running.push((task, then));
        Ok(())
    }

    /// Runs a program whose end interests nobody.
    pub fn run_unwatched(&mut self, spec: TaskSpec<'_>, now: Instant) -> Result<(), Failure> {
        self.run(spec, Then::Nothing, now)
    }

    /// Reads an application's network policy; the answer comes when the table was listed.
    pub fn read_policy(
        &mut self,
        id: u64,
        application: ApplicationSelector,
        now: Instant,
    ) -> Result<(), Failure> {
        self.require_policies()?;
        self.wishes.push_back(PolicyWish::Read { id, application });
        self.next_wish(now).map_err(|(_, failure)| failure)
    }

    /// Changes an application's network policy; the answer comes when the table was listed again.
    pub fn apply_policy(
        &mut self,
        id: u64,
        application: ApplicationSelector,
        policy: Option<NetworkPolicy>,
        now: Instant,
    ) -> Result<(), Failure> {
        self.require_policies()?;
        self.wishes.push_back(PolicyWish::Apply { id, application, policy });
        self.next_wish(now).map_err(|(_, failure)| failure)
    }

    fn require_policies(&self) -> Result<(), Failure> {
        let missing = crate::execution::network_policy::missing();
        missing.map_or(Ok(()), |why| Err(Failure::unsupported(format!("network policy: {why}"))))
    }

    /// Begins the next change or reading, if none is under way. An error names who is to be told.
    fn next_wish(&mut self, now: Instant) -> Result<(), (u64, Failure)> {
        if self.policy_busy {
            return Ok(());
        }
        let Some(wish) = self.wishes.pop_front() else { return Ok(()) };
        let (PolicyWish::Read { id, .. } | PolicyWish::Apply { id, .. }) = &wish;
        let id = *id;
        self.begin_wish(wish, now).map_err(|failure| (id, failure))
    }

    fn begin_wish(&mut self, wish: PolicyWish, now: Instant) -> Result<(), Failure> {
        match wish {
            PolicyWish::Read { id, application } => {
                let turn = PolicyTurn { ask: Some((id, application)), wanted: self.policies.clone() };
                self.list_policies(turn, now)
            }
            PolicyWish::Apply { id, application, policy } => {
                let wanted = self.policies.with(&application, policy.as_ref())?;
                self.load_policies(PolicyTurn { ask: Some((id, application)), wanted }, now)
            }
        }
    }

    fn load_policies(&mut self, turn: PolicyTurn, now: Instant) -> Result<(), Failure> {
        let argv = load_argv();
        let script = turn.wanted.script();
        self.run(script_spec(&argv, script), Then::PolicyLoaded(turn), now)?;
        self.policy_busy = true;
        Ok(())
    }

    fn list_policies(&mut self, turn: PolicyTurn, now: Instant) -> Result<(), Failure> {
        let argv = list_argv();
        self.run(TaskSpec::plain(&argv, TOOL_TIMEOUT), Then::PolicyListed(turn), now)?;
        self.policy_busy = true;
        Ok(())
    }

    /// Writes the table again when a control group was made anew: its old rules match nothing.
    fn watch(&mut self, now: Instant) {
        if self.policy_busy || self.policies.is_empty() || now < self.watch_at {
            return;
        }
        self.watch_at = now + WATCH_INTERVAL;
        if let Some(wanted) = self.policies.refreshed()
            && let Err(failure) = self.load_policies(PolicyTurn { ask: None, wanted }, now)
        {
            crate::boot::console(&failure.message);
        }
    }
}

fn exec_reply(outcome: TaskOutcome) -> Reply {
    let (exit_code, signal) = match outcome.ended {
        crate::process::Ended::Exit(code) => (Some(code), None),
        crate::process::Ended::Signal(signal) => (None, Some(signal)),
    };
    Reply::Exec {
        outcome: ExecOutcome {
            exit_code,
            signal,
            timed_out: outcome.timed_out,
            stdout: Blob(outcome.stdout),
            stderr: Blob(outcome.stderr),
            truncated: outcome.truncated,
        },
    }
}

impl Agent {
    /// Moves running programs, and goes on with what has ended.
    pub(super) fn step_jobs(&mut self, now: Instant) {
        let mut ended = Vec::new();
        let mut index = 0;
        while index < self.jobs.running.len() {
            match self.jobs.running[index].0.step(now) {
                Some(outcome) => ended.push((self.jobs.running.swap_remove(index).1, outcome)),
                None => index += 1,
            }
        }
        for (then, outcome) in ended {
            self.follow(then, outcome, now);
        }
        self.jobs.watch(now);
        // Each wish either begins, which ends this, or is answered with an error.
        while let Err((id, failure)) = self.jobs.next_wish(now) {
            self.outbox.answer(id, Err(failure));
        }
    }

    fn follow(&mut self, then: Then, outcome: TaskOutcome, now: Instant) {
        match then {
            Then::Nothing => {}
            Then::Exec { id } => self.outbox.reply(id, exec_reply(outcome)),
            Then::Unit { id } => {
                let text = outcome.into_stdout("ask systemd");
                let unit = text.and_then(|text| unit_reply(&String::from_utf8_lossy(&text)));
                self.outbox.answer(id, unit.map(|unit| Reply::Unit { unit }));
            }
            Then::UnitReloaded { id, unit } => {
                let result = outcome.into_stdout(&format!("reload {unit}"));
                // What systemd did is told by its own state, asked afterwards.
                if let Err(failure) = result.and_then(|_| self.ask_unit(id, &unit, now)) {
                    self.outbox.answer(id, Err(failure));
                }
            }
            Then::PolicyLoaded(turn) => {
                self.jobs.policy_busy = false;
                let asked = turn.ask.as_ref().map(|(id, _)| *id);
                let loaded = outcome.into_stdout("load the network policy");
                if let Err(failure) = loaded.and_then(|_| self.jobs.list_policies(turn, now)) {
                    self.answer_policy(asked, Err(failure));
                }
            }
            Then::PolicyListed(turn) => {
                self.jobs.policy_busy = false;
                let asked = turn.ask.as_ref().map(|(id, _)| *id);
                let changes = turn.wanted != self.jobs.policies;
                let result = self.policy_listed(turn, outcome);
                if result.is_err() && changes {
                    self.restore_policies(now);
                }
                self.answer_policy(asked, result);
            }
        }
    }

    fn policy_listed(&mut self, turn: PolicyTurn, outcome: TaskOutcome) -> Result<Option<Reply>, Failure> {
        // An empty table is not listed: nft says that there is none.
        let absent =
            !outcome.ended.is_success() && String::from_utf8_lossy(&outcome.stderr).contains("No such file");
        let listing = if absent { Vec::new() } else { outcome.into_stdout("list the network policy")? };
        turn.wanted.check(&listing)?;
        if turn.wanted != self.jobs.policies {
            turn.wanted.save()?;
            self.jobs.policies = turn.wanted;
        }
        Ok(turn.ask.map(|(_, application)| {
            let policy = self.jobs.policies.policy(&application);
            Reply::Setting { setting: Setting::NetworkPolicy { application, policy } }
        }))
    }

    /// Puts back what was in force before a change that did not come out as wanted.
    fn restore_policies(&mut self, now: Instant) {
        let wanted = self.jobs.policies.clone();
        if let Err(failure) = self.jobs.load_policies(PolicyTurn { ask: None, wanted }, now) {
            crate::boot::console(&failure.message);
        }
    }

    fn answer_policy(&mut self, asked: Option<u64>, result: Result<Option<Reply>, Failure>) {
        match (asked, result) {
            (Some(id), Ok(reply)) => self.outbox.reply(id, reply.unwrap_or(Reply::Done)),
            (Some(id), Err(failure)) => self.outbox.answer(id, Err(failure)),
            (None, Err(failure)) => crate::boot::console(&failure.message),
            (None, Ok(_)) => {}
        }
    }

    /// Asks systemd about a unit; the answer comes when it answered.
    pub(super) fn ask_unit(&mut self, id: u64, unit: &str, now: Instant) -> Result<(), Failure> {
        check_unit(unit)?;
        if self.kind != GuestKind::Systemd {
            return Err(Failure::unsupported("this guest does not run systemd"));
        }
        let argv = unit_argv(unit);
        self.jobs.run(TaskSpec::plain(&argv, TOOL_TIMEOUT), Then::Unit { id }, now)
    }

    /// Reloads or restarts a unit; the answer comes when systemd is done.
    pub(super) fn reload_unit(
        &mut self,
        id: u64,
        unit: &str,
        mode: &ReloadMode,
        now: Instant,
    ) -> Result<(), Failure> {
        check_unit(unit)?;
        let verb = match mode {
            ReloadMode::Signal => "reload",
            ReloadMode::Restart { image: None } => "restart",
            ReloadMode::HandOver { .. } | ReloadMode::Restart { image: Some(_) } => {
                return Err(Failure::unsupported("systemd's units have no images here"));
            }
        };
        let argv = [SYSTEMCTL, verb, "--", unit].map(str::to_owned);
        let then = Then::UnitReloaded { id, unit: unit.to_owned() };
        self.jobs.run(TaskSpec::plain(&argv, RELOAD_TIMEOUT), then, now)
    }

    /// Runs a program; the answer comes when it has ended.
    pub(super) fn exec(&mut self, id: u64, exec: ExecRequest, now: Instant) -> Result<(), Failure> {
        let program = exec.argv.first().map_or("", String::as_str);
        let ok = program.starts_with('/')
            && (1..=EXEC_TIMEOUT_MS_MAX).contains(&exec.timeout_ms)
            && exec.output_bytes_max <= EXEC_OUTPUT_BYTES_MAX;
        if !ok {
            let message = format!(
                "program {program:?} is refused: expected an absolute path, a timeout of 1 to {EXEC_TIMEOUT_MS_MAX} ms and at most {EXEC_OUTPUT_BYTES_MAX} bytes of output"
            );
            return Err(Failure::new(ErrorCode::Invalid, message));
        }
        let environment =
            ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"].map(str::to_owned);
        let spec = TaskSpec {
            environment: &environment,
            stdin: exec.stdin.0,
            output_bytes_max: exec.output_bytes_max as usize,
            ..TaskSpec::plain(&exec.argv, Duration::from_millis(exec.timeout_ms))
        };
        let task = match &exec.service {
            Some(service) => self.services.run_beside(service, spec, now)?,
            None => Task::start(spec, now)?,
        };
        self.jobs.running.push((task, Then::Exec { id }));
        Ok(())
    }
}

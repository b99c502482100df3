//! Runs a program to its end without blocking the agent: feeds its input, keeps the beginning of its outputs, kills
//! it when it takes too long. Must never hold more output than it was told to keep.

use crate::failure::Failure;
use crate::process::{Ended, Process};
use crate::sys::spawn::{SpawnSpec, spawn};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::{CStr, CString};
use std::time::{Duration, Instant};

/// A program to run.
pub struct TaskSpec<'a> {
    /// Program by absolute path, and arguments.
    pub argv: &'a [String],
    /// The whole environment, as `NAME=value`.
    pub environment: &'a [String],
    /// Its root directory, and so its own mount namespace.
    pub root: Option<&'a CStr>,
    /// Directory of its control group.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// User and group.
    pub user: Option<(u32, u32)>,
    /// Takes away its powers over the kernel.
    pub confined: bool,
    /// Given on its standard input.
    pub stdin: Vec<u8>,
    /// When it is killed.
    pub timeout: Duration,
    /// Of each output, kept from its beginning.
    pub output_bytes_max: usize,
}

/// How a program ended.
#[derive(Debug)]
pub struct TaskOutcome {
    /// The end.
    pub ended: Ended,
    /// Whether it was killed for taking too long.
    pub timed_out: bool,
    /// Beginning of its standard output.
    pub stdout: Vec<u8>,
    /// Beginning of its standard error.
    pub stderr: Vec<u8>,
    /// Whether more was written than was kept.
    pub truncated: bool,
}

impl TaskOutcome {
    /// Standard output of a program that ended well, or a failure with what it said.
    pub fn into_stdout(self, what: &str) -> Result<Vec<u8>, Failure> {
        if self.ended.is_success() && !self.truncated {
            return Ok(self.stdout);
        }
        let said = String::from_utf8_lossy(&self.stderr);
        let reason = if self.timed_out { "took too long".to_owned() } else { self.ended.to_string() };
        Err(Failure::system(what, &std::io::Error::other(format!("{reason}: {}", said.trim()))))
    }
}

/// One output of a program.
struct Capture {
    pipe: Option<OwnedFd>,
    kept: Vec<u8>,
    max: usize,
    truncated: bool,
}

impl Capture {
    fn step(&mut self) {
        let mut chunk = [0u8; 4096];
        let Some(pipe) = &self.pipe else { return };
        // A bound on one turn: a program that writes without end must not hold the agent.
        for _ in 0..32 {
            match rustix::io::read(pipe, &mut chunk) {
                Ok(0) => {
                    self.pipe = None;
                    return;
                }
                Ok(got) => {
                    let room = self.max - self.kept.len();
                    self.kept.extend_from_slice(&chunk[..got.min(room)]);
                    self.truncated |= got > room;
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

/// A running program.
pub struct Task {
    process: Process,
    stdin: Option<OwnedFd>,
    input: Vec<u8>,
    written: usize,
    outputs: [Capture; 2],
    deadline: Instant,
    timed_out: bool,
}

/// Texts as C strings; one with a zero byte inside is refused.
pub fn c_strings(texts: &[String]) -> Result<Vec<CString>, Failure> {
    let convert = |text: &String| CString::new(text.as_str()).map_err(|e| Failure::invalid(&e));
    texts.iter().map(convert).collect()
}

impl Task {
    /// Starts a program.
    pub fn start(spec: TaskSpec<'_>, now: Instant) -> Result<Self, Failure> {
        let (argv, environment) = (c_strings(spec.argv)?, c_strings(spec.environment)?);
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|e| Failure::system("make a pipe", &e));
        let (stdin_read, stdin_write) = pipe()?;
        let (stdout_read, stdout_write) = pipe()?;
        let (stderr_read, stderr_write) = pipe()?;
        for fd in [&stdin_write, &stdout_read, &stderr_read] {
            rustix::io::ioctl_fionbio(fd, true).map_err(|e| Failure::system("prepare a pipe", &e))?;
        }
        let spawned = spawn(&SpawnSpec {
            argv: &argv,
            environment: &environment,
            root: spec.root,
            pid_namespace: false,
            cgroup: spec.cgroup,
            user: spec.user,
            stdio: [stdin_read.as_fd(), stdout_write.as_fd(), stderr_write.as_fd()],
            inherited: &[],
            confined: spec.confined,
        })
        .map_err(|e| Failure::system("start a program", &e))?;
        let capture = |pipe| Capture {
            pipe: Some(pipe),
            kept: Vec::new(),
            max: spec.output_bytes_max,
            truncated: false,
        };
        Ok(Self {
            process: Process::new(spawned),
            stdin: (!spec.stdin.is_empty()).then_some(stdin_write),
            input: spec.stdin,
            written: 0,
            outputs: [capture(stdout_read), capture(stderr_read)],
            deadline: now + spec.timeout,
            timed_out: false,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What wakes it.
    pub fn wake_fds<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        fds.push(PollFd::from_borrowed_fd(self.process.pidfd(), PollFlags::IN));
        let outputs = self.outputs.iter().filter_map(|output| output.pipe.as_ref());
        fds.extend(outputs.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        fds.extend(self.stdin.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
    }

    /// When it must be stepped even if nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        (!self.timed_out).then_some(self.deadline)
    }

    /// Moves what can be moved; gives the outcome once.
    pub fn step(&mut self, now: Instant) -> Option<TaskOutcome> {
        self.feed();
        // Asked before the outputs are read, so that nothing written before its end is missed.
        let ended = self.process.try_wait();
        for output in &mut self.outputs {
            output.step();
        }
        let Some(ended) = ended else {
            if now >= self.deadline && !self.timed_out {
                self.timed_out = true;
                self.kill();
            }
            return None;
        };
        let truncated = self.outputs.iter().any(|output| output.truncated);
        let [stdout, stderr] = self.outputs.each_mut().map(|output| std::mem::take(&mut output.kept));
        Some(TaskOutcome { ended, timed_out: self.timed_out, stdout, stderr, truncated })
    }

    fn feed(&mut self) {
        let Some(stdin) = &self.stdin else { return };
        while self.written < self.input.len() {
            match rustix::io::write(stdin, &self.input[self.written..]) {
                Ok(wrote) => self.written += wrote,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // It does not want the rest.
                Err(_) => break,
            }
        }
        self.stdin = None;
        self.input = Vec::new();
    }

    /// Ends it and its whole process group. It is not reaped yet, so its number is still its own.
    fn kill(&self) {
        if let Some(pid) = i32::try_from(self.process.pid()).ok().and_then(Pid::from_raw) {
            // Fails only when it has ended already.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // Nobody waits for it any more: it must not outlive the wish for it.
        if self.process.try_wait().is_none() {
            self.kill();
        }
    }
}

//! How the guest ends in good order: services first, then data on disk, then the machine. Must always come to the
//! end: each part has a deadline.

use super::Agent;
use crate::boot::console;
use crate::channel::Channel;
use crate::task::TaskSpec;
use crate::verification::SYSTEMCTL;
use proteus_protocol::guest::v1::request::GuestKind;
use proteus_protocol::guest::v1::{Event, Shutdown};
use rustix::process::{Signal, kill_process};
use rustix::system::{RebootCommand, reboot};
use std::time::{Duration, Instant};

/// Services get this long, beside their own limits.
const SERVICES_PATIENCE: Duration = Duration::from_secs(20);
/// The last words to the host get this long.
const FLUSH_PATIENCE: Duration = Duration::from_millis(500);

/// An end that has begun.
pub struct Ending {
    how: Shutdown,
    deadline: Instant,
    flush_until: Option<Instant>,
}

impl Ending {
    /// When it must go on even if nothing happens.
    pub fn deadline(&self) -> Instant {
        self.flush_until.unwrap_or(self.deadline)
    }
}

impl Agent {
    /// Begins the end; once begun, it is not begun again.
    pub(super) fn end(&mut self, how: Shutdown, now: Instant) {
        if self.ending.is_some() {
            return;
        }
        self.outbox.event(Event::ShuttingDown { shutdown: how });
        match self.kind {
            GuestKind::Pid1 => {
                console(if how == Shutdown::Reboot { "rebooting" } else { "powering off" });
                self.services.stop_all(now, &mut self.outbox);
                self.ending = Some(Ending { how, deadline: now + SERVICES_PATIENCE, flush_until: None });
            }
            GuestKind::Systemd | GuestKind::Other => {
                let verb = if how == Shutdown::Reboot { "reboot" } else { "poweroff" };
                let argv = [SYSTEMCTL, "--no-block", verb].map(str::to_owned);
                let spec = TaskSpec::plain(&argv, Duration::from_secs(30));
                if let Err(failure) = self.jobs.run_unwatched(spec, now) {
                    console(&failure.message);
                }
            }
        }
    }

    /// Goes on with the end, if it has begun.
    pub(super) fn step_ending(&mut self, now: Instant) {
        let Some(ending) = &mut self.ending else { return };
        if ending.flush_until.is_none() {
            if !self.services.all_stopped() && now < ending.deadline {
                return;
            }
            ending.flush_until = Some(now + FLUSH_PATIENCE);
            return;
        }
        let flushed = self.channel.as_ref().is_none_or(Channel::is_flushed);
        if flushed || now >= ending.deadline() {
            finish(ending.how);
        }
    }
}

/// Ends everything that still runs, writes out what is in memory, and ends the machine.
fn finish(how: Shutdown) {
    let own = std::process::id();
    for pid in crate::procfs::process_ids().into_iter().filter(|pid| *pid != own) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
            // The kernel's threads ignore it, and what has ended needs none.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    rustix::fs::sync();
    let command = match how {
        Shutdown::Reboot => RebootCommand::Restart,
        Shutdown::Poweroff => RebootCommand::PowerOff,
    };
    if let Err(error) = reboot(command) {
        console(&format!("end the machine: {error}"));
    }
}

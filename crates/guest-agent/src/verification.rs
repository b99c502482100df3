//! Checks that the host asks for: whether a process runs, what systemd says about a unit. Typed, by the agent
//! itself; must never run a shell.

use crate::execution::application::processes_named;
use crate::failure::Failure;
use crate::procfs::{Reader, process_stat};
use proteus_protocol::guest::v1::{ErrorCode, ProcessFound, ProcessReply, UnitReply};

/// Most processes in an answer.
const PROCESSES_MAX: usize = 64;
/// Where Debian has the program.
pub const SYSTEMCTL: &str = "/usr/bin/systemctl";

/// Processes of a name.
pub fn process_state(name: &str) -> ProcessReply {
    let mut reader = Reader::default();
    let pids = processes_named(name);
    let read = |pid: &u32| {
        let stat = reader.read(format!("/proc/{pid}/stat")).and_then(process_stat)?;
        let (started_ticks, state, threads) = (stat.started_ticks, stat.state, stat.threads);
        Some(ProcessFound { pid: *pid, started_ticks, state, threads })
    };
    ProcessReply {
        count: pids.len() as u32,
        processes: pids.iter().filter_map(read).take(PROCESSES_MAX).collect(),
    }
}

/// Refuses what is not the name of a unit, and what `systemctl` would take for an option.
pub fn check_unit(unit: &str) -> Result<(), Failure> {
    let ok = (3..=128).contains(&unit.len())
        && !unit.starts_with(['-', '.'])
        && unit.contains('.')
        && unit.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.@:\\".contains(&b));
    let message = || format!("unit {unit:?} is refused: expected a full name as in nginx.service");
    ok.then_some(()).ok_or_else(|| Failure::new(ErrorCode::Invalid, message()))
}

/// Arguments that ask systemd about a unit.
pub fn unit_argv(unit: &str) -> Vec<String> {
    [SYSTEMCTL, "show", "--property=LoadState,ActiveState,SubState,MainPID", "--", unit]
        .map(str::to_owned)
        .to_vec()
}

/// Reads systemd's answer.
pub fn unit_reply(text: &str) -> Result<UnitReply, Failure> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let word = |key: &str| {
        let missing = || Failure::unsupported(format!("systemctl did not tell {key}"));
        value(key).map(str::to_owned).ok_or_else(missing)
    };
    Ok(UnitReply {
        load: word("LoadState")?,
        active: word("ActiveState")?,
        sub: word("SubState")?,
        main_pid: value("MainPID").and_then(|pid| pid.parse().ok()).filter(|pid| *pid > 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        let text = "LoadState=loaded\nActiveState=active\nSubState=running\nMainPID=42\n";
        let unit = unit_reply(text).unwrap();
        assert_eq!((unit.active.as_str(), unit.main_pid), ("active", Some(42)));
        assert!(unit_reply("MainPID=0").is_err());
    }

    #[test]
    fn options_are_no_units() {
        for bad in ["--root=/x.service", "a", "", "a b.service", "../x.service", "nginx"] {
            assert!(check_unit(bad).is_err(), "{bad:?} was taken");
        }
        assert!(check_unit("dev-disk-by\\x2duuid.device").is_ok());
    }

    #[test]
    fn this_process_is_found_by_its_name() {
        let me = std::fs::read_to_string("/proc/self/comm").unwrap();
        let found = process_state(me.trim());
        assert!(found.processes.iter().any(|p| p.pid == std::process::id()));
        assert_eq!(process_state("no-such-name").count, 0);
    }
}

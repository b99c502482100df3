//! Addresses for guests that ask for one: dnsmasq in the guests' namespace, with one fixed address per VM. Small
//! guests have theirs from their kernel's command line; without dnsmasq only full guests lack an address.

use super::{BRIDGE, BRIDGE_ADDRESS, Network, PREFIX};
use crate::driver::{DriverError, Seat};
use crate::tool::{self, ToolError};
use std::fs::{self, Permissions};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longest time that dnsmasq may take to end when asked; then it is made to.
const END_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

impl Network {
    /// Folder of what dnsmasq reads and writes. Not in the state folder: dnsmasq runs as a user of its own.
    fn dhcp_dir(&self) -> PathBuf {
        PathBuf::from("/run").join(format!("{}-dhcp", self.namespace()))
    }

    fn dhcp_pid_path(&self) -> PathBuf {
        self.dhcp_dir().join("pid")
    }

    /// Process id of this network's dnsmasq, if it runs: a pid alone may have become somebody else's.
    fn dhcp_pid(&self) -> Option<i32> {
        let pid: i32 = fs::read_to_string(self.dhcp_pid_path()).ok()?.trim().parse().ok()?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let ours = format!("--pid-file={}", self.dhcp_pid_path().display());
        command.split(|byte| *byte == 0).any(|word| word == ours.as_bytes()).then_some(pid)
    }

    /// Starts dnsmasq where it does not run yet.
    pub async fn ensure_dhcp(&self) -> Result<(), ToolError> {
        if self.dhcp_pid().is_some() {
            return Ok(());
        }
        let dir = self.dhcp_dir();
        let (hosts, options) = (dir.join("hosts"), dir.join("options"));
        let made = fs::create_dir_all(&hosts)
            .and_then(|()| fs::create_dir_all(&options))
            .and_then(|()| fs::set_permissions(&options, Permissions::from_mode(0o755)))
            .and_then(|()| fs::set_permissions(&dir, Permissions::from_mode(0o755)))
            .and_then(|()| fs::set_permissions(&hosts, Permissions::from_mode(0o755)));
        let command = || format!("mkdir {}", hosts.display());
        made.map_err(|source| ToolError::Start { command: command(), package: "coreutils", source })?;
        let mask = std::net::Ipv4Addr::from(u32::MAX << (32 - PREFIX));
        let range = format!("--dhcp-range={BRIDGE_ADDRESS},static,{mask},infinite");
        let router = format!("--dhcp-option=option:router,{BRIDGE_ADDRESS}");
        let (hosts, leases) = (hosts.display(), dir.join("leases"));
        let (hosts, leases) =
            (format!("--dhcp-hostsdir={hosts}"), format!("--dhcp-leasefile={}", leases.display()));
        let pid = format!("--pid-file={}", self.dhcp_pid_path().display());
        let interface = format!("--interface={BRIDGE}");
        let options = format!("--dhcp-optsdir={}", options.display());
        let fixed = ["--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--port=0", "--no-ping"];
        let own = [
            &interface,
            "--bind-interfaces",
            "--dhcp-authoritative",
            &range,
            &router,
            &hosts,
            &leases,
            &pid,
            &options,
        ];
        let args: Vec<&str> =
            ["netns", "exec", self.namespace(), "dnsmasq"].into_iter().chain(fixed).chain(own).collect();
        tool::run("ip", &args, None).await.map(|_| ())
    }

    /// Gives the VM of `seat` its address when it asks. dnsmasq sees the file by itself.
    pub fn offer_address(&self, seat: &Seat) -> Result<(), DriverError> {
        let hosts = self.dhcp_dir().join("hosts");
        if !hosts.is_dir() {
            return Ok(());
        }
        let path = hosts.join(super::tap_name(seat.slot));
        let line = format!("{},{},{},infinite\n", seat.mac(), Self::address(seat.slot), seat.intent.name);
        fs::write(&path, line).map_err(DriverError::host(format!("write {}", path.display())))
    }

    /// Tells guests that ask for an address of these name servers from now on; of none where there are none.
    pub(super) fn offer_dns(&self, servers: &[Ipv4Addr]) -> io::Result<()> {
        let dir = self.dhcp_dir().join("options");
        if !dir.is_dir() {
            return Ok(());
        }
        let path = dir.join("uplink");
        if servers.is_empty() {
            if path.exists() {
                fs::remove_file(&path)?;
            }
        } else {
            let list: Vec<String> = servers.iter().map(ToString::to_string).collect();
            fs::write(&path, format!("option:dns-server,{}\n", list.join(",")))?;
        }
        // It sees new files by itself, and those that are gone only when told.
        if let Some(pid) = self.dhcp_pid().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::HUP);
        }
        Ok(())
    }

    /// Ends dnsmasq, waits until it is gone, and removes its files.
    pub(super) async fn end_dhcp(&self) -> io::Result<()> {
        let start = Instant::now();
        while let Some(pid) = self.dhcp_pid().and_then(rustix::process::Pid::from_raw) {
            let patient = start.elapsed() < END_LIMIT;
            let signal = if patient { rustix::process::Signal::TERM } else { rustix::process::Signal::KILL };
            // It may have ended between the look and the signal.
            let _ = rustix::process::kill_process(pid, signal);
            if start.elapsed() > 2 * END_LIMIT {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "dnsmasq does not end"));
            }
            tokio::time::sleep(POLL).await;
        }
        match fs::remove_dir_all(self.dhcp_dir()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

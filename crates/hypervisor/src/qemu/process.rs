//! A VM's QEMU as a process: started as its own user, known by pid *and* start time, found again after Proteus
//! restarts, ended by pid. Must never signal a process whose start time does not match.

use super::command_line::{self, Plugged, Sockets, Surroundings, ram_path};
use super::probe::Accelerator;
use super::qmp::{Qmp, QmpError};
use crate::driver::{DriverError, Seat};
use crate::{ownership, whole};
use command_fds::{CommandFdExt, FdMapping};
use proteus_model::id::SnapshotName;
use proteus_model::vm::DiskIntent;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Longest time until a started QEMU listens. It takes 0.1–0.5 s; a loaded host 10 times that.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Longest time that a killed process may take to vanish: it has its memory to give back.
pub(crate) const KILL_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);
/// The same for a socket that opens within 100 ms, of a VM whose start somebody waits for.
const START_POLL: Duration = Duration::from_millis(2);

/// A snapshot, or a template, whose work began; kept on disk until it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UnderWay {
    /// It is being saved: the guest stands still.
    Saving(SnapshotName),
    /// It is being restored: of the old VMM nothing is wanted any more, and the guest is not in the new one yet.
    Restoring(SnapshotName),
    /// No snapshot: the VM is being saved into this folder as a template, and stands still.
    Template(PathBuf),
}

/// What is remembered of a running VMM, on disk, so that a restarted Proteus finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunState {
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: with the pid, an identity.
    pub start_ticks: u64,
    pub incarnation: u32,
    pub accelerator: Accelerator,
    pub machine: String,
    pub plugged: Plugged,
    /// Fingerprint and policy of the packet filter last set; see `network::filter`.
    #[serde(default)]
    pub filter: Option<(String, proteus_model::policy::PacketPolicy)>,
    /// The packet filter that is being set: a restarted Proteus knows by it what it may find.
    #[serde(default)]
    pub filter_next: Option<FilterNext>,
    /// A snapshot that is being saved or restored: a restarted Proteus ends what was cut short.
    #[serde(default)]
    pub under_way: Option<UnderWay>,
}

/// What a packet filter is about to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FilterNext {
    pub to: Option<proteus_model::policy::PacketPolicy>,
}

/// What a launch needs beside the seat.
pub(crate) struct Launch {
    pub accelerator: Accelerator,
    pub machine: String,
    pub ram_dir: PathBuf,
    pub incoming: bool,
    pub paused: bool,
    pub incarnation: u32,
    pub plugged: Plugged,
    /// Fingerprint and policy of the packet filter that is on its tap already.
    pub filter: Option<(String, proteus_model::policy::PacketPolicy)>,
    /// What is not over with it. In its record from the first: a crash right after must not take it for whole.
    pub under_way: Option<UnderWay>,
}

fn run_state_path(seat: &Seat) -> PathBuf {
    seat.dir.join("run.json")
}

pub(crate) fn save_run_state(seat: &Seat, run: &RunState) -> Result<(), DriverError> {
    let path = run_state_path(seat);
    let text = serde_json::to_vec_pretty(run).map_err(io::Error::other);
    text.and_then(|text| whole::write(&path, &text))
        .map_err(DriverError::host(format!("write {}", path.display())))
}

pub(crate) fn load_run_state(seat: &Seat) -> Result<Option<RunState>, DriverError> {
    let path = run_state_path(seat);
    let doing = || format!("read {}", path.display());
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|e| DriverError::host(doing())(io::Error::other(e))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DriverError::host(doing())(error)),
    }
}

/// Folder for guests' memory: on tmpfs, so that a page taken from a guest is a page given back to the host.
pub(crate) fn ensure_ram_dir(instance: &str) -> Result<PathBuf, DriverError> {
    let dir = PathBuf::from("/dev/shm").join(format!("proteus-{instance}"));
    fs::create_dir_all(&dir)
        .and_then(|()| fs::set_permissions(&dir, Permissions::from_mode(0o711)))
        .map_err(DriverError::host(format!("make {}", dir.display())))?;
    Ok(dir)
}

/// Memory that a VM really takes on the host: the blocks of its memory files.
pub(crate) fn resident(ram_dir: &Path, seat: &Seat) -> Option<u64> {
    let blocks = |part| fs::metadata(ram_path(ram_dir, seat, part)).map(|m| m.blocks() * 512);
    blocks("ram").ok().map(|ram| ram + blocks("hot").unwrap_or(0))
}

/// Start time of the process and whether its first thread ended already.
fn look_at(pid: u32) -> Option<(u64, bool)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; fields count from the last one.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let ticks = fields.nth(18)?.parse().ok()?;
    Some((ticks, matches!(state, "Z" | "X")))
}

/// Whether this very process still runs.
pub(crate) fn lives(run: &RunState) -> bool {
    look_at(run.pid) == Some((run.start_ticks, false))
}

/// Whether nothing of the process is left that could hold its tap, its disks or its memory. A killed process is a
/// zombie as soon as its first thread ended; the others, which share its open files, may still be on their way out.
fn is_gone(run: &RunState) -> bool {
    match look_at(run.pid) {
        Some((ticks, ended)) if ticks == run.start_ticks => {
            // What cannot be listed was reaped between the two looks.
            let threads = fs::read_dir(format!("/proc/{}/task", run.pid)).map_or(0, Iterator::count);
            ended && threads <= 1
        }
        _ => true,
    }
}

/// Waits until the process is gone, its last thread too; `false`: it is not within `limit`.
pub(crate) async fn wait_end(run: &RunState, limit: Duration) -> bool {
    let ended = async {
        while !is_gone(run) {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(limit, ended).await.is_ok()
}

/// Ends the process at once.
pub(crate) async fn kill(run: &RunState) {
    let pid = i32::try_from(run.pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid.filter(|_| lives(run)) {
        // It may have ended between the look and the signal.
        let _ = kill_process(pid, Signal::KILL);
    }
    if !wait_end(run, KILL_LIMIT).await {
        tracing::error!(pid = run.pid, "a killed VMM does not end");
    }
}

fn prepare(seat: &Seat, around: &Launch) -> io::Result<fs::File> {
    let (uid, run_dir) = (seat.uid(), seat.run_dir());
    fs::create_dir_all(&run_dir)?;
    chown(&run_dir, Some(uid), Some(uid))?;
    fs::set_permissions(&run_dir, Permissions::from_mode(0o700))?;
    fs::set_permissions(&seat.dir, Permissions::from_mode(0o711))?;
    for part in ["ram", "hot"] {
        let path = ram_path(&around.ram_dir, seat, part);
        if !around.incoming {
            fs::File::create(&path)?;
        }
        chown(&path, Some(uid), Some(uid))?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    }
    let own = |disk: &DiskIntent| !disk.read_only || disk.path.starts_with(&seat.dir);
    for disk in seat.disks().iter().filter(|disk| own(disk)) {
        ownership::hand_over(seat, &disk.path)?;
    }
    fs::File::create(seat.dir.join("qemu.log"))
}

/// Starts QEMU for `seat` and waits until it answers. Writes down that it is the VM's, unless it is still to take
/// over from another: until it did, a restarted Proteus must find that one.
pub(crate) async fn launch(
    seat: &Seat,
    around: &Launch,
    tap: OwnedFd,
) -> Result<(RunState, Qmp), DriverError> {
    let log =
        prepare(seat, around).map_err(DriverError::host(format!("prepare the files of {}", seat.id)))?;
    let tap_fd = 3;
    let arguments = command_line::arguments(
        seat,
        &Surroundings {
            accelerator: around.accelerator,
            machine: &around.machine,
            ram_dir: &around.ram_dir,
            tap_fd,
            incoming: around.incoming,
            paused: around.paused,
            plugged: &around.plugged,
            incarnation: around.incarnation,
        },
    );
    let mut command = Command::new("qemu-system-x86_64");
    command.args(&arguments).uid(seat.uid()).gid(group_id(seat, around.accelerator)).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::from(log)).current_dir("/");
    let spawned = command
        .fd_mappings(vec![FdMapping { parent_fd: tap, child_fd: tap_fd }])
        .map_err(io::Error::other)
        .and_then(|command| command.spawn());
    let mut child = spawned.map_err(DriverError::host("start qemu-system-x86_64"))?;
    let pid = child.id();
    let run = RunState {
        pid,
        start_ticks: look_at(pid).map_or(0, |(ticks, _)| ticks),
        incarnation: around.incarnation,
        accelerator: around.accelerator,
        machine: around.machine.clone(),
        plugged: around.plugged.clone(),
        filter: around.filter.clone(),
        filter_next: None,
        under_way: around.under_way.clone(),
    };
    let connected = connect(seat, &run).await;
    // Reaps the child when it ends; after a restart of Proteus that is init's work.
    std::thread::Builder::new()
        .name(format!("reap-{pid}"))
        .spawn(move || child.wait())
        .map_err(DriverError::host("start a thread"))?;
    match connected {
        Ok(qmp) => {
            let takes_over = around.incoming && around.incarnation > 0;
            let kept = if takes_over { Ok(()) } else { save_run_state(seat, &run) };
            if let Err(error) = kept {
                kill(&run).await;
                return Err(error);
            }
            Ok((run, qmp))
        }
        Err(source) => {
            kill(&run).await;
            let said = fs::read_to_string(seat.dir.join("qemu.log")).unwrap_or_default();
            let source = match said.lines().next_back() {
                Some(line) => QmpError::Connect(line.to_owned()),
                None => source,
            };
            Err(DriverError::Vmm { vm: seat.id, doing: "start the VMM", source })
        }
    }
}

/// The group that may open `/dev/kvm`, where it is needed; else one of the VMM's own.
fn group_id(seat: &Seat, accelerator: Accelerator) -> u32 {
    match (accelerator, fs::metadata("/dev/kvm")) {
        (Accelerator::Kvm, Ok(device)) => device.gid(),
        _ => seat.uid(),
    }
}

async fn connect(seat: &Seat, run: &RunState) -> Result<Qmp, QmpError> {
    let path = Sockets::of(seat, run.incarnation).qmp;
    let listening = async {
        while lives(run) {
            // QEMU binds the socket under its final name before it listens: only a connection proves it.
            match Qmp::connect(&path).await {
                Err(QmpError::Connect(_)) => tokio::time::sleep(START_POLL).await,
                other => return other,
            }
        }
        Err(QmpError::Connect("the VMM ended at once".into()))
    };
    let late = |_| QmpError::Connect(format!("nothing listened within {} s", START_LIMIT.as_secs()));
    tokio::time::timeout(START_LIMIT, listening).await.map_err(late)?
}

/// The descriptor of the tap that a running VMM holds, as one of our own.
pub(crate) fn borrow_tap(run: &RunState) -> io::Result<OwnedFd> {
    let pid = i32::try_from(run.pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("no such process"))?;
    let dir = PathBuf::from(format!("/proc/{}/fd", run.pid));
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if fs::read_link(entry.path()).is_ok_and(|target| target == Path::new("/dev/net/tun")) {
            let number: i32 = entry.file_name().to_string_lossy().parse().map_err(io::Error::other)?;
            let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
            return get_descriptor(&process, number);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "the VMM holds no tap"))
}

#[allow(unsafe_code, reason = "pidfd_getfd has no safe wrapper")]
fn get_descriptor(process: &OwnedFd, number: i32) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: pidfd_getfd(2) takes three integers; `process` is an open pidfd for the whole call, and flags must
    // be zero. It touches no memory of ours.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    let raw = i32::try_from(raw).map_err(io::Error::other)?;
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so `raw` is a descriptor new in this process that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Every QEMU that runs: its pid and its command line.
fn qemu_lines() -> Vec<(u32, Vec<u8>)> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let lines = pids.map(|pid| (pid, fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()));
    lines.filter(|(_, line)| line.starts_with(b"qemu-system-x86_64\0")).collect()
}

/// Every VMM of this seat that runs: (pid, incarnation).
fn vmms_of(seat: &Seat) -> Vec<(u32, u32)> {
    let socket = format!("path={}/qmp.", seat.run_dir().display());
    let ours = qemu_lines().into_iter().filter_map(|(pid, line)| {
        let at = line.windows(socket.len()).position(|part| part == socket.as_bytes())? + socket.len();
        let digits = line[at..].iter().take_while(|byte| byte.is_ascii_digit());
        let number: String = digits.map(|byte| char::from(*byte)).collect();
        Some((pid, number.parse().ok()?))
    });
    ours.collect()
}

/// The VMMs of this seat beside the one that was written down, as far as they can be told: a crash of Proteus in the
/// middle of a replacement or of a start leaves them.
pub(crate) fn unknown_vmms(seat: &Seat, known: Option<&RunState>) -> Vec<RunState> {
    let others = vmms_of(seat).into_iter().filter(|(pid, _)| known.is_none_or(|known| known.pid != *pid));
    let others = others.filter_map(|(pid, incarnation)| Some((pid, incarnation, look_at(pid)?.0)));
    let told = |(pid, incarnation, start_ticks)| RunState {
        pid,
        start_ticks,
        incarnation,
        accelerator: known.map_or(Accelerator::Tcg, |known| known.accelerator),
        machine: known.map(|known| known.machine.clone()).unwrap_or_default(),
        plugged: known.map(|known| known.plugged.clone()).unwrap_or_default(),
        filter: known.and_then(|known| known.filter.clone()),
        filter_next: known.and_then(|known| known.filter_next.clone()),
        under_way: None,
    };
    others.map(told).collect()
}

/// Ends the VMMs of this seat that nobody wrote down: Proteus was killed while they started. `true`: there was one.
pub(crate) async fn end_unknown(seat: &Seat, known: Option<&RunState>) -> bool {
    let unknown = unknown_vmms(seat, known);
    for run in &unknown {
        kill(run).await;
    }
    !unknown.is_empty()
}

/// Whether there is something of a VM on the host of which nothing was written down.
pub(crate) fn is_left(seat: &Seat, ram_dir: &Path) -> bool {
    ["ram", "hot"].iter().any(|part| ram_path(ram_dir, seat, part).exists()) || seat.run_dir().exists()
}

/// Removes memory that no VMM names: a start, a clone or a restore that a crash of Proteus cut short made it and had no
/// VMM yet, and the VM's place may be gone since. A VMM names its own from its first moment to its last.
pub(crate) fn sweep_memory(ram_dir: &Path) -> Result<(), DriverError> {
    let doing = || DriverError::host(format!("clear {}", ram_dir.display()));
    let lines: Vec<Vec<u8>> = qemu_lines().into_iter().map(|(_, line)| line).collect();
    for entry in fs::read_dir(ram_dir).map_err(doing())? {
        let path = entry.map_err(doing())?.path();
        // Where there is no memory to plug, a VMM names only the other of the two, and both are its VM's.
        let stem = path.with_extension("").into_os_string();
        let name = stem.as_encoded_bytes();
        if lines.iter().any(|line| line.windows(name.len()).any(|part| part == name)) {
            continue;
        }
        tracing::warn!(file = %path.display(), "memory that is no VM's is given back");
        fs::remove_file(&path).map_err(doing())?;
    }
    Ok(())
}

/// Removes what a VM that ended left behind.
pub(crate) fn sweep(seat: &Seat, ram_dir: &Path) -> Result<(), DriverError> {
    let gone = |outcome: io::Result<()>| match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    gone(fs::remove_file(ram_path(ram_dir, seat, "ram")))
        .and_then(|()| gone(fs::remove_file(ram_path(ram_dir, seat, "hot"))))
        .and_then(|()| gone(fs::remove_dir_all(seat.run_dir())))
        .and_then(|()| gone(fs::remove_file(run_state_path(seat))))
        .map_err(DriverError::host(format!("clear what {} left behind", seat.id)))
}

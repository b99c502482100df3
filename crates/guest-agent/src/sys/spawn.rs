//! Starts a process: directly in its control group, in its own mount and process namespaces, with exactly the
//! descriptors that it is given. The calling process must have one thread only, as the agent has.
//!
//! The child does nothing but system calls on what was prepared before, and reports the one that failed through a
//! pipe that closes on success. It must never return from [`spawn`].

use super::check;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use std::ffi::{CStr, CString, c_char, c_int};
use std::io::Read;

/// A process to start.
pub struct SpawnSpec<'a> {
    /// Program by absolute path (inside `root`), then arguments.
    pub argv: &'a [CString],
    /// The whole environment, as `NAME=value`.
    pub environment: &'a [CString],
    /// Its root directory; with one, it gets its own mount namespace and a fresh `/proc`.
    pub root: Option<&'a CStr>,
    /// Its own process namespace, so that nothing of it survives its first process. Only with `root`.
    pub pid_namespace: bool,
    /// Directory of its control group.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// User and group; `None`: the agent's.
    pub user: Option<(u32, u32)>,
    /// Its standard input, output and error.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Descriptors for it, as 3, 4, ….
    pub inherited: &'a [BorrowedFd<'a>],
    /// Takes away the powers over the kernel itself (modules, reboot, devices, mounts).
    pub confined: bool,
}

/// A started process.
#[derive(Debug)]
pub struct Spawned {
    /// Its id, seen from the agent.
    pub pid: u32,
    /// Becomes readable when it ends.
    pub pidfd: OwnedFd,
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// Before there was a process.
    #[error("prepare a process: {step}")]
    Prepare {
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// In the new process, before its program.
    #[error("set up the process of {program}: {step}")]
    Child {
        /// Its program.
        program: String,
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

const STEPS: [&str; 12] = [
    "new session",
    "private mounts",
    "change root",
    "mount proc",
    "working directory",
    "move descriptors",
    "place descriptors",
    "drop capabilities",
    "set groups",
    "set group",
    "set user",
    "run the program",
];

/// Capabilities that let a process change the kernel or leave its confinement (linux/capability.h): 16
/// SYS_MODULE, 17 SYS_RAWIO, 19 SYS_PTRACE, 20 SYS_PACCT, 21 SYS_ADMIN, 22 SYS_BOOT, 25 SYS_TIME, 26 SYS_TTY_CONFIG,
/// 27 MKNOD, 32 MAC_OVERRIDE, 33 MAC_ADMIN, 34 SYSLOG, 35 WAKE_ALARM, 36 BLOCK_SUSPEND, 38 PERFMON, 39 BPF,
/// 40 CHECKPOINT_RESTORE.
const DROPPED_CAPABILITIES: [c_int; 17] =
    [16, 17, 19, 20, 21, 22, 25, 26, 27, 32, 33, 34, 35, 36, 38, 39, 40];

/// `CLONE_INTO_CGROUP` of linux/sched.h; the libc crate's constant does not fit its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Everything that the child reads, made before it exists.
struct Plan<'a> {
    spec: &'a SpawnSpec<'a>,
    argv: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    report: RawFd,
}

/// Starts a process; returns when its program runs.
pub fn spawn(spec: &SpawnSpec<'_>) -> Result<Spawned, SpawnError> {
    let prepare = |step| move |source: std::io::Error| SpawnError::Prepare { step, source };
    let Some(program) = spec.argv.first() else {
        return Err(prepare("find the program")(Errno::INVAL.into()));
    };
    let pipe = pipe_with(PipeFlags::CLOEXEC).map_err(|e| prepare("make a pipe")(e.into()))?;
    let (reader, writer) = pipe;
    let pointers = |list: &[CString]| list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
    let plan = Plan {
        spec,
        argv: pointers(spec.argv),
        environment: pointers(spec.environment),
        report: writer.as_raw_fd(),
    };
    let spawned = clone(&plan).map_err(prepare("clone"))?;
    drop(writer);
    let mut report = Vec::new();
    std::fs::File::from(reader).read_to_end(&mut report).map_err(prepare("read the child's report"))?;
    let [step, errno @ ..] = report.as_slice() else { return Ok(spawned) };
    // It is about to exit, and is reaped here: nobody else knows of it.
    let _ = waitid(WaitId::PidFd(spawned.pidfd.as_fd()), WaitIdOptions::EXITED);
    let errno = errno.try_into().map_or(0, i32::from_ne_bytes);
    Err(SpawnError::Child {
        program: program.to_string_lossy().into_owned(),
        step: STEPS.get(usize::from(*step)).copied().unwrap_or("unknown step"),
        source: std::io::Error::from_raw_os_error(errno),
    })
}

fn clone(plan: &Plan<'_>) -> std::io::Result<Spawned> {
    let spec = plan.spec;
    let mut pidfd: RawFd = -1;
    let mut flags = libc::CLONE_PIDFD as u64;
    if spec.root.is_some() {
        flags |= libc::CLONE_NEWNS as u64;
        if spec.pid_namespace {
            flags |= libc::CLONE_NEWPID as u64;
        }
    }
    if spec.cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    // SAFETY: all zero is a valid clone_args: no stack, no thread-local storage, no requested ids.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags;
    args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.cgroup = spec.cgroup.map_or(0, |fd| fd.as_raw_fd() as u64);
    // SAFETY: without CLONE_VM the child has its own copy of all memory and works on that; `args` and `pidfd` live
    // until the call returns; the process has one thread, so no lock is held by a thread that the child lacks.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        // SAFETY: this is the child, and everything in `plan` was made before the clone.
        unsafe { child(plan) }
    }
    // SAFETY: on success the kernel stored a new descriptor there, owned by nobody else.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Spawned { pid: pid as u32, pidfd })
}

/// Sets the child up and runs its program.
///
/// # Safety
/// Only in a child of `clone`, which has one thread. It does not return.
unsafe fn child(plan: &Plan<'_>) -> ! {
    // SAFETY: as for this function.
    let step = unsafe { set_up(plan) };
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0).to_ne_bytes();
    let report = [step, errno[0], errno[1], errno[2], errno[3]];
    // SAFETY: the buffer is valid for its length; _exit runs nothing of the parent's.
    unsafe {
        libc::write(plan.report, report.as_ptr().cast(), report.len());
        libc::_exit(127)
    }
}

/// Runs the steps of [`STEPS`]; returns the number of the one that failed, with errno set.
///
/// # Safety
/// Only in a child of `clone`. All pointers in `plan` must be to C strings, the lists ended by null.
unsafe fn set_up(plan: &Plan<'_>) -> u8 {
    let spec = plan.spec;
    // SAFETY: every call gets numbers or pointers to C strings that live in `plan`; nothing here allocates.
    unsafe {
        reset_signals();
        if libc::setsid() < 0 {
            return 0;
        }
        let null = std::ptr::null::<c_char>();
        if let Some(root) = spec.root {
            let private = libc::MS_REC | libc::MS_PRIVATE;
            if libc::mount(null.cast(), c"/".as_ptr(), null.cast(), private, null.cast()) < 0 {
                return 1;
            }
            if libc::chroot(root.as_ptr()) < 0 {
                return 2;
            }
            let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            if libc::mount(c"proc".as_ptr(), c"/proc".as_ptr(), c"proc".as_ptr(), flags, null.cast()) < 0 {
                return 3;
            }
        }
        if libc::chdir(c"/".as_ptr()) < 0 {
            return 4;
        }
        if let Err(step) = place_descriptors(spec) {
            return step;
        }
        if spec.confined {
            for capability in DROPPED_CAPABILITIES {
                // A capability that this kernel does not know is not there to be dropped (EINVAL).
                if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) < 0
                    && *libc::__errno_location() != libc::EINVAL
                {
                    return 7;
                }
            }
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 {
                return 7;
            }
        }
        if let Some((uid, gid)) = spec.user {
            if libc::setgroups(0, std::ptr::null()) < 0 {
                return 8;
            }
            if libc::setresgid(gid, gid, gid) < 0 {
                return 9;
            }
            if libc::setresuid(uid, uid, uid) < 0 {
                return 10;
            }
        }
        libc::execve(plan.argv[0], plan.argv.as_ptr(), plan.environment.as_ptr());
        11
    }
}

/// Puts standard streams at 0–2 and inherited descriptors at 3, 4, …. All others close on exec.
///
/// # Safety
/// Only in a child of `clone`.
unsafe fn place_descriptors(spec: &SpawnSpec<'_>) -> Result<(), u8> {
    let wanted = spec.stdio.iter().chain(spec.inherited);
    // First above all targets, so that no target is overwritten before it was used.
    let above = 3 + spec.inherited.len() as c_int;
    let mut moved = [-1 as c_int; 3 + proteus_protocol::guest::v1::service::LISTEN_MAX];
    if above as usize > moved.len() {
        return Err(5);
    }
    for (slot, fd) in moved.iter_mut().zip(wanted) {
        // SAFETY: takes numbers only.
        *slot = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, above) };
        if *slot < 0 {
            return Err(5);
        }
    }
    for (target, fd) in moved.iter().enumerate().take(above as usize) {
        // SAFETY: takes numbers only. dup2 clears close-on-exec on the target.
        if unsafe { libc::dup2(*fd, target as c_int) } < 0 {
            return Err(6);
        }
    }
    Ok(())
}

/// Nothing blocked, nothing ignored: as a program expects it.
///
/// # Safety
/// Only in a child of `clone`.
unsafe fn reset_signals() {
    // SAFETY: sigemptyset initialises the set; SIG_DFL is a valid disposition for each signal number, and the
    // kernel refuses the two that cannot be set.
    unsafe {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
        for signal in 1..=31 {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

//! The system calls that no safe crate wraps. The only place in this crate with `unsafe`; each function is safe
//! to call, and takes and gives owned or borrowed descriptors. Must never hold a decision.

#![allow(unsafe_code, reason = "the quarantine for it: see style.md, rule 16")]

pub mod network;

pub mod perf;

pub mod spawn;

use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::Errno;
use std::mem::MaybeUninit;

/// The last error of this thread, as `io::Error`.
fn last_error() -> std::io::Error {
    std::io::Error::last_os_error()
}

fn check(result: i64) -> std::io::Result<i64> {
    if result < 0 { Err(last_error()) } else { Ok(result) }
}

/// Signals that the agent takes from a descriptor instead of by interruption.
const TAKEN: [i32; 5] = [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGPWR, libc::SIGHUP];

/// Blocks the signals that the agent answers to, and gives a descriptor to read them from.
pub fn signal_fd() -> std::io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that it is given; sigaddset and sigprocmask get that initialised set
    // and valid signal numbers; signalfd copies the set and returns a new descriptor, owned by nobody else.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in TAKEN {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        check(libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()).into())?;
        let fd = check(libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK).into())?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// The next pending signal, if there is one.
pub fn read_signal(fd: BorrowedFd<'_>) -> Option<i32> {
    let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: the buffer is as large as the size says, and is read only when the kernel filled it whole.
    unsafe {
        let got = libc::read(fd.as_raw_fd(), info.as_mut_ptr().cast(), size);
        (got == size as isize).then(|| info.assume_init().ssi_signo as i32)
    }
}

/// Scheduling policy (with its reset-on-fork flag) and realtime priority of a thread.
pub fn scheduler(tid: u32) -> std::io::Result<(u32, u32)> {
    let mut param = libc::sched_param { sched_priority: 0 };
    // SAFETY: both calls take a number and, the second, a valid pointer to a structure that outlives it.
    unsafe {
        let policy = check(libc::sched_getscheduler(tid as i32).into())?;
        check(libc::sched_getparam(tid as i32, &mut param).into())?;
        Ok((policy as u32, param.sched_priority as u32))
    }
}

/// Sets scheduling policy and realtime priority of a thread.
pub fn set_scheduler(tid: u32, policy: u32, priority: u32) -> std::io::Result<()> {
    let param = libc::sched_param { sched_priority: priority as i32 };
    // SAFETY: the pointer is to a live structure that the call only reads.
    check(unsafe { libc::sched_setscheduler(tid as i32, policy as i32, &param) }.into()).map(drop)
}

/// `IOPRIO_WHO_PROCESS` of linux/ioprio.h: one thread.
const IOPRIO_WHO_PROCESS: i64 = 1;

/// I/O priority of a thread, as the kernel codes it.
pub fn io_priority(tid: u32) -> std::io::Result<u32> {
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, i64::from(tid)) })
        .map(|v| v as u32)
}

/// Sets the I/O priority of a thread.
pub fn set_io_priority(tid: u32, value: u32) -> std::io::Result<()> {
    // SAFETY: the call takes numbers only.
    check(unsafe {
        libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, i64::from(tid), i64::from(value))
    })
    .map(drop)
}

/// `RNDADDENTROPY` of linux/random.h: `_IOW('R', 0x03, int[2])`.
const RNDADDENTROPY: u64 = 0x4008_5203;
/// `RNDRESEEDCRNG` of linux/random.h: `_IO('R', 0x07)`.
const RNDRESEEDCRNG: u64 = 0x5207;

/// Mixes bytes into the kernel's random numbers, counts them as random, and makes the generator use them at once.
pub fn add_entropy(random: BorrowedFd<'_>, bytes: &[u8]) -> std::io::Result<()> {
    let too_long = |_| std::io::Error::from(Errno::TOOBIG);
    let length = i32::try_from(bytes.len()).map_err(too_long)?;
    let mut pool = Vec::with_capacity(8 + bytes.len());
    pool.extend_from_slice(&length.saturating_mul(8).to_ne_bytes());
    pool.extend_from_slice(&length.to_ne_bytes());
    pool.extend_from_slice(bytes);
    // SAFETY: RNDADDENTROPY reads two ints and then as many bytes as the second says, all inside `pool`;
    // RNDRESEEDCRNG takes no argument.
    unsafe {
        check(libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, pool.as_ptr()).into())?;
        check(libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG, 0).into()).map(drop)
    }
}

/// Makes ctrl-alt-del a signal to the first process instead of an instant reset.
pub fn take_ctrl_alt_del() -> std::io::Result<()> {
    // SAFETY: the call takes a number only.
    check(unsafe { libc::reboot(libc::RB_DISABLE_CAD) }.into()).map(drop)
}

/// Does something as another user of this guest; back as the first process's again afterwards.
pub fn as_user<T>(uid: u32, act: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<T> {
    // SAFETY: the calls take numbers only.
    let own = unsafe { libc::geteuid() };
    // SAFETY: as above.
    check(unsafe { libc::seteuid(uid) }.into())?;
    let done = act();
    // SAFETY: as above. It was this user's a moment ago, and the real user id still says so.
    check(unsafe { libc::seteuid(own) }.into())?;
    done
}

/// The number of bytes in a memory page.
pub fn page_bytes() -> u64 {
    // SAFETY: the call takes a number only.
    let value = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(value).unwrap_or(4096)
}

/// Id of a child that has ended and is not yet reaped; it stays so.
pub fn ended_child() -> Option<u32> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: waitid fills the structure or leaves it zero, which is valid too; si_pid is valid for what waitid fills.
    let pid = unsafe {
        if libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) < 0 {
            return None;
        }
        info.assume_init().si_pid()
    };
    u32::try_from(pid).ok().filter(|pid| *pid > 0)
}

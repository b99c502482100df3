//! Counters of the kernel's trace points, and of functions in files that programs run. Must never sample, nor hold a
//! counter on longer than its owner lives.

use super::check;
use rustix::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ffi::CStr;

/// `struct perf_event_attr` of linux/perf_event.h in its second version, 72 bytes.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    config1: u64,
    config2: u64,
}

/// `PERF_TYPE_TRACEPOINT`.
const TRACEPOINT: u32 = 2;
/// `disabled`, the first of the flags.
const DISABLED: u64 = 1;
/// `PERF_FLAG_FD_CLOEXEC`.
const CLOEXEC: libc::c_ulong = 8;
/// `PERF_EVENT_IOC_ENABLE`: `_IO('$', 0)`.
const ENABLE: libc::c_ulong = 0x2400;
/// `PERF_EVENT_IOC_SET_FILTER`: `_IOW('$', 6, char *)`.
const SET_FILTER: libc::c_ulong = 0x4008_2406;

/// A counter of one trace point, or of one place in a file, on one CPU.
pub struct Counter(OwnedFd);

impl Counter {
    /// Counts from now on what passes the filter of all programs on a CPU.
    pub fn start(tracepoint: u64, cpu: u32, filter: Option<&CStr>) -> std::io::Result<Self> {
        let attributes = Attributes {
            kind: TRACEPOINT,
            size: size_of::<Attributes>() as u32,
            config: tracepoint,
            flags: DISABLED,
            ..Attributes::default()
        };
        let counter = Self::open(&attributes, cpu)?;
        // SAFETY: the descriptor is open; the filter ends with a zero byte and is only read.
        unsafe {
            if let Some(filter) = filter {
                check(libc::ioctl(counter.0.as_raw_fd(), SET_FILTER, filter.as_ptr()).into())?;
            }
            check(libc::ioctl(counter.0.as_raw_fd(), ENABLE, 0).into())?;
        }
        Ok(counter)
    }

    /// Counts from now on how often any program on a CPU comes by an instruction of a file, by its place in the file.
    /// `kind`: the number that the kernel gave to its `uprobe` counters.
    pub fn start_at(kind: u32, file: &CStr, offset: u64, cpu: u32) -> std::io::Result<Self> {
        let attributes = Attributes {
            kind,
            size: size_of::<Attributes>() as u32,
            config1: file.as_ptr().expose_provenance() as u64,
            config2: offset,
            ..Attributes::default()
        };
        // The kernel copies the name while it opens the counter.
        Self::open(&attributes, cpu)
    }

    /// What `attributes` points to must outlive the call, and ends with a zero byte.
    fn open(attributes: &Attributes, cpu: u32) -> std::io::Result<Self> {
        // SAFETY: the kernel reads as many bytes of the structure as its `size` says, which is its size, and returns a
        // new descriptor that nobody else owns.
        unsafe {
            let fd = libc::syscall(libc::SYS_perf_event_open, attributes, -1, cpu as i32, -1, CLOEXEC);
            Ok(Self(OwnedFd::from_raw_fd(check(fd)? as i32)))
        }
    }

    /// How many so far.
    pub fn count(&self) -> std::io::Result<u64> {
        let mut bytes = [0u8; 8];
        let got = rustix::io::read(&self.0, &mut bytes)?;
        if got < bytes.len() { Err(rustix::io::Errno::IO.into()) } else { Ok(u64::from_ne_bytes(bytes)) }
    }
}

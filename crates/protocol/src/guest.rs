//! The guest channel: frames over virtio-serial between the host and the agent inside a VM.
//! Must never trust what comes out of a guest: every size and count here has a limit, and no input panics.

pub mod frame;

pub mod v1;

/// Name of the virtio-serial port, as in `virtserialport,name=…`.
pub const PORT_NAME: &str = "org.proteus.agent.0";

/// Largest payload that a guest may send: a sample with all its lists full is about 60 KiB, a full answer to
/// `exec` 2 × 64 KiB × 4/3 (base64) = 171 KiB.
pub const GUEST_PAYLOAD_BYTES_MAX: usize = 256 * 1024;

/// Largest payload that the host may send: standard input for `exec`, or a network policy.
pub const HOST_PAYLOAD_BYTES_MAX: usize = 1024 * 1024;

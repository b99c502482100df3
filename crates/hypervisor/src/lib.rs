//! The way to hypervisors. The only crate that talks to one, and (with the guest agent's `sys`) the only one with
//! unsafe code. Must never decide anything: it does what it is told, and reports what it sees.

pub mod driver;

pub mod network;

pub mod qemu;

pub mod sim;

pub mod conformance;

pub mod cgroup;

pub mod ownership;

mod user;

pub mod whole;

mod sparse;

mod dirty;

mod perf;

mod share;

mod tool;

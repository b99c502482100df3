//! The node role: gives VMs their place, carries out steps through a driver or the guest's agent, looks how VMs
//! fare. Refuses stale generations. Must never decide: plans come from the control plane.

pub mod node;

mod backing;

mod claim;

mod reach;

mod seat;

mod disk;

mod clone;

mod clock;

mod error;

mod template;

mod guest;

mod convert;

mod health;

mod console;

mod base;

pub mod telemetry;

mod bring_up;

pub mod image;

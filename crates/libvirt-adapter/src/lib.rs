//! The libvirt adapter: lists and samples the VMs of a libvirt that runs already, from outside, and forms their
//! personality with what Proteus itself uses for that. Must never ask libvirt for a change: every connection is
//! read-only, and three commands of `virsh` are all that is ever run.

pub mod argument;

pub mod virsh;

pub mod domstats;

pub mod vm;

pub mod fleet;

pub mod place;

pub mod view;

pub mod metric;

pub mod api;

pub mod watch;

pub mod command;

pub mod bench;

pub mod text;

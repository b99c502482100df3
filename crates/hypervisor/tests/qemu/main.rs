//! The QEMU driver on a real small guest: each knob's effect is looked up in the guest or with the host's own tool,
//! never with the driver alone, and undo brings back exactly what was. Each test has an instance of its own, and
//! ends its processes, namespace, control group and memory files whatever happens.
//!
//! They need QEMU, `ip`, `tc`, `nft`, `taskset`, root, and the folder that `proteus image build small nginx redis
//! postgresql` made (`PROTEUS_TEST_IMAGES`, else `build/images`); so they are `ignored` unless asked for:
//! `cargo test -p proteus-hypervisor --test qemu -- --ignored`.

#![allow(clippy::unwrap_used, reason = "tests: a failed step is a failed test")]

mod channel;

mod guest;

#[path = "../../../../tests/support/images.rs"]
mod images;

#[path = "../../../../tests/support/instance.rs"]
mod instance;

mod knob;

mod life;

#[path = "../../../../tests/support/page.rs"]
mod page;

mod snapshot;

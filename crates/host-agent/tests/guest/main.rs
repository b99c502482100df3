//! Real guests: boots the small guest under software emulation and talks to its agent over the real channel. Each
//! test starts its own QEMU in its own folder and ends it by its process, whatever happens.
//!
//! They need QEMU, the image tools, the host's apt sources and the static agent; so they are `ignored` unless asked
//! for: `cargo test -p proteus-host-agent --test guest -- --ignored`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod agent;

mod full;

mod knob;

mod service;

mod vm;

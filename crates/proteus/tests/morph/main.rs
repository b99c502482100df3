//! The backbone on a real guest: a real `proteus serve`, its command line, nginx under a client that must never
//! lose a request. A morph is planned, committed, rolled back, aborted, disarmed; Proteus is killed in the middle
//! of morphs; an administrator meddles. Must never look at Proteus's word alone where the host can be asked.
//!
//! Needs root, QEMU and the folder of `proteus image build small nginx redis postgresql` (`PROTEUS_TEST_IMAGES`,
//! else `build/images`); so it is `ignored` unless asked for.

#![allow(clippy::unwrap_used, reason = "tests: a failed step is a failed test")]

mod client;

#[path = "../../../../tests/support/images.rs"]
mod images;

#[path = "../../../../tests/support/page.rs"]
mod page;

#[path = "../service/server.rs"]
#[allow(dead_code, reason = "the other test uses the rest")]
mod server;

mod reboot;

mod snapshot;

mod steps;

//! The service without a guest: who may come in and how, what is refused and in which words, events, metrics, TLS,
//! one Proteus per state folder, and an end that leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "tests: a failed step is a failed test")]

mod access;

mod begin;

mod body;

mod dry_run;

mod hint;

mod hung;

mod inside;

#[path = "../../../../tests/support/loader.rs"]
mod loader;

mod prometheus;

mod refusal;

mod memory;

mod overview;

mod removal;

mod rename;

#[path = "../../../../tests/support/images.rs"]
mod images;

#[allow(dead_code, reason = "the morph test uses the rest")]
mod server;

mod uplink;

mod user;

mod whole;

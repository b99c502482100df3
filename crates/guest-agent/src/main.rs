//! `proteus-guest`: the agent inside a VM. It samples the guest, turns the knobs in it, runs its services and, when
//! it is the first process, boots it. One thread, no waiting outside `poll`. It must never trust that a step
//! worked, and never grow with what the host or a service sends.

mod agent;

mod boot;

mod channel;

mod consent;

mod digest;

mod execution;

mod failure;

#[cfg(test)]
mod fuzz;

mod identity;

mod image;

mod outbox;

mod process;

mod procfs;

mod service;

mod state;

mod sys;

mod task;

mod telemetry;

mod verification;

use proteus_protocol::guest::v1::request::GuestKind;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("--version") {
        println!("proteus-guest {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    if std::env::args().nth(1).as_deref() == Some("consent") {
        let words: Vec<String> = std::env::args().skip(2).collect();
        return consent::command::run(&words);
    }
    if std::env::args().nth(1).as_deref() == Some("collect") {
        return telemetry::collector::run();
    }
    let kind = identity::guest_kind();
    if kind == GuestKind::Pid1 {
        boot::run();
    }
    match agent::run(kind) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            boot::console(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

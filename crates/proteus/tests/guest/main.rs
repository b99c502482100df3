//! Real guests behind a real `proteus serve`, by its command line alone: what a VM is made of, and what is left when
//! it is gone. Must never believe Proteus where the guest or the host can be asked.
//!
//! Needs root, QEMU and the folder of `proteus image build small nginx` (`PROTEUS_TEST_IMAGES`, else
//! `build/images`); so it is `ignored` unless asked for.

#![allow(clippy::unwrap_used, reason = "tests: a failed step is a failed test")]

mod disk;

#[path = "../service/server.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod server;

use server::Server;
use std::path::{Path, PathBuf};

/// Folder of guests and images. The test fails without it: a skipped proof is none.
pub fn image_dir() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/images");
    let dir = std::env::var_os("PROTEUS_TEST_IMAGES").map_or_else(default, PathBuf::from);
    let needed = dir.join("small/vmlinuz");
    assert!(needed.is_file(), "{}: run `proteus image build`, set PROTEUS_TEST_IMAGES", needed.display());
    dir.canonicalize().unwrap()
}

/// What a program in the guest prints; it must end well.
pub fn inside(server: &Server, vm: &str, argv: &[&str]) -> String {
    let words: Vec<&str> = ["vm", "exec", vm, "--"].into_iter().chain(argv.iter().copied()).collect();
    server.cli(&words).ok().stdout.trim().to_owned()
}

//! x
#![allow(clippy::unwrap_used, reason = "tests: a failed step is a failed test")]
fn main() {}

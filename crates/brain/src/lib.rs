//! The brain is pure: given a snapshot it returns a decision and why. Never a clock, a file, randomness, a socket.

pub mod random;

pub mod tree;

pub mod telemetry;

pub mod personality;

pub mod forecast;

pub mod plan;

pub mod verification;

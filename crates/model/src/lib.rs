//! The nouns of Proteus: ids, units, settings, profiles, plans, allocations. Never I/O, a clock or randomness.

pub mod id;

pub mod unit;

pub mod seed;

pub mod vm;

pub mod setting;

pub mod policy;

pub mod uplink;

pub mod capability;

pub mod snapshot;

pub mod telemetry;

pub mod personality;

pub mod plan;

pub mod verification;

pub mod execution;

pub mod profile;

pub mod allocation;

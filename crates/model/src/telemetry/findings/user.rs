//! What people do in a guest, as far as they consent to its being told: sessions by hour, with noise. Must never hold
//! who somebody is.

use crate::unit::UnixMillis;
use serde::{Deserialize, Serialize};

/// What the people of a guest decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consent {
    /// It may be told.
    Given,
    /// It may not, or no more: whatever was told before must be erased.
    #[default]
    Withdrawn,
}

/// The sessions of one week, released once. Each session adds one to one hour; two-sided geometric noise with ε = 1 is
/// added to each hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionsReleased {
    /// Its number under this consent, from 1.
    pub number: u32,
    /// From when.
    pub from: UnixMillis,
    /// Until when.
    pub until: UnixMillis,
    /// Sessions that began in each hour of the day, UTC, with noise.
    pub by_hour: [u64; 24],
    /// Sessions in all: the sum of the hours before what was below zero became zero.
    pub sessions: u64,
}

/// What people do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsersObserved {
    /// What they decided. Withdrawn: nothing else is told.
    pub consent: Consent,
    /// When they consented.
    pub given_at: Option<UnixMillis>,
    /// Releases so far, each of which spent ε = 1.
    pub budget_spent: u32,
    /// Releases under one consent at most.
    pub budget: u32,
    /// Those releases, oldest first.
    pub releases: Vec<SessionsReleased>,
}

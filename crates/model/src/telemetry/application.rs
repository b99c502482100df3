//! What the programs of a guest do, by the guest's own word. Must never hold more of them than are shown.

use crate::unit::{Bytes, Millis, UnixMillis};
use serde::{Deserialize, Serialize};

/// Most programs that are told apart in a VM: those that used least lately are left out.
pub const APPLICATIONS_MAX: usize = 32;

/// All processes of one name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Application {
    /// The kernel's name of its processes, 15 bytes at most.
    pub name: String,
    /// Its share of all CPU time that was seen used in about the last minute, 0–1.
    pub cpu_share: f32,
    /// CPU time that it was seen to use. Processes that lived between two looks are not in it.
    pub cpu: Millis,
    /// How many of its processes began while it was watched, and were seen.
    pub starts: u64,
    /// Its processes at the last look.
    pub processes: u32,
    /// The most memory that its processes had together, as resident pages.
    pub resident_max: Bytes,
    /// What it was seen to read from storage; `None`: nobody told.
    #[serde(default)]
    pub read: Option<Bytes>,
    /// What it was seen to write that goes to storage.
    #[serde(default)]
    pub written: Option<Bytes>,
    /// What it reads from storage each second, over about the last minute; `None`: it is not told now.
    #[serde(default)]
    pub read_per_second: Option<f32>,
    /// What it writes each second that goes to storage, alike.
    #[serde(default)]
    pub written_per_second: Option<f32>,
    /// How many of its processes were listed and are no more: they ended, or others used more.
    #[serde(default)]
    pub lives: u64,
    /// How long these had lived when they were last listed, all together.
    #[serde(default)]
    pub lived: Millis,
    /// The longest life of one, also of one that lives; `None`: the guest does not tell how long it runs.
    #[serde(default)]
    pub longest: Option<Millis>,
    /// When it was first seen.
    pub first_at: UnixMillis,
    /// When it was last seen.
    pub last_at: UnixMillis,
}

/// Fewest time over which starts have a rate, ms: ten minutes.
const RATE_OVER_MS: u64 = 600_000;
const HOUR_MS: f64 = 3_600_000.0;

impl Application {
    /// Starts in an hour, over all the time from when it was first seen to `at`; `None`: that is too short to tell.
    pub fn starts_per_hour(&self, at: UnixMillis) -> Option<f32> {
        let over = at.0.checked_sub(self.first_at.0).filter(|ms| *ms >= RATE_OVER_MS)?;
        Some((self.starts as f64 * HOUR_MS / over as f64) as f32)
    }

    /// How long one of those lived that are no more listed, in the mean; `None`: there were none.
    pub fn life_mean(&self) -> Option<Millis> {
        self.lived.0.checked_div(self.lives).map(Millis)
    }
}

//! What a VM is observed to be. Never what it is asked to be: that is a profile.

mod label;

mod portrait;

mod traits;

pub use label::{
    Candidate, ChangeKind, Evidence, Judgement, LABEL_CHARS_MAX, Label, LabelError, Labelled,
    PersonalityChange, Prototype, UNKNOWN,
};
pub use portrait::{Part, Performance, Traffic, TraitSeen};
pub use traits::{TRAITS, Trait, TraitVector};

use serde::{Deserialize, Serialize};
use std::fmt;

/// What is watched of every VM from outside, with no agent in it, in the order of [`Usage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// CPU time used, in thousandths of a core.
    Cpu,
    /// Memory in use, in MiB.
    Memory,
    /// Read from disks, in KiB/s.
    DiskRead,
    /// Written to disks, in KiB/s.
    DiskWrite,
    /// Received by its links, in KiB/s.
    Received,
    /// Sent by its links, in KiB/s.
    Sent,
}

impl Dimension {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Cpu, Self::Memory, Self::DiskRead, Self::DiskWrite, Self::Received, Self::Sent];

    /// What it is measured in.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Cpu => "m",
            Self::Memory => "MiB",
            Self::DiskRead | Self::DiskWrite | Self::Received | Self::Sent => "KiB/s",
        }
    }
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::DiskRead => "disk read",
            Self::DiskWrite => "disk write",
            Self::Received => "received",
            Self::Sent => "sent",
        })
    }
}

/// What a VM used over one sampling interval, one value for each [`Dimension`], each in the dimension's unit and not
/// negative. `None` was not measured; it is never zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage(pub [Option<f32>; 6]);

/// That a VM became something else: what it does now is not what it did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shift {
    /// Log-odds that these are another VM's samples; the threshold it had to reach is the detector's.
    pub score: f32,
    /// What speaks for it, the strongest first.
    pub evidence: Vec<Departure>,
}

/// How far one dimension went from what was usual.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Departure {
    /// Which.
    pub dimension: Dimension,
    /// Mean of the last one, three or six samples, whichever departs most, in the dimension's unit.
    pub now: f32,
    /// Median of before.
    pub usual: f32,
    /// First and 99th percentile of before.
    pub range: (f32, f32),
    /// Distance from the median, in robust standard deviations of the logarithm.
    pub deviations: f32,
}

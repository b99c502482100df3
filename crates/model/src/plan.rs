//! A plan: ordered, immutable, explained steps from a VM as it is to what it is asked to be. Names the state that
//! it was computed from. Must leave execution nothing to choose.

use crate::id::{Generation, SnapshotName, VmId, VmName};
use crate::profile::promise::{Cost, Risk, Verify};
use crate::setting::{Knob, Setting};
use crate::unit::{Bytes, Millis};
use serde::{Deserialize, Serialize};

/// Where a plan leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "to")]
pub enum Goal {
    /// A profile.
    Profile {
        /// `name@version`.
        label: String,
        /// SHA-256 of its canonical text, in hex.
        digest: String,
    },
    /// An earlier version of the VM.
    Version {
        /// Which.
        number: u64,
        /// The profile that the VM had then.
        #[serde(default)]
        profile: Option<String>,
    },
    /// The same guest under a new VMM process.
    FreshVmm,
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Profile { label, .. } => f.write_str(label),
            Self::Version { number, .. } => write!(f, "version {number}"),
            Self::FreshVmm => f.write_str("a fresh VMM"),
        }
    }
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum Change {
    /// Turns a knob.
    Set {
        /// As it was when the plan was made.
        from: Setting,
        /// As it shall be.
        to: Setting,
    },
    /// Puts a new VMM process under the running guest.
    ReplaceVmm,
    /// Saves disks and RAM, so that an owner can go back to them by hand.
    Snapshot {
        /// What it will be called.
        name: SnapshotName,
        /// Disk that it takes at most, beside what is written to the disks later.
        disk_max: Bytes,
    },
}

/// How a step is undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "undo")]
pub enum Undo {
    /// The knob is turned back to what it was when the morph began.
    TurnBack,
    /// There is nothing to undo: the guest cannot tell the difference.
    Nothing {
        /// Why there is not. (Not `why`: a step carries its undo's fields beside its own.)
        because: String,
    },
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What it does.
    #[serde(flatten)]
    pub change: Change,
    /// Why: the field of the profile, and what it is good for.
    pub why: String,
    /// How likely it does harm.
    pub risk: Risk,
    /// By which mechanism.
    pub mechanism: String,
    /// Longest pause of the guest to be expected.
    pub blackout_ms_max: Millis,
    /// How it is undone.
    #[serde(flatten)]
    pub undo: Undo,
}

/// Something that a profile asks for and that is not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsupported {
    /// Field of the profile.
    pub field: String,
    /// Why it is not supported here, and what would bring it.
    pub why: String,
}

/// The plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Of which VM.
    pub vm: VmId,
    /// Its name when the plan was made.
    pub vm_name: VmName,
    /// Where it leads.
    pub goal: Goal,
    /// The VM's version that it was computed from.
    pub base_version: u64,
    /// The VM's generation that it was computed at.
    pub base_generation: Generation,
    /// In this order.
    pub steps: Vec<Step>,
    /// What is already as asked.
    pub already: Vec<Setting>,
    /// What is asked and not done.
    pub unsupported: Vec<Unsupported>,
    /// What the reader should know.
    pub notes: Vec<String>,
    /// How the outcome is judged.
    pub verify: Option<Verify>,
    /// What the profile says it costs.
    pub cost: Option<Cost>,
}

impl Plan {
    /// Knobs that it turns.
    pub fn knobs(&self) -> impl Iterator<Item = Knob> + '_ {
        self.steps.iter().filter_map(|step| match &step.change {
            Change::Set { to, .. } => Some(to.knob()),
            Change::ReplaceVmm | Change::Snapshot { .. } => None,
        })
    }

    /// Longest pause of the guest, all steps together.
    pub fn blackout_ms_max(&self) -> Millis {
        Millis(self.steps.iter().map(|step| step.blackout_ms_max.0).sum())
    }
}

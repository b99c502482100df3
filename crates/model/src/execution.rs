//! A morph: the execution of a plan, as an exhaustive state machine and the record that is journaled at each move.
//!
//! ```text
//! planned ─ validated ─ reserved ─ applying(i) ─ verifying ─ committing ─ committed
//!    │          │           │           │            │           │
//!    └──────────┴───────────┴───────────┴────────────┴───────────┴─▶ undoing(i) ─ rolled back
//!                                                                        │
//!                                                                        └─▶ parked
//! ```
//!
//! Terminal: committed, rolled back, parked. Must never hold a clock: moments are the caller's.

use crate::id::{Generation, MorphId};
use crate::plan::{Goal, Plan};
use crate::setting::{Knob, Setting};
use crate::unit::{Millis, UnixMillis};
use crate::verification::VerificationReport;
use crate::vm::BootObserved;
use serde::{Deserialize, Serialize};

/// Where a morph is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum State {
    /// Recorded; nothing else.
    Planned,
    /// The plan fits the VM as it is, and its before-values are journaled.
    Validated,
    /// The allocation table holds what it needs.
    Reserved,
    /// Step `step` was begun; those before it are done.
    Applying {
        /// Index into the plan's steps.
        step: usize,
    },
    /// All steps are done and their effect is watched.
    Verifying,
    /// Verified; the VM's record is being brought up to date.
    Committing,
    /// Step `step` is being undone; those after it are undone.
    Undoing {
        /// Index into the plan's steps.
        step: usize,
    },
    /// All steps are undone; reservations are being given back.
    Releasing,
    /// Over: the VM is as the plan says.
    Committed,
    /// Over: the VM is as it was.
    RolledBack,
    /// Over: an operator must look.
    Parked,
}

/// What moves a morph on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// The plan fits.
    Validated,
    /// The table holds it.
    Reserved,
    /// Step `step` begins.
    StepBegun {
        /// Index into the plan's steps.
        step: usize,
    },
    /// The last step is done.
    StepsDone,
    /// The effect is as it should be.
    Verified,
    /// The VM's record is up to date.
    Recorded,
    /// It shall not be: undo from `last`, the last step that was begun (`None`: none was).
    GiveUp {
        /// Index into the plan's steps.
        last: Option<usize>,
    },
    /// Step `step` is undone.
    StepUndone {
        /// Index into the plan's steps.
        step: usize,
    },
    /// Reservations are given back.
    Released,
    /// It can neither go on nor back.
    Park,
}

/// A move that the machine does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a morph that is {state:?} cannot take {event:?}")]
pub struct IllegalEvent {
    /// Where it is.
    pub state: State,
    /// What was to happen.
    pub event: Event,
}

impl State {
    /// Whether it is over.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Committed | Self::RolledBack | Self::Parked => true,
            Self::Planned
            | Self::Validated
            | Self::Reserved
            | Self::Applying { .. }
            | Self::Verifying
            | Self::Committing
            | Self::Undoing { .. }
            | Self::Releasing => false,
        }
    }

    /// The state after `event`. Total: every pair is listed or refused.
    pub fn next(self, event: Event) -> Result<Self, IllegalEvent> {
        use {Event as E, State as S};
        let undo_from = |last: Option<usize>| last.map_or(S::Releasing, |step| S::Undoing { step });
        let next = match (self, event) {
            (S::Planned, E::Validated) => S::Validated,
            (S::Validated, E::Reserved) => S::Reserved,
            (S::Reserved, E::StepBegun { step: 0 }) => S::Applying { step: 0 },
            (S::Applying { step }, E::StepBegun { step: begun }) if begun == step + 1 => {
                S::Applying { step: begun }
            }
            // A plan without steps has nothing to apply.
            (S::Reserved | S::Applying { .. }, E::StepsDone) => S::Verifying,
            (S::Verifying, E::Verified) => S::Committing,
            (S::Committing, E::Recorded) => S::Committed,
            (S::Planned | S::Validated | S::Reserved, E::GiveUp { last: None }) => S::Releasing,
            (S::Applying { step }, E::GiveUp { last: Some(last) }) if last == step => undo_from(Some(last)),
            (S::Verifying | S::Committing, E::GiveUp { last }) => undo_from(last),
            (S::Undoing { step }, E::StepUndone { step: undone }) if undone == step => {
                undo_from(step.checked_sub(1))
            }
            (S::Releasing, E::Released) => S::RolledBack,
            (S::Undoing { .. } | S::Releasing | S::Applying { .. } | S::Verifying, E::Park) => S::Parked,
            (
                S::Planned
                | S::Validated
                | S::Reserved
                | S::Applying { .. }
                | S::Verifying
                | S::Committing
                | S::Undoing { .. }
                | S::Releasing
                | S::Committed
                | S::RolledBack
                | S::Parked,
                E::Validated
                | E::Reserved
                | E::StepBegun { .. }
                | E::StepsDone
                | E::Verified
                | E::Recorded
                | E::GiveUp { .. }
                | E::StepUndone { .. }
                | E::Released
                | E::Park,
            ) => return Err(IllegalEvent { state: self, event }),
        };
        Ok(next)
    }

    /// One word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Validated => "validated",
            Self::Reserved => "reserved",
            Self::Applying { .. } => "applying",
            Self::Verifying => "verifying",
            Self::Committing => "committing",
            Self::Undoing { .. } => "undoing",
            Self::Releasing => "releasing",
            Self::Committed => "committed",
            Self::RolledBack => "rolled_back",
            Self::Parked => "parked",
        }
    }
}

/// What a step cost, as it was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepObserved {
    /// Index into the plan's steps.
    pub step: usize,
    /// Time that the hypervisor or agent took.
    pub took_ms: Millis,
    /// Time that the guest stood still.
    pub blackout_ms: Millis,
}

/// A knob that somebody else changed, and that was left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftAlone {
    /// Which.
    pub knob: Knob,
    /// What Proteus had made of it.
    pub ours: Setting,
    /// What it is now.
    pub found: Setting,
}

/// The record of a morph, journaled whole at each move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Morph {
    /// Which.
    pub id: MorphId,
    /// What it executes.
    pub plan: Plan,
    /// Where it is.
    #[serde(flatten)]
    pub state: State,
    /// Its fencing token.
    pub generation: Generation,
    /// Who asked for it.
    pub actor: String,
    /// When it began.
    pub began_at: UnixMillis,
    /// When it was over.
    pub ended_at: Option<UnixMillis>,
    /// The boot of the guest in which those were read.
    #[serde(default)]
    pub boot: BootObserved,
    /// The value of each knob before the first step.
    pub before: Vec<Setting>,
    /// How the VM fared before the first step.
    pub baseline: Option<crate::verification::Baseline>,
    /// What each step cost.
    pub steps: Vec<StepObserved>,
    /// What verification found.
    pub verification: Option<VerificationReport>,
    /// Knobs of others.
    pub left_alone: Vec<LeftAlone>,
    /// Why it was given up or parked.
    pub reason: Option<String>,
    /// Time from giving up to the last step undone.
    pub undo_ms: Option<Millis>,
}

/// A VM as it was after a morph (version 0: as created). `morph rollback` leads back to one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Rises by one with each committed morph.
    pub number: u64,
    /// What led here.
    pub goal: Option<Goal>,
    /// The morph that led here.
    pub morph: Option<MorphId>,
    /// When.
    pub at: UnixMillis,
    /// The profile that the VM had then, as `name@version`.
    #[serde(default)]
    pub profile: Option<String>,
    /// The value of every knob that Proteus manages on this VM.
    pub settings: Vec<Setting>,
}

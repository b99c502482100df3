//! What is said where a VM is not as an act needs it. Must never name a command that would be refused as well.

use super::VmRecord;
use crate::control::{Control, ControlError};
use proteus_model::vm::PowerState;
use proteus_protocol::node::v1::{NodeError, NodeErrorCode};

/// The refusal of what needs a VM that runs, because of `need`.
pub(crate) fn not_running(record: &VmRecord, power: PowerState, need: &str) -> ControlError {
    let name = &record.intent.name;
    let (what, hint) = match power {
        _ if record.template.is_some() => (
            format!("{name} is a template and never runs again"),
            format!("`proteus vm clone {name} NAME` starts a VM from it"),
        ),
        PowerState::Hung => {
            (format!("{name} hangs: its VMM does not answer"), format!("`proteus vm stop {name}` ends it"))
        }
        PowerState::Paused => (
            format!("{name} stands still"),
            format!("`proteus vm show {name}` says why; then `proteus vm start {name}` lets it go on"),
        ),
        PowerState::Stopped | PowerState::Running | PowerState::Unknown => {
            let first = match record.morph {
                Some(morph) => format!("once the morph {morph}, which holds it, has ended, "),
                None => String::new(),
            };
            (format!("{name} does not run"), format!("{first}`proteus vm start {name}` first: {need}"))
        }
    };
    ControlError::Conflict { what, hint }
}

impl ControlError {
    /// The same with the name of the VM that it is about: a node knows VMs by their ids only.
    pub(crate) fn named(self, record: &VmRecord) -> Self {
        match self {
            Self::Node(error) => {
                let message = error.message.replace(&record.id.to_string(), record.intent.name.as_str());
                Self::Node(NodeError { message, ..error })
            }
            other => other,
        }
    }
}

impl Control {
    /// Refuses a VM that does not run, as `need` takes.
    pub(crate) async fn check_runs(&self, record: &VmRecord, need: &str) -> Result<(), ControlError> {
        match self.told_power(record.id).await? {
            PowerState::Running => Ok(()),
            other => Err(not_running(record, other, need)),
        }
    }

    /// Refuses a VM that hangs: nothing of it can be changed but to end it.
    pub(crate) async fn check_answers(&self, record: &VmRecord) -> Result<(), ControlError> {
        match self.told_power(record.id).await? {
            PowerState::Hung => Err(not_running(record, PowerState::Hung, "")),
            _ => Ok(()),
        }
    }

    /// What the node said of a VM. A VM that has ended or hangs cannot do what it is asked, whatever of it failed
    /// first.
    pub(crate) async fn on_node<T>(
        &self,
        record: &VmRecord,
        outcome: Result<T, NodeError>,
    ) -> Result<T, ControlError> {
        let error = match outcome {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let power = match error.code {
            NodeErrorCode::NotRunning
            | NodeErrorCode::Conflict
            | NodeErrorCode::Stalled
            | NodeErrorCode::Guest
            | NodeErrorCode::Failed => self.told_power(record.id).await.ok(),
            NodeErrorCode::NotFound
            | NodeErrorCode::FileInUse
            | NodeErrorCode::StaleGeneration
            | NodeErrorCode::Unsupported
            | NodeErrorCode::File
            | NodeErrorCode::OutOfRange => None,
        };
        match power {
            Some(power @ (PowerState::Stopped | PowerState::Hung)) => {
                Err(not_running(record, power, "it has to run for this"))
            }
            Some(PowerState::Running | PowerState::Paused | PowerState::Unknown) | None => {
                Err(ControlError::Node(error).named(record))
            }
        }
    }
}

//! A snapshot: the disks and the RAM of a VM at one moment, kept so that an owner can go back to it. Must never be
//! restored by Proteus itself: that would lose what clients were told is done.

use crate::id::{MorphId, SnapshotName};
use crate::unit::{Bytes, UnixMillis};
use serde::{Deserialize, Serialize};

/// A snapshot as the driver knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name, unique in the VM.
    pub name: SnapshotName,
    /// When it was taken.
    pub at: UnixMillis,
    /// What the RAM and the devices' state take on disk.
    pub ram: Bytes,
}

/// What the record of a VM said when a snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotOrigin {
    /// Which snapshot.
    pub name: SnapshotName,
    /// The VM's version then.
    pub version: u64,
    /// Its profile then, as `name@version`.
    pub profile: Option<String>,
    /// Who asked for it.
    pub actor: String,
    /// The morph whose first step it was; none: by hand.
    pub morph: Option<MorphId>,
}

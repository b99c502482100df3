//! How the configuration of a guest changes, whoever changes it. Must never hold the content of a file.

use crate::unit::UnixMillis;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A part of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigurationAspect {
    /// Installed packages: name → version.
    Packages,
    /// Units of systemd: name → enabled, active.
    Units,
    /// Kernel parameters: name → value.
    Sysctl,
    /// Mounts: point → source, type, options.
    Mounts,
    /// Files below `/etc`: path → a digest with a key that stays in the guest.
    Files,
    /// Disks, links, CPUs, memory.
    Devices,
    /// The kernel: release, version.
    Kernel,
    /// Images that the agent mounted.
    Images,
}

impl ConfigurationAspect {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Packages,
        Self::Units,
        Self::Sysctl,
        Self::Mounts,
        Self::Files,
        Self::Devices,
        Self::Kernel,
        Self::Images,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Packages => "packages",
            Self::Units => "units",
            Self::Sysctl => "sysctl",
            Self::Mounts => "mounts",
            Self::Files => "files",
            Self::Devices => "devices",
            Self::Kernel => "kernel",
            Self::Images => "images",
        }
    }
}

impl fmt::Display for ConfigurationAspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How an aspect fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AspectObserved {
    /// Which.
    pub aspect: ConfigurationAspect,
    /// Entries that are known of it.
    pub entries: u32,
    /// Why it is not known, or not whole.
    pub missing: Option<String>,
}

/// Who made a change, where that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeAuthor {
    /// Proteus, through the agent.
    Proteus,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationChange {
    /// Its number in the history.
    pub sequence: u64,
    /// When it was seen.
    pub at: UnixMillis,
    /// When it was not yet there: the look before.
    pub after: UnixMillis,
    /// Of what.
    pub aspect: ConfigurationAspect,
    /// Which entry.
    pub name: String,
    /// What it was; `None`: it was not there.
    pub from: Option<String>,
    /// What it is; `None`: it is no more.
    pub to: Option<String>,
    /// Who made it; `None`: not known.
    pub by: Option<ChangeAuthor>,
}

/// The history of a guest's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationObserved {
    /// Drawn when the history began: sequence numbers of another one begin anew.
    pub history: String,
    /// When it began.
    pub began_at: UnixMillis,
    /// Whether it outlives the agent: there is a disk for it.
    pub kept: bool,
    /// The last change's number; 0: none was seen.
    pub sequence: u64,
    /// Changes that are told no more: too many came after.
    pub lost: u64,
    /// How each aspect fares.
    pub aspects: Vec<AspectObserved>,
    /// The latest changes, oldest first.
    pub changes: Vec<ConfigurationChange>,
}

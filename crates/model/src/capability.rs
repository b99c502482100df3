//! What can be done to a VM live: the report that a driver makes by asking or measuring, never by assuming.

use crate::setting::KnobKind;
use crate::unit::Millis;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Something that can be done to a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "knob")]
pub enum Ability {
    /// Turn a knob of this kind.
    Knob(KnobKind),
    /// Save disks and RAM together, and go back to them on request.
    Snapshot,
    /// Divide disk operations between VMs by weight.
    StorageWeight,
    /// Reclaim memory of VMs in the order of their weights.
    MemoryWeight,
    /// Divide a line between VMs' links by weight.
    NetworkWeight,
    /// Put a new VMM process under the running guest.
    ReplaceVmm,
}

impl Ability {
    /// As a key of a report and a word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Knob(kind) => match kind {
                KnobKind::CpuCap => "cpu_cap",
                KnobKind::CpuWeight => "cpu_weight",
                KnobKind::Vcpus => "vcpus",
                KnobKind::Memory => "memory",
                KnobKind::HotMemory => "hot_memory",
                KnobKind::DiskLimit => "disk_limit",
                KnobKind::NicRate => "nic_rate",
                KnobKind::NetworkPolicy => "network_policy",
                KnobKind::Image => "image",
                KnobKind::Sysctl => "sysctl",
                KnobKind::Thp => "thp",
                KnobKind::IoScheduler => "io_scheduler",
                KnobKind::Priority => "priority",
                KnobKind::AppPolicy => "app_policy",
            },
            Self::Snapshot => "snapshot",
            Self::StorageWeight => "storage_weight",
            Self::MemoryWeight => "memory_weight",
            Self::NetworkWeight => "network_weight",
            Self::ReplaceVmm => "replace_vmm",
        }
    }
}

/// Whether and how an ability is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Capability {
    /// It is.
    Supported {
        /// By which mechanism, in the field's words: `virtio-balloon`, `cgroup v1 cpu.cfs_quota_us`.
        mechanism: String,
        /// Longest pause of the guest to be expected; zero: none.
        blackout_ms_max: Millis,
    },
    /// It is not.
    Unsupported {
        /// Why, and what would bring it.
        why: String,
    },
}

/// What this hypervisor and this VM can do live.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilityReport {
    /// The driver that reports.
    pub driver: String,
    /// What runs the guest's instructions: `kvm`, `tcg`, `sim`.
    pub accelerator: String,
    /// By [`Ability::word`]. What is not there was not asked: unsupported.
    pub abilities: BTreeMap<String, Capability>,
    /// Upper ends of what the VM was built for.
    pub limits: CapabilityLimits,
}

/// Upper ends that only a restart of the VM could move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilityLimits {
    /// vCPUs that can be plugged in all.
    pub vcpus_max: u32,
    /// Memory that the VM booted with: what a balloon works inside.
    pub memory_boot: crate::unit::Bytes,
    /// Memory that can be plugged in beyond it.
    pub hot_memory_max: crate::unit::Bytes,
}

impl CapabilityReport {
    /// Notes that `ability` is there.
    pub fn supports(&mut self, ability: Ability, mechanism: impl Into<String>, blackout_ms_max: Millis) {
        let capability = Capability::Supported { mechanism: mechanism.into(), blackout_ms_max };
        self.abilities.insert(ability.word().to_owned(), capability);
    }

    /// Notes that `ability` is not there.
    pub fn lacks(&mut self, ability: Ability, why: impl Into<String>) {
        self.abilities.insert(ability.word().to_owned(), Capability::Unsupported { why: why.into() });
    }

    /// The mechanism and blackout of `ability`, or why it is not there.
    pub fn look_up(&self, ability: Ability) -> Result<(&str, Millis), &str> {
        match self.abilities.get(ability.word()) {
            Some(Capability::Supported { mechanism, blackout_ms_max }) => Ok((mechanism, *blackout_ms_max)),
            Some(Capability::Unsupported { why }) => Err(why),
            None => Err("the driver does not report this ability"),
        }
    }
}

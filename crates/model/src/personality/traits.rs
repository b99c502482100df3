//! The trait vector: what a VM's work looks like, in named numbers that do not depend on how much of it there is. Must
//! never hold a number that was not measured.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One dimension of a [`TraitVector`]. The names are part of the API and of taught labels, so none is ever changed.
/// Those down to [`Trait::Flushes`] are from the host's own books alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trait {
    /// CPU time of the vCPUs as a share of what they could have, 0–1.
    CpuUse,
    /// How much the CPU time swings: (95th percentile − median) / mean of it.
    CpuSwing,
    /// CPU time of the VMM beside its vCPUs, as a share of both: what is spent on devices.
    Overhead,
    /// ln(1 + packets/s), both ways.
    Packets,
    /// ln(packets per second of CPU).
    PacketsPerCpu,
    /// Bytes sent as a share of all bytes on its links, 0–1.
    SentShare,
    /// ln(bytes of a packet received).
    PacketInSize,
    /// ln(bytes of a packet sent).
    PacketOutSize,
    /// ln(packets sent / packets received).
    Answers,
    /// ln(1 + KiB/s read from disks).
    DiskReads,
    /// ln(1 + KiB/s written to disks).
    DiskWrites,
    /// ln(KiB of a read operation).
    ReadSize,
    /// ln(KiB of a write operation).
    WriteSize,
    /// Flushes as a share of writes and flushes, 0–1.
    Flushes,
    /// ln(context switches per second of CPU), by the guest's word.
    Switches,
    /// ln(1 + tasks made per second of CPU), by the guest's word.
    Forks,
    /// Time in which a task waited for a CPU, 0–1, by the guest's word.
    WaitCpu,
    /// Time in which a task waited for a disk, 0–1, by the guest's word.
    WaitIo,
    /// Time in which a task waited for memory, 0–1, by the guest's word.
    WaitMemory,
}

/// How many traits there are.
pub const TRAITS: usize = Trait::ALL.len();

impl Trait {
    /// All of them, in the order of a [`TraitVector`].
    pub const ALL: [Self; 19] = [
        Self::CpuUse,
        Self::CpuSwing,
        Self::Overhead,
        Self::Packets,
        Self::PacketsPerCpu,
        Self::SentShare,
        Self::PacketInSize,
        Self::PacketOutSize,
        Self::Answers,
        Self::DiskReads,
        Self::DiskWrites,
        Self::ReadSize,
        Self::WriteSize,
        Self::Flushes,
        Self::Switches,
        Self::Forks,
        Self::WaitCpu,
        Self::WaitIo,
        Self::WaitMemory,
    ];

    /// Its name, as in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::CpuUse => "cpu_use",
            Self::CpuSwing => "cpu_swing",
            Self::Overhead => "overhead",
            Self::Packets => "packets",
            Self::PacketsPerCpu => "packets_per_cpu",
            Self::SentShare => "sent_share",
            Self::PacketInSize => "packet_in_size",
            Self::PacketOutSize => "packet_out_size",
            Self::Answers => "answers",
            Self::DiskReads => "disk_reads",
            Self::DiskWrites => "disk_writes",
            Self::ReadSize => "read_size",
            Self::WriteSize => "write_size",
            Self::Flushes => "flushes",
            Self::Switches => "switches",
            Self::Forks => "forks",
            Self::WaitCpu => "wait_cpu",
            Self::WaitIo => "wait_io",
            Self::WaitMemory => "wait_memory",
        }
    }

    /// What it is, for people.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::CpuUse => "share of its vCPUs in use",
            Self::CpuSwing => "how much its CPU use swings",
            Self::Overhead => "share of CPU time spent on devices",
            Self::Packets => "packets a second",
            Self::PacketsPerCpu => "packets a second of CPU",
            Self::SentShare => "share of traffic that it sends",
            Self::PacketInSize => "bytes of a packet received",
            Self::PacketOutSize => "bytes of a packet sent",
            Self::Answers => "packets sent for one received",
            Self::DiskReads => "KiB/s read",
            Self::DiskWrites => "KiB/s written",
            Self::ReadSize => "KiB of a read",
            Self::WriteSize => "KiB of a write",
            Self::Flushes => "flushes among its writes",
            Self::Switches => "context switches a second of CPU",
            Self::Forks => "tasks made a second of CPU",
            Self::WaitCpu => "share of time waiting for a CPU",
            Self::WaitIo => "share of time waiting for a disk",
            Self::WaitMemory => "share of time waiting for memory",
        }
    }

    /// Whether the guest's word is all there is for it.
    pub fn is_of_guest(self) -> bool {
        self > Self::Flushes
    }

    /// The least distance that means something, on the trait's own scale: what is nearer is the same.
    pub fn grain(self) -> f32 {
        match self {
            // Shares.
            Self::CpuUse | Self::SentShare | Self::Flushes => 0.1,
            Self::Overhead | Self::WaitCpu | Self::WaitIo | Self::WaitMemory => 0.05,
            Self::CpuSwing => 0.5,
            // Logarithms: twice as much, or half of it.
            Self::Packets | Self::DiskReads | Self::DiskWrites => 1.0,
            _ => 0.5,
        }
    }

    /// Its value in the unit of [`Trait::meaning`].
    pub fn natural(self, value: f32) -> f32 {
        match self {
            Self::Packets | Self::DiskReads | Self::DiskWrites | Self::Forks => value.exp_m1(),
            Self::PacketsPerCpu
            | Self::PacketInSize
            | Self::PacketOutSize
            | Self::Answers
            | Self::ReadSize
            | Self::WriteSize
            | Self::Switches => value.exp(),
            _ => value,
        }
    }

    /// The trait of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|this| this.name() == name)
    }
}

impl fmt::Display for Trait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One value for each [`Trait`], on the trait's own scale; `None` was not measured, or has no meaning (the size of
/// packets where there are none). Written down as what is known, by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<(Trait, f32)>", into = "Vec<(Trait, f32)>")]
pub struct TraitVector(pub [Option<f32>; TRAITS]);

impl From<Vec<(Trait, f32)>> for TraitVector {
    fn from(known: Vec<(Trait, f32)>) -> Self {
        let mut vector = Self::default();
        known.into_iter().for_each(|(this, value)| vector.set(this, Some(value)));
        vector
    }
}

impl From<TraitVector> for Vec<(Trait, f32)> {
    fn from(vector: TraitVector) -> Self {
        vector.known().collect()
    }
}

impl TraitVector {
    /// A value.
    pub fn get(&self, this: Trait) -> Option<f32> {
        self.0[this as usize]
    }

    /// Sets a value; what is no number is "not measured".
    pub fn set(&mut self, this: Trait, value: Option<f32>) {
        self.0[this as usize] = value.filter(|value| value.is_finite());
    }

    /// The same without what the guest says.
    #[must_use]
    pub fn of_host(mut self) -> Self {
        for this in Trait::ALL.into_iter().filter(|this| this.is_of_guest()) {
            self.set(this, None);
        }
        self
    }

    /// Those that are known.
    pub fn known(&self) -> impl Iterator<Item = (Trait, f32)> + '_ {
        Trait::ALL.into_iter().filter_map(|this| Some((this, self.get(this)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_columns_and_sources_agree() {
        for (column, this) in Trait::ALL.into_iter().enumerate() {
            assert_eq!(this as usize, column);
            assert_eq!(Trait::named(this.name()), Some(this));
            assert_eq!(serde_json::to_value(this).unwrap(), this.name());
            assert!(this.grain() > 0.0);
        }
        let mut vector = TraitVector([Some(1.0); TRAITS]);
        vector.set(Trait::CpuUse, Some(f32::NAN));
        assert_eq!(vector.of_host().known().count(), 13);
        let text = serde_json::to_string(&vector.of_host()).unwrap();
        assert!(text.starts_with(r#"[["cpu_swing",1.0],"#), "{text}");
        assert_eq!(serde_json::from_str::<TraitVector>(&text).unwrap(), vector.of_host());
    }
}

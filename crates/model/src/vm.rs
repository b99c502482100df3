//! A virtual machine: what its owner asked for, and how it is seen to be. Must never hold a live handle.

use crate::id::{DiskName, ImageName, ServiceName, VmId, VmName};
use crate::seed::{SEED_DISK, SeedIntent};
use crate::telemetry::{CollectIntent, DiskLatencies};
use crate::unit::{Bytes, Millis, UnixMillis};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// How a VM starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "from")]
pub enum Boot {
    /// This kernel and initramfs, with these words added to the command line.
    Kernel {
        /// Linux kernel image.
        kernel: PathBuf,
        /// Its initramfs.
        initrd: PathBuf,
        /// Words added to the kernel command line.
        append: String,
    },
    /// The boot loader on the first disk.
    Firmware,
}

/// Format of a disk's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskFormat {
    /// QEMU's copy-on-write format.
    Qcow2,
    /// Bytes as they are.
    Raw,
}

/// A disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskIntent {
    /// Its name, also its serial number in the guest.
    pub name: DiskName,
    /// Its file.
    pub path: PathBuf,
    /// The file's format.
    pub format: DiskFormat,
    /// Whether the guest may not write.
    #[serde(default)]
    pub read_only: bool,
    /// Whether the VM writes into a disk of its own over this file, which stays as it is.
    #[serde(default)]
    pub overlay: bool,
}

/// A file of the host that a VM is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedFile<'a> {
    /// The field of the intent that names it.
    pub field: &'static str,
    /// Where it is.
    pub path: &'a Path,
    /// The disk that it is, if it is one.
    pub disk: Option<&'a DiskIntent>,
}

/// A read-only image of software given to a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageIntent {
    /// Its name, also its serial number in the guest.
    pub name: ImageName,
    /// Its file.
    pub path: PathBuf,
    /// SHA-256 of the file, in hex.
    pub digest: String,
}

/// What the owner of a VM asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmIntent {
    /// Name for people.
    pub name: VmName,
    /// vCPUs at start.
    pub vcpus: u32,
    /// vCPUs that may be plugged in all.
    pub vcpus_max: u32,
    /// Memory at start.
    pub memory: Bytes,
    /// Memory that there may be in all; what is above `memory` is plugged in.
    pub memory_max: Bytes,
    /// How it starts.
    pub boot: Boot,
    /// Its disks, the boot disk first.
    #[serde(default)]
    pub disks: Vec<DiskIntent>,
    /// Its images.
    #[serde(default)]
    pub images: Vec<ImageIntent>,
    /// Services that the agent starts from images once the VM is up.
    #[serde(default)]
    pub services: Vec<ServiceName>,
    /// Whether to start it when the host starts.
    #[serde(default)]
    pub autostart: bool,
    /// Free words of the owner.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What cloud-init in the guest shall find.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<SeedIntent>,
    /// What is collected inside it.
    #[serde(default, skip_serializing_if = "CollectIntent::is_usual")]
    pub collect: CollectIntent,
}

/// Largest VM that Proteus makes; also what keeps arithmetic on sizes far from its ends.
pub const VCPUS_MAX: u32 = 255;
/// Most disks, a seed counted: what a machine of ours has places for.
pub const DISKS_MAX: usize = 15;
/// Most images at once: as many ports there are to plug them into.
pub const IMAGES_MAX: usize = 8;
/// See [`VCPUS_MAX`].
pub const MEMORY_MAX: Bytes = Bytes(16 << 40);
/// Least memory with which a Linux guest of ours starts.
pub const MEMORY_MIN: Bytes = Bytes::mib(96);

/// Why an intent cannot be a VM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: expected {expected}, found {found}")]
pub struct IntentError {
    /// Which field.
    pub field: &'static str,
    /// What it may be.
    pub expected: String,
    /// What it was.
    pub found: String,
}

impl VmIntent {
    /// Every file of the host that its owner names.
    pub fn files(&self) -> impl Iterator<Item = NamedFile<'_>> {
        let plain = |field, path| NamedFile { field, path, disk: None };
        let boot = match &self.boot {
            Boot::Kernel { kernel, initrd, .. } => {
                vec![plain("boot.kernel", kernel.as_path()), plain("boot.initrd", initrd)]
            }
            Boot::Firmware => Vec::new(),
        };
        let disks =
            self.disks.iter().map(|disk| NamedFile { field: "disks", path: &disk.path, disk: Some(disk) });
        let images = self.images.iter().map(move |image| plain("images", image.path.as_path()));
        boot.into_iter().chain(disks).chain(images)
    }

    /// A VM of one vCPU and so much memory, neither of which can grow, without disks, images and services.
    pub fn new(name: VmName, boot: Boot, memory: Bytes) -> Self {
        Self {
            name,
            vcpus: 1,
            vcpus_max: 1,
            memory,
            memory_max: memory,
            boot,
            disks: Vec::new(),
            images: Vec::new(),
            services: Vec::new(),
            autostart: false,
            labels: BTreeMap::new(),
            seed: None,
            collect: CollectIntent::default(),
        }
    }

    /// The same without what only its guest may read: for views and records of what was done.
    pub fn without_secrets(&self) -> Self {
        Self { seed: self.seed.as_ref().map(SeedIntent::hidden), ..self.clone() }
    }

    /// Checks what can be checked without looking at a file.
    pub fn validate(&self) -> Result<(), IntentError> {
        let error = |field, expected: String, found: String| Err(IntentError { field, expected, found });
        if self.vcpus == 0 || self.vcpus > self.vcpus_max || self.vcpus_max > VCPUS_MAX {
            let found = format!("{} of {}", self.vcpus, self.vcpus_max);
            return error("vcpus", format!("1 to vcpus_max, which is at most {VCPUS_MAX}"), found);
        }
        if self.memory < MEMORY_MIN || self.memory > self.memory_max || self.memory_max > MEMORY_MAX {
            let found = format!("{} of {}", self.memory, self.memory_max);
            return error("memory", format!("{MEMORY_MIN} to memory_max, at most {MEMORY_MAX}"), found);
        }
        if !self.memory.0.is_multiple_of(Bytes::mib(2).0)
            || !self.memory_max.0.is_multiple_of(Bytes::mib(2).0)
        {
            return error("memory", "multiples of 2 MiB".into(), self.memory.to_string());
        }
        for (field, count, most) in [
            ("disks", self.disks.len() + usize::from(self.seed.is_some()), DISKS_MAX),
            ("images", self.images.len(), IMAGES_MAX),
        ] {
            if count > most {
                return error(field, format!("at most {most}"), count.to_string());
            }
        }
        let mut names: Vec<&str> = self.disks.iter().map(|d| d.name.as_str()).collect();
        names.extend(self.images.iter().map(|i| i.name.as_str()));
        names.extend(self.seed.iter().map(|_| SEED_DISK));
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return error("disks, images", "names that differ".into(), format!("{} twice", pair[0]));
        }
        // A virtio-blk serial number holds 20 bytes (virtio 1.2, section 5.2.6.1).
        if let Some(long) = names.iter().find(|name| name.len() > 20) {
            return error("disks, images", "names of at most 20 bytes".into(), (*long).to_owned());
        }
        if let Some(disk) = self.disks.iter().find(|disk| disk.overlay && disk.read_only) {
            return error("disks", "an overlay or a read-only disk".into(), format!("{} as both", disk.name));
        }
        if matches!(self.boot, Boot::Firmware) && self.disks.is_empty() {
            return error("disks", "a disk to boot from".into(), "none".into());
        }
        Ok(())
    }
}

/// Whether a VM runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    /// No process.
    Stopped,
    /// Runs.
    Running,
    /// There, but its CPUs stand still.
    Paused,
    /// There, but does not answer its control socket.
    Hung,
    /// Nobody can tell: its host does not say.
    Unknown,
}

/// How a VM is seen to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmObserved {
    /// Which.
    pub id: VmId,
    /// Whether it runs.
    pub power: PowerState,
    /// Process id of its VMM.
    pub pid: Option<u32>,
    /// Address of its link in Proteus's network.
    pub address: Option<Ipv4Addr>,
    /// Version of its agent, if that answered what it was asked last.
    pub agent: Option<String>,
    /// When its agent was heard last, if that answered once and does not any more.
    #[serde(default)]
    pub agent_silent_since: Option<UnixMillis>,
    /// Why it is paused though nobody holds it: its disk has no space, ….
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted: Option<String>,
    /// Memory of the host that the guest's memory takes now.
    pub resident: Option<Bytes>,
    /// When it was looked at.
    pub observed_at: UnixMillis,
}

/// How a VM stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopObserved {
    /// Whether the guest went by itself.
    pub by_itself: bool,
    /// Whether the VMM took what it was asked last. `false`: what it did not take, its guest never heard.
    pub answered: bool,
    /// How long was waited for the guest.
    pub waited: Millis,
}

impl StopObserved {
    /// It did not run.
    pub const NOTHING_TO_DO: Self = Self { by_itself: true, answered: true, waited: Millis(0) };
}

/// Which boot of its guest a VM is in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootObserved {
    /// The guest kernel's own word for it; `None`: no agent has said it yet.
    pub id: Option<String>,
    /// How often the guest started anew by itself since the node knows the VM.
    pub reboots: u64,
}

impl BootObserved {
    /// Whether `later` is another boot than this one. What neither tells is taken for the same.
    pub fn is_over(&self, later: &Self) -> bool {
        let others = self.id.as_ref().zip(later.id.as_ref()).is_some_and(|(then, now)| then != now);
        // A node that began anew counts from nothing.
        others || later.reboots > self.reboots
    }
}

/// Counters of a VM taken from the host; each only rises while the VMM lives. What could not be read is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmCounters {
    /// When they were read.
    pub at: UnixMillis,
    /// CPU time of the vCPU threads, ns (`/proc/PID/task/TID/schedstat`, field 1).
    pub vcpu_run_ns: Option<u64>,
    /// Time that they were runnable and did not run, ns (field 2).
    pub vcpu_wait_ns: Option<u64>,
    /// Time that the CPU cap stopped them, ns (`cpu.stat`).
    pub throttled_ns: Option<u64>,
    /// CPU time of the whole VMM, ns.
    pub vmm_run_ns: Option<u64>,
    /// Memory of the host that the guest's memory takes now (not a counter).
    pub resident: Option<Bytes>,
    /// Bytes towards the guest.
    pub net_to_guest: Option<u64>,
    /// Bytes from the guest.
    pub net_from_guest: Option<u64>,
    /// Packets towards the guest.
    #[serde(default)]
    pub packets_to_guest: Option<u64>,
    /// Packets from the guest.
    #[serde(default)]
    pub packets_from_guest: Option<u64>,
    /// Bytes read from disks.
    pub disk_read: Option<u64>,
    /// Bytes written to disks.
    pub disk_written: Option<u64>,
    /// Reads of disks that were done.
    #[serde(default)]
    pub disk_reads: Option<u64>,
    /// Writes to disks that were done.
    #[serde(default)]
    pub disk_writes: Option<u64>,
    /// Flushes of disks' caches that were done.
    #[serde(default)]
    pub disk_flushes: Option<u64>,
    /// Time that all these took, each for itself, ns.
    #[serde(default)]
    pub disk_took_ns: Option<u64>,
    /// Time in which a thread of the VMM waited for a CPU of the host, µs (`cpu.pressure` of its group, cgroup v2).
    #[serde(default)]
    pub psi_cpu_us: Option<u64>,
    /// The same, for memory of the host.
    #[serde(default)]
    pub psi_memory_us: Option<u64>,
    /// The same, for disks of the host.
    #[serde(default)]
    pub psi_io_us: Option<u64>,
    /// Instructions that the vCPU threads carried out, in the guest and beside it (hardware counters).
    #[serde(default)]
    pub instructions: Option<u64>,
    /// Cycles of the processor in which they were at work.
    #[serde(default)]
    pub cycles: Option<u64>,
    /// Accesses that missed the last cache before memory.
    #[serde(default)]
    pub cache_misses: Option<u64>,
    /// vCPUs that it has, as its VMM's threads (not a counter).
    #[serde(default)]
    pub vcpus: Option<u32>,
    /// How long operations on its disks took; `None`: nobody counts that, or not of all disks yet.
    #[serde(default)]
    pub disk_latencies: Option<DiskLatencies>,
    /// What its VMM's group took of the host.
    #[serde(default)]
    pub group: GroupCounters,
}

/// What the control group of a VMM took of the host, as the kernel charged it (cgroup v2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupCounters {
    /// Memory charged to it now: what its processes were the first to touch while in it (`memory.current`).
    pub memory: Option<Bytes>,
    /// Of that anonymous memory (`memory.stat`).
    pub anonymous: Option<Bytes>,
    /// Of that pages of files, memory of the guest among them, which is one.
    pub file: Option<Bytes>,
    /// Processes of it that the kernel killed for lack of memory (`memory.events`).
    pub oom_kills: Option<u64>,
    /// Bytes that it read from disks of the host (`io.stat`).
    pub read: Option<u64>,
    /// Bytes that it wrote to disks of the host.
    pub written: Option<u64>,
    /// Reads of disks of the host.
    pub reads: Option<u64>,
    /// Writes to disks of the host.
    pub writes: Option<u64>,
}

/// How many pages of a VM's memory changed between two looks at a sample of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirtyObserved {
    /// Pages that were looked at twice.
    pub sampled: u64,
    /// Those of them whose content was another one then.
    pub changed: u64,
    /// All that they stand for.
    pub memory: Bytes,
    /// Time between the two looks.
    pub over: Millis,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_place_for_every_disk_and_image() {
        let disk = |number: usize| DiskIntent {
            name: format!("d{number}").parse().unwrap(),
            path: PathBuf::from("/d"),
            format: DiskFormat::Raw,
            read_only: false,
            overlay: false,
        };
        let image = |number: usize| ImageIntent {
            name: format!("i{number}").parse().unwrap(),
            path: PathBuf::from("/i"),
            digest: String::new(),
        };
        let of = |disks: usize, images: usize| VmIntent {
            disks: (0..disks).map(disk).collect(),
            images: (0..images).map(image).collect(),
            ..VmIntent::new("vm".parse().unwrap(), Boot::Firmware, MEMORY_MIN)
        };
        assert_eq!(of(DISKS_MAX, IMAGES_MAX).validate(), Ok(()));
        assert_eq!(of(DISKS_MAX + 1, 0).validate().unwrap_err().field, "disks");
        assert_eq!(of(1, IMAGES_MAX + 1).validate().unwrap_err().field, "images");
    }
}

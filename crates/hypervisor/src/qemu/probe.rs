//! Finds out what runs guests here. `/dev/kvm` may be there and take VMs and then hang each of them, so code must
//! run in one: a boot sector that ends its VM with a number. That alone is not proof: hosts whose processor shows
//! neither `vmx` nor `svm` were seen to run the firmware and hang every Linux kernel, so the flag is asked for too.

use crate::tool::ToolError;
use serde::{Deserialize, Serialize};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// What runs a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// QEMU's software emulation.
    Tcg,
}

impl Accelerator {
    /// Its name in QEMU and in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// What the probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// What VMs will run on.
    pub accelerator: Accelerator,
    /// Why, for the user.
    pub why: String,
    /// Versioned machine type that `q35` stands for: `pc-q35-7.2`.
    pub machine: String,
    /// QEMU's version.
    pub version: String,
}

impl ProbeReport {
    /// Whether a new VMM leaves plugged memory as it is. Before 8.1 a starting `virtio-mem` empties its memory
    /// file, also when that is a running guest's: seen on 7.2, where the guest then hangs.
    pub(crate) fn keeps_plugged_memory(&self) -> bool {
        let mut numbers = self.version.split(['.', ' ']).map_while(|part| part.parse::<u32>().ok());
        (numbers.next(), numbers.next()) >= (Some(8), Some(1))
    }
}

/// Longest time that a boot sector may take. Firmware takes about 0.1 s on working KVM.
const KVM_LIMIT: Duration = Duration::from_secs(5);
/// What the boot sector writes to the debug-exit port; QEMU then exits with twice that plus one.
const PROOF: u8 = 0x15;

/// 16-bit code: `mov al, PROOF; out 0xf4, al; hlt; jmp -3`, padded to a sector that ends in the boot signature.
fn boot_sector() -> [u8; 512] {
    let mut sector = [0u8; 512];
    sector[..7].copy_from_slice(&[0xb0, PROOF, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd]);
    sector[510] = 0x55;
    sector[511] = 0xaa;
    sector
}

async fn output(args: &[&str]) -> Result<String, ToolError> {
    crate::tool::run("qemu-system-x86_64", args, None).await
}

/// Runs a boot sector under `accelerator`; why it did not end as it should, if it did not.
async fn run_boot_sector(scratch: &Path, accelerator: &str, limit: Duration) -> Result<(), String> {
    let image = scratch.join("probe.img");
    std::fs::write(&image, boot_sector()).map_err(|e| format!("write {}: {e}", image.display()))?;
    let drive =
        format!("file={},format=raw,if=ide,read-only=off", image.display().to_string().replace(',', ",,"));
    let child = Command::new("qemu-system-x86_64")
        .args(["-machine", "pc", "-nodefaults", "-no-user-config", "-display", "none", "-m", "16"])
        .args(["-accel", accelerator, "-drive", &drive])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-no-reboot"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| e.to_string())?;
    let ended = tokio::time::timeout(limit, child.wait_with_output()).await;
    // Left behind only if the folder itself goes.
    let _ = std::fs::remove_file(&image);
    let ended = ended.map_err(|_| format!("it took a guest and hung it for {} s", limit.as_secs()))?;
    let ended = ended.map_err(|e| e.to_string())?;
    if ended.status.code() == Some(i32::from(PROOF) * 2 + 1) {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    Err(said.lines().next_back().map_or_else(|| format!("it ended with {}", ended.status), str::to_owned))
}

/// Whether KVM runs guests of unprivileged VMMs here; why not, if not.
async fn kvm(scratch: &Path) -> Result<(), String> {
    let device = std::fs::metadata("/dev/kvm").map_err(|_| "/dev/kvm is not there".to_owned())?;
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = processor.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    if !flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm") {
        return Err("the processor shows neither vmx nor svm: /dev/kvm would hang its guests".to_owned());
    }
    // Each VMM has a user of its own and the device's group.
    if device.mode() & 0o060 != 0o060 && device.mode() & 0o006 != 0o006 {
        return Err("only root may open /dev/kvm (mend: chgrp kvm /dev/kvm && chmod 660 /dev/kvm)".to_owned());
    }
    let ran = run_boot_sector(scratch, "kvm", KVM_LIMIT).await;
    ran.map_err(|why| format!("/dev/kvm runs no guest: {why}"))
}

/// Finds QEMU's version and machine type and what runs guests. `scratch` must be writable.
pub async fn probe(scratch: &Path) -> Result<ProbeReport, ToolError> {
    let version = output(&["--version"]).await?;
    let version = version.lines().next().unwrap_or_default();
    let version = version.trim_start_matches("QEMU emulator version ").to_owned();
    let machines = output(&["-machine", "help"]).await?;
    let alias = machines.lines().find(|line| line.starts_with("q35 ")).unwrap_or_default();
    let machine = alias.split("alias of ").nth(1).and_then(|rest| rest.split(')').next()).unwrap_or("q35");
    let (accelerator, why) = match kvm(scratch).await {
        Ok(()) => (Accelerator::Kvm, "a guest ran on /dev/kvm".to_owned()),
        Err(why) => (Accelerator::Tcg, format!("software emulation, because {why}")),
    };
    Ok(ProbeReport { accelerator, why, machine: machine.to_owned(), version })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_vmm_that_is_known_to_keep_plugged_memory_may_take_it_over() {
        let keeps = |version: &str| {
            let report = ProbeReport {
                accelerator: Accelerator::Tcg,
                why: String::new(),
                machine: String::new(),
                version: version.to_owned(),
            };
            report.keeps_plugged_memory()
        };
        assert!(keeps("8.1.0") && keeps("10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)"));
        assert!(!keeps("7.2.22 (Debian 1:7.2+dfsg)") && !keeps("8.0.5") && !keeps("") && !keeps("x"));
    }

    /// The probe's own proof: under emulation, which always works, the boot sector does end its VM.
    #[tokio::test]
    async fn a_boot_sector_proves_an_accelerator() {
        let dir = tempfile::tempdir().unwrap();
        run_boot_sector(dir.path(), "tcg", Duration::from_secs(60)).await.unwrap();
        assert!(run_boot_sector(dir.path(), "nonsense", Duration::from_secs(60)).await.is_err());
    }
}

//! Graphics processors that are passed through. Must never take a display of the hypervisor for one.

use super::{Collect, Step, found};
use crate::procfs::{each_entry, read_text};
use proteus_protocol::guest::v1::findings::{Collector, Findings, GPUS_MAX, Gpu};
use std::path::{Path, PathBuf};
use std::time::Duration;

const BUS: &str = "/sys/bus/pci/devices";
/// Vendors whose displays are made by hypervisors: QEMU's own, Red Hat's, VMware's.
const EMULATED: [&str; 4] = ["0x1234", "0x1b36", "0x1af4", "0x15ad"];

/// The graphics processors of this guest.
pub struct Gpus;

/// A device of the bus, where it is a graphics processor.
fn gpu(device: &Path) -> Option<Gpu> {
    let read = |name: &str| read_text(device.join(name)).ok();
    // PCI class code 03: display controller; 12: processing accelerator.
    let class = read("class")?;
    if !["0x03", "0x12"].iter().any(|code| class.starts_with(code)) {
        return None;
    }
    let vendor = read("vendor")?;
    if EMULATED.contains(&vendor.as_str()) {
        return None;
    }
    let driver = std::fs::read_link(device.join("driver")).ok();
    let driver = driver.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    // amdgpu's own file, in percent; other drivers tell their own programs only.
    let busy = read("gpu_busy_percent").and_then(|percent| percent.parse::<u32>().ok());
    let why = || match &driver {
        Some(driver) => format!("driver {driver} does not tell how busy it is in /sys"),
        None => "no driver has it".to_owned(),
    };
    Some(Gpu {
        address: device.file_name()?.to_string_lossy().into_owned(),
        device: format!("{vendor}:{}", read("device").unwrap_or_default()),
        missing: busy.is_none().then(why),
        busy_permille: busy.map(|percent| percent.min(100) * 10),
        driver,
    })
}

fn gpus(bus: &Path) -> Vec<Gpu> {
    let mut devices: Vec<PathBuf> = Vec::new();
    each_entry(bus, |name, _| devices.push(bus.join(name.to_string_lossy().as_ref())));
    devices.sort_unstable();
    devices.iter().filter_map(|device| gpu(device)).take(GPUS_MAX).collect()
}

impl Collect for Gpus {
    fn name(&self) -> Collector {
        Collector::Gpus
    }

    fn period(&self) -> Duration {
        Duration::from_secs(300)
    }

    fn missing(&mut self) -> Option<String> {
        gpus(Path::new(BUS)).is_empty().then(|| "no graphics processor is passed through".to_owned())
    }

    fn step(&mut self, findings: &mut Findings) -> Step {
        findings.gpus = found(gpus(Path::new(BUS)));
        Step::Done
    }

    fn forget(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hypervisors_display_is_none_and_an_unknown_use_is_said() {
        let bus = std::env::temp_dir().join(format!("proteus-gpu-{}", std::process::id()));
        let device = |address: &str, files: &[(&str, &str)]| {
            let dir = bus.join(address);
            std::fs::create_dir_all(&dir).unwrap();
            files.iter().for_each(|(name, text)| std::fs::write(dir.join(name), text).unwrap());
        };
        device("0000:00:01.0", &[("class", "0x030000\n"), ("vendor", "0x1234\n"), ("device", "0x1111\n")]);
        device("0000:00:02.0", &[("class", "0x020000\n"), ("vendor", "0x10de\n"), ("device", "0x1\n")]);
        device("0000:00:03.0", &[("class", "0x030200\n"), ("vendor", "0x10de\n"), ("device", "0x20b0\n")]);
        device(
            "0000:00:04.0",
            &[
                ("class", "0x038000\n"),
                ("vendor", "0x1002\n"),
                ("device", "0x73bf\n"),
                ("gpu_busy_percent", "37\n"),
            ],
        );
        let found = gpus(&bus);
        std::fs::remove_dir_all(&bus).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].device.as_str(), found[0].busy_permille), ("0x10de:0x20b0", None));
        assert_eq!(found[0].missing.as_deref(), Some("no driver has it"));
        assert_eq!((found[1].busy_permille, found[1].missing.as_deref()), (Some(370), None));
    }
}

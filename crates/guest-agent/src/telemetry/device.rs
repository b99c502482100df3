//! Block devices and network interfaces. Must never list loopback, RAM disks or partitions: they count twice.

use crate::procfs::{Reader, read_text};
use proteus_protocol::guest::v1::sample::{DISKS_MAX, Disk, NICS_MAX, Nic};
use std::fs::File;
use std::path::Path;

/// 512 bytes: the unit of `/proc/diskstats`, whatever the device's own sector size.
const SECTOR_BYTES: u64 = 512;

/// Open files.
#[derive(Default)]
pub struct Devices {
    diskstats: Option<File>,
    netdev: Option<File>,
}

fn opened<'a>(slot: &'a mut Option<File>, path: &str) -> Option<&'a File> {
    if slot.is_none() {
        *slot = File::open(path).ok();
    }
    slot.as_ref()
}

/// Whether it is a whole disk, and its serial.
fn disk_serial(name: &str) -> Option<Option<String>> {
    let block = Path::new("/sys/block").join(name);
    if !block.is_dir() || ["loop", "ram", "zram"].iter().any(|kind| name.starts_with(kind)) {
        return None;
    }
    Some(read_text(block.join("serial")).ok().filter(|serial| !serial.is_empty()))
}

impl Devices {
    /// All disks. Serials are read each time: another disk may have got the name of one that was unplugged.
    pub fn disks(&mut self, reader: &mut Reader) -> Option<Vec<Disk>> {
        let text = reader.read_file(opened(&mut self.diskstats, "/proc/diskstats")?)?;
        let mut disks = Vec::new();
        for line in text.lines() {
            let Some(mut disk) = disk(line) else { continue };
            let Some(serial) = disk_serial(&disk.name) else { continue };
            disk.serial = serial;
            disks.push(disk);
            if disks.len() == DISKS_MAX {
                break;
            }
        }
        Some(disks)
    }

    /// All interfaces but loopback.
    pub fn nics(&mut self, reader: &mut Reader) -> Option<Vec<Nic>> {
        let text = reader.read_file(opened(&mut self.netdev, "/proc/net/dev")?)?;
        // Two lines of headings.
        Some(text.lines().skip(2).filter_map(nic).filter(|nic| nic.name != "lo").take(NICS_MAX).collect())
    }
}

/// A line of `/proc/diskstats` (Linux, Documentation/admin-guide/iostats.rst).
fn disk(line: &str) -> Option<Disk> {
    let mut fields = line.split_ascii_whitespace();
    let name = fields.nth(2)?.to_owned();
    let mut values = [0u64; 10];
    for slot in &mut values {
        *slot = fields.next()?.parse().ok()?;
    }
    let [reads, _, read, _, writes, _, written, _, in_flight, busy_ms] = values;
    Some(Disk {
        name,
        serial: None,
        reads,
        read: read.saturating_mul(SECTOR_BYTES),
        writes,
        written: written.saturating_mul(SECTOR_BYTES),
        busy_ms,
        in_flight: u32::try_from(in_flight).ok()?,
    })
}

/// A line of `/proc/net/dev`.
fn nic(line: &str) -> Option<Nic> {
    let (name, rest) = line.split_once(':')?;
    let mut values = [0u64; 12];
    let mut fields = rest.split_ascii_whitespace();
    for slot in &mut values {
        *slot = fields.next()?.parse().ok()?;
    }
    let [
        received,
        received_packets,
        errors,
        dropped,
        _,
        _,
        _,
        _,
        sent,
        sent_packets,
        send_errors,
        send_dropped,
    ] = values;
    Some(Nic {
        name: name.trim().to_owned(),
        received,
        received_packets,
        received_lost: errors + dropped,
        sent,
        sent_packets,
        sent_lost: send_errors + send_dropped,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let read = disk(" 254 0 vda 10 1 80 5 20 2 160 6 3 70 11 0 0 0 0 1 2").unwrap();
        assert_eq!((read.reads, read.read, read.writes, read.written), (10, 40_960, 20, 81_920));
        assert_eq!((read.in_flight, read.busy_ms), (3, 70));
        let read = nic("  eth0: 100 2 1 1 0 0 0 0 200 4 3 0 0 0 0 0").unwrap();
        assert_eq!(
            (read.name.as_str(), read.received, read.received_lost, read.sent, read.sent_lost),
            ("eth0", 100, 2, 200, 3)
        );
        assert_eq!(disk("254 0 vda x"), None);
        assert_eq!(nic("eth0 1 2"), None);
    }
}

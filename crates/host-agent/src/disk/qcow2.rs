//! An empty qcow2 file over another disk, written here: it is 256 KiB of mostly zeros, and starting `qemu-img` for it
//! costs a clone 10 ms. Must never write to the file under it.
//!
//! ```text
//! cluster 0           1                2               3 …
//! header, extension,  refcount table   refcount block  L1 table: all zero, so that
//! name of the base                                     everything is read from the base
//! ```
//!
//! Numbers are big-endian (QEMU, docs/interop/qcow2.rst).

use proteus_model::vm::DiskFormat;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What a qcow2 file begins with.
const MAGIC: &[u8; 4] = b"QFI\xfb";
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Header of version 3 with its last field, the compression type, and padding.
const HEADER_BYTES: u32 = 112;
/// Type of the header extension that names the base's format.
const BASE_FORMAT: u32 = 0xe279_2aca;
/// QEMU reads no longer name of a base.
const BASE_NAME_BYTES_MAX: usize = 1023;
/// An entry of the L1 table stands for a cluster of 8-byte entries, each for a cluster of data: 512 MiB.
const PER_L1_ENTRY: u64 = CLUSTER / 8 * CLUSTER;
/// QEMU takes no longer L1 table.
const L1_BYTES_MAX: u64 = 32 << 20;

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// Bytes that the guest sees of a disk; a qcow2 file says so itself, a raw one is them.
fn virtual_size(base: &Path, format: DiskFormat) -> io::Result<u64> {
    let mut file = File::open(base)?;
    let size = match format {
        // The end of it, so that this also holds for a block device.
        DiskFormat::Raw => file.seek(SeekFrom::End(0))?,
        DiskFormat::Qcow2 => {
            // Magic, version, where the name of its own base is and how long, cluster bits, size.
            let mut header = [0; 32];
            file.read_exact(&mut header).map_err(|_| invalid("it is no qcow2 file"))?;
            if !header.starts_with(MAGIC) {
                return Err(invalid("it is no qcow2 file"));
            }
            let mut size = [0; 8];
            size.copy_from_slice(&header[24..]);
            u64::from_be_bytes(size)
        }
    };
    // A disk is whole sectors.
    size.checked_next_multiple_of(512).ok_or_else(|| invalid("its size cannot be"))
}

/// Everything of the first cluster.
fn header(size: u64, l1_entries: u64, base: &[u8], format: DiskFormat) -> io::Result<Vec<u8>> {
    let word: &[u8] = match format {
        DiskFormat::Raw => b"raw",
        DiskFormat::Qcow2 => b"qcow2",
    };
    let padded = word.len().next_multiple_of(8);
    let base_at = u64::from(HEADER_BYTES) + 8 + padded as u64 + 8;
    let short = |number: u64| u32::try_from(number).map_err(io::Error::other);
    let mut bytes = MAGIC.to_vec();
    bytes.extend(3_u32.to_be_bytes());
    bytes.extend(base_at.to_be_bytes());
    bytes.extend(short(base.len() as u64)?.to_be_bytes());
    bytes.extend(CLUSTER_BITS.to_be_bytes());
    bytes.extend(size.to_be_bytes());
    // Not encrypted.
    bytes.extend(0_u32.to_be_bytes());
    bytes.extend(short(l1_entries)?.to_be_bytes());
    bytes.extend((3 * CLUSTER).to_be_bytes());
    // The refcount table: where, and how many clusters.
    bytes.extend(CLUSTER.to_be_bytes());
    bytes.extend(1_u32.to_be_bytes());
    // No snapshots: how many, where.
    bytes.extend(0_u32.to_be_bytes());
    bytes.extend(0_u64.to_be_bytes());
    // No features of the three kinds.
    bytes.extend([0; 24]);
    // A refcount has 2^4 bits.
    bytes.extend(4_u32.to_be_bytes());
    bytes.extend(HEADER_BYTES.to_be_bytes());
    // Compression type 0, padding.
    bytes.extend([0; 8]);
    debug_assert_eq!(bytes.len(), HEADER_BYTES as usize);
    bytes.extend(BASE_FORMAT.to_be_bytes());
    bytes.extend(short(word.len() as u64)?.to_be_bytes());
    bytes.extend(word);
    bytes.resize(bytes.len() + padded - word.len(), 0);
    // The end of the extensions.
    bytes.extend([0; 8]);
    debug_assert_eq!(bytes.len() as u64, base_at);
    bytes.extend(base);
    Ok(bytes)
}

/// Writes an empty disk at `path`, over `base`.
pub(super) fn write_overlay(path: &Path, base: &Path, format: DiskFormat) -> io::Result<()> {
    let size = virtual_size(base, format)?;
    let name = base.as_os_str().as_bytes();
    if name.len() > BASE_NAME_BYTES_MAX {
        return Err(invalid(format!("its path has more than {BASE_NAME_BYTES_MAX} bytes")));
    }
    let l1_entries = size.div_ceil(PER_L1_ENTRY).max(1);
    if l1_entries * 8 > L1_BYTES_MAX {
        return Err(invalid(format!("a disk of {size} bytes is too large")));
    }
    let clusters = 3 + (l1_entries * 8).div_ceil(CLUSTER);
    let file = File::options().write(true).create(true).truncate(true).open(path)?;
    // What is not written below is a hole: zeros.
    file.set_len(clusters * CLUSTER)?;
    (&file).write_all(&header(size, l1_entries, name, format)?)?;
    file.write_all_at(&(2 * CLUSTER).to_be_bytes(), CLUSTER)?;
    // Each cluster is used once; a block holds 32768 of these numbers, more than there can be here (515).
    let used: Vec<u8> = (0..clusters).flat_map(|_| 1_u16.to_be_bytes()).collect();
    file.write_all_at(&used, 2 * CLUSTER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn qemu_img(args: &[&str]) -> String {
        let output = Command::new("qemu-img").args(args).output().expect("qemu-img (package qemu-utils)");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "qemu-img {args:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// An overlay over `base` as QEMU sees it.
    fn info(base: &Path, format: DiskFormat) -> serde_json::Value {
        let path = base.with_extension("overlay");
        write_overlay(&path, base, format).expect("the base is there");
        let path = path.to_str().expect("a temporary path is text");
        assert!(qemu_img(&["check", path]).contains("No errors were found"));
        serde_json::from_str(&qemu_img(&["info", "--output=json", path])).expect("qemu-img writes JSON")
    }

    #[test]
    fn qemu_finds_no_fault_with_an_overlay_and_reads_its_base_through_it() {
        let dir = tempfile::tempdir().expect("there is room");
        let raw = dir.path().join("base, with a comma.raw");
        // Not whole sectors: the rest is rounded up.
        std::fs::write(&raw, vec![0x5a; (1 << 20) + 100]).expect("there is room");
        let seen = info(&raw, DiskFormat::Raw);
        assert_eq!(seen["virtual-size"], (1 << 20) + 512);
        assert_eq!(seen["backing-filename"], raw.to_str().expect("text"));
        assert_eq!(seen["backing-filename-format"], "raw");
        let overlay = raw.with_extension("overlay");
        let overlay = overlay.to_str().expect("text");
        let copy = dir.path().join("copy.raw");
        qemu_img(&["convert", "-O", "raw", overlay, copy.to_str().expect("text")]);
        let copied = std::fs::read(&copy).expect("it was made");
        assert!(copied[..(1 << 20) + 100].iter().all(|byte| *byte == 0x5a));
        assert!(copied[(1 << 20) + 100..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn an_overlay_is_as_large_as_its_base_says_and_can_be_written() {
        let dir = tempfile::tempdir().expect("there is room");
        for (name, size) in [("small", "512"), ("odd", "537395200"), ("huge", "200T")] {
            let base = dir.path().join(name).with_extension("qcow2");
            let text = base.to_str().expect("text");
            qemu_img(&["create", "-q", "-f", "qcow2", text, size]);
            let said: serde_json::Value =
                serde_json::from_str(&qemu_img(&["info", "--output=json", text])).expect("JSON");
            let seen = info(&base, DiskFormat::Qcow2);
            assert_eq!(seen["virtual-size"], said["virtual-size"], "{name}");
            assert_eq!(seen["backing-filename-format"], "qcow2");
            assert_eq!(seen["format-specific"]["data"]["corrupt"], false);
            let overlay = base.with_extension("overlay");
            let overlay = overlay.to_str().expect("text");
            // An internal snapshot needs room in the refcounts, and a new L1 table.
            qemu_img(&["snapshot", "-c", "one", overlay]);
            assert!(qemu_img(&["check", overlay]).contains("No errors were found"), "{name}");
        }
    }

    #[test]
    fn what_is_no_qcow2_file_is_not_taken_for_one() {
        let dir = tempfile::tempdir().expect("there is room");
        let (base, path) = (dir.path().join("base"), dir.path().join("overlay"));
        for text in [b"QFI".as_slice(), &[0; 4096]] {
            std::fs::write(&base, text).expect("there is room");
            let refused = write_overlay(&path, &base, DiskFormat::Qcow2).expect_err("it is none");
            assert_eq!(refused.to_string(), "it is no qcow2 file");
        }
        let gone = write_overlay(&path, &dir.path().join("gone"), DiskFormat::Raw);
        assert_eq!(gone.expect_err("it is not there").kind(), io::ErrorKind::NotFound);
        assert!(!path.exists(), "nothing is left of what was refused");
    }
}

//! What a VM is made of, by content: digests of the files that it reads and never writes, as they are now. Must never read a file
//! twice that did not change.

use crate::image::digest_file;
use crate::node::HostAgent;
use crate::telemetry::task_error;
use proteus_model::id::VmId;
use proteus_model::vm::{Boot, VmIntent};
use proteus_protocol::cause::chain;
use proteus_protocol::node::v1::{NodeError, NodeErrorCode};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Most digests that are remembered.
const KNOWN_MAX: usize = 1024;

/// What tells whether a file is still the same: device, inode, size, and when it was changed last.
type Stamp = (u64, u64, u64, i64, i64);

/// Digests of files, as far as they were read.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    known: Mutex<HashMap<PathBuf, (Stamp, String)>>,
    /// Held by who reads: one at a time, so that who waited finds what the other read.
    reading: Mutex<()>,
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let meta = std::fs::metadata(path)?;
    if !meta.is_file() {
        // A device's times and size do not tell whether what is in it changed.
        return Err(io::Error::other("it is no regular file"));
    }
    Ok((meta.dev(), meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec()))
}

impl Digests {
    fn of(&self, path: &Path) -> Result<String, String> {
        let now = stamp(path).map_err(|error| format!("read {}: {error}", path.display()))?;
        let known = |all: &Self| {
            let all = all.known.lock().unwrap_or_else(PoisonError::into_inner);
            all.get(path).filter(|(then, _)| *then == now).map(|(_, digest)| digest.clone())
        };
        if let Some(digest) = known(self) {
            return Ok(digest);
        }
        let _alone = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digest) = known(self) {
            return Ok(digest);
        }
        let digest = digest_file(path).map_err(|error| chain(&error))?;
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= KNOWN_MAX {
            all.clear();
        }
        all.insert(path.to_owned(), (now, digest.clone()));
        Ok(digest)
    }
}

/// The files that a VM is made of and does not write: role and path.
fn files(intent: &VmIntent) -> Vec<(String, PathBuf)> {
    let mut files = Vec::new();
    if let Boot::Kernel { kernel, initrd, .. } = &intent.boot {
        files.push(("kernel".to_owned(), kernel.clone()));
        files.push(("initramfs".to_owned(), initrd.clone()));
    }
    let read = intent.disks.iter().filter(|disk| disk.read_only || disk.overlay);
    files.extend(read.map(|disk| (format!("disk {}", disk.name), disk.path.clone())));
    files
}

impl HostAgent {
    /// SHA-256 of what a VM is made of, by role: kernel, initramfs, disks that it does not write, images.
    pub(crate) async fn base_of(&self, vm: VmId) -> Result<BTreeMap<String, String>, NodeError> {
        let intent = self.seat(vm)?.intent;
        let digests = self.digests.clone();
        let read = tokio::task::spawn_blocking(move || {
            let images = intent.images.iter();
            let mut all: BTreeMap<String, String> =
                images.map(|image| (format!("image {}", image.name), image.digest.clone())).collect();
            for (role, path) in files(&intent) {
                all.insert(role, digests.of(&path)?);
            }
            Ok::<_, String>(all)
        });
        let hint = "the files that the VM was made of must stay where they were";
        let lost = |why: String| NodeError::new(NodeErrorCode::File, why).with_hint(hint);
        read.await.map_err(task_error)?.map_err(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_only_where_it_changed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&path, "one").unwrap();
        let digests = Digests::default();
        let one = digests.of(&path).unwrap();
        assert_eq!(one, "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed");
        let known = digests.known.lock().unwrap().clone();
        assert_eq!(digests.of(&path).unwrap(), one);
        assert_eq!(*digests.known.lock().unwrap(), known);
        std::fs::write(&other, "two").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_ne!(digests.of(&path).unwrap(), one);
        assert!(digests.of(&other).unwrap_err().contains("read"));
    }
}

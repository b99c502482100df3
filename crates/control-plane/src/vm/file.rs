//! The files of the host that a VM is made of: there, and within reach of the VM's user. Must never open one.

use crate::control::ControlError;
use proteus_model::vm::{Boot, VmIntent};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A file that a VM is made of.
pub(super) struct NamedFile<'a> {
    /// The field of the intent that names it.
    pub field: &'static str,
    /// Where it is.
    pub path: &'a Path,
    /// Whether it is handed over to the VM's user, as what the guest writes to is.
    handed: bool,
}

/// Every one of them.
pub(super) fn files(intent: &VmIntent) -> impl Iterator<Item = NamedFile<'_>> {
    let read = |field, path| NamedFile { field, path, handed: false };
    let boot = match &intent.boot {
        Boot::Kernel { kernel, initrd, .. } => {
            vec![read("boot.kernel", kernel.as_path()), read("boot.initrd", initrd)]
        }
        Boot::Firmware => Vec::new(),
    };
    let disks = intent.disks.iter().map(|disk| NamedFile {
        field: "disks",
        path: &disk.path,
        handed: !disk.overlay && !disk.read_only,
    });
    let images = intent.images.iter().map(move |image| read("images", image.path.as_path()));
    boot.into_iter().chain(disks).chain(images)
}

/// The files of a VM must be there, and its user must reach them, and read what is not handed to it: better said now
/// than by QEMU later.
pub(super) fn check(intent: &VmIntent) -> Result<(), ControlError> {
    for NamedFile { field, path, .. } in files(intent) {
        if !path.is_file() {
            return Err(ControlError::Invalid {
                what: format!("{field}: there is no file {}", path.display()),
                hint: "give the path of an existing file; `proteus image build` makes guests and images"
                    .into(),
            });
        }
    }
    for NamedFile { field, path, handed } in files(intent) {
        if let Some((path, right)) = unreachable(path, handed) {
            return Err(ControlError::Invalid {
                what: format!("{field}: each VM has a user of its own, who may not reach {}", path.display()),
                hint: format!("chmod o+{right} {}", path.display()),
            });
        }
    }
    Ok(())
}

/// The file or folder on the way to it that only some users may enter or read, and the right that is missing.
fn unreachable(path: &Path, handed: bool) -> Option<(PathBuf, char)> {
    let mode = |path: &Path| std::fs::metadata(path).map(|about| about.permissions().mode());
    let lacks = |path: &Path, bit: u32| mode(path).is_ok_and(|mode| mode & bit == 0);
    if !handed && lacks(path, 0o004) {
        return Some((path.to_owned(), 'r'));
    }
    // The way by the name that was given, and that to where a link leads.
    let whole = path.canonicalize().unwrap_or_default();
    let mut way = path.ancestors().skip(1).chain(whole.ancestors().skip(1));
    way.find(|dir| lacks(dir, 0o001)).map(|dir| (dir.to_owned(), 'x'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proteus_model::unit::Bytes;
    use proteus_model::vm::{DiskFormat, DiskIntent, ImageIntent};
    use std::fs::{self, Permissions};

    /// A VM with a file of every kind, below `dir`.
    fn whole(dir: &Path) -> VmIntent {
        let file = |name: &str| {
            fs::write(dir.join(name), b"x").unwrap();
            dir.join(name)
        };
        let disk = |name: &str, read_only, overlay| DiskIntent {
            name: name.parse().unwrap(),
            path: file(name),
            format: DiskFormat::Raw,
            read_only,
            overlay,
        };
        let boot = Boot::Kernel { kernel: file("kernel"), initrd: file("initrd"), append: String::new() };
        let mut intent = VmIntent::new("web".parse().unwrap(), boot, Bytes::mib(128));
        intent.disks = vec![disk("own", false, false), disk("ro", true, false), disk("over", false, true)];
        let digest = String::new();
        intent.images = vec![ImageIntent { name: "image".parse().unwrap(), path: file("image"), digest }];
        intent
    }

    fn said(intent: &VmIntent) -> Option<(String, String)> {
        match check(intent) {
            Ok(()) => None,
            Err(ControlError::Invalid { what, hint }) => Some((what, hint)),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_vms_user_must_read_is_within_its_reach() {
        let dir = tempfile::tempdir().unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        set(dir.path(), 0o711);
        let intent = whole(dir.path());
        assert_eq!(said(&intent), None);
        let fields = [
            ("kernel", "boot.kernel"),
            ("initrd", "boot.initrd"),
            ("ro", "disks"),
            ("over", "disks"),
            ("image", "images"),
        ];
        for (name, field) in fields {
            let path = dir.path().join(name);
            set(&path, 0o640);
            let what =
                format!("{field}: each VM has a user of its own, who may not reach {}", path.display());
            assert_eq!(said(&intent), Some((what, format!("chmod o+r {}", path.display()))));
            set(&path, 0o644);
        }
        set(&dir.path().join("own"), 0o600);
        assert_eq!(said(&intent), None, "a disk to write to is handed over");
    }

    #[test]
    fn the_way_to_a_file_is_open_also_where_a_link_leads_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        set(dir.path(), 0o711);
        let closed = dir.path().join("closed");
        fs::create_dir(&closed).unwrap();
        let mut intent = whole(dir.path());
        fs::rename(dir.path().join("own"), closed.join("own")).unwrap();
        std::os::unix::fs::symlink(closed.join("own"), dir.path().join("own")).unwrap();
        set(&closed, 0o700);
        let (what, hint) = said(&intent).unwrap();
        assert!(what.ends_with(&format!("may not reach {}", closed.display())), "{what}");
        assert_eq!(hint, format!("chmod o+x {}", closed.display()));
        intent.disks[0].path = closed.join("own");
        assert_eq!(said(&intent), Some((what, hint)));
        set(&closed, 0o711);
        assert_eq!(said(&intent), None);
    }
}

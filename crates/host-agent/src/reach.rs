//! Whether a VM's user reaches the files that the VM is made of, and all that its disks lie over. Must never open one to
//! write, nor follow a chain without an end.

use crate::backing::{self, Broken, CHAIN_MAX};
use proteus_model::vm::{DiskIntent, NamedFile, VmIntent};
use proteus_protocol::node::v1::{NodeError, NodeErrorCode};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What is shown of a name that is no file's, in letters.
const NAME_SHOWN: usize = 80;

/// The files of a VM must be there, and its user must reach them, and read what is not handed to it: better said now
/// than by QEMU later.
pub(crate) fn check(intent: &VmIntent) -> Result<(), NodeError> {
    for NamedFile { field, path, .. } in intent.files() {
        if !path.is_file() {
            let hint = "give the path of an existing file; `proteus image build` makes guests and images";
            return Err(refused(format!("{field}: there is no file {}", path.display()), hint));
        }
    }
    for NamedFile { field, path, disk } in intent.files() {
        // What the guest writes to is handed over to its user.
        let handed = disk.is_some_and(|disk| !disk.overlay && !disk.read_only);
        if let Some((path, right)) = unreachable(path, handed) {
            return Err(closed(field, &path, right, ""));
        }
        disk.map_or(Ok(()), |disk| check_below(field, disk))?;
    }
    Ok(())
}

/// The same for the files that a disk lies over, to the last of them: its user reads them all.
fn check_below(field: &str, disk: &DiskIntent) -> Result<(), NodeError> {
    let (files, end) = backing::chain(&disk.path, disk.format);
    let top = disk.path.display();
    let under = format!(", which {top} lies over");
    for (_, path) in files.iter().skip(1) {
        if let Some((path, right)) = unreachable(path, false) {
            return Err(closed(field, &path, right, &under));
        }
    }
    let anew = format!("`qemu-img info --backing-chain {top}` shows the files, `qemu-img rebase` mends them");
    let what = match end {
        Ok(()) => return Ok(()),
        Err(Broken::Gone(path)) => format!("there is no file {}{under}", path.display()),
        Err(Broken::Unreadable(path, error)) => format!("{} cannot be read: {error}", path.display()),
        Err(Broken::Loop(path)) => format!("{top} lies over {}, which lies over itself", path.display()),
        Err(Broken::NoFile(path, name)) => {
            let name: String = name.chars().take(NAME_SHOWN).collect();
            let what =
                format!("{field}: {} lies over {name:?}, which is no plain path of a file", path.display());
            let hint = format!(
                "make it one: `qemu-img rebase -u -b FILE -F FORMAT {}`, where FILE holds the same",
                path.display()
            );
            return Err(refused(what, hint));
        }
        Err(Broken::TooLong) => format!("{top} lies over {CHAIN_MAX} files or more"),
    };
    Err(refused(format!("{field}: {what}"), anew))
}

fn refused(what: String, hint: impl Into<String>) -> NodeError {
    NodeError::new(NodeErrorCode::File, what).with_hint(hint)
}

fn closed(field: &str, path: &Path, right: char, under: &str) -> NodeError {
    let path = path.display();
    let what = format!("{field}: each VM has a user of its own, who may not reach {path}{under}");
    refused(what, format!("chmod o+{right} {path}"))
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
    use proteus_model::vm::{Boot, DiskFormat, ImageIntent};
    use std::fs::{self, Permissions};
    use std::process::Command;

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
        let refused = check(intent).err()?;
        assert_eq!(refused.code, NodeErrorCode::File);
        Some((refused.message, refused.hint.unwrap()))
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

    fn image(dir: &Path, name: &str, over: Option<&str>) -> PathBuf {
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-u", "-f", "qcow2"]).current_dir(dir);
        if let Some(over) = over {
            command.args(["-F", "qcow2", "-b", over]);
        }
        assert!(command.args([name, "1M"]).status().unwrap().success());
        dir.join(name)
    }

    #[test]
    fn what_a_disk_lies_over_is_followed_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        set(dir.path(), 0o711);
        let deep = dir.path().join("deep");
        fs::create_dir(&deep).unwrap();
        image(&deep, "base.qcow2", None);
        image(dir.path(), "middle.qcow2", Some("deep/base.qcow2"));
        let top = image(dir.path(), "top.qcow2", Some("middle.qcow2"));
        for (read_only, overlay) in [(false, true), (true, false), (false, false)] {
            let mut intent = whole(dir.path());
            intent.disks.truncate(1);
            let disk = DiskIntent {
                path: top.clone(),
                format: DiskFormat::Qcow2,
                read_only,
                overlay,
                ..intent.disks[0].clone()
            };
            intent.disks[0] = disk;
            assert_eq!(said(&intent), None);
            for (name, right, mode) in [("deep/base.qcow2", 'r', 0o640), ("deep", 'x', 0o700)] {
                let path = dir.path().join(name);
                let was = fs::metadata(&path).unwrap().permissions();
                set(&path, mode);
                let what = format!(
                    "disks: each VM has a user of its own, who may not reach {}, which {} lies over",
                    path.display(),
                    top.display()
                );
                assert_eq!(said(&intent), Some((what, format!("chmod o+{right} {}", path.display()))));
                fs::set_permissions(&path, was).unwrap();
            }
        }
    }

    #[test]
    fn a_chain_without_an_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        let mut intent = whole(dir.path());
        intent.disks.truncate(1);
        (intent.disks[0].format, intent.disks[0].overlay) = (DiskFormat::Qcow2, true);
        let mut of = |path: PathBuf| {
            intent.disks[0].path = path;
            said(&intent)
        };
        let one = image(dir.path(), "one", Some("two"));
        let (what, hint) = of(one.clone()).unwrap();
        assert_eq!(
            what,
            format!("disks: there is no file {0}/two, which {0}/one lies over", dir.path().display())
        );
        assert!(hint.contains("qemu-img rebase"), "{hint}");
        image(dir.path(), "two", Some("one"));
        let (what, _) = of(one).unwrap();
        assert!(what.ends_with("/one, which lies over itself"), "{what}");
        // The last that is taken, and one more.
        image(dir.path(), "0", None);
        for number in 1..=CHAIN_MAX {
            image(dir.path(), &number.to_string(), Some(&(number - 1).to_string()));
        }
        assert_eq!(of(dir.path().join((CHAIN_MAX - 1).to_string())), None);
        let (what, _) = of(dir.path().join(CHAIN_MAX.to_string())).unwrap();
        assert!(what.ends_with("lies over 64 files or more"), "{what}");
        // What QEMU takes for something else than a path is not opened unchecked.
        let odd = [
            "nbd://host/disk",
            "nbd:host:10809",
            "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"/etc/shadow\"}}",
        ];
        for name in odd {
            let far = image(dir.path(), "far", Some(name));
            let (what, hint) = of(far).unwrap();
            assert!(
                what.ends_with("which is no plain path of a file") && what.contains("/far lies over"),
                "{what}"
            );
            assert!(hint.contains("qemu-img rebase -u"), "{hint}");
        }
    }
}

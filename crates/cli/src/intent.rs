//! From the words of `vm create` to what the API takes: paths made absolute, files read and checked here, so that
//! an error names the user's own file.

use crate::argument::VmCreate;
use crate::error::{CommandError, usage};
use crate::file;
use proteus_model::id::{DiskName, ServiceName};
use proteus_model::profile::document::Problem;
use proteus_model::seed::{SEED_BYTES_MAX, SeedIntent, check_map, check_user_data};
use proteus_model::vm::{Boot, DiskFormat, DiskIntent, ImageIntent, VmIntent};
use std::io::Read;
use std::path::{Path, PathBuf};

/// What a qcow2 file begins with (QEMU, docs/interop/qcow2.rst).
const QCOW2_MAGIC: &[u8] = b"QFI\xfb";

/// An absolute path: the server has another working folder.
fn absolute(path: &Path) -> Result<PathBuf, CommandError> {
    std::fs::canonicalize(path).map_err(|source| CommandError::File { path: path.to_owned(), source })
}

/// What an image says of itself: `NAME.json` beside `NAME.erofs`, as `proteus image build` wrote it.
fn image_of(path: &Path) -> Result<(ImageIntent, Option<ServiceName>), CommandError> {
    let sidecar = path.with_extension("json");
    let text = std::fs::read(&sidecar).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => CommandError::Failed {
            what: format!("read {}", sidecar.display()),
            because: vec![source.to_string()],
            hint: "an image has a file of what it is beside it: `proteus image build` writes both, keep them together"
                .to_owned(),
        },
        _ => CommandError::File { path: sidecar.clone(), source },
    })?;
    let bad = |why: String| usage(format!("{}: {why}", sidecar.display()), "build the image again");
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
    let name = value["name"].as_str().ok_or_else(|| bad("field name: expected a text".into()))?;
    let digest = value["files"]["image"]["sha256"].as_str();
    let digest = digest.ok_or_else(|| bad("field files.image.sha256: expected a digest".into()))?.to_owned();
    let service = name.parse().ok();
    let name = name.parse().map_err(|e: proteus_model::id::NameError| bad(e.to_string()))?;
    Ok((ImageIntent { name, path: absolute(path)?, digest }, service))
}

/// `NAME=FILE` and what follows it: `,overlay`, `,ro`, `,raw`, `,qcow2`.
fn disk_of(text: &str) -> Result<DiskIntent, CommandError> {
    let hint = "as in --disk root=/srv/web.qcow2, or with ,overlay ,ro ,raw or ,qcow2 after it";
    let bad = || usage(format!("--disk {text:?}: expected NAME=FILE"), hint);
    let (name, mut file) = text.split_once('=').ok_or_else(bad)?;
    let name: DiskName = name.parse().map_err(|_| bad())?;
    let (mut overlay, mut read_only, mut format) = (false, false, None);
    while let Some((rest, word)) = file.rsplit_once(',') {
        match word {
            "overlay" => overlay = true,
            "ro" => read_only = true,
            "raw" => format = Some(DiskFormat::Raw),
            "qcow2" => format = Some(DiskFormat::Qcow2),
            // A name may hold a comma.
            _ if Path::new(file).exists() => break,
            _ => {
                return Err(usage(
                    format!("--disk {text:?}: {word:?} is nothing that can be said of a disk"),
                    hint,
                ));
            }
        }
        file = rest;
    }
    let path = absolute(Path::new(file))?;
    let format = match format {
        Some(format) => format,
        None => format_of(&path)?,
    };
    Ok(DiskIntent { name, format, path, read_only, overlay })
}

/// What a file is by its name, where its content does not speak against it. The content alone never decides: the
/// guest of a raw disk can write whatever it likes to its beginning.
fn format_of(path: &Path) -> Result<DiskFormat, CommandError> {
    let failed = |source| CommandError::File { path: path.to_owned(), source };
    let mut magic = Vec::new();
    let limit = QCOW2_MAGIC.len() as u64;
    std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut magic)).map_err(failed)?;
    let named = path.extension().is_some_and(|ending| ending == "qcow2");
    match (named, magic == QCOW2_MAGIC) {
        (true, true) => Ok(DiskFormat::Qcow2),
        (false, false) => Ok(DiskFormat::Raw),
        (true, false) => Err(usage(
            format!("{}: its name says qcow2, its content does not", path.display()),
            "if it is a raw disk, say so: --disk NAME=FILE,raw",
        )),
        (false, true) => Err(usage(
            format!("{}: holds a qcow2 image, and its name does not say so", path.display()),
            "say what it is: --disk NAME=FILE,qcow2 (or ,raw if a guest wrote that)",
        )),
    }
}

/// What a folder of `proteus image build` boots: a small guest, or a full one with its disk.
///
/// # Errors
/// Where it holds no guest, or one that cannot be read.
pub fn guest_of(dir: &Path, append: &str) -> Result<(Boot, Option<DiskIntent>), CommandError> {
    let kernel = absolute(&dir.join("vmlinuz")).map_err(|_| {
        usage(
            format!("--guest {}: there is no vmlinuz in it", dir.display()),
            "give a folder that `proteus image build small` or `debian` made",
        )
    })?;
    let disk = dir.join("disk.qcow2");
    if !disk.exists() {
        let initrd = absolute(&dir.join("initramfs.cpio"))?;
        return Ok((Boot::Kernel { kernel, initrd, append: append.to_owned() }, None));
    }
    let path = absolute(&disk)?;
    let name = "root".parse().map_err(|e: proteus_model::id::NameError| usage(e.to_string(), ""))?;
    let disk = DiskIntent { name, format: format_of(&path)?, path, read_only: false, overlay: true };
    let append = format!("root=/dev/vda rw {append}").trim_end().to_owned();
    let initrd = absolute(&dir.join("initrd.img"))?;
    Ok((Boot::Kernel { kernel, initrd, append }, Some(disk)))
}

/// A text of the user's, checked.
fn text_of(
    path: &Path,
    check: impl Fn(&str, &str) -> Result<(), Box<Problem>>,
) -> Result<String, CommandError> {
    let failed = |source| CommandError::File { path: path.to_owned(), source };
    let bytes = file::read_bounded(path, SEED_BYTES_MAX as u64)?;
    let text = String::from_utf8(bytes).map_err(|e| failed(std::io::Error::other(e)))?;
    check(&file::name_of(path), &text)
        .map_err(|problem| usage(problem.to_string(), "see https://cloudinit.readthedocs.io"))?;
    Ok(text)
}

fn seed_of(create: &VmCreate) -> Result<Option<SeedIntent>, CommandError> {
    let Some(user_data) = &create.user_data else { return Ok(None) };
    let map = |field: &'static str, path: &Option<PathBuf>| {
        path.as_ref().map(|path| text_of(path, |file, text| check_map(file, field, text))).transpose()
    };
    Ok(Some(SeedIntent {
        user_data: text_of(user_data, check_user_data)?,
        meta_data: map("meta-data", &create.meta_data)?,
        network_config: map("network-config", &create.network_config)?,
    }))
}

/// The whole intent.
pub(crate) fn intent_of(create: &VmCreate) -> Result<VmIntent, CommandError> {
    let (boot, own_disk) = match (&create.guest, &create.kernel, &create.initrd) {
        (Some(dir), _, _) => guest_of(dir, &create.append)?,
        (None, Some(kernel), Some(initrd)) => {
            let (kernel, initrd, append) = (absolute(kernel)?, absolute(initrd)?, create.append.clone());
            (Boot::Kernel { kernel, initrd, append }, None)
        }
        (None, _, _) => (Boot::Firmware, None),
    };
    let mut disks: Vec<DiskIntent> = own_disk.into_iter().collect();
    for text in &create.disks {
        disks.push(disk_of(text)?);
    }
    let found = create.images.iter().map(|path| image_of(path)).collect::<Result<Vec<_>, _>>()?;
    let (images, services): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    Ok(VmIntent {
        name: create.name.clone(),
        vcpus: create.vcpus,
        vcpus_max: create.vcpus_max.unwrap_or(create.vcpus),
        memory: create.memory,
        memory_max: create.memory_max.unwrap_or(create.memory),
        boot,
        disks,
        images,
        services: services.into_iter().flatten().collect(),
        autostart: create.autostart,
        labels: Default::default(),
        seed: seed_of(create)?,
        collect: Default::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_what_its_name_and_its_content_say_together() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = dir.path().canonicalize().unwrap().join(name);
            std::fs::write(&path, content).unwrap();
            path.display().to_string()
        };
        let (raw, qcow2) = (file("a.img", b"MBR"), file("b.qcow2", b"QFI\xfb\0\0\0\x03"));
        let (hidden, fake, comma) =
            (file("c.img", b"QFI\xfb"), file("d.qcow2", b"MBR"), file("e,1.img", b""));
        let told = |text: String| disk_of(&text).map(|d| (d.format, d.overlay, d.read_only));
        assert_eq!(told(format!("root={raw}")).unwrap(), (DiskFormat::Raw, false, false));
        assert_eq!(told(format!("root={qcow2},overlay")).unwrap(), (DiskFormat::Qcow2, true, false));
        assert_eq!(told(format!("root={hidden},qcow2,ro")).unwrap(), (DiskFormat::Qcow2, false, true));
        assert_eq!(told(format!("root={hidden},raw")).unwrap(), (DiskFormat::Raw, false, false));
        assert_eq!(told(format!("root={comma}")).unwrap(), (DiskFormat::Raw, false, false));
        let refused = |text: String, says: &str| {
            let error = disk_of(&text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        };
        refused(format!("root={hidden}"), "holds a qcow2 image");
        refused(format!("root={fake}"), "its content does not");
        refused(format!("root={raw},format=raw"), "\"format=raw\" is nothing");
        refused("root".into(), "expected NAME=FILE");
    }
}

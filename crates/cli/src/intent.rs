//! From the words of `vm create` to what the API takes: paths made absolute, files read and checked here, so that
//! an error names the user's own file.

use crate::argument::VmCreate;
use crate::command::{CommandError, usage};
use proteus_model::id::{DiskName, ServiceName};
use proteus_model::profile::document::Problem;
use proteus_model::seed::{SEED_BYTES_MAX, SeedIntent, check_map, check_user_data};
use proteus_model::vm::{Boot, DiskFormat, DiskIntent, ImageIntent, VmIntent};
use std::io::Read;
use std::path::{Path, PathBuf};

/// An absolute path: the server has another working folder.
fn absolute(path: &Path) -> Result<PathBuf, CommandError> {
    std::fs::canonicalize(path).map_err(|source| CommandError::File { path: path.to_owned(), source })
}

/// What an image says of itself: `NAME.json` beside `NAME.erofs`, as `proteus image build` wrote it.
fn image_of(path: &Path) -> Result<(ImageIntent, Option<ServiceName>), CommandError> {
    let sidecar = path.with_extension("json");
    let text =
        std::fs::read(&sidecar).map_err(|source| CommandError::File { path: sidecar.clone(), source })?;
    let bad = |why: String| usage(format!("{}: {why}", sidecar.display()), "build the image again");
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
    let name = value["name"].as_str().ok_or_else(|| bad("field name: expected a text".into()))?;
    let digest = value["files"]["image"]["sha256"].as_str();
    let digest = digest.ok_or_else(|| bad("field files.image.sha256: expected a digest".into()))?.to_owned();
    let service = name.parse().ok();
    let name = name.parse().map_err(|e: proteus_model::id::NameError| bad(e.to_string()))?;
    Ok((ImageIntent { name, path: absolute(path)?, digest }, service))
}

fn disk_of(text: &str) -> Result<DiskIntent, CommandError> {
    let bad = || usage(format!("--disk {text:?}: expected NAME=FILE"), "as in --disk root=/srv/web.qcow2");
    let (name, file) = text.split_once('=').ok_or_else(bad)?;
    let name: DiskName = name.parse().map_err(|_| bad())?;
    let (file, overlay, read_only) = match file.rsplit_once(',') {
        Some((file, "overlay")) => (file, true, false),
        Some((file, "ro")) => (file, false, true),
        _ => (file, false, false),
    };
    let path = absolute(Path::new(file))?;
    Ok(DiskIntent { name, format: format_of(&path), path, read_only, overlay })
}

fn format_of(path: &Path) -> DiskFormat {
    let qcow2 = path.extension().is_some_and(|ending| ending == "qcow2");
    if qcow2 { DiskFormat::Qcow2 } else { DiskFormat::Raw }
}

/// What a folder of `proteus image build` boots: a small guest, or a full one with its disk.
fn guest_of(dir: &Path, append: &str) -> Result<(Boot, Option<DiskIntent>), CommandError> {
    let kernel = absolute(&dir.join("vmlinuz"))?;
    let disk = dir.join("disk.qcow2");
    if !disk.exists() {
        let initrd = absolute(&dir.join("initramfs.cpio"))?;
        return Ok((Boot::Kernel { kernel, initrd, append: append.to_owned() }, None));
    }
    let path = absolute(&disk)?;
    let name = "root".parse().map_err(|e: proteus_model::id::NameError| usage(e.to_string(), ""))?;
    let disk = DiskIntent { name, format: format_of(&path), path, read_only: false, overlay: true };
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
    let mut bytes = Vec::new();
    // One byte more than may be: the check then says so, also of a file without an end.
    let limit = SEED_BYTES_MAX as u64 + 1;
    std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(failed)?;
    let text = String::from_utf8(bytes).map_err(|e| failed(std::io::Error::other(e)))?;
    check(&path.display().to_string(), &text)
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
    })
}

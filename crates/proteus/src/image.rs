//! `proteus image build`: guests and images, with progress.

use anyhow::{Context, Result};
use proteus_cli::argument::{Image, OutputForm};
use proteus_cli::terminal;
use proteus_host_agent::image::{
    FullOptions, SmallOptions, build_full, build_package_image, build_small, built_in,
};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

/// Size of a full Debian's disk; what is not written takes no space.
const DEBIAN_DISK_MIB: u64 = 2048;

/// Builds what was asked for, one after the other.
pub async fn build(state: &Path, image: &Image, form: OutputForm) -> Result<u8> {
    let Image::Build { what, out, agent, cloud_init } = image;
    let out = out.clone().unwrap_or_else(|| state.join("images"));
    let cloud_init = *cloud_init;
    let mut built = Vec::new();
    for name in what {
        let (name, out, agent) = (name.clone(), out.clone(), agent.clone());
        let one = tokio::task::spawn_blocking(move || build_one(&name, &out, &agent, cloud_init));
        built.push(one.await??);
    }
    if form == OutputForm::Json {
        terminal::say(format_args!("{}", serde_json::to_string_pretty(&json!({ "built": built }))?));
    }
    Ok(0)
}

/// Builds one; what it is, where it is, and whether it was there already.
fn build_one(name: &str, out: &Path, agent: &Path, cloud_init: bool) -> Result<Value> {
    let start = Instant::now();
    let progress = |what: &str| terminal::say_aside(format_args!("  {what}"));
    let (reused, path) = match name {
        "small" => {
            let options = SmallOptions { agent, busybox: true };
            let guest = build_small(&options, out, &progress)?;
            // One name for what is newest: `proteus vm create --guest DIR` looks for these.
            let dir = out.join("small");
            link(&dir, "vmlinuz", &guest.kernel)?;
            link(&dir, "initramfs.cpio", &guest.initramfs)?;
            (guest.reused, dir)
        }
        "debian" => {
            let options = FullOptions { agent, extra_packages: &[], cloud_init, disk_mib: DEBIAN_DISK_MIB };
            let guest = build_full(&options, out, &progress)?;
            let dir = out.join(if cloud_init { "debian-cloud-init" } else { "debian" });
            link(&dir, "vmlinuz", &guest.kernel)?;
            link(&dir, "initrd.img", &guest.initrd)?;
            link(&dir, "disk.qcow2", &guest.disk)?;
            terminal::say_aside(format_args!(
                "proteus vm create NAME --guest {} gives a VM a disk of its own over it",
                dir.display()
            ));
            (guest.reused, dir)
        }
        package => {
            let built = build_package_image(&built_in(package)?, out, &progress)?;
            let ending = built.path.extension().and_then(|e| e.to_str()).unwrap_or("erofs").to_owned();
            let file = format!("{package}.{ending}");
            link(out, &file, &built.path)?;
            (built.reused, out.join(file))
        }
    };
    let how = if reused { "is there already" } else { "built" };
    terminal::say_aside(format_args!("{name} {how} ({:.1} s)", start.elapsed().as_secs_f64()));
    Ok(json!({ "what": name, "path": path, "reused": reused }))
}

/// Points `dir/name` at `target`, in one step.
fn link(dir: &Path, name: &str, target: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let target = std::fs::canonicalize(target)?;
    let (path, next) = (dir.join(name), dir.join(format!("{name}.next")));
    // Left by a build that was cut short.
    let _ = std::fs::remove_file(&next);
    std::os::unix::fs::symlink(&target, &next)?;
    std::fs::rename(&next, &path).with_context(|| format!("write {}", path.display()))
}

//! `proteus image build`: guests and images, with progress.

use anyhow::{Context, Result, bail};
use proteus_cli::argument::Image;
use proteus_host_agent::image::{SmallOptions, build_package_image, build_small, built_in};
use std::path::Path;
use std::time::Instant;

/// Builds what was asked for, one after the other.
pub async fn build(image: &Image) -> Result<u8> {
    let Image::Build { what, out, agent } = image;
    for name in what {
        let (name, out, agent) = (name.clone(), out.clone(), agent.clone());
        tokio::task::spawn_blocking(move || build_one(&name, &out, &agent)).await??;
    }
    Ok(0)
}

fn build_one(name: &str, out: &Path, agent: &Path) -> Result<()> {
    let start = Instant::now();
    let progress = |what: &str| eprintln!("  {what}");
    let reused = match name {
        "small" => {
            let options = SmallOptions { agent, busybox: true };
            let guest = build_small(&options, out, &progress)?;
            // One name for what is newest: `proteus vm create --guest DIR` looks for these.
            link(&out.join("small"), "vmlinuz", &guest.kernel)?;
            link(&out.join("small"), "initramfs.cpio", &guest.initramfs)?;
            guest.reused
        }
        "debian" => bail!("a full Debian guest is not supported here: its builder is not built yet"),
        package => {
            let built = build_package_image(&built_in(package)?, out, &progress)?;
            let ending = built.path.extension().and_then(|e| e.to_str()).unwrap_or("erofs").to_owned();
            link(out, &format!("{package}.{ending}"), &built.path)?;
            built.reused
        }
    };
    let how = if reused { "is there already" } else { "built" };
    eprintln!("{name} {how} ({:.1} s)", start.elapsed().as_secs_f64());
    Ok(())
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

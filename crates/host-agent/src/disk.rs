//! Disks that Proteus makes for a VM: overlays over files of its owner, and the seed for cloud-init. All in the VM's
//! own folder, which goes with the VM. Must never write to the file under an overlay, nor make a disk a second time:
//! what the guest wrote would be lost.

mod qcow2;

use crate::image::ImageError;
use crate::image::tool::XORRISO;
use proteus_hypervisor::driver::Seat;
use proteus_model::seed::SeedIntent;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn file_error(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ImageError {
    let path = path.to_owned();
    move |source| ImageError::File { operation, path, source }
}

/// Makes them all.
pub(crate) async fn furnish(seat: &Seat) -> Result<(), ImageError> {
    let seat = seat.clone();
    let dir = seat.dir.clone();
    let made = tokio::task::spawn_blocking(move || {
        make_overlays(&seat)?;
        seat.intent.seed.as_ref().map_or(Ok(()), |seed| make_seed(&seat, seed))
    });
    made.await.unwrap_or_else(|error| Err(file_error("fill", &dir)(std::io::Error::other(error))))
}

/// Moves a finished disk to its name: the guest's data, so for nobody else to read.
fn finish(made: &Path, path: &Path) -> Result<(), ImageError> {
    fs::set_permissions(made, Permissions::from_mode(0o600)).map_err(file_error("close", made))?;
    fs::rename(made, path).map_err(file_error("name", path))
}

fn make_overlays(seat: &Seat) -> Result<(), ImageError> {
    for disk in seat.intent.disks.iter().filter(|disk| disk.overlay) {
        let path = seat.overlay_path(&disk.name);
        let next = path.with_extension("next");
        qcow2::write_overlay(&next, &disk.path, disk.format)
            .map_err(file_error("make an overlay over", &disk.path))?;
        finish(&next, &path)?;
    }
    Ok(())
}

/// What meta-data says where its owner says nothing: another instance for each VM, named as the VM is.
fn meta_data(seat: &Seat) -> String {
    format!("instance-id: {}\nlocal-hostname: {}\n", seat.id, seat.intent.name)
}

fn make_seed(seat: &Seat, seed: &SeedIntent) -> Result<(), ImageError> {
    let tree = tempfile::tempdir_in(&seat.dir).map_err(file_error("make a folder in", &seat.dir))?;
    let meta_data = seed.meta_data.clone().unwrap_or_else(|| meta_data(seat));
    let files = [
        ("user-data", Some(&seed.user_data)),
        ("meta-data", Some(&meta_data)),
        ("network-config", seed.network_config.as_ref()),
    ];
    for (name, text) in files {
        let path = tree.path().join(name);
        text.map_or(Ok(()), |text| fs::write(&path, text)).map_err(file_error("write", &path))?;
    }
    let path = seat.seed_path();
    let next = path.with_extension("next");
    let (made, from) = (next.display().to_string(), tree.path().display().to_string());
    // Joliet and Rock Ridge: names longer than eight letters.
    let args = ["-as", "mkisofs", "-quiet", "-V", "CIDATA", "-J", "-r", "-o", &made, &from];
    XORRISO.run("make the seed disk", &seat.dir, args)?;
    finish(&next, &path)
}

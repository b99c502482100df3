//! A saved VM's folder, and its disks, which nobody writes to while it is a template.

use proteus_hypervisor::driver::Seat;
use proteus_model::vm::DiskIntent;
use proteus_protocol::node::v1::{NodeError, NodeErrorCode};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;

/// Where a saved VM is.
pub(crate) fn template_dir(seat: &Seat) -> PathBuf {
    seat.dir.join("template")
}

/// Whether the VM is a template.
pub(crate) fn is_template(seat: &Seat) -> bool {
    template_dir(seat).join("template.json").exists()
}

/// The disks that clones get: overlays over what the template wrote to, the rest as it is.
pub(crate) fn disks_of_clones(seat: &Seat) -> Vec<DiskIntent> {
    let own = seat.disks().into_iter().filter(|disk| seat.intent.disks.iter().any(|d| d.name == disk.name));
    own.map(|disk| DiskIntent { overlay: !disk.read_only, ..disk }).collect()
}

/// Nobody writes to a template's disks from now on, and each clone, which has a user of its own, may read them.
pub(crate) fn set_frozen(seat: &Seat, frozen: bool) -> Result<(), NodeError> {
    for disk in disks_of_clones(seat).iter().filter(|disk| disk.overlay) {
        let (owner, mode) = if frozen { (0, 0o444) } else { (seat.uid(), 0o644) };
        let done = chown(&disk.path, Some(owner), Some(owner))
            .and_then(|()| fs::set_permissions(&disk.path, Permissions::from_mode(mode)));
        let failed =
            |e| NodeError::new(NodeErrorCode::Failed, format!("freeze {}: {e}", disk.path.display()));
        done.map_err(failed)?;
    }
    Ok(())
}

/// What the template's disks were before, as far as it matters: somebody may write again.
pub(crate) fn thaw(seat: &Seat) -> Result<(), NodeError> {
    if is_template(seat) { set_frozen(seat, false) } else { Ok(()) }
}

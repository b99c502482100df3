//! A saved VM's folder, and its disks, which nobody writes to while it is a template.

use proteus_hypervisor::driver::Seat;
use proteus_hypervisor::ownership::Holder;
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
pub(crate) fn freeze(seat: &Seat) -> Result<(), NodeError> {
    for disk in disks_of_clones(seat).iter().filter(|disk| disk.overlay) {
        let done = chown(&disk.path, Some(0), Some(0))
            .and_then(|()| fs::set_permissions(&disk.path, Permissions::from_mode(0o444)));
        let failed =
            |e| NodeError::new(NodeErrorCode::Failed, format!("freeze {}: {e}", disk.path.display()));
        done.map_err(failed)?;
    }
    Ok(())
}

/// Who has the disks of its owner's.
pub(crate) fn holder(seat: &Seat) -> Holder {
    if is_template(seat) { Holder::Template } else { Holder::Vmm }
}

//! Images: read-only disks plugged into root ports and taken out again. Device ids are never used twice.

use crate::driver::{DriverError, Seat};
use crate::qemu::command_line::{Plugged, PluggedImage, ROOT_PORTS};
use crate::qemu::{Live, QemuVm, process, vm_call};
use proteus_model::id::ImageName;
use proteus_model::setting::{Knob, Setting};
use serde_json::{Value, json};
use std::time::Duration;

/// Longest time that a guest may take to let a device go. It takes 80–200 ms.
const UNPLUG_LIMIT: Duration = Duration::from_secs(15);

/// The images of the intent, in the first ports.
pub(in crate::qemu) fn plugged_at_start(seat: &Seat) -> Plugged {
    let place = |(port, image): (u8, &proteus_model::vm::ImageIntent)| PluggedImage {
        device: format!("img-{}-0", image.name),
        port,
        image: image.clone(),
    };
    Plugged { images: (0..ROOT_PORTS).zip(&seat.intent.images).map(place).collect(), vcpus: 0 }
}

pub(super) fn read(live: &Live, image: &ImageName) -> Setting {
    let found = live.run.plugged.images.iter().find(|plugged| plugged.image.name == *image);
    Setting::Image { image: image.clone(), digest: found.map(|plugged| plugged.image.digest.clone()) }
}

pub(super) async fn apply(
    vm: &QemuVm,
    live: &mut Live,
    image: &ImageName,
    digest: Option<&str>,
) -> Result<(), DriverError> {
    let there = live.run.plugged.images.iter().find(|plugged| plugged.image.name == *image).cloned();
    if there.as_ref().map(|plugged| plugged.image.digest.as_str()) == digest {
        return Ok(());
    }
    if let Some(plugged) = there {
        detach(vm, live, &plugged).await?;
    }
    match digest {
        Some(digest) => attach(vm, live, image, digest).await,
        None => Ok(()),
    }
}

/// A number that no device of this name had before: ids of devices must be fresh.
fn fresh(live: &Live, image: &ImageName, nodes: &Value) -> String {
    let used = |id: &str| {
        let node = format!("n-{id}");
        live.run.plugged.images.iter().any(|plugged| plugged.device == id)
            || nodes.as_array().is_some_and(|all| all.iter().any(|n| n["node-name"] == node.as_str()))
    };
    let free = (1..).map(|n| format!("img-{image}-{n}")).find(|id| !used(id));
    free.unwrap_or_default()
}

async fn attach(vm: &QemuVm, live: &mut Live, image: &ImageName, digest: &str) -> Result<(), DriverError> {
    let knob = || Knob::Image(image.clone());
    let known = live.offered.iter().find(|known| known.name == *image && known.digest == digest).cloned();
    let Some(intent) = known else {
        return Err(DriverError::Unsupported {
            knob: knob(),
            why: "no such image was offered to the VM".into(),
        });
    };
    let taken = |port: &u8| live.run.plugged.images.iter().any(|plugged| plugged.port == *port);
    let Some(port) = (0..ROOT_PORTS).find(|port| !taken(port)) else {
        let why = format!("all {ROOT_PORTS} ports of the VM are taken");
        return Err(DriverError::Unsupported { knob: knob(), why });
    };
    let (id, doing) = (vm.seat.id, "attach an image");
    let flat = json!({"flat": true});
    let nodes = vm_call(id, &live.qmp, doing, "query-named-block-nodes", flat).await?;
    let device = fresh(live, image, &nodes);
    let node = json!({"driver": "raw", "node-name": format!("n-{device}"), "read-only": true,
        "file": {"driver": "file", "filename": intent.path, "read-only": true}});
    vm_call(id, &live.qmp, doing, "blockdev-add", node).await?;
    let plug = json!({"driver": "virtio-blk-pci", "id": device, "drive": format!("n-{device}"),
        "serial": image, "bus": format!("rp{port}")});
    if let Err(error) = vm_call(id, &live.qmp, doing, "device_add", plug).await {
        vm_call(id, &live.qmp, doing, "blockdev-del", json!({"node-name": format!("n-{device}")})).await?;
        return Err(error);
    }
    live.run.plugged.images.push(PluggedImage { device, port, image: intent });
    process::save_run_state(&vm.seat, &live.run)
}

async fn detach(vm: &QemuVm, live: &mut Live, plugged: &PluggedImage) -> Result<(), DriverError> {
    let (id, doing, device) = (vm.seat.id, "detach an image", &plugged.device);
    let mut events = live.qmp.events();
    vm_call(id, &live.qmp, doing, "device_del", json!({ "id": device })).await?;
    let gone = async {
        loop {
            match events.recv().await {
                Ok(event) if event.name == "DEVICE_DELETED" && event.data["device"] == device.as_str() => {
                    break;
                }
                Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(tokio::sync::broadcast::error::RecvError::Closed) => break,
            }
        }
    };
    if tokio::time::timeout(UNPLUG_LIMIT, gone).await.is_err() {
        return Err(DriverError::Stalled {
            vm: id,
            knob: Knob::Image(plugged.image.name.clone()),
            stayed: "attached".into(),
            asked: "not attached".into(),
            waited: proteus_model::unit::Millis(UNPLUG_LIMIT.as_secs() * 1000),
        });
    }
    vm_call(id, &live.qmp, doing, "blockdev-del", json!({"node-name": format!("n-{device}")})).await?;
    live.run.plugged.images.retain(|other| other.device != *device);
    process::save_run_state(&vm.seat, &live.run)
}

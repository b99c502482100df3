//! A guest that QEMU stopped because it cannot go on: its disk's file could not grow. It waits so until there is
//! room again and it is told to go on; nothing of it is lost.

use super::qmp::Qmp;
use super::vm_call;
use crate::driver::DriverError;
use proteus_model::id::VmId;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

/// How long a guest that was told to go on is watched. The write that failed is the first thing it tries again.
const AGAIN_LIMIT: Duration = Duration::from_secs(1);

/// The disks that stopped it, as `query-block` tells: name, and what is wrong with it.
fn failed_disks(blocks: &Value) -> Vec<String> {
    let all = blocks.as_array().map(Vec::as_slice).unwrap_or_default();
    let failed = all.iter().filter_map(|block| {
        let what = match block["io-status"].as_str()? {
            "nospace" => "there is no space left for it on the host",
            "failed" => "the host could not read or write it",
            _ => return None,
        };
        let path = block["qdev"].as_str()?;
        let device = path.split('/').find_map(|part| part.strip_prefix("disk-")).unwrap_or(path);
        Some(format!("disk {device}: {what}"))
    });
    failed.collect()
}

/// Why the guest's CPUs stand still, where it is not Proteus that holds them.
pub(super) async fn why(qmp: &Qmp) -> Option<String> {
    let status = qmp.call("query-status", Value::Null).await.ok()?;
    match status["status"].as_str()? {
        "io-error" => {
            let blocks = qmp.call("query-block", Value::Null).await.ok()?;
            let disks = failed_disks(&blocks);
            Some(if disks.is_empty() { "a disk met an error".into() } else { disks.join("; ") })
        }
        "internal-error" => Some("the hypervisor met an error of its own".into()),
        _ => None,
    }
}

/// Lets a guest go on that a disk stopped. An error: it is stopped again at once.
pub(super) async fn resume(vm: VmId, qmp: &Qmp) -> Result<(), DriverError> {
    if why(qmp).await.is_none() {
        return Ok(());
    }
    let mut events = qmp.events();
    vm_call(vm, qmp, "let the guest go on", "cont", Value::Null).await?;
    let stopped_again = async {
        loop {
            match events.recv().await {
                Ok(event) if event.name == "BLOCK_IO_ERROR" && event.data["action"] == json!("stop") => {
                    return;
                }
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                // Its VMM ended: what it is now is told by whoever looks.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    };
    // Cancel-safe: it only listens.
    if tokio::time::timeout(AGAIN_LIMIT, stopped_again).await.is_err() {
        return Ok(());
    }
    let why = why(qmp).await.unwrap_or_else(|| "a disk met an error".into());
    Err(DriverError::Halted { vm, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_that_failed_is_named() {
        let blocks = json!([
            { "qdev": "/machine/peripheral/disk-root/virtio-backend", "io-status": "ok" },
            { "qdev": "/machine/peripheral/disk-data/virtio-backend", "io-status": "nospace" },
            { "qdev": "/machine/peripheral/cd0" },
        ]);
        assert_eq!(failed_disks(&blocks), ["disk data: there is no space left for it on the host"]);
    }
}

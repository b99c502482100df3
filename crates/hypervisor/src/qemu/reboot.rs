//! Counts how often a guest started anew by itself, after a reboot, a reset or a panic: its VMM stays, and only an
//! event of the control socket tells of it.

use super::qmp::{Event, Qmp};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

/// Whether an event says that the guest begins anew. A VMM that loads a snapshot says `RESET` too, and means itself.
fn is_reboot(event: &Event) -> bool {
    let asked_for = event.data["reason"] == json!("host-qmp-system-reset");
    event.name == "RESET" && (event.data["guest"] == json!(true) || asked_for)
}

/// Counts what this control socket tells, until it closes.
pub(super) fn count(qmp: &Qmp, reboots: &Arc<watch::Sender<u64>>) {
    // Weak: whoever waits for a reboot of a VM that ended must be told that there will be none.
    let (mut events, reboots) = (qmp.events(), Arc::downgrade(reboots));
    tokio::spawn(async move {
        loop {
            let rebooted = match events.recv().await {
                Ok(event) => is_reboot(&event),
                // It may have been among those that were missed. To look once too often costs little.
                Err(RecvError::Lagged(_)) => true,
                Err(RecvError::Closed) => return,
            };
            let Some(reboots) = reboots.upgrade() else { return };
            if rebooted {
                reboots.send_modify(|count| *count += 1);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_begins_the_guest_anew_is_one() {
        let event = |name: &str, data| Event { name: name.into(), data };
        assert!(is_reboot(&event("RESET", json!({ "guest": true, "reason": "guest-reset" }))));
        assert!(is_reboot(&event("RESET", json!({ "guest": false, "reason": "host-qmp-system-reset" }))));
        assert!(!is_reboot(&event("RESET", json!({ "guest": false, "reason": "snapshot-load" }))));
        assert!(!is_reboot(&event("SHUTDOWN", json!({ "guest": true, "reason": "guest-shutdown" }))));
        assert!(!is_reboot(&event("RESET", serde_json::Value::Null)));
    }
}

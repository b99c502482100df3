//! `proteus host uplink`: whether and how guests reach the outside.

use super::{Outcome, Session, asked};
use crate::argument::Uplink;
use crate::output;
use proteus_protocol::api::v1::{UplinkRequest, UplinkView};
use serde_json::json;

impl Session {
    pub(super) async fn uplink(&self, command: &Uplink) -> Outcome {
        match command {
            Uplink::Show => {
                let view: UplinkView = self.client.get("/host/uplink").await?;
                self.print(&view, || output::uplink(&view));
            }
            Uplink::Enable { interface, dns, allow, dry_run } => {
                let request = UplinkRequest {
                    interface: interface.clone(),
                    dns: dns.clone(),
                    allow: allow.clone(),
                    dry_run: *dry_run,
                };
                let view: UplinkView = self.client.post("/host/uplink", &request).await?;
                self.print(&view, || match dry_run {
                    true => output::uplink(&view).replacen("guests reach", "guests would reach", 1),
                    false => output::uplink(&view),
                });
            }
            Uplink::Disable { dry_run: true } => {
                let view: UplinkView = self.client.get("/host/uplink").await?;
                let () = self.client.delete(&asked("/host/uplink", true)).await?;
                self.print(&view, || output::uplink_end(&view));
            }
            Uplink::Disable { dry_run: false } => {
                let () = self.client.delete("/host/uplink").await?;
                self.print(&json!({ "enabled": false }), || {
                    "guests reach nothing outside; link, rules and forwarding are as before\n".to_owned()
                });
            }
        }
        Ok(0)
    }
}

//! The guests' way out as its operator meets it: asked for once, kept, made again whenever Proteus starts. Must
//! never make one that nobody asked for.

use crate::control::{Control, ControlError};
use proteus_model::uplink::{UplinkIntent, UplinkObserved};
use serde_json::json;

/// Key of the record that is there while the way out is wanted.
const WANTED: &str = "uplink";

impl Control {
    /// What is wanted, and what is.
    pub async fn uplink(&self) -> Result<(Option<UplinkIntent>, Option<UplinkObserved>), ControlError> {
        let wanted = self.records.get::<UplinkIntent>(WANTED).await?.map(|found| found.value);
        Ok((wanted, self.node.uplink().await?))
    }

    /// The way out as it would be. Changes nothing.
    pub async fn plan_uplink(&self, intent: &UplinkIntent) -> Result<UplinkObserved, ControlError> {
        Ok(self.node.plan_uplink(intent).await?)
    }

    /// Makes the way out, and keeps it.
    pub async fn enable_uplink(
        &self,
        intent: &UplinkIntent,
        actor: &str,
    ) -> Result<UplinkObserved, ControlError> {
        let made = self.node.enable_uplink(intent).await?;
        let old = self.records.get::<UplinkIntent>(WANTED).await?.map(|found| found.rev);
        self.records.commit(self.records.batch().put(WANTED, intent, old)?).await?;
        let evidence = json!({ "wanted": intent, "made": made });
        self.write_audit(actor, "uplink.enable", "host", "asked for", evidence).await?;
        Ok(made)
    }

    /// Takes the way out away. `false`: there was none.
    pub async fn disable_uplink(&self, actor: &str) -> Result<bool, ControlError> {
        let was = self.node.uplink().await?;
        self.node.disable_uplink().await?;
        let found = self.records.get::<UplinkIntent>(WANTED).await?;
        let there = was.is_some() || found.is_some();
        if let Some(found) = found {
            self.records.commit(self.records.batch().delete(WANTED, found.rev)?).await?;
        }
        if there {
            let evidence = json!({ "was": was });
            self.write_audit(actor, "uplink.disable", "host", "asked for", evidence).await?;
        }
        Ok(there)
    }

    /// Makes the way out that is wanted, at the start of Proteus.
    pub async fn restore_uplink(&self) -> Result<(), ControlError> {
        if let (Some(wanted), _) = self.uplink().await? {
            self.node.enable_uplink(&wanted).await?;
        }
        Ok(())
    }
}

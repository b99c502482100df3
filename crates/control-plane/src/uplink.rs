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
        let old = self.records.get::<UplinkIntent>(WANTED).await?;
        let batch = self.records.batch().put(WANTED, intent, old.as_ref().map(|found| found.rev))?;
        let evidence = json!({ "wanted": intent });
        let entry = self.entry(actor, "uplink.enable", "host", "asked for", evidence);
        // Written down first: a way out that a killed Proteus left is then one that somebody asked for.
        let rev = self.commit_audited(batch, entry).await?;
        match self.node.enable_uplink(intent).await {
            Ok(made) => Ok(made),
            Err(error) => {
                let batch = match &old {
                    Some(found) => self.records.batch().put(WANTED, &found.value, Some(rev))?,
                    None => self.records.batch().delete(WANTED, rev)?,
                };
                let why = format!("it could not be made: {error}");
                self.commit_audited(batch, self.entry(actor, "uplink.enable", "host", &why, json!({})))
                    .await?;
                Err(error.into())
            }
        }
    }

    /// Takes the way out away. `false`: there was none.
    pub async fn disable_uplink(&self, actor: &str) -> Result<bool, ControlError> {
        let was = self.node.uplink().await?;
        let found = self.records.get::<UplinkIntent>(WANTED).await?;
        if was.is_none() && found.is_none() {
            self.node.disable_uplink().await?;
            return Ok(false);
        }
        // Written down first, on a full disk too: what is left of it is taken away at the next start of Proteus.
        let mut batch = self.records.batch().relief();
        if let Some(found) = found {
            batch = batch.delete(WANTED, found.rev)?;
        }
        let entry = self.entry(actor, "uplink.disable", "host", "asked for", json!({ "was": was }));
        self.commit_audited(batch, entry).await?;
        let disabled = self.node.disable_uplink().await;
        if let Err(error) = &disabled {
            let why = error.to_string();
            let entry = self.entry(actor, "uplink.disable_failed", "host", &why, json!({}));
            self.audit.append(entry).await?;
        }
        Ok(disabled.map(|()| true)?)
    }

    /// Makes the way out that is wanted, and takes away one that is not, at the start of Proteus.
    pub async fn restore_uplink(&self) -> Result<(), ControlError> {
        match self.uplink().await? {
            (Some(wanted), _) => {
                self.node.enable_uplink(&wanted).await?;
            }
            (None, Some(_)) => self.node.disable_uplink().await?,
            (None, None) => {}
        }
        Ok(())
    }
}

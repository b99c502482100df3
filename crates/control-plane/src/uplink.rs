//! The guests' way out as its operator meets it: asked for once, kept, made again whenever Proteus starts. Who changes
//! it takes turns, over the record and the host: two at once would leave one telling what the other is not. Must never
//! make one that nobody asked for.

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

    /// Makes the way out, and keeps it. Where it cannot be made, what was before is again.
    pub async fn enable_uplink(
        &self,
        intent: &UplinkIntent,
        actor: &str,
    ) -> Result<UplinkObserved, ControlError> {
        let _turn = self.uplink_turn.lock().await;
        let old = self.records.get::<UplinkIntent>(WANTED).await?;
        let batch = self.records.batch().put(WANTED, intent, old.as_ref().map(|found| found.rev))?;
        let evidence = json!({ "wanted": intent });
        let entry = self.entry(actor, "uplink.enable", "host", "asked for", evidence);
        // Written down first: a way out that a killed Proteus left is then one that somebody asked for.
        let rev = self.commit_audited(batch, entry).await?;
        let error = match self.node.enable_uplink(intent).await {
            Ok(made) => return Ok(made),
            Err(error) => error,
        };
        let batch = self.records.batch().relief();
        let batch = match &old {
            Some(found) => batch.put(WANTED, &found.value, Some(rev))?,
            None => batch.delete(WANTED, rev)?,
        };
        let why = format!("it could not be made: {error}");
        let entry = self.entry(actor, "uplink.enable_failed", "host", &why, json!({}));
        let written = self.commit_audited(batch, entry).await;
        // What failed half-way is taken away by the node, and what was there before it too.
        if let Some(found) = old
            && let Err(error) = self.node.enable_uplink(&found.value).await
        {
            tracing::error!(%error, "the way out that was there before is not there again");
        }
        match written {
            Ok(_) => Err(error.into()),
            Err(untold) => Err(untold.after(format!("the way out could not be made: {error}"))),
        }
    }

    /// Takes the way out away. `false`: there was none.
    pub async fn disable_uplink(&self, actor: &str) -> Result<bool, ControlError> {
        let _turn = self.uplink_turn.lock().await;
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
            if let Err(untold) = self.audit.append(entry).await {
                tracing::warn!(error = %untold, "not written down that the way out was not taken away");
            }
        }
        Ok(disabled.map(|()| true)?)
    }

    /// Makes the way out that is wanted, and takes away one that is not, at the start of Proteus.
    pub async fn restore_uplink(&self) -> Result<(), ControlError> {
        let _turn = self.uplink_turn.lock().await;
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

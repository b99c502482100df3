//! Backups of the records while Proteus serves. Must never write anywhere but into the folder of backups: whoever
//! asks names no path.

use crate::control::{Control, ControlError};
use crate::record::RecordError;
use crate::store::StoreError;
use serde_json::json;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::pin::Pin;

/// A backup in the making.
pub type BackupFuture = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

/// Copies the whole store into a new file. Given by whoever opened the store: not every store is a file.
pub type WriteBackup = Box<dyn Fn(PathBuf) -> BackupFuture + Send + Sync>;

/// Where backups go and how they are made.
pub(crate) struct Backups {
    dir: PathBuf,
    write: WriteBackup,
}

impl Control {
    /// The folder of backups, and what writes them. Until it is told there are none.
    pub fn keep_backups(&self, dir: PathBuf, write: WriteBackup) {
        // Told once, when the parts are wired.
        let _ = self.backups.set(Backups { dir, write });
    }

    /// Copies records, journal and audit log into a new file, which this gives. Commits wait meanwhile.
    pub async fn back_up(&self, actor: &str) -> Result<PathBuf, ControlError> {
        let Some(Backups { dir, write }) = self.backups.get() else {
            return Err(ControlError::Conflict {
                what: "this store has no backups".into(),
                hint: "back it up by its own means".into(),
            });
        };
        // The entry first: then the copy has it, and its revision makes a name that no other backup has.
        let entry = self.entry(actor, "store.backup", "store", "asked for", json!({}));
        let rev = self.commit_audited(self.records.batch(), entry).await?;
        let path = dir.join(format!("proteus-{}.db", rev.0));
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        let made = made.map_err(|source| StoreError::Io {
            doing: "make the folder of backups",
            path: dir.clone(),
            source,
        });
        made.map_err(RecordError::from)?;
        write(path.clone()).await.map_err(RecordError::from)?;
        Ok(path)
    }
}

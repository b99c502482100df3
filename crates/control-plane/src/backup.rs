//! Backups of the records while Proteus serves. Must never write anywhere but into the folder of backups: whoever
//! asks names no path.

use crate::store::{Rev, StoreError};
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

impl Backups {
    pub(crate) fn new(dir: PathBuf, write: WriteBackup) -> Self {
        Self { dir, write }
    }

    /// Copies the store into a new file, which this gives. `rev` makes a name that no other backup has.
    pub(crate) async fn make(&self, rev: Rev) -> Result<PathBuf, StoreError> {
        let path = self.dir.join(format!("proteus-{}.db", rev.0));
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        made.map_err(|source| StoreError::Io {
            doing: "make the folder of backups",
            path: self.dir.clone(),
            source,
        })?;
        (self.write)(path.clone()).await?;
        Ok(path)
    }
}

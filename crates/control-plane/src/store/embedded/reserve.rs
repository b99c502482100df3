//! Space on the disk that is kept for commits that help out of a full one: a file that holds nothing. It is given up
//! when such a commit finds no space, and must be there again before any other commit is taken.

use rustix::fs::{FallocateFlags, fallocate};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tracing::{info, warn};

/// How much: some hundred stops of VMs, and the write-ahead log's usual growth beside them (1000 pages of 4 KiB).
const RESERVE_BYTES: u64 = 8 << 20;

/// The space.
pub(super) struct Reserve {
    path: PathBuf,
    held: bool,
}

impl Reserve {
    /// Takes hold of the space below `folder`. A disk that is too full for it can still be read.
    pub(super) fn of(folder: &Path) -> Self {
        let mut reserve = Self { path: folder.join("reserve"), held: false };
        if !reserve.hold() {
            warn!("the disk of the state is full: VMs can be stopped, nothing can be begun");
        }
        reserve
    }

    /// Whether the space is held, after trying to get it back.
    pub(super) fn hold(&mut self) -> bool {
        if !self.held {
            let mut options = OpenOptions::new();
            let file = options.write(true).create(true).truncate(false).mode(0o600).open(&self.path);
            let held = file.and_then(|file| {
                let allocated = fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES);
                if allocated.is_err() {
                    // Part of it may have been had: others need it more. If even that fails, so be it.
                    let _ = file.set_len(0);
                }
                Ok(allocated?)
            });
            self.held = held.is_ok();
        }
        self.held
    }

    /// Gives the space up. Whether that gave any.
    pub(super) fn give_up(&mut self) -> bool {
        let had = std::mem::replace(&mut self.held, false);
        if had {
            info!("the disk of the state is full: the space kept for that is given up");
        }
        had && OpenOptions::new().write(true).truncate(true).open(&self.path).is_ok()
    }
}

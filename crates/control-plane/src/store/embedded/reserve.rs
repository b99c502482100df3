//! Space on the disk that is kept for commits that help out of a full one: a file that holds nothing. When such a commit
//! finds no space, a piece of it is given up: whatever fills the disk takes that piece at most. All of it must be there
//! again before any other commit is taken.

use rustix::fs::{FallocateFlags, fallocate};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tracing::{info, warn};

/// How much: some hundred stops of VMs, and the write-ahead log's usual growth beside them (1000 pages of 4 KiB).
const RESERVE_BYTES: u64 = 8 << 20;

/// How much is given up at once: a commit and what the write-ahead log grows by with it.
const PIECE_BYTES: u64 = 512 << 10;

/// The space.
pub(super) struct Reserve {
    path: PathBuf,
    held: u64,
}

impl Reserve {
    /// Takes hold of the space below `folder`. A disk that is too full for it can still be read.
    pub(super) fn of(folder: &Path) -> Self {
        let mut reserve = Self { path: folder.join("reserve"), held: 0 };
        if !reserve.hold() {
            warn!("the disk of the state is full: VMs can be stopped, nothing can be begun");
        }
        reserve
    }

    /// Whether the space is held, after trying to get it back.
    pub(super) fn hold(&mut self) -> bool {
        if self.held < RESERVE_BYTES {
            let mut options = OpenOptions::new();
            let file = options.write(true).create(true).truncate(false).mode(0o600).open(&self.path);
            let held = file.and_then(|file| {
                let before = file.metadata()?.len().min(RESERVE_BYTES);
                match fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES) {
                    Ok(()) => Ok(RESERVE_BYTES),
                    // What more of it was had than before goes back: it is no use half.
                    Err(_) => file.set_len(before).map(|()| before),
                }
            });
            self.held = held.unwrap_or(self.held);
        }
        self.held == RESERVE_BYTES
    }

    /// Gives a piece of the space up. Whether that gave any.
    pub(super) fn give_up(&mut self) -> bool {
        let left = self.held.saturating_sub(PIECE_BYTES);
        let file = OpenOptions::new().write(true).open(&self.path);
        if self.held == 0 || file.and_then(|file| file.set_len(left)).is_err() {
            return false;
        }
        self.held = left;
        info!(left, "the disk of the state is full: a piece of the space kept for that is given up");
        true
    }
}

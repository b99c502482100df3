//! Digests of the files below `/etc`, with owner and mode. A file is read anew only when the kernel says that it was
//! touched. The key of the digests stays in the guest, so that nobody can guess a password by its file's digest.

use super::super::walk::{Go, Met, Walk, beginning};
use super::{Entries, Look};
use crate::digest::digest;
use rustix::fs::Stat;
use std::collections::BTreeMap;
use std::path::Path;

/// Most files that are watched.
const FILES_MAX: usize = 4096;
/// A file that is longer is known by its size and time only.
const READ_BYTES_MAX: usize = 256 << 10;
/// What a step reads, and how many entries it looks at.
const STEP_BYTES: usize = 128 << 10;
const STEP_ENTRIES: usize = 256;
/// What changes by itself.
const VOLATILE: [&str; 6] = ["mtab", "adjtime", ".pwd.lock", "ld.so.cache", "blkid.tab", ".updated"];

/// What the kernel says of a file: what differs when it was touched.
type Stamp = [i64; 7];

/// What is known of files, by their paths.
type Files = BTreeMap<String, (Stamp, String)>;

fn stamp(stat: &Stat) -> Stamp {
    [
        stat.st_ino.cast_signed(),
        stat.st_size,
        stat.st_mtime,
        stat.st_mtime_nsec.cast_signed(),
        stat.st_ctime,
        stat.st_ctime_nsec.cast_signed(),
        stat.st_dev.cast_signed(),
    ]
}

/// A round over them.
struct Round {
    walk: Walk,
    found: Files,
    over: usize,
    unread: usize,
}

/// The files.
#[derive(Default)]
pub struct Etc {
    known: Files,
    round: Option<Round>,
    buffer: Vec<u8>,
}

/// The path of a file below `/etc`.
fn path(folder: &[u8], name: &[u8]) -> String {
    let mut path = folder.strip_prefix(b".").unwrap_or(folder).to_vec();
    path.push(b'/');
    path.extend(name);
    String::from_utf8_lossy(&path[1..]).into_owned()
}

impl Round {
    fn meet(
        &mut self,
        (folder, met): (&[u8], Met<'_>),
        (known, buffer, key): (&Files, &mut Vec<u8>, [u64; 2]),
    ) -> usize {
        let (dir, name, stat) = match met {
            Met::File(dir, name, stat) => (dir, name, stat),
            Met::Unread => {
                self.unread += 1;
                return 0;
            }
            Met::Listing(_) | Met::Passed | Met::Folder => return 0,
        };
        let path = path(folder, name.to_bytes());
        if VOLATILE.contains(&path.as_str()) {
            return 0;
        }
        if self.found.len() == FILES_MAX {
            self.over += 1;
            return 0;
        }
        let stamp = stamp(stat);
        if let Some(before) = known.get(&path).filter(|(before, _)| *before == stamp) {
            self.found.insert(path, before.clone());
            return 0;
        }
        let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
        let about = format!("{:04o} {}:{}", stat.st_mode & 0o7777, stat.st_uid, stat.st_gid);
        let (digest, read) = if size > READ_BYTES_MAX {
            (digest(key, format!("{} {}", stat.st_size, stat.st_mtime).as_bytes()), 0)
        } else {
            let Some(content) = beginning(dir, (name, stat.st_ino), READ_BYTES_MAX, buffer) else {
                self.unread += 1;
                // Not read is not gone.
                self.found.extend(known.get(&path).map(|before| (path, before.clone())));
                return 0;
            };
            (digest(key, content), content.len())
        };
        // Half of its 128 bits: one of 2^64 changes is not seen.
        self.found.insert(path, (stamp, format!("{:016x} {about}", digest as u64)));
        read
    }
}

impl Etc {
    /// A part of a round; `None`: it goes on.
    pub fn look(&mut self, root: &Path, key: [u64; 2]) -> Option<Look> {
        let new = || Round { walk: Walk::new(&root.join("etc")), found: Files::new(), over: 0, unread: 0 };
        let mut round = self.round.take().unwrap_or_else(new);
        let (mut bytes, mut entries) = (0, 0);
        let mut walk = std::mem::replace(&mut round.walk, Walk::new(root));
        let is_left = walk.go_on(|folder, met| {
            bytes += round.meet((folder, met), (&self.known, &mut self.buffer, key));
            entries += 1;
            if bytes > STEP_BYTES || entries >= STEP_ENTRIES { Go::Pause } else { Go::On }
        });
        if is_left {
            round.walk = walk;
            self.round = Some(round);
            return None;
        }
        self.buffer = Vec::new();
        self.known = round.found;
        let lacking = match (round.over, round.unread) {
            (0, 0) => None,
            (over, unread) => {
                Some(format!("{over} files more than {FILES_MAX} and {unread} unreadable ones are left out"))
            }
        };
        if self.known.is_empty() {
            return Some(Look::Unknown("there is no file below /etc".to_owned()));
        }
        let entries: Entries =
            self.known.iter().map(|(path, (_, value))| (format!("/etc/{path}"), value.clone())).collect();
        Some(Look::Seen(entries, lacking))
    }
}

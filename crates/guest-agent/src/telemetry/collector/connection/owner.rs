//! Which program has which socket, by the open files in `/proc`. Must never hold more than the sockets it was asked for.

use crate::procfs::{each_entry, process_ids, read_text};
use std::collections::HashMap;
use std::path::PathBuf;

/// Processes that are looked at in one step.
const PROCESSES: usize = 16;
/// Most processes of a round.
const PROCESSES_MAX: usize = 512;
/// Most open files of one process that are looked at.
const FILES_MAX: usize = 4096;

/// The owners of sockets, as far as they were found.
pub struct Owners {
    left: Vec<u32>,
    programs: HashMap<u32, Option<String>>,
}

/// The number in `socket:[NUMBER]`.
fn inode(target: &str) -> Option<u32> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Leaves out what is over the most processes. The first ones are the kernel's threads, which have no sockets: the last
/// ones stay, and of them the youngest are looked at first.
fn drop_oldest(processes: &mut Vec<u32>) {
    processes.drain(..processes.len().saturating_sub(PROCESSES_MAX));
}

impl Owners {
    /// Begins to look for the owners of these.
    pub fn list(inodes: impl Iterator<Item = u32>) -> Self {
        let mut left = process_ids();
        drop_oldest(&mut left);
        Self { left, programs: inodes.filter(|inode| *inode > 0).map(|inode| (inode, None)).collect() }
    }

    /// Looks at some processes; true: that was all.
    pub fn take_some(&mut self) -> bool {
        if self.programs.is_empty() {
            return true;
        }
        for _ in 0..PROCESSES {
            let Some(pid) = self.left.pop() else { return true };
            self.look(pid);
        }
        self.left.is_empty()
    }

    fn look(&mut self, pid: u32) {
        let folder = PathBuf::from(format!("/proc/{pid}/fd"));
        let (programs, mut name, mut seen) = (&mut self.programs, None, 0);
        each_entry(&folder, |file, _| {
            seen += 1;
            let Ok(file) = file.to_str() else { return };
            let Some(target) = std::fs::read_link(folder.join(file)).ok().filter(|_| seen <= FILES_MAX)
            else {
                return;
            };
            let socket = target.to_str().and_then(inode).and_then(|inode| programs.get_mut(&inode));
            let Some(owner) = socket.filter(|owner| owner.is_none()) else { return };
            let read = || read_text(format!("/proc/{pid}/comm")).ok();
            *owner = name.get_or_insert_with(read).clone();
        });
    }

    /// The program of a socket.
    pub fn of(&self, inode: u32) -> Option<String> {
        self.programs.get(&inode).cloned().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    #[test]
    fn of_too_many_processes_the_last_ones_stay() {
        let mut processes: Vec<u32> = (1..=600).collect();
        drop_oldest(&mut processes);
        assert_eq!((processes.len(), processes[0], processes[511]), (PROCESSES_MAX, 89, 600));
        drop_oldest(&mut processes);
        assert_eq!(processes.len(), PROCESSES_MAX);
    }

    #[test]
    fn the_socket_of_this_process_is_its_own() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = std::fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let own = inode(link.to_str().unwrap()).unwrap();
        let mut owners = Owners::list([own, 0].into_iter());
        owners.left = vec![std::process::id()];
        assert!(owners.take_some());
        assert_eq!(owners.of(own), read_text("/proc/self/comm").ok());
        assert_eq!((owners.of(0), inode("socket:[x]"), inode("pipe:[7]")), (None, None, None));
    }
}

//! The processes that use most, and what each of those moves from and to storage. Must never list the kernel's threads, nor read them more than once.

mod moved;

use super::TICK_US;
use crate::procfs::{Reader, process_ids, process_stat};
use moved::Moved;
use proteus_protocol::guest::v1::sample::{PROCESSES_MAX, Process};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

/// Most processes that are read in one look: what is beyond is not reported.
const READ_MAX: usize = 2048;

/// Most processes whose file stays open between two looks: each takes a descriptor and a page of the kernel.
const KEPT_MAX: usize = 64;

/// What the last look saw.
#[derive(Default)]
pub struct Processes {
    kernel: BTreeSet<u32>,
    /// Those of users that were alive, with the file that tells of each.
    users: BTreeMap<u32, Option<File>>,
    /// The kernel's count of all processes ever made, from before they were listed.
    forks: Option<u64>,
    cpu_before_us: BTreeMap<u32, u64>,
    moved: Moved,
}

impl Processes {
    /// Lists the processes anew. While the kernel's count stays, nothing new can be there: `/proc` with its threads of
    /// the kernel costs more than all the rest.
    fn list(&mut self, forks: Option<u64>) -> Option<()> {
        if forks.is_some() && self.forks == forks {
            return Some(());
        }
        let ids = process_ids();
        if ids.is_empty() {
            return None;
        }
        let alive: BTreeSet<u32> = ids.iter().copied().collect();
        self.kernel.retain(|pid| alive.contains(pid));
        self.users.retain(|pid, _| alive.contains(pid));
        for pid in ids.into_iter().filter(|pid| !self.kernel.contains(pid)) {
            if self.users.len() < READ_MAX {
                self.users.entry(pid).or_default();
            }
        }
        self.forks = forks;
        Some(())
    }

    /// Half of the list is what used most CPU since the last look, the rest what holds most memory. `forks`: the
    /// kernel's count of processes made, read before this look.
    pub fn top(&mut self, reader: &mut Reader, forks: Option<u64>) -> Option<Vec<Process>> {
        self.list(forks)?;
        let page_bytes = crate::sys::page_bytes();
        let (mut found, mut kept) = (Vec::new(), 0);
        let mut parents = BTreeMap::new();
        let kernel = &mut self.kernel;
        self.users.retain(|pid, slot| {
            let stat = reader.read_kept(slot, format!("/proc/{pid}/stat")).and_then(process_stat);
            // One that ended meanwhile is not there to be reported.
            let Some(stat) = stat else { return false };
            if stat.is_kernel() {
                kernel.insert(*pid);
                return false;
            }
            parents.insert(*pid, (stat.parent, stat.started_ticks));
            found.push(Process {
                pid: *pid,
                started_ticks: stat.started_ticks,
                name: stat.name.to_owned(),
                cpu_us: stat.cpu_ticks.saturating_mul(TICK_US),
                resident: stat.resident_pages.saturating_mul(page_bytes),
                threads: stat.threads,
                ..Process::default()
            });
            kept += 1;
            if kept > KEPT_MAX {
                *slot = None;
            }
            true
        });
        let used =
            |p: &Process| p.cpu_us.saturating_sub(self.cpu_before_us.get(&p.pid).copied().unwrap_or(0));
        found.sort_by_key(|p| std::cmp::Reverse(used(p)));
        let busiest = found.len().min(PROCESSES_MAX / 2);
        found[busiest..].sort_by_key(|p| std::cmp::Reverse(p.resident));
        let now_us = found.iter().map(|p| (p.pid, p.cpu_us)).collect();
        let before_us = std::mem::replace(&mut self.cpu_before_us, now_us);
        found.truncate(PROCESSES_MAX);
        // Of those that are told only: each file more costs as much as a process does.
        let is_idle = |pid: u32| before_us.get(&pid) == self.cpu_before_us.get(&pid);
        self.moved.look(&mut found, &parents, is_idle, |pid| {
            reader.read(format!("/proc/{pid}/io")).and_then(moved::amounts)
        });
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_and_what_ended_is_seen_also_when_the_list_is_kept() {
        let (mut processes, mut reader) = (Processes::default(), Reader::default());
        let me = std::process::id();
        let seen = |processes: &mut Processes, reader: &mut Reader, forks, pid| {
            processes.top(reader, forks).unwrap();
            processes.users.contains_key(&pid)
        };
        assert!(seen(&mut processes, &mut reader, Some(1), me));
        let mut child = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        // The count says that nobody was made: the list is kept.
        assert!(!seen(&mut processes, &mut reader, Some(1), child.id()));
        assert!(seen(&mut processes, &mut reader, Some(2), child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!seen(&mut processes, &mut reader, Some(2), child.id()), "it ended");
        assert!(seen(&mut processes, &mut reader, Some(2), me));
        // Without a count the list is never kept.
        let mut child = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        assert!(seen(&mut processes, &mut reader, None, child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

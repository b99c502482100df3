//! The processes that use most. Must never list the kernel's threads, nor read them more than once.

use super::TICK_US;
use crate::procfs::{Reader, process_ids, process_stat};
use proteus_protocol::guest::v1::sample::{PROCESSES_MAX, Process};
use std::collections::{BTreeMap, BTreeSet};

/// Most processes that are read in one look: what is beyond is not reported.
const READ_MAX: usize = 2048;

/// What the last look saw.
#[derive(Default)]
pub struct Processes {
    kernel: BTreeSet<u32>,
    cpu_before_us: BTreeMap<u32, u64>,
}

impl Processes {
    /// Half of the list is what used most CPU since the last look, the rest what holds most memory.
    pub fn top(&mut self, reader: &mut Reader) -> Option<Vec<Process>> {
        let ids = process_ids();
        if ids.is_empty() {
            return None;
        }
        let alive: BTreeSet<u32> = ids.iter().copied().collect();
        self.kernel.retain(|pid| alive.contains(pid));
        let page_bytes = crate::sys::page_bytes();
        let mut found = Vec::new();
        for pid in ids.into_iter().filter(|pid| !self.kernel.contains(pid)).take(READ_MAX).collect::<Vec<_>>()
        {
            // One that ended meanwhile is not there to be reported.
            let Some(stat) = reader.read(format!("/proc/{pid}/stat")).and_then(process_stat) else {
                continue;
            };
            if stat.is_kernel() {
                self.kernel.insert(pid);
                continue;
            }
            found.push(Process {
                pid,
                started_ticks: stat.started_ticks,
                name: stat.name.to_owned(),
                cpu_us: stat.cpu_ticks.saturating_mul(TICK_US),
                resident: stat.resident_pages.saturating_mul(page_bytes),
                threads: stat.threads,
            });
        }
        let used =
            |p: &Process| p.cpu_us.saturating_sub(self.cpu_before_us.get(&p.pid).copied().unwrap_or(0));
        found.sort_by_key(|p| std::cmp::Reverse(used(p)));
        let busiest = found.len().min(PROCESSES_MAX / 2);
        found[busiest..].sort_by_key(|p| std::cmp::Reverse(p.resident));
        self.cpu_before_us = found.iter().map(|p| (p.pid, p.cpu_us)).collect();
        found.truncate(PROCESSES_MAX);
        Some(found)
    }
}

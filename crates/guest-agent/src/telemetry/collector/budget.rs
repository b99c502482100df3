//! What agent and collectors may cost together. CPU time is a bucket that fills with time and is emptied by what both
//! used: a collector begins a step only while there is some left. Must never let a collector borrow more than one step.

use crate::procfs::{Reader, process_stat};
use crate::sys;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// What both may use where the owner says nothing else: thousandths of a core.
pub const PERMILLE: u32 = 5;
/// The most that is saved up, in seconds' worth.
const SAVED_S_MAX: i64 = 60;
/// What there is at the beginning: enough for one round of what is cheap.
const FIRST_US: i64 = 100_000;
/// Who found nothing left waits until there is so much, in seconds' worth. To wake up costs some 0.1 ms, so who wakes as
/// soon as anything is there has used it up by that, and never comes to work.
const RESUME_S: i64 = 1;
/// What both may hold: 20 MB.
pub const MEMORY_BYTES: u64 = 20_000_000;
/// Between two looks at what the agent used and both hold.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// CPU time of this process so far, µs.
pub fn own_cpu_us() -> u64 {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    spent.tv_sec as u64 * 1_000_000 + spent.tv_nsec as u64 / 1000
}

/// The bucket.
pub struct Budget {
    began: Instant,
    filled_at: Instant,
    /// µs of CPU time a second that both may use.
    share_us: u64,
    left_us: i64,
    spent_us: u64,
    looked_at: Option<Instant>,
    agent_us: Option<u64>,
    agent_us_all: u64,
    resident: Option<u64>,
}

/// CPU time and memory of a process, by its line of `/proc`.
fn cost_of(pid: &str) -> Option<(u64, u64)> {
    let mut reader = Reader::default();
    let stat = process_stat(reader.read(format!("/proc/{pid}/stat"))?)?;
    Some((stat.cpu_ticks.saturating_mul(super::super::TICK_US), stat.resident_pages * sys::page_bytes()))
}

/// Memory of this process that it shares with others, by the third number of `/proc/self/statm`.
fn shared() -> u64 {
    let pages = crate::procfs::read_text("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_ascii_whitespace().nth(2)?.parse::<u64>().ok());
    pages.unwrap_or(0).saturating_mul(sys::page_bytes())
}

impl Budget {
    /// A bucket that is not empty.
    pub fn new(now: Instant) -> Self {
        Self {
            began: now,
            filled_at: now,
            share_us: u64::from(PERMILLE) * 1000,
            left_us: FIRST_US,
            spent_us: own_cpu_us(),
            looked_at: None,
            agent_us: None,
            agent_us_all: 0,
            resident: None,
        }
    }

    /// From now on both may use so many thousandths of a core.
    pub fn set(&mut self, permille: u32) {
        self.share_us = u64::from(permille.clamp(1, 1000)) * 1000;
    }

    /// Thousandths of a core that both may use.
    pub fn permille(&self) -> u64 {
        self.share_us / 1000
    }

    /// Fills in what the time brought, takes out what both used.
    pub fn account(&mut self, now: Instant) {
        let micros = now.saturating_duration_since(self.filled_at).as_micros();
        self.filled_at = now;
        let most = self.share_us as i64 * SAVED_S_MAX;
        let brought = i64::try_from(micros * u128::from(self.share_us) / 1_000_000).unwrap_or(most);
        let own = own_cpu_us();
        let used = own.saturating_sub(self.spent_us) + self.agent_used(now);
        self.spent_us = own;
        let used = i64::try_from(used).unwrap_or(i64::MAX);
        self.left_us = self.left_us.saturating_add(brought).min(most).saturating_sub(used);
    }

    /// What the agent used since it was looked at.
    fn agent_used(&mut self, now: Instant) -> u64 {
        if self.looked_at.is_some_and(|at| now.saturating_duration_since(at) < LOOK_EVERY) {
            return 0;
        }
        self.looked_at = Some(now);
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().to_string());
        let (agent, own) = (parent.and_then(|pid| cost_of(&pid)), cost_of("self"));
        // Both run the same program: what they share of it is there once.
        self.resident = agent.zip(own).map(|((_, agent), (_, own))| agent + own.saturating_sub(shared()));
        let Some((cpu_us, _)) = agent else { return 0 };
        let used = self.agent_us.replace(cpu_us).map_or(0, |before| cpu_us.saturating_sub(before));
        self.agent_us_all += used;
        used
    }

    /// Only what this process uses counts.
    #[cfg(test)]
    pub fn leave_agent_out(&mut self) {
        self.looked_at = Some(self.began + Duration::from_secs(1_000_000));
    }

    /// Whether a step may begin.
    pub fn allows(&self) -> bool {
        self.left_us > 0
    }

    /// When a step may begin, if nobody uses anything meanwhile.
    pub fn allows_at(&self, now: Instant) -> Instant {
        if self.allows() {
            return now;
        }
        let resume = self.share_us as i64 * RESUME_S;
        let lacking = u64::try_from(resume.saturating_sub(self.left_us)).unwrap_or(0);
        now + Duration::from_micros(lacking.saturating_mul(1_000_000) / self.share_us)
    }

    /// Whether both hold more than they may.
    pub fn memory_is_passed(&self) -> bool {
        self.resident.is_some_and(|bytes| bytes > MEMORY_BYTES)
    }

    /// Time watched in ms, CPU time of both over it in µs, memory of both.
    pub fn cost(&self) -> (u64, u64, Option<u64>) {
        let watched = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        (watched, own_cpu_us() + self.agent_us_all, self.resident)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_must_come_in_again_before_the_next_step() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        budget.leave_agent_out();
        assert!(budget.allows());
        assert_eq!(budget.allows_at(now), now);
        budget.left_us = -(budget.share_us as i64);
        assert!(!budget.allows());
        let wait = Duration::from_secs(2);
        assert_eq!(budget.allows_at(now), now + wait, "what is owed, and what waking up is worth");
        budget.account(now + Duration::from_secs(10));
        assert!(budget.allows(), "ten seconds bring ten times of what a second does: {}", budget.left_us);
    }

    #[test]
    fn no_more_than_a_minute_is_saved_up() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        budget.leave_agent_out();
        budget.account(now + Duration::from_secs(100_000));
        assert!(budget.left_us <= budget.share_us as i64 * SAVED_S_MAX);
    }

    #[test]
    fn memory_is_passed_beyond_its_bound() {
        let mut budget = Budget::new(Instant::now());
        budget.resident = Some(MEMORY_BYTES + 1);
        assert!(budget.memory_is_passed());
        budget.resident = Some(MEMORY_BYTES);
        assert!(!budget.memory_is_passed());
        budget.resident = None;
        assert!(!budget.memory_is_passed(), "what is not known is not passed");
    }

    #[test]
    fn this_process_costs_something() {
        let (_, resident) = cost_of("self").unwrap();
        assert!(resident > 0 && own_cpu_us() > 0);
    }
}

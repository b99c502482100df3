//! What processes read from storage and write to it. The kernel adds what a child did to its parent once the child has
//! ended and was waited for: that is taken off again as far as it was told of the child, so that nothing is told twice.
//! Must never tell a zero for what the kernel does not tell.

use crate::procfs::fields;
use proteus_protocol::guest::v1::sample::Process;
use std::collections::BTreeMap;

/// Read and written bytes.
pub type Amounts = [u64; 2];

/// Reads `/proc/PID/io`: what came from storage, and what goes there. Without `CONFIG_TASK_IO_ACCOUNTING` there is none,
/// and who may not trace a process may not read it.
pub fn amounts(text: &str) -> Option<Amounts> {
    let [read, written] = fields(text, ["read_bytes", "write_bytes"]);
    Some([read?, written?])
}

/// One process, as it was at the last look.
#[derive(Debug, Clone, Copy)]
struct Known {
    started_ticks: u64,
    parent: u32,
    /// As the kernel says.
    raw: Amounts,
    /// What of it was told of children before.
    of_children: Amounts,
}

/// Those that were told of at the last look: no more than are told.
#[derive(Default)]
pub struct Moved {
    known: BTreeMap<u32, Known>,
}

impl Moved {
    /// Fills in what each of `told` moved. `alive`: parent and start of each process there is; `is_idle`: whether one used
    /// no CPU time since the last look, so that what it had then is not read again; `read`: what the kernel says of one.
    pub fn look(
        &mut self,
        told: &mut [Process],
        alive: &BTreeMap<u32, (u32, u64)>,
        is_idle: impl Fn(u32) -> bool,
        mut read: impl FnMut(u32) -> Option<Amounts>,
    ) {
        let mut ended = self.ended(alive);
        let mut now = BTreeMap::new();
        for process in told {
            let before =
                self.known.get(&process.pid).filter(|known| known.started_ticks == process.started_ticks);
            let Some((parent, _)) = alive.get(&process.pid) else { continue };
            // What a child did comes to one that only waited, too.
            let kept = before.filter(|_| is_idle(process.pid) && !ended.contains_key(&process.pid));
            let Some(raw) = kept.map(|known| known.raw).or_else(|| read(process.pid)) else { continue };
            let mut of_children = before.map_or([0; 2], |known| known.of_children);
            // One that was not told of before begins with what it has now.
            if let (Some(before), Some(more)) = (before, ended.remove(&process.pid)) {
                for which in 0..2 {
                    // A parent that does not wait for its children never has what they did.
                    let came = raw[which].saturating_sub(before.raw[which]);
                    of_children[which] = of_children[which].saturating_add(more[which].min(came));
                }
            }
            let own = |which: usize| Some(raw[which].saturating_sub(of_children[which]));
            (process.read, process.written) = (own(0), own(1));
            let started_ticks = process.started_ticks;
            now.insert(process.pid, Known { started_ticks, parent: *parent, raw, of_children });
        }
        self.known = now;
    }

    /// What those had that ended since, by the next of those above them that lives.
    fn ended(&self, alive: &BTreeMap<u32, (u32, u64)>) -> BTreeMap<u32, Amounts> {
        let lives =
            |pid: u32, known: &Known| alive.get(&pid).is_some_and(|(_, start)| *start == known.started_ticks);
        let mut ended: BTreeMap<u32, Amounts> = BTreeMap::new();
        for gone in self.known.iter().filter(|(pid, known)| !lives(**pid, known)).map(|(_, known)| known) {
            let mut heir = gone.parent;
            // As many as are known, at most.
            for _ in 0..self.known.len() {
                match self.known.get(&heir).filter(|above| !lives(heir, above)) {
                    Some(above) => heir = above.parent,
                    None => break,
                }
            }
            let sum = ended.entry(heir).or_default();
            for (sum, raw) in sum.iter_mut().zip(gone.raw) {
                *sum = sum.saturating_add(raw);
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Processes as pid, parent, start, and what the kernel says of each.
    type Seen = (u32, u32, u64, Option<Amounts>);

    fn look(moved: &mut Moved, seen: &[Seen]) -> Vec<Option<u64>> {
        let alive = seen.iter().map(|(pid, parent, start, _)| (*pid, (*parent, *start))).collect();
        let process = |(pid, _, started_ticks, _): &Seen| Process {
            pid: *pid,
            started_ticks: *started_ticks,
            ..Process::default()
        };
        let mut told: Vec<Process> = seen.iter().map(process).collect();
        moved.look(&mut told, &alive, |_| false, |pid| seen.iter().find(|(of, ..)| *of == pid)?.3);
        told.iter().map(|process| process.written).collect()
    }

    #[test]
    fn what_a_child_did_is_not_told_again_of_its_parent() {
        let mut moved = Moved::default();
        // A shell with 5 of its own, a child with 100.
        let seen = look(&mut moved, &[(10, 1, 7, Some([0, 5])), (11, 10, 8, Some([0, 100]))]);
        assert_eq!(seen, [Some(5), Some(100)]);
        // The child wrote 20 more, ended and was waited for: those 20 nobody else tells.
        assert_eq!(look(&mut moved, &[(10, 1, 7, Some([0, 125]))]), [Some(25)]);
        assert_eq!(look(&mut moved, &[(10, 1, 7, Some([0, 126]))]), [Some(26)]);
    }

    #[test]
    fn what_a_whole_branch_did_is_taken_off_where_it_goes_to() {
        let mut moved = Moved::default();
        let all = [(10, 1, 7, Some([0, 5])), (11, 10, 8, Some([0, 10])), (12, 11, 9, Some([0, 100]))];
        look(&mut moved, &all);
        assert_eq!(look(&mut moved, &[(10, 1, 7, Some([0, 115]))]), [Some(5)]);
    }

    #[test]
    fn a_parent_that_does_not_wait_keeps_its_own() {
        let mut moved = Moved::default();
        look(&mut moved, &[(10, 1, 7, Some([0, 50])), (11, 10, 8, Some([0, 100]))]);
        assert_eq!(look(&mut moved, &[(10, 1, 7, Some([0, 50]))]), [Some(50)]);
        assert_eq!(look(&mut moved, &[(10, 1, 7, Some([0, 60]))]), [Some(60)]);
    }

    #[test]
    fn another_process_of_the_same_number_begins_anew() {
        let mut moved = Moved::default();
        look(&mut moved, &[(10, 1, 7, Some([0, 50])), (11, 10, 8, Some([0, 100]))]);
        look(&mut moved, &[(10, 1, 7, Some([0, 150]))]);
        assert_eq!(look(&mut moved, &[(10, 1, 99, Some([0, 3]))]), [Some(3)]);
    }

    #[test]
    fn one_that_did_nothing_is_not_read_again_but_where_a_child_of_it_ended() {
        let mut moved = Moved::default();
        let process = |pid: u32| Process { pid, started_ticks: 7, ..Process::default() };
        let alive = |pids: &[u32]| pids.iter().map(|pid| (*pid, (10, 7))).collect();
        let read = std::cell::Cell::new(0);
        let mut look = |pids: &[u32], amount: u64| {
            let mut told: Vec<Process> = pids.iter().map(|pid| process(*pid)).collect();
            moved.look(
                &mut told,
                &alive(pids),
                |_| true,
                |_| {
                    read.set(read.get() + 1);
                    Some([amount, amount])
                },
            );
            (told[0].written, read.replace(0))
        };
        assert_eq!(look(&[10, 11], 5), (Some(5), 2));
        assert_eq!(look(&[10, 11], 9), (Some(5), 0));
        assert_eq!(look(&[10], 12), (Some(7), 1));
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_missing() {
        let mut moved = Moved::default();
        assert_eq!(look(&mut moved, &[(10, 1, 7, None)]), [None]);
        assert_eq!(amounts("rchar: 1\nwchar: 2\nread_bytes: 4096\nwrite_bytes: 8192\n"), Some([4096, 8192]));
        for text in ["", "read_bytes: 4096\n", "read_bytes: x\nwrite_bytes: 1\n"] {
            assert_eq!(amounts(text), None);
        }
        let own = std::fs::read_to_string("/proc/self/io").ok();
        assert!(own.is_none_or(|text| amounts(&text).is_some()));
    }
}

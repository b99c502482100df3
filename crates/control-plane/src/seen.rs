//! What was seen of VMs at the last look, so that only news is told. Kept in memory: after a start of Proteus
//! everything is news, but for what the records say.

use proteus_model::id::VmId;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What was seen last.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) reboots: Reboots,
    pub(crate) halts: Halts,
}

impl Seen {
    /// Forgets a VM that starts or is gone: the node counts its reboots from nothing again, and it does not stand still.
    pub(crate) fn forget(&self, vm: VmId) {
        self.reboots.forget(vm);
        self.halts.is_news(vm, false);
    }
}

/// How often each VM's guest had started anew when it was looked at last, as the node counts it. For guests whose
/// agent says nothing, and before it does.
#[derive(Debug, Default)]
pub(crate) struct Reboots(Mutex<HashMap<VmId, u64>>);

impl Reboots {
    fn seen(&self) -> MutexGuard<'_, HashMap<VmId, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there were more than at the last look; keeps how many there are.
    pub(crate) fn rose(&self, vm: VmId, reboots: u64) -> bool {
        reboots > self.seen().insert(vm, reboots).unwrap_or_default()
    }

    /// The next look at the VM finds whatever was counted new.
    pub(crate) fn forget(&self, vm: VmId) {
        self.seen().remove(&vm);
    }
}

/// The VMs that were told to stand still.
#[derive(Debug, Default)]
pub(crate) struct Halts(Mutex<HashSet<VmId>>);

impl Halts {
    /// Keeps whether a VM stands still; whether that is news.
    pub(crate) fn is_news(&self, vm: VmId, halted: bool) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if halted { known.insert(vm) } else { known.remove(&vm) }
    }
}

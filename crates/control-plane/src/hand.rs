//! Whose turn it is with a VM: what makes, starts, stops, saves or removes it takes it in hand first, so that no two
//! of these are half-way at once. Must never be held while a guest's own pace is waited for longer than an act takes.

use proteus_model::id::VmId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::RwLock;

/// The VMs that somebody has in hand or waits for.
#[derive(Default)]
pub(crate) struct Hands(Mutex<HashMap<VmId, Weak<RwLock<()>>>>);

impl Hands {
    /// The turn of a VM.
    pub(crate) fn of(&self, vm: VmId) -> Arc<RwLock<()>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, turn| turn.strong_count() > 0);
        let known = all.get(&vm).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let turn = Arc::default();
            all.insert(vm, Arc::downgrade(&turn));
            turn
        })
    }
}

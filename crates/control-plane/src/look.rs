//! Looks at many VMs at once, for lists, metrics and the watch. A VM that does not answer holds up no other, and whoever
//! asks waits for it a moment only; the look goes on to its end by itself. Others join one that has seen nothing for so
//! long: looks at a VM that hangs would pile up. Must never tell of a VM what was seen before it was asked for.

use crate::control::Control;
use proteus_model::id::VmId;
use proteus_model::vm::{PowerState, VmObserved};
use proteus_protocol::node::v1::{Measurement, NodeError};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// Longest wait for a VM in a list: a guest whose agent was not heard yet is given 2 s to answer, and a busy host
/// something for the rest.
pub(crate) const LIST_LIMIT: Duration = Duration::from_millis(2500);

/// A look that is under way.
#[derive(Debug, Clone)]
struct Look<T> {
    began_at: Instant,
    /// What it has seen so far.
    seen: watch::Receiver<T>,
}

impl<T> Look<T> {
    fn is_over(&self) -> bool {
        self.seen.has_changed().is_err()
    }

    fn has_seen_nothing_for(&self, limit: Duration) -> bool {
        // This receiver takes note of nothing: whatever was seen is news to it.
        self.began_at.elapsed() >= limit && matches!(self.seen.has_changed(), Ok(false))
    }
}

/// The last look at each VM, while it is under way.
#[derive(Debug)]
pub(crate) struct Looks<T>(Mutex<HashMap<VmId, Look<T>>>);

impl<T> Default for Looks<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone + Default + Send + Sync + 'static> Looks<T> {
    /// Looks at all of them, at once; what was seen of each, in their order, when all looks are over or `limit` is. A
    /// look tells what it sees as it goes, and is over when it ends.
    pub(crate) async fn at_all<F>(
        &self,
        control: &Control,
        vms: &[VmId],
        limit: Duration,
        look: impl Fn(VmId, watch::Sender<T>) -> F,
    ) -> Vec<T>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let deadline = Instant::now() + limit;
        let mut seen = Vec::with_capacity(vms.len());
        for mut under_way in self.begin(control, vms, limit, look) {
            // Cancel-safe: waiting changes nothing. It fails when the look is over.
            let over = async { while under_way.changed().await.is_ok() {} };
            let _ = timeout_at(deadline, over).await;
            seen.push(under_way.borrow().clone());
        }
        seen
    }

    /// Joins the looks that have seen nothing for `limit`, and begins all others.
    fn begin<F>(
        &self,
        control: &Control,
        vms: &[VmId],
        limit: Duration,
        look: impl Fn(VmId, watch::Sender<T>) -> F,
    ) -> Vec<watch::Receiver<T>>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, look| !look.is_over());
        let mut of = |vm: &VmId| {
            if let Some(known) = all.get(vm).filter(|known| known.has_seen_nothing_for(limit)) {
                return known.seen.clone();
            }
            let (sender, seen) = watch::channel(T::default());
            let (work, stopped) = (look(*vm, sender.clone()), control.stopped());
            control.spawn(async move {
                // Under way until the end of this task, whatever the look does with its own.
                let _sender = sender;
                // Cancel-safe: a look can be cut short as by a crash, and nobody waits for one when Proteus ends.
                tokio::select! {
                    () = work => {}
                    () = stopped.cancelled() => {}
                }
            });
            all.insert(*vm, Look { began_at: Instant::now(), seen: seen.clone() });
            seen
        };
        vms.iter().map(&mut of).collect()
    }
}

/// What was seen of a VM in time.
#[derive(Debug, Clone)]
pub(crate) struct Glance<T> {
    /// Whether it runs; `None`: its VMM did not answer.
    pub power: Option<Result<PowerState, NodeError>>,
    /// All else; `None`: not in time.
    pub whole: Option<Result<T, NodeError>>,
}

impl<T> Default for Glance<T> {
    fn default() -> Self {
        Self { power: None, whole: None }
    }
}

impl Control {
    /// How VMs are, each waited for a moment only.
    pub(crate) async fn glance_at(self: &Arc<Self>, vms: &[VmId]) -> Vec<Glance<VmObserved>> {
        let node = self.node.clone();
        let look = move |vm, told: watch::Sender<Glance<VmObserved>>| {
            let node = node.clone();
            async move {
                let power = node.power(vm).await;
                told.send_modify(|seen| seen.power = Some(power));
                let whole = node.observe(vm).await;
                told.send_modify(|seen| seen.whole = Some(whole));
            }
        };
        self.glances.at_all(self, vms, LIST_LIMIT, look).await
    }

    /// How VMs fare, each waited for a moment only.
    pub(crate) async fn measure_all(self: &Arc<Self>, vms: &[VmId]) -> Vec<Glance<Measurement>> {
        let node = self.node.clone();
        let look = move |vm, told: watch::Sender<Glance<Measurement>>| {
            let node = node.clone();
            async move {
                let power = node.power(vm).await;
                told.send_modify(|seen| seen.power = Some(power));
                let whole = node.measure(vm).await;
                told.send_modify(|seen| seen.whole = Some(whole));
            }
        };
        self.measurements.at_all(self, vms, LIST_LIMIT, look).await
    }
}

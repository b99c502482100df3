//! Looks at many VMs at once, for lists, metrics and the watch. A VM that does not answer holds up no other, and whoever
//! asks waits for it a moment only; the look goes on to its end by itself. No look at a VM begins while one is under way:
//! looks at a VM that hangs would pile up. Others join one that has seen nothing for so long; else one look waits for
//! the end of it, for all who ask meanwhile. Must never tell of a VM what was seen before it was asked for, unless what
//! is under way does not end in time.

use crate::control::Control;
use proteus_model::id::VmId;
use proteus_model::vm::{PowerState, VmObserved};
use proteus_protocol::node::v1::{Measurement, Node, NodeError};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// Longest wait for a VM in a list: a guest whose agent was not heard yet is given 2 s to answer, and a busy host
/// something for the rest.
pub(crate) const LIST_LIMIT: Duration = Duration::from_millis(2500);

/// A look that is under way.
#[derive(Debug, Clone)]
struct Look<T> {
    /// Set when it begins.
    began_at: Arc<OnceLock<Instant>>,
    /// What it has seen so far.
    seen: watch::Receiver<T>,
}

impl<T> Look<T> {
    fn is_over(&self) -> bool {
        self.seen.has_changed().is_err()
    }

    fn has_seen_nothing_for(&self, limit: Duration) -> bool {
        self.began_at.get().is_some_and(|at| at.elapsed() >= limit) && !self.has_seen()
    }

    fn has_seen(&self) -> bool {
        // This receiver takes note of nothing: whatever was seen is news to it.
        !matches!(self.seen.has_changed(), Ok(false))
    }
}

/// The looks at a VM.
#[derive(Debug)]
struct Turns<T> {
    under_way: Look<T>,
    /// Begins when that one is over.
    next: Option<Look<T>>,
}

/// The looks at each VM, while one is under way.
#[derive(Debug)]
pub(crate) struct Looks<T>(Mutex<HashMap<VmId, Turns<T>>>);

/// The look whose end somebody waits for, and the one that it waits for itself.
type Awaited<T> = (Look<T>, Option<Look<T>>);

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
        for (awaited, before) in self.begin(control, vms, limit, look) {
            let mut told = awaited.seen.clone();
            // Cancel-safe: waiting changes nothing. It fails when the look is over.
            let over = async { while told.changed().await.is_ok() {} };
            let _ = timeout_at(deadline, over).await;
            // One that did not come to its turn has seen nothing; the one before it may have seen a part.
            let shown = before.filter(|_| !awaited.has_seen()).unwrap_or(awaited);
            seen.push(shown.seen.borrow().clone());
        }
        seen
    }

    /// Joins the looks that have seen nothing for `limit`, or that wait for their turn, and begins all others.
    fn begin<F>(
        &self,
        control: &Control,
        vms: &[VmId],
        limit: Duration,
        look: impl Fn(VmId, watch::Sender<T>) -> F,
    ) -> Vec<Awaited<T>>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, turns| turns.go_on());
        let mut of = |vm: &VmId| {
            let Some(turns) = all.get_mut(vm) else {
                let under_way = begin_after(control, None, |told| look(*vm, told));
                all.insert(*vm, Turns { under_way: under_way.clone(), next: None });
                return (under_way, None);
            };
            if turns.under_way.has_seen_nothing_for(limit) {
                return (turns.under_way.clone(), None);
            }
            let before = turns.under_way.clone();
            let begin = || begin_after(control, Some(before.seen.clone()), |told| look(*vm, told));
            (turns.next.get_or_insert_with(begin).clone(), Some(before.clone()))
        };
        vms.iter().map(&mut of).collect()
    }
}

impl<T> Turns<T> {
    /// Lets the next one be under way where the last is over; whether one is.
    fn go_on(&mut self) -> bool {
        if self.under_way.is_over()
            && let Some(next) = self.next.take()
        {
            self.under_way = next;
        }
        !self.under_way.is_over()
    }
}

/// A look that begins when the one before it is over.
fn begin_after<T: Clone + Default + Send + Sync + 'static, F>(
    control: &Control,
    before: Option<watch::Receiver<T>>,
    look: impl FnOnce(watch::Sender<T>) -> F,
) -> Look<T>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, seen) = watch::channel(T::default());
    let began_at = Arc::new(OnceLock::new());
    // A future does nothing until it is awaited.
    let (work, stopped, begins) = (look(sender.clone()), control.stopped(), began_at.clone());
    control.spawn(async move {
        // Under way until the end of this task, whatever the look does with its own.
        let _sender = sender;
        let in_turn = async {
            if let Some(mut before) = before {
                while before.changed().await.is_ok() {}
            }
            // Set here only.
            let _ = begins.set(Instant::now());
            work.await;
        };
        // Cancel-safe: a look can be cut short as by a crash, and nobody waits for one when Proteus ends.
        tokio::select! {
            () = in_turn => {}
            () = stopped.cancelled() => {}
        }
    });
    Look { began_at, seen }
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

impl<T: Clone + Send + Sync + 'static> Looks<Glance<T>> {
    /// Asks of all VMs whether they run, and then for the rest.
    async fn of_all<F>(
        &self,
        control: &Control,
        vms: &[VmId],
        ask: impl Fn(Arc<dyn Node>, VmId) -> F,
    ) -> Vec<Glance<T>>
    where
        F: Future<Output = Result<T, NodeError>> + Send + 'static,
    {
        let look = |vm, told: watch::Sender<Glance<T>>| {
            let (node, rest) = (control.node.clone(), ask(control.node.clone(), vm));
            async move {
                let power = node.power(vm).await;
                told.send_modify(|seen| seen.power = Some(power));
                let whole = rest.await;
                told.send_modify(|seen| seen.whole = Some(whole));
            }
        };
        self.at_all(control, vms, LIST_LIMIT, look).await
    }
}

impl Control {
    /// How VMs are, each waited for a moment only.
    pub(crate) async fn glance_at(self: &Arc<Self>, vms: &[VmId]) -> Vec<Glance<VmObserved>> {
        self.glances.of_all(self, vms, |node, vm| async move { node.observe(vm).await }).await
    }

    /// How VMs fare, each waited for a moment only.
    pub(crate) async fn measure_all(self: &Arc<Self>, vms: &[VmId]) -> Vec<Glance<Measurement>> {
        self.measurements.of_all(self, vms, |node, vm| async move { node.measure(vm).await }).await
    }
}

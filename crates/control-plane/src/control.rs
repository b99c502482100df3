//! The control plane of one host or fleet: its parts, wired. Starting it recovers every morph that a crash cut
//! short. Must never act on a VM but through a morph, except to start, stop, make and remove it.

use crate::abort::Abort;
use crate::audit::{Appended, Audit, AuditError, AuditRecord};
use crate::backup::{Backups, WriteBackup};
use crate::console::Consoles;
use crate::hand::Hands;
use crate::look::{Glance, Looks};
use crate::made::Made;
use crate::personality::Personalities;
use crate::record::{Batch, Entropy, RecordError, Records};
use crate::seen::Seen;
use crate::store::{Rev, Store};
use proteus_model::id::{MorphId, VmId, VmName};
use proteus_model::unit::UnixMillis;
use proteus_model::vm::VmObserved;
use proteus_protocol::api::v1::{AUDIT_ENTRIES_SHOWN, AuditView};
use proteus_protocol::node::v1::{Measurement, Node, NodeError};
use serde::Serialize;
use serde_json::json;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Events kept for a listener that lags.
const EVENTS_KEPT: usize = 1024;

/// The clock: the host's in the product, virtual in the twin.
pub type Clock = Arc<dyn Fn() -> UnixMillis + Send + Sync>;

/// Something that happened, for whoever watches.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum ControlEvent {
    /// A VM was made, started, stopped, renamed or removed.
    Vm {
        /// When.
        at: UnixMillis,
        /// Which.
        vm: VmName,
        /// What happened.
        what: &'static str,
    },
    /// What a VM is was learned, or it changed.
    Personality {
        /// When.
        at: UnixMillis,
        /// Which.
        vm: VmName,
        /// `label`: it bears another; `shift` or `anomaly`.
        what: &'static str,
        /// What it is now.
        label: String,
    },
    /// A morph moved on.
    Morph {
        /// When.
        at: UnixMillis,
        /// Which.
        morph: MorphId,
        /// Of which VM.
        vm: VmName,
        /// Where it is now.
        state: &'static str,
        /// More, in words.
        detail: String,
    },
}

/// Why the control plane did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no such thing.
    #[error("there is no {kind} {name}")]
    NotFound {
        /// Kind of thing.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// Things are not so that it could be done.
    #[error("{what}")]
    Conflict {
        /// What stands in the way.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// The request cannot be.
    #[error("{what}")]
    Invalid {
        /// What is wrong.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// Proteus is disarmed.
    #[error("{scope}")]
    Disarmed {
        /// What is.
        scope: crate::arm::DisarmedScope,
    },
    /// Whoever asks may not have it.
    #[error("{what}")]
    Forbidden {
        /// What they may not have.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// It was done, and what came of it could not be written down.
    #[error("{done}, and that could not be written down")]
    Untold {
        /// What was done.
        done: String,
        /// What to do about it.
        hint: String,
        /// Why it could not.
        #[source]
        source: Box<ControlError>,
    },
    /// The node refused.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Records could not be read or written.
    #[error("records could not be read or written")]
    Record(#[from] RecordError),
    /// The audit log could not be written.
    #[error("the audit log could not be written")]
    Audit(#[from] AuditError),
}

/// The control plane.
pub struct Control {
    pub(crate) records: Records,
    pub(crate) node: Arc<dyn Node>,
    pub(crate) audit: Audit,
    pub(crate) clock: Clock,
    pub(crate) running: Mutex<HashMap<MorphId, Abort>>,
    /// Morphs that cannot go on now, and why.
    pub(crate) stuck: Mutex<HashMap<MorphId, String>>,
    pub(crate) hands: Hands,
    pub(crate) made: Made,
    pub(crate) seen: Seen,
    pub(crate) glances: Looks<Glance<VmObserved>>,
    pub(crate) measurements: Looks<Glance<Measurement>>,
    pub(crate) watches: Looks<()>,
    pub(crate) personalities: Personalities,
    pub(crate) consoles: Consoles,
    pub(crate) shared_files: OnceLock<PathBuf>,
    pub(crate) backups: OnceLock<Backups>,
    /// Held by whoever changes the guests' way out.
    pub(crate) uplink_turn: tokio::sync::Mutex<()>,
    events: broadcast::Sender<ControlEvent>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Control {
    /// A control plane over `store` and `node`.
    pub fn new(store: Arc<dyn Store>, node: Arc<dyn Node>, clock: Clock, entropy: Entropy) -> Arc<Self> {
        let (events, _) = broadcast::channel(EVENTS_KEPT);
        Arc::new(Self {
            audit: Audit::new(store.clone(), entropy.clone()),
            records: Records::new(store, entropy),
            node,
            clock,
            running: Mutex::default(),
            stuck: Mutex::default(),
            hands: Hands::default(),
            made: Made::default(),
            seen: Seen::default(),
            glances: Looks::default(),
            measurements: Looks::default(),
            watches: Looks::default(),
            personalities: Personalities::default(),
            consoles: Consoles::default(),
            shared_files: OnceLock::new(),
            backups: OnceLock::new(),
            uplink_turn: tokio::sync::Mutex::default(),
            events,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// The folder of guests and images that VMs of everybody may be made of. Until it is told there is none.
    pub fn share_files(&self, dir: PathBuf) {
        // Told once, when the parts are wired.
        let _ = self.shared_files.set(dir);
    }

    /// Now.
    pub fn now(&self) -> UnixMillis {
        (self.clock)()
    }

    /// The node.
    pub fn node(&self) -> &Arc<dyn Node> {
        &self.node
    }

    /// The audit log.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Events from now on.
    pub fn events(&self) -> broadcast::Receiver<ControlEvent> {
        self.events.subscribe()
    }

    pub(crate) fn tell(&self, event: ControlEvent) {
        // Nobody may be listening.
        let _ = self.events.send(event);
    }

    /// Runs a task that is waited for at shutdown.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Runs a task to its end, also when whoever asked for it goes away.
    pub(crate) async fn run_to_end<T: Send + 'static, E: Send + 'static>(
        &self,
        task: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E> {
        match self.tasks.spawn(task).await {
            Ok(outcome) => outcome,
            // Nobody ends such a task from outside.
            Err(ended) => std::panic::resume_unwind(ended.into_panic()),
        }
    }

    /// Fires when the control plane stops.
    pub(crate) fn stopped(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Stops: streams end, morphs leave their windows, and what is under way is waited for.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// An audit entry of now.
    pub(crate) fn entry(
        &self,
        actor: &str,
        action: &str,
        subject: &str,
        why: &str,
        evidence: serde_json::Value,
    ) -> AuditRecord {
        let record = AuditRecord::new(self.now(), actor, action, subject, why);
        AuditRecord { evidence, ..record }
    }

    /// Commits changes and the audit entry that tells of them: both are there afterwards, or neither.
    pub(crate) async fn commit_audited(&self, batch: Batch, entry: AuditRecord) -> Result<Rev, ControlError> {
        match self.audit.append_with(entry, batch.as_commit().clone()).await? {
            Appended::Written { rev, .. } => Ok(rev),
            Appended::Conflict(failed) => Err(batch.conflict(&failed).into()),
        }
    }

    /// The last entries of the audit log, and whether its chain holds.
    pub async fn audit_view(&self) -> Result<AuditView, ControlError> {
        self.audit_page(None, AUDIT_ENTRIES_SHOWN).await
    }

    /// The last `limit` entries of the audit log, or of those before number `before`, and whether its chain holds.
    pub async fn audit_page(&self, before: Option<u64>, limit: usize) -> Result<AuditView, ControlError> {
        let entries = self.audit.tail(before, limit).await?;
        let verified = self.audit.verify(None).await;
        Ok(AuditView {
            // They are numbered from 1, without gaps.
            earlier: entries.first().map_or(0, |first| first.seq - 1),
            entries: entries.iter().filter_map(|entry| serde_json::to_value(entry).ok()).collect(),
            intact: verified.is_ok(),
            broken: verified.err().map(|error| error.to_string()),
        })
    }

    /// The folder of backups, and what writes them. Until it is told there are none.
    pub fn keep_backups(&self, dir: PathBuf, write: WriteBackup) {
        // Told once, when the parts are wired.
        let _ = self.backups.set(Backups::new(dir, write));
    }

    /// Copies records, journal and audit log into a new file, which this gives. Commits wait meanwhile.
    pub async fn back_up(&self, actor: &str) -> Result<PathBuf, ControlError> {
        let Some(backups) = self.backups.get() else {
            return Err(ControlError::Conflict {
                what: "this store has no backups".into(),
                hint: "back it up by its own means".into(),
            });
        };
        // The entry first: then the copy has it.
        let entry = self.entry(actor, "store.backup", "store", "asked for", json!({}));
        let rev = self.commit_audited(self.records.batch(), entry).await?;
        Ok(backups.make(rev).await.map_err(RecordError::from)?)
    }

    /// Waits for a VM's turn; nobody else has it in hand until this is dropped.
    pub(crate) async fn in_hand(&self, vm: VmId) -> OwnedRwLockWriteGuard<()> {
        self.hands.of(vm).write_owned().await
    }

    /// Waits until nobody has a VM in hand, and keeps it so: for what only needs it to stay, as clones their template.
    pub(crate) async fn kept(&self, vm: VmId) -> OwnedRwLockReadGuard<()> {
        self.hands.of(vm).read_owned().await
    }

    pub(crate) fn abort_of(&self, morph: MorphId) -> Option<Abort> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).get(&morph).cloned()
    }
}

/// Keys of records.
pub(crate) mod key {
    use super::{MorphId, VmId, VmName};

    pub(crate) fn vm(id: VmId) -> String {
        format!("vm/{id}")
    }

    pub(crate) fn personality(id: VmId) -> String {
        format!("personality/{id}")
    }

    /// Where one goes that cannot be read.
    pub(crate) fn personality_aside(id: VmId) -> String {
        format!("aside/{id}")
    }

    /// What taught prototypes begin with.
    pub(crate) const PROTOTYPES: &str = "prototype/";

    pub(crate) fn prototype(id: u128) -> String {
        format!("{PROTOTYPES}{id:032x}")
    }

    pub(crate) fn boot(id: VmId) -> String {
        format!("boot/{id}")
    }

    pub(crate) fn vm_name(name: &VmName) -> String {
        format!("vm-name/{name}")
    }

    pub(crate) fn morph(id: MorphId) -> String {
        format!("morph/{id}")
    }

    /// What a morph was told that is to stop. Not in its own record, which only its journal writes.
    pub(crate) fn abort(id: MorphId) -> String {
        format!("abort/{id}")
    }

    /// Zero-padded, so that keys sort as numbers do.
    pub(crate) fn version(vm: VmId, number: u64) -> String {
        format!("version/{vm}/{number:010}")
    }
}

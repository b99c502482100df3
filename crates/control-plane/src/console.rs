//! Consoles that people type into. Who opened one, when, and how much they typed until its end is in the audit log;
//! what they typed is not: passwords are typed there. Must never type what is not announced there.
//!
//! No connection is kept that would end, and whoever is killed says no word: a console is open from the first that is
//! typed, be it nothing, until whoever opened it has neither typed nor read for a while.

use crate::act::Announced;
use crate::control::{Control, ControlError};
use crate::vm::VmRecord;
use proteus_model::id::VmId;
use proteus_model::unit::UnixMillis;
use proteus_protocol::node::v1::ConsoleObserved;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, Notify};

/// After so long without a word from who opened it a console is left. The command line reads five times a second.
const IDLE_LIMIT: Duration = Duration::from_secs(10);

/// Which console, and who has it.
type Key = (VmId, String);

/// A console that somebody may type into.
struct Open {
    act: Announced,
    at: UnixMillis,
    subject: String,
    /// What was given to be typed: counted before it is, so that never more is typed than is told.
    bytes: AtomicU64,
    touched: Notify,
}

/// The consoles that are open.
#[derive(Default)]
pub(crate) struct Consoles(Mutex<HashMap<Key, Arc<Open>>>);

impl Consoles {
    /// The console that somebody has open; it stays open.
    async fn touch(&self, key: &Key) -> Option<Arc<Open>> {
        let open = self.0.lock().await.get(key).cloned();
        open.inspect(|open| open.touched.notify_one())
    }
}

impl Control {
    /// What a console showed last, from an offset on.
    pub async fn read_console(
        &self,
        vm: &str,
        from: u64,
        actor: &str,
    ) -> Result<ConsoleObserved, ControlError> {
        let record = self.vm(vm).await?;
        self.consoles.touch(&(record.id, actor.to_owned())).await;
        let seen = self.node.console_output(record.id, from).await;
        self.on_node(&record, seen).await
    }

    /// Types into a console.
    pub async fn type_console(
        self: &Arc<Self>,
        vm: &str,
        text: &[u8],
        actor: &str,
    ) -> Result<(), ControlError> {
        let record = self.vm(vm).await?;
        let key = (record.id, actor.to_owned());
        let open = match self.consoles.touch(&key).await {
            Some(open) => open,
            None => {
                // Of a VM that has none, or does not run, there is nothing to tell.
                let there = self.node.console_input(record.id, b"").await;
                self.on_node(&record, there).await?;
                self.open_console(&record, key).await?
            }
        };
        open.bytes.fetch_add(text.len() as u64, Ordering::SeqCst);
        let typed = self.node.console_input(record.id, text).await;
        open.touched.notify_one();
        self.on_node(&record, typed).await
    }

    async fn open_console(self: &Arc<Self>, record: &VmRecord, key: Key) -> Result<Arc<Open>, ControlError> {
        let mut all = self.consoles.0.lock().await;
        if let Some(open) = all.get(&key) {
            return Ok(open.clone());
        }
        let entry = self.vm_entry(&key.1, "vm.console", record, json!({}));
        let (at, subject) = (entry.at, entry.subject.clone());
        let act = self.announce(entry, "vm.console_ended").await?;
        let open = Arc::new(Open { act, at, subject, bytes: AtomicU64::new(0), touched: Notify::new() });
        all.insert(key.clone(), open.clone());
        let (control, kept) = (self.clone(), open.clone());
        self.spawn(async move { control.keep_console(key, kept).await });
        Ok(open)
    }

    /// Waits for the end of a console, and tells of it.
    async fn keep_console(&self, key: Key, open: Arc<Open>) {
        let stopped = self.stopped();
        loop {
            // Cancel-safe: a notification that is not received stays for the next wait, and the token only fires once.
            let idle = tokio::select! {
                touched = tokio::time::timeout(IDLE_LIMIT, open.touched.notified()) => touched.is_err(),
                () = stopped.cancelled() => true,
            };
            if !idle {
                continue;
            }
            let mut all = self.consoles.0.lock().await;
            // Ours and the table's: whoever types has one too, and takes it where the table is locked.
            if stopped.is_cancelled() || Arc::strong_count(&open) <= 2 {
                all.remove(&key);
                break;
            }
        }
        let bytes = open.bytes.load(Ordering::SeqCst);
        let evidence = json!({ "began": open.act.began, "opened_at": open.at, "bytes": bytes });
        let why = format!("{bytes} bytes were typed");
        let entry = self.entry(&key.1, "vm.console_ended", &open.subject, &why, evidence);
        let told = async { self.commit_audited(open.act.over(self.records.batch())?, entry).await };
        if let Err(error) = told.await {
            tracing::warn!(of = %open.subject, bytes, %error, "not written down that a console was left");
        }
    }
}

//! Morphs that were cut short, by a crash or by a journal that could not be written: each is taken up where its
//! journal stands, and brought to its end.

use super::journal::Journal;
use crate::abort::{AbortHow, Told};
use crate::control::{Control, ControlError};
use proteus_model::execution::{Morph, State};
use proteus_model::id::{MorphId, VmName};
use proteus_protocol::cause::chain;
use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

/// Pause before a morph is taken up again whose journal failed.
const TAKE_UP_AGAIN: Duration = Duration::from_secs(5);

impl Control {
    /// Takes up a morph that was cut short, and ends it.
    async fn take_up(&self, id: MorphId, why: &str) -> Result<Morph, ControlError> {
        let mut journal = Journal::open(self, id).await?;
        let morph = journal.morph();
        let (state, vm) = (morph.state, morph.plan.vm);
        tracing::warn!(morph = %id, vm = %morph.plan.vm_name, state = state.word(), "found cut short");
        let forward = match state {
            State::Planned | State::Validated | State::Applying { .. } => true,
            // Nothing is turned yet, and the window before is watched anew.
            State::Reserved => false,
            // What was applied is judged by a fresh window; the rest only goes on.
            State::Verifying | State::Committing | State::Undoing { .. } | State::Releasing => false,
            State::Committed | State::RolledBack | State::Parked => false,
        };
        // Told by itself, or with all that is disarmed.
        let told = match self.abort_asked(id).await? {
            Some(how) => Some(Told::abort(how)),
            None => self.disarmed(vm).await?.map(|(_, told)| told),
        };
        match (told, state) {
            // The step that was cut short may be turned.
            (Some(told), State::Applying { step }) if told.how == AbortHow::Hold && step > 0 => {
                self.park(&mut journal, told.held(), step + 1).await?;
            }
            // It is given up for that, as it would have been.
            (Some(_), _) => {}
            (None, _) if forward => {
                let reason = format!("{why} while the morph was {}", state.word());
                self.give_up(&mut journal, reason).await?;
            }
            (None, _) => {}
        }
        drop(journal);
        self.run_morph(id).await
    }

    /// Runs a morph to its end, also where its journal fails on the way (a full disk): it is tried again until that
    /// is over, or Proteus ends.
    pub async fn see_through(&self, id: MorphId) {
        if let Err(error) = self.run_morph(id).await {
            self.take_up_again(id, error).await;
        }
    }

    async fn take_up_again(&self, id: MorphId, mut error: ControlError) {
        let stopped = self.stopped();
        loop {
            let why = chain(&error);
            tracing::error!(morph = %id, error = %why, "morph stopped half-way; it is taken up again");
            self.stuck().insert(id, why);
            if tokio::time::timeout(TAKE_UP_AGAIN, stopped.cancelled()).await.is_ok() {
                return;
            }
            match self.take_up(id, "its journal could not be written").await {
                Ok(_) => {
                    self.stuck().remove(&id);
                    return;
                }
                Err(next) => error = next,
            }
        }
    }

    fn stuck(&self) -> MutexGuard<'_, HashMap<MorphId, String>> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why a morph cannot go on now; `None`: nothing holds it up. It is tried again and again.
    pub fn why_stuck(&self, id: MorphId) -> Option<String> {
        self.stuck().get(&id).cloned()
    }

    /// Morphs that cannot go on now, and why.
    pub fn all_stuck(&self) -> Vec<(MorphId, String)> {
        self.stuck().iter().map(|(id, why)| (*id, why.clone())).collect()
    }

    /// The morphs that a crash cut short.
    async fn cut_short(&self) -> Result<Vec<Morph>, ControlError> {
        let all = self.records.list::<Morph>("morph/").await?.into_iter().map(|(_, record)| record.value);
        Ok(all.filter(|morph| !morph.state.is_terminal()).collect())
    }

    /// Takes up a morph that a crash cut short, to its end. `None`: not yet, its journal cannot be written,
    /// or Proteus ends.
    async fn recover_one(self: &Arc<Self>, id: MorphId) -> Option<Morph> {
        match self.take_up(id, "Proteus stopped").await {
            Ok(morph) if !morph.state.is_terminal() => None,
            Ok(morph) => {
                tracing::warn!(morph = %id, outcome = morph.state.word(), "morph ended after a restart");
                Some(morph)
            }
            // A full disk must not keep Proteus from its other VMs.
            Err(error) => {
                let control = self.clone();
                self.spawn(async move { control.take_up_again(id, error).await });
                None
            }
        }
    }

    /// Takes up every morph that a crash cut short, one after the other, and ends it. Those that ended.
    pub async fn recover(self: &Arc<Self>) -> Result<Vec<Morph>, ControlError> {
        let mut ended = Vec::new();
        for morph in self.cut_short().await? {
            ended.extend(self.recover_one(morph.id).await);
        }
        Ok(ended)
    }

    /// Takes up every morph that a crash cut short, and starts what shall run, in the background: an observation
    /// window may take minutes, and nobody else need wait for it. Until its morph is over, a VM takes no other.
    pub async fn resume(self: &Arc<Self>) -> Result<(), ControlError> {
        // Before anybody can begin another: they look alike.
        self.remove_cut_short().await?;
        // What cannot be written now is at the next start.
        if let Err(error) = self.close_cut_short().await {
            tracing::warn!(%error, "not written down what the last end of Proteus cut short");
        }
        for morph in self.cut_short().await? {
            let control = self.clone();
            self.spawn(async move {
                control.recover_one(morph.id).await;
                if control.stopped().is_cancelled() {
                    return;
                }
                // It may be a VM that shall run, and that the crash took down with Proteus.
                if let Ok(record) = control.vm_of(morph.plan.vm).await {
                    tell_not_started(
                        control.start_if_wanted(record).await.err().map(|e| (morph.plan.vm_name, e)),
                    );
                }
            });
        }
        let control = self.clone();
        self.spawn(async move {
            match control.start_wanted().await {
                Ok(failed) => tell_not_started(failed),
                Err(error) => tracing::error!(%error, "what shall run is not started"),
            }
        });
        Ok(())
    }
}

fn tell_not_started(failed: impl IntoIterator<Item = (VmName, ControlError)>) {
    for (vm, error) in failed {
        tracing::error!(%vm, %error, "not started");
    }
}

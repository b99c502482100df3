//! What the collectors inside VMs find: twice a minute each agent that is heard is asked what it has, with the owner's
//! wishes. Must never ask an agent that still owes an answer, nor keep what a guest no longer says of its users.

use super::{Personalities, is_due};
use crate::control::{Control, ControlError};
use crate::vm::VmRecord;
use proteus_model::id::VmId;
use proteus_model::telemetry::{COLLECT_BUDGET, CollectIntent, Collector, Findings};
use proteus_model::unit::{Permille, UnixMillis};
use proteus_protocol::api::v1::{CollectorView, CollectorsRequest, CollectorsView};
use proteus_protocol::node::v1::NodeErrorCode;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Between two questions to one agent, ms.
const COLLECT_EVERY_MS: u64 = 30_000;

/// What was told of users is dropped where the agent has not answered for so long, ms: they may have withdrawn.
const USERS_MS: u64 = 600_000;

/// What was told so long ago is no more what is, ms.
const LATELY_MS: u64 = 300_000;

/// How the asking goes.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// When the agent was asked last; `None`: not yet, or anew at once.
    at: Option<UnixMillis>,
    /// How long it is left alone after that, ms.
    pause_ms: u64,
    /// Whether it still owes an answer.
    owed: bool,
    /// Rises when the owner's wishes change: an answer to those of before is not kept.
    wishes: u64,
    /// Why the last question was not answered.
    failed: Option<String>,
}

impl Personalities {
    /// Why an agent's collectors are not heard.
    pub(super) fn failed(&self, vm: VmId) -> Option<String> {
        self.asking().get(&vm).and_then(|asking| asking.failed.clone())
    }

    /// Drops what was told of users of VMs that do not run, or whose agent has not answered for long: nobody says that they
    /// still consent.
    pub(super) fn drop_users(&self, running: &BTreeSet<VmId>, now: UnixMillis) {
        for (vm, judged) in self.vms().iter_mut() {
            let heard = judged.record.findings.as_ref().map(|(at, _)| *at);
            if !running.contains(vm) || heard.is_some_and(|at| is_due(at, now, USERS_MS)) {
                judged.record.forget_users();
            }
        }
    }

    /// Whether an agent is to be asked now; from then on it owes an answer to these wishes.
    fn begin_asking(&self, vm: VmId, now: UnixMillis) -> Option<u64> {
        let mut all = self.asking();
        let asking = all.entry(vm).or_default();
        let is_due = asking.at.is_none_or(|at| is_due(at, now, asking.pause_ms));
        if asking.owed || !is_due {
            return None;
        }
        (asking.at, asking.pause_ms, asking.owed) = (Some(now), COLLECT_EVERY_MS, true);
        Some(asking.wishes)
    }
}

/// A collector by its name.
fn collector(name: &str) -> Result<Collector, ControlError> {
    Collector::ALL.into_iter().find(|one| one.name() == name).ok_or_else(|| {
        let all: Vec<&str> = Collector::ALL.into_iter().map(Collector::name).collect();
        ControlError::Invalid {
            what: format!("collector {name:?} is not known"),
            hint: format!("one of {}", all.join(", ")),
        }
    })
}

/// The owner's wishes after a request.
fn changed(before: &CollectIntent, request: &CollectorsRequest) -> Result<CollectIntent, ControlError> {
    let mut intent = before.clone();
    for name in &request.on {
        let on = collector(name)?;
        intent.off.retain(|off| *off != on);
    }
    for name in &request.off {
        intent.off.push(collector(name)?);
    }
    intent.off.sort_unstable();
    intent.off.dedup();
    intent.users = request.users.unwrap_or(intent.users);
    intent.libraries = request.libraries.unwrap_or(intent.libraries);
    intent.budget = request.budget_permille.map(Permille).or(intent.budget);
    for endpoint in &request.remove_endpoints {
        let there = intent.endpoints.len();
        intent.endpoints.retain(|known| known != endpoint);
        if intent.endpoints.len() == there {
            return Err(ControlError::NotFound { kind: "endpoint", name: endpoint.clone() });
        }
    }
    intent.endpoints.extend(request.add_endpoints.iter().cloned());
    intent.endpoints.sort_unstable();
    intent.endpoints.dedup();
    intent.check().map_err(|error| ControlError::Invalid {
        what: error.to_string(),
        hint: "an endpoint is as `http://127.0.0.1:9100/metrics`, an address of the guest itself; a budget 5 ‰ where none is given".into(),
    })?;
    Ok(intent)
}

impl Control {
    /// Asks an agent that is due, without waiting for it.
    pub(super) fn collect_in_background(self: &Arc<Self>, vm: VmId) {
        let Some(wishes) = self.personalities.begin_asking(vm, self.now()) else { return };
        let control = self.clone();
        self.spawn(async move {
            if let Err(error) = control.collect_from(vm, wishes).await {
                tracing::debug!(%vm, %error, "what its collectors found is not known for now");
            }
        });
    }

    /// Asks an agent, and keeps what it says of what the owner wishes, whatever else it says.
    async fn collect_from(&self, vm: VmId, wishes: u64) -> Result<(), ControlError> {
        let record = self.vm_of(vm).await;
        let answer = match &record {
            Ok(record) => Some(self.node.collect(vm, &record.intent.collect).await),
            Err(_) => None,
        };
        let at = self.now();
        let (mut vms, mut all) = (self.personalities.vms(), self.personalities.asking());
        let Some(judged) = vms.get_mut(&vm) else {
            all.remove(&vm);
            return Ok(());
        };
        let asking = all.entry(vm).or_default();
        asking.owed = false;
        if asking.wishes != wishes {
            if matches!(&answer, Some(Ok(findings)) if findings.users.is_none()) {
                judged.record.forget_users();
            }
            // Asked again at once, with the wishes of now.
            asking.at = None;
            return Ok(());
        }
        let (record, answer) = (record?, answer);
        match answer {
            Some(Ok(findings)) if findings.collectors.is_empty() => {
                // They have just begun, and say something within seconds. What they found before stays until then, but of
                // users: who has withdrawn is not told of any more.
                (asking.failed, asking.at) = (None, None);
                judged.record.hear_users(findings);
                judged.record.forget_collected(&record.intent.collect);
            }
            Some(Ok(findings)) => {
                asking.failed = None;
                judged.record.found(at, findings);
                judged.record.forget_collected(&record.intent.collect);
            }
            Some(Err(error)) => {
                // An agent of before is not asked again and again, but when it may have been replaced.
                let is_old = error.code == NodeErrorCode::Unsupported;
                asking.failed = Some(error.message);
                asking.pause_ms = if is_old { 20 * COLLECT_EVERY_MS } else { COLLECT_EVERY_MS };
                asking.at = Some(at);
            }
            None => {}
        }
        Ok(())
    }

    /// What the collectors inside a VM found, if they told it in the last minutes.
    pub(crate) fn collected_lately(&self, vm: VmId) -> Option<Findings> {
        let vms = self.personalities.vms();
        let (at, findings) = vms.get(&vm)?.record.findings.as_ref()?;
        (!is_due(*at, self.now(), LATELY_MS)).then(|| findings.clone())
    }

    fn collectors_view(&self, record: &VmRecord) -> CollectorsView {
        let vms = self.personalities.vms();
        let judged = vms.get(&record.id);
        let findings = judged.and_then(|judged| judged.record.findings.as_ref());
        let failed = self.personalities.failed(record.id);
        let missing = match judged {
            None => Some("the VM was not looked at yet".to_owned()),
            Some(_) if failed.is_some() => failed,
            Some(_) if findings.is_none() => Some("no agent was heard yet".to_owned()),
            Some(_) => None,
        };
        let collect = &record.intent.collect;
        CollectorsView {
            vm: record.intent.name.to_string(),
            at: findings.map(|(at, _)| *at),
            missing,
            users: collect.users,
            libraries: collect.libraries,
            off: collect.off.iter().map(|name| name.name().to_owned()).collect(),
            endpoints: collect.endpoints.clone(),
            budget_permille: collect.budget.unwrap_or(COLLECT_BUDGET).0,
            cpu_share: findings.and_then(|(_, found)| found.cpu_share()),
            resident: findings.and_then(|(_, found)| found.resident).map(|bytes| bytes.0),
            collectors: findings
                .map(|(_, found)| found.collectors.iter().map(CollectorView::from).collect())
                .unwrap_or_default(),
        }
    }

    /// The collectors inside a VM.
    pub async fn collectors(&self, vm: &str) -> Result<CollectorsView, ControlError> {
        Ok(self.collectors_view(&self.vm(vm).await?))
    }

    /// Changes what is collected inside a VM; what is switched off is forgotten at once. `dry_run`: only says what
    /// would be.
    pub async fn set_collectors(
        self: &Arc<Self>,
        vm: &str,
        request: &CollectorsRequest,
        dry_run: bool,
        actor: &str,
    ) -> Result<CollectorsView, ControlError> {
        let record = self.vm(vm).await?;
        let wanted = changed(&record.intent.collect, request)?;
        if dry_run {
            let mut record = record;
            record.intent.collect = wanted;
            return Ok(self.collectors_view(&record));
        }
        let before = record.intent.collect.clone();
        let entry = |found: &VmRecord| {
            let evidence = json!({ "from": before, "to": found.intent.collect });
            self.vm_entry(actor, "vm.collectors", found, evidence)
        };
        let id = record.id;
        // Of what it is then: another request may have come in between, and both together ask for too much.
        let change = |found: &mut VmRecord| {
            found.intent.collect = changed(&found.intent.collect, request)?;
            Ok(())
        };
        let wanted = self.try_change_record(id, entry, change, None).await?.intent.collect;
        let is_known = {
            let mut vms = self.personalities.vms();
            if let Some(judged) = vms.get_mut(&id) {
                judged.record.forget_collected(&wanted);
            }
            let mut all = self.personalities.asking();
            let asking = all.entry(id).or_default();
            (asking.at, asking.wishes) = (None, asking.wishes + 1);
            vms.contains_key(&id)
        };
        if is_known {
            self.keep_personality(id).await;
            self.collect_in_background(id);
        }
        Ok(self.collectors_view(&self.vm(vm).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_a_vm_that_ended_or_does_not_answer_are_dropped() {
        use proteus_brain::personality::{Judged, PersonalityRecord};
        use proteus_model::telemetry::{Found, UsersObserved};
        let all = Personalities::default();
        let (runs, ended) = (VmId::from_bits(1), VmId::from_bits(2));
        let put = |at: u64| {
            for vm in [runs, ended] {
                let users = Some(Found { at: UnixMillis(1), value: UsersObserved::default() });
                let mut record = PersonalityRecord::new(UnixMillis(0));
                record.found(UnixMillis(at), Findings { users, ..Findings::default() });
                all.vms().insert(vm, Judged::resume(record, UnixMillis(0)));
            }
        };
        let is_told = |vm: VmId| all.vms()[&vm].record.findings.as_ref().unwrap().1.users.is_some();
        put(1_000);
        all.drop_users(&BTreeSet::from([runs]), UnixMillis(999 + USERS_MS));
        assert_eq!((is_told(runs), is_told(ended)), (true, false));
        // Before it was told: the clock was set back, and nobody knows how long ago that was.
        for now in [1_000 + USERS_MS, 999] {
            put(1_000);
            all.drop_users(&BTreeSet::from([runs, ended]), UnixMillis(now));
            assert_eq!((is_told(runs), is_told(ended)), (false, false), "{now}");
        }
    }

    #[test]
    fn wishes_are_changed_by_name_and_nothing_else_is() {
        let before = CollectIntent {
            off: vec![Collector::Logs],
            endpoints: vec!["http://127.0.0.1/a".into()],
            ..CollectIntent::default()
        };
        let request = CollectorsRequest {
            off: vec!["files".into(), "files".into()],
            on: vec!["logs".into()],
            add_endpoints: vec!["http://127.0.0.1:9100/metrics".into()],
            ..CollectorsRequest::default()
        };
        let after = changed(&before, &request).unwrap();
        assert_eq!((after.off.as_slice(), after.users), ([Collector::Files].as_slice(), false));
        assert_eq!(after.endpoints.len(), 2);
        let wanted = CollectorsRequest { libraries: Some(true), ..CollectorsRequest::default() };
        let wanted = changed(&before, &wanted).unwrap();
        assert_eq!((wanted.libraries, wanted.users, before.libraries), (true, false, false));
        let nothing = CollectorsRequest::default();
        assert!(changed(&wanted, &nothing).unwrap().libraries);
        assert_eq!(changed(&before, &nothing).unwrap(), before);
    }

    #[test]
    fn a_wish_that_cannot_be_is_refused_with_what_can() {
        let before = CollectIntent::default();
        let refused = |request: CollectorsRequest| changed(&before, &request).unwrap_err().to_string();
        let off = refused(CollectorsRequest { off: vec!["dreams".into()], ..Default::default() });
        assert!(off.contains("\"dreams\" is not known"), "{off}");
        let remove = vec!["http://127.0.0.1/".to_owned()];
        assert!(
            refused(CollectorsRequest { remove_endpoints: remove, ..Default::default() })
                .contains("endpoint")
        );
        assert!(
            refused(CollectorsRequest { budget_permille: Some(0), ..Default::default() })
                .contains("1 to 500")
        );
        let add = vec!["http://203.0.113.5/metrics".to_owned()];
        assert!(
            refused(CollectorsRequest { add_endpoints: add, ..Default::default() }).contains("203.0.113.5")
        );
    }
}

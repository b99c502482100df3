//! The allocation table as a record: who has what where. A VM is in the table while it is meant to run; what morphs
//! reserve in it is theirs to say.

use crate::audit::AuditRecord;
use crate::control::{Control, ControlError};
use crate::record::{Batch, RecordError, TRIES, Versioned};
use crate::vm::VmRecord;
use proteus_model::allocation::{AllocationError, AllocationTable, Amount, Bounds, Capacity};
use proteus_model::id::{HostName, VmId};
use proteus_model::setting::Setting;
use proteus_model::unit::{Bytes, MilliCpu, Permille};
use proteus_model::vm::VmIntent;
use proteus_protocol::api::v1::AllocationView;

/// Key of the table.
pub(crate) const TABLE: &str = "allocation";
/// CPU shared out of what there is: four vCPUs to a CPU, the usual figure for mixed loads. Memory never twice.
const CPU_OVERCOMMIT: Permille = Permille(4000);
/// Memory that the host keeps for itself: kernel, VMMs, Proteus.
const HOST_RESERVE: Bytes = Bytes::mib(1024);

/// The name of the host in the table. Host names may hold what our names may not.
fn host_name(name: &str) -> Option<HostName> {
    let clean: String = name
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' })
        .take(63)
        .collect();
    clean.trim_matches('-').parse().ok()
}

/// What a VM has, by the settings it is under; what they do not say is as its owner asked.
pub(crate) fn amount(record: &VmRecord, settings: &[&Setting]) -> Amount {
    let mut online = record.intent.vcpus;
    let (mut cap, mut memory, mut hot) = (None, record.intent.memory, Bytes::ZERO);
    for setting in settings {
        match setting {
            Setting::Vcpus { online: n } => online = *n,
            Setting::CpuCap { limit } => cap = *limit,
            Setting::Memory { target } => memory = *target,
            Setting::HotMemory { plugged } => hot = *plugged,
            _ => {}
        }
    }
    let all = MilliCpu::cpus(online);
    Amount { cpu: cap.map_or(all, |cap| cap.min(all)), memory: memory.saturating_add(hot) }
}

/// The refusal of what the host has no room for.
pub(crate) fn no_room(error: AllocationError) -> ControlError {
    ControlError::Conflict {
        what: error.to_string(),
        hint: "stop another VM, or make this one smaller; `proteus allocation show` shows who has what"
            .into(),
    }
}

impl Control {
    pub(crate) async fn host(&self) -> Result<(HostName, Capacity), ControlError> {
        let host = self.node.host().await?;
        let name = host_name(&host.name).or_else(|| host_name("host"));
        let invalid =
            || ControlError::Invalid { what: "the host has no name".into(), hint: "give it one".into() };
        let capacity = Capacity {
            cpu: MilliCpu::cpus(host.cpus),
            cpu_overcommit: CPU_OVERCOMMIT,
            memory: host.memory.saturating_sub(HOST_RESERVE),
        };
        Ok((name.ok_or_else(invalid)?, capacity))
    }

    /// Refuses a VM that is larger, or could become larger, than all that the host has to share, were it alone there.
    pub(crate) async fn check_fits(&self, intent: &VmIntent) -> Result<(), ControlError> {
        let host = self.node.host().await?;
        let whole = self.host().await?.1.shareable();
        let refused = |what: String| {
            let hint = "make it smaller; `proteus host show` shows what the host has, `proteus allocation show` what \
                        is shared of it";
            Err(ControlError::Invalid { what, hint: hint.into() })
        };
        let vcpus = intent.vcpus.max(intent.vcpus_max);
        if MilliCpu::cpus(vcpus) > whole.cpu {
            let each = CPU_OVERCOMMIT.0 / 1000;
            return refused(format!(
                "vcpus: {vcpus} are more than this host runs: at most {}, {each} to each of its {} CPUs",
                whole.cpu.0 / 1000,
                host.cpus
            ));
        }
        let memory = intent.memory.max(intent.memory_max);
        if memory > whole.memory {
            return refused(format!(
                "memory: {memory} are more than this host has for VMs: at most {}, its {} less {HOST_RESERVE} for itself",
                whole.memory, host.memory
            ));
        }
        Ok(())
    }

    pub(crate) async fn table(&self) -> Result<(AllocationTable, Option<crate::store::Rev>), ControlError> {
        Ok(match self.records.get::<AllocationTable>(TABLE).await? {
            Some(Versioned { value, rev }) => (value, Some(rev)),
            None => (AllocationTable::new(), None),
        })
    }

    /// Changes the table, trying again when somebody else did in between.
    async fn change_table(
        &self,
        batch: impl Fn() -> Batch,
        change: impl Fn(&mut AllocationTable) -> Result<(), ControlError>,
    ) -> Result<(), ControlError> {
        for _ in 0..TRIES {
            let (mut table, rev) = self.table().await?;
            change(&mut table)?;
            match self.records.commit(batch().put(TABLE, &table, rev)?).await {
                Err(RecordError::Conflict { .. }) => {}
                other => return Ok(other.map(|_| ())?),
            }
        }
        Err(RecordError::Conflict { key: TABLE.into() }.into())
    }

    /// Gives a VM that is to run its place in the table; refused where the host has no room.
    pub(crate) async fn admit(&self, record: &VmRecord) -> Result<(), ControlError> {
        let (host, capacity) = self.host().await?;
        let wanted = amount(record, &record.managed.iter().collect::<Vec<_>>());
        let batch = || self.records.batch();
        self.change_table(batch, |table| {
            if table.hosts().get(&host) != Some(&capacity) {
                table.set_host(host.clone(), capacity).map_err(no_room)?;
            }
            if table.vms().contains_key(&record.id) {
                return Ok(());
            }
            table.admit(record.id, host.clone(), wanted, Bounds::NONE).map_err(no_room)
        })
        .await
    }

    /// Takes a VM that no longer runs out of the table.
    pub(crate) async fn withdraw(&self, vm: VmId) -> Result<(), ControlError> {
        let batch = || self.records.batch().relief();
        self.change_table(batch, |table| {
            // A morph that is being undone still holds it; its end releases, the next stop withdraws.
            let _ = table.remove(vm);
            Ok(())
        })
        .await
    }

    /// The same with the entry that tells of it, in one commit: it is told once. `false`: a morph still holds it, whose
    /// end tells it, or it is not in the table.
    pub(crate) async fn withdraw_told(&self, vm: VmId, entry: AuditRecord) -> Result<bool, ControlError> {
        for _ in 0..TRIES {
            let (mut table, rev) = self.table().await?;
            if table.remove(vm).is_err() {
                return Ok(false);
            }
            let batch = self.records.batch().relief().put(TABLE, &table, rev)?;
            match self.commit_audited(batch, entry.clone()).await {
                Err(ControlError::Record(RecordError::Conflict { .. })) => {}
                other => return other.map(|_| true),
            }
        }
        Err(RecordError::Conflict { key: TABLE.into() }.into())
    }

    /// The VMs in the table.
    pub(crate) async fn admitted(&self) -> Result<Vec<VmId>, ControlError> {
        Ok(self.table().await?.0.vms().keys().copied().collect())
    }

    /// The table, for people and programs.
    pub async fn allocation_view(&self) -> Result<AllocationView, ControlError> {
        let (table, _) = self.table().await?;
        let hosts = table.hosts().keys();
        let free = hosts.filter_map(|host| Some((host.clone(), table.free(host).ok()?))).collect();
        let known = self.vms().await?.into_iter().filter(|record| table.vms().contains_key(&record.id));
        let names = known.map(|record| (record.id, record.intent.name)).collect();
        Ok(AllocationView { table, free, names })
    }
}

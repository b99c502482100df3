//! From a profile to a plan, in two pure steps: [`wishes`] says which knobs the profile wants where, given what
//! the VM can do; [`compose`] compares with the values read and orders what differs.
//!
//! Order: give before taking. First CPU, memory and link are raised, then the guest is tuned, then policies come
//! in force, then what shrinks shrinks: so no step runs short of what an earlier one took away.

mod resource;

use proteus_model::capability::{Ability, CapabilityReport};
use proteus_model::execution::Version;
use proteus_model::id::{Generation, SnapshotName, VmId, VmName};
use proteus_model::plan::{Change, Goal, Plan, Step, Undo, Unsupported};
use proteus_model::profile::Profile;
use proteus_model::profile::promise::Risk;
use proteus_model::setting::{Knob, PriorityState, Setting};
use proteus_model::unit::Bytes;
use proteus_model::vm::VmIntent;

/// A VM as far as planning needs it.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Which.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// What its owner asked for.
    pub intent: VmIntent,
    /// Its version.
    pub version: u64,
    /// Its generation.
    pub generation: Generation,
    /// What can be done to it.
    pub capabilities: CapabilityReport,
    /// Memory that the guest may use now, and what of it the guest says is available: `None` where unknown, and
    /// then memory is not shrunk.
    pub memory: Option<(Bytes, Bytes)>,
    /// Memory of the host that the guest takes now: what a snapshot writes.
    pub resident: Option<Bytes>,
}

/// A knob that shall be somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Where.
    pub setting: Setting,
    /// Why.
    pub why: String,
    /// How likely it does harm.
    pub risk: Risk,
}

/// What a profile comes to on a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// What can be done.
    pub settings: Vec<Wish>,
    /// What cannot.
    pub unsupported: Vec<Unsupported>,
    /// What the reader should know.
    pub notes: Vec<String>,
}

impl Wishes {
    fn want(&mut self, subject: &Subject, field: &str, setting: Setting, good_for: &str, risk: Risk) {
        let kind = setting.knob().kind();
        match subject.capabilities.look_up(Ability::Knob(kind)) {
            Ok(_) => {
                let why = format!("{field}: {good_for}");
                self.settings.push(Wish { setting, why, risk });
            }
            Err(why) => self.cannot(field, why),
        }
    }

    fn cannot(&mut self, field: &str, why: &str) {
        self.unsupported.push(Unsupported { field: field.to_owned(), why: why.to_owned() });
    }
}

/// What `profile` wants of `subject`.
pub fn wishes(profile: &Profile, subject: &Subject) -> Wishes {
    let mut wishes = Wishes::default();
    resource::wish(profile, subject, &mut wishes);
    wish_priorities(profile, subject, &mut wishes);
    wish_network(profile, subject, &mut wishes);
    wish_tuning(profile, subject, &mut wishes);
    name_unbuilt(profile, &mut wishes);
    wishes
}

fn wish_priorities(profile: &Profile, subject: &Subject, wishes: &mut Wishes) {
    for (application, class) in &profile.application_priorities {
        let app = application.selector().clone();
        let field = format!("application_priorities.{app}");
        let setting = Setting::Priority { app, state: PriorityState::Class(*class) };
        wishes.want(subject, &field, setting, "who goes first inside the guest", Risk::Low);
    }
}

fn wish_network(profile: &Profile, subject: &Subject, wishes: &mut Wishes) {
    let Some(network) = &profile.network_policy else { return };
    if let Some(policy) = network.packet_policy() {
        let setting = Setting::NetworkPolicy { policy: Some(policy) };
        wishes.want(subject, "network_policy", setting, "which packets may pass, on the host", Risk::Medium);
    }
    for (application, policy) in &network.applications {
        let app = application.selector().clone();
        let field = format!("network_policy.applications.{app}");
        let setting = Setting::AppPolicy { app, policy: policy.packet_policy() };
        wishes.want(subject, &field, setting, "which packets the application may exchange", Risk::Medium);
    }
}

fn wish_tuning(profile: &Profile, subject: &Subject, wishes: &mut Wishes) {
    let Some(tuning) = &profile.tuning else { return };
    for (key, value) in tuning.kernel_parameters() {
        let field = format!("tuning.sysctl.{}", key.as_str());
        let setting = Setting::Sysctl { key, value: value.as_str().to_owned() };
        wishes.want(subject, &field, setting, "kernel parameter", Risk::Low);
    }
    if let Some(mode) = tuning.thp {
        wishes.want(subject, "tuning.thp", Setting::Thp { mode }, "huge pages", Risk::Low);
    }
    if let Some(scheduler) = tuning.io_scheduler {
        for disk in &subject.intent.disks {
            let scheduler = scheduler.as_str().to_owned();
            let setting = Setting::IoScheduler { disk: disk.name.clone(), scheduler };
            wishes.want(subject, "tuning.io_scheduler", setting, "order of disk operations", Risk::Low);
        }
        if subject.intent.disks.is_empty() {
            wishes.notes.push(
                "tuning.io_scheduler: the VM has no disk of its own, so there is nothing to set".into(),
            );
        }
    }
}

/// Fields that are understood and whose machinery is not built: named, never silently skipped.
fn name_unbuilt(profile: &Profile, wishes: &mut Wishes) {
    for rule in &profile.behavioral_rules {
        let field = format!("behavioral_rules.{}", rule.name.as_str());
        wishes.cannot(&field, "the rules engine is not built yet");
    }
    for component in &profile.components {
        let field = format!("components.{}", component.name.as_str());
        wishes.cannot(&field, "components are not swapped yet");
    }
    let objectives = profile.sla.as_ref().map_or(0, |sla| sla.objectives.len());
    if objectives > 0 {
        wishes.cannot("sla.objectives", "latency and throughput objectives are not steered by yet");
    }
    if profile.security.is_some() {
        wishes.cannot("security", "posture is not scored yet");
    }
}

/// The plan: what differs between `wishes` and the values `now`, in order.
pub fn compose(profile: &Profile, digest: &str, subject: &Subject, wishes: Wishes, now: &[Setting]) -> Plan {
    let goal = Goal::Profile { label: profile.label(), digest: digest.to_owned() };
    let mut plan = assemble(subject, goal, wishes, now);
    plan.verify = profile.verify.clone();
    plan.cost = profile.cost.clone();
    plan
}

/// The plan back to an earlier version. `settings`: where every knob was then that was ever managed; those that were
/// not yet go back to where their owner had them, and stay managed: a snapshot of in between may bring them back.
pub fn compose_rollback(subject: &Subject, version: &Version, settings: &[Setting], now: &[Setting]) -> Plan {
    let mut wishes = Wishes::default();
    for setting in settings {
        let field = format!("version {}", version.number);
        wishes.want(subject, &field, setting.clone(), "as it was", Risk::Low);
    }
    let goal = Goal::Version { number: version.number, profile: version.profile.clone() };
    assemble(subject, goal, wishes, now)
}

/// The plan that puts a new VMM process under the guest.
pub fn compose_fresh_vmm(subject: &Subject) -> Plan {
    let mut plan = assemble(subject, Goal::FreshVmm, Wishes::default(), &[]);
    match subject.capabilities.look_up(Ability::ReplaceVmm) {
        Ok((mechanism, blackout_ms_max)) => plan.steps.push(Step {
            change: Change::ReplaceVmm,
            why: "a new VMM process, the guest's memory kept".into(),
            risk: Risk::Medium,
            mechanism: mechanism.to_owned(),
            blackout_ms_max,
            undo: Undo::Nothing { because: "the guest runs the same under either process".into() },
        }),
        Err(why) => {
            plan.unsupported.push(Unsupported { field: "replace_vmm".into(), why: why.to_owned() });
        }
    }
    plan
}

/// What a snapshot takes on disk beside the RAM: state of the devices and tables of the disks.
const SNAPSHOT_BESIDE: Bytes = Bytes::mib(16);

/// The same plan after a snapshot. Its undo leaves the snapshot: going back to it would lose what clients were told
/// is done, so that is an owner's to say.
pub fn with_snapshot(mut plan: Plan, subject: &Subject) -> Plan {
    let name = format!("before-morph-{}", subject.generation.next().0).parse::<SnapshotName>();
    match (subject.capabilities.look_up(Ability::Snapshot), name) {
        (Ok((mechanism, blackout_ms_max)), Ok(name)) => {
            let resident = subject.resident.unwrap_or(subject.intent.memory_max);
            let because = format!(
                "the snapshot stays; `proteus vm snapshot restore {} {name}` goes back to it, by hand only",
                subject.name
            );
            let step = Step {
                change: Change::Snapshot { name, disk_max: resident.saturating_add(SNAPSHOT_BESIDE) },
                why: "asked for: disks and RAM as they are before the change".into(),
                risk: Risk::Medium,
                mechanism: mechanism.to_owned(),
                blackout_ms_max,
                undo: Undo::Nothing { because },
            };
            plan.steps.insert(0, step);
        }
        (Err(why), _) => {
            plan.unsupported.insert(0, Unsupported { field: "snapshot".into(), why: why.to_owned() });
        }
        // A number is always a name.
        (Ok(_), Err(_)) => {}
    }
    plan
}

fn assemble(subject: &Subject, goal: Goal, wishes: Wishes, now: &[Setting]) -> Plan {
    let mut plan = Plan {
        vm: subject.id,
        vm_name: subject.name.clone(),
        goal,
        base_version: subject.version,
        base_generation: subject.generation,
        steps: Vec::new(),
        already: Vec::new(),
        unsupported: wishes.unsupported,
        notes: wishes.notes,
        verify: None,
        cost: None,
    };
    for wish in wishes.settings {
        let knob = wish.setting.knob();
        let Some(from) = now.iter().find(|setting| setting.knob() == knob) else {
            let why = "its value could not be read, so it could not be put back".to_owned();
            plan.unsupported.push(Unsupported { field: knob.to_string(), why });
            continue;
        };
        if wish.setting.holds_in(from) {
            plan.already.push(wish.setting);
            continue;
        }
        let capability = subject.capabilities.look_up(Ability::Knob(knob.kind()));
        let (mechanism, blackout_ms_max) = capability.unwrap_or_default();
        plan.steps.push(Step {
            risk: risk_of(&wish, from),
            change: Change::Set { from: from.clone(), to: wish.setting },
            why: wish.why,
            mechanism: mechanism.to_owned(),
            blackout_ms_max,
            undo: Undo::TurnBack,
        });
    }
    plan.steps.sort_by_key(|step| order(&step.change));
    plan
}

/// Taking memory or CPU away can hurt more than giving it.
fn risk_of(wish: &Wish, from: &Setting) -> Risk {
    match (&wish.setting, from) {
        (Setting::Memory { target: to }, Setting::Memory { target: from }) if to < from => Risk::Medium,
        (Setting::CpuCap { limit: Some(_) }, _) => Risk::Medium,
        _ => wish.risk,
    }
}

/// Place in the plan: (phase, knob), small first.
fn order(change: &Change) -> (u8, Option<Knob>) {
    let Change::Set { from, to } = change else { return (9, None) };
    let shrinks = match (from, to) {
        (Setting::Vcpus { online: from }, Setting::Vcpus { online: to }) => to < from,
        (Setting::Memory { target: from }, Setting::Memory { target: to }) => to < from,
        (Setting::HotMemory { plugged: from }, Setting::HotMemory { plugged: to }) => to < from,
        (Setting::CpuCap { limit: from }, Setting::CpuCap { limit: to }) => {
            to.is_some_and(|to| from.is_none_or(|from| to < from))
        }
        (Setting::DiskLimit { .. } | Setting::NicRate { .. }, _) => true,
        _ => false,
    };
    let phase = match (to, shrinks) {
        (_, true) => 4,
        (Setting::NetworkPolicy { .. } | Setting::AppPolicy { .. }, false) => 3,
        (
            Setting::Sysctl { .. }
            | Setting::Thp { .. }
            | Setting::IoScheduler { .. }
            | Setting::Priority { .. },
            false,
        ) => 2,
        (_, false) => 1,
    };
    (phase, Some(to.knob()))
}

#[cfg(test)]
mod tests;

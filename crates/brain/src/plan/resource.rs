//! What a profile's resources and weights come to: vCPUs and cap, balloon and plugged memory, rates.

use super::{Subject, Wishes};
use proteus_model::capability::Ability;
use proteus_model::profile::Profile;
use proteus_model::profile::promise::Risk;
use proteus_model::profile::quantity::Quantity;
use proteus_model::profile::resource::{Range, ResourceWeights};
use proteus_model::setting::{DiskLimit, NicRate, Setting, Weight};
use proteus_model::unit::{Bytes, MilliCpu};
use proteus_model::vm::MEMORY_MIN;

/// Least memory left free above what the guest uses when memory is taken away: a quarter of what it uses, and
/// never less than 32 MiB, the kernel's own reserve for a burst (design, invariant 7).
const MARGIN_MIN: Bytes = Bytes::mib(32);

/// Steps in which memory is moved: a block of plugged memory.
const MEMORY_STEP: Bytes = Bytes::mib(2);

/// What a range aims at: preferred, else the most, else the least.
fn aim<Q: Quantity>(range: &Range<Q>) -> Option<Q> {
    range.preferred.or(range.max).or(range.min)
}

pub(super) fn wish(profile: &Profile, subject: &Subject, wishes: &mut Wishes) {
    if let Some(resources) = &profile.resources {
        if let Some(range) = &resources.vcpus {
            wish_cpu(range, subject, wishes);
        }
        if let Some(range) = &resources.memory {
            wish_memory(range, subject, wishes);
        }
    }
    wish_disk(profile, subject, wishes);
    wish_link(profile, subject, wishes);
    if let Some(weights) = &profile.resource_weights {
        wish_weights(weights, subject, wishes);
    }
}

fn wish_cpu(range: &Range<MilliCpu>, subject: &Subject, wishes: &mut Wishes) {
    let Some(wanted) = aim(range) else { return };
    let field = "resources.vcpus";
    let most = MilliCpu::cpus(subject.capabilities.limits.vcpus_max);
    let amount = wanted.min(most);
    if range.min.is_some_and(|least| amount < least) {
        return wishes.cannot(
            field,
            &format!("the VM was created for at most {most}; recreate it with more vcpus_max"),
        );
    }
    if amount < wanted {
        wishes
            .notes
            .push(format!("{field}: {wanted} wanted, {most} is the most that the VM was created for"));
    }
    let online = amount.0.div_ceil(1000).max(1);
    wishes.want(subject, field, Setting::Vcpus { online }, "CPUs that the guest sees", Risk::Low);
    let limit = (!amount.0.is_multiple_of(1000)).then_some(amount);
    wishes.want(subject, field, Setting::CpuCap { limit }, "CPU time at most", Risk::Low);
}

/// What the guest must keep: what it uses and a margin. `None`: unknown, so nothing may be taken.
fn floor(subject: &Subject) -> Option<Bytes> {
    let (total, available) = subject.memory?;
    let used = total.saturating_sub(available);
    let margin = Bytes(used.0 / 4).max(MARGIN_MIN);
    Some(Bytes(used.saturating_add(margin).0.next_multiple_of(MEMORY_STEP.0)).max(MEMORY_MIN))
}

fn wish_memory(range: &Range<Bytes>, subject: &Subject, wishes: &mut Wishes) {
    let Some(wanted) = aim(range) else { return };
    let field = "resources.memory";
    let limits = subject.capabilities.limits;
    let most = limits.memory_boot.saturating_add(limits.hot_memory_max);
    let mut amount = wanted.min(most).max(MEMORY_MIN).round_down(MEMORY_STEP);
    if range.min.is_some_and(|least| most < least) {
        return wishes.cannot(
            field,
            &format!("the VM was created for at most {most}; recreate it with more memory_max"),
        );
    }
    if amount < wanted {
        wishes
            .notes
            .push(format!("{field}: {wanted} wanted, {most} is the most that the VM was created for"));
    }
    let now = subject.memory.map(|(total, _)| total);
    match floor(subject) {
        Some(floor) if amount < floor => {
            let kept = floor.min(most).max(amount);
            wishes
                .notes
                .push(format!("{field}: {amount} wanted, kept at {kept}: what the guest uses and a margin"));
            amount = kept;
        }
        Some(_) => {}
        None => {
            let held = limits.memory_boot.max(amount);
            if held > amount {
                wishes
                    .notes
                    .push(format!("{field}: not taken below {held}: how much the guest uses is unknown"));
            }
            amount = held;
        }
    }
    let inside = amount.min(limits.memory_boot);
    let beyond = amount.saturating_sub(limits.memory_boot);
    let shrinks = now.is_some_and(|now| inside < now);
    let good_for = if shrinks { "memory given back to the host" } else { "memory that the guest may use" };
    wishes.want(subject, field, Setting::Memory { target: inside }, good_for, Risk::Low);
    if limits.hot_memory_max > Bytes::ZERO {
        let setting = Setting::HotMemory { plugged: beyond };
        wishes.want(subject, field, setting, "memory beyond what it booted with", Risk::Low);
    }
}

fn wish_disk(profile: &Profile, subject: &Subject, wishes: &mut Wishes) {
    let Some(disk) = profile.resources.as_ref().and_then(|r| r.disk.as_ref()) else { return };
    let limit = DiskLimit {
        iops: disk.iops.as_ref().and_then(aim).map(|rate| rate.0),
        bandwidth: disk.bandwidth.as_ref().and_then(aim),
    };
    if subject.intent.disks.is_empty() {
        wishes
            .notes
            .push("resources.disk: the VM has no disk of its own, so there is nothing to limit".into());
    }
    for intent in subject.intent.disks.iter().filter(|disk| !disk.read_only) {
        let setting = Setting::DiskLimit { disk: intent.name.clone(), limit };
        wishes.want(subject, "resources.disk", setting, "rate of the disk", Risk::Low);
    }
}

fn wish_link(profile: &Profile, subject: &Subject, wishes: &mut Wishes) {
    let network = profile.resources.as_ref().and_then(|r| r.network.as_ref());
    let limits = profile.network_policy.as_ref().and_then(|p| p.rate_limits.as_ref());
    if network.is_none() && limits.is_none() {
        return;
    }
    // A ceiling of the policy holds whatever the resources say.
    let least = |a: Option<_>, b: Option<_>| match (a, b) {
        (Some(a), Some(b)) => Some(std::cmp::min(a, b)),
        (one, other) => one.or(other),
    };
    let rate = NicRate {
        to_guest: least(
            network.and_then(|n| n.to_guest.as_ref()).and_then(aim),
            limits.and_then(|l| l.to_guest),
        ),
        from_guest: least(
            network.and_then(|n| n.from_guest.as_ref()).and_then(aim),
            limits.and_then(|l| l.from_guest),
        ),
    };
    wishes.want(subject, "resources.network", Setting::NicRate { rate }, "rate of the link", Risk::Low);
}

/// A VM's share under contention: neutral weight × w / 0.25 (design, section 4).
fn wish_weights(weights: &ResourceWeights, subject: &Subject, wishes: &mut Wishes) {
    let factor = ResourceWeights::factor(weights.cpu);
    let weight = Weight((f64::from(Weight::NEUTRAL.0) * factor).round() as u32).clamped();
    wishes.want(
        subject,
        "resource_weights.cpu",
        Setting::CpuWeight { weight },
        "share under contention",
        Risk::Low,
    );
    for (name, ratio, ability) in [
        ("memory", weights.memory, Ability::MemoryWeight),
        ("network", weights.network, Ability::NetworkWeight),
        ("storage_io", weights.storage_io, Ability::StorageWeight),
    ] {
        let factor = ResourceWeights::factor(ratio);
        if (factor - 1.0).abs() > 1e-6 {
            // No setting turns it: a driver that reported it would have nothing to be told.
            let why =
                subject.capabilities.look_up(ability).err().unwrap_or("nothing of Proteus turns it yet");
            let ratio = ratio.get();
            wishes
                .notes
                .push(format!("resource_weights.{name}: {ratio:.2} is recorded and not turned: {why}"));
        }
    }
}

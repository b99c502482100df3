//! Settings between the model and the guest channel's frozen wire form. Pure.

use proteus_model::policy::{self, PacketPolicy, PacketRule};
use proteus_model::setting::{
    AppSelector, CgroupWeight, Knob, PriorityClass, PriorityState, Setting, ThpMode, ThreadPriority,
};
use proteus_protocol::guest::v1::setting as wire;

fn selector(app: &AppSelector) -> wire::ApplicationSelector {
    match app {
        AppSelector::Service(name) => wire::ApplicationSelector::Service(name.clone()),
        AppSelector::Process(name) => wire::ApplicationSelector::Process { name: name.clone() },
        AppSelector::Cgroup(path) => wire::ApplicationSelector::Cgroup { path: path.clone() },
        AppSelector::Unit(name) => wire::ApplicationSelector::Unit { name: name.clone() },
    }
}

/// A knob that the agent turns; `None`: the host turns it.
pub(crate) fn knob_to_wire(knob: &Knob) -> Option<wire::Knob> {
    Some(match knob {
        Knob::Vcpus => wire::Knob::VcpusOnline,
        Knob::Sysctl(key) => wire::Knob::Sysctl { key: key.as_str().to_owned() },
        Knob::Thp => wire::Knob::ThpMode,
        Knob::IoScheduler(disk) => {
            wire::Knob::IoScheduler { disk: wire::DiskSelector::Serial(disk.to_string()) }
        }
        Knob::Priority(app) => wire::Knob::Priority { application: selector(app) },
        Knob::AppPolicy(app) => wire::Knob::NetworkPolicy { application: selector(app) },
        Knob::CpuCap
        | Knob::CpuWeight
        | Knob::Memory
        | Knob::HotMemory
        | Knob::DiskLimit(_)
        | Knob::NicRate
        | Knob::NetworkPolicy
        | Knob::Image(_) => return None,
    })
}

/// A setting that the agent makes; `None`: the host makes it.
pub(crate) fn setting_to_wire(setting: &Setting) -> Option<wire::Setting> {
    Some(match setting {
        Setting::Vcpus { online } => wire::Setting::VcpusOnline { count: *online },
        Setting::Sysctl { key, value } => {
            wire::Setting::Sysctl { key: key.as_str().to_owned(), value: value.clone() }
        }
        Setting::Thp { mode } => wire::Setting::ThpMode {
            mode: match mode {
                ThpMode::Always => wire::ThpMode::Always,
                ThpMode::Madvise => wire::ThpMode::Madvise,
                ThpMode::Never => wire::ThpMode::Never,
            },
        },
        Setting::IoScheduler { disk, scheduler } => wire::Setting::IoScheduler {
            disk: wire::DiskSelector::Serial(disk.to_string()),
            scheduler: scheduler.clone(),
        },
        Setting::Priority { app, state } => {
            wire::Setting::Priority { application: selector(app), priority: priority_to_wire(state) }
        }
        Setting::AppPolicy { app, policy } => wire::Setting::NetworkPolicy {
            application: selector(app),
            policy: policy.as_ref().map(policy_to_wire),
        },
        Setting::CpuCap { .. }
        | Setting::CpuWeight { .. }
        | Setting::Memory { .. }
        | Setting::HotMemory { .. }
        | Setting::DiskLimit { .. }
        | Setting::NicRate { .. }
        | Setting::NetworkPolicy { .. }
        | Setting::Image { .. } => return None,
    })
}

fn priority_to_wire(state: &PriorityState) -> wire::Priority {
    match state {
        PriorityState::Class(class) => wire::Priority::Class(match class {
            PriorityClass::Realtime => wire::PriorityClass::Realtime,
            PriorityClass::High => wire::PriorityClass::High,
            PriorityClass::Normal => wire::PriorityClass::Normal,
            PriorityClass::Low => wire::PriorityClass::Low,
            PriorityClass::Idle => wire::PriorityClass::Idle,
        }),
        PriorityState::Exact { threads, cgroups } => {
            let thread = |t: &ThreadPriority| wire::ThreadPriority {
                pid: t.pid,
                tid: t.tid,
                started_ticks: t.start_ticks,
                nice: t.nice,
                io_priority: t.io_priority,
                policy: t.policy,
                realtime_priority: t.realtime_priority,
            };
            let group =
                |g: &CgroupWeight| wire::CgroupWeight { path: g.path.clone(), cpu_weight: g.cpu_weight };
            wire::Priority::Snapshot(wire::PrioritySnapshot {
                threads: threads.iter().map(thread).collect(),
                cgroups: cgroups.iter().map(group).collect(),
            })
        }
    }
}

fn policy_to_wire(policy: &PacketPolicy) -> wire::NetworkPolicy {
    let verdict = |verdict| match verdict {
        policy::Verdict::Accept => wire::Verdict::Accept,
        policy::Verdict::Drop => wire::Verdict::Drop,
    };
    let rule = |rule: &PacketRule| wire::NetworkRule {
        direction: match rule.direction {
            policy::Direction::Ingress => wire::Direction::Ingress,
            policy::Direction::Egress => wire::Direction::Egress,
        },
        protocol: rule.protocol.map(|protocol| match protocol {
            policy::Protocol::Tcp => wire::Protocol::Tcp,
            policy::Protocol::Udp => wire::Protocol::Udp,
            policy::Protocol::Icmp => wire::Protocol::Icmp,
        }),
        ports: rule.ports.map(|(from, to)| wire::PortRange { from, to }),
        peer: rule.peer.map(|peer| wire::Cidr { address: peer.address, prefix: peer.prefix }),
        verdict: verdict(rule.verdict),
        rate_limit: None,
    };
    wire::NetworkPolicy {
        egress_default: verdict(policy.egress_default),
        ingress_default: verdict(policy.ingress_default),
        rules: policy.rules.iter().map(rule).collect(),
    }
}

/// What the agent read, as the setting of `knob`; `None`: it answered about another knob.
pub(crate) fn setting_from_wire(knob: &Knob, read: wire::Setting) -> Option<Setting> {
    Some(match (knob, read) {
        (Knob::Vcpus, wire::Setting::VcpusOnline { count }) => Setting::Vcpus { online: count },
        (Knob::Sysctl(key), wire::Setting::Sysctl { value, .. }) => {
            Setting::Sysctl { key: key.clone(), value }
        }
        (Knob::Thp, wire::Setting::ThpMode { mode }) => Setting::Thp {
            mode: match mode {
                wire::ThpMode::Always => ThpMode::Always,
                wire::ThpMode::Madvise => ThpMode::Madvise,
                wire::ThpMode::Never => ThpMode::Never,
            },
        },
        (Knob::IoScheduler(disk), wire::Setting::IoScheduler { scheduler, .. }) => {
            Setting::IoScheduler { disk: disk.clone(), scheduler }
        }
        (Knob::Priority(app), wire::Setting::Priority { priority, .. }) => {
            Setting::Priority { app: app.clone(), state: priority_from_wire(priority)? }
        }
        (Knob::AppPolicy(app), wire::Setting::NetworkPolicy { policy, .. }) => {
            Setting::AppPolicy { app: app.clone(), policy: policy.map(policy_from_wire) }
        }
        _ => return None,
    })
}

fn priority_from_wire(priority: wire::Priority) -> Option<PriorityState> {
    let wire::Priority::Snapshot(snapshot) = priority else { return None };
    let thread = |t: wire::ThreadPriority| ThreadPriority {
        pid: t.pid,
        tid: t.tid,
        start_ticks: t.started_ticks,
        nice: t.nice,
        io_priority: t.io_priority,
        policy: t.policy,
        realtime_priority: t.realtime_priority,
    };
    let group = |g: wire::CgroupWeight| CgroupWeight { path: g.path, cpu_weight: g.cpu_weight };
    Some(PriorityState::Exact {
        threads: snapshot.threads.into_iter().map(thread).collect(),
        cgroups: snapshot.cgroups.into_iter().map(group).collect(),
    })
}

fn policy_from_wire(read: wire::NetworkPolicy) -> PacketPolicy {
    let verdict = |verdict| match verdict {
        wire::Verdict::Accept => policy::Verdict::Accept,
        wire::Verdict::Drop => policy::Verdict::Drop,
    };
    let rule = |rule: wire::NetworkRule| PacketRule {
        direction: match rule.direction {
            wire::Direction::Ingress => policy::Direction::Ingress,
            wire::Direction::Egress => policy::Direction::Egress,
        },
        protocol: rule.protocol.map(|protocol| match protocol {
            wire::Protocol::Tcp => policy::Protocol::Tcp,
            wire::Protocol::Udp => policy::Protocol::Udp,
            wire::Protocol::Icmp => policy::Protocol::Icmp,
        }),
        ports: rule.ports.map(|ports| (ports.from, ports.to)),
        peer: rule.peer.map(|peer| policy::Cidr { address: peer.address, prefix: peer.prefix }),
        verdict: verdict(rule.verdict),
    };
    PacketPolicy {
        rules: read.rules.into_iter().map(rule).collect(),
        ingress_default: verdict(read.ingress_default),
        egress_default: verdict(read.egress_default),
    }
}

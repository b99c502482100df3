//! Which packets a profile lets a VM and its applications exchange.

use super::field::Violations;
use super::record::record;
use super::text::{Application, PortRange};
use super::tree::Step;
use crate::policy::{Cidr, Direction, PacketPolicy, PacketRule, Protocol, RULES_MAX, Verdict};
use crate::unit::BytesPerSec;
use std::collections::BTreeMap;

record! {
    /// Firewall and limits of a VM.
    pub struct NetworkPolicy {
        /// Packets into the guest.
        pub ingress: Option<TrafficPolicy>,
        /// Packets out of the guest.
        pub egress: Option<TrafficPolicy>,
        /// More for single applications, enforced inside the guest.
        pub applications: BTreeMap<Application, ApplicationPolicy>,
        /// Ceilings of the link that hold whatever the resources say.
        pub rate_limits: Option<RateLimits>,
    }
}

record! {
    /// Rules of one application.
    pub struct ApplicationPolicy {
        /// Packets to the application.
        pub ingress: Option<TrafficPolicy>,
        /// Packets from the application.
        pub egress: Option<TrafficPolicy>,
    }
}

record! {
    /// Rules in order: the first that matches decides, then the default.
    pub struct TrafficPolicy {
        /// For packets that no rule matches.
        pub default: Verdict = Verdict::Accept,
        /// At most 256, where each further port range of a rule counts as a rule.
        pub rules: Vec<TrafficRule>,
    }
    checked by Self::check_count
}

record! {
    /// One rule; what it does not state matches everything.
    pub struct TrafficRule {
        /// Protocol.
        pub proto: Option<Protocol>,
        /// Destination ports.
        pub ports: Vec<PortRange>,
        /// Addresses of the other end.
        pub cidr: Option<Cidr>,
        /// What becomes of the packet.
        pub action: Verdict,
    }
    checked by Self::check_ports
}

record! {
    /// Ceilings of the link.
    pub struct RateLimits {
        /// Towards the guest.
        pub to_guest: Option<BytesPerSec>,
        /// From the guest.
        pub from_guest: Option<BytesPerSec>,
    }
}

impl TrafficRule {
    fn check_ports(&self, violations: &mut Violations) {
        if !self.ports.is_empty() && !matches!(self.proto, Some(Protocol::Tcp | Protocol::Udp)) {
            let hint = Some("state proto: tcp or udp beside ports".to_owned());
            violations.inside(Step::Field("ports".to_owned()), |v| {
                v.note("ports only with tcp or udp", format!("{} ports", self.ports.len()), hint);
            });
        }
    }

    /// As packet rules: one for each port range.
    fn expand(&self, direction: Direction) -> impl Iterator<Item = PacketRule> + '_ {
        let any = self.ports.is_empty().then_some(None);
        any.into_iter().chain(self.ports.iter().map(|range| Some(range.bounds()))).map(move |ports| {
            PacketRule { direction, protocol: self.proto, ports, peer: self.cidr, verdict: self.action }
        })
    }
}

impl TrafficPolicy {
    fn check_count(&self, violations: &mut Violations) {
        let count: usize = self.rules.iter().map(|rule| rule.ports.len().max(1)).sum();
        if count > RULES_MAX {
            violations.inside(Step::Field("rules".to_owned()), |v| {
                v.note(format!("at most {RULES_MAX} rules and port ranges"), count.to_string(), None);
            });
        }
    }
}

/// Both directions as the packet path takes them; a direction that is not stated lets everything pass.
fn packet_policy(ingress: Option<&TrafficPolicy>, egress: Option<&TrafficPolicy>) -> Option<PacketPolicy> {
    if ingress.is_none() && egress.is_none() {
        return None;
    }
    let default = |policy: Option<&TrafficPolicy>| policy.map_or(Verdict::Accept, |p| p.default);
    let expand = |policy: Option<&TrafficPolicy>, direction| -> Vec<PacketRule> {
        policy.into_iter().flat_map(|p| &p.rules).flat_map(|rule| rule.expand(direction)).collect()
    };
    let mut rules = expand(ingress, Direction::Ingress);
    rules.append(&mut expand(egress, Direction::Egress));
    Some(PacketPolicy { rules, ingress_default: default(ingress), egress_default: default(egress) })
}

impl NetworkPolicy {
    /// The packet filter of the whole VM; `None` where the profile states none.
    pub fn packet_policy(&self) -> Option<PacketPolicy> {
        packet_policy(self.ingress.as_ref(), self.egress.as_ref())
    }
}

impl ApplicationPolicy {
    /// The packet filter of the application; `None` where the profile states none.
    pub fn packet_policy(&self) -> Option<PacketPolicy> {
        packet_policy(self.ingress.as_ref(), self.egress.as_ref())
    }
}

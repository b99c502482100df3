//! The packet filter of a VM on the host: one `netdev` table per VM, bound to its tap, both directions.
//!
//! Bridges on common kernels have no connection tracking. So rules decide about new TCP connections (SYN), and about
//! each packet of other protocols; TCP segments of connections that stand pass, and a new policy never cuts one. The
//! answers of UDP and ICMP pass in two ways: those of a rule that names its protocol by a mirrored rule; those of what a
//! default accepts, or a rule for any protocol, by sets in which the kernel remembers who was spoken to, for a while. Without them a guest that may ask
//! for anything would hear no answer of a name server.

use super::{Network, tap_name};
use crate::driver::DriverError;
use proteus_model::policy::{Direction, PacketPolicy, PacketRule, Protocol, Verdict};
use serde_json::{Value, json};
use std::net::IpAddr;

/// Why a VM's filter could not be read as a policy.
#[derive(Debug, thiserror::Error)]
#[error("the packet filter of {tap} is not one that Proteus wrote")]
pub struct FilterError {
    /// The tap.
    pub tap: String,
}

fn table_name(slot: u16) -> String {
    format!("policy_{}", tap_name(slot))
}

fn equals(left: Value, right: Value) -> Value {
    json!({"match": {"op": "==", "left": left, "right": right}})
}

fn payload(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

fn verdict(verdict: Verdict) -> Value {
    match verdict {
        Verdict::Accept => json!({ "accept": null }),
        Verdict::Drop => json!({ "drop": null }),
    }
}

/// The expressions of one rule. `mirrored`: for the answers, so ports and peers swap sides.
fn expressions(rule: &PacketRule, mirrored: bool) -> Vec<Value> {
    let mut all = Vec::new();
    let inwards = (rule.direction == Direction::Ingress) != mirrored;
    if let Some(peer) = rule.peer {
        let protocol = if matches!(peer.address, IpAddr::V4(_)) { "ip" } else { "ip6" };
        let field = payload(protocol, if inwards { "saddr" } else { "daddr" });
        all.push(equals(field, json!({"prefix": {"addr": peer.address.to_string(), "len": peer.prefix}})));
    }
    let port_field = if mirrored { "sport" } else { "dport" };
    let ports = |protocol| {
        rule.ports.map(|(first, last)| {
            let range = if first == last { json!(first) } else { json!({"range": [first, last]}) };
            equals(payload(protocol, port_field), range)
        })
    };
    let l4 = |value: Value| equals(json!({"meta": {"key": "l4proto"}}), value);
    match rule.protocol {
        Some(Protocol::Tcp) => all.extend([Some(l4(json!("tcp"))), ports("tcp")].into_iter().flatten()),
        Some(Protocol::Udp) => all.extend([Some(l4(json!("udp"))), ports("udp")].into_iter().flatten()),
        Some(Protocol::Icmp) => all.push(l4(json!({"set": ["icmp", "ipv6-icmp"]}))),
        None => all.extend(ports("th")),
    }
    all
}

/// What must pass for a network to be one, and the segments of TCP connections that stand.
fn always_pass() -> Vec<Value> {
    let standing = equals(json!({"&": [payload("tcp", "flags"), ["syn", "ack"]]}), json!("ack"));
    let answer = equals(json!({"&": [payload("tcp", "flags"), ["syn", "ack"]]}), json!(["syn", "ack"]));
    let arp = equals(payload("ether", "type"), json!("arp"));
    let neighbours = equals(
        payload("icmpv6", "type"),
        json!({"set": ["nd-neighbor-solicit", "nd-neighbor-advert", "nd-router-solicit", "nd-router-advert"]}),
    );
    [standing, answer, arp, neighbours].into_iter().map(|m| json!([m, {"accept": null}])).collect()
}

/// How long it is remembered who was spoken to, s, as long as Linux remembers a UDP exchange that was answered
/// (`nf_conntrack_udp_timeout_stream`).
const REMEMBERED_S: u32 = 120;
/// Most peers that are remembered of a VM, in each set; beyond it answers to new ones do not pass.
const REMEMBERED_MAX: u32 = 16_384;

/// The sets of who was spoken to: by UDP peer, its port and the guest's; by ICMP the peer.
const SETS: [(&str, &str, &str, Option<&str>); 4] = [
    ("udp4", "ipv4_addr", "ip", Some("udp")),
    ("udp6", "ipv6_addr", "ip6", Some("udp")),
    ("icmp4", "ipv4_addr", "ip", None),
    ("icmp6", "ipv6_addr", "ip6", None),
];

/// Whether a direction's accepting must be remembered for the answers: what comes back would be dropped.
fn remembers(policy: &PacketPolicy, direction: Direction) -> bool {
    match direction {
        Direction::Ingress => policy.egress_default == Verdict::Drop,
        Direction::Egress => policy.ingress_default == Verdict::Drop,
    }
}

/// For each set a match on its protocol, its key for packets of this direction, and its name.
fn exchanges(direction: Direction) -> impl Iterator<Item = (Value, Value, String)> {
    let inwards = direction == Direction::Ingress;
    SETS.into_iter().map(move |(name, _, network, transport)| {
        let peer = payload(network, if inwards { "saddr" } else { "daddr" });
        let (theirs, own) = if inwards { ("sport", "dport") } else { ("dport", "sport") };
        let l4 = |word: &str| equals(json!({"meta": {"key": "l4proto"}}), json!(word));
        match transport {
            Some(udp) => {
                (l4(udp), json!({"concat": [peer, payload(udp, theirs), payload(udp, own)]}), name.to_owned())
            }
            None => (l4(if network == "ip" { "icmp" } else { "ipv6-icmp" }), peer, name.to_owned()),
        }
    })
}

/// Rules that remember whom packets that match `when` speak to; they decide nothing.
fn remember(when: &[Value], direction: Direction) -> Vec<Value> {
    let rule = |(l4, key, set): (Value, Value, String)| {
        let put = json!({"set": {"op": "update", "elem": key, "set": format!("@{set}")}});
        Value::Array(when.iter().cloned().chain([l4, put]).collect())
    };
    exchanges(direction).map(rule).collect()
}

/// Rules that let answers of remembered peers pass.
fn answers(direction: Direction) -> Vec<Value> {
    let rule = |(l4, key, set): (Value, Value, String)| {
        json!([l4, equals(key, json!(format!("@{set}"))), verdict(Verdict::Accept)])
    };
    exchanges(direction).map(rule).collect()
}

fn chain_rules(policy: &PacketPolicy, direction: Direction) -> Vec<Value> {
    let mut rules = always_pass();
    for rule in &policy.rules {
        let stateless = matches!(rule.protocol, Some(Protocol::Udp | Protocol::Icmp));
        let mirrored = stateless && rule.verdict == Verdict::Accept;
        if rule.direction == direction || mirrored {
            let mut all = expressions(rule, rule.direction != direction);
            let any = rule.protocol.is_none() && rule.verdict == Verdict::Accept;
            if any && remembers(policy, direction) {
                rules.extend(remember(&all, direction));
            }
            all.push(verdict(rule.verdict));
            rules.push(Value::Array(all));
        }
    }
    let default = match direction {
        Direction::Ingress => policy.ingress_default,
        Direction::Egress => policy.egress_default,
    };
    let other = match direction {
        Direction::Ingress => Direction::Egress,
        Direction::Egress => Direction::Ingress,
    };
    if remembers(policy, other) {
        rules.extend(answers(direction));
    }
    if default == Verdict::Accept && remembers(policy, direction) {
        rules.extend(remember(&[], direction));
    }
    rules.push(json!([verdict(default)]));
    rules
}

/// The nft commands that put `policy` on the tap of `slot`, replacing what was there, in one transaction.
fn commands(slot: u16, policy: Option<&PacketPolicy>) -> Value {
    let (table, tap) = (table_name(slot), tap_name(slot));
    let whole = json!({"table": {"family": "netdev", "name": table}});
    let mut all = vec![json!({ "add": whole }), json!({ "delete": whole })];
    if let Some(policy) = policy {
        all.push(json!({ "add": whole }));
        let remembered = [Direction::Ingress, Direction::Egress].iter().any(|way| remembers(policy, *way));
        for (name, address, _, transport) in SETS.into_iter().filter(|_| remembered) {
            let key = match transport {
                Some(_) => json!([address, "inet_service", "inet_service"]),
                None => json!(address),
            };
            let set = json!({"family": "netdev", "table": table, "name": name, "type": key,
                "flags": ["timeout"], "timeout": REMEMBERED_S, "size": REMEMBERED_MAX});
            all.push(json!({"add": {"set": set}}));
        }
        // What goes to the guest leaves the host through the tap: the tap's egress is the guest's ingress.
        for (chain, hook, direction) in
            [("to_guest", "egress", Direction::Ingress), ("from_guest", "ingress", Direction::Egress)]
        {
            let place = json!({"family": "netdev", "table": table, "name": chain, "type": "filter",
                "hook": hook, "dev": tap, "prio": 0, "policy": "accept"});
            all.push(json!({"add": {"chain": place}}));
            for expressions in chain_rules(policy, direction) {
                let rule = json!({"family": "netdev", "table": table, "chain": chain, "expr": expressions});
                all.push(json!({"add": {"rule": rule}}));
            }
        }
    }
    json!({ "nftables": all })
}

impl Network {
    /// Puts `policy` on the link of the VM in `slot` (`None`: takes the filter away). The listing that the kernel
    /// gives back is the fingerprint to compare with later.
    pub async fn set_policy(&self, slot: u16, policy: Option<&PacketPolicy>) -> Result<String, DriverError> {
        self.nft(&["-j", "-f", "-"], Some(commands(slot, policy).to_string().as_bytes())).await?;
        self.policy_fingerprint(slot).await
    }

    /// Takes away whatever filters what goes through the link of `slot`, as of a VM that ended: they outlive its tap, and
    /// the next one in the slot would have them.
    pub async fn forget_filters(&self, slot: u16) -> Result<(), DriverError> {
        if !self.exists() {
            return Ok(());
        }
        let gone =
            [table_name(slot), super::link::rate_table(slot), super::flow::flow_table(slot)].map(|name| {
                let whole = json!({"table": {"family": "netdev", "name": name}});
                [json!({ "add": whole }), json!({ "delete": whole })]
            });
        let all = json!({ "nftables": gone.concat() });
        self.nft(&["-j", "-f", "-"], Some(all.to_string().as_bytes())).await?;
        Ok(())
    }

    /// The kernel's own listing of the filter of the VM in `slot`, without what changes by itself; empty where
    /// there is none.
    pub async fn policy_fingerprint(&self, slot: u16) -> Result<String, DriverError> {
        let table = table_name(slot);
        let listing = self.nft(&["-j", "-t", "list", "ruleset", "netdev"], None).await?;
        let mut listing: Value = serde_json::from_str(&listing).unwrap_or(Value::Null);
        let entries = listing["nftables"].as_array_mut().map(std::mem::take).unwrap_or_default();
        let mut text = String::new();
        for mut entry in entries {
            for kind in ["table", "chain", "rule"] {
                let Some(body) = entry.get_mut(kind).and_then(Value::as_object_mut) else { continue };
                let of = if kind == "table" { "name" } else { "table" };
                if body.get(of).and_then(Value::as_str) == Some(&table) {
                    body.remove("handle");
                    text.push_str(&format!("{kind} {}\n", Value::Object(body.clone())));
                }
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_becomes_both_chains_and_ends_in_its_default() {
        let policy = PacketPolicy {
            rules: vec![PacketRule {
                direction: Direction::Ingress,
                protocol: Some(Protocol::Tcp),
                ports: Some((80, 80)),
                peer: Some("10.0.0.0/8".parse().unwrap()),
                verdict: Verdict::Accept,
            }],
            ingress_default: Verdict::Drop,
            egress_default: Verdict::Accept,
        };
        let ingress = chain_rules(&policy, Direction::Ingress);
        let egress = chain_rules(&policy, Direction::Egress);
        // The answers of what the egress accepts are let in, and only they.
        assert_eq!(ingress.len(), always_pass().len() + 2 + SETS.len());
        assert_eq!(egress.len(), always_pass().len() + 1 + SETS.len());
        let closed = PacketPolicy { egress_default: Verdict::Drop, ..policy.clone() };
        assert!(
            !chain_rules(&closed, Direction::Egress).iter().any(|rule| rule.to_string().contains("update"))
        );
        let open = PacketPolicy { ingress_default: Verdict::Accept, ..policy };
        assert_eq!(chain_rules(&open, Direction::Egress).len(), always_pass().len() + 1);
        assert_eq!(ingress.last(), Some(&json!([{"drop": null}])));
        assert_eq!(egress.last(), Some(&json!([{"accept": null}])));
    }
}

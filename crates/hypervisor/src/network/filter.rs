//! The packet filter of a VM on the host: one `netdev` table per VM, bound to its tap, both directions.
//!
//! Stateless, because bridges on common kernels have no connection tracking: rules decide about new TCP
//! connections (SYN), and about each packet of other protocols; TCP segments of connections that stand pass. An
//! accepted UDP or ICMP exchange passes its answers by a mirrored rule. So a new policy never cuts a connection.

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

fn chain_rules(policy: &PacketPolicy, direction: Direction) -> Vec<Value> {
    let mut rules = always_pass();
    for rule in &policy.rules {
        let stateless = matches!(rule.protocol, Some(Protocol::Udp | Protocol::Icmp));
        let mirrored = stateless && rule.verdict == Verdict::Accept;
        if rule.direction == direction || mirrored {
            let mut all = expressions(rule, rule.direction != direction);
            all.push(verdict(rule.verdict));
            rules.push(Value::Array(all));
        }
    }
    let default = match direction {
        Direction::Ingress => policy.ingress_default,
        Direction::Egress => policy.egress_default,
    };
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

    /// The kernel's own listing of the filter of the VM in `slot`, without what changes by itself; empty where
    /// there is none.
    pub async fn policy_fingerprint(&self, slot: u16) -> Result<String, DriverError> {
        let table = table_name(slot);
        let listing = self.nft(&["-j", "list", "ruleset", "netdev"], None).await?;
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
        assert_eq!(ingress.len(), always_pass().len() + 2);
        assert_eq!(egress.len(), always_pass().len() + 1);
        assert_eq!(ingress.last(), Some(&json!([{"drop": null}])));
        assert_eq!(egress.last(), Some(&json!([{"accept": null}])));
    }
}

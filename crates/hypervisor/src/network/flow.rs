//! Who a VM speaks to, as the host sees it with no agent: one `netdev` table per VM, bound to its tap. The kernel counts
//! the beginnings of connections into sets of bounded size whose elements it forgets after ten minutes: of TCP the SYNs, of
//! UDP the packets to ports of services that are no answers. A segment of a TCP connection that stands costs one rule. Behind the packet
//! filter, so that what it dropped is not counted. Must never decide about a packet.
//!
//! A set that is full takes nobody new. So a look that finds one well filled takes those out again that were counted least,
//! and a peer that becomes a heavy one late finds room; that one was full is told, for then some were not counted.

use super::{Network, tap_name};
use crate::driver::DriverError;
use proteus_model::telemetry::{FLOWS_COUNTED_MAX, FlowBegun, FlowDirection, FlowsBegun};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::net::IpAddr;

/// Behind the packet filter of the VM.
const PRIORITY: i32 = 10;
/// A peer that was not spoken to for so long is forgotten.
const FORGET_S: u32 = 600;
/// Most peers by protocol and port, in each set.
const PEERS_MAX: usize = FLOWS_COUNTED_MAX as usize;
/// With so many a set is well filled: a quarter of it is left for who comes until the next look, half a minute later.
const PEERS_MANY: usize = PEERS_MAX * 3 / 4;
/// So many are left in such a one, those that were counted most.
const PEERS_KEPT: usize = PEERS_MAX / 2;
/// One that the kernel forgets within so long is left to it, s: it could be gone before we take it out.
const FORGOTTEN_SOON_S: u64 = 30;
/// Ports from here on are those of clients (Linux, `net.ipv4.ip_local_port_range`): an answer of UDP goes there.
const CLIENT_PORTS: u16 = 32_768;

/// The sets: their names, who began, the type of their addresses, the protocol.
const SETS: [(&str, FlowDirection, &str, &str); 4] = [
    ("out4", FlowDirection::Outbound, "ipv4_addr", "ip"),
    ("out6", FlowDirection::Outbound, "ipv6_addr", "ip6"),
    ("in4", FlowDirection::Inbound, "ipv4_addr", "ip"),
    ("in6", FlowDirection::Inbound, "ipv6_addr", "ip6"),
];

fn table_name(tap: &str) -> String {
    format!("flow_{tap}")
}

fn payload(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

/// The rules of one chain.
fn rules(direction: FlowDirection) -> Vec<Value> {
    let flags = json!({"&": [payload("tcp", "flags"), ["syn", "ack"]]});
    let stands = json!({"match": {"op": "!=", "left": flags, "right": "syn"}});
    let mut all = vec![json!([stands, {"accept": null}])];
    let l4 = json!({"meta": {"key": "l4proto"}});
    let of = |protocol: &str| json!({"match": {"op": "==", "left": l4, "right": protocol}});
    let service = json!({"match": {"op": "<", "left": payload("th", "dport"), "right": CLIENT_PORTS}});
    // From the guest the peer is who is spoken to, towards it who speaks.
    let peer = if direction == FlowDirection::Outbound { "daddr" } else { "saddr" };
    let key = |network, port| json!({"concat": [payload(network, peer), l4, payload("th", port)]});
    // A packet of UDP from the port that was spoken to is an answer, whatever port it goes to.
    for (name, _, _, network) in SETS.into_iter().filter(|set| set.1 != direction) {
        let left = key(network, "sport");
        let answers = json!({"match": {"op": "==", "left": left, "right": format!("@{name}")}});
        all.push(json!([of("udp"), answers, {"accept": null}]));
    }
    for (name, _, _, network) in SETS.into_iter().filter(|set| set.1 == direction) {
        let put = json!({"set": {"op": "update", "elem": key(network, "dport"), "set": format!("@{name}")}});
        all.push(json!([of("tcp"), put]));
        all.push(json!([of("udp"), service, put]));
    }
    all
}

/// The nft commands that begin to count what goes through a tap.
fn commands(tap: &str) -> Value {
    let table = table_name(tap);
    let whole = json!({"table": {"family": "netdev", "name": table}});
    let mut all = vec![json!({ "add": whole }), json!({ "delete": whole }), json!({ "add": whole })];
    for (name, _, address, _) in SETS {
        let set = json!({"family": "netdev", "table": table, "name": name, "size": PEERS_MAX,
            "type": [address, "inet_proto", "inet_service"], "flags": ["timeout"], "timeout": FORGET_S,
            "stmt": [{"counter": null}]});
        all.push(json!({"add": {"set": set}}));
    }
    for (chain, hook, direction) in
        [("from_guest", "ingress", FlowDirection::Outbound), ("to_guest", "egress", FlowDirection::Inbound)]
    {
        let place = json!({"family": "netdev", "table": table, "name": chain, "type": "filter",
            "hook": hook, "dev": tap, "prio": PRIORITY, "policy": "accept"});
        all.push(json!({"add": {"chain": place}}));
        for expressions in rules(direction) {
            let rule = json!({"family": "netdev", "table": table, "chain": chain, "expr": expressions});
            all.push(json!({"add": {"rule": rule}}));
        }
    }
    json!({ "nftables": all })
}

/// An element such as `{"elem": {"val": {"concat": ["10.0.0.9", "tcp", 80]}, "counter": {"packets": 3}}}`.
fn element(direction: FlowDirection, element: &Value) -> Option<FlowBegun> {
    let key = element["elem"]["val"]["concat"].as_array()?;
    let protocol = match key.get(1)? {
        Value::String(name) => name.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    Some(FlowBegun {
        direction,
        protocol,
        peer: key.first()?.as_str()?.parse::<IpAddr>().ok()?,
        port: u16::try_from(key.get(2)?.as_u64()?).ok()?,
        begun: element["elem"]["counter"]["packets"].as_u64()?,
    })
}

/// What is counted at a tap, and what is taken out of it again.
#[derive(Debug, Default)]
struct Counted {
    flows: FlowsBegun,
    /// Keys by the name of their set, as the kernel lists them.
    least: Vec<(&'static str, Vec<Value>)>,
}

/// The keys of those that were counted least, where a set is well filled.
fn least(elements: &[Value]) -> Vec<Value> {
    if elements.len() < PEERS_MANY {
        return Vec::new();
    }
    let count = |one: &Value| one["elem"]["counter"]["packets"].as_u64().unwrap_or(0);
    let mut order: Vec<&Value> = elements.iter().collect();
    order.sort_by_key(|one| std::cmp::Reverse(count(one)));
    let stays = |one: &&&Value| one["elem"]["expires"].as_u64().is_some_and(|left| left >= FORGOTTEN_SOON_S);
    order[PEERS_KEPT.min(order.len())..].iter().filter(stays).map(|one| one["elem"]["val"].clone()).collect()
}

/// What the kernel's listing tells of each tap whose two chains are there, and whose sets are as they are made today.
fn read(listing: &Value) -> HashMap<String, Counted> {
    let entries = listing["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of = |body: &Value| {
        body["table"].as_str().and_then(|table| table.strip_prefix("flow_")).map(str::to_owned)
    };
    // A chain whose tap is gone is gone; its table and its sets stay.
    let mut chains: HashMap<String, usize> = HashMap::new();
    for tap in entries.iter().filter_map(|entry| of(&entry["chain"])) {
        *chains.entry(tap).or_default() += 1;
    }
    let sets = || entries.iter().map(|entry| &entry["set"]);
    // Of a Proteus of before.
    let is_other = |set: &&Value| set["timeout"] != FORGET_S || set["size"] != PEERS_MAX;
    let others: HashSet<String> = sets().filter(is_other).filter_map(of).collect();
    let is_whole = |(tap, count): &(String, usize)| *count == 2 && !others.contains(tap);
    let mut all: HashMap<String, Counted> =
        chains.into_iter().filter(is_whole).map(|(tap, _)| (tap, Counted::default())).collect();
    for set in sets() {
        let kind = SETS.iter().find(|known| set["name"] == known.0);
        let known = of(set).and_then(|tap| all.get_mut(&tap));
        let (Some(known), Some((name, direction, _, _))) = (known, kind) else { continue };
        let elements = set["elem"].as_array().map(Vec::as_slice).unwrap_or_default();
        known.flows.all.extend(elements.iter().filter_map(|one| element(*direction, one)));
        known.flows.full |= elements.len() >= PEERS_MAX;
        known.least.extend(Some((*name, least(elements))).filter(|(_, keys)| !keys.is_empty()));
    }
    for counted in all.values_mut() {
        let order = |a: &FlowBegun, b: &FlowBegun| {
            b.begun.cmp(&a.begun).then_with(|| (a.peer, a.port).cmp(&(b.peer, b.port)))
        };
        counted.flows.all.sort_by(order);
    }
    all
}

/// The nft commands that take these out of the sets of a tap.
fn take_out(tap: &str, least: &[(&'static str, Vec<Value>)]) -> Value {
    let of_set = |(name, keys): &(&'static str, Vec<Value>)| {
        let elements = json!({"family": "netdev", "table": table_name(tap), "name": name, "elem": keys});
        json!({"delete": {"element": elements}})
    };
    json!({ "nftables": least.iter().map(of_set).collect::<Vec<_>>() })
}

impl Network {
    /// What the VMs in these slots begun and were begun with in the last ten minutes, what was begun most first. Who is not
    /// counted yet is from now on, and left out.
    pub async fn flows(&self, slots: &BTreeSet<u16>) -> Result<HashMap<u16, FlowsBegun>, DriverError> {
        if !self.exists() || slots.is_empty() {
            return Ok(HashMap::new());
        }
        let listing = self.nft(&["-j", "list", "ruleset", "netdev"], None).await?;
        // Megabytes where many VMs speak to many: nobody else would get this thread meanwhile.
        let read = move || read(&serde_json::from_str(&listing).unwrap_or(Value::Null));
        let read = tokio::task::spawn_blocking(read).await.map_err(io::Error::other);
        let mut by_tap = read.map_err(DriverError::host("read what VMs begin"))?;
        let mut flows = HashMap::new();
        for slot in slots {
            let tap = tap_name(*slot);
            let Some(counted) = by_tap.remove(&tap) else {
                // A VM that ends just now; one that does not is tried again with the next look.
                self.change_flows(&tap, &commands(&tap), "what it begins is not counted").await;
                continue;
            };
            if !counted.least.is_empty() {
                let commands = take_out(&tap, &counted.least);
                self.change_flows(&tap, &commands, "those that it begins most rarely are not taken out")
                    .await;
            }
            flows.insert(*slot, counted.flows);
        }
        Ok(flows)
    }

    async fn change_flows(&self, tap: &str, commands: &Value, otherwise: &str) {
        if let Err(error) = self.nft(&["-j", "-f", "-"], Some(commands.to_string().as_bytes())).await {
            tracing::debug!(%tap, %error, "{otherwise}");
        }
    }
}

/// Name of the table of a slot's tap.
pub(super) fn flow_table(slot: u16) -> String {
    table_name(&tap_name(slot))
}

#[cfg(test)]
#[path = "../../../../tests/support/fuzz.rs"]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::fuzz::{Random, run};
    use super::*;

    #[test]
    fn elements_of_taps_that_are_there_are_read() {
        let element = |val: Value| json!({"elem": {"val": {"concat": val}, "expires": 5, "counter": {"packets": 3, "bytes": 9}}});
        let listing = json!({"nftables": [
            {"chain": {"table": "flow_pt0", "name": "from_guest"}},
            {"chain": {"table": "flow_pt0", "name": "to_guest"}},
            {"chain": {"table": "flow_pt2", "name": "from_guest"}},
            {"chain": {"table": "flow_pt2", "name": "to_guest"}},
            {"set": {"table": "flow_pt2", "name": "in4", "timeout": 3600, "size": 512}},
            {"set": {"table": "flow_pt0", "name": "in4", "timeout": 600, "size": 512, "elem": [element(json!(["10.0.0.9", "tcp", 80])),
                element(json!(["10.0.0.9", 132, 7])), element(json!(["nonsense", "tcp", 80])), "x"]}},
            {"set": {"table": "flow_pt0", "name": "out6", "timeout": 600, "size": 512, "elem": [element(json!(["2001:db8::1", "udp", 53]))]}},
            {"set": {"table": "flow_pt1", "name": "in4", "elem": [element(json!(["10.0.0.9", "tcp", 80]))]}},
            {"set": {"table": "policy_pt0", "name": "udp4", "elem": []}},
        ]});
        let flows = read(&listing);
        assert_eq!(flows.len(), 1, "chains that are gone, sets of before: {flows:?}");
        let all = &flows["pt0"].flows.all;
        let seen: Vec<_> =
            all.iter().map(|flow| (flow.direction, flow.protocol.as_str(), flow.port)).collect();
        let (inbound, outbound) = (FlowDirection::Inbound, FlowDirection::Outbound);
        assert_eq!(seen, [(inbound, "132", 7), (inbound, "tcp", 80), (outbound, "udp", 53)]);
        assert_eq!((all[0].begun, flows["pt0"].flows.full, flows["pt0"].least.len()), (3, false, 0));
    }

    /// Texts that stand for something in a listing, in each other's places.
    const PIECES: [&str; 12] = [
        "null",
        "[]",
        "{}",
        "-1",
        "65536",
        "18446744073709551616",
        "1e400",
        "\"in4\"",
        "\"flow_pt1\"",
        "{\"concat\": [\"10.0.0.9\"]}",
        "\"2001:db8::\"",
        "\"\\u0000\"",
    ];

    /// One mutation of a value, somewhere in it.
    fn mutate(random: &mut Random, value: &mut Value) {
        let inner = match value {
            Value::Array(all) if !all.is_empty() && random.below(6) > 0 => {
                let at = random.below(all.len());
                match random.below(12) {
                    0 => return drop(all.remove(at)),
                    1 => return all.push(all[at].clone()),
                    _ => all.get_mut(at),
                }
            }
            Value::Object(all) if !all.is_empty() && random.below(6) > 0 => {
                let at = random.below(all.len());
                all.values_mut().nth(at)
            }
            _ => None,
        };
        match inner {
            Some(inner) => mutate(random, inner),
            None => *value = serde_json::from_str(PIECES[random.below(PIECES.len())]).unwrap_or(Value::Null),
        }
    }

    #[test]
    fn a_listing_of_any_form_tells_of_taps_that_are_there_and_of_no_more_than_it_lists() {
        let make = |random: &mut Random| {
            let (mut entries, mut wanted) = (Vec::new(), Vec::new());
            for tap in ["pt0", "pt1"] {
                let table = format!("flow_{tap}");
                entries.extend(
                    ["from_guest", "to_guest"].map(|name| json!({"chain": {"table": table, "name": name}})),
                );
                for (name, direction, address, _) in SETS {
                    let peer: IpAddr = match address {
                        "ipv4_addr" => (random.next() as u32).to_be_bytes().into(),
                        _ => [0x2001, 0xDB8, 0, 0, 0, 0, 0, random.next() as u16].into(),
                    };
                    let (port, begun) = (random.next() as u16, random.next() >> random.below(64));
                    let key = json!({"concat": [peer.to_string(), "tcp", port]});
                    let element = json!({"elem": {"val": key, "expires": 5, "counter": {"packets": begun, "bytes": 9}}});
                    entries.push(json!({"set": {"table": table, "name": name, "timeout": FORGET_S,
                        "size": PEERS_MAX, "elem": [element]}}));
                    wanted
                        .push((tap, FlowBegun { direction, protocol: "tcp".to_owned(), peer, port, begun }));
                }
            }
            let mut listing = json!({ "nftables": entries });
            let told = read(&listing);
            assert!(
                wanted.iter().all(|(tap, flow)| told[*tap].flows.all.contains(flow)),
                "what is whole is not read whole"
            );
            (0..random.below(8)).for_each(|_| mutate(random, &mut listing));
            let mut text = listing.to_string().into_bytes();
            // And some that are no JSON.
            if random.below(8) == 0 {
                text.truncate(random.below(text.len() + 1));
            }
            text
        };
        run(5_000, make, |text: &Vec<u8>| {
            let listing: Value = serde_json::from_slice(text).unwrap_or(Value::Null);
            let told = read(&listing);
            let text = String::from_utf8_lossy(text);
            let flows: Vec<&FlowBegun> = told.values().flat_map(|told| &told.flows.all).collect();
            assert!(flows.len() <= text.matches("\"packets\"").count());
            assert!(told.keys().all(|tap| text.matches(&format!("\"flow_{tap}\"")).count() >= 2));
            assert!(flows.iter().all(|flow| text.contains(&flow.port.to_string())));
            told.len() == 2 && flows.len() == 8
        });
    }

    /// A frame of IPv4 behind the header of `IFF_VNET_HDR`, as a guest's link sends it.
    fn frame(protocol: u8, ports: (u16, u16), rest: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 10];
        frame.extend_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 7, 8, 0]);
        let segment = [&ports.0.to_be_bytes()[..], &ports.1.to_be_bytes(), rest].concat();
        let length = (20 + segment.len()) as u16;
        let [high, low] = length.to_be_bytes();
        frame.extend_from_slice(&[
            0x45, 0, high, low, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 80, 0, 16, 10, 80, 9, 9,
        ]);
        frame.extend_from_slice(&segment);
        frame
    }

    /// The same, to another address.
    fn to(mut frame: Vec<u8>, address: [u8; 4]) -> Vec<u8> {
        let at = 10 + 14 + 16;
        frame[at..at + 4].copy_from_slice(&address);
        frame
    }

    /// The rest of a TCP header with these flags, without options.
    fn tcp(flags: u8) -> Vec<u8> {
        [&[0; 8][..], &[0x50, flags, 1, 0, 0, 0, 0, 0]].concat()
    }

    #[tokio::test]
    async fn what_a_link_begins_is_counted_and_what_stands_is_not() {
        let network = Network::new(&format!("f{:07x}", std::process::id()));
        network.ensure().await.unwrap();
        let seen = async {
            let tap = network.open_tap(3).await?;
            let slots = BTreeSet::from([3]);
            assert!(network.flows(&slots).await?.is_empty(), "it is counted before it was looked at");
            let send = |frame: Vec<u8>| assert_eq!(rustix::io::write(&tap, &frame).unwrap(), frame.len());
            (0..3).for_each(|_| send(frame(6, (40_000, 50_051), &tcp(0x02))));
            send(frame(6, (40_000, 50_052), &tcp(0x10)));
            send(frame(17, (40_000, 53), &[0, 12, 0, 0, 1, 2, 3, 4]));
            send(frame(17, (53, 40_001), &[0, 12, 0, 0, 1, 2, 3, 4]));
            let flows = network.flows(&slots).await?;
            network.forget_filters(3).await?;
            assert!(network.flows(&slots).await?.is_empty(), "what was counted outlives its VM");
            Ok::<_, DriverError>(flows)
        };
        let seen = seen.await;
        network.remove().await.unwrap();
        let all: Vec<_> =
            seen.unwrap()[&3].all.iter().map(|flow| (flow.protocol.clone(), flow.port, flow.begun)).collect();
        assert_eq!(all, [("tcp".to_owned(), 50_051, 3), ("udp".to_owned(), 53, 1)]);
    }

    #[tokio::test]
    async fn a_heavy_peer_that_comes_late_is_counted_though_many_came_before() {
        let network = Network::new(&format!("g{:07x}", std::process::id()));
        network.ensure().await.unwrap();
        let seen = async {
            let tap = network.open_tap(5).await?;
            let slots = BTreeSet::from([5]);
            network.flows(&slots).await?;
            let send = |frame: Vec<u8>| assert_eq!(rustix::io::write(&tap, &frame).unwrap(), frame.len());
            let syn = |address: [u8; 4]| send(to(frame(6, (40_000, 443), &tcp(0x02)), address));
            // One that is spoken to again and again, then all addresses of two networks, once each.
            (0..9).for_each(|_| syn([10, 80, 9, 9]));
            (0..600u16).for_each(|host| syn([10, 90, (host >> 8) as u8, host as u8]));
            let full = network.flows(&slots).await?[&5].clone();
            let late = [10, 91, 0, 1];
            (0..20).for_each(|_| syn(late));
            let after = network.flows(&slots).await?[&5].clone();
            Ok::<_, DriverError>((full, after))
        };
        let seen = seen.await;
        network.remove().await.unwrap();
        let (full, after) = seen.unwrap();
        assert!(full.full && full.all.len() == PEERS_MAX, "{} are counted", full.all.len());
        assert!(!after.full && after.all.len() <= PEERS_KEPT + 1, "{} are left", after.all.len());
        let first: Vec<_> =
            after.all.iter().take(3).map(|flow| (flow.peer.to_string(), flow.begun)).collect();
        assert_eq!(first[..2], [("10.91.0.1".to_owned(), 20), ("10.80.9.9".to_owned(), 9)]);
        assert_eq!(first[2].1, 1);
    }
}

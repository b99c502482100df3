//! Network policy per application, in the table `inet proteus_guest`. The whole table is written at once from all
//! policies, and listed again to see that every chain and rule is there. A rule holds the *id* of a control group:
//! when the group was made anew, the rule matches nothing (it fails open), so ids are watched and the table is
//! written again. Must never touch another table.
//!
//! Loopback always passes: what happens there stays in the guest, and the agent's own checks go there.

use super::application::{cgroup_dir, cgroup_of};
use crate::failure::Failure;
use proteus_protocol::guest::frame::crc32;
use proteus_protocol::guest::v1::setting::{
    ApplicationSelector, Direction, NetworkPolicy, NetworkRule, Protocol, RateLimit, Verdict,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The agent's own table.
pub const TABLE: &str = "proteus_guest";
/// Where Debian has the program.
const NFT: &str = "/usr/sbin/nft";
/// Survives a restart of the agent; a reboot takes both table and file.
const STATE_FILE: &str = "/run/proteus/network-policy.json";
/// Most applications with a policy: 32 × 2 jumps are the work for a packet of none of them.
const APPLICATIONS_MAX: usize = 32;

/// A policy that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Installed {
    application: ApplicationSelector,
    policy: NetworkPolicy,
    cgroup: String,
    cgroup_id: u64,
}

/// All policies that are in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies {
    installed: Vec<Installed>,
}

/// Why there is no network policy here; `None`: there is.
pub fn missing() -> Option<String> {
    (!Path::new(NFT).exists()).then(|| format!("{NFT} is not in this guest"))
}

/// Arguments that load a script from standard input.
pub fn load_argv() -> Vec<String> {
    [NFT, "-f", "-"].map(str::to_owned).to_vec()
}

/// Arguments that list the table.
pub fn list_argv() -> Vec<String> {
    [NFT, "-j", "list", "table", "inet", TABLE].map(str::to_owned).to_vec()
}

fn cgroup_id(path: &str) -> Result<u64, Failure> {
    // The id of a control group is the inode number of its folder.
    let found =
        std::fs::metadata(cgroup_dir(path)).map_err(|e| Failure::system(format!("look at {path}"), &e))?;
    Ok(found.ino())
}

impl Policies {
    /// What an earlier run of the agent had put in force.
    pub fn load() -> Self {
        std::fs::read(STATE_FILE).ok().and_then(|data| serde_json::from_slice(&data).ok()).unwrap_or_default()
    }

    /// Keeps them for a later run of the agent.
    pub fn save(&self) -> Result<(), Failure> {
        let failure = |e: std::io::Error| Failure::system(format!("write {STATE_FILE}"), &e);
        let data = serde_json::to_vec(self).map_err(|e| Failure::invalid(&e))?;
        let file = PathBuf::from(STATE_FILE);
        let fresh = file.with_extension("new");
        std::fs::create_dir_all("/run/proteus").map_err(failure)?;
        std::fs::write(&fresh, data).map_err(failure)?;
        std::fs::rename(fresh, file).map_err(failure)
    }

    /// Whether no application has one.
    pub fn is_empty(&self) -> bool {
        self.installed.is_empty()
    }

    /// These, with one application's policy replaced or removed.
    pub fn with(
        &self,
        application: &ApplicationSelector,
        policy: Option<&NetworkPolicy>,
    ) -> Result<Self, Failure> {
        let mut next = self.clone();
        next.installed.retain(|entry| entry.application != *application);
        if let Some(policy) = policy {
            let cgroup = cgroup_of(application)?;
            let cgroup_id = cgroup_id(&cgroup)?;
            let entry =
                Installed { application: application.clone(), policy: policy.clone(), cgroup, cgroup_id };
            next.installed.push(entry);
        }
        if next.installed.len() > APPLICATIONS_MAX {
            return Err(Failure::unsupported(format!(
                "at most {APPLICATIONS_MAX} applications can have a policy"
            )));
        }
        Ok(next)
    }

    /// The policy of an application.
    pub fn policy(&self, application: &ApplicationSelector) -> Option<NetworkPolicy> {
        self.installed
            .iter()
            .find(|entry| entry.application == *application)
            .map(|entry| entry.policy.clone())
    }

    /// These with the ids that their groups have now, if one of them was made anew. A group that is gone keeps its
    /// old id: nothing runs in it.
    pub fn refreshed(&self) -> Option<Self> {
        let mut next = self.clone();
        for entry in &mut next.installed {
            if let Ok(cgroup) = cgroup_of(&entry.application)
                && let Ok(id) = cgroup_id(&cgroup)
            {
                (entry.cgroup, entry.cgroup_id) = (cgroup, id);
            }
        }
        (next != *self).then_some(next)
    }

    /// The script that puts exactly these in force, in one transaction.
    pub fn script(&self) -> String {
        let mut out = format!("table inet {TABLE}\ndelete table inet {TABLE}\n");
        let present: Vec<_> =
            self.installed.iter().enumerate().filter(|(_, e)| cgroup_dir(&e.cgroup).is_dir()).collect();
        if present.is_empty() {
            return out;
        }
        let mut jumps = [String::new(), String::new()];
        let _ = writeln!(out, "table inet {TABLE} {{");
        for (index, entry) in present {
            for (slot, direction) in [Direction::Ingress, Direction::Egress].into_iter().enumerate() {
                let chain = chain_name(index, direction);
                let rules = rules(&entry.policy, direction);
                let _ = writeln!(out, "  chain {chain} {{\n{}\n  }}", rules.join("\n"));
                let level = entry.cgroup.split('/').count();
                let _ = writeln!(
                    jumps[slot],
                    "    socket cgroupv2 level {level} \"{}\" jump {chain} comment \"{}\"",
                    entry.cgroup,
                    entry.mark()
                );
            }
        }
        let [ingress, egress] = jumps;
        for (hook, interface, jumps) in [("input", "iifname", ingress), ("output", "oifname", egress)] {
            let _ = writeln!(
                out,
                "  chain {hook} {{\n    type filter hook {hook} priority 0; policy accept;\n    {interface} \"lo\" accept\n{jumps}  }}"
            );
        }
        out.push_str("}\n");
        out
    }

    /// Compares a listing of the table with what should be there.
    pub fn check(&self, listing: &[u8]) -> Result<(), Failure> {
        let wanted = self.expected();
        let found = counted(listing).map_err(|e| Failure::system("read nftables' listing", &e))?;
        if found == wanted {
            return Ok(());
        }
        let text = |map: &BTreeMap<String, Counted>| format!("{map:?}");
        Err(Failure::not_effective(format!("table inet {TABLE}"), text(&wanted), text(&found)))
    }

    fn expected(&self) -> BTreeMap<String, Counted> {
        let mut chains = BTreeMap::new();
        for (index, entry) in
            self.installed.iter().enumerate().filter(|(_, e)| cgroup_dir(&e.cgroup).is_dir())
        {
            for (hook, direction) in [("input", Direction::Ingress), ("output", Direction::Egress)] {
                let rules = rules(&entry.policy, direction).len();
                chains.insert(chain_name(index, direction), Counted { rules, marks: Vec::new() });
                let base: &mut Counted = chains.entry(hook.to_owned()).or_default();
                // The first rule of a base chain lets loopback pass.
                base.rules = base.rules.max(1) + 1;
                base.marks.push(entry.mark());
            }
        }
        chains
    }
}

impl Installed {
    /// Ties a jump to policy and group: a rule of another policy or for an older group has another mark.
    fn mark(&self) -> String {
        let policy = serde_json::to_vec(&self.policy).unwrap_or_default();
        format!("{:08x}-{}", crc32(&policy), self.cgroup_id)
    }
}

fn chain_name(index: usize, direction: Direction) -> String {
    match direction {
        Direction::Ingress => format!("app{index}_in"),
        Direction::Egress => format!("app{index}_out"),
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Accept => "accept",
        Verdict::Drop => "drop",
    }
}

/// The rules of one direction: first what limits a rate, for that holds for open connections too; then open
/// connections pass; then the rules in their order; then the default.
fn rules(policy: &NetworkPolicy, direction: Direction) -> Vec<String> {
    let own = || policy.rules.iter().filter(|rule| rule.direction == direction);
    let limits =
        own().filter_map(|rule| Some(format!("    {}{} drop", matches(rule), limit(rule.rate_limit?))));
    let open = std::iter::once("    ct state established,related accept".to_owned());
    let plain = own().map(|rule| format!("    {}{}", matches(rule), verdict(rule.verdict)));
    let default = match direction {
        Direction::Ingress => policy.ingress_default,
        Direction::Egress => policy.egress_default,
    };
    let default = std::iter::once(format!("    {}", verdict(default)));
    limits.chain(open).chain(plain).chain(default).collect()
}

/// Everything in a rule before its verdict. Typed values only: none of this is somebody's text.
fn matches(rule: &NetworkRule) -> String {
    let mut out = String::new();
    if let Some(peer) = rule.peer {
        let family = if peer.address.is_ipv4() { "ip" } else { "ip6" };
        let side = if rule.direction == Direction::Egress { "daddr" } else { "saddr" };
        let _ = write!(out, "{family} {side} {}/{} ", peer.address, peer.prefix);
    }
    let protocol = rule.protocol.map(|protocol| match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Icmp => "{ icmp, ipv6-icmp }",
    });
    match (protocol, rule.ports) {
        (Some(name), Some(ports)) if ports.from == ports.to => {
            let _ = write!(out, "{name} dport {} ", ports.from);
        }
        (Some(name), Some(ports)) => {
            let _ = write!(out, "{name} dport {}-{} ", ports.from, ports.to);
        }
        (Some(name), None) => {
            let _ = write!(out, "meta l4proto {name} ");
        }
        (None, _) => {}
    }
    out
}

/// What exceeds a rate. A tenth of a second's worth may come at once, and at least one large packet.
fn limit(limit: RateLimit) -> String {
    match limit {
        RateLimit::PacketsPerSecond(n) => {
            format!("limit rate over {n}/second burst {} packets", (n / 10).max(1))
        }
        RateLimit::BytesPerSecond(n) => {
            format!("limit rate over {n} bytes/second burst {} bytes", (n / 10).max(65_536))
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Counted {
    rules: usize,
    marks: Vec<String>,
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Item>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
struct Item {
    chain: Option<Chain>,
    rule: Option<Rule>,
}

#[derive(Deserialize)]
struct Chain {
    name: String,
}

#[derive(Deserialize)]
struct Rule {
    chain: String,
    comment: Option<String>,
}

fn counted(listing: &[u8]) -> Result<BTreeMap<String, Counted>, serde_json::Error> {
    let mut chains: BTreeMap<String, Counted> = BTreeMap::new();
    if listing.is_empty() {
        return Ok(chains);
    }
    let listing: Listing = serde_json::from_slice(listing)?;
    for item in listing.nftables {
        if let Some(chain) = item.chain {
            chains.entry(chain.name).or_default();
        }
        if let Some(rule) = item.rule {
            let chain = chains.entry(rule.chain).or_default();
            chain.rules += 1;
            chain.marks.extend(rule.comment);
        }
    }
    Ok(chains)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proteus_protocol::guest::v1::setting::{Cidr, PortRange};

    fn policy() -> NetworkPolicy {
        let rule = NetworkRule {
            direction: Direction::Egress,
            protocol: Some(Protocol::Tcp),
            ports: Some(PortRange { from: 5432, to: 5432 }),
            peer: Some(Cidr { address: "10.0.0.0".parse().unwrap(), prefix: 8 }),
            verdict: Verdict::Accept,
            rate_limit: Some(RateLimit::PacketsPerSecond(100)),
        };
        NetworkPolicy { egress_default: Verdict::Drop, ingress_default: Verdict::Accept, rules: vec![rule] }
    }

    #[test]
    fn rules_in_the_order_in_which_they_decide() {
        assert_eq!(
            rules(&policy(), Direction::Egress),
            [
                "    ip daddr 10.0.0.0/8 tcp dport 5432 limit rate over 100/second burst 10 packets drop",
                "    ct state established,related accept",
                "    ip daddr 10.0.0.0/8 tcp dport 5432 accept",
                "    drop",
            ]
        );
        assert_eq!(
            rules(&policy(), Direction::Ingress),
            ["    ct state established,related accept", "    accept"]
        );
    }

    #[test]
    fn no_policy_is_no_table() {
        let policies = Policies::default();
        assert_eq!(policies.script(), "table inet proteus_guest\ndelete table inet proteus_guest\n");
        assert!(policies.check(b"").is_ok());
        let foreign =
            br#"{"nftables":[{"chain":{"family":"inet","table":"proteus_guest","name":"x","handle":1}}]}"#;
        assert!(policies.check(foreign).is_err());
    }

    #[test]
    fn a_listing_is_counted() {
        let listing =
            br#"{"nftables":[{"metainfo":{"version":"1"}},{"table":{"name":"t"}},{"chain":{"name":"a"}},
            {"rule":{"chain":"a","comment":"m","expr":[]}},{"rule":{"chain":"a","expr":[]}}]}"#;
        let found = counted(listing).unwrap();
        assert_eq!(found["a"], Counted { rules: 2, marks: vec!["m".into()] });
    }
}

//! The guests' way out, only while an operator wants it: a link between their namespace and the host, addresses that
//! no route of the host knows, translation and filters in a table of this instance's own on either side.
//!
//! ```text
//! guest ─ pb0 ─[namespace: translate]─ up0 ═══ puINSTANCE ─[host: filter, translate]─ interface
//! ```
//!
//! Translated twice, so that the host learns no route to the guests and two instances with the same guests' network
//! do not meet. Guests reach neither the host itself nor private networks, and nobody reaches them from outside.

mod rule;

use super::{BRIDGE, Network};
use crate::tool::{self, ToolError};
use proteus_model::uplink::{InterfaceName, UplinkIntent, UplinkObserved};
use serde_json::Value;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// The guests' end of the link, in their namespace.
const INNER: &str = "up0";
/// Where links' addresses are taken from, a /30 each: the first that no route of the host overlaps.
const POOLS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 81, 0, 0), Ipv4Addr::new(172, 29, 0, 0), Ipv4Addr::new(192, 168, 0, 0)];
/// Places tried in a pool: 256 links of four addresses, spread by the instance's name.
const PLACES: u32 = 256;

/// Why there is no way out.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// The host is not so that it could be.
    #[error("{what}")]
    Refused {
        /// What stands in the way.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// A tool of the host refused.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The host refused.
    #[error("{doing}")]
    Host {
        /// The operation.
        doing: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

fn host(doing: impl Into<String>) -> impl FnOnce(io::Error) -> UplinkError {
    let doing = doing.into();
    move |source| UplinkError::Host { doing, source }
}

fn forwarding(interface: &str) -> PathBuf {
    // A dot in a name is no separator here: it is one part of the path.
    PathBuf::from("/proc/sys/net/ipv4/conf").join(interface).join("forwarding")
}

fn forwards(interface: &str) -> io::Result<bool> {
    Ok(fs::read_to_string(forwarding(interface))?.trim() == "1")
}

async fn json(args: &[&str]) -> Result<Vec<Value>, ToolError> {
    let all: Vec<&str> = ["-j"].into_iter().chain(args.iter().copied()).collect();
    let text = tool::run("ip", &all, None).await?;
    Ok(serde_json::from_str(&text).unwrap_or_default())
}

/// First and last address of a route's destination; `None` for the default route, which overlaps everything.
fn span(destination: &str) -> Option<(u32, u32)> {
    let (address, prefix) = destination.split_once('/').unwrap_or((destination, "32"));
    let address = u32::from(address.parse::<Ipv4Addr>().ok()?);
    let mask = u32::MAX.checked_shl(32 - prefix.parse::<u32>().ok()?).filter(|mask| *mask != 0)?;
    Some((address & mask, address | !mask))
}

/// The first place for a link, from `seed` on, that none of `taken` overlaps.
fn free_place(seed: u32, taken: &[(u32, u32)]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let places = POOLS.iter().flat_map(|pool| {
        (0..PLACES).map(move |step| u32::from(*pool) + (seed.wrapping_add(step) % PLACES) * 4)
    });
    let free = |first: &u32| taken.iter().all(|(from, to)| first + 3 < *from || to < first);
    places.into_iter().find(free).map(|first| (Ipv4Addr::from(first + 1), Ipv4Addr::from(first + 2)))
}

impl Network {
    fn id(&self) -> &str {
        self.namespace().trim_start_matches("proteus-")
    }

    /// The host's end of the link: named by the instance.
    fn outer(&self) -> String {
        format!("pu{}", self.id())
    }

    fn table(&self) -> String {
        format!("proteus_{}", self.id())
    }

    /// What is on now. In `/run`, like everything that it speaks of: a host that starts anew has none of it.
    fn uplink_path(&self) -> PathBuf {
        PathBuf::from("/run").join(format!("{}-uplink.json", self.namespace()))
    }

    /// The way out as it is.
    pub fn uplink(&self) -> Option<UplinkObserved> {
        serde_json::from_slice(&fs::read(self.uplink_path()).ok()?).ok()
    }

    /// The way out as it would be. Changes nothing.
    pub async fn plan_uplink(&self, intent: &UplinkIntent) -> Result<UplinkObserved, UplinkError> {
        let routes = json(&["-4", "route", "show", "table", "all"]).await?;
        let interface = match &intent.interface {
            Some(given) => given.clone(),
            None => default_interface(&routes)?,
        };
        if tool::run("ip", &["link", "show", "dev", interface.as_str()], None).await.is_err() {
            let (what, hint) =
                (format!("there is no interface {interface}"), "`ip link` shows those of the host");
            return Err(UplinkError::Refused { what, hint: hint.into() });
        }
        let now = self.uplink();
        let (host_address, guest_address) = match &now {
            Some(now) => (now.host_address, now.guest_address),
            None => {
                let taken: Vec<(u32, u32)> =
                    routes.iter().filter_map(|r| r["dst"].as_str().and_then(span)).collect();
                let seed = u32::from_str_radix(self.id(), 16).unwrap_or(0);
                let none = || UplinkError::Refused {
                    what: "every address for a link overlaps a route of the host".into(),
                    hint:
                        "free a /30 in 10.81.0.0/22, 172.29.0.0/22 or 192.168.0.0/22; `ip route` shows routes"
                            .into(),
                };
                free_place(seed, &taken).ok_or_else(none)?
            }
        };
        let dns = if intent.dns.is_empty() { host_dns() } else { intent.dns.clone() };
        let kept = now.filter(|now| now.interface == interface);
        let made_forward = match kept {
            Some(now) => now.made_forward,
            None => !forwards(interface.as_str()).map_err(host(format!("look at {interface}")))?,
        };
        let (link, allow) = (self.outer(), intent.allow.clone());
        Ok(UplinkObserved { interface, link, host_address, guest_address, dns, allow, made_forward })
    }

    /// Makes the way out, or makes it as asked where it is otherwise. On error nothing of it stays.
    pub async fn ensure_uplink(&self, intent: &UplinkIntent) -> Result<UplinkObserved, UplinkError> {
        let mut wanted = self.plan_uplink(intent).await?;
        if self.uplink().is_some_and(|now| now.interface != wanted.interface) {
            self.remove_uplink().await?;
            wanted = self.plan_uplink(intent).await?;
        }
        // What is to be taken back is written down before it is done.
        let text = serde_json::to_vec_pretty(&wanted).map_err(io::Error::other);
        let path = self.uplink_path();
        let written = text.and_then(|text| fs::write(&path, text));
        written.map_err(host(format!("write {}", path.display())))?;
        if let Err(error) = self.make_uplink(&wanted).await {
            if let Err(left) = self.remove_uplink().await {
                tracing::warn!(error = %left, "part of the way out stays");
            }
            return Err(error);
        }
        Ok(wanted)
    }

    async fn make_uplink(&self, wanted: &UplinkObserved) -> Result<(), UplinkError> {
        let outer = wanted.link.as_str();
        if self.tool("ip", &["link", "show", "dev", outer], None).await.is_err() {
            let pair = ["link", "add", outer, "type", "veth", "peer", "name", INNER, "netns"];
            let all: Vec<&str> = pair.into_iter().chain([self.namespace()]).collect();
            self.tool("ip", &all, None).await?;
        }
        // Filters first: no packet passes before they stand.
        let script = rule::host(&self.table(), wanted);
        self.tool("nft", &["-f", "-"], Some(script.as_bytes())).await?;
        let script = rule::namespace(&self.table(), BRIDGE, INNER);
        self.nft(&["-f", "-"], Some(script.as_bytes())).await?;
        let (outside, inside) =
            (format!("{}/30", wanted.host_address), format!("{}/30", wanted.guest_address));
        self.tool("ip", &["address", "replace", &outside, "dev", outer], None).await?;
        self.tool("ip", &["link", "set", outer, "up"], None).await?;
        self.ip(&["address", "replace", &inside, "dev", INNER]).await?;
        self.ip(&["link", "set", INNER, "up"]).await?;
        let via = wanted.host_address.to_string();
        self.ip(&["route", "replace", "default", "via", &via, "dev", INNER]).await?;
        self.forward_inside(true).await.map_err(host("let the guests' namespace forward"))?;
        for interface in [outer, wanted.interface.as_str()] {
            fs::write(forwarding(interface), "1").map_err(host(format!("let {interface} forward")))?;
        }
        self.offer_dns(&wanted.dns).map_err(host("tell guests of the name servers"))
    }

    /// Takes the way out away, with all that was changed for it. Idempotent.
    pub async fn remove_uplink(&self) -> Result<(), UplinkError> {
        let Some(now) = self.uplink() else { return Ok(()) };
        let outer = self.outer();
        if self.tool("ip", &["link", "show", "dev", &outer], None).await.is_ok() {
            self.tool("ip", &["link", "delete", "dev", &outer], None).await?;
        }
        let interface = now.interface.as_str();
        if now.made_forward && !self.hand_over(&now.interface).await? && forwarding(interface).exists() {
            fs::write(forwarding(interface), "0")
                .map_err(host(format!("let {interface} forward no more")))?;
        }
        let script = rule::none(&self.table());
        self.tool("nft", &["-f", "-"], Some(script.as_bytes())).await?;
        if self.exists() {
            self.nft(&["-f", "-"], Some(script.as_bytes())).await?;
            self.forward_inside(false).await.map_err(host("let the guests' namespace forward no more"))?;
            self.offer_dns(&[]).map_err(host("tell guests of no name servers"))?;
        }
        let path = self.uplink_path();
        fs::remove_file(&path).map_err(host(format!("remove {}", path.display())))
    }

    /// Makes another instance, whose link uses the interface too, the one that ends its forwarding. `false`: there
    /// is none.
    async fn hand_over(&self, interface: &InterfaceName) -> Result<bool, UplinkError> {
        let own = self.uplink_path();
        for entry in fs::read_dir("/run").map_err(host("look for other instances"))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let id = name.strip_prefix("proteus-").and_then(|rest| rest.strip_suffix("-uplink.json"));
            let Some(other) = id.map(Network::new).filter(|_| entry.path() != own) else { continue };
            let Some(mut theirs) = other.uplink().filter(|theirs| theirs.interface == *interface) else {
                continue;
            };
            // One of another network namespace stands for another host.
            if self.tool("ip", &["link", "show", "dev", &theirs.link], None).await.is_err() {
                continue;
            }
            theirs.made_forward = true;
            let text = serde_json::to_vec_pretty(&theirs).map_err(io::Error::other);
            let written = text.and_then(|text| fs::write(entry.path(), text));
            written.map_err(host(format!("write {}", entry.path().display())))?;
            let script = rule::host(&other.table(), &theirs);
            self.tool("nft", &["-f", "-"], Some(script.as_bytes())).await?;
            return Ok(true);
        }
        Ok(false)
    }

    async fn forward_inside(&self, on: bool) -> io::Result<()> {
        let network = self.clone();
        let text = if on { "1" } else { "0" };
        let work = move || network.inside(move || fs::write("/proc/sys/net/ipv4/ip_forward", text));
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
    }
}

fn default_interface(routes: &[Value]) -> Result<InterfaceName, UplinkError> {
    let default = routes.iter().find(|route| route["dst"] == "default");
    let name = default.and_then(|route| route["dev"].as_str()).and_then(|name| name.parse().ok());
    name.ok_or_else(|| UplinkError::Refused {
        what: "the host has no default route, so no interface to take".into(),
        hint: "name one: `proteus host uplink enable --interface IFACE`".into(),
    })
}

/// The host's own name servers that a guest could ask: not those that listen on the host itself.
fn host_dns() -> Vec<Ipv4Addr> {
    let read = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let servers = text.lines().filter_map(|line| line.strip_prefix("nameserver ")?.trim().parse().ok());
        servers.filter(|server: &Ipv4Addr| !server.is_loopback()).take(3).collect::<Vec<_>>()
    };
    let found = read("/etc/resolv.conf");
    if found.is_empty() { read("/run/systemd/resolve/resolv.conf") } else { found }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_takes_addresses_that_no_route_has() {
        let at = |taken: &[&str]| {
            let taken: Vec<_> = taken.iter().filter_map(|route| span(route)).collect();
            free_place(2, &taken).map(|(host, _)| host.to_string())
        };
        assert_eq!(at(&["default", "0.0.0.0/0"]).unwrap(), "10.81.0.9");
        assert_eq!(at(&["10.81.0.10"]).unwrap(), "10.81.0.13");
        assert_eq!(at(&["10.81.0.0/24"]).unwrap(), "10.81.1.1");
        assert_eq!(at(&["10.0.0.0/8"]).unwrap(), "172.29.0.9");
        assert_eq!(at(&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]), None);
    }
}

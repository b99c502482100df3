//! The network of the guests of one Proteus: a network namespace of its own with a bridge in it. Nothing but
//! an uplink, where an operator wants one, touches the host's own interfaces. Names derive from the instance, so that two run beside each other.

mod counters;

mod dhcp;

mod filter;

mod flow;

#[allow(unsafe_code, reason = "TUNSETIFF has no safe wrapper")]
mod link;

mod uplink;

pub use counters::LinkCounters;
pub use filter::FilterError;
pub use uplink::UplinkError;

use crate::driver::{DriverError, SLOT_MAX};
use crate::tool::{self, ToolError};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

/// Bridge inside the namespace.
const BRIDGE: &str = "pb0";
/// Network of the guests: 10.80.0.0/20 holds 4094 hosts: the bridge, [`SLOT_MAX`] guests, and a few spare.
const PREFIX: u8 = 20;
/// Its link address: one that no guest has ([`crate::driver::Seat::mac`]).
const BRIDGE_MAC: &str = "52:50:52:ff:00:01";
const BRIDGE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 1);

/// The guests' network.
#[derive(Debug, Clone)]
pub struct Network {
    namespace: String,
}

impl Network {
    /// The network of the instance of this name (eight hex digits). Touches nothing yet.
    pub fn new(instance: &str) -> Self {
        Self { namespace: format!("proteus-{instance}") }
    }

    /// Name of the namespace, for `ip netns exec`.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Address of the VM in `slot`. The bridge has .0.1; slots begin at .0.16.
    pub fn address(slot: u16) -> Ipv4Addr {
        debug_assert!(slot <= SLOT_MAX);
        Ipv4Addr::from(u32::from(BRIDGE_ADDRESS) + 15 + u32::from(slot))
    }

    /// Address of the bridge: the guests' gateway.
    pub fn gateway() -> Ipv4Addr {
        BRIDGE_ADDRESS
    }

    /// Length of the network's prefix.
    pub fn prefix() -> u8 {
        PREFIX
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.namespace)
    }

    /// Whether the namespace is there.
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// Makes namespace and bridge where they are not there yet; first waits for what a Proteus that was killed still
    /// does to them.
    pub async fn ensure(&self) -> Result<(), ToolError> {
        tool::wait_left(&self.namespace).await?;
        if !self.exists() {
            self.tool("ip", &["netns", "add", &self.namespace], None).await?;
        }
        self.ip(&["link", "set", "lo", "up"]).await?;
        if self.ip(&["link", "show", BRIDGE]).await.is_err() {
            self.ip(&["link", "add", BRIDGE, "type", "bridge", "forward_delay", "0"]).await?;
        }
        // Else it has that of one of its taps, which come and go: guests would not find it until they ask anew, and one
        // that went back to a snapshot would speak to nobody.
        self.ip(&["link", "set", BRIDGE, "address", BRIDGE_MAC]).await?;
        let address = format!("{BRIDGE_ADDRESS}/{PREFIX}");
        self.ip(&["address", "replace", &address, "dev", BRIDGE]).await?;
        self.ip(&["link", "set", BRIDGE, "up"]).await?;
        Ok(())
    }

    /// Removes the namespace with all in it.
    pub async fn remove(&self) -> Result<(), ToolError> {
        if let Err(error) = self.remove_uplink().await {
            tracing::warn!(%error, "part of the guests' way out stays");
        }
        if let Err(error) = self.end_dhcp().await {
            tracing::warn!(%error, "files of the address server stay");
        }
        if self.exists() {
            self.tool("ip", &["netns", "delete", &self.namespace], None).await?;
        }
        Ok(())
    }

    /// Runs a tool that the next Proteus waits for, should this one be killed.
    async fn tool(
        &self,
        tool: &'static str,
        args: &[&str],
        input: Option<&[u8]>,
    ) -> Result<String, ToolError> {
        tool::run_marked(tool, args, input, Some(&self.namespace)).await
    }

    async fn ip(&self, args: &[&str]) -> Result<String, ToolError> {
        let all: Vec<&str> = ["-n", &self.namespace].into_iter().chain(args.iter().copied()).collect();
        self.tool("ip", &all, None).await
    }

    async fn tc(&self, args: &[&str]) -> Result<String, ToolError> {
        let all: Vec<&str> = ["-n", &self.namespace].into_iter().chain(args.iter().copied()).collect();
        self.tool("tc", &all, None).await
    }

    async fn nft(&self, args: &[&str], input: Option<&[u8]>) -> Result<String, ToolError> {
        let all: Vec<&str> =
            ["netns", "exec", &self.namespace, "nft"].into_iter().chain(args.iter().copied()).collect();
        self.tool("ip", &all, input).await
    }

    /// Runs `work` on a thread of its own inside the namespace.
    fn inside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let namespace = File::open(self.path())?;
        let thread = std::thread::Builder::new().name("netns".into()).spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            work()
        })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("thread in the namespace panicked")))
    }

    /// Connects to a guest.
    pub async fn connect(&self, to: SocketAddr, limit: Duration) -> io::Result<std::net::TcpStream> {
        let network = self.clone();
        let work = move || network.inside(move || std::net::TcpStream::connect_timeout(&to, limit));
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
    }

    /// Makes (or takes again) the tap of `slot`, plugs it into the bridge and opens it. The tap vanishes when the
    /// last descriptor to it is closed: it belongs to the VMM that gets it.
    pub async fn open_tap(&self, slot: u16) -> Result<OwnedFd, DriverError> {
        let tap = self.open_dark_tap(slot).await?;
        self.light_tap(slot).await?;
        Ok(tap)
    }

    /// The same, but off and in no bridge: nothing gets through until [`Network::light_tap`].
    pub async fn open_dark_tap(&self, slot: u16) -> Result<OwnedFd, DriverError> {
        let network = self.clone();
        let open = move || network.inside(move || link::open_tap(&tap_name(slot)));
        tokio::task::spawn_blocking(open)
            .await
            .map_err(io::Error::other)
            .and_then(|tap| tap)
            .map_err(DriverError::host(format!("open tap {}", tap_name(slot))))
    }

    /// Plugs the tap of `slot` into the bridge.
    pub async fn light_tap(&self, slot: u16) -> Result<(), ToolError> {
        self.ip(&["link", "set", &tap_name(slot), "master", BRIDGE, "up"]).await.map(|_| ())
    }
}

/// Name of the tap of `slot`.
pub fn tap_name(slot: u16) -> String {
    format!("pt{slot}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_an_address_inside_the_network() {
        let mask = u32::MAX << (32 - PREFIX);
        let network = u32::from(BRIDGE_ADDRESS) & mask;
        for slot in [0, 1, 255, 256, SLOT_MAX] {
            let address = u32::from(Network::address(slot));
            assert_eq!(address & mask, network);
            assert_ne!(address, network | !mask, "the broadcast address");
        }
    }
}

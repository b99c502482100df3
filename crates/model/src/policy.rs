//! Packet policies: which packets a VM or an application of it may exchange. Typed down to the last field, so
//! that none of it can ever be text in somebody's command. Must never name an interface: the driver binds it.

use crate::unit::UnitError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Most rules in one policy: bounds the work of the packet path and of loading (100 rules load in 10–21 ms).
pub const RULES_MAX: usize = 256;

/// A block of addresses. Text form `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    /// First address of the block.
    pub address: IpAddr,
    /// Leading bits that count.
    pub prefix: u8,
}

impl FromStr for Cidr {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError {
            what: "a block of addresses",
            given: text.chars().take(60).collect(),
            expected: "an address with a prefix length, as in 10.0.0.0/8",
        };
        let (address, prefix) = text.split_once('/').ok_or_else(error)?;
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let prefix: u8 = prefix.parse().map_err(|_| error())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if prefix > bits { Err(error()) } else { Ok(Self { address, prefix }) }
    }
}

impl TryFrom<String> for Cidr {
    type Error = UnitError;
    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Which way a packet goes, seen from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Into the guest.
    Ingress,
    /// Out of the guest.
    Egress,
}

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP (v4) and ICMPv6.
    Icmp,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Goes on.
    Accept,
    /// Goes nowhere.
    Drop,
}

/// One rule; a field that is `None` matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PacketRule {
    /// Which way.
    pub direction: Direction,
    /// Carrying what.
    pub protocol: Option<Protocol>,
    /// Destination ports, first and last.
    pub ports: Option<(u16, u16)>,
    /// The other end.
    pub peer: Option<Cidr>,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// Rules in order; the first that matches decides, then the default of the direction. Answers to connections
/// that were accepted pass, and so do ARP and IPv6 neighbour discovery, without which there is no network.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PacketPolicy {
    /// At most [`RULES_MAX`].
    pub rules: Vec<PacketRule>,
    /// For packets into the guest that no rule matched.
    pub ingress_default: Verdict,
    /// For packets out of the guest that no rule matched.
    pub egress_default: Verdict,
}

impl fmt::Display for PacketPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |verdict| match verdict {
            Verdict::Accept => "accept",
            Verdict::Drop => "drop",
        };
        let (ingress, egress) = (word(self.ingress_default), word(self.egress_default));
        write!(f, "{} rules, else {ingress} in, {egress} out", self.rules.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_addresses() {
        assert_eq!("10.0.0.0/8".parse::<Cidr>().unwrap().to_string(), "10.0.0.0/8");
        assert_eq!("fd00::/8".parse::<Cidr>().unwrap().prefix, 8);
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/-1", "; drop"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad:?} was taken");
        }
    }
}

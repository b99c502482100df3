//! The guests' way out: which interface of the host carries it, and what guests may reach over it. Must never be
//! on unless an operator said so.

use crate::policy::Cidr;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Why a text is no name of an interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} is no interface: expected 1 to 15 of letters, digits, '.', '_' and '-', as `ip link` shows"
)]
pub struct InterfaceError {
    /// What was given, cut to a printable length.
    pub given: String,
}

/// Name of a network interface: what Linux takes (`IFNAMSIZ`: 15 bytes), and nothing that a tool could read as
/// anything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = InterfaceError;
    fn from_str(text: &str) -> Result<Self, InterfaceError> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if first && text.len() <= 15 && text.bytes().all(fits) && text != "all" && text != "default" {
            return Ok(Self(text.to_owned()));
        }
        Err(InterfaceError { given: text.chars().take(40).collect() })
    }
}

impl TryFrom<String> for InterfaceName {
    type Error = InterfaceError;
    fn try_from(text: String) -> Result<Self, InterfaceError> {
        text.parse()
    }
}

impl From<InterfaceName> for String {
    fn from(name: InterfaceName) -> String {
        name.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an operator asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkIntent {
    /// The host's interface; none: that of its default route.
    #[serde(default)]
    pub interface: Option<InterfaceName>,
    /// Name servers for guests that ask for an address; none: the host's own.
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
    /// Private networks that guests may reach all the same.
    #[serde(default)]
    pub allow: Vec<Cidr>,
}

/// The way out as it is, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkObserved {
    /// The host's interface.
    pub interface: InterfaceName,
    /// The host's end of the link to the guests' namespace.
    pub link: String,
    /// Its address.
    pub host_address: Ipv4Addr,
    /// Address that guests have towards the host.
    pub guest_address: Ipv4Addr,
    /// Name servers that guests are told.
    pub dns: Vec<Ipv4Addr>,
    /// Private networks that guests may reach.
    pub allow: Vec<Cidr>,
    /// Whether the interface did not forward before: then it is made not to when the way out goes.
    pub made_forward: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_names_and_nothing_else() {
        for bad in ["", "../eth0", "a/b", "-a", "all", "default", "a b", "eth0;", "0123456789abcdef"] {
            assert!(bad.parse::<InterfaceName>().is_err(), "{bad:?} was taken");
        }
        for good in ["eth0", "enp3s0.100", "br-lan", "wg_0"] {
            assert_eq!(good.parse::<InterfaceName>().unwrap().as_str(), good);
        }
    }
}

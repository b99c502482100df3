//! Identities. Each kind is its own type, so that one can never be passed where another is meant.
//! Must never generate an id: that needs randomness, which lives with the caller.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Longest name that Proteus accepts, in bytes: a DNS label (RFC 1035, section 2.3.4), so that a VM's name can
/// be its host name.
pub const NAME_BYTES_MAX: usize = 63;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{kind} {given:?} is not a name: expected 1 to {NAME_BYTES_MAX} of a-z, 0-9 and '-', beginning with a letter or digit"
)]
pub struct NameError {
    /// What was to be named.
    pub kind: &'static str,
    /// What was given, cut to a printable length.
    pub given: String,
}

fn check_name(kind: &'static str, text: &str) -> Result<(), NameError> {
    let first_ok = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let rest_ok = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if first_ok && rest_ok && text.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    Err(NameError { kind, given: text.chars().take(NAME_BYTES_MAX + 1).collect() })
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                check_name($kind, text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(/** What people call a VM; unique in a fleet, may change. */ VmName, "VM name");
name_type!(/** What people call a profile. */ ProfileName, "profile name");
name_type!(/** A virtual disk of a VM, unique in it. */ DiskName, "disk name");
name_type!(/** A read-only image of software (a component's artifact). */ ImageName, "image name");
name_type!(/** A service that the guest agent runs or knows. */ ServiceName, "service name");
name_type!(/** A snapshot of a VM, unique in it. */ SnapshotName, "snapshot name");
name_type!(/** A host. */ HostName, "host name");

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(u128);

        impl $name {
            /// From 128 bits that the caller drew at random (or, in the twin, from a seed).
            pub const fn from_bits(bits: u128) -> Self {
                Self(bits)
            }

            /// First eight hex digits: for names of taps and cgroups, which are short.
            pub fn short(&self) -> String {
                format!("{:08x}", self.0 >> 96)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let ok = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                let error = || NameError { kind: $kind, given: text.chars().take(40).collect() };
                if !ok {
                    return Err(error());
                }
                u128::from_str_radix(text, 16).map(Self).map_err(|_| error())
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    };
}

hex_id!(/** A VM, for its whole life: through restart, rename and move. */ VmId, "VM id");
hex_id!(/** One morph: one execution of one plan. */ MorphId, "morph id");
hex_id!(/** One commit attempt against the store; the same id resubmits the same commit. */ OpId, "operation id");

/// Fencing token of a VM: rises with each morph that takes the VM in hand; a node refuses an older one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_path_tricks() {
        for bad in ["", "..", "a/b", "/etc", "A", "-a", "a\0", "a b", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<VmName>().is_err(), "{bad:?} was taken");
        }
        for good in ["a", "web-1", "0", &"a".repeat(63)] {
            assert_eq!(good.parse::<VmName>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn ids_round_trip_and_refuse_what_is_not_hex() {
        let id = VmId::from_bits(0xabc);
        assert_eq!(id.to_string().parse::<VmId>().unwrap(), id);
        assert_eq!(serde_json::from_str::<VmId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        assert!("xyz".parse::<VmId>().is_err());
        assert!("+0000000000000000000000000000001".parse::<VmId>().is_err());
    }
}

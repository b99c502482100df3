//! The kinds of text in a profile, each with its form. A text that is not of its form is refused, so that
//! none can reach a terminal, a path or a protocol with more in it than it should have.

use super::record::{choice, key_field, text_field};
use super::tree::is_format_control;
use crate::id::{ImageName, ProfileName};
use crate::policy::{Cidr, Protocol, Verdict};
use crate::setting::{AppSelector, PriorityClass, SysctlKey, ThpMode};
use semver::{Version, VersionReq};
use std::fmt;
use std::str::FromStr;

/// The text is not of the form that its type wants; the type knows the form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not of the expected form")]
pub struct FormError;

macro_rules! text_type {
    ($(#[doc = $doc:literal])+ $name:ident, $is:expr) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = FormError;
            fn from_str(text: &str) -> Result<Self, FormError> {
                let is: fn(&str) -> bool = $is;
                if is(text) { Ok(Self(text.to_owned())) } else { Err(FormError) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

fn is_printable(text: &str, bytes_max: usize) -> bool {
    text.len() <= bytes_max && !text.chars().any(|c| c.is_control() || is_format_control(c))
}

fn is_word(text: &str, bytes_max: usize, more: &[u8]) -> bool {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    first && text.len() <= bytes_max && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
}

text_type!(/** One line of text for people. */ Line, |text| !text.is_empty() && is_printable(text, 400));
text_field!(Line, "one line of printable text, at most 400 bytes", r"^[^\u0000-\u001f\u007f]{1,400}$");

text_type!(/** Name of a label. */ LabelKey, |text| is_word(text, 63, b"._-/"));
key_field!(
    LabelKey,
    "a label's name: 1 to 63 of letters, digits, '.', '_', '-' and '/', beginning with a letter or digit",
    r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$"
);

text_type!(/** Value of a label. */ LabelValue, |text| is_printable(text, 255));
text_field!(LabelValue, "printable text, at most 255 bytes", r"^[^\u0000-\u001f\u007f]{0,255}$");

text_type!(
    /** Name of a trait, as in `latency_sensitive`. */
    TraitName,
    |text| text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.len() <= 63
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
);
key_field!(
    TraitName,
    "a trait's name: 1 to 63 of a-z, 0-9 and '_', beginning with a letter",
    r"^[a-z][a-z0-9_]{0,62}$"
);

/// 64 KiB: a rule is a page or two of text.
const SCRIPT_BYTES_MAX: usize = 64 << 10;

text_type!(/** Text of a rule script, in Luau. */ Script, |text| {
    let ok = |c: char| c == '\n' || c == '\t' || !(c.is_control() || is_format_control(c));
    !text.is_empty() && text.len() <= SCRIPT_BYTES_MAX && text.chars().all(ok)
});
text_field!(Script, "the text of a Luau script, at most 64 KiB", r"^[^\u0000-\u0008\u000b-\u001f\u007f]+$");

text_type!(
    /** Value of a kernel parameter: numbers or words, as in `4096 131072 6291456`. */
    SysctlValue,
    |text| is_word(text.strip_prefix('-').unwrap_or(text), 128, b" ._-")
);

text_type!(
    /** Path and query of an HTTP request. */
    UrlPath,
    |text| text.starts_with('/') && text.len() <= 1024 && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
);
text_field!(
    UrlPath,
    "a path that begins with '/', without spaces, at most 1024 bytes, as in /health",
    r"^/[!-~]{0,1023}$"
);

text_type!(
    /** Name of a database or of a user in it. */
    SqlName,
    |text| is_word(text.strip_prefix('_').unwrap_or(text), 63, b"_-")
);
text_field!(SqlName, "a name of 1 to 63 letters, digits, '_' and '-'", r"^_?[A-Za-z0-9][A-Za-z0-9_-]{0,62}$");

text_type!(
    /** Name of a process as the kernel keeps it: at most 15 bytes (`TASK_COMM_LEN` less its zero). */
    ProcessName,
    |text| is_word(text, 15, b"._-+:@/")
);
text_field!(
    ProcessName,
    "a process name of 1 to 15 letters, digits and '._-+:@/' (the kernel keeps no more)",
    r"^[A-Za-z0-9][A-Za-z0-9._+:@/-]{0,14}$"
);

text_type!(
    /** Name of a systemd unit, with its type, as in `nginx.service`. */
    UnitName,
    |text| {
        const TYPES: [&str; 4] = [".service", ".slice", ".scope", ".socket"];
        is_word(text, 255, b"._-@:\\") && TYPES.iter().any(|end| text.len() > end.len() && text.ends_with(end))
    }
);
text_field!(
    UnitName,
    "a systemd unit with its type, as in nginx.service",
    r"^[A-Za-z0-9][A-Za-z0-9._@:\\-]*\.(service|slice|scope|socket)$"
);

/// Whether this is a path below the cgroup root and stays there.
fn is_cgroup_path(text: &str) -> bool {
    let part_ok = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-@:\\".contains(&b))
    };
    text.len() <= 512 && text.strip_prefix('/').unwrap_or(text).split('/').all(part_ok)
}

/// The applications that something in a profile is for. Text form: a process name, `service:NAME`,
/// `unit:NAME` or `cgroup:PATH`; `process:NAME` where a process name could be taken for one of these.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Application(AppSelector);

impl Application {
    /// As the agent is asked for it.
    pub fn selector(&self) -> &AppSelector {
        &self.0
    }
}

impl FromStr for Application {
    type Err = FormError;
    fn from_str(text: &str) -> Result<Self, FormError> {
        if let Some(unit) = text.strip_prefix("unit:") {
            return unit.parse::<UnitName>().map(|u| Self(AppSelector::Unit(u.0)));
        }
        if let Some(path) = text.strip_prefix("cgroup:") {
            let path = path.strip_prefix('/').unwrap_or(path);
            return is_cgroup_path(path).then(|| Self(AppSelector::Cgroup(path.to_owned()))).ok_or(FormError);
        }
        if let Some(name) = text.strip_prefix("service:") {
            return name.parse::<ProcessName>().map(|name| Self(AppSelector::Service(name.0)));
        }
        let name = text.strip_prefix("process:").unwrap_or(text);
        name.parse::<ProcessName>().map(|name| Self(AppSelector::Process(name.0)))
    }
}

impl fmt::Display for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            AppSelector::Service(name) => write!(f, "service:{name}"),
            AppSelector::Unit(unit) => write!(f, "unit:{unit}"),
            AppSelector::Cgroup(path) => write!(f, "cgroup:{path}"),
            AppSelector::Process(name)
                if ["service:", "unit:", "cgroup:", "process:"].iter().any(|p| name.starts_with(p)) =>
            {
                write!(f, "process:{name}")
            }
            AppSelector::Process(name) => f.write_str(name),
        }
    }
}

key_field!(
    Application,
    "an application: a process name (at most 15 bytes), service:NAME, unit:NAME.service or cgroup:PATH",
    r"^(service:|unit:|cgroup:|process:)?[A-Za-z0-9/][A-Za-z0-9._+:@/\\-]*$"
);

/// A profile that another builds upon. Text form: `NAME` or `NAME@REQUIREMENT`, as in `database@^1.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileRef {
    /// Its name.
    pub name: ProfileName,
    /// Which versions will do; `None`: any.
    pub version: Option<VersionReq>,
}

impl FromStr for ProfileRef {
    type Err = FormError;
    fn from_str(text: &str) -> Result<Self, FormError> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version.parse().map_err(|_| FormError)?)),
            None => (text, None),
        };
        Ok(Self { name: name.parse().map_err(|_| FormError)?, version })
    }
}

impl fmt::Display for ProfileRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => write!(f, "{}@{version}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

text_field!(
    ProfileRef,
    "a profile's name, with or without a version requirement, as in database@^1.0",
    r"^[a-z0-9][a-z0-9-]{0,62}(@.+)?$"
);

const NAME_EXPECTED: &str = "a name: 1 to 63 of a-z, 0-9 and '-', beginning with a letter or digit";
const NAME_PATTERN: &str = r"^[a-z0-9][a-z0-9-]{0,62}$";

text_field!(ProfileName, NAME_EXPECTED, NAME_PATTERN);
text_field!(ImageName, NAME_EXPECTED, NAME_PATTERN);
text_field!(Version, "a semantic version, as in 1.0.0", r"^[0-9]+\.[0-9]+\.[0-9]+([-+].+)?$");
text_field!(VersionReq, "a version requirement, as in ^1.2 or >=1.0, <3", r"^.+$");
text_field!(Cidr, "a block of addresses, as in 10.0.0.0/8", r"^[0-9a-fA-F.:]+/[0-9]{1,3}$");

key_field!(
    SysctlKey,
    "a kernel parameter under vm., net., fs. or kernel.sched_, as in vm.swappiness",
    r"^(vm\.|net\.|fs\.|kernel\.sched_)[A-Za-z0-9._-]+$",
    |key| key.as_str().to_owned()
);

choice! { for PriorityClass {
    "realtime" => Realtime, "high" => High, "normal" => Normal, "low" => Low, "idle" => Idle,
} }
choice! { for ThpMode { "always" => Always, "madvise" => Madvise, "never" => Never, } }
choice! { for Protocol { "tcp" => Tcp, "udp" => Udp, "icmp" => Icmp, } }
choice! { for Verdict { "accept" => Accept, "drop" => Drop, } }

/// First and last of some ports. Text form: `80` or `8000-8100`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// `None` where a port is 0 or the last is before the first.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first >= 1 && first <= last).then_some(Self { first, last })
    }

    /// First and last.
    pub fn bounds(self) -> (u16, u16) {
        (self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = FormError;
    fn from_str(text: &str) -> Result<Self, FormError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse::<u16>().ok()).flatten()
        };
        port(first).zip(port(last)).and_then(|(first, last)| Self::new(first, last)).ok_or(FormError)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// `Field` of a text type that a document may also write as a bare whole number.
macro_rules! text_or_number {
    ($name:ty, $expected:expr, $pattern:expr) => {
        impl super::field::Field for $name {
            fn to_json(&self) -> serde_json::Value {
                serde_json::Value::String(self.to_string())
            }

            fn decode(node: &super::tree::Node, violations: &mut super::field::Violations) -> Option<Self> {
                let parsed = match &node.value {
                    super::tree::Value::Text(text) => text.parse().ok(),
                    super::tree::Value::Integer(number) => number.to_string().parse().ok(),
                    super::tree::Value::Null
                    | super::tree::Value::Bool(_)
                    | super::tree::Value::Decimal(..)
                    | super::tree::Value::List(_)
                    | super::tree::Value::Map(_) => None,
                };
                if parsed.is_none() {
                    violations.refuse(node, $expected);
                }
                parsed
            }

            fn schema() -> serde_json::Value {
                serde_json::json!({ "type": ["string", "integer"], "pattern": $pattern, "description": $expected })
            }
        }
    };
}

text_or_number!(
    SysctlValue,
    "a whole number, or text of numbers and words, as in 4096 or \"4096 87380 6291456\"",
    r"^-?[A-Za-z0-9][A-Za-z0-9 ._-]{0,127}$"
);
text_or_number!(
    PortRange,
    "a port from 1 to 65535, or a range of them as in 8000-8100",
    r"^[0-9]{1,5}(-[0-9]{1,5})?$"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applications_round_trip_and_refuse_path_tricks() {
        for text in ["nginx", "redis-server", "unit:nginx.service", "cgroup:system.slice/x", "process:unit:x"]
        {
            assert_eq!(text.parse::<Application>().unwrap().to_string(), text);
        }
        assert_eq!("cgroup:/a/b".parse::<Application>().unwrap().to_string(), "cgroup:a/b");
        for bad in [
            "",
            "a b",
            "../x",
            "cgroup:a/../b",
            "cgroup:",
            "cgroup:/",
            "unit:nginx",
            "postgres: writer",
            "-x",
        ] {
            assert!(bad.parse::<Application>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn texts_refuse_what_a_terminal_would_act_on() {
        for bad in ["", "a\nb", "\u{1b}[2J", "\u{202e}evil", "\u{0}"] {
            assert!(bad.parse::<Line>().is_err(), "{bad:?} was taken");
        }
        assert!("Für schnelle Webseiten ✓".parse::<Line>().is_ok());
    }

    #[test]
    fn ports_and_profile_references() {
        assert_eq!("8000-8100".parse::<PortRange>().unwrap().bounds(), (8000, 8100));
        for bad in ["0", "65536", "9-8", "+80", "80-", ""] {
            assert!(bad.parse::<PortRange>().is_err(), "{bad:?} was taken");
        }
        assert_eq!("database@^1.0".parse::<ProfileRef>().unwrap().to_string(), "database@^1.0");
        for bad in ["../etc", "a@", "a@y", "A"] {
            assert!(bad.parse::<ProfileRef>().is_err(), "{bad:?} was taken");
        }
    }
}

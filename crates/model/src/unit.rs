//! Quantities with their units in the type. Arithmetic that could wrap is checked or saturates, never silent.

mod moment;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A value as people read it: three digits that tell something.
pub fn three_digits(value: f32) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not {what}: expected {expected}")]
pub struct UnitError {
    /// The quantity that was wanted, with its article.
    pub what: &'static str,
    /// What was given, cut to a printable length.
    pub given: String,
    /// The form that is accepted.
    pub expected: &'static str,
}

fn refuse(what: &'static str, given: &str, expected: &'static str) -> UnitError {
    UnitError { what, given: given.chars().take(60).collect(), expected }
}

/// An amount of memory or storage, in bytes. Text form: `256MiB`, `1.5GiB`, `4096` (bytes).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// `n` times 1 MiB; saturates.
    pub const fn mib(n: u64) -> Self {
        Self(n.saturating_mul(1 << 20))
    }

    /// Whole MiB in this, rounded down.
    pub const fn whole_mib(self) -> u64 {
        self.0 >> 20
    }

    /// This less `other`, not below zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// This and `other`, not above the largest.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The nearest multiple of `unit` at or below this. `unit` must not be zero.
    #[must_use]
    pub const fn round_down(self, unit: Self) -> Self {
        Self(self.0 - self.0 % unit.0)
    }
}

const BYTES_FORM: &str = "a number with KiB, MiB, GiB, TiB, kB, MB, GB, TB or no unit (bytes), as in 256MiB";

/// Splits `12.5MiB` into 12.5 and `MiB`.
fn split_number(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    (number.is_finite() && end > 0).then(|| (number, text[end..].trim()))
}

fn scaled(number: f64, factor: u64) -> Option<u64> {
    // 2^63 keeps every sum of two quantities inside u64.
    let value = number * factor as f64;
    (value < 9.223_372_036_854_775e18).then_some(value.round() as u64)
}

impl FromStr for Bytes {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || refuse("an amount of bytes", text, BYTES_FORM);
        let (number, unit) = split_number(text).ok_or_else(error)?;
        let factor = match unit {
            "" | "B" => 1,
            "K" | "KiB" => 1 << 10,
            "M" | "MiB" => 1 << 20,
            "G" | "GiB" => 1 << 30,
            "T" | "TiB" => 1 << 40,
            "kB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            _ => return Err(error()),
        };
        scaled(number, factor).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 >= 1 << shift {
                let whole = self.0 >> shift;
                return if self.0.is_multiple_of(1 << shift) {
                    write!(f, "{whole} {unit}")
                } else {
                    write!(f, "{:.1} {unit}", self.0 as f64 / (1u64 << shift) as f64)
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}

/// An amount of CPU time per time, in thousandths of one CPU. Text form: `1.5` (CPUs) or `1500m`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MilliCpu(pub u32);

impl MilliCpu {
    /// `n` whole CPUs; saturates.
    pub const fn cpus(n: u32) -> Self {
        Self(n.saturating_mul(1000))
    }
}

impl FromStr for MilliCpu {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error =
            || refuse("an amount of CPU", text, "a number of CPUs as in 1.5, or thousandths as in 1500m");
        let (number, unit) = split_number(text).ok_or_else(error)?;
        let value = match unit {
            "" => scaled(number, 1000),
            "m" => scaled(number, 1),
            _ => None,
        };
        value.and_then(|v| u32::try_from(v).ok()).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for MilliCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) {
            write!(f, "{} CPU", self.0 / 1000)
        } else {
            write!(f, "{:.2} CPU", f64::from(self.0) / 1000.0)
        }
    }
}

/// A data rate, in bytes per second. Text form: `10MiB/s`, `100Mbit/s`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BytesPerSec(pub u64);

impl FromStr for BytesPerSec {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || refuse("a data rate", text, "bytes or bits per second as in 10MiB/s or 100Mbit/s");
        let (number, unit) = split_number(text).ok_or_else(error)?;
        let unit = unit.strip_suffix("/s").ok_or_else(error)?;
        let bits = match unit {
            "kbit" => Some(1_000.0),
            "Mbit" => Some(1_000_000.0),
            "Gbit" => Some(1_000_000_000.0),
            _ => None,
        };
        if let Some(bits) = bits {
            return scaled(number * bits / 8.0, 1).map(Self).ok_or_else(error);
        }
        format!("{number}{unit}").parse::<Bytes>().map(|b| Self(b.0)).map_err(|_| error())
    }
}

impl BytesPerSec {
    /// The same as people know links: in bits per second.
    pub const fn in_bits(self) -> BitsPerSec {
        BitsPerSec(self.0.saturating_mul(8))
    }
}

/// How a link's rate is shown: `100 Mbit/s`. What is counted with is [`BytesPerSec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitsPerSec(u64);

impl fmt::Display for BitsPerSec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (factor, unit) in [(1_000_000_000, "Gbit/s"), (1_000_000, "Mbit/s"), (1_000, "kbit/s")] {
            if self.0 >= factor {
                return if self.0.is_multiple_of(factor) {
                    write!(f, "{} {unit}", self.0 / factor)
                } else {
                    write!(f, "{:.1} {unit}", self.0 as f64 / factor as f64)
                };
            }
        }
        write!(f, "{} bit/s", self.0)
    }
}

impl fmt::Display for BytesPerSec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", Bytes(self.0))
    }
}

/// A duration, in milliseconds. Text form: `250ms`, `30s`, `5m`, `2h`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

/// Whole milliseconds; the longest that there is where it is longer.
impl From<std::time::Duration> for Millis {
    fn from(duration: std::time::Duration) -> Self {
        Self(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}

impl From<Millis> for std::time::Duration {
    fn from(ms: Millis) -> Self {
        Self::from_millis(ms.0)
    }
}

impl FromStr for Millis {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || refuse("a duration", text, "a number with ms, s, m or h, as in 30s");
        let (number, unit) = split_number(text).ok_or_else(error)?;
        let factor = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(error()),
        };
        scaled(number, factor).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n >= 3_600_000 && n % 3_600_000 == 0 => write!(f, "{} h", n / 3_600_000),
            n if n >= 60_000 && n % 60_000 == 0 => write!(f, "{} min", n / 60_000),
            n if n >= 1000 => write!(f, "{} s", n as f64 / 1000.0),
            n => write!(f, "{n} ms"),
        }
    }
}

/// Parts per thousand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Permille(pub u32);

/// A moment, in milliseconds since 1970-01-01 UTC. The clock that read it is the caller's. Text form:
/// `2026-11-28T18:00:00Z`, `1795888800` (seconds).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_and_print() {
        assert_eq!("256MiB".parse::<Bytes>().unwrap(), Bytes::mib(256));
        assert_eq!("1.5GiB".parse::<Bytes>().unwrap().to_string(), "1.5 GiB");
        assert_eq!("4096".parse::<Bytes>().unwrap(), Bytes(4096));
        assert_eq!("1.5".parse::<MilliCpu>().unwrap(), MilliCpu(1500));
        assert_eq!("250m".parse::<MilliCpu>().unwrap().to_string(), "0.25 CPU");
        assert_eq!("8Mbit/s".parse::<BytesPerSec>().unwrap(), BytesPerSec(1_000_000));
        assert_eq!("10MiB/s".parse::<BytesPerSec>().unwrap().to_string(), "10 MiB/s");
        let link = |text: &str| text.parse::<BytesPerSec>().unwrap().in_bits().to_string();
        assert_eq!(link("100Mbit/s"), "100 Mbit/s");
        assert_eq!(link("2.5Gbit/s"), "2.5 Gbit/s");
        assert_eq!(link("20MiB/s"), "167.8 Mbit/s");
        assert_eq!((link("8kbit/s"), link("99B/s")), ("8 kbit/s".to_owned(), "792 bit/s".to_owned()));
        assert_eq!("5m".parse::<Millis>().unwrap().to_string(), "5 min");
    }

    #[test]
    fn quantities_refuse_nonsense() {
        for bad in ["", "MiB", "-1", "1e400", "NaN", "inf", "1XiB", "99999999999999999999TiB", "1..2"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad:?} was taken as bytes");
            assert!(bad.parse::<MilliCpu>().is_err(), "{bad:?} was taken as CPU");
        }
        assert!("10".parse::<BytesPerSec>().is_err());
        assert!("5".parse::<Millis>().is_err());
    }
}

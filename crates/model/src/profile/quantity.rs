//! Quantities as a profile writes them: exact text with a unit. What is written reads back as the very same
//! value, which `Display` (rounded, for people) does not promise. Must never print a rounded number.

use crate::unit::{Bytes, BytesPerSec, MilliCpu, Millis, Permille, UnitError};
use std::fmt;

/// A quantity with a text form.
pub trait Quantity: Copy + Ord + fmt::Debug {
    /// What is expected where one is wanted.
    const EXPECTED: &'static str;
    /// Whether a bare number stands for it too, and so carries no unit: bytes, CPUs.
    const BARE_NUMBER: bool;
    /// Largest value that a profile may state.
    const MAX: Self;

    /// The text that reads back as exactly this.
    fn to_text(self) -> String;

    /// From text; the range is checked too.
    fn from_text(text: &str) -> Result<Self, UnitError>;
}

fn bounded<Q: Quantity>(text: &str, value: Q) -> Result<Q, UnitError> {
    if value <= Q::MAX {
        return Ok(value);
    }
    Err(UnitError { what: "within limits", given: text.chars().take(60).collect(), expected: Q::EXPECTED })
}

/// 1 PiB: 2^50 is far above any one VM, and below 2^53, up to where `f64` counts every byte.
const BYTES_MAX: u64 = 1 << 50;

/// `3145728` → `3MiB`: the largest unit that divides it.
fn bytes_text(bytes: u64) -> String {
    for (shift, unit) in [(40u32, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

impl Quantity for Bytes {
    const EXPECTED: &'static str = "an amount of bytes up to 1024TiB, as in 256MiB or 4GiB";
    const BARE_NUMBER: bool = true;
    const MAX: Self = Self(BYTES_MAX);

    fn to_text(self) -> String {
        bytes_text(self.0)
    }

    fn from_text(text: &str) -> Result<Self, UnitError> {
        bounded(text, text.parse()?)
    }
}

impl Quantity for BytesPerSec {
    const EXPECTED: &'static str = "a data rate up to 1024TiB/s, as in 10MiB/s or 100Mbit/s";
    const BARE_NUMBER: bool = false;
    const MAX: Self = Self(BYTES_MAX);

    fn to_text(self) -> String {
        format!("{}/s", bytes_text(self.0))
    }

    fn from_text(text: &str) -> Result<Self, UnitError> {
        bounded(text, text.parse()?)
    }
}

impl Quantity for MilliCpu {
    const EXPECTED: &'static str = "a number of CPUs up to 1024, as in 2 or 1.5, or thousandths as in 1500m";
    const BARE_NUMBER: bool = true;
    const MAX: Self = Self(1024 * 1000);

    fn to_text(self) -> String {
        if self.0.is_multiple_of(1000) { (self.0 / 1000).to_string() } else { format!("{}m", self.0) }
    }

    fn from_text(text: &str) -> Result<Self, UnitError> {
        bounded(text, text.parse()?)
    }
}

impl Quantity for Millis {
    const EXPECTED: &'static str = "a duration up to 8760h with its unit, as in 250ms, 30s or 5m";
    const BARE_NUMBER: bool = false;
    /// One year: 365 × 24 h × 3 600 000 ms.
    const MAX: Self = Self(365 * 24 * 3_600_000);

    fn to_text(self) -> String {
        for (factor, unit) in [(3_600_000, "h"), (60_000, "m"), (1000, "s")] {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return format!("{}{unit}", self.0 / factor);
            }
        }
        format!("{}ms", self.0)
    }

    fn from_text(text: &str) -> Result<Self, UnitError> {
        bounded(text, text.parse()?)
    }
}

/// A decimal with at most `places` digits after the point, as thousandths or millionths. No float in between.
fn decimal(text: &str, places: u32) -> Option<u64> {
    let (whole, part) = match text.split_once('.') {
        Some((whole, part)) if !part.is_empty() => (whole, part),
        Some(_) => return None,
        None => (text, ""),
    };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > places as usize || whole.len() > 12
    {
        return None;
    }
    let scale = 10u64.pow(places);
    let part: u64 = format!("0{part:0<width$}", width = places as usize).parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(scale)?.checked_add(part)
}

/// `1500000` millionths → `1.5`.
fn decimal_text(value: u64, places: u32) -> String {
    let scale = 10u64.pow(places);
    let text = format!("{}.{:0width$}", value / scale, value % scale, width = places as usize);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn unit_error<Q: Quantity>(what: &'static str, text: &str) -> UnitError {
    UnitError { what, given: text.chars().take(60).collect(), expected: Q::EXPECTED }
}

impl Quantity for Permille {
    const EXPECTED: &'static str = "a share from 0% to 100%, as in 12.5%";
    const BARE_NUMBER: bool = false;
    const MAX: Self = Self(1000);

    fn to_text(self) -> String {
        format!("{}%", decimal_text(u64::from(self.0), 1))
    }

    fn from_text(text: &str) -> Result<Self, UnitError> {
        let value = text.trim().strip_suffix('%').and_then(|n| decimal(n.trim(), 1));
        let value = value.and_then(|v| u32::try_from(v).ok());
        bounded(text, Self(value.ok_or_else(|| unit_error::<Self>("a share", text))?))
    }
}

/// Electrical power, in milliwatts. Text form: `25W`, `0.5W`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MilliWatts(pub u64);

impl Quantity for MilliWatts {
    const EXPECTED: &'static str = "a power in watts, as in 25W";
    const BARE_NUMBER: bool = false;
    /// 1 MW: more than a row of racks.
    const MAX: Self = Self(1_000_000_000);

    fn to_text(self) -> String {
        format!("{}W", decimal_text(self.0, 3))
    }

    fn from_text(text: &str) -> Result<Self, UnitError> {
        let value = text.trim().strip_suffix('W').and_then(|n| decimal(n.trim(), 3));
        bounded(text, Self(value.ok_or_else(|| unit_error::<Self>("a power", text))?))
    }
}

/// An amount of money, in millionths of the fleet's one currency. Text form: `0.05`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MicroMoney(pub u64);

impl Quantity for MicroMoney {
    const EXPECTED: &'static str = "an amount of money in the fleet's currency, as in 0.05";
    const BARE_NUMBER: bool = true;
    /// A million units of currency.
    const MAX: Self = Self(1_000_000_000_000);

    fn to_text(self) -> String {
        decimal_text(self.0, 6)
    }

    fn from_text(text: &str) -> Result<Self, UnitError> {
        bounded(text, Self(decimal(text.trim(), 6).ok_or_else(|| unit_error::<Self>("money", text))?))
    }
}

/// A count per second, of disk operations or requests. Text form: a plain number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PerSec(pub u64);

impl Quantity for PerSec {
    const EXPECTED: &'static str = "a whole number per second up to 1000000000, as in 500";
    const BARE_NUMBER: bool = true;
    const MAX: Self = Self(1_000_000_000);

    fn to_text(self) -> String {
        self.0.to_string()
    }

    fn from_text(text: &str) -> Result<Self, UnitError> {
        bounded(text, Self(decimal(text.trim(), 0).ok_or_else(|| unit_error::<Self>("a rate", text))?))
    }
}

/// A share or a degree from 0 to 1. Finite by construction, so that it can be compared and hashed.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Ratio(f64);

impl Ratio {
    /// `None` outside 0–1 and for NaN.
    pub fn new(value: f64) -> Option<Self> {
        // + 0.0 makes a negative zero positive: one number, one canonical text.
        (0.0..=1.0).contains(&value).then_some(Self(value + 0.0))
    }

    /// As a number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl Eq for Ratio {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trips<Q: Quantity>(value: Q) {
        assert_eq!(Q::from_text(&value.to_text()).unwrap(), value, "{}", value.to_text());
    }

    proptest! {
        #[test]
        fn every_quantity_reads_back_exactly(n in 0u64..=1 << 50, small in 0u32..=1000) {
            round_trips(Bytes(n));
            round_trips(BytesPerSec(n));
            round_trips(MilliCpu(small * 1024));
            round_trips(Millis(n.min(Millis::MAX.0)));
            round_trips(Permille(small));
            round_trips(MilliWatts(n.min(MilliWatts::MAX.0)));
            round_trips(MicroMoney(n.min(MicroMoney::MAX.0)));
            round_trips(PerSec(n.min(PerSec::MAX.0)));
        }
    }

    #[test]
    fn what_is_beyond_the_limits_is_refused() {
        assert!(Bytes::from_text("1025TiB").is_err());
        assert!(MilliCpu::from_text("1025").is_err());
        assert!(Permille::from_text("100.1%").is_err());
        assert!(Permille::from_text("1.25%").is_err());
        assert!(Millis::from_text("8761h").is_err());
        assert!(Ratio::new(f64::NAN).is_none());
        assert!(Ratio::new(1.000_001).is_none());
        assert_eq!(Ratio::new(-0.0).unwrap().get().to_bits(), 0);
    }
}

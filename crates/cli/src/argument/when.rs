//! A moment as people say it: so long ago, or by the calendar. Must never guess a time zone.

use proteus_model::unit::{Millis, UnixMillis};
use std::str::FromStr;

const DAY_MS: u64 = 86_400_000;

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// So long ago.
    Ago(Millis),
    /// By the calendar.
    At(UnixMillis),
}

impl FromStr for When {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let days = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok());
        if let Some(ago) = days.and_then(|days| days.checked_mul(DAY_MS)) {
            return Ok(Self::Ago(Millis(ago)));
        }
        if let Ok(ago) = text.parse() {
            return Ok(Self::Ago(ago));
        }
        let refuse = |_| {
            format!(
                "{text:?} is no moment: expected so long ago, as 90m, 48h or 30d, or YYYY-MM-DDThh:mm:ssZ, or seconds \
                 since 1970"
            )
        };
        text.parse().map(Self::At).map_err(refuse)
    }
}

impl When {
    /// The moment, where it is `now`.
    pub fn at(self, now: UnixMillis) -> UnixMillis {
        match self {
            Self::Ago(ago) => UnixMillis(now.0.saturating_sub(ago.0)),
            Self::At(at) => at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_both_ways() {
        let now = UnixMillis(1_000_000_000);
        let at = |text: &str| text.parse::<When>().map(|when| when.at(now).0);
        assert_eq!(at("1h"), Ok(996_400_000));
        assert_eq!(at("10d"), Ok(136_000_000));
        assert_eq!(at("1970-01-02T00:00:05Z"), Ok(86_405_000));
        assert_eq!(at("500"), Ok(500_000));
        assert_eq!(at("99999999999d"), Ok(0));
        for bad in ["", "d", "-1d", "999999999999999999999d", "yesterday"] {
            assert!(at(bad).unwrap_err().contains("as 90m, 48h or 30d"), "{bad}");
        }
    }
}

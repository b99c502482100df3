//! A moment as people say it: so long ago, or by the calendar. Must never guess a time zone.

use proteus_model::unit::{Millis, UnixMillis};
use std::str::FromStr;

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
        if let Ok(ago) = text.parse() {
            return Ok(Self::Ago(ago));
        }
        let refuse = |_| {
            format!("{text:?} is no moment: expected so long ago, as 90m or 48h, or YYYY-MM-DDThh:mm:ssZ")
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
        let now = UnixMillis(10_000_000);
        assert_eq!("1h".parse::<When>().unwrap().at(now), UnixMillis(6_400_000));
        assert_eq!("1970-01-01T00:00:05Z".parse::<When>().unwrap().at(now), UnixMillis(5000));
        assert_eq!("48h".parse::<When>().unwrap().at(now), UnixMillis(0));
        assert!("yesterday".parse::<When>().unwrap_err().contains("as 90m or 48h"));
    }
}

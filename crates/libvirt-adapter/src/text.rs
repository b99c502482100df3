//! Words of others as they may be shown: a domain's name may be any text. Must never let one move a terminal's cursor or
//! look like another line.

use proteus_model::unit::UnixMillis;
use std::time::{SystemTime, UNIX_EPOCH};

/// Characters of a name that are shown at most.
const SHOWN_MAX: usize = 120;

/// Marks that turn the direction of what follows, or are not seen.
fn is_unseen(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A name as people see it: what would not be seen is written out.
pub fn shown(text: &str) -> String {
    shown_within(text, SHOWN_MAX)
}

/// The same of any text, of so many characters at most.
pub fn shown_within(text: &str, most: usize) -> String {
    let mut safe = String::new();
    for c in text.chars().take(most) {
        if c.is_control() || is_unseen(c) { safe.extend(c.escape_unicode()) } else { safe.push(c) }
    }
    if text.chars().nth(most).is_some() {
        safe.push('…');
    }
    safe
}

/// This machine's clock.
pub(crate) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn what_would_not_be_seen_is_written_out() {
        assert_eq!(shown("büro 1 \"x\""), "büro 1 \"x\"");
        assert_eq!(shown("a\n\u{1b}[2J\u{202e}b"), "a\\u{a}\\u{1b}[2J\\u{202e}b");
        assert_eq!(shown(&"x".repeat(500)).chars().count(), 121);
    }
}

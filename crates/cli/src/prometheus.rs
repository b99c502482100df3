//! A Prometheus, as a source of what VMs used before Proteus knew them. Must never change anything there, nor take
//! what it does not understand, or what was not measured, for a value.

pub mod answer;

pub mod query;

pub mod server;

/// Text of somebody else's as part of a message: without what would move the terminal, cut off after so many letters.
pub(crate) fn tame(text: &str, letters: usize) -> String {
    let seen: String = text
        .trim()
        .chars()
        .take(letters)
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        // Control characters, and those that turn the direction of writing.
        .map(|c| {
            if c.is_control()
                || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect();
    if text.trim().chars().nth(letters).is_some() { seen + "…" } else { seen }
}

//! Which classes of the sensitive are in the beginning of a file: one pass, no copy. Must never give back anything but
//! the classes. What many harmless numbers look like by chance counts only where it is more than chance makes.

use super::number::{Card, account, card, national};
use proteus_protocol::guest::v1::findings::SensitiveClass;

/// So many different addresses are a list of people, not an author's name.
const ADDRESSES_MIN: usize = 20;
/// One number of ten has the right check digit by chance. Of those that look like a card's, at least a third must.
const CARDS_RIGHT_OF: u32 = 3;
/// So many numbers in their form are a list, even if nothing says what of.
const NATIONAL_MIN: u32 = 5;

/// Beginnings of tokens whose form is their maker's: beginning, least letters after it.
const TOKENS: [(&[u8], usize); 11] = [
    (b"AKIA", 16),
    (b"ASIA", 16),
    (b"AIza", 35),
    (b"ghp_", 36),
    (b"gho_", 36),
    (b"ghs_", 36),
    (b"github_pat_", 60),
    (b"glpat-", 20),
    (b"xoxb-", 20),
    (b"xoxp-", 20),
    (b"sk_live_", 24),
];

/// Names of what is kept secret, in lower case.
const SECRETS: [&[u8]; 9] = [
    b"password",
    b"passwd",
    b"passphrase",
    b"secret",
    b"api_key",
    b"apikey",
    b"access_key",
    b"auth_token",
    b"access_token",
];

/// What was found, by class.
pub type Classes = [bool; SensitiveClassIndex::COUNT];

/// The place of a class in [`Classes`].
pub struct SensitiveClassIndex;

impl SensitiveClassIndex {
    /// How many there are.
    pub const COUNT: usize = 6;
    /// All of them, each at its place.
    pub const ALL: [SensitiveClass; Self::COUNT] = [
        SensitiveClass::PrivateKeys,
        SensitiveClass::Credentials,
        SensitiveClass::CardNumbers,
        SensitiveClass::AccountNumbers,
        SensitiveClass::EmailAddresses,
        SensitiveClass::NationalNumbers,
    ];
}

/// Whether a key follows here: its first line, and enough of what keys are written in. The line alone is also in
/// programs that read keys.
fn is_private_key(text: &[u8]) -> bool {
    let Some(rest) = text.strip_prefix(b"-----BEGIN ") else { return false };
    let line = &rest[..rest.iter().take(64).position(|byte| *byte == b'\n').unwrap_or(0)];
    if !line.windows(11).any(|part| part == b"PRIVATE KEY") {
        return false;
    }
    let body = rest[line.len()..].iter().take(400).filter(|byte| !byte.is_ascii_whitespace());
    let is_base64 = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    // Headers of encrypted keys (`Proc-Type: 4,ENCRYPTED`) stand before.
    let (mut run, mut longest) = (0, 0);
    for byte in body {
        run = if is_base64(&byte) { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest >= 40
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_token(text: &[u8]) -> bool {
    TOKENS.iter().any(|(begin, least)| {
        let rest = text.strip_prefix(*begin).unwrap_or_default();
        let length = rest.iter().take(*least).filter(|byte| is_word(**byte) || **byte == b'-').count();
        // Amazon's keys are so long and no longer.
        let ends = !begin.ends_with(b"IA") || !rest.get(*least).copied().is_some_and(is_word);
        length == *least && ends && rest[..length].iter().any(u8::is_ascii_digit)
    })
}

/// Whether a value is given here to a name of a secret: `password = "hunter2"`. What stands for a value, is a call or a
/// word of a manual is none.
fn is_assignment(text: &[u8]) -> bool {
    let begins = |name: &&&[u8]| text.get(..name.len()).is_some_and(|part| part.eq_ignore_ascii_case(name));
    let Some(name) = SECRETS.iter().find(begins) else { return false };
    let skip = |text: &[u8], of: fn(u8) -> bool, most: usize| -> usize {
        text.iter().take(most).take_while(|byte| of(**byte)).count()
    };
    let mut at = name.len();
    at += skip(&text[at..], is_word, 32);
    at += skip(&text[at..], |byte| matches!(byte, b'"' | b'\'' | b' ' | b'\t'), 4);
    if !text.get(at).is_some_and(|byte| matches!(byte, b'=' | b':')) {
        return false;
    }
    at += 1;
    at += skip(&text[at..], |byte| matches!(byte, b'"' | b'\'' | b' ' | b'\t'), 8);
    let is_value = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b',' | b';');
    let value = &text[at..at + skip(&text[at..], is_value, 128)];
    let stands_for_it = value.first().is_none_or(|first| b"$<{%*[=:(&@!/".contains(first));
    let is_code = value.iter().any(|byte| matches!(byte, b'(' | b')' | b'<' | b'>' | b'{' | b'}'));
    let has = |of: fn(&u8) -> bool| value.iter().any(of);
    (6..128).contains(&value.len())
        && !stands_for_it
        && !is_code
        && has(u8::is_ascii_alphabetic)
        && has(u8::is_ascii_digit)
}

/// The address of a person around an `@`, as a number for it.
fn address(text: &[u8], at: usize) -> Option<u64> {
    let is_local = |byte: &&u8| byte.is_ascii_alphanumeric() || b"._%+-".contains(byte);
    let is_domain = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let local = text[..at].iter().rev().take(64).take_while(is_local).count();
    let domain = text[at + 1..].iter().take(253).take_while(is_domain).count();
    let domain_text = &text[at + 1..at + 1 + domain];
    let domain_text = domain_text.strip_suffix(b".").unwrap_or(domain_text);
    let dot = domain_text.iter().rposition(|byte| *byte == b'.')?;
    let top = &domain_text[dot + 1..];
    let is_address = local > 0 && dot > 0 && top.len() >= 2 && top.iter().all(u8::is_ascii_alphabetic);
    // FNV-1a: only to tell addresses of one file apart.
    let mix = |sum: u64, byte: &u8| {
        (sum ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0000_0100_0000_01b3)
    };
    let whole = text[at - local..at + 1].iter().chain(domain_text);
    is_address.then(|| whole.fold(0xcbf2_9ce4_8422_2325, mix))
}

/// What is counted while a text is read.
#[derive(Default)]
struct Tally {
    classes: Classes,
    cards: u32,
    cards_right: u32,
    national: u32,
    says_national: bool,
    addresses: [u64; ADDRESSES_MIN],
    addresses_found: usize,
}

impl Tally {
    fn take_address(&mut self, number: u64) {
        let known = &self.addresses[..self.addresses_found];
        if self.addresses_found < ADDRESSES_MIN && !known.contains(&number) {
            self.addresses[self.addresses_found] = number;
            self.addresses_found += 1;
        }
    }

    /// Takes notice of a number that begins here; how many bytes it has.
    fn take_number(&mut self, text: &[u8]) -> usize {
        if national(text) {
            self.national += 1;
            return 11;
        }
        match card(text) {
            Card::None => text.iter().take_while(|byte| byte.is_ascii_digit()).count().max(1),
            Card::Wrong(length) => {
                self.cards += 1;
                length
            }
            Card::Right(length) => {
                (self.cards, self.cards_right) = (self.cards + 1, self.cards_right + 1);
                length
            }
        }
    }

    fn take_word(&mut self, text: &[u8], begins: bool) {
        let [keys, credentials, _, accounts, ..] = &mut self.classes;
        match text[0] {
            b'-' => *keys = *keys || is_private_key(text),
            b'A' | b'g' | b'x' | b's' if begins && !*credentials && is_token(text) => *credentials = true,
            b'p' | b'P' | b's' | b'S' | b'a' | b'A' if !*credentials && is_assignment(text) => {
                *credentials = true;
            }
            _ => {}
        }
        if begins && text[0].is_ascii_uppercase() && !*accounts {
            *accounts = account(text);
        }
        if begins && !self.says_national && matches!(text[0], b's' | b'S') {
            let says = |word: &[u8]| text.get(..word.len()).is_some_and(|w| w.eq_ignore_ascii_case(word));
            self.says_national = says(b"ssn") || says(b"social security") || says(b"social_security");
        }
    }

    fn close(mut self) -> Classes {
        let [_, _, cards, _, addresses, national] = &mut self.classes;
        *cards = self.cards_right > 0 && self.cards_right * CARDS_RIGHT_OF >= self.cards;
        *addresses = self.addresses_found == ADDRESSES_MIN;
        *national = self.national >= NATIONAL_MIN || (self.says_national && self.national > 0);
        self.classes
    }
}

/// What is in a text.
pub fn classes(text: &[u8]) -> Classes {
    let mut tally = Tally::default();
    let (mut at, mut before) = (0, b' ');
    while let Some(byte) = text.get(at).copied() {
        // A number that is a part of a word, a fraction or a longer number is none of its own.
        let begins = !is_word(before);
        if byte.is_ascii_digit() && begins && !matches!(before, b'.' | b'-' | b'+') {
            at += tally.take_number(&text[at..]);
            before = text[at - 1];
            continue;
        }
        match byte {
            b'@' => address(text, at).into_iter().for_each(|number| tally.take_address(number)),
            b'-' if before != b'-' => tally.take_word(&text[at..], begins),
            _ if byte.is_ascii_alphabetic() => tally.take_word(&text[at..], begins),
            _ => {}
        }
        before = byte;
        at += 1;
    }
    tally.close()
}

#[cfg(test)]
mod tests;

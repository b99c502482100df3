//! Numbers with check digits, and those of a strict form: payment cards, bank accounts, social security. Each is held
//! against all that its makers say of it, so that few other numbers pass.

/// What a text begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Card {
    /// Nothing that looks like a card's number.
    None,
    /// So many bytes that look like one, but the check digit is wrong.
    Wrong(usize),
    /// So many bytes that are one.
    Right(usize),
}

/// Digits that are read: those of the longest number of a card (19, ISO/IEC 7812-1) and of what may follow.
const DIGITS_MAX: usize = 32;

/// How cards' numbers are printed, in groups.
const GROUPS: [&[usize]; 4] = [&[4, 4, 4, 4, 3], &[4, 4, 4, 4], &[4, 6, 5], &[4, 6, 4]];

/// Whether there are cards with such a beginning and so many digits.
fn is_issued(digits: &[u8]) -> bool {
    let begin = digits.iter().take(4).fold(0u32, |sum, digit| sum * 10 + u32::from(*digit));
    let length = digits.len();
    match begin {
        // Visa.
        4000..=4999 => matches!(length, 13 | 16 | 19),
        // Mastercard.
        5100..=5599 | 2221..=2720 => length == 16,
        // American Express.
        3400..=3499 | 3700..=3799 => length == 15,
        // Diners Club.
        3000..=3059 | 3600..=3699 | 3800..=3999 => length == 14,
        // JCB, Discover, UnionPay.
        3528..=3589 | 6011 | 6440..=6599 | 6200..=6299 => (16..=19).contains(&length),
        // Maestro.
        5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761..=6763 => (16..=19).contains(&length),
        _ => false,
    }
}

/// The check digit of ISO/IEC 7812-1 (Luhn).
fn luhn(digits: &[u8]) -> bool {
    let value = |(at, digit): (usize, &u8)| match (at % 2, u32::from(*digit)) {
        (1, digit) if digit > 4 => digit * 2 - 9,
        (1, digit) => digit * 2,
        (_, digit) => digit,
    };
    digits.iter().rev().enumerate().map(value).sum::<u32>() % 10 == 0
}

/// Digits at the begin of a text, in groups with one kind of separator between them.
struct Grouped {
    digits: [u8; DIGITS_MAX],
    groups: [usize; 5],
    group: usize,
    separator: Option<u8>,
}

/// `None`: they are a part of a word, a fraction or something longer.
fn grouped(text: &[u8]) -> Option<Grouped> {
    let mut read = Grouped { digits: [0; DIGITS_MAX], groups: [0; 5], group: 0, separator: None };
    let (mut count, mut at) = (0, 0);
    loop {
        match text.get(at).copied() {
            Some(byte) if byte.is_ascii_digit() => {
                *read.digits.get_mut(count)? = byte - b'0';
                (count, read.groups[read.group]) = (count + 1, read.groups[read.group] + 1);
            }
            Some(byte @ (b' ' | b'-'))
                if read.separator.is_none_or(|known| known == byte)
                    && text.get(at + 1).is_some_and(u8::is_ascii_digit)
                    && read.group + 1 < read.groups.len() =>
            {
                (read.separator, read.group) = (Some(byte), read.group + 1);
            }
            Some(byte) if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') => return None,
            Some(b'.') if text.get(at + 1).is_some_and(u8::is_ascii_digit) => return None,
            _ => return Some(read),
        }
        at += 1;
    }
}

/// The number of a card at the begin of a text, in one piece or in the groups in which it is printed. Another number
/// may follow after a space, as the month in which it ends.
pub fn card(text: &[u8]) -> Card {
    let Some(read) = grouped(text) else { return Card::None };
    let groups = &read.groups[..=read.group];
    let may_go_on = read.separator == Some(b' ');
    let is_there =
        |layout: &&[usize]| groups.starts_with(layout) && (layout.len() == groups.len() || may_go_on);
    for layout in GROUPS.into_iter().chain([&groups[..1]]).filter(is_there) {
        let digits = &read.digits[..layout.iter().sum()];
        if is_issued(digits) && digits.iter().any(|digit| *digit != digits[0]) {
            let length = digits.len() + layout.len() - 1;
            return if luhn(digits) { Card::Right(length) } else { Card::Wrong(length) };
        }
    }
    Card::None
}

/// Length of a bank account's number, by country (ISO 13616, the registry of SWIFT).
fn account_length(country: &[u8]) -> Option<usize> {
    Some(match country {
        b"NO" => 15,
        b"BE" => 16,
        b"DK" | b"FI" | b"NL" => 18,
        b"SI" | b"MK" => 19,
        b"AT" | b"BA" | b"EE" | b"KZ" | b"LT" | b"LU" => 20,
        b"CH" | b"HR" | b"LI" | b"LV" => 21,
        b"BG" | b"DE" | b"GB" | b"GE" | b"IE" | b"ME" | b"RS" => 22,
        b"AE" | b"GI" | b"IL" => 23,
        b"AD" | b"CZ" | b"ES" | b"MD" | b"PK" | b"RO" | b"SA" | b"SE" | b"SK" | b"TN" => 24,
        b"PT" => 25,
        b"IS" | b"TR" => 26,
        b"FR" | b"GR" | b"IT" | b"MC" | b"SM" => 27,
        b"AL" | b"AZ" | b"CY" | b"DO" | b"HU" | b"LB" | b"PL" => 28,
        b"BR" | b"QA" | b"UA" => 29,
        b"JO" | b"KW" | b"MU" => 30,
        b"MT" => 31,
        _ => return None,
    })
}

/// Whether a text begins with the number of a bank account (IBAN), in one piece or in groups of four.
pub fn account(text: &[u8]) -> bool {
    let Some(length) = text.get(..2).and_then(account_length) else { return false };
    let mut letters = [0u8; 34];
    let (mut count, mut at) = (0, 0);
    while count < length {
        match text.get(at).copied() {
            Some(b' ') if count > 0 && count % 4 == 0 && text[at - 1] != b' ' => {}
            Some(byte) if byte.is_ascii_digit() || byte.is_ascii_uppercase() => {
                letters[count] = byte;
                count += 1;
            }
            _ => return false,
        }
        at += 1;
    }
    if text.get(at).is_some_and(u8::is_ascii_alphanumeric) || !letters[2..4].iter().all(u8::is_ascii_digit) {
        return false;
    }
    // The first four go to the end, letters count from 10, and the rest of it by 97 is 1.
    let order = letters[4..count].iter().chain(&letters[..4]);
    let rest = order.fold(0u32, |rest, letter| match letter {
        b'0'..=b'9' => (rest * 10 + u32::from(letter - b'0')) % 97,
        _ => (rest * 100 + u32::from(letter - b'A') + 10) % 97,
    });
    rest == 1
}

/// Whether a text begins with a social security number of the USA as it is written, `123-45-6780`, that may have been
/// given out.
pub fn national(text: &[u8]) -> bool {
    let Some(number) = text.get(..11) else { return false };
    let is_form = number.iter().enumerate().all(|(at, byte)| match at {
        3 | 6 => *byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    let ends = text.get(11).is_none_or(|byte| !byte.is_ascii_alphanumeric() && !matches!(byte, b'-' | b'_'));
    // Those that were in advertisements.
    let is_known = [&b"078-05-1120"[..], b"219-09-9999", b"123-45-6789"].contains(&number);
    let is_given = !number.starts_with(b"000") && !number.starts_with(b"666") && number[0] != b'9';
    is_form && ends && !is_known && is_given && &number[4..6] != b"00" && &number[7..] != b"0000"
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cards_are_known_by_beginning_length_groups_and_check_digit() {
        for right in ["4111111111111111", "5555-5555-5555-4444", "3782 822463 10005", "30569309025904"] {
            assert_eq!(card(right.as_bytes()), Card::Right(right.len()), "{right}");
        }
        assert_eq!(card(b"4111111111111112"), Card::Wrong(16));
        assert_eq!(card(b"4111 1111 1111 1111 12/27"), Card::Right(19), "the month in which it ends");
        assert_eq!(card(b"4111111111111111 12/27"), Card::Right(16));
        for none in [
            "1234567812345670",
            "411111111111111",
            "41 11 1111 1111 1111",
            "4111-1111 1111 1111",
            "4111111111111111a",
            "4111111111111111.5",
            "41111111111111111111111",
            "4444444444444444",
            "4111-1111-1111-1111-12",
            "0000000000000000",
            "",
        ] {
            assert_eq!(card(none.as_bytes()), Card::None, "{none}");
        }
    }

    #[test]
    fn accounts_are_known_by_country_length_and_check_digits() {
        for right in ["DE89370400440532013000", "GB82 WEST 1234 5698 7654 32", "NO9386011117947"] {
            assert!(account(right.as_bytes()), "{right}");
        }
        for wrong in ["DE89370400440532013001", "DE8937040044053201300", "XX89370400440532013000", "DE", ""] {
            assert!(!account(wrong.as_bytes()), "{wrong}");
        }
    }

    #[test]
    fn social_security_numbers_are_strict() {
        assert!(national(b"536-90-4399"));
        for wrong in
            ["000-12-3456", "666-12-3456", "900-12-3456", "536-00-4399", "536-90-0000", "123-45-6789"]
        {
            assert!(!national(wrong.as_bytes()), "{wrong}");
        }
        assert!(!national(b"536-90-43991") && !national(b"536-90-4399-1") && !national(b"536904399"));
    }

    proptest! {
        #[test]
        fn one_check_digit_of_ten_is_right(body in prop::collection::vec(0..10u8, 14)) {
            let mut digits = vec![4, 1];
            digits.extend(&body[..13]);
            digits.push(0);
            let right = (0..10u8).filter(|last| {
                digits[15] = *last;
                luhn(&digits)
            });
            prop_assert_eq!(right.count(), 1);
        }

        #[test]
        fn any_bytes_are_read_within_their_bounds(text in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Card::Right(length) | Card::Wrong(length) = card(&text) {
                prop_assert!((13..=23).contains(&length) && length <= text.len());
            }
            let _ = (account(&text), national(&text));
        }
    }
}

//! nginx, by its module `stub_status` (nginx documentation, ngx_http_stub_status_module).

use super::exchange::{ExchangeError, get};
use super::{Value, Values};
use std::net::SocketAddr;

/// Where its state is usually shown.
pub const PATHS: [&str; 4] = ["/status", "/nginx_status", "/stub_status", "/basic_status"];
/// Why nothing is told of one that shows it at none of them.
pub const HIDDEN: ExchangeError = ExchangeError::Hidden(
    "it does not show its state: add `location = /status { stub_status; allow 127.0.0.1; deny all; }` to a server",
);

/// Looks at one place; `None`: its state is not there.
pub fn ask(address: SocketAddr, path: &str) -> Result<Option<Values>, ExchangeError> {
    match get(address, path) {
        Ok(body) => Ok(std::str::from_utf8(&body).ok().and_then(values)),
        Err(ExchangeError::Status(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// ```text
/// Active connections: 291
/// server accepts handled requests
///  16630948 16630948 31070465
/// Reading: 6 Writing: 179 Waiting: 106
/// ```
fn values(text: &str) -> Option<Values> {
    let mut lines = text.lines();
    let number = |word: &str| word.parse::<u64>().ok().map(|number| number as f64);
    let active = number(lines.next()?.strip_prefix("Active connections:")?.trim())?;
    let is_head = lines.next()?.trim().starts_with("server accepts handled requests");
    let mut counts = lines.next().filter(|_| is_head)?.split_ascii_whitespace().map(number);
    let (accepted, handled, requests) = (counts.next()??, counts.next()??, counts.next()??);
    let states: Vec<&str> = lines.next()?.split_ascii_whitespace().collect();
    let state = |name: &str| number(states.get(states.iter().position(|word| *word == name)? + 1)?);
    Some(Values::from([
        ("connections".to_owned(), Value::Level(active)),
        ("accepted".to_owned(), Value::Count(accepted)),
        ("dropped".to_owned(), Value::Count((accepted - handled).max(0.0))),
        ("requests".to_owned(), Value::Count(requests)),
        ("reading".to_owned(), Value::Level(state("Reading:")?)),
        ("writing".to_owned(), Value::Level(state("Writing:")?)),
        ("waiting".to_owned(), Value::Level(state("Waiting:")?)),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::{Random, mutate, run};

    #[test]
    fn its_state_is_read_whole_or_not_at_all() {
        let text = "Active connections: 3 \nserver accepts handled requests\n 10 9 30 \nReading: 0 Writing: 1 Waiting: 2 \n";
        let all = values(text).unwrap();
        assert_eq!((all["requests"], all["dropped"]), (Value::Count(30.0), Value::Count(1.0)));
        assert_eq!((all["connections"], all["waiting"]), (Value::Level(3.0), Value::Level(2.0)));
        for end in 0..text.len() - 4 {
            assert!(values(&text[..end]).is_none_or(|all| all.len() == 7));
        }
        assert_eq!(values("<html>Active connections: 3</html>"), None);
    }

    #[test]
    fn a_state_of_any_text_is_seven_numbers_or_none() {
        let pieces: [&[u8]; 8] = [
            b"\n",
            b" ",
            b"-1",
            b"18446744073709551616",
            b"NaN",
            b"Reading:",
            b"1e99",
            b"Active connections:",
        ];
        let make = |random: &mut Random| {
            let [active, accepted, handled, requests, reading, writing, waiting] =
                [0; 7].map(|_: u8| random.next() >> random.below(64));
            let mut text = format!(
                "Active connections: {active} \nserver accepts handled requests\n {accepted} {handled} {requests} \n\
                 Reading: {reading} Writing: {writing} Waiting: {waiting} \n"
            )
            .into_bytes();
            let whole = values(std::str::from_utf8(&text).unwrap()).unwrap();
            assert_eq!(whole["requests"], Value::Count(requests as f64));
            assert_eq!(
                (whole["connections"], whole["waiting"]),
                (Value::Level(active as f64), Value::Level(waiting as f64))
            );
            mutate(random, &mut text, &pieces);
            text
        };
        run(20_000, make, |text: &Vec<u8>| {
            let Some(all) = std::str::from_utf8(text).ok().and_then(values) else { return false };
            let is_told = |value: &Value| match value {
                Value::Level(number) | Value::Count(number) => number.is_finite() && *number >= 0.0,
            };
            assert!(all.len() == 7 && all.values().all(is_told), "{all:?}");
            true
        });
    }
}

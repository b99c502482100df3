//! nginx, by its module `stub_status` (nginx documentation, ngx_http_stub_status_module).

use super::exchange::{ExchangeError, get};
use super::{Value, Values};
use std::net::SocketAddr;

/// Where its state is usually shown.
const PATHS: [&str; 4] = ["/status", "/nginx_status", "/stub_status", "/basic_status"];

/// Looks where it was seen last, else where it usually is.
pub fn ask(
    address: SocketAddr,
    known: Option<&'static str>,
) -> Result<(&'static str, Values), ExchangeError> {
    let hidden = ExchangeError::Hidden(
        "it does not show its state: add `location = /status { stub_status; allow 127.0.0.1; deny all; }` to a server",
    );
    for path in known.into_iter().chain(PATHS) {
        match get(address, path) {
            Ok(body) => {
                if let Some(values) = std::str::from_utf8(&body).ok().and_then(values) {
                    return Ok((path, values));
                }
            }
            Err(ExchangeError::Status(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(hidden)
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
}

//! PostgreSQL, by one query of its statistics over its protocol of version 3 (PostgreSQL documentation, "Frontend/Backend
//! Protocol"). Must never ask for anything but numbers.

use super::exchange::{Exchange, ExchangeError};
use super::{Value, Values};

/// Names of the query's columns, in order; which of them are counts.
const COLUMNS: [(&str, bool); 14] = [
    ("sessions", false),
    ("sessions_active", false),
    ("sessions_max", false),
    ("databases", false),
    ("transactions", true),
    ("rollbacks", true),
    ("blocks_hit", true),
    ("blocks_read", true),
    ("rows_returned", true),
    ("rows_written", true),
    ("deadlocks", true),
    ("temporary_bytes", true),
    ("conflicts", true),
    ("waiting_for_locks", false),
];
const QUERY: &str = "SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()), \
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND state = 'active' AND pid <> pg_backend_pid()), \
    current_setting('max_connections')::int, count(*), sum(xact_commit), sum(xact_rollback), sum(blks_hit), sum(blks_read), \
    sum(tup_returned), sum(tup_inserted + tup_updated + tup_deleted), sum(deadlocks), sum(temp_bytes), sum(conflicts), \
    (SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock') FROM pg_stat_database WHERE datname IS NOT NULL";

/// Messages of the server, each with its kind; what is cut off at the end is left out.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let kind = *bytes.first()?;
        let length = u32::from_be_bytes(bytes.get(1..5)?.try_into().ok()?) as usize;
        let body = bytes.get(5..length.checked_add(1)?)?;
        bytes = bytes.get(length + 1..)?;
        Some((kind, body))
    })
}

/// Whether the server waits for a question, wants a password, or refused.
fn is_ready(bytes: &[u8]) -> bool {
    messages(bytes)
        .any(|(kind, body)| matches!(kind, b'Z' | b'E') || (kind == b'R' && body.get(..4) != Some(&[0; 4])))
}

/// Whether a refusal passes: `cannot_connect_now` or `too_many_connections` (PostgreSQL documentation, "Error Codes").
fn is_busy(bytes: &[u8]) -> bool {
    let mut fields =
        messages(bytes).filter(|(kind, _)| *kind == b'E').flat_map(|(_, body)| body.split(|byte| *byte == 0));
    fields.any(|field| [&b"C57P03"[..], b"C53300"].contains(&field))
}

/// Asks as `postgres`.
pub fn ask(exchange: &mut Exchange) -> Result<Values, ExchangeError> {
    let pairs = "user\0postgres\0database\0postgres\0application_name\0proteus\0\0";
    let length = 8 + pairs.len() as u32;
    let begin = [&length.to_be_bytes()[..], &0x0003_0000_u32.to_be_bytes(), pairs.as_bytes()].concat();
    exchange.ask(&begin)?;
    let answer = exchange.answer(is_ready)?;
    if messages(answer).any(|(kind, body)| kind == b'R' && body.get(..4) != Some(&[0; 4])) {
        return Err(ExchangeError::Password(
            "its pg_hba.conf trusts neither its own user on its own socket (peer) nor this one on loopback (trust)",
        ));
    }
    if is_busy(answer) {
        return Err(ExchangeError::Busy);
    }
    if !messages(answer).any(|(kind, _)| kind == b'Z') {
        return Err(ExchangeError::Confused("it refused the connection"));
    }
    let length = (QUERY.len() + 5) as u32;
    exchange.ask(&[&b"Q"[..], &length.to_be_bytes(), QUERY.as_bytes(), b"\0"].concat())?;
    let answer = exchange.answer(is_ready)?;
    let row = messages(answer).find(|(kind, _)| *kind == b'D').map(|(_, body)| body);
    let values = row.and_then(values).ok_or(ExchangeError::Confused("it refused the query"))?;
    // Terminate: it need not find out by itself. What comes of it interests nobody.
    let _ = exchange.ask(&[b'X', 0, 0, 0, 4]);
    Ok(values)
}

/// A row: the number of columns, then of each its length and its text; -1 is null.
fn values(row: &[u8]) -> Option<Values> {
    let count = usize::from(u16::from_be_bytes(row.get(..2)?.try_into().ok()?));
    let mut rest = row.get(2..).filter(|_| count == COLUMNS.len())?;
    let mut values = Values::new();
    for (name, is_count) in COLUMNS {
        let length = i32::from_be_bytes(rest.get(..4)?.try_into().ok()?);
        rest = rest.get(4..)?;
        let Ok(length) = usize::try_from(length) else { continue };
        let number = std::str::from_utf8(rest.get(..length)?).ok()?.parse::<f64>().ok()?;
        rest = rest.get(length..)?;
        values.insert(name.to_owned(), if is_count { Value::Count(number) } else { Value::Level(number) });
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::{Random, mutate, run};

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
    }

    fn row(texts: &[Option<&str>]) -> Vec<u8> {
        let mut row = (texts.len() as u16).to_be_bytes().to_vec();
        for text in texts {
            row.extend_from_slice(&text.map_or(-1, |text| text.len() as i32).to_be_bytes());
            row.extend_from_slice(text.unwrap_or_default().as_bytes());
        }
        row
    }

    #[test]
    fn a_row_is_read_and_null_is_missing() {
        let texts: Vec<Option<&str>> = (0..COLUMNS.len()).map(|at| (at != 5).then_some("7")).collect();
        let values = values(&row(&texts)).unwrap();
        assert_eq!((values["sessions"], values["transactions"]), (Value::Level(7.0), Value::Count(7.0)));
        assert!(!values.contains_key("rollbacks"));
    }

    #[test]
    fn lengths_that_lead_out_are_no_row() {
        let whole = row(&[Some("7"); COLUMNS.len()]);
        for end in 0..whole.len() {
            assert_eq!(values(&whole[..end]), None);
        }
        assert_eq!(values(&row(&[Some("7")])), None);
        assert_eq!(messages(&[b'D', 255, 255, 255, 255, 1]).count(), 0);
        assert_eq!(messages(&[b'D', 0, 0, 0, 0]).count(), 0);
    }

    #[test]
    fn a_server_is_ready_wants_a_password_or_refuses() {
        assert!(!is_ready(&message(b'R', &[0; 4])));
        assert!(is_ready(&[message(b'R', &[0; 4]), message(b'Z', b"I")].concat()));
        assert!(is_ready(&message(b'R', &[0, 0, 0, 5, 1, 2, 3, 4])));
        assert!(is_ready(&message(b'E', b"SFATAL\0\0")));
        assert!(is_busy(&message(b'E', b"SFATAL\0C57P03\0Mthe database system is starting up\0\0")));
        assert!(!is_busy(&message(b'E', b"SFATAL\0C28000\0MC57P03 is not it\0\0")));
    }

    #[test]
    fn an_answer_of_any_bytes_is_a_row_or_none() {
        let pieces: [&[u8]; 8] = [
            &[255; 4],
            &[0, 0, 0, 4],
            &[127, 255, 255, 255],
            &[0, 0, 0, 0],
            b"D",
            b"E\0\0\0\x0cC57P03\0\0",
            b"-7",
            &[0, 14],
        ];
        let make = |random: &mut Random| {
            let numbers: Vec<Option<u64>> = (0..COLUMNS.len())
                .map(|_| (random.below(5) > 0).then(|| random.next() >> random.below(64)))
                .collect();
            let texts: Vec<Option<String>> =
                numbers.iter().map(|number| number.map(|number| number.to_string())).collect();
            let row = row(&texts.iter().map(|text| text.as_deref()).collect::<Vec<_>>());
            let told = values(&row).unwrap();
            for ((name, is_count), number) in COLUMNS.iter().zip(&numbers) {
                let number = number.map(|number| number as f64);
                let wanted =
                    number.map(|number| if *is_count { Value::Count(number) } else { Value::Level(number) });
                assert_eq!(told.get(*name).copied(), wanted, "what is whole is not told whole");
            }
            let mut answer = [
                message(b'T', &[0; 9]),
                message(b'D', &row),
                message(b'C', b"SELECT 1\0"),
                message(b'Z', b"I"),
            ]
            .concat();
            mutate(random, &mut answer, &pieces);
            answer
        };
        run(20_000, make, |answer: &Vec<u8>| {
            let length: usize = messages(answer).map(|(_, body)| 5 + body.len()).sum();
            assert!(length <= answer.len(), "messages that are not in it");
            let is_refusal = messages(answer).any(|(kind, _)| kind == b'E');
            assert!(!is_busy(answer) || (is_refusal && is_ready(answer)));
            let row = messages(answer).find(|(kind, _)| *kind == b'D').map(|(_, body)| body);
            let Some(told) = row.and_then(values) else { return false };
            assert!(told.keys().all(|name| COLUMNS.iter().any(|(known, _)| name == known)), "{told:?}");
            true
        });
    }
}

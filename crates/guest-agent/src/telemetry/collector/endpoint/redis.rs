//! redis, by its command INFO (Redis documentation, "INFO").

use super::exchange::{Exchange, ExchangeError};
use super::{Value, Values};

/// Names in the answer, and what they are told as.
const LEVELS: [(&str, &str); 7] = [
    ("connected_clients", "clients"),
    ("blocked_clients", "blocked_clients"),
    ("used_memory", "used_memory_bytes"),
    ("maxmemory", "max_memory_bytes"),
    ("mem_fragmentation_ratio", "fragmentation_ratio"),
    ("connected_slaves", "replicas"),
    ("rdb_changes_since_last_save", "unsaved_changes"),
];
const COUNTS: [(&str, &str); 9] = [
    ("total_commands_processed", "commands"),
    ("total_connections_received", "accepted"),
    ("rejected_connections", "rejected"),
    ("keyspace_hits", "hits"),
    ("keyspace_misses", "misses"),
    ("evicted_keys", "evicted"),
    ("expired_keys", "expired"),
    ("total_net_input_bytes", "received_bytes"),
    ("total_net_output_bytes", "sent_bytes"),
];

/// Length of a whole answer, `$LENGTH\r\n` and as many bytes.
fn whole(answer: &[u8]) -> Option<usize> {
    let end = answer.iter().position(|byte| *byte == b'\n')?;
    let length: usize = std::str::from_utf8(answer.get(1..end)?).ok()?.trim().parse().ok()?;
    end.checked_add(1)?.checked_add(length)
}

/// Asks for all of it.
pub fn ask(exchange: &mut Exchange) -> Result<Values, ExchangeError> {
    exchange.ask(b"INFO\r\n")?;
    let answer = exchange.answer(|answer| match answer.first() {
        Some(b'$') => whole(answer).is_some_and(|length| answer.len() >= length),
        _ => answer.contains(&b'\n'),
    })?;
    if answer.starts_with(b"-NOAUTH") || answer.starts_with(b"-WRONGPASS") {
        return Err(ExchangeError::Password("its requirepass or ACL lets nobody else see INFO"));
    }
    let text = answer.strip_prefix(b"$").and_then(|answer| std::str::from_utf8(answer).ok());
    let values = values(text.ok_or(ExchangeError::Confused("no INFO"))?);
    if values.is_empty() { Err(ExchangeError::Confused("an empty INFO")) } else { Ok(values) }
}

fn values(text: &str) -> Values {
    let mut values = Values::new();
    let mut keys = None;
    for (name, value) in text.lines().filter_map(|line| line.trim().split_once(':')) {
        let number = value.parse::<f64>().ok().filter(|number| number.is_finite());
        let told = |list: &[(&str, &str)]| {
            list.iter().find(|(own, _)| *own == name).map(|(_, told)| (*told).to_owned())
        };
        if let Some((number, told)) = number.zip(told(&LEVELS)) {
            values.insert(told, Value::Level(number));
        } else if let Some((number, told)) = number.zip(told(&COUNTS)) {
            values.insert(told, Value::Count(number));
        } else if name == "redis_version" {
            // A server without keys lists no database.
            keys = keys.or(Some(0.0));
        } else if name.strip_prefix("db").is_some_and(|index| index.parse::<u32>().is_ok()) {
            let count = value.split(',').find_map(|part| part.strip_prefix("keys=")?.parse::<u64>().ok());
            keys = Some(keys.unwrap_or(0.0) + count.unwrap_or(0) as f64);
        }
    }
    values.extend(keys.map(|keys| ("keys".to_owned(), Value::Level(keys))));
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::{Random, mutate, run};

    #[test]
    fn what_it_tells_is_told_under_plain_names() {
        let text = "# Server\r\nredis_version:7.0.15\r\nconnected_clients:2\r\nused_memory:900\r\nmaxmemory:x\r\n\
            total_commands_processed:77\r\ndb0:keys=5,expires=0,avg_ttl=0\r\ndb3:keys=2,expires=1\r\nmem_fragmentation_ratio:nan\r\n";
        let all = values(text);
        assert_eq!(
            (all["clients"], all["commands"], all["keys"]),
            (Value::Level(2.0), Value::Count(77.0), Value::Level(7.0))
        );
        assert!(!all.contains_key("max_memory_bytes") && !all.contains_key("fragmentation_ratio"));
        assert_eq!(values("redis_version:7").get("keys"), Some(&Value::Level(0.0)));
        assert!(values("nonsense").is_empty());
    }

    #[test]
    fn an_answer_is_whole_when_its_length_is_there() {
        assert_eq!(whole(b"$5\r\nhello\r\n"), Some(9));
        assert_eq!((whole(b"$5"), whole(b"$x\r\n")), (None, None));
        assert_eq!(whole(b"$18446744073709551615\r\n"), None);
    }

    #[test]
    fn an_answer_of_any_bytes_tells_what_is_known_or_nothing() {
        let pieces: [&[u8]; 8] = [
            b"\r\n",
            b":",
            b"$",
            b"99999999999999999999",
            b"nan",
            b"db7:keys=18446744073709551615,",
            b"inf",
            b"used_memory:",
        ];
        let make = |random: &mut Random| {
            let number = random.next() >> random.below(64);
            let mut text = "redis_version:7.0\r\n".to_owned();
            LEVELS.iter().chain(&COUNTS).for_each(|(name, _)| text.push_str(&format!("{name}:{number}\r\n")));
            text.push_str("db0:keys=5,expires=1\r\n");
            let mut answer = format!("${}\r\n{text}\r\n", text.len()).into_bytes();
            assert_eq!(whole(&answer), Some(answer.len() - 2));
            let told = values(&text);
            assert_eq!(told.len(), LEVELS.len() + COUNTS.len() + 1, "what is whole is not told whole");
            assert_eq!((told["commands"], told["keys"]), (Value::Count(number as f64), Value::Level(5.0)));
            mutate(random, &mut answer, &pieces);
            answer
        };
        run(20_000, make, |answer: &Vec<u8>| {
            if let Some(length) = whole(answer) {
                assert!(length > answer.iter().position(|byte| *byte == b'\n').unwrap());
            }
            let text = answer.strip_prefix(b"$").and_then(|answer| std::str::from_utf8(answer).ok());
            let told = values(text.unwrap_or_default());
            let is_known = |name: &String| {
                LEVELS.iter().chain(&COUNTS).any(|(_, known)| name == known) || name == "keys"
            };
            let is_number = |value: &Value| match value {
                Value::Level(number) | Value::Count(number) => number.is_finite(),
            };
            assert!(told.keys().all(is_known) && told.values().all(is_number), "{told:?}");
            !told.is_empty()
        });
    }
}

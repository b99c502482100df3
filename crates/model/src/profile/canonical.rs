//! Canonical JSON: one text for one value, whatever map type a dependency turned on. What is hashed or signed is
//! hashed and signed as this. Must never depend on the order in which a value was built.

use serde_json::Value;
use std::fmt::Write;

/// Keys sorted by their bytes, no spaces, numbers and text as `serde_json` writes them.
pub fn to_text(value: &Value) -> String {
    let mut text = String::new();
    write_value(value, &mut text);
    text
}

fn write_value(value: &Value, text: &mut String) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            // Writing to a `String` cannot fail.
            let _ = write!(text, "{value}");
        }
        Value::Array(items) => {
            text.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    text.push(',');
                }
                write_value(item, text);
            }
            text.push(']');
        }
        Value::Object(fields) => {
            let mut sorted: Vec<(&String, &Value)> = fields.iter().collect();
            sorted.sort_unstable_by_key(|(key, _)| *key);
            text.push('{');
            for (n, (key, item)) in sorted.into_iter().enumerate() {
                if n > 0 {
                    text.push(',');
                }
                write_value(&Value::String(key.clone()), text);
                text.push(':');
                write_value(item, text);
            }
            text.push('}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_sorted_at_every_level() {
        let value = json!({ "b": [1, { "z": null, "a": "x\"\n" }], "a": 0.25 });
        assert_eq!(to_text(&value), r#"{"a":0.25,"b":[1,{"a":"x\"\n","z":null}]}"#);
    }
}

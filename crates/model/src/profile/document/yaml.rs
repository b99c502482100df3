//! YAML text to a tree, from the events of `saphyr-parser`. No anchors, aliases, tags or second document: a
//! profile needs none, and each is a way to make a small text large or to mean what it does not say.
//! Must never recurse: the stack of open groups is its own, and bounded.

use super::super::tree::{DEPTH_MAX, Key, Node, Place, Value, printable};
use super::{Refusal, VALUES_MAX};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError};
use std::collections::BTreeSet;

/// A list or map that is not closed yet.
enum Open {
    List { place: Place, items: Vec<Node> },
    Map { place: Place, fields: Vec<(Key, Node)>, seen: BTreeSet<String>, key: Option<Key> },
}

/// saphyr counts columns from 0.
fn place_of(marker: &Marker) -> Place {
    Place { line: marker.line(), column: marker.col() + 1 }
}

fn scan_refusal(error: &ScanError) -> Refusal {
    let refusal = Refusal::new(place_of(error.marker()), "YAML", error.info());
    if error.info().contains("tab") { refusal.hint("indent with spaces") } else { refusal }
}

pub(super) fn read(text: &str) -> Result<Node, Refusal> {
    let mut open: Vec<Open> = Vec::new();
    let mut root: Option<Node> = None;
    let mut values = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| scan_refusal(&error))?;
        let place = place_of(&span.start);
        refuse_reference(&event, place)?;
        let node = match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd | Event::Alias(_) => {
                continue;
            }
            Event::DocumentStart(_) if root.is_some() => {
                return Err(Refusal::new(place, "one document", "a second one after ---"));
            }
            Event::DocumentStart(_) => continue,
            Event::Scalar(text, style, ..) => Node { place, value: scalar(&text, style) },
            Event::SequenceStart(..) => {
                push(&mut open, Open::List { place, items: Vec::new() }, place)?;
                continue;
            }
            Event::MappingStart(..) => {
                let (fields, seen) = (Vec::new(), BTreeSet::new());
                push(&mut open, Open::Map { place, fields, seen, key: None }, place)?;
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List { place, items }) => Node { place, value: Value::List(items) },
                Some(Open::Map { place, fields, .. }) => Node { place, value: Value::Map(fields) },
                None => continue,
            },
        };
        values += 1;
        if values > VALUES_MAX * 2 {
            return Err(Refusal::too_many(place));
        }
        match open.last_mut() {
            Some(group) => add(group, node)?,
            None => root = Some(node),
        }
    }
    root.ok_or_else(|| Refusal::new(Place { line: 1, column: 1 }, "a profile", "an empty document"))
}

fn push(open: &mut Vec<Open>, group: Open, place: Place) -> Result<(), Refusal> {
    if open.len() >= DEPTH_MAX {
        return Err(Refusal::too_deep(place));
    }
    open.push(group);
    Ok(())
}

fn refuse_reference(event: &Event<'_>, place: Place) -> Result<(), Refusal> {
    let (anchor, tag) = match event {
        Event::Alias(_) => {
            return Err(
                Refusal::new(place, "a value", "an alias").hint("write the value out; aliases are not read")
            );
        }
        Event::Scalar(_, _, anchor, tag) => (*anchor, tag.is_some()),
        Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => (*anchor, tag.is_some()),
        Event::Nothing
        | Event::StreamStart
        | Event::StreamEnd
        | Event::DocumentStart(_)
        | Event::DocumentEnd
        | Event::SequenceEnd
        | Event::MappingEnd => (0, false),
    };
    if anchor != 0 {
        let hint = "remove the &name; anchors are not read, and text that begins with & needs quotes";
        return Err(Refusal::new(place, "a value", "an anchor").hint(hint));
    }
    if tag {
        let hint = "remove the !name; tags are not read, and text that begins with ! needs quotes";
        return Err(Refusal::new(place, "a value", "a tag").hint(hint));
    }
    Ok(())
}

fn add(group: &mut Open, node: Node) -> Result<(), Refusal> {
    match group {
        Open::List { items, .. } => items.push(node),
        Open::Map { fields, seen, key, .. } => match key.take() {
            Some(key) => fields.push((key, node)),
            None => {
                let text = key_text(&node)?;
                if !seen.insert(text.clone()) {
                    return Err(Refusal::duplicate(node.place, &text));
                }
                *key = Some(Key { place: node.place, text });
            }
        },
    }
    Ok(())
}

fn key_text(node: &Node) -> Result<String, Refusal> {
    match &node.value {
        Value::Text(text) | Value::Decimal(_, text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Null | Value::List(_) | Value::Map(_) => {
            Err(Refusal::new(node.place, "text before ':'", printable(&node.describe())))
        }
    }
}

/// By the core schema of YAML 1.2 (section 10.3.2): only plain scalars are anything but text.
fn scalar(text: &str, style: ScalarStyle) -> Value {
    match style {
        ScalarStyle::Plain => {}
        ScalarStyle::SingleQuoted
        | ScalarStyle::DoubleQuoted
        | ScalarStyle::Literal
        | ScalarStyle::Folded => {
            return Value::Text(text.to_owned());
        }
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Value::Decimal(f64::NAN, text.to_owned()),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Value::Decimal(f64::INFINITY, text.to_owned());
        }
        "-.inf" | "-.Inf" | "-.INF" => return Value::Decimal(f64::NEG_INFINITY, text.to_owned()),
        _ => {}
    }
    let radix = |prefix, radix| {
        text.strip_prefix(prefix)
            .filter(|t| !t.starts_with(['+', '-']))
            .and_then(|t| i128::from_str_radix(t, radix).ok())
    };
    if let Some(number) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return Value::Integer(number);
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Value::Text(text.to_owned());
    }
    if let Ok(number) = text.parse::<i128>() {
        return Value::Integer(number);
    }
    // `f64::from_str` takes words such as "+infinity" too.
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    match text.parse::<f64>() {
        Ok(number) if plain => Value::Decimal(number, text.to_owned()),
        Ok(_) | Err(_) => Value::Text(text.to_owned()),
    }
}

//! TOML text to a tree, from the spanned tables of the `toml` crate, which bounds nesting and refuses duplicate
//! keys itself. Must never turn its `unbounded` feature on.

use super::super::tree::{DEPTH_MAX, Key, Node, Place, Value};
use super::{Refusal, VALUES_MAX, place_at};
use ::toml::de::{DeTable, DeValue};
use std::ops::Range;

pub(super) fn read(text: &str) -> Result<Node, Refusal> {
    let lines = Lines::new(text);
    let table = DeTable::parse(text).map_err(|error| {
        let place = error.span().map_or(Place { line: 1, column: 1 }, |span| place_at(text, span.start));
        Refusal::new(place, "TOML", error.message().lines().collect::<Vec<_>>().join(", "))
    })?;
    let span = table.span();
    let mut reader = Reader { lines, values: 0 };
    let place = reader.lines.place(&span);
    Ok(Node { place, value: reader.table(table.get_ref(), DEPTH_MAX, place)? })
}

/// Where each line of a text begins: a place is found without counting from the start each time.
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(n, _)| n + 1)).collect();
        Self { text, starts }
    }

    fn place(&self, span: &Range<usize>) -> Place {
        let line = self.starts.partition_point(|start| *start <= span.start).max(1);
        let start = self.starts[line - 1];
        let column = self.text.get(start..span.start).map_or(0, |before| before.chars().count());
        Place { line, column: column + 1 }
    }
}

struct Reader<'t> {
    lines: Lines<'t>,
    values: usize,
}

impl Reader<'_> {
    fn table(&mut self, table: &DeTable<'_>, depth: usize, place: Place) -> Result<Value, Refusal> {
        let below = depth.checked_sub(1).ok_or_else(|| Refusal::too_deep(place))?;
        let mut fields = Vec::new();
        for (key, value) in table {
            let place = self.lines.place(&key.span());
            let key = Key { place, text: key.get_ref().to_string() };
            let place = self.lines.place(&value.span());
            fields.push((key, self.value(value.get_ref(), below, place)?));
        }
        fields.sort_by_key(|(key, _)| key.place);
        Ok(Value::Map(fields))
    }

    fn value(&mut self, value: &DeValue<'_>, depth: usize, place: Place) -> Result<Node, Refusal> {
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(Refusal::too_many(place));
        }
        let value = match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Boolean(value) => Value::Bool(*value),
            DeValue::Datetime(moment) => Value::Text(moment.to_string()),
            DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => return Err(Refusal::new(place, "a number that is not so large", "a larger one")),
            },
            DeValue::Float(number) => match number.as_str().parse::<f64>() {
                Ok(float) => Value::Decimal(float, number.as_str().to_owned()),
                Err(_) => return Err(Refusal::new(place, "a number", "something else")),
            },
            DeValue::Array(items) => {
                let below = depth.checked_sub(1).ok_or_else(|| Refusal::too_deep(place))?;
                let mut list = Vec::new();
                for item in items {
                    let place = self.lines.place(&item.span());
                    list.push(self.value(item.get_ref(), below, place)?);
                }
                Value::List(list)
            }
            DeValue::Table(table) => self.table(table, depth, place)?,
        };
        Ok(Node { place, value })
    }
}

//! What every part of a profile can do: be read from a tree, be written, be checked, be laid over its parent's,
//! and describe itself as JSON Schema. One trait holds all five, so that they cannot drift apart.
//! Must never stop at the first problem: a reader of a profile is told everything at once.

use super::quantity::{Quantity, Ratio};
use super::tree::{Key, Node, Path, Place, Step, Value, printable};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;

/// Most problems that are collected for one document.
pub const PROBLEMS_MAX: usize = 100;

/// Most items in one list or map of a profile.
pub const ITEMS_MAX: usize = 512;

/// A rule of the profile that a value breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field.
    pub field: Path,
    /// What it should be.
    pub expected: String,
    /// What it is.
    pub found: String,
    /// What to do about it, where that is known.
    pub hint: Option<String>,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.field.0.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "expected {}, found {}", self.expected, self.found)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// Collects violations; knows which field is being looked at.
#[derive(Debug, Default)]
pub struct Violations {
    path: Path,
    list: Vec<(Place, Violation)>,
    too_many: bool,
    /// How deep the lists are of which an item was left out because nothing usable was in it.
    cut_lists: Vec<usize>,
}

impl Violations {
    /// Looks at a part.
    pub fn inside<T>(&mut self, step: Step, look: impl FnOnce(&mut Self) -> T) -> T {
        self.path.0.push(step);
        let answer = look(self);
        self.path.0.pop();
        answer
    }

    /// Notes that the value looked at breaks a rule.
    pub fn note(&mut self, expected: impl Into<String>, found: impl Into<String>, hint: Option<String>) {
        self.note_at(Place::default(), expected, found, hint);
    }

    /// The same, at a place in a text.
    pub fn note_at(
        &mut self,
        place: Place,
        expected: impl Into<String>,
        found: impl Into<String>,
        hint: Option<String>,
    ) {
        if self.list.len() >= PROBLEMS_MAX {
            self.too_many = true;
            return;
        }
        let violation =
            Violation { field: self.path.clone(), expected: expected.into(), found: found.into(), hint };
        self.list.push((place, violation));
    }

    /// Notes that a value in a tree is not of the kind that was expected.
    pub fn refuse(&mut self, node: &Node, expected: impl Into<String>) {
        self.note_at(node.place, expected, node.describe(), None);
    }

    /// How many lists were cut short so far.
    pub fn cut_count(&self) -> usize {
        self.cut_lists.len()
    }

    /// Whether, since the count was `since`, a list that is a field of the value looked at was cut short: its
    /// indices no longer are those of the text, and what is missing in it may not be missing in the text.
    pub fn cut_since(&self, since: usize) -> bool {
        self.cut_lists.iter().skip(since).any(|depth| *depth == self.path.0.len() + 1)
    }

    /// What was noted, and whether more was left out.
    pub fn into_list(self) -> (Vec<(Place, Violation)>, bool) {
        (self.list, self.too_many)
    }

    /// Runs `rule` and gives what it notes the places that `node` has for them.
    pub fn placed_by(&mut self, node: &Node, rule: impl FnOnce(&mut Violations)) {
        let mut own = Self::default();
        rule(&mut own);
        for (_, mut violation) in own.list {
            let place = node.place_of(&violation.field);
            let mut field = self.path.clone();
            field.0.append(&mut violation.field.0);
            violation.field = field;
            if self.list.len() >= PROBLEMS_MAX {
                self.too_many = true;
                return;
            }
            self.list.push((place, violation));
        }
    }
}

/// A part of a profile.
pub trait Field: Sized {
    /// The value of a field that the document does not state; `None` where it must be stated.
    fn unset() -> Option<Self> {
        None
    }

    /// Whether this says nothing, and so is not written.
    fn is_unset(&self) -> bool {
        false
    }

    /// This, laid over the parent's: what this states wins.
    #[must_use]
    fn over(self, parent: Self) -> Self {
        let _ = parent;
        self
    }

    /// Notes every rule that this or a part of it breaks.
    fn check(&self, violations: &mut Violations) {
        let _ = violations;
    }

    /// As JSON.
    fn to_json(&self) -> Json;

    /// From a tree. `None` after noting why, where nothing usable is left.
    fn decode(node: &Node, violations: &mut Violations) -> Option<Self>;

    /// As JSON Schema.
    fn schema() -> Json;
}

impl<T: Field> Field for Option<T> {
    fn unset() -> Option<Self> {
        Some(None)
    }

    fn is_unset(&self) -> bool {
        self.is_none()
    }

    fn over(self, parent: Self) -> Self {
        match (self, parent) {
            (Some(child), Some(parent)) => Some(child.over(parent)),
            (Some(only), None) | (None, Some(only)) => Some(only),
            (None, None) => None,
        }
    }

    fn check(&self, violations: &mut Violations) {
        if let Some(value) = self {
            value.check(violations);
        }
    }

    fn to_json(&self) -> Json {
        self.as_ref().map_or(Json::Null, T::to_json)
    }

    fn decode(node: &Node, violations: &mut Violations) -> Option<Self> {
        match node.value {
            Value::Null => Some(None),
            Value::Bool(_)
            | Value::Integer(_)
            | Value::Decimal(..)
            | Value::Text(_)
            | Value::List(_)
            | Value::Map(_) => T::decode(node, violations).map(Some),
        }
    }

    fn schema() -> Json {
        T::schema()
    }
}

impl<T: Field> Field for Vec<T> {
    fn unset() -> Option<Self> {
        Some(Self::new())
    }

    fn is_unset(&self) -> bool {
        self.is_empty()
    }

    fn over(self, parent: Self) -> Self {
        if self.is_empty() { parent } else { self }
    }

    fn check(&self, violations: &mut Violations) {
        for (index, item) in self.iter().enumerate() {
            violations.inside(Step::Index(index), |v| item.check(v));
        }
    }

    fn to_json(&self) -> Json {
        Json::Array(self.iter().map(T::to_json).collect())
    }

    fn decode(node: &Node, violations: &mut Violations) -> Option<Self> {
        let Value::List(items) = &node.value else {
            violations.refuse(node, "a list");
            return None;
        };
        if items.len() > ITEMS_MAX {
            violations.refuse(node, format!("at most {ITEMS_MAX} items"));
            return None;
        }
        let one = |(index, item)| violations.inside(Step::Index(index), |v| T::decode(item, v));
        let list: Self = items.iter().enumerate().filter_map(one).collect();
        if list.len() < items.len() {
            violations.cut_lists.push(violations.path.0.len());
        }
        Some(list)
    }

    fn schema() -> Json {
        json!({ "type": "array", "items": T::schema(), "maxItems": ITEMS_MAX })
    }
}

/// Text that can be a key of a map.
pub trait KeyText: Ord + Sized {
    /// What is expected where one is wanted.
    const EXPECTED: &'static str;
    /// Regular expression for the JSON Schema; says at least what the parser says.
    const PATTERN: &'static str;
    /// From text.
    fn from_key(text: &str) -> Option<Self>;
    /// As text.
    fn to_key(&self) -> String;
}

impl<K: KeyText, T: Field> Field for BTreeMap<K, T> {
    fn unset() -> Option<Self> {
        Some(Self::new())
    }

    fn is_unset(&self) -> bool {
        self.is_empty()
    }

    fn over(self, mut parent: Self) -> Self {
        for (key, child) in self {
            let value = match parent.remove(&key) {
                Some(parent) => child.over(parent),
                None => child,
            };
            parent.insert(key, value);
        }
        parent
    }

    fn check(&self, violations: &mut Violations) {
        for (key, item) in self {
            violations.inside(Step::Field(key.to_key()), |v| item.check(v));
        }
    }

    fn to_json(&self) -> Json {
        Json::Object(self.iter().map(|(key, item)| (key.to_key(), item.to_json())).collect())
    }

    fn decode(node: &Node, violations: &mut Violations) -> Option<Self> {
        let Value::Map(fields) = &node.value else {
            violations.refuse(node, "a group of fields");
            return None;
        };
        if fields.len() > ITEMS_MAX {
            violations.note_at(
                node.place,
                format!("at most {ITEMS_MAX} fields"),
                fields.len().to_string(),
                None,
            );
            return None;
        }
        let mut map = Self::new();
        for (key, item) in fields {
            violations.inside(Step::Field(key.text.clone()), |v| decode_entry(key, item, &mut map, v));
        }
        Some(map)
    }

    fn schema() -> Json {
        json!({
            "type": "object",
            "propertyNames": { "pattern": K::PATTERN, "description": K::EXPECTED },
            "additionalProperties": T::schema(),
            "maxProperties": ITEMS_MAX,
        })
    }
}

fn decode_entry<K: KeyText, T: Field>(
    key: &Key,
    item: &Node,
    map: &mut BTreeMap<K, T>,
    violations: &mut Violations,
) {
    let Some(name) = K::from_key(&key.text) else {
        violations.note_at(key.place, K::EXPECTED, format!("\"{}\"", printable(&key.text)), None);
        return;
    };
    // Two texts may stand for one key, as `nginx` and `process:nginx` do.
    if map.contains_key(&name) {
        violations.note_at(key.place, "each key once", format!("\"{}\" again", name.to_key()), None);
        return;
    }
    if let Some(value) = T::decode(item, violations) {
        map.insert(name, value);
    }
}

impl<Q: Quantity> Field for Q {
    fn to_json(&self) -> Json {
        Json::String(self.to_text())
    }

    fn decode(node: &Node, violations: &mut Violations) -> Option<Self> {
        let parsed = match &node.value {
            Value::Text(text) => Q::from_text(text).ok(),
            Value::Integer(number) if Q::BARE_NUMBER => Q::from_text(&number.to_string()).ok(),
            Value::Decimal(_, text) if Q::BARE_NUMBER => Q::from_text(text).ok(),
            Value::Integer(_) | Value::Decimal(..) => {
                let hint = Some("a number alone has no unit".to_owned());
                violations.note_at(node.place, Q::EXPECTED, node.describe(), hint);
                return None;
            }
            Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => None,
        };
        if parsed.is_none() {
            violations.refuse(node, Q::EXPECTED);
        }
        parsed
    }

    fn schema() -> Json {
        let kinds = if Q::BARE_NUMBER { json!(["string", "number"]) } else { json!("string") };
        json!({ "type": kinds, "description": Q::EXPECTED })
    }
}

impl Field for Ratio {
    fn to_json(&self) -> Json {
        json!(self.get())
    }

    fn decode(node: &Node, violations: &mut Violations) -> Option<Self> {
        let number = match &node.value {
            Value::Integer(number) => match number {
                0 => Some(0.0),
                1 => Some(1.0),
                _ => None,
            },
            Value::Decimal(number, _) => Some(*number),
            Value::Null | Value::Bool(_) | Value::Text(_) | Value::List(_) | Value::Map(_) => None,
        };
        let ratio = number.and_then(Self::new);
        if ratio.is_none() {
            violations.refuse(node, "a number from 0.0 to 1.0");
        }
        ratio
    }

    fn schema() -> Json {
        json!({ "type": "number", "minimum": 0.0, "maximum": 1.0 })
    }
}

impl Field for bool {
    fn to_json(&self) -> Json {
        Json::Bool(*self)
    }

    fn decode(node: &Node, violations: &mut Violations) -> Option<Self> {
        if let Value::Bool(value) = node.value {
            return Some(value);
        }
        violations.refuse(node, "true or false");
        None
    }

    fn schema() -> Json {
        json!({ "type": "boolean" })
    }
}

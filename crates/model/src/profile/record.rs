//! Macros that define the types of a profile. A type is written once, with its documentation; the macro derives
//! from that how it is read, written, checked, inherited and described. Must never let a field have two names.

/// A group of fields: `record! { /// What it is. pub struct Name { /// What it is. pub field: Type, } }`.
/// A field whose type has no unset value must be stated, unless `= default` follows it. `checked by Type::f`
/// after the fields names a function that notes what is wrong between them.
macro_rules! record {
    (
        $(#[doc = $doc:literal])+
        pub struct $name:ident $(<$generic:ident: $bound:ident>)? {
            $( $(#[doc = $field_doc:literal])+ pub $field:ident : $type:ty $(= $default:expr)? , )+
        }
        $(checked by $rule:expr)?
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name $(<$generic: $bound>)? {
            $( $(#[doc = $field_doc])+ pub $field: $type, )+
        }

        impl $(<$generic: $bound>)? $name $(<$generic>)? {
            /// The names of the fields, in the order of the documentation.
            pub const FIELDS: &'static [&'static str] = &[$(stringify!($field)),+];

            fn check_own(&self, violations: &mut $crate::profile::field::Violations) {
                let _ = &violations;
                $( ($rule)(self, violations); )?
            }
        }

        impl $(<$generic: $bound>)? $crate::profile::field::Field for $name $(<$generic>)? {
            fn over(self, parent: Self) -> Self {
                Self { $( $field: self.$field.over(parent.$field), )+ }
            }

            fn check(&self, violations: &mut $crate::profile::field::Violations) {
                self.check_own(violations);
                $(
                    let step = $crate::profile::tree::Step::Field(stringify!($field).to_owned());
                    violations.inside(step, |v| self.$field.check(v));
                )+
            }

            fn to_json(&self) -> serde_json::Value {
                let mut fields = serde_json::Map::new();
                $(
                    if !self.$field.is_unset() {
                        fields.insert(stringify!($field).to_owned(), self.$field.to_json());
                    }
                )+
                serde_json::Value::Object(fields)
            }

            fn decode(
                node: &$crate::profile::tree::Node,
                violations: &mut $crate::profile::field::Violations,
            ) -> Option<Self> {
                let cut_count = violations.cut_count();
                let fields = $crate::profile::record::fields_of(node, Self::FIELDS, violations)?;
                $(
                    let $field = $crate::profile::record::field_of::<$type>(
                        node,
                        fields,
                        stringify!($field),
                        || record!(@unset $type $(, $default)?),
                        violations,
                    );
                )+
                let record = Self { $( $field: $field?, )+ };
                if !violations.cut_since(cut_count) {
                    violations.placed_by(node, |v| record.check_own(v));
                }
                Some(record)
            }

            fn schema() -> serde_json::Value {
                let mut required: Vec<&str> = Vec::new();
                let mut properties = serde_json::Map::new();
                $(
                    let unset: Option<$type> = record!(@unset $type $(, $default)?);
                    if unset.is_none() {
                        required.push(stringify!($field));
                    }
                    let default: Option<serde_json::Value> = unset.filter(|u| !u.is_unset()).map(|u| u.to_json());
                    properties.insert(
                        stringify!($field).to_owned(),
                        $crate::profile::record::described(
                            <$type>::schema(), concat!($($field_doc),+), default),
                    );
                )+
                $crate::profile::record::described(
                    serde_json::json!({
                        "type": "object",
                        "properties": properties,
                        "required": required,
                        "additionalProperties": false,
                    }),
                    concat!($($doc),+),
                    None,
                )
            }
        }

        $crate::profile::record::serde_by_field!($name $(<$generic: $bound>)?);
    };
    (@unset $type:ty) => { <$type as $crate::profile::field::Field>::unset() };
    (@unset $type:ty, $default:expr) => { Some($default) };
}
pub(crate) use record;

/// One of several groups of fields, told apart by the key that it stands under: `tcp: { port: 80 }`.
macro_rules! union {
    (
        $(#[doc = $doc:literal])+
        pub enum $name:ident {
            $( $(#[doc = $variant_doc:literal])+ $key:literal => $variant:ident($type:ty), )+
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $name {
            $( $(#[doc = $variant_doc])+ $variant($type), )+
        }

        impl $crate::profile::field::Field for $name {
            fn check(&self, violations: &mut $crate::profile::field::Violations) {
                match self {
                    $( Self::$variant(part) => violations.inside(
                        $crate::profile::tree::Step::Field($key.to_owned()), |v| part.check(v)), )+
                }
            }

            fn to_json(&self) -> serde_json::Value {
                match self {
                    $( Self::$variant(part) => serde_json::json!({ $key: part.to_json() }), )+
                }
            }

            fn decode(
                node: &$crate::profile::tree::Node,
                violations: &mut $crate::profile::field::Violations,
            ) -> Option<Self> {
                const KEYS: &[&str] = &[$($key),+];
                let (key, part) = $crate::profile::record::only_entry(node, KEYS, violations)?;
                violations.inside($crate::profile::tree::Step::Field(key.to_owned()), |v| match key {
                    $( $key => <$type>::decode(part, v).map(Self::$variant), )+
                    _ => None,
                })
            }

            fn schema() -> serde_json::Value {
                let kinds: Vec<serde_json::Value> = vec![$(
                    serde_json::json!({
                        "type": "object",
                        "properties": { $key: <$type>::schema() },
                        "required": [$key],
                        "additionalProperties": false,
                        "description": concat!($($variant_doc),+).trim(),
                    })
                ),+];
                serde_json::json!({ "oneOf": kinds, "description": concat!($($doc),+).trim() })
            }
        }

        $crate::profile::record::serde_by_field!($name);
    };
}
pub(crate) use union;

/// One word of several. For a type that is defined elsewhere: `choice! { for Type { "word" => Variant, } }`.
macro_rules! choice {
    (for $name:ty { $( $word:literal => $variant:ident, )+ }) => {
        impl $crate::profile::field::Field for $name {
            fn to_json(&self) -> serde_json::Value {
                serde_json::Value::String(match self { $( Self::$variant => $word, )+ }.to_owned())
            }

            fn decode(
                node: &$crate::profile::tree::Node,
                violations: &mut $crate::profile::field::Violations,
            ) -> Option<Self> {
                const WORDS: &[&str] = &[$($word),+];
                match $crate::profile::record::word_of(node, WORDS, violations)? {
                    $( $word => Some(Self::$variant), )+
                    _ => None,
                }
            }

            fn schema() -> serde_json::Value {
                serde_json::json!({ "enum": [$($word),+] })
            }
        }
    };
    (
        $(#[doc = $doc:literal])+
        pub enum $name:ident { $( $(#[doc = $variant_doc:literal])+ $word:literal => $variant:ident, )+ }
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $( $(#[doc = $variant_doc])+ $variant, )+ }

        impl $name {
            /// The word that a profile uses.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word, )+ }
            }
        }

        $crate::profile::record::choice! { for $name { $( $word => $variant, )+ } }
        $crate::profile::record::serde_by_field!($name);
    };
}
pub(crate) use choice;

/// Text with a form of its own, as a field: from `FromStr` and `Display`.
macro_rules! text_field {
    ($name:ty, $expected:expr, $pattern:expr) => {
        $crate::profile::record::text_field!($name, $expected, $pattern, ToString::to_string);
    };
    ($name:ty, $expected:expr, $pattern:expr, $to_text:expr) => {
        impl $crate::profile::field::Field for $name {
            fn to_json(&self) -> serde_json::Value {
                let to_text: fn(&$name) -> String = $to_text;
                serde_json::Value::String(to_text(self))
            }

            fn decode(
                node: &$crate::profile::tree::Node,
                violations: &mut $crate::profile::field::Violations,
            ) -> Option<Self> {
                let text = $crate::profile::record::text_of(node, $expected, violations)?;
                match text.parse::<$name>() {
                    Ok(value) => Some(value),
                    Err(_) => {
                        violations.refuse(node, $expected);
                        None
                    }
                }
            }

            fn schema() -> serde_json::Value {
                serde_json::json!({ "type": "string", "pattern": $pattern, "description": $expected })
            }
        }
    };
}
pub(crate) use text_field;

/// The same, for a type that is a key of maps too.
macro_rules! key_field {
    ($name:ty, $expected:expr, $pattern:expr) => {
        $crate::profile::record::key_field!($name, $expected, $pattern, ToString::to_string);
    };
    ($name:ty, $expected:expr, $pattern:expr, $to_text:expr) => {
        $crate::profile::record::text_field!($name, $expected, $pattern, $to_text);

        impl $crate::profile::field::KeyText for $name {
            const EXPECTED: &'static str = $expected;
            const PATTERN: &'static str = $pattern;

            fn from_key(text: &str) -> Option<Self> {
                text.parse().ok()
            }

            fn to_key(&self) -> String {
                let to_text: fn(&$name) -> String = $to_text;
                to_text(self)
            }
        }
    };
}
pub(crate) use key_field;

/// A whole number in a range: `whole! { /// What it is. pub struct Port(u16) in 1..=65535; }`.
macro_rules! whole {
    ($(#[doc = $doc:literal])+ pub struct $name:ident($type:ty) in $min:literal..=$max:literal;) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($type);

        impl $name {
            /// `None` outside the range.
            pub fn new(number: $type) -> Option<Self> {
                ($min..=$max).contains(&number).then_some(Self(number))
            }

            /// As a number.
            pub fn get(self) -> $type {
                self.0
            }
        }

        impl $crate::profile::field::Field for $name {
            fn to_json(&self) -> serde_json::Value {
                serde_json::json!(self.0)
            }

            fn decode(
                node: &$crate::profile::tree::Node,
                violations: &mut $crate::profile::field::Violations,
            ) -> Option<Self> {
                if let $crate::profile::tree::Value::Integer(number) = node.value
                    && let Some(value) = <$type>::try_from(number).ok().and_then(Self::new)
                {
                    return Some(value);
                }
                violations.refuse(node, concat!("a whole number from ", $min, " to ", $max));
                None
            }

            fn schema() -> serde_json::Value {
                serde_json::json!({ "type": "integer", "minimum": $min, "maximum": $max })
            }
        }
    };
}
pub(crate) use whole;

/// `Serialize` and `Deserialize` by way of [`Field`], so that a profile in a message, in the store and in a
/// file is read by the same code.
macro_rules! serde_by_field {
    ($name:ident $(<$generic:ident: $bound:ident>)?) => {
        impl $(<$generic: $bound>)? serde::Serialize for $name $(<$generic>)? {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serde::Serialize::serialize(&$crate::profile::field::Field::to_json(self), serializer)
            }
        }

        impl<'de $(, $generic: $bound)?> serde::Deserialize<'de> for $name $(<$generic>)? {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let json = <serde_json::Value as serde::Deserialize>::deserialize(deserializer)?;
                $crate::profile::record::from_json(&json).map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_by_field;

use super::field::{Field, Violation, Violations};
use super::tree::{Key, Node, Step, Value, printable};
use serde_json::{Value as Json, json};

/// Reads one part of a profile from JSON in memory; the first violation is the error.
pub(crate) fn from_json<T: Field>(json: &Json) -> Result<T, Violation> {
    let mut violations = Violations::default();
    let value = match Node::from_json(json) {
        Some(node) => T::decode(&node, &mut violations),
        None => {
            violations.note("less nesting", "more than 32 levels", None);
            None
        }
    };
    let (list, _) = violations.into_list();
    match (list.into_iter().next(), value) {
        (None, Some(value)) => Ok(value),
        (Some((_, violation)), _) => Err(violation),
        // Every `decode` that gives nothing notes why.
        (None, None) => Err(Violation {
            field: super::tree::Path::default(),
            expected: "a profile".to_owned(),
            found: "something else".to_owned(),
            hint: None,
        }),
    }
}

/// The fields of `node`, which must be a map; notes those that are not in `known`.
pub(crate) fn fields_of<'n>(
    node: &'n Node,
    known: &[&str],
    violations: &mut Violations,
) -> Option<&'n [(Key, Node)]> {
    let Value::Map(fields) = &node.value else {
        violations.refuse(node, format!("a group of fields: {}", known.join(", ")));
        return None;
    };
    for (key, _) in fields {
        if !known.contains(&key.text.as_str()) {
            violations.inside(Step::Field(key.text.clone()), |v| {
                v.note_at(
                    key.place,
                    format!("one of {}", known.join(", ")),
                    "an unknown field",
                    did_you_mean(&key.text, known),
                );
            });
        }
    }
    Some(fields)
}

/// The field `name` among `fields`. Where it is stated but wrong, the unset value stands in, so that the rest
/// is read too; the problem has been noted.
pub(crate) fn field_of<T: Field>(
    node: &Node,
    fields: &[(Key, Node)],
    name: &str,
    unset: impl FnOnce() -> Option<T>,
    violations: &mut Violations,
) -> Option<T> {
    let stated = fields.iter().find(|(key, _)| key.text == name);
    violations.inside(Step::Field(name.to_owned()), |v| match stated {
        // An empty value, as YAML has after a key with nothing, is the same as no field.
        Some((_, Node { value: Value::Null, .. })) | None => {
            let value = unset();
            if value.is_none() {
                v.note_at(node.place, "this field", "nothing", None);
            }
            value
        }
        Some((_, part)) => T::decode(part, v).or_else(unset),
    })
}

/// The one entry of a map that must have exactly one, with a key of `keys`.
pub(crate) fn only_entry<'n>(
    node: &'n Node,
    keys: &[&'static str],
    violations: &mut Violations,
) -> Option<(&'static str, &'n Node)> {
    let expected = || format!("one of {}, with its fields below it", keys.join(", "));
    let Value::Map(fields) = &node.value else {
        violations.refuse(node, expected());
        return None;
    };
    let [(key, part)] = fields.as_slice() else {
        violations.note_at(node.place, expected(), format!("{} fields", fields.len()), None);
        return None;
    };
    let known = keys.iter().find(|known| **known == key.text);
    if known.is_none() {
        let found = format!("\"{}\"", printable(&key.text));
        violations.note_at(key.place, expected(), found, did_you_mean(&key.text, keys));
    }
    known.map(|known| (*known, part))
}

/// The word of `words` that `node` is.
pub(crate) fn word_of(
    node: &Node,
    words: &[&'static str],
    violations: &mut Violations,
) -> Option<&'static str> {
    let hint = match &node.value {
        Value::Text(text) => match words.iter().find(|word| **word == text.as_str()) {
            Some(word) => return Some(word),
            None => did_you_mean(text, words),
        },
        Value::Null
        | Value::Bool(_)
        | Value::Integer(_)
        | Value::Decimal(..)
        | Value::List(_)
        | Value::Map(_) => None,
    };
    violations.note_at(node.place, format!("one of {}", words.join(", ")), node.describe(), hint);
    None
}

/// The text that `node` is.
pub(crate) fn text_of<'n>(node: &'n Node, expected: &str, violations: &mut Violations) -> Option<&'n str> {
    let hint = match &node.value {
        Value::Text(text) => return Some(text),
        Value::Integer(_) | Value::Decimal(..) | Value::Bool(_) => Some("text; put it in quotes".to_owned()),
        Value::Null | Value::List(_) | Value::Map(_) => None,
    };
    violations.note_at(node.place, expected, node.describe(), hint);
    None
}

/// A schema with its documentation and default.
pub(crate) fn described(mut schema: Json, doc: &str, default: Option<Json>) -> Json {
    if let Json::Object(fields) = &mut schema {
        // The documentation of a field says more than that of its type, but a form (as of a quantity) stays.
        let form =
            fields.get("description").and_then(Json::as_str).filter(|_| !fields.contains_key("properties"));
        let text = match form {
            Some(form) => format!("{} Form: {form}.", doc.trim()),
            None => doc.trim().to_owned(),
        };
        fields.insert("description".to_owned(), json!(text));
        if let Some(default) = default {
            fields.insert("default".to_owned(), default);
        }
    }
    schema
}

/// The nearest of `known`, if it is near: at most a third of the letters differ.
fn did_you_mean(given: &str, known: &[&str]) -> Option<String> {
    if given.len() > 64 {
        return None;
    }
    let (distance, nearest) = known.iter().map(|word| (edit_distance(given, word), word)).min()?;
    (distance * 3 <= given.len().max(3)).then(|| format!("did you mean {nearest}?"))
}

/// How many letters must be put in, left out, replaced or swapped with their neighbour (optimal string
/// alignment). Bounded by the caller: both texts are short.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

//! Mappings: which fields a collection's documents have, and how each is searched.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use lumen_index::{Analyzer, Field, Kind, Schema};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::Rejection;

/// Fields of a mapping at most.
pub const FIELDS_MAX: usize = 1000;
/// Bytes of a field's name at most.
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldType {
    /// Words, ranked by relevance.
    Text,
    /// One exact string.
    Keyword,
    /// A signed 64-bit integer.
    I64,
    /// A finite 64-bit float.
    F64,
    /// A moment, written as RFC 3339 text.
    Date,
    /// True or false.
    Bool,
}

impl FieldType {
    const ALL: [(FieldType, &'static str); 6] = [
        (FieldType::Text, "text"),
        (FieldType::Keyword, "keyword"),
        (FieldType::I64, "i64"),
        (FieldType::F64, "f64"),
        (FieldType::Date, "date"),
        (FieldType::Bool, "bool"),
    ];

    /// The name in a mapping.
    pub fn name(self) -> &'static str {
        FieldType::ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }
}

/// How one field is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldMapping {
    /// What it holds.
    pub kind: FieldType,
    /// Whether it can be searched. Default: yes.
    pub indexed: bool,
    /// Whether it has a column, for ranges and later sorts. Default: yes, but never for text.
    pub fast: bool,
    /// How text becomes words; meaningless for other types.
    pub analyzer: Analyzer,
}

/// The fields of a collection by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapping {
    fields: BTreeMap<String, FieldMapping>,
}

fn bad(field: Option<&str>, reason: impl Into<String>) -> Rejection {
    Rejection::Mapping { reason: reason.into(), field: field.map(str::to_owned) }
}

fn analyzer_name(analyzer: Analyzer) -> &'static str {
    match analyzer {
        Analyzer::Standard => "standard",
        Analyzer::Simple => "simple",
    }
}

impl Mapping {
    /// A mapping of these fields; the same checks as [`Mapping::from_json`].
    pub fn new(fields: impl IntoIterator<Item = (String, FieldMapping)>) -> Result<Mapping, Rejection> {
        let mapping = Mapping { fields: fields.into_iter().collect() };
        if mapping.fields.len() > FIELDS_MAX {
            return Err(bad(
                None,
                format!("{} fields, over the limit of {FIELDS_MAX}", mapping.fields.len()),
            ));
        }
        for (name, field) in &mapping.fields {
            let refused = if name.is_empty() {
                Some("a field name is empty".to_owned())
            } else if name.starts_with('_') {
                Some(format!("field name {name:?} starts with an underscore, which is reserved"))
            } else if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
                Some("a field name is over 255 bytes or holds control characters".to_owned())
            } else if field.kind == FieldType::Text && field.fast {
                Some(format!("text field {name:?} cannot be fast"))
            } else {
                None
            };
            if let Some(reason) = refused {
                return Err(bad(Some(name), reason));
            }
        }
        Ok(mapping)
    }

    /// Reads `{"fields":{"title":{"type":"text","indexed":true,"fast":false,"analyzer":"standard"}}}`; all but `type` may be
    /// left out. Unknown keys are refused.
    pub fn from_json(text: &[u8]) -> Result<Mapping, Rejection> {
        let value: Value = serde_json::from_slice(text).map_err(|e| bad(None, format!("not JSON: {e}")))?;
        serde_json::from_slice::<Unique>(text).map_err(|e| bad(None, e.to_string()))?;
        let Value::Object(mut top) = value else { return Err(bad(None, "not an object")) };
        let Some(Value::Object(fields)) = top.remove("fields") else {
            return Err(bad(None, "\"fields\" is missing or not an object"));
        };
        if let Some(key) = top.keys().next() {
            return Err(bad(None, format!("unknown key {key:?}; a mapping has only \"fields\"")));
        }
        let fields: Result<Vec<_>, Rejection> = fields
            .into_iter()
            .map(|(name, value)| Ok((name.clone(), field_from_json(&name, value)?)))
            .collect();
        Mapping::new(fields?)
    }

    /// The mapping as JSON, every setting spelled out, fields by name.
    pub fn to_json(&self) -> String {
        let fields = self.fields.iter().map(|(name, field)| {
            let mut object = Map::new();
            object.insert("type".into(), field.kind.name().into());
            object.insert("indexed".into(), field.indexed.into());
            object.insert("fast".into(), field.fast.into());
            if field.kind == FieldType::Text {
                object.insert("analyzer".into(), analyzer_name(field.analyzer).into());
            }
            (name.clone(), Value::Object(object))
        });
        let mut top = Map::new();
        top.insert("fields".into(), Value::Object(fields.collect()));
        Value::Object(top).to_string()
    }

    /// The fields by name.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &FieldMapping)> {
        self.fields.iter().map(|(name, field)| (name.as_str(), field))
    }

    /// The first difference to another mapping, in words.
    pub(crate) fn difference(&self, other: &Mapping) -> String {
        for (name, field) in &self.fields {
            match other.fields.get(name) {
                None => return format!("field {name:?} is not in the new mapping"),
                Some(new) if new != field => return format!("field {name:?} differs"),
                Some(_) => {}
            }
        }
        let new = other.fields.keys().find(|name| !self.fields.contains_key(*name));
        new.map_or("none".into(), |name| format!("field {name:?} is new"))
    }

    /// The index's view of it: field ids follow the order of names.
    pub(crate) fn schema(&self) -> Arc<Schema> {
        let fields = self.fields.iter().map(|(name, field)| Field {
            name: name.clone(),
            kind: match field.kind {
                FieldType::Text => Kind::Text(field.analyzer),
                FieldType::Keyword => Kind::Keyword,
                FieldType::I64 => Kind::I64,
                FieldType::F64 => Kind::F64,
                FieldType::Date => Kind::Date,
                FieldType::Bool => Kind::Bool,
            },
            indexed: field.indexed,
            fast: field.fast,
        });
        Arc::new(
            Schema::new(fields.collect()).expect("names are unique, text is not fast, at most 1000 fields"),
        )
    }
}

/// JSON in which no object has a name twice: of two definitions of a field, one would be dropped without a word.
struct Unique;

impl<'t> Deserialize<'t> for Unique {
    fn deserialize<D: Deserializer<'t>>(deserializer: D) -> Result<Unique, D::Error> {
        deserializer.deserialize_any(Unique)
    }
}

impl<'t> Visitor<'t> for Unique {
    type Value = Unique;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Unique, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'t>>(self, mut values: A) -> Result<Unique, A::Error> {
        while values.next_element::<Unique>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'t>>(self, mut members: A) -> Result<Unique, A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            if names.contains(&name) {
                return Err(A::Error::custom(format!("{name:?} is there twice")));
            }
            names.insert(name);
            members.next_value::<Unique>()?;
        }
        Ok(self)
    }
}

fn field_from_json(name: &str, value: Value) -> Result<FieldMapping, Rejection> {
    let field = Some(name);
    let Value::Object(mut object) = value else {
        return Err(bad(field, format!("field {name:?} is not an object")));
    };
    let kind = match object.remove("type") {
        Some(Value::String(text)) => FieldType::ALL
            .iter()
            .find(|(_, known)| *known == text)
            .map(|(kind, _)| *kind)
            .ok_or_else(|| bad(field, format!("field {name:?} has unknown type {text:?}")))?,
        Some(_) => return Err(bad(field, format!("the type of field {name:?} is not a string"))),
        None => return Err(bad(field, format!("field {name:?} has no type"))),
    };
    let mut flag = |key: &str, default: bool| match object.remove(key) {
        None => Ok(default),
        Some(Value::Bool(value)) => Ok(value),
        Some(_) => Err(bad(field, format!("{key:?} of field {name:?} is neither true nor false"))),
    };
    let indexed = flag("indexed", true)?;
    let fast = flag("fast", kind != FieldType::Text)?;
    let analyzer = match object.remove("analyzer") {
        None => Analyzer::Standard,
        Some(_) if kind != FieldType::Text => {
            return Err(bad(field, format!("field {name:?} is not text, so it has no analyzer")));
        }
        Some(Value::String(text)) if text == "standard" => Analyzer::Standard,
        Some(Value::String(text)) if text == "simple" => Analyzer::Simple,
        Some(other) => return Err(bad(field, format!("field {name:?} has unknown analyzer {other}"))),
    };
    match object.keys().next() {
        Some(key) => Err(bad(field, format!("field {name:?} has unknown setting {key:?}"))),
        None => Ok(FieldMapping { kind, indexed, fast, analyzer }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_spells_out_its_defaults_and_comes_back() {
        let mapping = Mapping::from_json(br#"{"fields":{"title":{"type":"text"},"year":{"type":"i64"}}}"#)
            .expect("good");
        let text = mapping.to_json();
        assert!(text.contains(r#""title":{"#) && text.contains(r#""analyzer":"standard""#), "{text}");
        assert!(text.contains(r#""fast":true"#) && text.contains(r#""fast":false"#), "{text}");
        assert_eq!(Mapping::from_json(text.as_bytes()), Ok(mapping));
    }

    #[test]
    fn bad_mappings_name_the_field() {
        for (text, field) in [
            (r#"{"fields":{"":{"type":"text"}}}"#, Some("")),
            (r#"{"fields":{"_id":{"type":"text"}}}"#, Some("_id")),
            (r#"{"fields":{"t":{"type":"text","fast":true}}}"#, Some("t")),
            (r#"{"fields":{"t":{"type":"blob"}}}"#, Some("t")),
            (r#"{"fields":{"t":{"type":"i64","analyzer":"simple"}}}"#, Some("t")),
            (r#"{"fields":{"t":{"type":"i64","stored":true}}}"#, Some("t")),
            (r#"{"fields":{"t":"text"}}"#, Some("t")),
            (r#"{"fields":{"t":{"type":"text"},"t":{"type":"i64"}}}"#, None),
            (r#"{"fields":{"t":{"type":"text","type":"i64"}}}"#, None),
            (r#"{"field":{}}"#, None),
            ("[]", None),
            ("{", None),
        ] {
            let rejection = Mapping::from_json(text.as_bytes()).expect_err(text);
            assert_eq!((rejection.kind(), rejection.field()), ("mapping", field), "{text}");
        }
    }
}

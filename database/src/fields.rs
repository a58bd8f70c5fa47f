//! JSON text → the values of its fields, checked against the mapping while it is parsed. No tree is built.

use std::borrow::Cow;
use std::fmt;

use lumen_index::{AnalyzeError, Analyzed, FieldId, Kind, Schema, Value, parse_date};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use crate::error::Rejection;
use crate::mapping::NAME_BYTES_MAX;

/// A value as it stands in the text.
enum Scalar<'t> {
    Text(Cow<'t, str>),
    I64(i64),
    F64(f64),
    Date(i64),
    Bool(bool),
}

/// Checks a document and analyses it.
pub(crate) fn analyse(schema: &Schema, source: &[u8]) -> Result<Analyzed, Rejection> {
    let mut problem = None;
    let mut found = Vec::new();
    let mut parser = serde_json::Deserializer::from_slice(source);
    let document = Document { schema, found: &mut found, problem: &mut problem };
    let parsed = document.deserialize(&mut parser).and_then(|()| parser.end());
    if let Err(error) = parsed {
        let what = if error.classify() == Category::Data { "not a JSON object" } else { "not JSON" };
        return Err(problem.unwrap_or_else(|| invalid(None, format!("the document is {what}: {error}"))));
    }
    let values: Vec<(FieldId, Value<'_>)> = found
        .iter()
        .map(|(field, scalar)| {
            let text = matches!(schema.field(*field).map(|f| f.kind), Some(Kind::Text(_)));
            let value = match scalar {
                Scalar::Text(value) if text => Value::Text(value),
                Scalar::Text(value) => Value::Keyword(value),
                Scalar::I64(value) => Value::I64(*value),
                Scalar::F64(value) => Value::F64(*value),
                Scalar::Date(value) => Value::Date(*value),
                Scalar::Bool(value) => Value::Bool(*value),
            };
            (*field, value)
        })
        .collect();
    Analyzed::new(schema, &values).map_err(|error| {
        let field = match &error {
            AnalyzeError::KeywordTooLong { field, .. }
            | AnalyzeError::WrongKind { field }
            | AnalyzeError::NotFinite { field } => Some(field.as_str()),
            AnalyzeError::UnknownField { .. } | AnalyzeError::TooLarge { .. } => None,
        };
        invalid(field, error.to_string())
    })
}

fn invalid(field: Option<&str>, reason: String) -> Rejection {
    Rejection::Validation { reason, field: field.map(str::to_owned) }
}

/// A name or value for a message, cut short.
fn shown(text: &str) -> String {
    let mut end = text.len().min(64);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{:?}{}", &text[..end], if end < text.len() { "…" } else { "" })
}

struct Document<'a, 't> {
    schema: &'a Schema,
    found: &'a mut Vec<(FieldId, Scalar<'t>)>,
    problem: &'a mut Option<Rejection>,
}

impl<'t> DeserializeSeed<'t> for Document<'_, 't> {
    type Value = ();

    fn deserialize<D: Deserializer<'t>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'t> Visitor<'t> for Document<'_, 't> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen: Vec<FieldId> = Vec::new();
        while let Some(name) = map.next_key_seed(Name)? {
            let Some(field) = self.schema.find(&name) else {
                let reason = format!("field {} is not in the mapping", shown(&name));
                // A mapped name is no longer than this; one that is may be most of the document.
                let end = name.floor_char_boundary(NAME_BYTES_MAX);
                *self.problem = Some(invalid(Some(&name[..end]), reason));
                return Err(A::Error::custom("refused"));
            };
            if seen.contains(&field) {
                *self.problem = Some(invalid(Some(&name), format!("field {} is there twice", shown(&name))));
                return Err(A::Error::custom("refused"));
            }
            seen.push(field);
            let kind = self.schema.field(field).expect("just found").kind;
            let value = FieldValue {
                field,
                name: &name,
                kind,
                found: self.found,
                problem: self.problem,
                in_array: false,
            };
            map.next_value_seed(value)?;
        }
        Ok(())
    }
}

/// A key of the document.
struct Name;

impl<'t> DeserializeSeed<'t> for Name {
    type Value = Cow<'t, str>;

    fn deserialize<D: Deserializer<'t>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'t> Visitor<'t> for Name {
    type Value = Cow<'t, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_borrowed_str<E>(self, text: &'t str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// One value, or an array of values, of one field.
struct FieldValue<'a, 't> {
    field: FieldId,
    name: &'a str,
    kind: Kind,
    found: &'a mut Vec<(FieldId, Scalar<'t>)>,
    problem: &'a mut Option<Rejection>,
    in_array: bool,
}

impl<'t> FieldValue<'_, 't> {
    fn wanted(&self) -> &'static str {
        match self.kind {
            Kind::Text(_) | Kind::Keyword => "a string",
            Kind::I64 => "an integer of 64 bits",
            Kind::F64 => "a number",
            Kind::Date => "a date as RFC 3339 text, like \"2026-01-31T12:00:00Z\"",
            Kind::Bool => "true or false",
        }
    }

    fn refuse<E: serde::de::Error>(&mut self, found: &str) -> E {
        let array = if self.in_array { " in its array" } else { "" };
        let reason = format!("field {} wants {}, found {found}{array}", shown(self.name), self.wanted());
        *self.problem = Some(invalid(Some(self.name), reason));
        E::custom("refused")
    }

    fn text<E: serde::de::Error>(mut self, text: Cow<'t, str>) -> Result<(), E> {
        let scalar = match self.kind {
            Kind::Text(_) | Kind::Keyword => Scalar::Text(text),
            Kind::Date => match parse_date(&text) {
                Some(moment) => Scalar::Date(moment),
                None => return Err(self.refuse(&shown(&text))),
            },
            _ => return Err(self.refuse("a string")),
        };
        self.found.push((self.field, scalar));
        Ok(())
    }
}

impl<'t> DeserializeSeed<'t> for FieldValue<'_, 't> {
    type Value = ();

    fn deserialize<D: Deserializer<'t>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'t> Visitor<'t> for FieldValue<'_, 't> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.wanted())
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'t str) -> Result<(), E> {
        self.text(Cow::Borrowed(text))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.text(Cow::Owned(text.to_owned()))
    }

    fn visit_bool<E: serde::de::Error>(mut self, value: bool) -> Result<(), E> {
        if self.kind != Kind::Bool {
            return Err(self.refuse("a boolean"));
        }
        self.found.push((self.field, Scalar::Bool(value)));
        Ok(())
    }

    fn visit_i64<E: serde::de::Error>(mut self, value: i64) -> Result<(), E> {
        let scalar = match self.kind {
            Kind::I64 => Scalar::I64(value),
            Kind::F64 => Scalar::F64(value as f64),
            _ => return Err(self.refuse("a number")),
        };
        self.found.push((self.field, scalar));
        Ok(())
    }

    fn visit_u64<E: serde::de::Error>(mut self, value: u64) -> Result<(), E> {
        match (self.kind, i64::try_from(value)) {
            (Kind::F64, _) => self.visit_f64(value as f64),
            (_, Ok(value)) => self.visit_i64(value),
            (Kind::I64, Err(_)) => Err(self.refuse(&value.to_string())),
            _ => Err(self.refuse("a number")),
        }
    }

    fn visit_f64<E: serde::de::Error>(mut self, value: f64) -> Result<(), E> {
        match self.kind {
            Kind::F64 if value.is_finite() => self.found.push((self.field, Scalar::F64(value))),
            // With its point or exponent: 1.0 is no integer, and "found 1" would not say why.
            Kind::I64 => return Err(self.refuse(&format!("{value:?}"))),
            _ => return Err(self.refuse("a number")),
        }
        Ok(())
    }

    /// `null` is no value, as if the field were not there.
    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'t>>(mut self, mut values: A) -> Result<(), A::Error> {
        if self.in_array {
            return Err(self.refuse("an array"));
        }
        loop {
            let value = FieldValue {
                field: self.field,
                name: self.name,
                kind: self.kind,
                found: &mut *self.found,
                problem: &mut *self.problem,
                in_array: true,
            };
            if values.next_element_seed(value)?.is_none() {
                return Ok(());
            }
        }
    }

    fn visit_map<A: MapAccess<'t>>(mut self, _: A) -> Result<(), A::Error> {
        Err(self.refuse("an object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::Mapping;

    fn check(source: &str) -> Result<(), (Option<String>, String)> {
        let mapping = Mapping::from_json(
            br#"{"fields":{"t":{"type":"text"},"k":{"type":"keyword"},"i":{"type":"i64"},"f":{"type":"f64"},
                "d":{"type":"date"},"b":{"type":"bool"}}}"#,
        );
        let schema = mapping.expect("good").schema();
        let analysed = analyse(&schema, source.as_bytes()).map(drop);
        analysed.map_err(|rejection| (rejection.field().map(str::to_owned), rejection.to_string()))
    }

    #[test]
    fn documents_of_mapped_fields_are_taken() {
        for source in [
            "{}",
            r#" {"t":"a b","k":"x","i":-5,"f":2,"d":"2026-01-31T00:00:00Z","b":true} "#,
            r#"{"t":["one","two"],"i":[1,2,3],"f":[1,2.5],"b":[]}"#,
            r#"{"t":null,"k":[null,"x"]}"#,
            r#"{"t":"escaped \u00e9 \" quote"}"#,
        ] {
            assert_eq!(check(source), Ok(()), "{source}");
        }
    }

    #[test]
    fn others_are_refused_by_field_and_reason() {
        for (source, field, part) in [
            (r#"{"x":1}"#, Some("x"), "not in the mapping"),
            (r#"{"i":"1"}"#, Some("i"), "found a string"),
            (r#"{"i":1.5}"#, Some("i"), "found 1.5"),
            (r#"{"i":9223372036854775808}"#, Some("i"), "found 9223372036854775808"),
            (r#"{"i":1.0}"#, Some("i"), "found 1.0"),
            (r#"{"i":1e300}"#, Some("i"), "found 1e300"),
            (r#"{"i":true}"#, Some("i"), "found a boolean"),
            (r#"{"t":5}"#, Some("t"), "found a number"),
            (r#"{"d":"yesterday"}"#, Some("d"), "found \"yesterday\""),
            (r#"{"d":"2026-02-30T00:00:00Z"}"#, Some("d"), "wants a date"),
            (r#"{"t":{"a":1}}"#, Some("t"), "found an object"),
            (r#"{"i":[1,[2]]}"#, Some("i"), "found an array in its array"),
            (r#"{"i":1,"i":2}"#, Some("i"), "there twice"),
            (r#"{"i":1"#, None, "not JSON"),
            (r#"{"i":1} x"#, None, "not JSON"),
            ("[]", None, "not a JSON object"),
            ("7", None, "not a JSON object"),
            ("\u{feff}{}", None, "not JSON"),
            ("", None, "not JSON"),
        ] {
            let (named, reason) = check(source).expect_err(source);
            assert!(reason.contains(part), "{source}: {reason}");
            assert_eq!(named.as_deref(), field, "{source}");
        }
        let long = format!(r#"{{"{}":1}}"#, "é".repeat(40_000));
        let (named, reason) = check(&long).expect_err("a long name");
        assert!(named.is_some_and(|name| name.len() == 254) && reason.len() < 200, "{reason}");
        let long = format!(r#"{{"k":"{}"}}"#, "x".repeat(40_000));
        let (named, reason) = check(&long).expect_err("a long keyword");
        assert_eq!(named.as_deref(), Some("k"));
        assert!(reason.contains("field \"k\"") && reason.contains("40000 bytes"), "{reason}");
    }
}

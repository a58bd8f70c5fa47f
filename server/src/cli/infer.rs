//! Guesses a mapping from the first documents of a file, and shows what it guessed.

use std::collections::{BTreeMap, HashSet};

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Map, Value, json};

use super::members::Members;
use super::printable;

/// Lines that are looked at.
pub(crate) const SAMPLE_LINES: usize = 1000;

/// Values of a field that are remembered to see whether they repeat.
const DISTINCT_MAX: usize = 1000;

/// What was seen of one field.
#[derive(Default)]
struct Seen {
    /// Documents that have it.
    documents: u64,
    bools: u64,
    integers: u64,
    floats: u64,
    dates: u64,
    strings: u64,
    /// Objects, and arrays within arrays: no field type takes them.
    nested: u64,
    /// Of strings that are no dates.
    words: u64,
    chars: u64,
    distinct: HashSet<String>,
    example: String,
    /// Where it stood in its document when it was first seen.
    order: usize,
}

/// A guess at one field.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Field {
    /// Its name.
    pub(crate) name: String,
    /// Its type as a mapping says it; none if nothing was seen that a type takes.
    pub(crate) kind: Option<&'static str>,
    /// What does not fit, for people.
    pub(crate) note: String,
    documents: u64,
    example: String,
}

/// Guesses from lines of JSON; lines that are no objects are passed over.
pub(crate) fn infer(lines: &[&[u8]], id_field: &str) -> Vec<Field> {
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    for line in lines {
        let line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        let Ok(Members(document)) = serde_json::from_slice(line) else { continue };
        for (order, (name, value)) in document.into_iter().enumerate() {
            if name == id_field {
                continue;
            }
            let field = seen.entry(name.clone()).or_insert_with(|| Seen { order, ..Seen::default() });
            field.documents += u64::from(!value.is_null());
            match &value {
                Value::Array(values) => values.iter().for_each(|value| field.add(value)),
                one => field.add(one),
            }
        }
    }
    let mut fields: Vec<(usize, Field)> =
        seen.into_iter().map(|(name, seen)| (seen.order, seen.guess(name))).collect();
    fields.sort_by_key(|(order, _)| *order);
    fields.into_iter().map(|(_, field)| field).collect()
}

impl Seen {
    fn add(&mut self, value: &Value) {
        match value {
            Value::Null => return,
            Value::Bool(_) => self.bools += 1,
            Value::Number(number) if number.is_i64() => self.integers += 1,
            Value::Number(_) => self.floats += 1,
            Value::String(text) if is_date(text) => self.dates += 1,
            Value::String(text) => {
                self.strings += 1;
                self.words += text.split_whitespace().count() as u64;
                self.chars += text.chars().count() as u64;
                if self.distinct.len() < DISTINCT_MAX {
                    self.distinct.insert(text.clone());
                }
            }
            Value::Array(_) | Value::Object(_) => self.nested += 1,
        }
        if self.example.is_empty() {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
            self.example = text.chars().take(40).collect();
        }
    }

    fn guess(self, name: String) -> Field {
        let numbers = self.integers + self.floats;
        // Strings win over dates as soon as one is no date: a date field would refuse that document.
        let texts = self.strings + if self.strings > 0 { self.dates } else { 0 };
        let dates = self.dates + self.strings - texts.min(self.dates + self.strings);
        let candidates =
            [(texts, self.text_kind()), (dates, "date"), (numbers, self.number_kind()), (self.bools, "bool")];
        let best = candidates.into_iter().max_by_key(|(count, _)| *count).filter(|(count, _)| *count > 0);
        let values = self.bools + numbers + self.dates + self.strings + self.nested;
        let misfits = values - best.map_or(0, |(count, _)| count);
        let mut note = String::new();
        if best.is_none() {
            note = if self.nested > 0 { "nested objects are not taken" } else { "always null" }.to_string();
        } else if misfits > 0 {
            note = format!("{misfits} of {values} values do not fit and will be rejected");
        }
        let kind = best.map(|(_, kind)| kind).filter(|_| !name.is_empty() && !name.starts_with('_'));
        if best.is_some() && kind.is_none() {
            note = "a field's name cannot be empty or begin with _".to_string();
        }
        Field { name, kind, note, documents: self.documents, example: self.example }
    }

    fn number_kind(&self) -> &'static str {
        if self.floats > 0 { "f64" } else { "i64" }
    }

    /// Words to search in, or a value to compare? Prose has several words a value; what repeats, or is one short word
    /// each time, is a name, a category or a code.
    fn text_kind(&self) -> &'static str {
        let count = self.strings.max(1);
        let words_mean = self.words as f64 / count as f64;
        let chars_mean = self.chars as f64 / count as f64;
        let repeats = count >= 10 && self.distinct.len() as u64 * 2 < count.min(DISTINCT_MAX as u64);
        let keyword =
            (words_mean <= 1.2 && chars_mean <= 64.0) || (repeats && words_mean <= 4.0 && chars_mean <= 48.0);
        if keyword { "keyword" } else { "text" }
    }
}

/// Whether text has the form of RFC 3339, as in `2026-11-20T09:30:00Z`.
fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    let shape = b"dddd-dd-ddTdd:dd:dd";
    let fits = |(byte, shape): (&u8, &u8)| match shape {
        b'd' => byte.is_ascii_digit(),
        b'T' => matches!(byte, b'T' | b't' | b' '),
        other => byte == other,
    };
    if bytes.len() <= shape.len() || !bytes.iter().zip(shape).all(fits) {
        return false;
    }
    let rest = &text[shape.len()..];
    let zone = rest.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    matches!(zone, "Z" | "z")
        || (zone.len() == 6 && zone.starts_with(['+', '-']) && zone.as_bytes()[3] == b':')
}

/// The mapping's JSON.
pub(crate) fn mapping(fields: &[Field]) -> Value {
    let mapped: Map<String, Value> = fields
        .iter()
        .filter_map(|field| Some((field.name.clone(), json!({ "type": field.kind? }))))
        .collect();
    json!({ "fields": mapped })
}

/// The guess as a table.
pub(crate) fn table(fields: &[Field], documents: usize) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["field", "type", "in", "for example", ""]);
    for field in fields {
        table.add_row([
            printable(&field.name),
            field.kind.unwrap_or("-").to_string(),
            format!("{} %", field.documents * 100 / (documents as u64).max(1)),
            printable(&field.example),
            field.note.clone(),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(lines: &[&str]) -> Vec<(String, Option<&'static str>)> {
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        infer(&lines, "id").into_iter().map(|field| (field.name, field.kind)).collect()
    }

    #[test]
    fn each_type_is_recognised() {
        let guessed = kinds(&[
            r#"{"id":"1","year":1937,"price":1,"ok":true,"at":"2026-11-20T09:30:00Z","tags":["a","b"],"body":"In a hole in the ground"}"#,
            r#"{"id":"2","year":1954,"price":2.5,"ok":null,"at":"2026-11-20T09:30:00.5+01:00","tags":[],"body":"there lived a hobbit"}"#,
            "not json",
        ]);
        let of = |name: &str| guessed.iter().find(|(other, _)| other == name).map(|(_, kind)| *kind);
        assert_eq!(of("year"), Some(Some("i64")));
        assert_eq!(of("price"), Some(Some("f64")));
        assert_eq!(of("ok"), Some(Some("bool")));
        assert_eq!(of("at"), Some(Some("date")));
        assert_eq!(of("tags"), Some(Some("keyword")));
        assert_eq!(of("body"), Some(Some("text")));
        assert_eq!(of("id"), None);
    }

    #[test]
    fn mixed_values_go_with_the_many_and_are_noted() {
        let lines: [&[u8]; 3] = [br#"{"n":1}"#, br#"{"n":2}"#, br#"{"n":"x"}"#];
        let fields = infer(&lines, "id");
        assert_eq!(fields[0].kind, Some("i64"));
        assert!(fields[0].note.contains("1 of 3"));
        let nested: [&[u8]; 1] = [br#"{"o":{"a":1},"_x":1,"z":null}"#];
        assert!(infer(&nested, "id").iter().all(|field| field.kind.is_none() && !field.note.is_empty()));
    }

    #[test]
    fn one_string_that_is_no_date_makes_text_of_all() {
        assert_eq!(kinds(&[r#"{"a":"2026-11-20T09:30:00Z"}"#, r#"{"a":"soon"}"#])[0].1, Some("keyword"));
        assert!(!is_date("2026-11-20"));
        assert!(!is_date("2026-11-20T09:30:00"));
        assert!(!is_date("2026-11-20T09:30:00é"));
    }

    #[test]
    fn categories_are_keywords_and_prose_is_text() {
        let category = r#"{"c":"New York"}"#;
        assert_eq!(kinds(&[category; 20])[0].1, Some("keyword"));
        assert_eq!(kinds(&[r#"{"c":"one of a kind"}"#, r#"{"c":"another such thing"}"#])[0].1, Some("text"));
    }
}

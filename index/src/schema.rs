//! Which fields documents have, of which kind, and how each is searched.

use std::collections::HashMap;
use thiserror::Error;

/// A field's position in the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldId(pub u16);

/// How text becomes tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Analyzer {
    /// UAX #29 words, lower-cased; words over 255 bytes are dropped, their position kept.
    Standard,
    /// Maximal runs of alphanumerics, lower-cased; tokens of 40 bytes and more are dropped, their position kept.
    /// What tantivy does by default.
    Simple,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Words with positions, ranked by BM25.
    Text(Analyzer),
    /// One exact string.
    Keyword,
    /// A signed integer.
    I64,
    /// A finite float.
    F64,
    /// Microseconds since 1970.
    Date,
    /// True or false.
    Bool,
}

/// One field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The name queries use.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
    /// Has postings: terms are found without looking at every document.
    pub indexed: bool,
    /// Has a column: values are found by document. Never on text.
    pub fast: bool,
}

/// Why fields do not make a schema.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum SchemaError {
    /// Two fields of one name.
    #[error("field {0} is there twice")]
    Duplicate(String),
    /// Text has no columns.
    #[error("text field {0} cannot be fast")]
    FastText(String),
    /// A field id is a u16.
    #[error("more than 65535 fields")]
    TooMany,
}

/// The fields of a collection, in id order.
#[derive(Debug, Clone)]
pub struct Schema {
    fields: Vec<Field>,
    norm_slots: Vec<Option<u16>>,
    norm_count: usize,
    by_name: HashMap<String, u16>,
}

impl PartialEq for Schema {
    fn eq(&self, other: &Schema) -> bool {
        self.fields == other.fields
    }
}

impl Schema {
    /// A schema of these fields; a field's id is its position.
    pub fn new(fields: Vec<Field>) -> Result<Schema, SchemaError> {
        if fields.len() > usize::from(u16::MAX) {
            return Err(SchemaError::TooMany);
        }
        let mut by_name = HashMap::new();
        let mut norm_slots = Vec::with_capacity(fields.len());
        let mut norm_count = 0;
        for (id, field) in fields.iter().enumerate() {
            if by_name.insert(field.name.clone(), id as u16).is_some() {
                return Err(SchemaError::Duplicate(field.name.clone()));
            }
            if field.fast && matches!(field.kind, Kind::Text(_)) {
                return Err(SchemaError::FastText(field.name.clone()));
            }
            let normed = field.indexed && matches!(field.kind, Kind::Text(_) | Kind::Keyword);
            norm_slots.push(normed.then_some(norm_count as u16));
            norm_count += usize::from(normed);
        }
        Ok(Schema { fields, norm_slots, norm_count, by_name })
    }

    /// All fields, in id order.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The field of this id.
    pub fn field(&self, id: FieldId) -> Option<&Field> {
        self.fields.get(usize::from(id.0))
    }

    /// The id of the field of this name.
    pub fn find(&self, name: &str) -> Option<FieldId> {
        self.by_name.get(name).map(|&id| FieldId(id))
    }

    /// Which of the norm arrays is this field's: indexed text and keywords have one.
    pub(crate) fn norm_slot(&self, id: FieldId) -> Option<usize> {
        self.norm_slots.get(usize::from(id.0)).copied().flatten().map(usize::from)
    }

    /// How many norm arrays a part has.
    pub(crate) fn norm_count(&self) -> usize {
        self.norm_count
    }

    /// Does a term of this field (its id as in a term's key) have positions?
    pub(crate) fn has_positions(&self, id: FieldId) -> bool {
        matches!(self.field(id), Some(Field { kind: Kind::Text(_), .. }))
    }

    /// The fields with columns.
    pub(crate) fn fast_fields(&self) -> impl Iterator<Item = FieldId> + '_ {
        let fast = self.fields.iter().enumerate().filter(|(_, field)| field.fast);
        fast.map(|(id, _)| FieldId(id as u16))
    }
}

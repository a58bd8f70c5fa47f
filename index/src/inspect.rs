//! A segment as text, for people and tests.

use crate::document::ColumnValue;
use crate::error::Error;
use crate::memory::has_words;
use crate::part::Part;
use crate::schema::{FieldId, Kind};
use crate::segment::reader::Segment;
use crate::term::{FIELD_BYTES, field_of};
use std::io;
use std::sync::Arc;

/// Writes what a segment holds: documents, terms with their postings, columns.
pub fn inspect(
    name: &str,
    bytes: Arc<dyn AsRef<[u8]> + Send + Sync>,
    out: &mut dyn io::Write,
) -> Result<(), Error> {
    let segment = Arc::new(Segment::open(name.to_owned(), bytes)?);
    let schema = &segment.schema;
    writeln!(out, "segment {} documents, uid {} to {}", segment.docs(), segment.min_uid, segment.max_uid)?;
    for doc in 0..segment.docs() {
        write!(out, "document {doc} uid {} key {}", segment.uid(doc)?, segment.key(doc)?.escape_ascii())?;
        for (at, field) in schema.fields().iter().enumerate() {
            if let Some(slot) = schema.norm_slot(FieldId(at as u16)) {
                write!(out, " {}:{}", field.name, segment.norms(slot, doc, 1)?[0])?;
            }
        }
        writeln!(out)?;
    }
    let part = Part::Segment(segment.clone());
    let mut terms = part.terms(&[])?;
    while terms.next()? {
        let key = terms.key();
        let field = field_of(key).and_then(|field| schema.field(field));
        let (name, kind) = field.map_or(("?", Kind::Keyword), |field| (field.name.as_str(), field.kind));
        let term = &key[FIELD_BYTES..];
        match kind {
            Kind::Text(_) | Kind::Keyword => write!(out, "term {name}:{}", term.escape_ascii())?,
            _ => write!(
                out,
                "term {name}:0x{}",
                term.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
            )?,
        }
        let mut cursor = part.cursor(&terms.term()?)?;
        loop {
            let docs = cursor.docs()?.to_vec();
            let tfs = cursor.both()?.1.to_vec();
            let positional = !cursor.block_positions()?.is_empty();
            for (i, (doc, tf)) in docs.iter().zip(tfs).enumerate() {
                write!(out, " {doc}x{tf}")?;
                if positional {
                    write!(out, "{:?}", cursor.positions(i)?)?;
                }
            }
            if !cursor.next()? {
                break;
            }
        }
        writeln!(out)?;
    }
    for field in schema.fast_fields() {
        let (Some(column), Some(about)) = (part.column(field), schema.field(field)) else { continue };
        let mut values = Vec::new();
        column.for_each(part.docs(), &mut |doc, value| values.push((doc, value)))?;
        write!(out, "column {}", about.name)?;
        for (doc, value) in values {
            let value = match has_words(schema, field) {
                true => ColumnValue::Word(column.word(value.min(u64::from(u32::MAX)) as u32)?),
                false => ColumnValue::Number(value),
            };
            match value {
                ColumnValue::Word(word) => write!(out, " {doc}={}", word.escape_ascii())?,
                ColumnValue::Number(number) => write!(out, " {doc}=0x{number:x}")?,
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

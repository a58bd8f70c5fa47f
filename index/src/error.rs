//! What can go wrong: one enum, a variant where the caller would act differently.

use std::io;
use thiserror::Error;

/// A failure of an index operation. Every variant is local to this machine: a replica that sees one stops.
#[derive(Debug, Error)]
pub enum Error {
    /// Bytes that are not what the builder wrote. Nothing was served from them.
    #[error("corrupt segment {file} at offset {offset}: {reason}")]
    Corrupt {
        /// The name given when the segment was opened.
        file: String,
        /// Where in the file the damage was noticed.
        offset: u64,
        /// What did not fit.
        reason: &'static str,
    },
    /// The file is of a format version this build cannot read.
    #[error("segment {file} has format version {found}, this build reads {expected}")]
    Version {
        /// The name given when the segment was opened.
        file: String,
        /// The version in the file.
        found: u16,
        /// The version this build reads.
        expected: u16,
    },
    /// The segment was written for another schema.
    #[error("segment {file} was written for another schema")]
    Schema {
        /// The name given when the segment was opened.
        file: String,
    },
    /// The output refused bytes.
    #[error("cannot write segment: {0}")]
    Io(#[from] io::Error),
    /// The caller's `cancelled` said so.
    #[error("cancelled")]
    Cancelled,
    /// A segment would need more than the format can address.
    #[error("segment too large: {what}")]
    TooLarge {
        /// What overflowed.
        what: &'static str,
    },
    /// The query tree is deeper than the evaluator follows. The parser never builds one.
    #[error("query is nested more than {max} deep")]
    TooDeep {
        /// The deepest tree followed.
        max: usize,
    },
}

/// Why a document cannot be indexed. Depends on nothing but the document and the schema, so every replica agrees.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum AnalyzeError {
    /// The field is not in the schema.
    #[error("field {field} is not in the schema")]
    UnknownField {
        /// The field's position.
        field: u16,
    },
    /// The value is of another kind than the field.
    #[error("field {field:?} takes another type of value")]
    WrongKind {
        /// The field's name.
        field: String,
    },
    /// A keyword is longer than the dictionary takes.
    #[error("field {field:?}: keyword of {bytes} bytes, at most {max} are allowed")]
    KeywordTooLong {
        /// The field's name.
        field: String,
        /// The keyword's length.
        bytes: usize,
        /// The longest allowed.
        max: usize,
    },
    /// Not a number or infinite.
    #[error("field {field:?}: number is not finite")]
    NotFinite {
        /// The field's name.
        field: String,
    },
    /// More text than one document may have.
    #[error("document has more than {max} bytes of text")]
    TooLarge {
        /// The most allowed.
        max: usize,
    },
}

//! What a word, a quoted text, a range or a list asks of a field: the leaves of a query's tree.

use std::ops::Bound;

use super::{ASKED_MAX, CLAUSES_MAX, Parsed, Parser, Word, problem, shorten};
use crate::analysis::analyze;
use crate::query::Query;
use crate::query::date::parse_query_date;
use crate::schema::{FieldId, Kind};
use crate::term::{sortable_f64, sortable_i64};

impl Parser<'_> {
    /// What follows a field's colon, or a quoted text anywhere.
    pub(super) fn value(&mut self, field: Option<FieldId>, at: usize) -> Parsed<Query> {
        self.count(at)?;
        match self.peek() {
            Some('"') => {
                let text = self.quoted()?;
                let mut slop = 0;
                if self.take('~') {
                    let digits_at = self.at;
                    slop = match self.digits().parse::<u32>() {
                        Ok(slop) if slop <= 1000 => slop,
                        _ => return problem(digits_at, "slop is a whole number up to 1000, like \"a b\"~2"),
                    };
                }
                if self.take('*') {
                    return problem(self.at - 1, "a phrase cannot end in a star");
                }
                self.over_fields(field, at, |parser, field| parser.phrase(field, &text, slop, at))
            }
            Some('[' | '{') => self.range(field.expect("a range has its field"), at),
            Some('>' | '<') => {
                let field = field.expect("a comparison has its field");
                let less = self.peek() == Some('<');
                self.at += 1;
                let equal = self.take('=');
                self.skip_spaces();
                let bound = self.bound(field)?;
                let Some(bound) = bound else { return problem(at, "a comparison needs a value") };
                let bound = if equal { Bound::Included(bound) } else { Bound::Excluded(bound) };
                let (lower, upper) = if less { (Bound::Unbounded, bound) } else { (bound, Bound::Unbounded) };
                self.searchable(field, at)?;
                Ok(Query::Range { field, lower, upper })
            }
            None | Some(')' | '(' | '^' | ']' | '}') => problem(at, "a value is expected after the colon"),
            Some(_) => {
                let word = self.word(true)?;
                if word.text == "IN" && !word.star && !word.escaped {
                    let mark = self.at;
                    self.skip_spaces();
                    if self.peek() == Some('[') {
                        return self.any_of(field.expect("IN has its field"), at);
                    }
                    self.at = mark;
                }
                if word.text.is_empty() && !word.star {
                    return problem(at, "a value is expected after the colon");
                }
                self.word_query(field, &word, at)
            }
        }
    }

    pub(super) fn word_query(&mut self, field: Option<FieldId>, word: &Word, at: usize) -> Parsed<Query> {
        match (field, word.star, word.text.is_empty()) {
            (None, true, true) => Ok(Query::All),
            (Some(field), true, true) => {
                self.searchable(field, at)?;
                Ok(Query::Exists { field })
            }
            (_, true, false) => {
                self.over_fields(field, at, |parser, field| parser.prefix(field, &word.text, at))
            }
            (_, false, _) => self.over_fields(field, at, |parser, field| parser.exact(field, &word.text, at)),
        }
    }

    /// Asks one field, or all indexed text and keyword fields side by side.
    fn over_fields(
        &mut self,
        field: Option<FieldId>,
        at: usize,
        mut ask: impl FnMut(&mut Self, FieldId) -> Parsed<Query>,
    ) -> Parsed<Query> {
        if let Some(field) = field {
            return ask(self, field);
        }
        let mut should = Vec::new();
        for (id, field) in self.schema.fields().iter().enumerate() {
            if field.indexed && matches!(field.kind, Kind::Text(_) | Kind::Keyword) {
                self.asked += 1;
                if self.asked > ASKED_MAX {
                    let reason =
                        format!("more than {ASKED_MAX} fields are asked; name them, like title:word");
                    return problem(at, reason);
                }
                let query = ask(self, FieldId(id as u16))?;
                if query != Query::Nothing {
                    should.push(query);
                }
            }
        }
        Ok(match should.len() {
            0 => Query::Nothing,
            1 => should.remove(0),
            _ => Query::Bool { must: Vec::new(), should, must_not: Vec::new() },
        })
    }

    fn kind(&self, field: FieldId) -> Kind {
        self.schema.field(field).expect("ids come from the schema").kind
    }

    fn name(&self, field: FieldId) -> &str {
        &self.schema.field(field).expect("ids come from the schema").name
    }

    fn searchable(&self, field: FieldId, at: usize) -> Parsed<()> {
        let mapped = self.schema.field(field).expect("ids come from the schema");
        if mapped.indexed || mapped.fast {
            return Ok(());
        }
        problem(at, format!("field {:?} is neither indexed nor fast, so it cannot be searched", mapped.name))
    }

    /// One exact value: a word of text, or the whole of anything else.
    fn exact(&mut self, field: FieldId, text: &str, at: usize) -> Parsed<Query> {
        if let Kind::Text(_) = self.kind(field) {
            return self.phrase(field, text, 0, at);
        }
        let term = self.term(field, text, at)?;
        self.equal(field, term, at)
    }

    fn equal(&self, field: FieldId, term: Vec<u8>, at: usize) -> Parsed<Query> {
        self.searchable(field, at)?;
        if self.schema.field(field).is_some_and(|mapped| mapped.indexed) {
            return Ok(Query::Term { field, term });
        }
        Ok(Query::Range { field, lower: Bound::Included(term.clone()), upper: Bound::Included(term) })
    }

    fn phrase(&mut self, field: FieldId, text: &str, slop: u32, at: usize) -> Parsed<Query> {
        let Kind::Text(analyzer) = self.kind(field) else {
            let term = self.term(field, text, at)?;
            return self.equal(field, term, at);
        };
        self.searchable(field, at)?;
        let tokens = analyze(analyzer, text);
        self.clauses += tokens.len().saturating_sub(1);
        if self.clauses > CLAUSES_MAX {
            return problem(at, format!("more than {CLAUSES_MAX} clauses"));
        }
        Ok(match tokens.len() {
            0 => Query::Nothing,
            1 => Query::Term { field, term: tokens.into_iter().next().expect("one").1 },
            _ => {
                let first = tokens[0].0;
                let terms = tokens.into_iter().map(|(position, term)| (position - first, term)).collect();
                Query::Phrase { field, terms, slop }
            }
        })
    }

    fn prefix(&mut self, field: FieldId, text: &str, at: usize) -> Parsed<Query> {
        self.searchable(field, at)?;
        let prefix = match self.kind(field) {
            Kind::Text(_) => text.to_lowercase().into_bytes(),
            Kind::Keyword => text.as_bytes().to_vec(),
            _ => {
                return problem(
                    at,
                    format!("field {:?} is not text, so it has no prefixes", self.name(field)),
                );
            }
        };
        Ok(Query::Prefix { field, prefix })
    }

    /// The sortable bytes of a value.
    fn term(&self, field: FieldId, text: &str, at: usize) -> Parsed<Vec<u8>> {
        let wants = |what: &str| {
            problem(at, format!("field {:?} wants {what}, found {:?}", self.name(field), shorten(text)))
        };
        let number = match self.kind(field) {
            Kind::Text(analyzer) => {
                let mut tokens = analyze(analyzer, text);
                return match tokens.len() {
                    1 => Ok(tokens.remove(0).1),
                    _ => wants("a single word"),
                };
            }
            Kind::Keyword => return Ok(text.as_bytes().to_vec()),
            Kind::I64 => match text.parse::<i64>() {
                Ok(value) => sortable_i64(value),
                Err(_) => return wants("an integer"),
            },
            Kind::F64 => match text.parse::<f64>() {
                Ok(value) if value.is_finite() => sortable_f64(value),
                _ => return wants("a number"),
            },
            Kind::Date => match parse_query_date(text) {
                Some(moment) => sortable_i64(moment),
                None => return wants("a date like 2026-01-31 or 2026-01-31T12:00:00Z"),
            },
            Kind::Bool => match text {
                "true" => 1,
                "false" => 0,
                _ => return wants("true or false"),
            },
        };
        Ok(number.to_be_bytes().to_vec())
    }

    /// An end of a range; `None` for an open one.
    fn bound(&mut self, field: FieldId) -> Parsed<Option<Vec<u8>>> {
        let at = self.at;
        if self.peek() == Some('"') {
            let text = self.quoted()?;
            return self.term(field, &text, at).map(Some);
        }
        let word = self.word(true)?;
        match (word.star, word.text.is_empty()) {
            (true, true) => Ok(None),
            (false, false) => self.term(field, &word.text, at).map(Some),
            _ => problem(at, "a value or * is expected"),
        }
    }

    fn range(&mut self, field: FieldId, at: usize) -> Parsed<Query> {
        self.searchable(field, at)?;
        let with_lower = self.take('[');
        if !with_lower {
            self.at += 1;
        }
        self.skip_spaces();
        let lower = self.bound(field)?;
        self.skip_spaces();
        let to_at = self.at;
        if self.word(true)?.text != "TO" {
            return problem(to_at, "TO is expected between the ends of a range");
        }
        self.skip_spaces();
        let upper = self.bound(field)?;
        self.skip_spaces();
        let with_upper = match self.peek() {
            Some(']') => true,
            Some('}') => false,
            _ => return problem(at, "this range is never closed"),
        };
        self.at += 1;
        let bound = |value: Option<Vec<u8>>, with: bool| match value {
            None => Bound::Unbounded,
            Some(value) if with => Bound::Included(value),
            Some(value) => Bound::Excluded(value),
        };
        Ok(Query::Range { field, lower: bound(lower, with_lower), upper: bound(upper, with_upper) })
    }

    fn any_of(&mut self, field: FieldId, at: usize) -> Parsed<Query> {
        self.searchable(field, at)?;
        self.at += 1;
        let mut terms = Vec::new();
        loop {
            self.skip_spaces();
            let value_at = self.at;
            match self.peek() {
                None => return problem(at, "this list is never closed"),
                Some(']') => {
                    self.at += 1;
                    terms.sort();
                    terms.dedup();
                    return Ok(Query::AnyOf { field, terms });
                }
                Some(_) => {
                    self.count(value_at)?;
                    match self.bound(field)? {
                        Some(term) => terms.push(term),
                        None => return problem(value_at, "* is no value of a list"),
                    }
                }
            }
            if self.at == value_at {
                return problem(value_at, "a value or ] is expected");
            }
        }
    }
}

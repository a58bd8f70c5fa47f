//! What a query's terms weigh: looked up once, in all parts, before any part is searched.

use crate::coding::BLOCK;
use crate::deletes::Deletes;
use crate::error::Error;
use crate::part::{Part, Term};
use crate::query::Query;
use crate::schema::FieldId;
use crate::search::bm25::{Bm25, Table, idf};
use crate::term;
use crate::view::{Slice, View};
use std::collections::HashMap;
use std::rc::Rc;

/// The deepest query that is followed.
pub(crate) const DEPTH_MAX: usize = 128;

/// A term in all parts.
pub(crate) struct Known {
    /// Live documents with the term, in all parts, when its field is scored by length; otherwise unknown and 0.
    pub(crate) df: u64,
    /// Rarity over the live documents of all parts.
    pub(crate) idf: f64,
    /// By part.
    pub(crate) terms: Vec<Option<Term>>,
}

/// All that scores need to know beyond a part.
pub(crate) struct Weights {
    known: HashMap<Vec<u8>, Known>,
    tables: HashMap<FieldId, Rc<Table>>,
}

impl Weights {
    /// Looks the query's terms up. Refuses queries that are nested too deep.
    pub(crate) fn of(view: &View, query: &Query, bm25: Bm25) -> Result<Weights, Error> {
        let mut weights = Weights { known: HashMap::new(), tables: HashMap::new() };
        let mut stack = vec![(query, 0)];
        while let Some((query, depth)) = stack.pop() {
            if depth > DEPTH_MAX {
                return Err(Error::TooDeep { max: DEPTH_MAX });
            }
            match query {
                Query::Term { field, term } => weights.term(view, *field, term, bm25)?,
                Query::Phrase { field, terms, .. } => {
                    for (_, term) in terms {
                        weights.term(view, *field, term, bm25)?;
                    }
                }
                Query::Boost(query, _) => stack.push((query, depth + 1)),
                Query::Bool { must, should, must_not } => {
                    stack.extend(must.iter().chain(should).chain(must_not).map(|query| (query, depth + 1)));
                }
                _ => {}
            }
        }
        Ok(weights)
    }

    fn term(&mut self, view: &View, field: FieldId, term: &[u8], bm25: Bm25) -> Result<(), Error> {
        let Some(about) = view.schema.field(field).filter(|about| about.indexed) else { return Ok(()) };
        let key = term::key(field, term);
        if self.known.contains_key(&key) {
            return Ok(());
        }
        let scored = view.schema.norm_slot(field).is_some() && about.indexed;
        let mut df = 0;
        let mut terms = Vec::with_capacity(view.slices.len());
        for Slice { part, deletes } in &view.slices {
            let term = part.term(&key)?;
            if let Some(term) = term.as_ref().filter(|_| scored) {
                df += u64::from(term.df());
                if !deletes.is_empty() {
                    df -= deleted(part, term, deletes)?;
                }
            }
            terms.push(term);
        }
        let stats = view.stats.fields.get(usize::from(field.0)).copied().unwrap_or_default();
        self.known.insert(key, Known { df, idf: idf(stats.docs, df), terms });
        self.tables.entry(field).or_insert_with(|| Rc::new(bm25.table(stats)));
        Ok(())
    }

    pub(crate) fn known(&self, field: FieldId, term: &[u8]) -> Option<&Known> {
        self.known.get(&term::key(field, term))
    }

    pub(crate) fn table(&self, field: FieldId) -> Option<Rc<Table>> {
        self.tables.get(&field).cloned()
    }
}

/// How many of a term's documents are deleted.
fn deleted(part: &Part, term: &Term, deletes: &Deletes) -> Result<u64, Error> {
    let mut cursor = part.cursor(term)?;
    let mut count = 0;
    if deletes.count() * (BLOCK as u64) < u64::from(term.df()) {
        for doc in deletes.iter() {
            if !cursor.seek(doc)? {
                break;
            }
            count += u64::from(cursor.docs()?.binary_search(&doc).is_ok());
        }
        return Ok(count);
    }
    loop {
        count += cursor.docs()?.iter().filter(|&&doc| deletes.contains(doc)).count() as u64;
        if !cursor.next()? {
            return Ok(count);
        }
    }
}

//! Applying transactions: what is compared, what could be refused, and only then what is changed.

use super::{Change, Effect};
use crate::error::{Error, Rejection, Result};
use crate::keys::{KeyWrite, Until};
use crate::layout::{self, Kept};
use crate::transaction::{Compare, Found, Target, Test};
use crate::write::{Outcome, Part, Write};

/// Whether what was compared was so, and what the chosen operations did.
type Done = (bool, (Vec<Outcome>, Vec<Effect>));

impl Change<'_> {
    /// The outer result is an error of this machine, the inner one the refusal that every replica repeats.
    pub(super) fn transaction(
        &mut self,
        when: &[Compare],
        mut parts: Vec<Part>,
        then: usize,
    ) -> Result<std::result::Result<Done, Rejection>> {
        let mut succeeded = true;
        for compare in when {
            if let Target::Document { collection, .. } = &compare.target {
                if let Err(rejection) = self.live.catalog.get(collection) {
                    return Ok(Err(rejection));
                }
            }
            succeeded &= self.holds(compare)?;
        }
        let otherwise = parts.split_off(then);
        let chosen = if succeeded { parts } else { otherwise };
        // Of what a transaction may hold, nothing that comes before an operation changes whether that one is refused.
        for (place, part) in chosen.iter().enumerate() {
            if let Err(rejection) = self.takes(part)? {
                return Ok(Err(Rejection::in_transaction(place, rejection)));
            }
        }
        if chosen.iter().any(|part| matches!(part.write, Write::Read(_))) {
            self.written_sources = Some(Default::default());
        }
        Ok(Ok((succeeded, self.parts(chosen)?)))
    }

    fn takes(&self, part: &Part) -> Result<std::result::Result<(), Rejection>> {
        match (&part.write, &part.analysed) {
            (Write::Put { collection, .. }, Some((id, _)))
                if self.live.catalog.get(collection).is_ok_and(|collection| collection.id == *id) => {}
            (write, _) => {
                if let Err(rejection) = Part::analyse(&self.live.catalog, write) {
                    return Ok(Err(rejection));
                }
            }
        }
        if let Write::Keys(KeyWrite::Put { until: Until::Lease(lease), .. }) = part.write {
            if self.lease(lease)?.is_none() {
                return Ok(Err(Rejection::LeaseNotFound { lease }));
            }
        }
        Ok(Ok(()))
    }

    fn holds(&self, compare: &Compare) -> Result<bool> {
        let found = self.read(&compare.target)?;
        Ok(match &compare.test {
            Test::Absent => found.is_none(),
            Test::Present => found.is_some(),
            Test::Version(version) => found.is_some_and(|found| found.version == *version),
            Test::VersionAtMost(version) => found.is_none_or(|found| found.version <= *version),
            Test::Value(value) => found.is_some_and(|found| found.value == *value),
        })
    }

    /// What is there now, this write's own changes among it.
    pub(super) fn read(&self, target: &Target) -> Result<Option<Found>> {
        let (collection, id) = match target {
            Target::Key { space, key } => {
                let found = self.find_key(&layout::kv_key(space, key))?.filter(|found| !found.is_over);
                return Ok(found.map(|found| {
                    let (expires, lease) = match found.kept {
                        Kept::Always => (None, None),
                        Kept::Until(expires) => (Some(expires), None),
                        Kept::Lease(lease) => (None, Some(lease)),
                    };
                    Found { version: found.version, value: found.value().to_vec(), expires, lease }
                }));
            }
            Target::Document { collection, id } => (collection, id),
        };
        let key = layout::document_key(self.live.catalog.get(collection)?.id, id.as_bytes());
        let found = |version, value: &[u8]| {
            Some(Found { version, value: value.to_vec(), expires: None, lease: None })
        };
        match self.written.as_ref().and_then(|written| written.get(&key)) {
            Some(None) => return Ok(None),
            Some(Some(_)) => {
                let source = self.written_sources.as_ref().and_then(|sources| sources.get(&key));
                return Ok(found(self.seq, source.expect("what a transaction that reads puts is kept")));
            }
            None => {}
        }
        let Some((version, record)) = self.engine.get_versioned(&key)? else { return Ok(None) };
        let (_, source) = layout::decode_document(&record)
            .ok_or_else(|| Error::corrupt("a document record", 0, format!("malformed header of {id:?}")))?;
        Ok(found(version, source))
    }
}

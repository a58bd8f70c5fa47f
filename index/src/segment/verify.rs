//! Reads a whole segment and checks that it makes sense.

use crate::error::Error;
use crate::part::Cursor;
use crate::postings::cursor::ByteSource;
use crate::segment::dictionary::belongs;
use crate::segment::reader::Segment;
use crate::term::field_of;

impl Segment {
    /// Checks every checksum, whatever was verified before, and walks every term, posting, position, key and value.
    pub fn verify(&self) -> Result<(), Error> {
        for chunk in 0..self.chunk_count() {
            self.verify_chunk(chunk)?;
        }
        let mut previous = None;
        for doc in 0..self.docs() {
            self.key(doc)?;
            let uid = Some(self.uid(doc)?);
            if uid <= previous {
                return Err(Segment::corrupt(self, 0, "uids do not ascend"));
            }
            previous = uid;
        }
        let mut terms = self.dictionary.from(self, &[])?;
        let mut last: Option<Vec<u8>> = None;
        while terms.next()? {
            let key = terms.key().to_vec();
            if last.is_some_and(|last| last >= key) || !belongs(&self.schema, &key) {
                return Err(Segment::corrupt(self, self.dictionary.dict.offset, "terms out of order"));
            }
            let slot = field_of(&key).and_then(|field| self.schema.norm_slot(field));
            let mut cursor = Cursor::of_list(self, terms.place()?)?;
            let mut next = 0;
            loop {
                cursor.block_positions()?;
                if let (Some(facts), Some(slot)) = (cursor.facts(), slot) {
                    let norms = self.norms(slot, 0, self.docs())?;
                    let (docs, tfs) = cursor.both()?;
                    let bounded = docs.iter().zip(tfs).all(|(&doc, &tf)| {
                        facts
                            .iter()
                            .any(|fact| u32::from(fact.0) >= tf.min(255) && fact.1 <= norms[doc as usize])
                    });
                    if !bounded {
                        return Err(ByteSource::corrupt(self, 0, "block facts do not bound the block"));
                    }
                }
                for &doc in cursor.docs()? {
                    if doc < next {
                        return Err(ByteSource::corrupt(self, 0, "postings do not ascend"));
                    }
                    next = doc + 1;
                }
                if !cursor.next()? {
                    break;
                }
            }
            last = Some(key);
        }
        for column in self.columns.iter().flatten() {
            for base in (0..self.docs()).step_by(crate::columns::ZONE as usize) {
                let zone = column.zone(self, base)?;
                let mut outside = false;
                column.for_each(self, base, zone, &mut |_, value| {
                    outside |= value < zone.min || value > zone.max;
                })?;
                if outside {
                    return Err(Segment::corrupt(self, column.zones.offset, "values outside their zone"));
                }
            }
            for word in 0..column.word_count(self)? {
                column.word(self, word)?;
            }
        }
        Ok(())
    }
}

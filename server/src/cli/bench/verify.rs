//! Whether what was read is right: the bytes that somebody put under this key, nothing older than what was acknowledged
//! before the read was sent, and nothing missing that is there.

use std::sync::atomic::{AtomicU64, Ordering};

use super::target::Answer;
use super::values::Shape;
use super::workload::{Kind, Op};

/// What is known of each key.
pub(super) struct Verifier {
    shape: Shape,
    /// The last sequence number at which each key was acknowledged to be written, by key; 0 if it was not yet.
    acknowledged: Vec<AtomicU64>,
    /// Whether keys may be missing that were written.
    has_deletes: bool,
}

impl Verifier {
    /// For this many keys; what is read of later ones is held against their values alone.
    pub(super) fn new(shape: Shape, keys: u64, has_deletes: bool) -> Verifier {
        let acknowledged = (0..keys).map(|_| AtomicU64::new(0)).collect();
        Verifier { shape, acknowledged, has_deletes }
    }

    fn key(&self, key: u64) -> Option<&AtomicU64> {
        self.acknowledged.get(usize::try_from(key).ok()?)
    }

    /// Before an operation is sent: nothing older than this may come back.
    pub(super) fn before(&self, op: &Op) -> u64 {
        self.key(op.key).map_or(0, |acknowledged| acknowledged.load(Ordering::Acquire))
    }

    /// After it has come to its end: whether the answer is right.
    pub(super) fn is_right(&self, op: &Op, before: u64, answer: &Answer) -> bool {
        if answer.written > 0 {
            if let Some(acknowledged) = self.key(op.key) {
                acknowledged.fetch_max(answer.written, Ordering::AcqRel);
            }
        }
        let may_be_missing = before == 0 || self.has_deletes;
        match op.kind {
            Kind::Get | Kind::Rmw if answer.is_found => {
                self.shape.is_value(op.key, &answer.value) && answer.version >= before
            }
            Kind::Get | Kind::Rmw => may_be_missing,
            Kind::Scan => {
                let Some(keys) = self.rows(answer) else { return false };
                let is_first = keys.first().is_some_and(|first| *first == op.key);
                keys.len() <= op.rows as usize
                    && keys.is_sorted_by(|one, next| one < next)
                    && keys.first().is_none_or(|first| *first >= op.key)
                    && (is_first || may_be_missing)
            }
            Kind::Put | Kind::Insert | Kind::Delete | Kind::Search => true,
        }
    }

    /// The keys of a scan's rows, if each has one of its values.
    fn rows(&self, answer: &Answer) -> Option<Vec<u64>> {
        let row = |(key, value): &(bytes::Bytes, bytes::Bytes)| {
            let key = self.shape.key_number(key)?;
            self.shape.is_value(key, value).then_some(key)
        };
        answer.pairs.iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};

    use super::*;

    const SHAPE: Shape = Shape { key_size: 8, value_size: 64, is_document: false };

    fn value(key: u64, counter: u64) -> Bytes {
        let mut out = BytesMut::new();
        SHAPE.write_value(&mut out, key, counter);
        out.freeze()
    }

    fn op(kind: Kind, key: u64) -> Op {
        Op { kind, key, counter: 1, rows: 3 }
    }

    fn read(key: u64, version: u64) -> Answer {
        Answer { is_found: true, version, value: value(key, 5), ..Answer::default() }
    }

    #[test]
    fn what_is_old_missing_or_of_another_key_is_wrong() {
        let verifier = Verifier::new(SHAPE, 10, false);
        let get = op(Kind::Get, 3);
        assert!(verifier.is_right(&get, verifier.before(&get), &Answer::default()));
        assert!(verifier.is_right(&op(Kind::Put, 3), 0, &Answer::written(20)));
        let before = verifier.before(&get);
        assert_eq!(before, 20);
        assert!(
            verifier.is_right(&get, before, &read(3, 20)) && verifier.is_right(&get, before, &read(3, 21))
        );
        assert!(!verifier.is_right(&get, before, &read(3, 19)));
        assert!(!verifier.is_right(&get, before, &read(4, 20)));
        assert!(!verifier.is_right(&get, before, &Answer::default()));
        assert!(verifier.is_right(&op(Kind::Get, 99), verifier.before(&op(Kind::Get, 99)), &read(99, 1)));
    }

    #[test]
    fn a_scan_is_in_order_and_begins_where_it_should() {
        let verifier = Verifier::new(SHAPE, 10, false);
        let scan = op(Kind::Scan, 3);
        let page = |keys: &[u64]| {
            let pairs = keys.iter().map(|key| (SHAPE.key(*key), value(*key, 1))).collect();
            Answer { is_found: true, pairs, ..Answer::default() }
        };
        verifier.is_right(&op(Kind::Put, 3), 0, &Answer::written(1));
        let is_right = |keys: &[u64]| verifier.is_right(&scan, verifier.before(&scan), &page(keys));
        assert!(is_right(&[3, 4, 6]) && is_right(&[3]));
        for wrong in [&[][..], &[4], &[2, 3], &[3, 5, 4], &[3, 3], &[3, 4, 5, 6]] {
            assert!(!is_right(wrong), "{wrong:?}");
        }
        let mut mixed = page(&[3, 4]);
        mixed.pairs[1].1 = value(5, 1);
        assert!(!verifier.is_right(&scan, 1, &mixed));
    }
}

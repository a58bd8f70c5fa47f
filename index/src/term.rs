//! Terms and numbers as bytes that sort as they should.
//!
//! ```text
//! key      │ field: u16 big endian │ term │
//! term     text, keyword: the bytes · everything else: its sortable u64, big endian
//! ```
//! So one dictionary holds all fields, each field's terms stand together, and numbers stand in order of value.

use crate::schema::FieldId;

/// Bytes of the field in front of every key.
pub(crate) const FIELD_BYTES: usize = 2;

/// An i64 as a u64 of the same order.
pub fn sortable_i64(value: i64) -> u64 {
    value as u64 ^ (1 << 63)
}

/// A finite f64 as a u64 of the same order. Zero has one form, so that `-0.0` finds `0.0`.
pub fn sortable_f64(value: f64) -> u64 {
    let bits = (value + 0.0).to_bits();
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

/// The key of `term` in `field`.
pub(crate) fn key(field: FieldId, term: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(FIELD_BYTES + term.len());
    key.extend_from_slice(&field.0.to_be_bytes());
    key.extend_from_slice(term);
    key
}

/// The field of a key; keys shorter than a field belong to none.
pub(crate) fn field_of(key: &[u8]) -> Option<FieldId> {
    let field = key.get(..FIELD_BYTES)?;
    Some(FieldId(u16::from_be_bytes([field[0], field[1]])))
}

/// The smallest key above every key that starts with `prefix`; `None` when there is none.
pub(crate) fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut after = prefix[..=keep].to_vec();
    after[keep] += 1;
    Some(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_sort_by_value(a: i64, b: i64, x in -1e300_f64..1e300, y in -1e300_f64..1e300) {
            prop_assert_eq!(a.cmp(&b), sortable_i64(a).cmp(&sortable_i64(b)));
            prop_assert_eq!(x.total_cmp(&y), sortable_f64(x).cmp(&sortable_f64(y)));
        }
    }

    #[test]
    fn zero_has_one_form() {
        assert_eq!(sortable_f64(-0.0), sortable_f64(0.0));
    }

    #[test]
    fn the_end_of_a_prefix_skips_full_bytes() {
        assert_eq!(after_prefix(&[1, 2, 0xff]), Some(vec![1, 3]));
        assert_eq!(after_prefix(&[0xff, 0xff]), None);
    }
}

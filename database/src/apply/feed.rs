//! Noting for the feed of changes what the log does not say: where entries stand, and what became of writes that did not do
//! as they say, or do not name what they removed.

use lumen_engine::Batch;

use crate::keys::KeyOutcome;
use crate::layout::{self, Effect, Effects, FEED_STEP, PLACE_EVERY, Place};
use crate::write::Outcome;

/// The first batch of an entry of `writes` writes that come after sequence number `seq`; with its place, if this is to be noted.
pub(super) fn begin(is_first: bool, place: Place, seq: u64, writes: u64) -> Batch {
    let mut batch = Batch::new();
    let is_met = seq.next_multiple_of(PLACE_EVERY) < seq + writes;
    if writes > 0 && (is_first || is_met) {
        batch.put(&layout::place_key(seq), &layout::encode_place(&place));
    }
    batch
}

/// Lets go of what is too old, now and then.
pub(super) fn let_go(seq: u64, batch: &mut Batch) {
    let floor = layout::feed_floor(seq);
    if seq.is_multiple_of(FEED_STEP) && floor > 0 {
        batch.delete_range(&layout::effects_key(0), &layout::effects_key(floor));
        batch.delete_range(&layout::place_key(0), &layout::place_key(floor));
    }
}

/// Notes that the write of a sequence number did nothing.
pub(super) fn nothing(seq: u64, batch: &mut Batch) {
    batch.put(&layout::effects_key(seq), &layout::encode_effects(&Effects::None));
}

/// What a part did: by its outcome, the key-values that it removed without naming them, and whether it removed some of a range.
pub(super) fn effect(outcome: &Outcome, removed: Vec<Vec<u8>>, removed_some: bool) -> Effect {
    match outcome {
        _ if !removed.is_empty() => Effect::Removed(removed),
        _ if removed_some => Effect::AsSaid,
        Outcome::Rejected(_)
        | Outcome::CollectionExists { .. }
        | Outcome::Deleted { existed: false }
        | Outcome::Keys(KeyOutcome::Deleted { count: 0, .. } | KeyOutcome::Expired { .. }) => Effect::None,
        _ => Effect::AsSaid,
    }
}

/// What is to be noted of a write, if anything is.
pub(super) fn effects(otherwise: bool, parts: Vec<Effect>) -> Option<Effects> {
    if parts.iter().all(|part| *part == Effect::None) {
        return Some(Effects::None);
    }
    let is_said = !otherwise && parts.iter().all(|part| *part == Effect::AsSaid);
    (!is_said).then_some(Effects::Parts { otherwise, parts })
}

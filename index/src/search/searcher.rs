//! Runs a query over all parts of a view.

use crate::error::Error;
use crate::query::Query;
use crate::search::boolean::ROUNDING;
use crate::search::build::Builder;
use crate::search::node::{NONE, Node};
use crate::search::top_k::TopK;
use crate::search::weights::Weights;
use crate::search::window::{clear, count, is_empty, offsets, remove};
use crate::search::{Hit, Request, Response, WINDOW};
use crate::view::{Slice, View};
use std::cmp::Reverse;

pub(crate) fn search(view: &View, request: &Request<'_>) -> Result<Response, Error> {
    let weights = Weights::of(view, request.query, request.bm25)?;
    let mut top = TopK::new(request.offset.saturating_add(request.limit));
    let mut scores = Vec::new();
    let mut total = 0;
    // How many documents have a text's word is known when it is looked up.
    let mut query = request.query;
    while let Query::Boost(inner, _) = query {
        query = inner;
    }
    let known = match query {
        Query::Term { field, term } if view.schema.norm_slot(*field).is_some() => weights.known(*field, term),
        _ => None,
    };
    // The largest part first: it soon says what the others have to beat.
    let mut order: Vec<usize> = (0..view.slices.len()).collect();
    order.sort_by_key(|&number| Reverse(view.slices[number].part.docs()));
    for number in order {
        let slice = &view.slices[number];
        let node = Builder::of(view, &weights, number, request.cancelled).node(request.query, 1.0)?;
        match (known, node) {
            (Some(_), _) if request.limit == 0 => {}
            (Some(_), Node::Term(term)) => term.offer_best(&slice.deletes, &mut top, request.cancelled)?,
            (_, node) => total += collect(slice, node, &mut scores, &mut top, request)?,
        }
    }
    let entries = top.into_sorted().into_iter().skip(request.offset);
    let hits = entries.map(|entry| Hit { score: entry.score, uid: entry.uid, key: entry.key });
    Ok(Response { total: known.map_or(total, |known| known.df), hits: hits.collect() })
}

/// Walks one part; answers how many documents match.
fn collect(
    Slice { part, deletes }: &Slice,
    mut node: Node<'_>,
    scores: &mut Vec<f32>,
    top: &mut TopK,
    request: &Request<'_>,
) -> Result<u64, Error> {
    let scored = request.limit > 0;
    let mut total = 0;
    let mut base = 0;
    while base < part.docs() {
        if (request.cancelled)() {
            return Err(Error::Cancelled);
        }
        let next = node.next(base)?;
        if next == NONE || next >= part.docs() {
            break;
        }
        base = next / WINDOW * WINDOW;
        let bound = if scored { node.bound(base)? } else { 0.0 };
        let mut bits = [0; 64];
        node.fill(base, None, &mut bits)?;
        if let Some(gone) = deletes.window(base) {
            remove(&mut bits, gone);
        }
        total += u64::from(count(&bits));
        let least = top.threshold();
        let need = least - bound * ROUNDING;
        if scored && !is_empty(&bits) && bound >= need {
            clear(scores, &bits);
            node.score(base, &mut bits, need, scores)?;
            for offset in offsets(&bits) {
                let score = scores[offset as usize];
                if score >= top.threshold() {
                    let doc = base + offset;
                    top.offer(score, part.key(doc)?, || part.uid(doc))?;
                }
            }
        }
        base += WINDOW;
    }
    Ok(total)
}

//! Runs a query over all parts of a view.

use crate::error::Error;
use crate::search::build::Builder;
use crate::search::node::{NONE, Node, offsets};
use crate::search::top_k::TopK;
use crate::search::weights::Weights;
use crate::search::{Hit, Request, Response, WINDOW};
use crate::view::{Slice, View};

pub(crate) fn search(view: &View, request: &Request<'_>) -> Result<Response, Error> {
    let weights = Weights::of(view, request.query, request.bm25)?;
    let mut top = TopK::new(request.offset.saturating_add(request.limit));
    let mut scores = vec![0.0; WINDOW as usize];
    let mut total = 0;
    for number in 0..view.slices.len() {
        let builder = Builder::of(view, &weights, number, request.cancelled);
        let node = builder.node(request.query, 1.0)?;
        total += collect(&view.slices[number], node, &mut scores, &mut top, request)?;
    }
    let entries = top.into_sorted().into_iter().skip(request.offset);
    let hits = entries.map(|entry| Hit { score: entry.score, uid: entry.uid, key: entry.key });
    Ok(Response { total, hits: hits.collect() })
}

/// Walks one part; answers how many documents match.
fn collect(
    Slice { part, deletes }: &Slice,
    mut node: Node<'_>,
    scores: &mut [f32],
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
        let mut bits = [0; 64];
        if scored {
            scores.fill(0.0);
            node.fill(base, None, Some(scores), &mut bits)?;
        } else {
            node.fill(base, None, None, &mut bits)?;
        }
        if let Some(gone) = deletes.window(base) {
            bits.iter_mut().zip(gone).for_each(|(bits, gone)| *bits &= !gone);
        }
        total += bits.iter().map(|bits| u64::from(bits.count_ones())).sum::<u64>();
        if scored {
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

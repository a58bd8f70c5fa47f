//! A stream that ends, and is dropped, with whoever holds its handle.
//!
//! openraft's task that replicates to a node holds a lock in the stream of requests as long as that waits for something to
//! send, and takes the same lock before it opens the next stream. Whoever carries the requests may hold on to them after the
//! answers have ended: until then nothing more is sent to that node, and an entry that needs it is not committed (found by the
//! simulation: until something else is written, which nobody may do).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;

struct Slot<S> {
    stream: Option<S>,
    /// Of whoever waits for the next item.
    waiting: Option<Waker>,
}

/// What whoever carries it has.
pub(crate) struct Held<S>(Arc<Mutex<Slot<S>>>);

/// Drops the stream when it is dropped.
pub(crate) struct Holder<S>(Arc<Mutex<Slot<S>>>);

/// The stream in two halves.
pub(crate) fn held<S: Stream + Unpin>(stream: S) -> (Holder<S>, Held<S>) {
    let slot = Arc::new(Mutex::new(Slot { stream: Some(stream), waiting: None }));
    (Holder(slot.clone()), Held(slot))
}

impl<S: Stream + Unpin> Stream for Held<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let mut slot = self.0.lock();
        let Some(stream) = &mut slot.stream else { return Poll::Ready(None) };
        let next = stream.poll_next_unpin(context);
        slot.waiting = next.is_pending().then(|| context.waker().clone());
        next
    }
}

impl<S> Drop for Holder<S> {
    fn drop(&mut self) {
        let Slot { stream, waiting } =
            std::mem::replace(&mut *self.0.lock(), Slot { stream: None, waiting: None });
        drop(stream);
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn the_stream_is_dropped_although_somebody_waits_for_it() {
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        let locked = lock.clone();
        let stream = futures_util::stream::once(async move {
            let _locked = locked.lock().await;
            std::future::pending::<()>().await;
        });
        let (holder, mut carried) = held(stream.boxed());
        assert!(carried.next().now_or_never().is_none(), "it waits");
        assert!(lock.try_lock().is_err());
        drop(holder);
        assert!(lock.try_lock().is_ok(), "the lock is free although the other half is there");
        assert_eq!(carried.next().now_or_never(), Some(None), "and that has ended");
    }
}

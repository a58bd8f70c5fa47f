//! Following changes for a client, whatever it speaks: a page at a time, when it asks for one.
//!
//! Nothing is kept for a client that reads slowly but its place in the log. One that falls behind what the log keeps is
//! told so, and has missed nothing up to there.

use std::sync::Arc;
use std::time::Duration;

use lumen::{Changed, Changes, Scope};
use lumen_raft::Consistency;
use tokio::time::Instant;

use crate::api::blocking;
use crate::error::{Failure, Kind};
use crate::metrics::Held;
use crate::node::Node;
use crate::store::Reading;

/// Bytes of a page, about.
const PAGE_BYTES: usize = 256 << 10;

/// A client's place in the feed.
pub(crate) struct Feed {
    node: Arc<Node>,
    /// Away while a page is read.
    changes: Option<Changes>,
    /// When it is said how far the feed has come, although there is nothing to say.
    word_due: Instant,
    word_every: Duration,
    _counted: Held,
}

/// What comes next.
pub(crate) enum News {
    /// Changes, one write's always together.
    Changes(Vec<Changed>),
    /// Nothing that is followed, up to this sequence number.
    Progress(u64),
    /// The node is going.
    Closing,
}

impl Feed {
    /// After `since`; or after all that was acknowledged before. A word comes at least every `word_every`.
    pub(crate) async fn open(
        node: Arc<Node>,
        since: Option<u64>,
        scope: Scope,
        word_every: Duration,
    ) -> Result<Feed, Failure> {
        let consistency = match since {
            Some(since) => Consistency::Session(since),
            None => Consistency::Linearizable,
        };
        let patience = node.limits.request_timeout;
        let reading = Reading { consistency, min_seq: since.unwrap_or(0), patience };
        match node.store.read(&reading).await {
            Ok(_) => {}
            // A number that there is not yet is the caller's mistake, unless other nodes have it.
            Err(failure) if failure.kind == Kind::Behind && node.cluster.is_none() => {}
            Err(failure) => return Err(failure),
        }
        let store = node.store.clone();
        let changes = blocking(move || store.changes(since, scope)).await?;
        Ok(Feed {
            _counted: node.metrics.follower(),
            node,
            changes: Some(changes),
            word_due: Instant::now() + word_every,
            word_every,
        })
    }

    /// All changes up to here were given: what to send as `since` to go on.
    pub(crate) fn seq(&self) -> u64 {
        self.changes.as_ref().map_or(0, Changes::seq)
    }

    /// Whether there is more at once.
    pub(crate) fn is_behind(&self) -> bool {
        self.changes.as_ref().is_some_and(Changes::is_behind)
    }

    /// Waits for what comes next. May be dropped before it is done only together with the feed.
    pub(crate) async fn next(&mut self) -> Result<News, Failure> {
        loop {
            let gone = || Failure::new(Kind::Internal, "the feed broke off");
            let mut changes = self.changes.take().ok_or_else(gone)?;
            let news = changes.listen();
            let (read, changes) = blocking(move || {
                let read = changes.read(PAGE_BYTES);
                Ok((read, changes))
            })
            .await?;
            let (seq, is_behind) = (changes.seq(), changes.is_behind());
            self.changes = Some(changes);
            let page = read?;
            if !page.is_empty() {
                self.word_due = Instant::now() + self.word_every;
                return Ok(News::Changes(page));
            }
            if is_behind && Instant::now() < self.word_due {
                continue;
            }
            tokio::select! {
                () = news, if !is_behind => {}
                () = tokio::time::sleep_until(self.word_due) => {
                    self.word_due = Instant::now() + self.word_every;
                    return Ok(News::Progress(seq));
                }
                () = self.node.drains() => return Ok(News::Closing),
            }
        }
    }
}

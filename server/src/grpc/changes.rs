//! Following changes: `Watch` of key-values, and `lumen.v1.Changes` of everything. Both are a [`Feed`] in messages of a size.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt, unfold};
use lumen::{Change, Changed, Scope};
use tonic::{Request, Response, Status};

use super::Face;
use super::kv::{range, space};
use super::proto::kv::{Event, Pair, WatchRequest, WatchResponse, event};
use super::proto::v1::changes_server::Changes;
use super::proto::v1::{self as pb, ChangesRequest, ChangesResponse};
use crate::error::{Failure, Kind};
use crate::feed::{Feed, News};

/// Bytes of a message from which on it takes no more: clients take 4 MiB unless told otherwise.
const MESSAGE_BYTES: usize = 1 << 20;
/// How often it is said how far the feed has come, to who asks for it.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// To who does not, nothing is said; but now and then it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// A message of changes, whichever they are.
trait Message: Default + Send + 'static {
    fn add(&mut self, seq: u64, time: u64, change: Change);
    fn set_seq(&mut self, seq: u64);
    fn set_more(&mut self);
    fn set_compacted(&mut self, oldest: u64);
}

/// A stream of them.
struct Stream<M> {
    /// None when it has ended.
    feed: Option<Feed>,
    says_progress: bool,
    ready: VecDeque<M>,
}

impl<M: Message> Stream<M> {
    /// Begins with a message that says where.
    fn begin(feed: Feed, says_progress: bool) -> BoxStream<'static, Result<M, Status>> {
        let mut first = M::default();
        first.set_seq(feed.seq());
        let stream = Stream { feed: Some(feed), says_progress, ready: [first].into() };
        unfold(stream, |mut stream| async move {
            let next = stream.next().await?;
            Some((next, stream))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<M, Status>> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Some(Ok(message));
            }
            let feed = self.feed.as_mut()?;
            match feed.next().await {
                Ok(News::Changes(page)) => self.ready = packed(page),
                Ok(News::Progress(seq)) if self.says_progress => {
                    let mut message = M::default();
                    message.set_seq(seq);
                    return Some(Ok(message));
                }
                Ok(News::Progress(_)) => {}
                Ok(News::Closing) => {
                    self.feed = None;
                    return Some(Err(Status::unavailable("the server is shutting down")));
                }
                Err(failure) => {
                    let seq = feed.seq();
                    self.feed = None;
                    return Some(match failure.kind {
                        Kind::Compacted => Ok(compacted(seq, &failure)),
                        _ => Err(failure.into()),
                    });
                }
            }
        }
    }
}

/// That what comes after `seq` is gone.
fn compacted<M: Message>(seq: u64, failure: &Failure) -> M {
    let oldest = failure.details.get("oldest").and_then(|oldest| oldest.as_u64());
    let mut message = M::default();
    message.set_seq(seq);
    message.set_compacted(oldest.unwrap_or(0));
    message
}

/// A page in messages that are not too large.
fn packed<M: Message>(page: Vec<Changed>) -> VecDeque<M> {
    let mut messages = VecDeque::new();
    let (mut message, mut bytes) = (M::default(), 0);
    for Changed { seq, time, changes } in page {
        let count = changes.len();
        for (nth, change) in changes.into_iter().enumerate() {
            bytes += change.bytes();
            message.add(seq, time, change);
            let is_whole = nth + 1 == count;
            if bytes >= MESSAGE_BYTES && !is_whole {
                message.set_seq(seq - 1);
                message.set_more();
                messages.push_back(std::mem::take(&mut message));
                bytes = 0;
            }
        }
        message.set_seq(seq);
        if bytes >= MESSAGE_BYTES {
            messages.push_back(std::mem::take(&mut message));
            bytes = 0;
        }
    }
    if bytes > 0 {
        messages.push_back(message);
    }
    messages
}

/// How often a word comes.
fn word_every(progress: bool) -> Duration {
    if progress { PROGRESS_EVERY } else { LOOK_EVERY }
}

pub(super) async fn watch(
    face: &Face,
    request: WatchRequest,
) -> Result<BoxStream<'static, Result<WatchResponse, Status>>, Failure> {
    let (start, end) = range(request.start.into(), request.end.into(), request.prefix.into())?;
    let scope = Scope::Keys { space: space(request.space), start, end };
    open(face, request.since, scope, request.progress).await
}

/// Also when it is too late for `since` from the beginning: that is told in a message, as it is later.
async fn open<M: Message>(
    face: &Face,
    since: Option<u64>,
    scope: Scope,
    progress: bool,
) -> Result<BoxStream<'static, Result<M, Status>>, Failure> {
    match Feed::open(face.node.clone(), since, scope, word_every(progress)).await {
        Ok(feed) => Ok(Stream::begin(feed, progress)),
        Err(failure) if failure.kind == Kind::Compacted => {
            let message = compacted(since.unwrap_or(0), &failure);
            Ok(futures_util::stream::iter([Ok(message)]).boxed())
        }
        Err(failure) => Err(failure),
    }
}

impl Message for WatchResponse {
    fn add(&mut self, seq: u64, _: u64, change: Change) {
        let pair = |key: Vec<u8>| Pair { key: key.into(), ..Pair::default() };
        let (kind, pair, range_end) = match change {
            Change::KeyPut { key, value, expires, lease, .. } => {
                let pair = Pair {
                    key: key.into(),
                    value: value.into(),
                    version: seq,
                    expires_at_ms: expires.unwrap_or(0),
                    lease: lease.unwrap_or(0) as i64,
                };
                (event::Kind::Put, pair, Vec::new())
            }
            Change::KeyDeleted { key, expired: false, .. } => (event::Kind::Delete, pair(key), Vec::new()),
            Change::KeyDeleted { key, .. } => (event::Kind::Expire, pair(key), Vec::new()),
            Change::KeysDeleted { start, end, .. } => {
                (event::Kind::DeleteRange, pair(start), end.unwrap_or_default())
            }
            _ => return, // not in the scope of keys
        };
        self.events.push(Event { kind: kind.into(), pair: Some(pair), seq, range_end: range_end.into() });
    }

    fn set_seq(&mut self, seq: u64) {
        self.seq = seq;
    }

    fn set_more(&mut self) {
        self.more = true;
    }

    fn set_compacted(&mut self, oldest: u64) {
        (self.compacted, self.oldest) = (true, oldest);
    }
}

/// Changes of everything, with or without documents and values.
#[derive(Default)]
struct Whole<const IDS_ONLY: bool>(ChangesResponse);

impl<const IDS_ONLY: bool> Message for Whole<IDS_ONLY> {
    fn add(&mut self, seq: u64, time_ms: u64, change: Change) {
        use pb::change::What;
        let kept = |bytes: Vec<u8>| if IDS_ONLY { Default::default() } else { bytes.into() };
        let what = match change {
            Change::DocumentPut { collection, id, source } => {
                What::DocumentPut(pb::DocumentPut { collection, id, json: kept(source) })
            }
            Change::DocumentDeleted { collection, id } => {
                What::DocumentDeleted(pb::DocumentDeleted { collection, id })
            }
            Change::CollectionCreated { name, mapping } => {
                let mapping = mapping.to_json().into_bytes().into();
                What::CollectionCreated(pb::CollectionCreated { collection: name, mapping })
            }
            Change::CollectionDropped { name } => {
                What::CollectionDropped(pb::CollectionDropped { collection: name })
            }
            Change::KeyPut { space, key, value, expires, lease } => What::KeyPut(pb::KeyPut {
                space,
                key: key.into(),
                value: kept(value),
                expires_at_ms: expires.unwrap_or(0),
                lease: lease.unwrap_or(0),
            }),
            Change::KeyDeleted { space, key, expired } => {
                What::KeyDeleted(pb::KeyDeleted { space, key: key.into(), expired })
            }
            Change::KeysDeleted { space, start, end } => {
                What::KeysDeleted(pb::KeysDeleted { space, start: start.into(), end: end.map(Into::into) })
            }
        };
        self.0.changes.push(pb::Change { seq, time_ms, what: Some(what) });
    }

    fn set_seq(&mut self, seq: u64) {
        self.0.seq = seq;
    }

    fn set_more(&mut self) {
        self.0.more = true;
    }

    fn set_compacted(&mut self, oldest: u64) {
        (self.0.compacted, self.0.oldest) = (true, oldest);
    }
}

#[tonic::async_trait]
impl Changes for Face {
    type ChangesStream = BoxStream<'static, Result<ChangesResponse, Status>>;

    async fn changes(
        &self,
        request: Request<ChangesRequest>,
    ) -> Result<Response<Self::ChangesStream>, Status> {
        let request = request.into_inner();
        let scope = match (request.collection.is_empty(), request.space.is_empty()) {
            (true, true) if request.prefix.is_empty() => Scope::All,
            (false, true) if request.prefix.is_empty() => Scope::Collection(request.collection),
            (true, false) => {
                let (start, end) = range(Vec::new(), Vec::new(), request.prefix.into())?;
                Scope::Keys { space: request.space, start, end }
            }
            _ => {
                let message = "a feed follows everything, a collection, or a space with or without a prefix";
                return Err(Failure::new(Kind::InvalidParameter, message).into());
            }
        };
        let (since, progress) = (request.since, request.progress);
        Ok(Response::new(if request.ids_only {
            let whole = open::<Whole<true>>(self, since, scope, progress).await?;
            whole.map(|message| message.map(|whole| whole.0)).boxed()
        } else {
            let whole = open::<Whole<false>>(self, since, scope, progress).await?;
            whole.map(|message| message.map(|whole| whole.0)).boxed()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_is_too_large_for_a_message_goes_on_in_the_next() {
        let put = |key: u8, len| Change::KeyPut {
            space: "s".into(),
            key: vec![key],
            value: vec![0; len],
            expires: None,
            lease: None,
        };
        let large = MESSAGE_BYTES;
        let page = vec![
            Changed { seq: 5, time: 0, changes: vec![put(0, 1)] },
            Changed { seq: 7, time: 0, changes: vec![put(1, 1), put(2, large), put(3, large), put(4, 1)] },
            Changed { seq: 9, time: 0, changes: vec![put(5, 1)] },
        ];
        let messages: VecDeque<WatchResponse> = packed(page);
        let shape: Vec<(usize, u64, bool)> =
            messages.iter().map(|it| (it.events.len(), it.seq, it.more)).collect();
        assert_eq!(shape, [(3, 6, true), (1, 6, true), (2, 9, false)]);
    }
}

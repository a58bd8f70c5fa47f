//! A body of HTTP that is whole, or that comes piece by piece while the other side already reads.
//!
//! `http_body_util::channel` (0.1.5) would do, but it asks for frames and for the sender's end one after the other: a
//! last frame that is sent between the two is lost, and ours ends with the line that matters most.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;

/// Why a body breaks off.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// What is sent, as answer or as request.
pub(crate) enum Body {
    /// All of it; taken when it is sent.
    Whole(Option<Bytes>),
    /// Pieces until the sender is dropped.
    Pieces(mpsc::Receiver<Bytes>),
    /// Messages of gRPC, with trailers.
    Grpc(tonic::body::Body),
}

impl Body {
    /// A body that is there.
    pub(crate) fn whole(bytes: Bytes) -> Body {
        Body::Whole((!bytes.is_empty()).then_some(bytes))
    }

    /// A body that will come, of which so many pieces may wait to be sent.
    pub(crate) fn pieces(waiting_max: usize) -> (mpsc::Sender<Bytes>, Body) {
        let (sender, receiver) = mpsc::channel(waiting_max);
        (sender, Body::Pieces(receiver))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Body::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Pieces(receiver) => {
                receiver.poll_recv(context).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
            }
            Body::Grpc(body) => Pin::new(body).poll_frame(context).map_err(BodyError::from),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Whole(bytes) => bytes.is_none(),
            Body::Pieces(_) => false,
            Body::Grpc(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Body::Pieces(_) => SizeHint::default(),
            Body::Grpc(body) => body.size_hint(),
        }
    }
}

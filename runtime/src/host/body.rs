//! Bodies on their way between hyper and a library.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use relmgr_abi::body::{BodySource, FfiBody, Frame as FfiFrame, SizeHint as FfiSizeHint};
use relmgr_abi::buffer::FfiBytes;
use relmgr_abi::fields;
use tokio::sync::futures::OwnedNotified;

use super::connection::Turn;
use super::generation::{Generation, HeldWaker, Mapping, RequestGuard};
use super::stakes::Stake;

/// A request's body, which the library reads.
pub struct RequestSource {
    body: Incoming,
    /// Bytes that may still come.
    left: u64,
    mapping: Arc<Mapping>,
}

impl RequestSource {
    /// Lets the library read `limit` bytes of `body` at most.
    pub fn new(body: Incoming, limit: u64, mapping: Arc<Mapping>) -> Self {
        Self { body, left: limit, mapping }
    }
}

impl BodySource for RequestSource {
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> FfiFrame {
        let this = &mut *self;
        // hyper may keep the waker beyond this body's life, so it has to hold the mapping.
        let waker = HeldWaker::wrap(cx.waker(), &this.mapping);
        let polled = Pin::new(&mut this.body).poll_frame(&mut Context::from_waker(&waker));
        match polled {
            Poll::Pending => FfiFrame::Pending,
            Poll::Ready(None) => FfiFrame::End,
            Poll::Ready(Some(Err(error))) => FfiFrame::Failed(error.to_string().into()),
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) if data.len() as u64 > this.left => {
                    FfiFrame::Failed("the body is larger than http.limits.body_bytes".into())
                }
                Ok(data) => {
                    this.left -= data.len() as u64;
                    FfiFrame::Data(data.into())
                }
                Err(frame) => {
                    let mut bytes = vec![];
                    fields::write(&frame.into_trailers().unwrap_or_default(), &mut bytes);
                    FfiFrame::Trailers(Bytes::from(bytes).into())
                }
            },
        }
    }

    fn size_hint(&self) -> FfiSizeHint {
        let hint = self.body.size_hint();
        FfiSizeHint { lower: hint.lower(), upper: hint.upper().unwrap_or(u64::MAX) }
    }
}

/// A body that cannot be finished.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The application's stream broke off.
    #[error("the application's body broke off: {0}")]
    Application(String),
    /// The generation's drain deadline passed.
    #[error("release {0} was retired before the body's end")]
    Purged(relmgr_model::Version),
}

pin_project! {
    /// A response's body, which hyper reads.
    #[project = ResponseBodyView]
    pub enum ResponseBody {
        /// All there is, in one piece.
        Whole { bytes: Option<Bytes>, guard: Option<RequestGuard>, turn: Turn },
        /// Read from the library. `body` goes before `stake`.
        /// `sized`: its head said how long it is.
        Stream { body: FfiBody, purge: PurgeNotice, id: u64, stake: Arc<Stake>, sized: bool, turn: Turn },
    }
}

/// Bytes of the library, with what they need; the bytes go first.
pub struct HeldBytes {
    bytes: FfiBytes,
    _needs: Needs,
}

/// What keeps a library mapped while there are bytes of it.
enum Needs {
    Mapping { _held: Arc<Mapping> },
    Stake { _held: Stake },
    Shared { _held: Arc<Stake> },
}

impl HeldBytes {
    /// `bytes` came from the library of `mapping`.
    pub fn wrap(bytes: FfiBytes, mapping: &Arc<Mapping>) -> Bytes {
        Bytes::from_owner(Self { bytes, _needs: Needs::Mapping { _held: mapping.clone() } })
    }

    /// `bytes` are the whole answer of `stake`, which is in flight for as long as there are any.
    pub fn whole(bytes: FfiBytes, stake: Stake) -> Bytes {
        Bytes::from_owner(Self { bytes, _needs: Needs::Stake { _held: stake } })
    }

    /// `bytes` are a part of it.
    pub fn part(bytes: FfiBytes, stake: &Arc<Stake>) -> Bytes {
        Bytes::from_owner(Self { bytes, _needs: Needs::Shared { _held: stake.clone() } })
    }
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.project() {
            ResponseBodyView::Whole { bytes, .. } => Poll::Ready(
                bytes.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes))),
            ),
            ResponseBodyView::Stream { body, purge, id, stake, sized, .. } => {
                let generation = stake.guard().generation();
                if generation.is_purged() {
                    // One that has always more to say is never found waiting.
                    return broken_off(body, *sized, generation);
                }
                match body.poll_frame(cx.waker()) {
                    FfiFrame::Pending if poll_purge(purge, generation, *id, cx) => {
                        broken_off(body, *sized, generation)
                    }
                    FfiFrame::Pending => Poll::Pending,
                    FfiFrame::Data(bytes) => {
                        Poll::Ready(Some(Ok(Frame::data(HeldBytes::part(bytes, stake)))))
                    }
                    FfiFrame::Trailers(bytes) => {
                        let bytes = Bytes::copy_from_slice(bytes.as_ref());
                        let read = fields::read(&bytes, bytes.len(), 4);
                        let read = read.map_err(|reason| BodyError::Application(reason.into()));
                        Poll::Ready(Some(read.map(Frame::trailers)))
                    }
                    FfiFrame::End => Poll::Ready(None),
                    FfiFrame::Failed(words) => {
                        generation.facts.measures.failed();
                        Poll::Ready(Some(Err(BodyError::Application(words.as_str().to_owned()))))
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole { bytes, .. } => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Stream { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole { bytes, .. } => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Stream { body, .. } => {
                let hint = body.size_hint();
                let mut size = SizeHint::new();
                size.set_lower(hint.lower);
                if hint.upper != u64::MAX {
                    size.set_upper(hint.upper.max(hint.lower));
                }
                size
            }
        }
    }
}

/// A request's place among those that are told when their generation's are broken off; `None`: it has not waited yet.
/// Boxed, since most never wait: answers are moved several times on their way to hyper, and this is half of their size.
pub type PurgeNotice = Option<Pin<Box<OwnedNotified>>>;

/// How a body ends whose generation does.
fn broken_off(
    body: &FfiBody,
    sized: bool,
    generation: &Generation,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    if !sized && body.size_hint().upper == u64::MAX {
        // A stream without a set end is brought to one that its client can read.
        return Poll::Ready(None);
    }
    Poll::Ready(Some(Err(BodyError::Purged(generation.facts.version.clone()))))
}

/// Whether `generation`'s requests are broken off; if not, `cx` is woken when they are. `slot` keeps the place in
/// the queue; only requests that wait come here.
pub fn poll_purge(
    slot: &mut PurgeNotice,
    generation: &Generation,
    request_id: u64,
    cx: &mut Context<'_>,
) -> bool {
    let notice = slot.get_or_insert_with(|| Box::pin(generation.purge_notice(request_id).notified_owned()));
    // In the queue first, then the flag: a purge in between is seen by one of the two.
    notice.as_mut().poll(cx).is_ready() || generation.is_purged()
}

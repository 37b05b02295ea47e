//! The body of a request, as the application reads it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use relmgr_abi::body::{FfiBody, Frame as FfiFrame};
use relmgr_abi::fields;

/// The body of a request. It streams: bytes arrive as the client sends them, and a handler that does not read
/// slows the client down.
pub struct Body(State);

enum State {
    Open(FfiBody),
    Over,
}

/// The client went away, sent something that is no HTTP, or sent more than the node's limit.
#[derive(Debug)]
pub struct BodyError(String);

impl std::fmt::Display for BodyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BodyError {}

impl Body {
    /// A body without a byte.
    pub fn empty() -> Self {
        Self(State::Over)
    }

    pub(crate) fn new(body: Option<FfiBody>) -> Self {
        Self(body.map_or(State::Over, State::Open))
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").finish_non_exhaustive()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let State::Open(body) = &mut self.0 else { return Poll::Ready(None) };
        let result = match body.poll_frame(cx.waker()) {
            FfiFrame::Pending => return Poll::Pending,
            FfiFrame::Data(bytes) => return Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(bytes))))),
            FfiFrame::Trailers(bytes) => Some(read_trailers(Bytes::from_owner(bytes))),
            FfiFrame::End => None,
            FfiFrame::Failed(text) => Some(Err(BodyError(text.into()))),
        };
        // Nothing comes after these: the host's side is given up at once.
        self.0 = State::Over;
        Poll::Ready(result)
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, State::Over)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            State::Open(body) => size_hint(body.size_hint()),
            State::Over => SizeHint::with_exact(0),
        }
    }
}

fn read_trailers(bytes: Bytes) -> Result<Frame<Bytes>, BodyError> {
    fields::read(&bytes, bytes.len(), 4).map(Frame::trailers).map_err(|reason| BodyError(reason.into()))
}

fn size_hint(hint: relmgr_abi::body::SizeHint) -> SizeHint {
    let mut size = SizeHint::new();
    size.set_lower(hint.lower);
    if hint.upper != u64::MAX {
        size.set_upper(hint.upper.max(hint.lower));
    }
    size
}

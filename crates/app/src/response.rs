//! From `http::Response` to what crosses the border.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use relmgr_abi::body::{BodySource, FfiBody, Frame as FfiFrame, SizeHint};
use relmgr_abi::buffer::FfiBytes;
use relmgr_abi::fields;
use relmgr_abi::future::panic_message;
use relmgr_abi::head::Response;

use crate::Error;
use crate::within::Within;

/// A body of at most so many bytes is copied into the buffer of its head when all of it is there: that costs less
/// than handing over a second buffer. (A page; most JSON answers are below.)
const INLINE_BYTES: u64 = 4096;

/// What a field's name, value and lengths take together, about: a first guess that saves growing.
const FIELD_BYTES: usize = 64;

/// A response without a body.
pub(crate) fn empty(status: u16) -> Response {
    let none = FfiBytes::from(Vec::new());
    Response { status, fields: 0, fields_len: 0, bytes: none, whole: None.into(), body: None.into() }
}

/// Takes `response` apart. A body whose size is known and that is all there is taken along, which is why this
/// polls. Its length is not said again: the host has it whole, and tells its client.
pub(crate) fn write<B>(response: http::Response<B>, within: Within, cx: &mut Context<'_>) -> Response
where
    B: Body<Data = Bytes, Error: Into<Error>> + Send + 'static,
{
    let (head, mut body) = response.into_parts();
    let size = body.size_hint().exact();
    let small = size.filter(|size| *size <= INLINE_BYTES);
    let mut bytes = Vec::with_capacity(head.headers.len() * FIELD_BYTES + small.unwrap_or(0) as usize);
    let is_over = body.is_end_stream();
    let (mut fields, mut length) = (0, None);
    for (name, value) in &head.headers {
        if !is_over && name == CONTENT_LENGTH && size.is_some_and(|size| says(value, size)) {
            length = Some(value);
        } else {
            fields::push(name, value, &mut bytes);
            fields += 1;
        }
    }
    let mut fields_len = bytes.len();

    let (mut whole, mut streaming) = (None, None);
    if !is_over {
        // One that may move is boxed only when it goes on after its first poll.
        let here = size.and_then(|size| Some(poll_whole(movable(&mut body)?, size, cx)));
        let polled = match here {
            Some(polled) => polled.map_err(|first| Source { body: Box::pin(body), first, within }),
            None => {
                let mut body = Box::pin(body);
                let polled = size.map_or(Err(None), |size| poll_whole(body.as_mut(), size, cx));
                polled.map_err(|first| Source { body, first, within })
            }
        };
        match polled {
            Ok(data) if small.is_some() => bytes.extend_from_slice(&data),
            Ok(data) => whole = Some(FfiBytes::from(data)),
            Err(source) => streaming = Some(FfiBody::new(source)),
        }
    }
    if let Some(length) = length.filter(|_| streaming.is_some()) {
        fields::push(&CONTENT_LENGTH, length, &mut bytes);
        (fields, fields_len) = (fields + 1, bytes.len());
    }
    Response {
        status: head.status.as_u16(),
        fields,
        fields_len: fields_len as u32,
        bytes: bytes.into(),
        whole: whole.into(),
        body: streaming.into(),
    }
}

/// Whether a field's value is the number `size`.
fn says(value: &HeaderValue, size: u64) -> bool {
    value.to_str().is_ok_and(|text| text.parse() == Ok(size))
}

pin_project! {
    /// A response's body that the host reads.
    struct Source<B> {
        // Boxed: the whole source moves into a box of the border after its first poll.
        body: Pin<Box<B>>,
        // Polled while the head was made, not yet handed over.
        first: Option<FfiFrame>,
        within: Within,
    }
}

/// The body as one that may move, where it is known to be one: axum's own.
#[cfg(feature = "axum")]
fn movable<B: 'static>(body: &mut B) -> Option<Pin<&mut axum::body::Body>> {
    let any: &mut dyn std::any::Any = body;
    any.downcast_mut().map(Pin::new)
}

#[cfg(not(feature = "axum"))]
fn movable<B>(_: &mut B) -> Option<Pin<&mut B>> {
    None
}

/// The body, where one poll gives all of its `size` bytes.
///
/// # Errors
/// What the poll gave otherwise, to be kept for the first frame. (Pending is no loss: the host polls again with a
/// waker of its own.)
fn poll_whole<B>(mut body: Pin<&mut B>, size: u64, cx: &mut Context<'_>) -> Result<Bytes, Option<FfiFrame>>
where
    B: Body<Data = Bytes, Error: Into<Error>>,
{
    let Poll::Ready(polled) = body.as_mut().poll_frame(cx) else { return Err(None) };
    Err(Some(match polled {
        Some(Ok(frame)) => match frame.into_data() {
            // Trailers may follow the last byte.
            Ok(data) if data.len() as u64 == size && body.is_end_stream() => return Ok(data),
            Ok(data) => FfiFrame::Data(data.into()),
            Err(frame) => write_frame(Some(Ok::<_, Error>(frame))),
        },
        other => write_frame(other),
    }))
}

impl<B> BodySource for Source<B>
where
    B: Body<Data = Bytes, Error: Into<Error>> + Send,
{
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> FfiFrame {
        let this = self.project();
        if let Some(first) = this.first.take() {
            return first;
        }
        this.within.enter();
        match catch_unwind(AssertUnwindSafe(|| this.body.as_mut().poll_frame(cx))) {
            Ok(Poll::Pending) => FfiFrame::Pending,
            Ok(Poll::Ready(frame)) => write_frame(frame),
            Err(payload) => {
                FfiFrame::Failed(format!("the body's stream panicked: {}", panic_message(payload)).into())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        if self.first.is_some() {
            // The frame that was taken already counts too, and its size is not known any more.
            return SizeHint { lower: 0, upper: u64::MAX };
        }
        let hint = self.body.size_hint();
        SizeHint { lower: hint.lower(), upper: hint.upper().unwrap_or(u64::MAX) }
    }
}

fn write_frame<E: Into<Error>>(frame: Option<Result<Frame<Bytes>, E>>) -> FfiFrame {
    match frame {
        None => FfiFrame::End,
        Some(Err(error)) => FfiFrame::Failed(describe(error.into().as_ref()).into()),
        Some(Ok(frame)) => match frame.into_data() {
            Ok(data) => FfiFrame::Data(data.into()),
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                let mut bytes = vec![];
                fields::write(&trailers, &mut bytes);
                FfiFrame::Trailers(Bytes::from(bytes).into())
            }
        },
    }
}

/// An error with its causes, on one line.
pub(crate) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Some errors repeat their source in their own text.
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::task::Waker;

    type Piece = Option<Result<Frame<Bytes>, Error>>;

    /// A body that tells its size and comes in pieces; `None`: not yet.
    struct Pieces(u64, VecDeque<Piece>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
            match self.1.pop_front() {
                None => Poll::Ready(None),
                Some(None) => Poll::Pending,
                Some(frame) => Poll::Ready(frame),
            }
        }

        fn is_end_stream(&self) -> bool {
            self.1.is_empty()
        }

        fn size_hint(&self) -> http_body::SizeHint {
            http_body::SizeHint::with_exact(self.0)
        }
    }

    /// A body's size, its pieces, how it crosses, and what the host reads.
    type Case<'a> = (u64, fn() -> Vec<Piece>, &'a str, &'a [&'a str]);

    fn piece(text: &'static str) -> Piece {
        Some(Ok(Frame::data(Bytes::from_static(text.as_bytes()))))
    }

    fn trailers() -> Piece {
        Some(Ok(Frame::trailers(http::HeaderMap::new())))
    }

    fn broken() -> Piece {
        Some(Err("broken".into()))
    }

    fn written(
        response: http::Response<impl Body<Data = Bytes, Error: Into<Error>> + Send + 'static>,
    ) -> Response {
        // The thread that polls stays within a runtime, so it is one for all of them.
        static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
        let new = || tokio::runtime::Builder::new_current_thread().build().unwrap();
        let handle = RUNTIME.get_or_init(new).handle();
        write(response, Within::new(1, handle), &mut Context::from_waker(Waker::noop()))
    }

    /// How the body crosses, and what the host reads of it.
    fn crossed(
        body: impl Body<Data = Bytes, Error: Into<Error>> + Send + 'static,
    ) -> (&'static str, Vec<String>) {
        let written = written(http::Response::new(body));
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let inline = text(&written.bytes.as_ref()[written.fields_len as usize..]);
        let Some(mut body) = written.body.into_option() else {
            return match written.whole.into_option() {
                Some(whole) => ("whole", vec![text(whole.as_ref())]),
                None => ("inline", vec![inline]),
            };
        };
        assert_eq!(inline, "");
        let mut frames = vec![];
        loop {
            frames.push(match body.poll_frame(Waker::noop()) {
                FfiFrame::Pending => continue,
                FfiFrame::Data(bytes) => text(bytes.as_ref()),
                FfiFrame::Trailers(_) => "trailers".into(),
                FfiFrame::Failed(words) => words.into(),
                FfiFrame::End => return ("streams", frames),
            });
            if frames.last().is_some_and(|frame| frame == "broken") {
                return ("streams", frames);
            }
        }
    }

    #[test]
    fn a_body_crosses_whole_or_in_its_pieces_and_nothing_is_lost_or_doubled() {
        static LARGE: [u8; 5000] = [b'a'; 5000];
        let large = std::str::from_utf8(&LARGE).unwrap();
        let cases: [Case<'_>; 8] = [
            (5, || vec![piece("hello")], "inline", &["hello"]),
            (5000, || vec![piece(std::str::from_utf8(&LARGE).unwrap())], "whole", &[large]),
            (5, || vec![None, piece("hello")], "streams", &["hello"]),
            (5, || vec![piece("hel"), None, piece("lo")], "streams", &["hel", "lo"]),
            (5, || vec![piece("hello"), trailers()], "streams", &["hello", "trailers"]),
            (5, || vec![piece("hel"), broken()], "streams", &["hel", "broken"]),
            (5, || vec![broken()], "streams", &["broken"]),
            (5, || vec![trailers()], "streams", &["trailers"]),
        ];
        for (size, pieces, how, frames) in cases {
            let body = || Pieces(size, pieces().into());
            let expected = (how, frames.iter().map(ToString::to_string).collect());
            assert_eq!(crossed(body()), expected, "a service's own");
            assert_eq!(crossed(axum::body::Body::new(body())), expected, "axum's");
        }
        assert_eq!(crossed(Pieces(0, VecDeque::new())), ("inline", vec![String::new()]));
    }
    #[test]
    fn a_length_crosses_unless_the_host_has_all_of_the_body_that_it_says() {
        // The length that the head says, the body's size and pieces, and the fields that cross.
        type Case = (&'static str, u64, fn() -> Vec<Piece>, &'static [&'static str]);
        let cases: [Case; 6] = [
            ("5", 5, || vec![piece("hello")], &["x-a"]),
            ("5", 5, || vec![piece("hel"), piece("lo")], &["x-a", "content-length"]),
            ("5", 5, || vec![None, piece("hello")], &["x-a", "content-length"]),
            // The answer to HEAD has a length and no body.
            ("5", 0, Vec::new, &["content-length", "x-a"]),
            // The host is to see what the application says of itself.
            ("6", 5, || vec![piece("hello")], &["content-length", "x-a"]),
            ("five", 5, || vec![piece("hello")], &["content-length", "x-a"]),
        ];
        for (length, size, pieces, names) in cases {
            let mut response = http::Response::new(Pieces(size, pieces().into()));
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static(length));
            response.headers_mut().insert("x-a", HeaderValue::from_static("1"));
            let written = written(response);
            let bytes = Bytes::copy_from_slice(written.bytes.as_ref());
            let read = fields::read(&bytes, written.fields_len as usize, 2).unwrap();
            assert_eq!(
                read.keys().map(http::HeaderName::as_str).collect::<Vec<_>>(),
                names,
                "{length} {size}"
            );
            assert_eq!(written.fields as usize, names.len());
        }
    }
}

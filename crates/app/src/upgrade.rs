//! Connections that the router takes over itself, as axum's `WebSocketUpgrade` does: pinned to this generation.
//!
//! Such code finds hyper's `OnUpgrade` among the request's extensions, and only a hyper connection can make one. So
//! the request goes through one of this library's own: a client and a server of hyper, connected in memory. What
//! crosses the border is what there was before: the request's body is what the client sends once the connection is
//! taken over, and the body of a response with status 101 is what is sent to it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream as _;
use http::{Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use pin_project_lite::pin_project;
use relmgr_abi::body::FfiBody;
use relmgr_abi::head::RequestHead;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_util::io::ReaderStream;

use crate::{Body, Error, HttpService, within};

/// What waits between the two ends, each way: a few frames of a WebSocket.
const BETWEEN_BYTES: usize = 16 * 1024;

/// Whether a client wants its connection taken over: then there is a body, what it sends from then on.
pub(crate) fn is_asked_for(head: &RequestHead<'_>, body: Option<&FfiBody>) -> bool {
    body.is_some()
        && head.http_version == 11
        && head.fields.iter().any(|field| field.name == header::UPGRADE.as_str())
}

/// Answers such a request.
///
/// # Errors
/// The router's connection broke off.
pub(crate) async fn respond<R: HttpService>(
    router: R,
    request: Request<Body>,
) -> Result<Response<Answer>, Error> {
    let (head, from_client) = request.into_parts();
    let facts = within::facts();
    let (ours, theirs) = tokio::io::duplex(BETWEEN_BYTES);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        within::with_facts(facts, router.clone().respond(request.map(|_| Body::empty())))
    });
    let server = hyper::server::conn::http1::Builder::new();
    let serving = server.serve_connection(TokioIo::new(theirs), service);
    tokio::spawn(async move { drop(serving.with_upgrades().await) });
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(ours)).await?;
    tokio::spawn(async move { drop(connection.with_upgrades().await) });

    let mut response = sender.send_request(Request::from_parts(head, Empty::<Bytes>::new())).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response.map(|body| Answer::Body { body }));
    }
    let upgraded = hyper::upgrade::on(&mut response).await?;
    let (reader, writer) = tokio::io::split(TokioIo::new(upgraded));
    tokio::spawn(forward(from_client, writer));
    Ok(response.map(|_| Answer::Upgraded { stream: ReaderStream::new(reader) }))
}

/// Hands on what the client sends, until it is gone or nobody takes it.
async fn forward(mut from_client: Body, mut writer: WriteHalf<TokioIo<Upgraded>>) {
    while let Some(Ok(frame)) = from_client.frame().await {
        let Ok(bytes) = frame.into_data() else { continue };
        if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
    // The client is gone: the code that took the connection over reads its end.
    let _ = writer.shutdown().await;
}

pin_project! {
    /// What the router answered, or what goes over the connection that it took.
    #[project = AnswerView]
    pub(crate) enum Answer {
        Body { #[pin] body: Incoming },
        Upgraded { #[pin] stream: ReaderStream<ReadHalf<TokioIo<Upgraded>>> },
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.project() {
            AnswerView::Body { body } => body.poll_frame(cx).map_err(Into::into),
            AnswerView::Upgraded { stream } => {
                stream.poll_next(cx).map(|read| read.map(|read| read.map(Frame::data).map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Body { body } => body.is_end_stream(),
            Self::Upgraded { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Body { body } => body.size_hint(),
            Self::Upgraded { .. } => SizeHint::new(),
        }
    }
}

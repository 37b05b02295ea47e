//! WebSockets (RFC 6455) as sessions: the handshake, and frames through tungstenite.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use relmgr_abi::session::{BINARY, Kind, TEXT};
use tokio::io::AsyncReadExt;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Utf8Bytes, error::ProtocolError};

use super::super::body::ResponseBody;
use super::super::connection::{Connection, Turn};
use super::super::front::Front;
use super::super::service::{Origin, plain, with_head};
use super::conversation::{Read, Reader, Writer, carry_on};
use super::deliver::{self, Refused};
use super::end::End;
use super::enter;
use super::hearing::{Clock, Listening};
use super::hub::{Entered, HUB};
use super::session::Out;

/// What is read from a socket at once: idle sessions hold so much. Larger messages take several reads.
const READ_BYTES: usize = 2 * 1024;

/// What is written to a socket at once.
const WRITE_BYTES: usize = 16 * 1024;

/// A close frame's words (RFC 6455, 5.5.1: 125 bytes with the code).
const REASON_BYTES: usize = 123;

/// Whether a client asks for a WebSocket.
pub fn is_asked_for(method: &Method, headers: &HeaderMap) -> bool {
    let websocket = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"websocket");
    method == Method::GET && headers.get(UPGRADE).is_some_and(websocket)
}

/// Where a session begins.
pub struct Beginning {
    /// Where it comes from.
    pub front: Arc<Front>,
    /// Its connection.
    pub connection: Arc<Connection>,
    /// Where the connection comes from.
    pub origin: Origin,
    /// Number of its request.
    pub request_id: u64,
}

/// Answers the handshake. Where it succeeds, the session goes on when the connection has become its own.
pub async fn begin(
    beginning: Beginning,
    head: Parts,
    on_upgrade: OnUpgrade,
    turn: Turn,
) -> Response<ResponseBody> {
    let Beginning { front, connection, origin, request_id } = beginning;
    let accept = match accept_key(&head.headers) {
        Ok(accept) => accept,
        Err(words) => {
            let mut response = plain(StatusCode::BAD_REQUEST, words.into(), turn);
            response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            return response;
        }
    };
    // Before the application hears of it, so that it may send and subscribe at once.
    let mut entered = HUB.enter(Kind::Websocket, head.uri.path().to_owned(), origin.facts);
    let Some(guard) = enter(&front).await else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "no release serves on this node yet\n".into(), turn);
    };
    let asked = with_head(&head, &origin, guard.generation(), request_id, |head| {
        deliver::ask(guard.generation(), &entered.session, Some(head))
    });
    if let Err(Refused { status, words }) = deliver::decided(asked, guard, &entered.session).await {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        return plain(status, words, turn);
    }
    entered.begin();
    let mut response = plain(StatusCode::SWITCHING_PROTOCOLS, String::new(), turn);
    *response.headers_mut() = switching(accept);
    let held = Turn::begin(&connection);
    let session = run(front, connection.clone(), entered, on_upgrade, held);
    connection.set_afterwards(Box::pin(session));
    response
}

fn accept_key(headers: &HeaderMap) -> Result<HeaderValue, &'static str> {
    let version = headers.get(SEC_WEBSOCKET_VERSION);
    if version.is_none_or(|version| version != "13") {
        return Err("a WebSocket of version 13 is spoken here\n");
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or("Sec-WebSocket-Key is missing\n")?;
    let accept = derive_accept_key(key.as_bytes());
    HeaderValue::from_str(&accept).map_err(|_| "Sec-WebSocket-Key is none\n")
}

fn switching(accept: HeaderValue) -> HeaderMap {
    let fields: [(HeaderName, HeaderValue); 3] = [
        (CONNECTION, HeaderValue::from_static("Upgrade")),
        (UPGRADE, HeaderValue::from_static("websocket")),
        (SEC_WEBSOCKET_ACCEPT, accept),
    ];
    fields.into_iter().collect()
}

/// The session, from the handshake's end on. `_held` keeps its connection from being idle.
async fn run(
    front: Arc<Front>,
    connection: Arc<Connection>,
    entered: Entered,
    on_upgrade: OnUpgrade,
    _held: Turn,
) {
    let Ok(upgraded) = on_upgrade.await else {
        // The client was gone before it had the answer.
        entered.session.cut(End::Lost);
        return deliver::close(&front, &entered.session, &End::Lost).await;
    };
    let most = HUB.limits().message_bytes;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(WRITE_BYTES)
        .max_write_buffer_size(usize::MAX)
        .max_message_size(Some(most))
        .max_frame_size(Some(most));
    let clock = Clock::start();
    let stream = Listening::new(TokioIo::new(upgraded), clock.clone());
    let stream = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    let (sink, stream) = stream.split();
    carry_on(&front, &connection, entered, &clock, (SocketReader(stream), SocketWriter(sink))).await;
}

type Stream = WebSocketStream<Listening<TokioIo<Upgraded>>>;

struct SocketReader(SplitStream<Stream>);

impl Reader for SocketReader {
    type Writer = SocketWriter;

    async fn read(&mut self) -> Read {
        match self.0.next().await {
            Some(Ok(Message::Text(text))) => Read::Message(TEXT, text.into()),
            Some(Ok(Message::Binary(bytes))) => Read::Message(BINARY, bytes),
            Some(Ok(Message::Close(frame))) => Read::End(match frame {
                Some(CloseFrame { code, reason }) => {
                    End::Client { code: code.into(), reason: reason.as_str().to_owned() }
                }
                None => End::Client { code: 1005, reason: String::new() },
            }),
            Some(Ok(_)) => Read::Heard,
            Some(Err(error)) => Read::End(end_of(&error)),
            None => Read::End(End::Lost),
        }
    }

    async fn linger(self, writer: SocketWriter) {
        let Ok(stream) = self.0.reunite(writer.0) else { return };
        let (mut raw, mut nobody) = (stream.into_inner(), [0; READ_BYTES]);
        while raw.read(&mut nobody).await.is_ok_and(|read| read > 0) {}
    }
}

fn end_of(error: &Error) -> End {
    match error {
        Error::Capacity(_) => End::TooBig,
        Error::Utf8(_) => End::Protocol { code: 1007 },
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Lost,
        Error::Protocol(_) => End::Protocol { code: 1002 },
        _ => End::Lost,
    }
}

struct SocketWriter(SplitSink<Stream, Message>);

fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl Writer for SocketWriter {
    async fn write(&mut self, out: Out) -> io::Result<()> {
        let message = match out {
            Out::Message(TEXT, bytes) => match Utf8Bytes::try_from(bytes.clone()) {
                Ok(text) => Message::Text(text),
                Err(_) => Message::Binary(bytes),
            },
            Out::Message(_, bytes) => Message::Binary(bytes),
            Out::Ping => Message::Ping(Bytes::new()),
        };
        self.0.feed(message).await.map_err(io_error)
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.0.flush().await.map_err(io_error)
    }

    async fn close(&mut self, end: &End) -> io::Result<()> {
        let said = match end {
            // The answer to its close was queued when that was read.
            End::Client { .. } => self.0.flush().await,
            end => {
                let (code, reason) = end.code();
                let mut len = reason.len().min(REASON_BYTES);
                while !reason.is_char_boundary(len) {
                    len -= 1;
                }
                let frame = CloseFrame { code: code.into(), reason: reason[..len].into() };
                self.0.send(Message::Close(Some(frame))).await
            }
        };
        said.map_err(io_error)
    }
}

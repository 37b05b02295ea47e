//! From a request to the generation that answers it: one atomic load, one call.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, Bytes};
use http::header::{ACCEPT, ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use relmgr_abi::abi_stable::std_types::{RSlice, RStr};
use relmgr_abi::body::FfiBody;
use relmgr_abi::fields;
use relmgr_abi::head::{ConnectionFacts, FieldView, RequestHead, Response as FfiResponse};
use relmgr_abi::session::Kind;
use relmgr_model::settings::Limits;
use smallvec::SmallVec;

use super::body::{HeldBytes, PurgeNotice, RequestSource, ResponseBody, poll_purge};
use super::connection::{Connection, Turn};
use super::front::{Entered, Front, Refused};
use super::generation::{Generation, Held, RequestGuard};
use super::measures::Measures;
use super::sessions::upgraded::{self, Taking};
use super::sessions::websocket::{self, Beginning};
use super::stakes::Stake;
use super::tls::TlsFacts;

/// Requests with more fields take one allocation: browsers send about 20.
const USUAL_FIELDS: usize = 32;

/// Where a connection comes from.
#[derive(Clone)]
pub struct Origin {
    /// Its addresses.
    pub facts: ConnectionFacts,
    /// What was agreed on, where it is encrypted.
    pub tls: Option<Arc<TlsFacts>>,
}

/// What answers the requests of one connection.
pub struct Service {
    front: Arc<Front>,
    connection: Arc<Connection>,
    origin: Origin,
    /// The number of the next request: the connection's in the upper bits.
    next_id: Cell<u64>,
}

impl Service {
    /// `number` is the connection's, from 1.
    pub fn new(front: Arc<Front>, connection: Arc<Connection>, origin: Origin, number: u64) -> Self {
        Self { front, connection, origin, next_id: Cell::new(number << 24) }
    }

    /// What a client may take up.
    pub fn limits(&self) -> &Limits {
        &self.front.limits
    }
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        let turn = Turn::begin(&self.connection);
        if request.uri().path() == self.front.version_path {
            // It is no request of the application's: a code change does not keep it waiting.
            return Answer::ready(match self.front.current.load().as_deref() {
                Some(generation) => version(generation, &request, turn),
                None => refused(Refused::Nobody, turn),
            });
        }
        let limit = self.front.limits.body_bytes;
        if request.body().size_hint().lower() > limit {
            let text = format!("the body is larger than {limit} bytes\n");
            return Answer::ready(plain(StatusCode::PAYLOAD_TOO_LARGE, text, turn));
        }
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        // hyper has an extension for whoever may take the connection over: mostly there is none, which is seen at once.
        let upgrading = !request.extensions().is_empty()
            && request.version() == Version::HTTP_11
            && request.headers().contains_key(UPGRADE)
            && request.body().is_end_stream();
        // Only a glance at who serves: the session enters by the gate of its own.
        if upgrading
            && let Some(current) = self.front.current.load().as_deref()
            && takes_session(current, &request)
        {
            return Answer::Apart { answer: self.begin_session(request, id, turn) };
        }
        match self.front.try_enter() {
            Entered::Serving(guard) if upgrading && guard.generation().offer().upgrades => {
                Answer::Apart { answer: hand_over(self.asking(id), guard, request, turn) }
            }
            Entered::Serving(guard) => dispatch(guard, request, &self.origin, id, limit, turn),
            Entered::Nobody => Answer::ready(refused(Refused::Nobody, turn)),
            Entered::Shut => {
                let (front, asking) = (self.front.clone(), self.asking(id));
                Answer::Held {
                    waiting: Box::pin(async move {
                        match front.enter().await {
                            Ok(guard) if upgrading && guard.generation().offer().upgrades => {
                                Ok(hand_over(asking, guard, request, turn).await)
                            }
                            Ok(guard) => dispatch(guard, request, &asking.origin, id, limit, turn).await,
                            Err(reason) => Ok(refused(reason, turn)),
                        }
                    }),
                }
            }
        }
    }
}

/// Whether the host itself takes the connection over, for a session.
fn takes_session(generation: &Generation, request: &Request<Incoming>) -> bool {
    websocket::is_asked_for(request.method(), request.headers())
        && generation.offer().find(Kind::Websocket, request.uri().path()).is_some()
}

/// A request of one connection.
struct Asking {
    connection: Arc<Connection>,
    origin: Origin,
    id: u64,
}

impl Service {
    fn asking(&self, id: u64) -> Asking {
        Asking { connection: self.connection.clone(), origin: self.origin.clone(), id }
    }

    fn begin_session(&self, mut request: Request<Incoming>, id: u64, turn: Turn) -> Apart {
        let on_upgrade = hyper::upgrade::on(&mut request);
        let (head, _) = request.into_parts();
        let beginning = Beginning {
            front: self.front.clone(),
            connection: self.connection.clone(),
            origin: self.origin.clone(),
            request_id: id,
        };
        Box::pin(websocket::begin(beginning, head, on_upgrade, turn))
    }
}

/// Has the application answer a request whose connection it may take over.
fn hand_over(asking: Asking, guard: RequestGuard, mut request: Request<Incoming>, turn: Turn) -> Apart {
    let Asking { connection, origin, id } = asking;
    let on_upgrade = hyper::upgrade::on(&mut request);
    let websocket = websocket::is_asked_for(request.method(), request.headers());
    let (head, _) = request.into_parts();
    let (feed, source) = upgraded::source(guard.generation().mapping());
    let body = Some(FfiBody::new(source));
    let generation = guard.generation();
    // It may be refused with a small answer.
    connection.is_answered_by(generation.facts.id);
    let future = with_head(&head, &origin, generation, id, |head| generation.call(head, body.into()));
    let answer = Answer::waiting(Held::new(future, guard), head.headers, id, turn);
    Box::pin(async move {
        let mut answer = pin!(answer);
        let Ok(response) = answer.as_mut().await;
        let (head, body) = response.into_parts();
        if head.status != StatusCode::SWITCHING_PROTOCOLS {
            return Response::from_parts(head, body);
        }
        let taken = match body {
            // No bytes of it have been asked for yet, so nobody else has a share in it.
            ResponseBody::Stream { body, stake, turn, .. } => {
                Arc::into_inner(stake).and_then(Stake::into_guard).map(|guard| (body, guard, turn))
            }
            ResponseBody::Whole { .. } => None,
        };
        let Some((body, guard, turn)) = taken else {
            let text = "the application's answer takes nothing over\n".to_owned();
            return plain(StatusCode::INTERNAL_SERVER_ERROR, text, Turn::begin(&connection));
        };
        let held = Turn::begin(&connection);
        let taking = Taking { on_upgrade, feed, body, guard, id, websocket, held };
        connection.set_afterwards(Box::pin(upgraded::run(taking, connection.clone())));
        Response::from_parts(head, ResponseBody::Whole { bytes: None, guard: None, turn })
    })
}

/// Lends `head` to `call` as it crosses the border to `generation`.
pub fn with_head<R>(
    head: &Parts,
    origin: &Origin,
    generation: &Generation,
    id: u64,
    call: impl FnOnce(RequestHead<'_>) -> R,
) -> R {
    let mut fields: SmallVec<[FieldView<'_>; USUAL_FIELDS]> = SmallVec::new();
    if let Some(tls) = origin.tls.as_deref().filter(|_| generation.knows_border_fields) {
        fields.extend(tls.fields());
    }
    for (name, value) in &head.headers {
        let (name, value) = (RStr::from_str(name.as_str()), RSlice::from_slice(value.as_bytes()));
        fields.push(FieldView { name, value });
    }
    call(RequestHead {
        method: RStr::from_str(head.method.as_str()),
        scheme: text(head.uri.scheme_str()),
        authority: text(head.uri.authority().map(http::uri::Authority::as_str)),
        path_and_query: text(head.uri.path_and_query().map(http::uri::PathAndQuery::as_str)),
        http_version: match head.version {
            Version::HTTP_10 => 10,
            Version::HTTP_2 => 20,
            _ => 11,
        },
        fields: RSlice::from_slice(&fields),
        connection: origin.facts,
        request_id: id,
    })
}

fn dispatch(
    guard: RequestGuard,
    request: Request<Incoming>,
    origin: &Origin,
    id: u64,
    limit: u64,
    turn: Turn,
) -> Answer {
    let (head, body) = request.into_parts();
    let generation = guard.generation();
    if !turn.remembers_fields() {
        // Of one with many answers at once nothing of a library's own is left to write without a guard.
        turn.connection().is_answered_by(generation.facts.id);
    }
    let body = (!body.is_end_stream())
        .then(|| FfiBody::new(RequestSource::new(body, limit, generation.mapping().clone())));
    let future = with_head(&head, origin, generation, id, |head| generation.call(head, body.into()));
    Answer::waiting(Held::new(future, guard), head.headers, id, turn)
}

/// An answer that may take the connection over.
type Apart = Pin<Box<dyn Future<Output = Response<ResponseBody>> + Send>>;

pin_project! {
    /// A request being answered.
    #[project = AnswerView]
    pub enum Answer {
        /// By the host itself. Boxed: it is seldom, and would make all of them larger.
        Ready { response: Option<Box<Response<ResponseBody>>> },
        /// When the code change is over that is under way.
        Held { waiting: Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>> + Send>> },
        /// One that may take the connection over.
        Apart { answer: Apart },
        /// By a generation. `headers` is empty: the request's, for the response, whose connection takes it back.
        Waiting { held: Option<Held<FfiResponse>>, begun: Option<Instant>, purge: PurgeNotice, id: u64, turn: Option<Turn>, headers: HeaderMap },
    }
}

impl Answer {
    fn ready(response: Response<ResponseBody>) -> Self {
        Self::Ready { response: Some(Box::new(response)) }
    }

    /// `headers` are the request's, which nobody reads any more.
    fn waiting(held: Held<FfiResponse>, mut headers: HeaderMap, id: u64, turn: Turn) -> Self {
        headers.clear();
        let (held, turn) = (Some(held), Some(turn));
        Self::Waiting { held, begun: Measures::begin(id), purge: None, id, turn, headers }
    }
}

impl Future for Answer {
    type Output = Result<Response<ResponseBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            AnswerView::Held { waiting } => waiting.as_mut().poll(cx),
            AnswerView::Ready { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(*response)),
                None => Poll::Pending,
            },
            AnswerView::Apart { answer } => answer.as_mut().poll(cx).map(Ok),
            AnswerView::Waiting { held, begun, purge, id, turn, headers } => {
                let Some(running) = held.as_mut() else { return Poll::Pending };
                let polled = running.poll(cx);
                if polled.is_pending() && !poll_purge(purge, running.guard().generation(), *id, cx) {
                    return Poll::Pending;
                }
                let (Some(over), Some(turn)) = (held.take(), turn.take()) else { return Poll::Pending };
                let mut guard = over.into_guard();
                let measures = &guard.generation().facts.measures;
                if let Some(begun) = begun {
                    measures.answered(*begun);
                }
                Poll::Ready(Ok(match polled {
                    Poll::Ready(Ok(response)) => answer(response, std::mem::take(headers), guard, *id, turn),
                    // The panic hook in the library has logged it.
                    Poll::Ready(Err(_)) => {
                        measures.failed();
                        guard.answered(StatusCode::INTERNAL_SERVER_ERROR);
                        plain(StatusCode::INTERNAL_SERVER_ERROR, "the handler panicked\n".into(), turn)
                    }
                    Poll::Pending => {
                        guard.answered(StatusCode::SERVICE_UNAVAILABLE);
                        purged(turn)
                    }
                }))
            }
        }
    }
}

/// The library's response as hyper's, its fields in `headers`.
fn answer(
    response: FfiResponse,
    mut headers: HeaderMap,
    mut guard: RequestGuard,
    id: u64,
    turn: Turn,
) -> Response<ResponseBody> {
    // Locals go before the guard, whichever way this ends: what frees them is the library's code.
    let FfiResponse { status, fields_len, bytes, whole, body, .. } = response;
    let fields_len = (fields_len as usize).min(bytes.as_ref().len());
    let is_alone = body.is_none() && whole.is_none();
    let (read, small) = if is_alone && !turn.remembers_fields() {
        // In place: head and small body share one owner, which costs less than a copy that both share.
        let mut bytes = HeldBytes::wrap(bytes, guard.generation().mapping());
        let read = fields::read_into(&mut headers, &bytes, fields_len);
        bytes.advance(fields_len);
        (read, bytes)
    } else {
        // What a connection remembers must not keep the library in memory after its release has gone, and neither
        // must a body whose client's window stays closed for as long as it likes: both are the host's own.
        let (fields, small) = bytes.as_ref().split_at(fields_len);
        let copied = (fields::copy_into(&mut headers, fields), Bytes::copy_from_slice(small));
        drop(bytes);
        copied
    };
    let (Ok(()), Ok(status)) = (read, StatusCode::from_u16(status)) else {
        guard.generation().facts.measures.failed();
        guard.answered(StatusCode::INTERNAL_SERVER_ERROR);
        let text = "the application's response is no HTTP\n".to_owned();
        return plain(StatusCode::INTERNAL_SERVER_ERROR, text, turn);
    };
    guard.answered(status);
    let is_last = turn.is_last();
    if status.is_server_error() {
        guard.generation().facts.measures.failed();
    }
    let body = match (body.into_option(), whole.into_option()) {
        (Some(body), _) => {
            let sized = headers.contains_key(CONTENT_LENGTH);
            let stake = Arc::new(Stake::new(guard, turn.connection().clone()));
            ResponseBody::Stream { body, purge: None, id, stake, sized, turn }
        }
        (None, Some(held)) => {
            let stake = Stake::new(guard, turn.connection().clone());
            ResponseBody::Whole { bytes: Some(HeldBytes::whole(held, stake)), guard: None, turn }
        }
        (None, None) => {
            let guard = (!turn.remembers_fields()).then_some(guard);
            ResponseBody::Whole { bytes: Some(small), guard, turn }
        }
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    if is_last {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

fn text(text: Option<&str>) -> RStr<'_> {
    RStr::from_str(text.unwrap_or(""))
}

/// A response of the host's own.
pub fn plain(status: StatusCode, text: String, turn: Turn) -> Response<ResponseBody> {
    let is_last = turn.is_last();
    let mut response = Response::new(ResponseBody::Whole { bytes: Some(text.into()), guard: None, turn });
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if is_last {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn refused(reason: Refused, turn: Turn) -> Response<ResponseBody> {
    let text = match reason {
        Refused::Nobody => "no release serves on this node yet\n",
        Refused::NoRoom => "a code change is under way, and too many requests wait for it\n",
    };
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, text.to_owned(), turn);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn purged(turn: Turn) -> Response<ResponseBody> {
    let text = "the release that was answering was retired\n".to_owned();
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, text, turn);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The version endpoint, answered by the generation that would have served the request.
fn version(generation: &Generation, request: &Request<Incoming>, turn: Turn) -> Response<ResponseBody> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "ask with GET\n".into(), turn);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let facts = &generation.facts;
    if !wants_json(request.headers()) {
        return plain(StatusCode::OK, facts.version.to_string(), turn);
    }
    let body = serde_json::json!({
        "version": facts.version,
        "build_id": facts.build_id,
        "sha256": facts.sha256,
        "conf": facts.conf_hash(),
        "status": if facts.is_permanent() { "permanent" } else { "current" },
        "since": facts.since(),
        "prev": facts.prev,
    });
    let mut response = plain(StatusCode::OK, body.to_string(), turn);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn wants_json(headers: &HeaderMap) -> bool {
    let accepts = |value: &HeaderValue| value.to_str().is_ok_and(|value| value.contains("application/json"));
    headers.get_all(ACCEPT).iter().any(accepts)
}

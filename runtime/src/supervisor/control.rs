//! The control socket: HTTP with JSON over a Unix socket (the table is in `relmgr_model::control`).

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use relmgr_model::control::{Fault, OperationRequest};
use relmgr_model::recording::RecordingRequest;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::conf;
use super::handler::{self, OperationError};
use super::node::{End, Node};
use super::peer::Peer;
use super::pull;
use super::recording::{self, RecordingError};

/// A request for an operation takes a few hundred bytes.
const REQUEST_BYTES: usize = 64 * 1024;

type Body = BoxBody<Bytes, Infallible>;

/// Binds the control socket at `path`, mode 0660. The socket of a dead supervisor makes way: who calls this holds
/// the home's lock.
///
/// # Errors
/// What the system says.
pub fn bind(path: &Path) -> std::io::Result<StdUnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = StdUnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o660))?;
    Ok(listener)
}

/// A listening socket for [`serve`], of the one that the supervisor holds.
///
/// # Errors
/// What the system says.
pub fn listen(control: &OwnedFd) -> std::io::Result<UnixListener> {
    UnixListener::from_std(control.try_clone()?.into())
}

/// Serves until the process ends.
pub async fn serve(node: Arc<Node>, listener: UnixListener) {
    loop {
        let Some(accepted) = node.door.let_in(listener.accept()).await else { continue };
        match accepted {
            Ok((stream, _)) => drop(tokio::spawn(serve_one(node.clone(), stream))),
            Err(error) => {
                tracing::warn!(%error, "the control socket");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_one(node: Arc<Node>, stream: UnixStream) {
    let peer = match Peer::of(&stream) {
        Ok(peer) => peer,
        Err(error) => return tracing::warn!(%error, "the control socket's peer"),
    };
    let service = service_fn(move |request| {
        let node = node.clone();
        async move {
            let _visit = node.door.visit();
            Ok::<_, Infallible>(answer(&node, request, peer).await)
        }
    });
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a control connection ended early");
    }
}

async fn answer(node: &Arc<Node>, request: Request<Incoming>, peer: Peer) -> Response<Body> {
    let Peer { uid, may_speak } = peer;
    if !may_speak {
        let asked = format!("{} {}", request.method(), request.uri().path());
        tracing::warn!(
            asked,
            "a release on trial asked something of the node that tries it, and was refused"
        );
        let error = "a release on trial does not speak with the node that tries it".into();
        let hint = Some("leave it to the application's start: its check runs in preflight".into());
        return json(StatusCode::FORBIDDEN, &Fault { error, hint });
    }
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/v1/ping") => json(StatusCode::OK, &node.pong()),
        (&Method::GET, "/v1/status") => json(StatusCode::OK, &node.status().await),
        (&Method::GET, "/v1/releases") => json(StatusCode::OK, &node.releases()),
        (&Method::GET, "/v1/conf/effective") => told(conf::effective(node, request.uri().query()).await),
        (&Method::GET, "/v1/conf/diff") => told(conf::differences(node).await),
        (&Method::POST, "/v1/operations") => match read_request::<OperationRequest>(request).await {
            Ok(request) => operate(node, request, uid),
            Err(fault) => json(StatusCode::BAD_REQUEST, &fault),
        },
        (&Method::POST, "/v1/pull/now") => match pull::now(node) {
            Ok(lines) => ndjson(lines),
            Err((status, fault)) => json(status, &fault),
        },
        (&Method::POST, "/v1/pull/pause") => told(pull::pause(node, uid)),
        (&Method::POST, "/v1/pull/resume") => told(pull::resume(node, uid)),
        (&Method::POST, "/v1/state/save") => match read_request(request).await {
            Ok(RecordingRequest { directory }) => {
                let node = node.clone();
                recorded(to_its_end(async move { recording::save(&node, directory, uid).await }).await)
            }
            Err(fault) => json(StatusCode::BAD_REQUEST, &fault),
        },
        (&Method::POST, "/v1/state/load") => match read_request(request).await {
            Ok(RecordingRequest { directory }) => {
                let node = node.clone();
                recorded(to_its_end(async move { recording::load(&node, directory, uid).await }).await)
            }
            Err(fault) => json(StatusCode::BAD_REQUEST, &fault),
        },
        (&Method::POST, "/v1/stop") => {
            tracing::info!(uid, "stop was asked for");
            node.end_for(End::Asked);
            json(StatusCode::OK, &node.pong())
        }
        (method, path) => {
            let error = format!("there is no {method} {path}");
            let known = "GET /v1/ping, /v1/status, /v1/releases, /v1/conf/effective, /v1/conf/diff; \
                         POST /v1/operations, /v1/pull/now, /v1/pull/pause, /v1/pull/resume, \
                         /v1/state/save, /v1/state/load, /v1/stop";
            json(StatusCode::NOT_FOUND, &Fault { error, hint: Some(known.into()) })
        }
    }
}

async fn read_request<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Fault> {
    let fault = |error: String| Fault { error, hint: None };
    let body = Limited::new(request.into_body(), REQUEST_BYTES).collect().await;
    let body = body.map_err(|error| fault(format!("the request was not read: {error}")))?;
    serde_json::from_slice(&body.to_bytes())
        .map_err(|error| fault(format!("the request does not parse: {error}")))
}

fn operate(node: &Arc<Node>, request: OperationRequest, uid: u32) -> Response<Body> {
    let progress = match handler::begin(node, request, uid) {
        Ok(progress) => progress,
        Err(fault) => return json(StatusCode::CONFLICT, &fault),
    };
    ndjson(progress)
}

/// One value a line, as they come.
fn ndjson<T: Serialize + Send + Sync + 'static>(values: UnboundedReceiver<T>) -> Response<Body> {
    let lines = UnboundedReceiverStream::new(values).map(|value| {
        // Every one of them has a JSON form.
        let mut line = serde_json::to_vec(&value).unwrap_or_default();
        line.push(b'\n');
        Ok(Frame::data(Bytes::from(line)))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(lines)));
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/x-ndjson"));
    response
}

/// Whoever asked may go away; what was begun with the host, requests that wait among it, is brought to its end.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, RecordingError>> + Send + 'static,
) -> Result<T, RecordingError> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(RecordingError::Host(error.to_string())))
}

/// What became of a recording.
fn recorded<T: Serialize>(result: Result<T, RecordingError>) -> Response<Body> {
    match result {
        Ok(value) => json(StatusCode::OK, &value),
        Err(error) => {
            let status = match error {
                RecordingError::Busy => StatusCode::CONFLICT,
                _ => StatusCode::UNPROCESSABLE_ENTITY,
            };
            json(status, &Fault { error: error.describe(), hint: None })
        }
    }
}

/// What was asked for, or why there is none.
fn told<T: Serialize>(result: Result<T, OperationError>) -> Response<Body> {
    match result {
        Ok(value) => json(StatusCode::OK, &value),
        Err(error) => json(StatusCode::UNPROCESSABLE_ENTITY, &Fault { error: error.describe(), hint: None }),
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let text = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

//! The admin listener: what a node is, for those who watch it. The supervisor answers, so that there is an answer also
//! while there is no host.
//!
//! | path | answer |
//! | --- | --- |
//! | `/metrics` | Prometheus' text format 0.0.4; docs/metrics.md has the table |
//! | `/healthz` | 200: the supervisor lives |
//! | `/readyz` | 200: a release serves and is healthy; 503 with the reason |
//! | `/` | the node on a page, for people |
//!
//! Nothing can be changed here, and nobody is asked who they are: hence loopback, unless the operator knows better.

mod metrics;
mod page;
mod ready;
mod tally;

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

pub use tally::{Metrics, count};

use super::node::Node;
use ready::Readiness;

/// Connections at once; further ones wait in the backlog. A few scrapers, a load balancer's checks and a person.
const CONNECTIONS: usize = 16;

/// From the connection's start to the end of a request's head.
const HEADER_TIME: Duration = Duration::from_secs(5);

/// A request's line and headers together, in bytes.
const HEADER_BYTES: usize = 16 * 1024;

/// A connection with its one request may take so long: a health check's deadline, and a slow reader.
const LIFETIME: Duration = Duration::from_secs(20);

/// After an accept that failed, for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";

/// A listening socket for [`serve`].
///
/// # Errors
/// What the system says.
pub fn listen(socket: OwnedFd) -> std::io::Result<TcpListener> {
    TcpListener::from_std(std::net::TcpListener::from(socket))
}

/// Serves until the process ends.
pub async fn serve(node: Arc<Node>, listener: TcpListener) {
    let (permits, readiness) = (Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(Readiness::default()));
    loop {
        let permit = permits.clone().acquire_owned().await;
        let Some(accepted) = node.door.let_in(listener.accept()).await else { continue };
        match accepted {
            Ok((stream, _)) => {
                let served =
                    tokio::time::timeout(LIFETIME, serve_one(node.clone(), readiness.clone(), stream));
                tokio::spawn(async move {
                    if served.await.is_err() {
                        tracing::debug!("a connection to the admin listener took too long");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin listener");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One request: a scrape every few seconds needs no connection that stays, and those that stay would need limits of
/// their own.
async fn serve_one(node: Arc<Node>, readiness: Arc<Readiness>, stream: TcpStream) {
    let service = service_fn(move |request| {
        let (node, readiness) = (node.clone(), readiness.clone());
        async move {
            let _visit = node.door.visit();
            Ok::<_, Infallible>(answer(&node, &readiness, &request).await)
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .keep_alive(false)
        .max_buf_size(HEADER_BYTES)
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to the admin listener ended early");
    }
}

async fn answer(
    node: &Arc<Node>,
    readiness: &Readiness,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if !["/", "/metrics", "/healthz", "/readyz"].contains(&path) {
        return text(StatusCode::NOT_FOUND, "there are /, /metrics, /healthz and /readyz\n".into());
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "ask with GET\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/healthz" => text(StatusCode::OK, "alive\n".into()),
        "/readyz" => match readiness.ask(node).await {
            Ok(version) => text(StatusCode::OK, format!("{version} serves\n")),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
        },
        "/metrics" => match metrics::render(&metrics::snapshot(node).await) {
            Ok(metrics) => respond(StatusCode::OK, metrics::CONTENT_TYPE, metrics),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        _ => respond(StatusCode::OK, "text/html; charset=utf-8", page::of(node).await),
    }
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    respond(status, TEXT, text)
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

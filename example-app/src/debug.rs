//! Handlers that sleep, stream, echo and panic, for tests and benchmarks.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Query;
use axum::http::{HeaderValue, StatusCode};
use axum::response::AppendHeaders;
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::{Value, json};

/// The routes, below `/debug`.
pub fn router() -> Router {
    Router::new()
        .route("/json", get(async || Json(json!({"ok": true}))))
        .route("/bytes", get(bytes))
        .route("/sleep", get(sleep))
        .route("/stream", get(stream_chunks))
        .route("/echo", post(async |body: Body| body))
        .route("/sink", post(sink))
        .route("/headers", get(headers))
        .route("/panic", get(panics))
}

#[derive(Deserialize)]
struct Size {
    n: usize,
}

/// `n` bytes, at most 64 MiB.
async fn bytes(Query(Size { n }): Query<Size>) -> Result<Bytes, StatusCode> {
    static ZEROES: [u8; 64 * 1024] = [b'x'; 64 * 1024];
    match n {
        n if n <= ZEROES.len() => Ok(Bytes::from_static(&ZEROES[..n])),
        n if n <= 64 << 20 => Ok(vec![b'x'; n].into()),
        _ => Err(StatusCode::BAD_REQUEST),
    }
}

#[derive(Deserialize)]
struct Time {
    ms: u64,
}

async fn sleep(Query(Time { ms }): Query<Time>) -> String {
    tokio::time::sleep(Duration::from_millis(ms)).await;
    format!("slept {ms} ms\n")
}

#[derive(Deserialize)]
struct Chunks {
    chunks: u64,
    interval_ms: u64,
}

/// Lines, one after the other.
async fn stream_chunks(Query(Chunks { chunks, interval_ms }): Query<Chunks>) -> Body {
    Body::from_stream(stream::unfold(0, move |number| async move {
        if number == chunks {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(interval_ms)).await;
        Some((Ok::<_, Infallible>(format!("chunk {number}\n")), number + 1))
    }))
}

/// Reads an upload frame by frame, without gathering it.
async fn sink(mut body: Body) -> Result<Json<Value>, (StatusCode, String)> {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
    Ok(Json(json!({"bytes": bytes})))
}

/// Fields with an order and duplicates.
async fn headers() -> (AppendHeaders<[(&'static str, HeaderValue); 3]>, &'static str) {
    let field = |name, value| (name, HeaderValue::from_static(value));
    (
        AppendHeaders([field("x-first", "1"), field("set-cookie", "a=1"), field("set-cookie", "b=2")]),
        "see above\n",
    )
}

async fn panics() -> &'static str {
    panic!("asked to panic")
}

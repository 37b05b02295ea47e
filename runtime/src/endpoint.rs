//! The version endpoint, asked as a client asks it.

use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// A question, or its answer, is smaller.
pub const QUESTION: usize = 4096;

/// Why no version was answered.
pub type AskError = Box<dyn std::error::Error + Send + Sync>;

/// Asks over `stream`, and closes it.
///
/// # Errors
/// The connection's, or the status that was answered instead.
pub async fn ask_version<S>(stream: S, path: &str) -> Result<String, AskError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::get(path)
        .header(http::header::HOST, "localhost")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<bytes::Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), QUESTION).collect().await?.to_bytes();
    connection.abort();
    if status.is_success() {
        Ok(String::from_utf8_lossy(&body).into_owned())
    } else {
        Err(format!("it answers {status}").into())
    }
}

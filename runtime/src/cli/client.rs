//! The command line's side of the control socket.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use relmgr_model::control::Fault;
use relmgr_model::home::Home;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::error::{CommandError, Kind};

/// A node that lives answers what it knows in less than a millisecond; its host has a second to say what is
/// loaded.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to a node.
pub struct Client {
    home: Home,
    sender: SendRequest<Full<Bytes>>,
    connection: JoinHandle<Result<(), hyper::Error>>,
}

impl Client {
    /// Connects to the node at `home`.
    ///
    /// # Errors
    /// [`Kind::NotRunning`] where nobody answers.
    pub async fn connect(home: &Home) -> Result<Self, CommandError> {
        let socket = home.control_socket();
        let stream = UnixStream::connect(&socket).await.map_err(|error| no_connection(home, &error))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| went_away(&error))?;
        Ok(Self { home: home.clone(), sender, connection: tokio::spawn(connection) })
    }

    /// Asks for what `path` holds.
    ///
    /// # Errors
    /// What the node says, or that it says nothing.
    pub async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, CommandError> {
        let asked = self.ask(Method::GET, path, Bytes::new()).await;
        if !asked.as_ref().is_err_and(CommandError::is_cut) {
            return asked;
        }
        // Another relmgr may have taken over in this very moment; a question can be asked twice.
        *self = Self::connect(&self.home).await?;
        self.ask(Method::GET, path, Bytes::new()).await
    }

    /// Posts to `path` without a body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, CommandError> {
        self.ask(Method::POST, path, Bytes::new()).await
    }

    /// Posts `body` to `path` and waits for the answer for as long as that takes.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post_with<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CommandError> {
        let body = serde_json::to_vec(body).map_err(|error| unreadable(&error))?;
        let response = self.send(Method::POST, path, body.into()).await?;
        let body = response.into_body().collect().await.map_err(|error| went_away(&error))?;
        serde_json::from_slice(&body.to_bytes()).map_err(|error| unreadable(&error))
    }

    /// Posts `body` to `path`; the answer is one value a line.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post_lines(&mut self, path: &str, body: &impl Serialize) -> Result<Lines, CommandError> {
        let body = serde_json::to_vec(body).map_err(|error| unreadable(&error))?;
        let response = self.send(Method::POST, path, body.into()).await?;
        Ok(Lines { body: response.into_body(), buffer: BytesMut::new() })
    }

    /// Waits until the node has closed the connection: it has ended.
    pub async fn closed(self) {
        let Self { sender, connection, .. } = self;
        let _ = connection.await;
        drop(sender);
    }

    async fn ask<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, CommandError> {
        let answer = async {
            let response = self.send(method, path, body).await?;
            let body = response.into_body().collect().await.map_err(|error| went_away(&error))?;
            serde_json::from_slice(&body.to_bytes()).map_err(|error| unreadable(&error))
        };
        tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| {
            Err(CommandError::new(Kind::Failed, "the node accepts connections and does not answer")
                .hint("its log says more; `relmgr stop` and a new start may be the way out"))
        })
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, CommandError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "node")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| unreadable(&error))?;
        let response = self.sender.send_request(request).await.map_err(|error| went_away(&error))?;
        let status = response.status();
        if status.is_success() { Ok(response) } else { Err(refusal(status, response).await) }
    }
}

async fn refusal(status: StatusCode, response: Response<Incoming>) -> CommandError {
    match response.into_body().collect().await {
        Ok(body) => {
            let body = body.to_bytes();
            let fault = serde_json::from_slice(&body).unwrap_or_else(|_| Fault {
                error: format!("the node answered {status}: {}", String::from_utf8_lossy(&body).trim()),
                hint: Some("is this relmgr of the same version as the node? `relmgr ping` tells".into()),
            });
            CommandError::refused(status, fault)
        }
        Err(error) => went_away(&error),
    }
}

/// An answer of one JSON value a line.
pub struct Lines {
    body: Incoming,
    buffer: BytesMut,
}

impl Lines {
    /// The next value; `None`: the answer is over.
    ///
    /// # Errors
    /// The node died, or speaks another protocol.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, CommandError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return serde_json::from_slice(&line).map(Some).map_err(|error| unreadable(&error));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend(frame.into_data().ok()),
                Some(Err(error)) => return Err(went_away(&error)),
                None => return Ok(None),
            }
        }
    }
}

fn no_connection(home: &Home, error: &std::io::Error) -> CommandError {
    let (place, socket) = (home.path().display(), home.control_socket());
    let not_running = |words| CommandError::new(Kind::NotRunning, words);
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused if !home.settings().exists() => {
            not_running(format!("{place} is not a node's home: it has no relmgr.toml"))
                .hint("name the home with `--home DIR` or RELMGR_HOME")
        }
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            not_running(format!("no node is running at {place}"))
                .hint(format!("start it with `relmgr run --home {place}`"))
        }
        ErrorKind::PermissionDenied => {
            let words = format!("{} is not open to this user", socket.display());
            CommandError::new(Kind::Failed, words)
                .because(error)
                .hint("run the command as the node's user, or as a member of the socket's group")
        }
        _ => CommandError::new(Kind::Failed, format!("{} cannot be connected to", socket.display()))
            .because(error),
    }
}

fn went_away(error: &hyper::Error) -> CommandError {
    CommandError::new(Kind::Failed, "the node went away before its answer was complete")
        .cut()
        .because(error)
        .hint("`relmgr status` says what serves now, `relmgr history` how the operation ended")
}

fn unreadable(error: &(dyn std::error::Error + 'static)) -> CommandError {
    CommandError::new(Kind::Failed, "the node and this command do not understand each other")
        .because(error)
        .hint("is this relmgr of the same version as the node? `relmgr ping` tells")
}

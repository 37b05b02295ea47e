//! One session, as a handler meets it.

use std::net::SocketAddr;

use bytes::Bytes;
use relmgr_abi::session::{SessionView, matches};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Message, SendError, SessionHandle};
use crate::{Error, RequestInfo};

/// A session, for the time of one call.
#[derive(Debug)]
pub struct Session {
    handle: SessionHandle,
    pattern: String,
    path: String,
    info: RequestInfo,
    schema: u32,
    state: Bytes,
    changed: bool,
}

impl Session {
    pub(super) fn new(view: &SessionView<'_>, pattern: &str) -> Self {
        Self {
            handle: SessionHandle::new(view.id),
            pattern: pattern.to_owned(),
            path: view.path.to_string(),
            info: RequestInfo::from((view.connection, view.id)),
            schema: view.schema,
            state: Bytes::copy_from_slice(&view.state),
            changed: false,
        }
    }

    /// What to keep where somebody else is to speak to it later.
    pub fn handle(&self) -> SessionHandle {
        self.handle
    }

    /// The path that a WebSocket asked for, or the listener's name.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What `{name}` stands for in its path.
    pub fn param(&self, name: &str) -> Option<&str> {
        let names = matches(&self.pattern, &self.path)?;
        names.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// The client.
    pub fn peer(&self) -> SocketAddr {
        self.info.peer
    }

    /// The facts of its connection; `id` is the session's number.
    pub fn info(&self) -> RequestInfo {
        self.info
    }

    /// Sends it a message; see [`SessionHandle::send`].
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&self, message: impl Into<Message>) -> Result<(), SendError> {
        self.handle.send(message)
    }

    /// Ends it; see [`SessionHandle::close`].
    ///
    /// # Errors
    /// [`SendError::Gone`].
    pub fn close(&self, code: u16, reason: &str) -> Result<(), SendError> {
        self.handle.close(code, reason)
    }

    /// Has it get what is published to `topic`; see [`SessionHandle::subscribe`].
    ///
    /// # Errors
    /// [`SendError::Gone`].
    pub fn subscribe(&self, topic: &str) -> Result<(), SendError> {
        self.handle.subscribe(topic)
    }

    /// Has it get no more of what is published to `topic`.
    ///
    /// # Errors
    /// [`SendError::Gone`].
    pub fn unsubscribe(&self, topic: &str) -> Result<(), SendError> {
        self.handle.unsubscribe(topic)
    }

    /// What was last kept with [`Session::set_state`]; `None`: nothing was.
    ///
    /// # Errors
    /// It does not decode: another release wrote it in another form. [`Session::schema`] says in which.
    pub fn state<T: DeserializeOwned>(&self) -> Result<Option<T>, Error> {
        if self.state.is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(&self.state).map(Some).map_err(|error| {
            format!("the session's state, of schema {}, is in another form: {error}", self.schema).into()
        })
    }

    /// Keeps `state` for the session's next event, which may come to another release. The host has room for
    /// `sessions.state_bytes`; whoever needs more keeps it elsewhere, by the session's number.
    ///
    /// # Errors
    /// It has no JSON form.
    pub fn set_state<T: Serialize>(&mut self, state: &T) -> Result<(), Error> {
        self.state = serde_json::to_vec(state)?.into();
        self.changed = true;
        Ok(())
    }

    /// The number of the state's form, which is the application's to choose; 0 at first.
    pub fn schema(&self) -> u32 {
        self.schema
    }

    /// Says in which form the state is kept from now on.
    pub fn set_schema(&mut self, schema: u32) {
        self.schema = schema;
        self.changed = true;
    }

    pub(super) fn changed(self) -> (u32, Option<Bytes>) {
        (self.schema, self.changed.then_some(self.state))
    }
}

/// What a session begins with.
#[derive(Debug)]
pub struct Opening {
    /// The request of a WebSocket: path, query, fields. Raw TCP has none.
    pub request: Option<http::request::Parts>,
}

/// Why a client gets no session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub(super) status: u16,
    pub(super) words: String,
}

impl Refusal {
    /// With an HTTP status, and words for the client.
    pub fn new(status: http::StatusCode, words: impl Into<String>) -> Self {
        Self { status: status.as_u16(), words: words.into() }
    }
}

impl Refusal {
    /// For an error of the application's own: 500, and the error's words go to the log alone.
    pub fn failed(error: impl Into<Error>) -> Self {
        let words = crate::response::describe(error.into().as_ref());
        crate::log::send(1, "relmgr_app", &format!("a session did not begin: {words}"));
        Self::new(http::StatusCode::INTERNAL_SERVER_ERROR, "the session could not begin")
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::failed(error)
    }
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionEnd {
    /// The WebSocket's close code, from whoever closed it; 1006: the connection broke off.
    pub code: u16,
    /// In words.
    pub reason: String,
}

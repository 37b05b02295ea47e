//! Long conversations (WebSocket, raw TCP) that live across upgrades.
//!
//! The socket is the host's. What a client says comes to whichever release is current then, one message of a session
//! after the other; what the application wants to remember of a session is its small [state](Session::set_state),
//! which the host keeps. A session can be spoken to from anywhere, by every release that is loaded, through its
//! [`SessionHandle`] or through topics ([`Session::subscribe`], [`Context::publish`](crate::Context::publish)).
//!
//! ```
//! use relmgr_app::{Error, Message, Session, SessionHandler, Sessions};
//!
//! /// Says how many messages there have been.
//! struct Counter;
//!
//! impl SessionHandler for Counter {
//!     async fn message(&self, session: &mut Session, _message: Message) -> Result<(), Error> {
//!         let count = session.state::<u64>()?.unwrap_or_default() + 1;
//!         session.set_state(&count)?;
//!         session.send(format!("{count} so far"))?;
//!         Ok(())
//!     }
//! }
//!
//! # let _: Sessions =
//! Sessions::none().websocket("/counter", Counter).tcp("counter", Counter)
//! # ;
//! ```

mod call;
mod handle;
mod message;
mod session;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use relmgr_abi::session::{Endpoint, Kind, Offer};

use crate::Error;

pub(crate) use call::{begin, over, said};
pub(crate) use handle::publish;
pub use handle::{SendError, SessionHandle};
pub use message::Message;
pub use session::{Opening, Refusal, Session, SessionEnd};

/// What answers the sessions of one path or listener.
///
/// A session has no object of its own here: each event may come to another release. The calls for one session come one
/// after the other, those for different sessions at the same time. What a session is sent during a call goes out at
/// once; its state is kept when the call succeeds.
pub trait SessionHandler: Send + Sync + 'static {
    /// A client wants to begin a session.
    ///
    /// # Errors
    /// Whoever is refused gets no session, but the refusal's HTTP status; on raw TCP the connection is closed.
    fn open(
        &self,
        _session: &mut Session,
        _opening: Opening,
    ) -> impl Future<Output = Result<(), Refusal>> + Send {
        async { Ok(()) }
    }

    /// A message came.
    ///
    /// # Errors
    /// They are logged and end the session with 1011 (internal error), as a panic does.
    fn message(
        &self,
        session: &mut Session,
        message: Message,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// The session is over; nothing reaches its client any more.
    fn close(&self, _session: &mut Session, _end: SessionEnd) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// Which sessions an application takes.
#[derive(Default)]
pub struct Sessions(Vec<Entry>);

struct Entry {
    endpoint: Endpoint,
    handler: Arc<dyn Handler>,
}

impl Sessions {
    /// None.
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// WebSockets at a path, whose segments are literal or `{name}`, for any one segment: `/polls/{id}/live`. The
    /// router does not see their requests; others at the same path it does.
    pub fn websocket(self, path: &str, handler: impl SessionHandler) -> Self {
        self.with(Kind::Websocket, path, handler)
    }

    /// Raw TCP connections to the listener of this name (`[listen.tcp.<name>]` in the node's relmgr.toml, which
    /// also says what a message is there).
    pub fn tcp(self, listener: &str, handler: impl SessionHandler) -> Self {
        self.with(Kind::Tcp, listener, handler)
    }

    fn with(mut self, kind: Kind, name: &str, handler: impl SessionHandler) -> Self {
        self.0.push(Entry { endpoint: Endpoint { kind, name: name.to_owned() }, handler: Arc::new(handler) });
        self
    }

    pub(crate) fn offer(&self) -> Offer {
        let endpoints = self.0.iter().map(|entry| entry.endpoint.clone()).collect();
        Offer { endpoints, upgrades: cfg!(feature = "upgrade") }
    }

    fn entry(&self, at: u32) -> Option<&Entry> {
        self.0.get(usize::try_from(at).ok()?)
    }
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// [`SessionHandler`] as an object.
trait Handler: Send + Sync {
    fn open<'a>(&'a self, session: &'a mut Session, opening: Opening) -> Boxed<'a, Result<(), Refusal>>;
    fn message<'a>(&'a self, session: &'a mut Session, message: Message) -> Boxed<'a, Result<(), Error>>;
    fn close<'a>(&'a self, session: &'a mut Session, end: SessionEnd) -> Boxed<'a, ()>;
}

impl<H: SessionHandler> Handler for H {
    fn open<'a>(&'a self, session: &'a mut Session, opening: Opening) -> Boxed<'a, Result<(), Refusal>> {
        Box::pin(SessionHandler::open(self, session, opening))
    }

    fn message<'a>(&'a self, session: &'a mut Session, message: Message) -> Boxed<'a, Result<(), Error>> {
        Box::pin(SessionHandler::message(self, session, message))
    }

    fn close<'a>(&'a self, session: &'a mut Session, end: SessionEnd) -> Boxed<'a, ()> {
        Box::pin(SessionHandler::close(self, session, end))
    }
}

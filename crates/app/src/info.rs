//! What the host tells the application.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use relmgr_abi::root::HostRef;

use crate::tables::{Key, Record, Table, TableError, Tables};

use tokio::sync::watch;

use crate::sessions;
use crate::within::{self, Facts};
use crate::{Message, SessionHandle};

/// Settings of an application that has none: a key in `app.conf` is an error.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}

/// Where and as what the application runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    version: String,
    directory: PathBuf,
    tables: Mutex<Access>,
    /// The application has started; changed and looked at under the lock of `tables`.
    started: AtomicBool,
    winding_up: watch::Receiver<bool>,
}

/// How the tables are reached.
enum Access {
    /// Nobody has asked for them.
    Host(HostRef),
    Open(Tables),
    /// The generation is over.
    Closed,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Host(_) => "not asked for",
            Self::Open(_) => "open",
            Self::Closed => "closed",
        })
    }
}

impl Context {
    pub(crate) fn new(
        version: String,
        directory: PathBuf,
        host: HostRef,
        winding_up: watch::Receiver<bool>,
    ) -> Self {
        let (tables, started) = (Mutex::new(Access::Host(host)), AtomicBool::new(false));
        Self(Arc::new(Inner { version, directory, tables, started, winding_up }))
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn alone(version: &str, tables: Tables) -> Self {
        let (tables, started) = (Mutex::new(Access::Open(tables)), AtomicBool::new(false));
        // Nobody winds it up.
        let (_, winding_up) = watch::channel(false);
        let (version, directory) = (version.into(), PathBuf::new());
        Self(Arc::new(Inner { version, directory, tables, started, winding_up }))
    }

    /// Opens a state table, making it when it is not there; see [`tables`](crate::tables). To be called in
    /// [`start`](crate::Application::start), so that a table that cannot be opened is a reason not to upgrade, and what a
    /// release has open is known before it serves; later only for a table that was opened in it.
    ///
    /// # Errors
    /// [`TableError::Type`] where it holds other keys or records, [`TableError::Late`] where it was not opened in
    /// `start`, or the store's.
    pub fn table<K: Key, V: Record>(&self, name: &str) -> Result<Table<K, V>, TableError> {
        self.tables()?.table(name)
    }

    /// All state tables, for transactions of several operations.
    ///
    /// # Errors
    /// [`TableError::None`], or why the host cannot open them.
    pub fn tables(&self) -> Result<Tables, TableError> {
        let mut access = self.0.tables.lock().unwrap_or_else(PoisonError::into_inner);
        match &*access {
            Access::Open(tables) => Ok(tables.clone()),
            Access::Closed => Err(TableError::Closed("the release has stopped".into())),
            Access::Host(host) => {
                let tables = Tables::of(*host, &self.0.version)?;
                if self.0.started.load(Ordering::Relaxed) {
                    tables.settle();
                }
                *access = Access::Open(tables.clone());
                Ok(tables)
            }
        }
    }

    /// The tables, if somebody has asked for them.
    pub(crate) fn opened_tables(&self) -> Option<Tables> {
        match &*self.0.tables.lock().unwrap_or_else(PoisonError::into_inner) {
            Access::Open(tables) => Some(tables.clone()),
            Access::Host(_) | Access::Closed => None,
        }
    }

    /// The application has started: no other tables are opened from now on.
    pub(crate) fn settle_tables(&self) {
        let access = self.0.tables.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.started.store(true, Ordering::Relaxed);
        if let Access::Open(tables) = &*access {
            tables.settle();
        }
    }

    /// The generation is over: what it writes need not be readable for it any more.
    pub(crate) fn close_tables(&self) {
        let mut access = self.0.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Access::Open(tables) = std::mem::replace(&mut *access, Access::Closed) {
            tables.close();
        }
    }

    /// The release's version, such as `2026.1120.192733`.
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// Whether the release runs under `cargo relmgr dev`: what serves users must not depend on it. A page that is told
    /// of another version (over a WebSocket that outlives releases) reloads itself then, and nowhere else.
    pub fn development(&self) -> bool {
        std::env::var_os("RELMGR_DEV").is_some_and(|value| value == "1")
    }

    /// The directory of the release's own files (`priv/` beside its Cargo.toml when it was built).
    pub fn priv_dir(&self) -> PathBuf {
        self.0.directory.join("priv")
    }

    /// The release's directory.
    pub fn release_dir(&self) -> &Path {
        &self.0.directory
    }

    /// Waits until this generation is to come to its end: another release serves for good, or the node stops. Answers
    /// that stream without an end (server-sent events) end themselves then, so that their clients come back to the
    /// next release; at `upgrade.drain` they are ended.
    pub fn winding_up(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let mut winding_up = self.0.winding_up.clone();
        async move {
            // Its sender goes with the generation.
            let _ = winding_up.wait_for(|winding_up| *winding_up).await;
        }
    }

    /// The session with this number, begun in this release or another.
    pub fn session(&self, number: u64) -> SessionHandle {
        SessionHandle::new(number)
    }

    /// Sends a message to every session that is [subscribed](crate::Session::subscribe) to `topic`, whichever release
    /// subscribed it; to how many. Messages of one topic reach all of them in the same order. Does not wait.
    pub fn publish(&self, topic: &str, message: impl Into<Message>) -> u64 {
        sessions::publish(topic, message.into())
    }
}

/// The facts of a request that its HTTP does not tell. With axum, an argument of the handler (an extractor); any other
/// code that answers a request finds it by [`RequestInfo::current`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestInfo {
    /// The client.
    pub peer: SocketAddr,
    /// The address that it connected to.
    pub local: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// Number of the request within this host process, from 1.
    pub id: u64,
}

impl RequestInfo {
    /// Of the request that is being answered here. `None` in a task that a handler spawned, in a body that streams on
    /// after its head, and wherever no host is: hand it on to them.
    pub fn current() -> Option<Self> {
        within::facts().map(Self::from)
    }
}

impl From<Facts> for RequestInfo {
    fn from((connection, id): Facts) -> Self {
        Self { peer: connection.peer.into(), local: connection.local.into(), tls: connection.tls, id }
    }
}

/// As an argument of a handler.
#[cfg(feature = "axum")]
mod extract {
    use std::convert::Infallible;

    use axum::extract::{FromRequestParts, OptionalFromRequestParts};
    use http::StatusCode;
    use http::request::Parts;

    use super::RequestInfo;

    /// For whoever tries the router by itself.
    const WITHOUT_A_HOST: &str =
        "no host answers this request: `Option<RequestInfo>` is an argument that does without one\n";

    impl<S: Sync> FromRequestParts<S> for RequestInfo {
        type Rejection = (StatusCode, &'static str);

        async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
            Self::current().ok_or((StatusCode::INTERNAL_SERVER_ERROR, WITHOUT_A_HOST))
        }
    }

    impl<S: Sync> OptionalFromRequestParts<S> for RequestInfo {
        type Rejection = Infallible;

        async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
            Ok(Self::current())
        }
    }
}

/// What was agreed on for an encrypted connection; an extension of every request that came over one
/// (`Option<axum::Extension<TlsInfo>>`). relmgr before 0.2 gives none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsInfo {
    /// Such as `TLSv1_3`.
    pub version: String,
    /// The cipher suite, such as `TLS13_AES_256_GCM_SHA384`.
    pub cipher: String,
    /// The name that the client asked for (SNI); empty: it named none.
    pub server_name: String,
    /// `h2` or `http/1.1`, as agreed on (ALPN); empty: the client did not say what it speaks.
    pub protocol: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use http::{Request, StatusCode};
    use tower::ServiceExt;

    #[tokio::test]
    async fn without_a_host_a_handler_that_needs_the_facts_is_refused_and_one_that_may_do_without_is_not() {
        let router = axum::Router::new()
            .route("/needs", get(async |info: RequestInfo| info.id.to_string()))
            .route("/may", get(async |info: Option<RequestInfo>| info.is_some().to_string()));
        let ask = async |path| {
            let request = Request::get(path).body(axum::body::Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            let status = response.status();
            (status, axum::body::to_bytes(response.into_body(), 1024).await.unwrap())
        };
        let (status, words) = ask("/needs").await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(words.starts_with(b"no host answers this request: `Option<RequestInfo>`"), "{words:?}");
        assert_eq!(ask("/may").await, (StatusCode::OK, "false".into()));
    }
}

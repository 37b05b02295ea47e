//! What the host tells the application.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use crate::sessions;
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
    winding_up: watch::Receiver<bool>,
}

impl Context {
    pub(crate) fn new(version: String, directory: PathBuf, winding_up: watch::Receiver<bool>) -> Self {
        Self(Arc::new(Inner { version, directory, winding_up }))
    }

    /// The release's version, such as `2026.1120.192733`.
    pub fn version(&self) -> &str {
        &self.0.version
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

/// The facts of a request that its HTTP does not tell; an extension of every request
/// (`axum::Extension<RequestInfo>`).
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

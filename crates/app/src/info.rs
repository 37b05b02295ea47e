//! What the host tells the application.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
}

impl Context {
    pub(crate) fn new(version: String, directory: PathBuf) -> Self {
        Self(Arc::new(Inner { version, directory }))
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

//! TLS on the public listeners: which certificates, and what is said of them.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::conf::ConfError;

/// `[[tls]]`: a certificate of the addresses in `listen.https`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// The chain, the server's own certificate first: PEM. Relative to the home.
    pub certificate: PathBuf,
    /// Its private key: PEM. Relative to the home.
    pub key: PathBuf,
}

/// A chain and its key as the supervisor read them and the host serves them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificatePair {
    /// PEM.
    pub certificate: String,
    /// PEM.
    pub key: String,
}

impl std::fmt::Debug for CertificatePair {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificatePair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// What `status` says of a certificate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// Its file.
    pub file: PathBuf,
    /// The names that it is for; empty: nothing of the files could be used yet.
    pub names: Vec<String>,
    /// Until when it is valid; absent: nothing of the files could be used yet.
    pub not_after: Option<DateTime<Utc>>,
    /// Since when it is served.
    pub loaded_at: Option<DateTime<Utc>>,
    /// What is wrong with the files as they are now, and what becomes of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ConfError>,
}

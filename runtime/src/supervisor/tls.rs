//! The certificates of `listen.https`: what is served, and what of the files cannot be.
//!
//! Each `[[tls]]` table is judged for itself: one whose new files are broken goes on with what it served before, and
//! says so in `status`. Only at the start there is nothing before.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use relmgr_model::conf::ConfError;
use relmgr_model::control::TlsStatus;
use relmgr_model::home::Home;
use relmgr_model::host::Command;
use relmgr_model::tls::{CertificateFiles, CertificatePair, CertificateStatus};

use super::conf::{Places, Watch};
use super::node::Node;
use crate::tls::{Facts, TlsError, examine};

/// Files that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// One cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something is wrong with what stands in them.
    #[error("{}: {error}", path.display())]
    Tls {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong.
        error: TlsError,
    },
}

/// No certificate of a node can be served.
#[derive(Debug, thiserror::Error)]
#[error("listen.https has no certificate that can be served:{0}")]
pub struct NoneError(String);

/// What stands in the files of one `[[tls]]` table.
#[derive(Debug, Clone)]
struct Loaded {
    pair: CertificatePair,
    facts: Facts,
    at: DateTime<Utc>,
}

/// One `[[tls]]` table.
#[derive(Debug, Clone)]
struct Entry {
    files: CertificateFiles,
    loaded: Option<Loaded>,
    error: Option<ConfError>,
}

/// All certificates of a node.
#[derive(Debug, Clone, Default)]
pub struct Account {
    entries: Vec<Entry>,
    unwatched: Option<String>,
}

impl Account {
    /// Reads the certificates at a node's start. One that cannot be served is left out and told; one that is not valid
    /// now is served for want of a better.
    pub fn load(home: &Home, tables: &[CertificateFiles], now: DateTime<Utc>) -> Self {
        let entry = |files: &CertificateFiles| {
            let path = |path: &Path| home.path().join(path);
            let files = CertificateFiles { certificate: path(&files.certificate), key: path(&files.key) };
            Entry { files, loaded: None, error: None }
        };
        let mut account = Self { entries: tables.iter().map(entry).collect(), unwatched: None };
        account.update(account.read(), now);
        account
    }

    /// Whether clients can be served.
    ///
    /// # Errors
    /// [`NoneError`] when there are certificates and none of them can be.
    pub fn usable(&self) -> Result<(), NoneError> {
        if self.entries.is_empty() || self.entries.iter().any(|entry| entry.loaded.is_some()) {
            return Ok(());
        }
        let errors = self.entries.iter().filter_map(|entry| entry.error.as_ref());
        Err(NoneError(errors.map(|error| format!("\n  {}", error.text)).collect()))
    }

    /// What is served, in the order of the tables.
    pub fn pairs(&self) -> Vec<CertificatePair> {
        self.entries.iter().filter_map(|entry| Some(entry.loaded.as_ref()?.pair.clone())).collect()
    }

    /// The files as they are now.
    fn read(&self) -> Vec<Result<(CertificatePair, Facts), FilesError>> {
        self.entries.iter().map(|entry| read(&entry.files)).collect()
    }

    /// Takes over what can be served; whether that is anything else than before. A fault is told once.
    fn update(
        &mut self,
        read: Vec<Result<(CertificatePair, Facts), FilesError>>,
        now: DateTime<Utc>,
    ) -> bool {
        let mut changed = false;
        for (entry, read) in self.entries.iter_mut().zip(read) {
            let error = match read {
                Ok((pair, facts)) => {
                    let same = entry.loaded.as_ref().is_some_and(|loaded| loaded.pair == pair);
                    let fault = facts.at(now).err();
                    let path = entry.files.certificate.clone();
                    if !same && (fault.is_none() || entry.loaded.is_none()) {
                        let (names, until) = (facts.names.join(", "), facts.not_after);
                        tracing::info!(path = %path.display(), names, %until, "a certificate is served from now on");
                        entry.loaded = Some(Loaded { pair, facts, at: now });
                        changed = true;
                    }
                    fault.map(|error| FilesError::Tls { path, error })
                }
                Err(error) => Some(error),
            };
            let text = error.map(|error| error.to_string());
            if text.as_ref() == entry.error.as_ref().map(|error| &error.text) {
                continue;
            }
            if let Some(text) = &text {
                let stays =
                    if entry.loaded.is_some() { "the certificate from before stays" } else { "left out" };
                tracing::error!("{text}: {stays}");
            }
            entry.error = text.map(|text| ConfError { at: now, text });
        }
        changed
    }

    /// What is wrong with the files.
    pub fn errors(&self) -> Vec<String> {
        self.entries.iter().filter_map(|entry| Some(entry.error.as_ref()?.text.clone())).collect()
    }

    /// What `status` says.
    pub fn status(&self, listeners: Vec<String>) -> Option<TlsStatus> {
        if self.entries.is_empty() {
            return None;
        }
        let certificate = |entry: &Entry| {
            let facts = entry.loaded.as_ref().map(|loaded| &loaded.facts);
            CertificateStatus {
                file: entry.files.certificate.clone(),
                names: facts.map(|facts| facts.names.clone()).unwrap_or_default(),
                not_after: facts.map(|facts| facts.not_after),
                loaded_at: entry.loaded.as_ref().map(|loaded| loaded.at),
                error: entry.error.clone(),
            }
        };
        let certificates = self.entries.iter().map(certificate).collect();
        Some(TlsStatus { listeners, certificates, unwatched: self.unwatched.clone() })
    }

    fn places(&self) -> Places {
        let files = self.entries.iter().flat_map(|entry| [&entry.files.certificate, &entry.files.key]);
        Places::of_files(files)
    }
}

fn read(files: &CertificateFiles) -> Result<(CertificatePair, Facts), FilesError> {
    let text = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|source| FilesError::Read { path: path.clone(), source })
    };
    let pair = CertificatePair { certificate: text(&files.certificate)?, key: text(&files.key)? };
    match examine(&pair) {
        Ok(facts) => Ok((pair, facts)),
        Err(error) => Err(FilesError::Tls { path: files.certificate.clone(), error }),
    }
}

/// Reads the certificates anew and has the host serve them; what of them cannot be served. The caller holds
/// `Node::operations`.
pub async fn reload(node: &Arc<Node>) -> Vec<String> {
    // No host is started meanwhile: it would be given what is just being replaced.
    let _pointers = node.pointers.lock().await;
    let account = node.with(|state| state.tls.clone());
    let read = match tokio::task::spawn_blocking(move || account.read()).await {
        Ok(read) => read,
        Err(error) => return vec![format!("the certificates are not read: {error}")],
    };
    let (changed, certificates) = node.with(|state| {
        let changed = state.tls.update(read, Utc::now());
        (changed, state.tls.pairs())
    });
    let mut errors = node.with(|state| state.tls.errors());
    if changed
        && let Some(host) = node.host()
        && let Err(error) = host.call(Command::Certificates { certificates }).await
    {
        // A host that has died meanwhile makes way for one that is given them.
        tracing::error!(%error, "the host does not serve the new certificates");
        errors.push(format!("the host does not serve the new certificates: {error}"));
    }
    errors
}

/// Watches the certificates' files until the process ends.
pub async fn watch(node: Arc<Node>) {
    let mut watch = Watch::new();
    loop {
        let places = node.with(|state| state.tls.places());
        if watch.arm(places) {
            let unwatched = watch.unwatched();
            if let Some(reason) = &unwatched {
                tracing::warn!(
                    "changes of certificates are not all seen, `relmgr reload` applies them: {reason}"
                );
            }
            node.with(|state| state.tls.unwatched = unwatched);
        } else {
            watch.changed().await;
        }
        watch.begin();
        let _alone = node.operations.lock().await;
        reload(&node).await;
    }
}

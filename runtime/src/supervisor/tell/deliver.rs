//! One delivery: a POST with JSON, signed, tried again with backoff. docs/webhooks.md is the same for those at the
//! other end.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_rustls::builderstates::{WantsSchemes, WantsTlsConfig};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use relmgr_conf::Secret;
use relmgr_model::home::Home;
use relmgr_model::notify::Notification;
use relmgr_model::settings::{SettingsError, Webhook};
use relmgr_model::takeover;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, RootCertStore};
use sha2::Sha256;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::super::lock;

/// So often a notification is tried: with the waits between them about ten minutes, in which a server is started anew.
const TRIES: u32 = 10;

/// The wait after the first try; twice as long after each further one ...
const BACKOFF: Duration = Duration::from_secs(1);

/// ... up to this.
const BACKOFF_CAP: Duration = Duration::from_secs(120);

type Https = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A notification on its way to one server.
#[derive(Debug)]
pub struct Delivery {
    /// The same in every try.
    pub id: String,
    /// The word of what it tells. Another relmgr may have handed it over, which knows more of them.
    pub event: String,
    body: Bytes,
    way: Mutex<Way>,
}

/// How far a delivery has come.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// Tries that are over.
    tries: u32,
    /// When the next one is due.
    due: Instant,
}

impl Delivery {
    /// `notification`, with an id of its own.
    pub fn new(notification: &Notification) -> Self {
        // Every notification has a JSON form.
        let body = serde_json::to_vec(notification).unwrap_or_default();
        Self {
            id: format!("{:016x}{:016x}", random(), random()),
            event: notification.event.name().to_owned(),
            body: body.into(),
            way: Mutex::new(Way { tries: 0, due: Instant::now() }),
        }
    }

    /// One that another image of the supervisor has begun.
    pub fn received(left: takeover::Delivery) -> Self {
        let takeover::Delivery { id, event, body, tries, due_in_ms } = left;
        let due = Instant::now() + Duration::from_millis(due_in_ms).min(BACKOFF_CAP);
        Self { id, event, body: body.into(), way: Mutex::new(Way { tries, due }) }
    }

    /// What another image of the supervisor goes on with. A try that is on its way is made anew.
    pub fn left(&self) -> takeover::Delivery {
        let Way { tries, due } = *lock(&self.way);
        let due_in = due.saturating_duration_since(Instant::now());
        takeover::Delivery {
            id: self.id.clone(),
            event: self.event.clone(),
            body: String::from_utf8_lossy(&self.body).into_owned(),
            tries,
            due_in_ms: u64::try_from(due_in.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// So much of it is handed over, before JSON escapes it once more.
    pub fn bytes(&self) -> usize {
        /// The id, the event and the names of the fields.
        const AROUND: usize = 128;
        AROUND + self.body.len()
    }

    /// The number of the next try, and when it is due.
    fn next_try(&self) -> (u32, Instant) {
        let Way { tries, due } = *lock(&self.way);
        (tries.saturating_add(1), due)
    }

    /// A try is over that told nobody.
    fn tried(&self) {
        let mut way = lock(&self.way);
        let wait = BACKOFF.saturating_mul(2_u32.saturating_pow(way.tries)).min(BACKOFF_CAP);
        way.tries = way.tries.saturating_add(1);
        // Not all nodes of a fleet at once.
        way.due = Instant::now() + wait.mul_f64(0.5 + (random() >> 11) as f64 / (1_u64 << 54) as f64);
    }
}

/// What the standard library's maps are seeded with: nobody is to guess it, and nothing hangs on it but that two ids
/// differ.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A try that told nobody.
#[derive(Debug, thiserror::Error)]
pub enum TryError {
    /// Another try may do better.
    #[error("{0}")]
    Again(String),
    /// No other one would.
    #[error("{0}")]
    Never(String),
}

/// A server that is told.
#[derive(Debug)]
pub struct Server {
    uri: Uri,
    host: String,
    secret: Option<String>,
    timeout: Duration,
    /// Who has signed its certificate, where that is nobody whom the system trusts.
    ca: Option<PathBuf>,
    /// With the certificates that the system trusts, read once.
    client: OnceCell<Https>,
}

impl Server {
    /// The one that `webhook` names, in the settings of the node in `home`.
    ///
    /// # Errors
    /// [`SettingsError::Value`] for an address that is none.
    pub fn new(home: &Home, webhook: &Webhook) -> Result<Self, SettingsError> {
        let fault = |reason: String| SettingsError::Value { key: "webhooks.url", reason };
        let uri: Uri = webhook.url.parse().map_err(|error| fault(format!("is no address: {error}")))?;
        let host = uri.authority().ok_or_else(|| fault("names no host".into()))?.to_string();
        let (secret, timeout) = (webhook.secret.clone(), webhook.timeout);
        let ca = webhook.ca.as_ref().map(|path| home.path().join(path));
        Ok(Self { uri, host, secret, timeout, ca, client: OnceCell::new() })
    }

    /// What names it: paths of webhooks are secrets with many.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Tries until it is told, from where the delivery is.
    ///
    /// # Errors
    /// The last [`TryError`].
    pub async fn deliver(&self, delivery: &Delivery) -> Result<(), TryError> {
        loop {
            let (attempt, due) = delivery.next_try();
            tokio::time::sleep_until(due).await;
            let error = match self.attempt(delivery, attempt).await {
                Ok(()) => return Ok(()),
                Err(TryError::Again(words)) if attempt < TRIES => words,
                Err(error) => return Err(error),
            };
            tracing::warn!(webhook = self.host, id = delivery.id, attempt, "it is tried again: {error}");
            delivery.tried();
        }
    }

    async fn attempt(&self, delivery: &Delivery, attempt: u32) -> Result<(), TryError> {
        let request = self.request(delivery, attempt).await?;
        let client = match &self.ca {
            // Read for each try, as the secret is.
            Some(path) => trusting(path.clone()).await?,
            None => self.client.get_or_try_init(trusting_as_the_system).await?.clone(),
        };
        let ask = async {
            let response =
                client.request(request).await.map_err(|error| TryError::Again(self.words(&error)))?;
            let status = response.status();
            // What it says is of no interest, and may have no end.
            drop(response.into_body().into_data_stream());
            judge(status)
        };
        match tokio::time::timeout(self.timeout, ask).await {
            Ok(result) => result,
            Err(_) => {
                let timeout = humantime::format_duration(self.timeout);
                Err(TryError::Again(format!("no answer within {timeout} (webhooks.timeout)")))
            }
        }
    }

    /// A connection's error with its causes, and what helps.
    fn words(&self, error: &(dyn std::error::Error + 'static)) -> String {
        let text = chain(error);
        match &self.ca {
            _ if !is_signed_by_a_stranger(error) => text,
            Some(path) => format!("{text}: nobody in {} (webhooks.ca) has signed it", path.display()),
            None => format!("{text}: webhooks.ca names who has signed it, where the system trusts them not"),
        }
    }

    async fn request(&self, delivery: &Delivery, attempt: u32) -> Result<Request<Full<Bytes>>, TryError> {
        let timestamp = Utc::now().timestamp();
        let mut request = Request::post(self.uri.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("relmgr/", env!("CARGO_PKG_VERSION")))
            .header("relmgr-event", &delivery.event)
            .header("relmgr-delivery", &delivery.id)
            .header("relmgr-attempt", attempt)
            .header("relmgr-timestamp", timestamp);
        if let Some(place) = &self.secret {
            // Read for each try: a secret that was exchanged holds from the next one on.
            let secret = read_secret(place).await.map_err(TryError::Again)?;
            let signature = format!("v1={}", sign(secret.expose(), timestamp, &delivery.body));
            let mut value =
                HeaderValue::try_from(signature).map_err(|error| TryError::Never(error.to_string()))?;
            value.set_sensitive(true);
            request = request.header("relmgr-signature", value);
        }
        request.body(Full::new(delivery.body.clone())).map_err(|error| TryError::Never(error.to_string()))
    }
}

fn judge(status: StatusCode) -> Result<(), TryError> {
    let words = format!("it answered {status}");
    match status {
        status if status.is_success() => Ok(()),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Err(TryError::Again(words))
        }
        status if status.is_server_error() => Err(TryError::Again(words)),
        // Redirections are not followed: what is signed is for one server.
        _ => Err(TryError::Never(words)),
    }
}

/// HMAC-SHA256 with `secret` over the timestamp, a full stop and the body, in hexadecimal.
pub fn sign(secret: &str, timestamp: i64, body: &[u8]) -> String {
    // A key of any length is fine.
    let mut mac = match Hmac::<Sha256>::new_from_slice(secret.as_bytes()) {
        Ok(mac) => mac,
        Err(error) => unreachable!("HMAC takes every key: {error}"),
    };
    mac.update(timestamp.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Away from the supervisor's thread: it may lie on a disk that is slow.
async fn read_secret(place: &str) -> Result<Secret, String> {
    let place = place.to_owned();
    let read = tokio::task::spawn_blocking(move || secret_at(&place)).await;
    read.unwrap_or_else(|error| Err(error.to_string()))
}

fn secret_at(place: &str) -> Result<Secret, String> {
    let text = match (Webhook::variable(place), place.strip_prefix("file:")) {
        (Some(name), _) => std::env::var(name).map_err(|_| format!("webhooks.secret: {place} is not set"))?,
        (None, Some(path)) => {
            std::fs::read_to_string(path).map_err(|error| format!("webhooks.secret: {path}: {error}"))?
        }
        (None, None) => return Err("webhooks.secret names neither a variable nor a file".into()),
    };
    let secret = text.trim_end_matches(['\r', '\n']);
    match secret.is_empty() {
        true => Err(format!("webhooks.secret: {place} is empty")),
        false => Ok(Secret::new(secret.to_owned())),
    }
}

/// A client that trusts whom the system trusts. Files are read away from the supervisor's thread.
async fn trusting_as_the_system() -> Result<Https, TryError> {
    let built = tokio::task::spawn_blocking(|| builder().with_provider_and_native_roots(provider())).await;
    let built = built.map_err(|error| TryError::Again(error.to_string()))?;
    let builder = built.map_err(|error| TryError::Again(format!("the system's certificates: {error}")))?;
    Ok(client(builder))
}

/// A client that trusts who stands in the file at `path`, and nobody else.
async fn trusting(path: PathBuf) -> Result<Https, TryError> {
    let words = format!("webhooks.ca: {}", path.display());
    let read = tokio::task::spawn_blocking(move || roots(&path)).await;
    let roots = read.unwrap_or_else(|error| Err(error.to_string()));
    let roots = roots.map_err(|error| TryError::Again(format!("{words}: {error}")))?;
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| TryError::Never(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(client(builder().with_tls_config(config)))
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| format!("it is no PEM: {error}"))?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    match roots.is_empty() {
        true => Err("no certificate stands in it".into()),
        false => Ok(roots),
    }
}

fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

fn builder() -> HttpsConnectorBuilder<WantsTlsConfig> {
    HttpsConnectorBuilder::new()
}

fn client(builder: HttpsConnectorBuilder<WantsSchemes>) -> Https {
    let connector = builder.https_or_http().enable_http1().build();
    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector)
}

/// Whether the server's certificate was refused for who has signed it.
fn is_signed_by_a_stranger(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(rustls::Error::InvalidCertificate(fault)) = cause.downcast_ref() {
            return *fault == CertificateError::UnknownIssuer;
        }
        // What an I/O error has within is not its source.
        let within = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match within {
            Some(within) => Some(within),
            None => cause.source(),
        };
    }
    false
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_what_others_compute() {
        // printf '1795188000.{"event":"started"}' | openssl dgst -sha256 -hmac s3cret
        assert_eq!(
            sign("s3cret", 1_795_188_000, br#"{"event":"started"}"#),
            "d86f4c0034a9427e8d6e5b4594b532dfd449b6d64573167edf1c9b497f0a5352"
        );
    }

    #[test]
    fn what_is_tried_again_and_what_is_not() {
        let again =
            |status: u16| matches!(judge(StatusCode::from_u16(status).unwrap()), Err(TryError::Again(_)));
        assert!([408, 425, 429, 500, 502, 503, 504].into_iter().all(again));
        assert!(![200, 204, 301, 307, 400, 401, 404, 410].into_iter().any(again));
        assert!(judge(StatusCode::NO_CONTENT).is_ok() && judge(StatusCode::MOVED_PERMANENTLY).is_err());
    }
}

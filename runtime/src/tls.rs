//! Certificates: read by the supervisor, which keeps account of what is in force, and served by the host.
//!
//! The supervisor reads and judges the files and hands their text to the host over its channel. So a host that is
//! started anew serves what the one before served, also when the files have been broken meanwhile, and needs no right
//! to read them.

use std::sync::Arc;

use arc_swap::ArcSwap;
use chrono::{DateTime, TimeDelta, Utc};
use relmgr_model::tls::CertificatePair;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a client may agree on, the best first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A certificate or key that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No PEM.
    #[error("the certificate is no PEM")]
    CertificatePem(#[source] pem::Error),
    /// There is none in the file.
    #[error("no certificate stands in it")]
    NoCertificate,
    /// It is no X.509.
    #[error("the certificate cannot be read: {0}")]
    Certificate(String),
    /// No PEM, or no private key in it.
    #[error("the key is no PEM that holds a private key without a passphrase")]
    KeyPem(#[source] pem::Error),
    /// The key is another one's, or of a kind that is not known.
    #[error("certificate and key do not go together")]
    Key(#[source] rustls::Error),
    /// It is valid no more. Without the time that it is: a fault that stays the same is told once.
    #[error("the certificate expired at {until}")]
    Expired {
        /// The last instant.
        until: DateTime<Utc>,
    },
    /// It is not valid yet.
    #[error("the certificate is not valid before {from}")]
    NotYet {
        /// The first instant.
        from: DateTime<Utc>,
    },
}

/// What stands in a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// DNS names and addresses.
    pub names: Vec<String>,
    /// The first instant at which it is valid.
    pub not_before: DateTime<Utc>,
    /// The last one.
    pub not_after: DateTime<Utc>,
}

impl Facts {
    /// Whether it is valid at `now`.
    ///
    /// # Errors
    /// [`TlsError::Expired`], [`TlsError::NotYet`].
    pub fn at(&self, now: DateTime<Utc>) -> Result<(), TlsError> {
        match now {
            now if now < self.not_before => Err(TlsError::NotYet { from: self.not_before }),
            now if now > self.not_after => Err(TlsError::Expired { until: self.not_after }),
            _ => Ok(()),
        }
    }

    /// The next instant after `now` at which [`Facts::at`] says something else.
    pub fn changes_after(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // Certificates count in seconds.
        let ends = self.not_after.checked_add_signed(TimeDelta::seconds(1));
        [Some(self.not_before), ends].into_iter().flatten().find(|at| *at > now)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The chain and the key of `pair`, which fit each other.
///
/// # Errors
/// [`TlsError`], but not for its time.
fn certified(pair: &CertificatePair) -> Result<CertifiedKey, TlsError> {
    let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(TlsError::CertificatePem)?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(TlsError::KeyPem)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(TlsError::Key)
}

/// Judges `pair` without serving it.
///
/// # Errors
/// [`TlsError`], but not for its time: whether that counts is the caller's to say.
pub fn examine(pair: &CertificatePair) -> Result<Facts, TlsError> {
    let certified = certified(pair)?;
    let own = certified.end_entity_cert().map_err(TlsError::Key)?;
    // What no client's name can be compared with is not served either.
    ParsedCertificate::try_from(own).map_err(|error| TlsError::Certificate(error.to_string()))?;
    let (_, parsed) =
        X509Certificate::from_der(own).map_err(|error| TlsError::Certificate(error.to_string()))?;
    let alternatives = parsed.subject_alternative_name().ok().flatten();
    let names = alternatives.map(|names| names.value.general_names.iter().filter_map(name).collect());
    let time = |seconds| DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    Ok(Facts {
        names: names.unwrap_or_default(),
        not_before: time(parsed.validity().not_before.timestamp()),
        not_after: time(parsed.validity().not_after.timestamp()),
    })
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|ip| std::net::Ipv4Addr::from(ip).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|ip| std::net::Ipv6Addr::from(ip).to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// The certificates that the host serves, replaced without touching a connection.
#[derive(Debug)]
pub struct Certificates(ArcSwap<Vec<Arc<CertifiedKey>>>);

impl Certificates {
    /// Serves `pairs`.
    ///
    /// # Errors
    /// [`TlsError`] of the first that cannot be served.
    pub fn new(pairs: &[CertificatePair]) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(all(pairs)?))))
    }

    /// Serves `pairs` from now on.
    ///
    /// # Errors
    /// [`TlsError`] of the first that cannot be served; then nothing has changed.
    pub fn replace(&self, pairs: &[CertificatePair]) -> Result<(), TlsError> {
        self.0.store(Arc::new(all(pairs)?));
        Ok(())
    }

    /// How connections that serve them begin: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// When the library has none of these.
    pub fn server_config(self: &Arc<Self>) -> Result<rustls::ServerConfig, rustls::Error> {
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        // Tickets, so that a client that comes back is spared a round trip; their key stays in this process.
        config.ticketer = rustls::crypto::ring::Ticketer::new()?;
        Ok(config)
    }
}

fn all(pairs: &[CertificatePair]) -> Result<Vec<Arc<CertifiedKey>>, TlsError> {
    pairs.iter().map(|pair| certified(pair).map(Arc::new)).collect()
}

/// Whether `certified` is for `name`, and made with an algorithm that the client knows.
fn suits(certified: &CertifiedKey, name: Option<&ServerName<'_>>, hello: &ClientHello<'_>) -> bool {
    let for_name = name.is_none_or(|name| {
        let own = certified.end_entity_cert().ok();
        let parsed = own.and_then(|own| ParsedCertificate::try_from(own).ok());
        parsed.is_some_and(|parsed| verify_server_name(&parsed, name).is_ok())
    });
    for_name && certified.key.choose_scheme(hello.signature_schemes()).is_some()
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let known = self.0.load();
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let find = |name: Option<&ServerName<'_>>| known.iter().find(|one| suits(one, name, &hello)).cloned();
        // A name that none is for gets the first one: the client says in better words what it misses.
        name.as_ref().and_then(|name| find(Some(name))).or_else(|| find(None))
    }
}

/// Takes any certificate: what is asked is this node's own socket, whatever names its certificate is for.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _own: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The handshake with this node's own listener, whose other end `stream` has reached.
///
/// # Errors
/// The handshake's.
pub async fn connect_to_ourselves(stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    let name = ServerName::from(stream.peer_addr()?.ip());
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(names: &[&str]) -> CertificatePair {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        CertificatePair { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    #[test]
    fn a_certificate_says_what_it_is_for() {
        let facts = examine(&pair(&["example.com", "*.example.com", "127.0.0.1"])).unwrap();
        assert_eq!(facts.names, ["example.com", "*.example.com", "127.0.0.1"]);
        assert!(facts.at(Utc::now()).is_ok());
        let (early, late) =
            (facts.not_before - TimeDelta::seconds(1), facts.not_after + TimeDelta::seconds(1));
        assert!(matches!(facts.at(early), Err(TlsError::NotYet { .. })));
        assert!(matches!(facts.at(late), Err(TlsError::Expired { .. })));
        assert_eq!(facts.changes_after(early), Some(facts.not_before));
        assert_eq!(facts.changes_after(facts.not_before), Some(late));
        assert_eq!(facts.changes_after(late), None);
    }

    #[test]
    fn what_cannot_be_served_is_told_from_each_other() {
        let (one, other) = (pair(&["a"]), pair(&["b"]));
        let with = |certificate: &str, key: &str| {
            let pair = CertificatePair { certificate: certificate.into(), key: key.into() };
            examine(&pair).unwrap_err().to_string()
        };
        assert_eq!(with("", &one.key), "no certificate stands in it");
        assert_eq!(with(&one.certificate, &other.key), "certificate and key do not go together");
        assert!(with(&one.certificate, &one.certificate).contains("no PEM that holds a private key"));
        let cut = &one.certificate[..one.certificate.len() / 2];
        assert_eq!(with(cut, &one.key), "the certificate is no PEM");
        let nothing = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_ne!(with(nothing, &one.key), "");
    }

    #[test]
    fn a_key_is_not_shown() {
        let pair = pair(&["a"]);
        assert!(!format!("{pair:?}").contains("PRIVATE"));
    }
}

//! The TLS side of a connection: the handshake, and what came of it.

use std::sync::Arc;

use relmgr_abi::abi_stable::std_types::{RSlice, RStr};
use relmgr_abi::head::{FieldView, border_field};
use relmgr_model::tls::CertificatePair;
use rustls::ServerConnection;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::tls::{Certificates, TlsError};

/// How encrypted connections begin.
pub struct Tls {
    acceptor: TlsAcceptor,
    certificates: Arc<Certificates>,
}

impl Tls {
    /// With the first certificates.
    ///
    /// # Errors
    /// A certificate that cannot be served.
    pub fn new(certificates: &[CertificatePair]) -> anyhow::Result<Self> {
        let certificates = Certificates::new(certificates)?;
        let config = certificates.server_config()?;
        Ok(Self { acceptor: Arc::new(config).into(), certificates })
    }

    /// Serves other certificates from now on; connections go on as they are.
    ///
    /// # Errors
    /// [`TlsError`]; then nothing has changed.
    pub fn replace(&self, certificates: &[CertificatePair]) -> Result<(), TlsError> {
        self.certificates.replace(certificates)
    }

    /// The handshake.
    ///
    /// # Errors
    /// The client's, mostly.
    pub async fn accept(&self, stream: TcpStream) -> std::io::Result<(TlsStream<TcpStream>, TlsFacts)> {
        let stream = self.acceptor.accept(stream).await?;
        let facts = TlsFacts::of(stream.get_ref().1);
        Ok((stream, facts))
    }
}

/// What client and server agreed on.
#[derive(Debug)]
pub struct TlsFacts {
    version: String,
    cipher: String,
    server_name: String,
    protocol: String,
}

impl TlsFacts {
    fn of(connection: &ServerConnection) -> Self {
        let version = connection.protocol_version().and_then(|version| version.as_str());
        let cipher = connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        let protocol = connection.alpn_protocol().unwrap_or_default();
        Self {
            version: version.unwrap_or_default().into(),
            cipher: cipher.unwrap_or_default().into(),
            server_name: connection.server_name().unwrap_or_default().to_owned(),
            protocol: String::from_utf8_lossy(protocol).into_owned(),
        }
    }

    /// Whether HTTP/2 was agreed on.
    pub fn is_http2(&self) -> bool {
        self.protocol == "h2"
    }

    /// The same for the application.
    pub fn fields(&self) -> [FieldView<'_>; 4] {
        fn field<'a>(name: &'static str, value: &'a str) -> FieldView<'a> {
            FieldView { name: RStr::from_str(name), value: RSlice::from_slice(value.as_bytes()) }
        }
        [
            field(border_field::TLS_VERSION, &self.version),
            field(border_field::TLS_CIPHER, &self.cipher),
            field(border_field::TLS_SERVER_NAME, &self.server_name),
            field(border_field::TLS_PROTOCOL, &self.protocol),
        ]
    }
}

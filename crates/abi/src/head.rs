//! A request's head and a response.

use abi_stable::StableAbi;
use abi_stable::std_types::{ROption, RSlice, RStr};

use crate::body::FfiBody;
use crate::buffer::FfiBytes;

/// A request's head, lent for one call: the library copies what it keeps.
///
/// Borrowed, because this is on the way of every request, and the host has it all in memory already; the
/// lifetime keeps it from outliving the call.
#[repr(C)]
#[derive(StableAbi)]
pub struct RequestHead<'a> {
    /// `GET`.
    pub method: RStr<'a>,
    /// `http` or `https` where the request line says it (HTTP/2), else empty.
    pub scheme: RStr<'a>,
    /// Host and port where the request line says them (HTTP/2), else empty.
    pub authority: RStr<'a>,
    /// Path and query, `/polls/7?full=1`; `*` and an empty text are possible.
    pub path_and_query: RStr<'a>,
    /// 10, 11 or 20.
    pub http_version: u8,
    /// In the order in which they came, with duplicates.
    pub fields: RSlice<'a, FieldView<'a>>,
    /// The facts of the connection.
    pub connection: ConnectionFacts,
    /// Number of the request within this host, from 1.
    pub request_id: u64,
}

/// One header field.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct FieldView<'a> {
    /// In lower case.
    pub name: RStr<'a>,
    /// Any bytes that HTTP allows.
    pub value: RSlice<'a, u8>,
}

/// Fields of the border: what the host has to say of an encrypted connection, in front of the client's own fields. No
/// client can send a field of such a name. Since contract 1.3; only libraries that know it are sent any.
pub mod border_field {
    /// `TLSv1.3`.
    pub const TLS_VERSION: &str = ":tls-version";
    /// The cipher suite's name in the registry of IANA, such as `TLS13_AES_256_GCM_SHA384`.
    pub const TLS_CIPHER: &str = ":tls-cipher";
    /// The name that the client asked for (SNI).
    pub const TLS_SERVER_NAME: &str = ":tls-server-name";
    /// The protocol that was agreed on (ALPN): `h2` or `http/1.1`.
    pub const TLS_PROTOCOL: &str = ":tls-protocol";
}

/// The facts of a connection.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct ConnectionFacts {
    /// The client.
    pub peer: SocketAddress,
    /// The address that it connected to.
    pub local: SocketAddress,
    /// Whether it is encrypted.
    pub tls: bool,
}

/// A socket address. IPv4 addresses are written as mapped ones (`::ffff:1.2.3.4`).
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct SocketAddress {
    ip: [u8; 16],
    port: u16,
}

impl From<std::net::SocketAddr> for SocketAddress {
    fn from(address: std::net::SocketAddr) -> Self {
        let ip = match address.ip() {
            std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            std::net::IpAddr::V6(ip) => ip,
        };
        Self { ip: ip.octets(), port: address.port() }
    }
}

impl From<SocketAddress> for std::net::SocketAddr {
    fn from(address: SocketAddress) -> Self {
        (std::net::Ipv6Addr::from(address.ip).to_canonical(), address.port).into()
    }
}

/// A response. A body that is all there comes with the head: a small one in the same buffer, a larger one beside
/// it; others stream. The length of one that is all there need not be among the fields: the host says it.
#[repr(C)]
#[derive(StableAbi)]
pub struct Response {
    /// 100 to 999.
    pub status: u16,
    /// How many fields there are.
    pub fields: u32,
    /// So many bytes of [`Response::bytes`] are fields; what is left is the whole body.
    pub fields_len: u32,
    /// Fields as [`crate::fields`] writes them, then the body where it is small.
    pub bytes: FfiBytes,
    /// The whole body, where it is all there and not small; then none stands in [`Response::bytes`].
    pub whole: ROption<FfiBytes>,
    /// A body that streams; then none stands in [`Response::bytes`] or [`Response::whole`].
    pub body: ROption<FfiBody>,
}

//! From the host's view of a request to `http::Request`.

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use relmgr_abi::head::{FieldView, RequestHead, border_field};

use crate::TlsInfo;

/// Copies the head in one piece; the values of its fields share it.
///
/// # Errors
/// What is wrong, when the host lets something pass that this side's `http` does not.
pub(crate) fn read<B>(head: &RequestHead<'_>, body: B) -> Result<Request<B>, http::Error> {
    let (border, fields) = split(head);
    let values: usize = fields.iter().map(|field| field.value.len()).sum();
    let mut copy = Vec::with_capacity(head.path_and_query.len() + values);
    copy.extend_from_slice(head.path_and_query.as_bytes());
    for field in fields {
        copy.extend_from_slice(&field.value);
    }
    let mut rest = Bytes::from(copy);
    let path = rest.split_to(head.path_and_query.len());

    let mut request = Request::new(body);
    if head.method != "GET" {
        *request.method_mut() = Method::from_bytes(head.method.as_bytes())?;
    }
    *request.uri_mut() = uri(head, path)?;
    // A new one is a GET in HTTP/1.1.
    match head.http_version {
        10 => *request.version_mut() = Version::HTTP_10,
        20 => *request.version_mut() = Version::HTTP_2,
        _ => {}
    }
    *request.headers_mut() = headers(fields, rest)?;
    if !border.is_empty() {
        request.extensions_mut().insert(tls_info(border));
    }
    Ok(request)
}

/// The border's own fields and the client's.
fn split<'a>(head: &'a RequestHead<'_>) -> (&'a [FieldView<'a>], &'a [FieldView<'a>]) {
    let fields = head.fields.as_slice();
    if !head.connection.tls {
        return (&[], fields);
    }
    let own = fields.iter().take_while(|field| field.name.starts_with(':')).count();
    fields.split_at(own)
}

fn tls_info(border: &[FieldView<'_>]) -> TlsInfo {
    let value = |name: &str| {
        let field = border.iter().find(|field| field.name.as_str() == name);
        field.map(|field| String::from_utf8_lossy(&field.value).into_owned()).unwrap_or_default()
    };
    TlsInfo {
        version: value(border_field::TLS_VERSION),
        cipher: value(border_field::TLS_CIPHER),
        server_name: value(border_field::TLS_SERVER_NAME),
        protocol: value(border_field::TLS_PROTOCOL),
    }
}

#[inline]
fn headers(fields: &[FieldView<'_>], mut values: Bytes) -> Result<HeaderMap, http::Error> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes())?;
        headers.append(name, HeaderValue::from_maybe_shared(values.split_to(field.value.len()))?);
    }
    Ok(headers)
}

#[inline]
fn uri(head: &RequestHead<'_>, path: Bytes) -> Result<Uri, http::Error> {
    let path = (!path.is_empty()).then(|| PathAndQuery::from_maybe_shared(path)).transpose()?;
    if head.authority.is_empty() {
        // HTTP/1.1's usual form, without a detour through the parts.
        return Ok(path.map(Uri::from).unwrap_or_default());
    }
    let mut parts = http::uri::Parts::default();
    parts.authority = Some(Authority::try_from(head.authority.as_bytes())?);
    if !head.scheme.is_empty() {
        parts.scheme = Some(Scheme::try_from(head.scheme.as_bytes())?);
    }
    parts.path_and_query = path;
    Ok(Uri::from_parts(parts)?)
}

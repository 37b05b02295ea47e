//! Header and trailer fields as bytes: for each field the length of its name (2 bytes, little endian), the
//! length of its value (4 bytes), the name, the value. Order and duplicates are kept as `HeaderMap` has them.

use std::ops::Range;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Appends `fields` to `out`.
///
/// `HeaderMap` holds names of at most 2^16 − 1 bytes; a value past 2^32 bytes cannot be in memory beside its
/// limits.
pub fn write(fields: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in fields {
        push(name, value, out);
    }
}

/// Appends one field to `out`.
pub fn push(name: &HeaderName, value: &HeaderValue, out: &mut Vec<u8>) {
    let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
    out.extend_from_slice(&(name.len() as u16).to_le_bytes());
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(name);
    out.extend_from_slice(value);
}

/// Reads the fields in the first `len` of `bytes`; their values share it.
///
/// # Errors
/// What is wrong, when `bytes` are no fields.
pub fn read(bytes: &Bytes, len: usize, capacity: usize) -> Result<HeaderMap, &'static str> {
    let mut fields = HeaderMap::with_capacity(capacity);
    read_into(&mut fields, bytes, len)?;
    Ok(fields)
}

/// The same, appended to `fields`: whoever has a map to spare saves making another.
///
/// # Errors
/// What is wrong, when `bytes` are no fields; those before it have been appended.
pub fn read_into(fields: &mut HeaderMap, bytes: &Bytes, len: usize) -> Result<(), &'static str> {
    append(fields, bytes.get(..len).unwrap_or(bytes), |place| bytes.slice(place))
}

/// Reads the fields that `bytes` are and appends them to `fields`; their values share a copy, which is made when one
/// is needed.
///
/// # Errors
/// As [`read_into`].
pub fn copy_into(fields: &mut HeaderMap, bytes: &[u8]) -> Result<(), &'static str> {
    let mut copy = None;
    append(fields, bytes, |place| copy.get_or_insert_with(|| Bytes::copy_from_slice(bytes)).slice(place))
}

#[inline]
fn append(
    fields: &mut HeaderMap,
    bytes: &[u8],
    mut share: impl FnMut(Range<usize>) -> Bytes,
) -> Result<(), &'static str> {
    let mut at = 0;
    // By place, not by cutting off what was read: every cut would count references up and down.
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let Some((lengths, texts)) = rest.split_first_chunk::<6>() else {
            return Err("fields end within a length");
        };
        let [n0, n1, v0, v1, v2, v3] = *lengths;
        let (name, value) = (u16::from_le_bytes([n0, n1]), u32::from_le_bytes([v0, v1, v2, v3]));
        let (name, value) = (usize::from(name), value as usize);
        if texts.len() < name + value {
            return Err("fields end within a name or a value");
        }
        let from = at + 6 + name;
        let (name, text) = texts[..name + value].split_at(name);
        let (key, text) = match at_sight(name, text) {
            Some(field) => field,
            None => {
                let key = HeaderName::from_bytes(name).map_err(|_| "a field's name is none")?;
                let text = HeaderValue::from_maybe_shared(share(from..from + value));
                (key, text.map_err(|_| "a field's value is none")?)
            }
        };
        fields.append(key, text);
        at = from + value;
    }
    Ok(())
}

/// What most answers say of themselves, and some nothing else: it needs no search, no check and no share.
fn at_sight(name: &[u8], value: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    const TYPES: [&str; 4] = [
        "application/json",
        "text/html; charset=utf-8",
        "text/plain; charset=utf-8",
        "application/octet-stream",
    ];
    if name != b"content-type" {
        return None;
    }
    let known = TYPES.into_iter().find(|known| known.as_bytes() == value)?;
    Some((CONTENT_TYPE, HeaderValue::from_static(known)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_order_and_duplicates() {
        let mut fields = HeaderMap::new();
        for (name, value) in [
            ("x-a", "1"),
            ("set-cookie", "a=1"),
            ("content-type", "application/json"),
            ("x-b", ""),
            ("set-cookie", "b=2"),
            ("content-type", "application/jsonx"),
        ] {
            fields.append(name, HeaderValue::from_static(value));
        }
        let mut bytes = vec![];
        write(&fields, &mut bytes);
        let read_back = read(&bytes.clone().into(), bytes.len(), 4).unwrap();
        assert_eq!(read_back, fields);
        assert!(read_back.iter().eq(fields.iter()));
        let mut copied = HeaderMap::new();
        copy_into(&mut copied, &bytes).unwrap();
        assert!(copied.iter().eq(fields.iter()));
        for cut in 1..bytes.len() {
            // A cut at the end of a field leaves fewer fields; anywhere else is an error.
            if let Ok(some) = read(&bytes.clone().into(), cut, 4) {
                assert!(some.len() < fields.len());
            }
        }
        assert!(read(&Bytes::from_static(b"\x01\x00\x00\x00\x00\x00\n"), 7, 1).is_err());
    }
}

//! What a session says.

use bytes::Bytes;
use relmgr_abi::session::{BINARY, TEXT};

/// One message of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Text. A WebSocket's may be.
    Text(String),
    /// Bytes. A raw TCP session's always are.
    Binary(Bytes),
}

impl Message {
    /// The text, also where it came as bytes; `None`: it is not UTF-8.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Binary(bytes) => std::str::from_utf8(bytes).ok(),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    pub(super) fn read(kind: u8, bytes: Bytes) -> Self {
        match kind {
            // The host has looked at it; a byte that is no text would not be worth the session.
            TEXT => Self::Text(match String::from_utf8(bytes.into()) {
                Ok(text) => text,
                Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
            }),
            _ => Self::Binary(bytes),
        }
    }

    pub(super) fn take_apart(self) -> (u8, Bytes) {
        match self {
            Self::Text(text) => (TEXT, text.into()),
            Self::Binary(bytes) => (BINARY, bytes),
        }
    }
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<Bytes> for Message {
    fn from(bytes: Bytes) -> Self {
        Self::Binary(bytes)
    }
}

impl From<Vec<u8>> for Message {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Binary(bytes.into())
    }
}

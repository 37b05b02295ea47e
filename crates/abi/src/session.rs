//! Sessions: long conversations (WebSocket, raw TCP) whose socket and framing are the host's. Since contract 1.3.
//!
//! The library gets one call for each event of a session, and has forgotten everything when the call is over: what
//! it wants to remember is the session's state, which the host keeps and lends to the next call. So the next event
//! may go to another generation. The types of this module are fixed: what comes later comes beside them.

use abi_stable::StableAbi;
use abi_stable::std_types::{ROption, RSlice, RStr, RString};
use serde::{Deserialize, Serialize};

use crate::buffer::FfiBytes;
use crate::head::{ConnectionFacts, RequestHead};

/// A message of text, UTF-8.
pub const TEXT: u8 = 1;
/// A message of bytes; all of a raw TCP session are.
pub const BINARY: u8 = 2;

/// It was done.
pub const DONE: u8 = 0;
/// There is no such session any more.
pub const GONE: u8 = 1;
/// The session's queue is full: its client does not read, and the session ends.
pub const FULL: u8 = 2;

/// A session, lent for one call.
#[repr(C)]
#[derive(StableAbi)]
pub struct SessionView<'a> {
    /// Its number, which no other session of this node has had.
    pub id: u64,
    /// Where it belongs in the library's own [`Offer`].
    pub endpoint: u32,
    /// Of which schema its state is.
    pub schema: u32,
    /// Its state; empty at first.
    pub state: RSlice<'a, u8>,
    /// The path that a WebSocket asked for, without query; the name of a raw TCP session's listener.
    pub path: RStr<'a>,
    /// The facts of its connection.
    pub connection: ConnectionFacts,
}

/// A session that begins.
#[repr(C)]
#[derive(StableAbi)]
pub struct SessionOpening<'a> {
    /// The session.
    pub session: SessionView<'a>,
    /// What a WebSocket was asked for with; a raw TCP session has none.
    pub head: ROption<RequestHead<'a>>,
}

/// What a call for a session came to.
#[repr(C)]
#[derive(StableAbi)]
pub struct SessionOutcome {
    /// 0: it goes on. Where it begins, the HTTP status that refuses it; else the WebSocket's close code.
    pub verdict: u16,
    /// Why, where it does not go on.
    pub words: RString,
    /// Of which schema [`SessionOutcome::state`] is.
    pub schema: u32,
    /// The session's state from now on; absent: as before.
    pub state: ROption<FfiBytes>,
}

/// What of long conversations a library takes; it crosses as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Its sessions.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// Whether its router may take over a connection (`Upgrade:`): then the request's body is what the client sends
    /// once that is done, and a response with status 101 streams what is sent to it.
    #[serde(default)]
    pub upgrades: bool,
}

/// A kind of session that a library takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// What it speaks.
    pub kind: Kind,
    /// For a WebSocket the pattern of its path, see [`matches`]; else the listener's name.
    pub name: String,
}

/// What a session speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// WebSocket (RFC 6455).
    Websocket,
    /// Messages on a raw TCP connection.
    Tcp,
}

impl Offer {
    /// The place of the endpoint that takes sessions of this kind and path.
    pub fn find(&self, kind: Kind, path: &str) -> Option<u32> {
        let fits = |endpoint: &Endpoint| endpoint.kind == kind && matches(&endpoint.name, path).is_some();
        self.endpoints.iter().position(fits).and_then(|at| u32::try_from(at).ok())
    }
}

/// Whether `path` fits `pattern`, whose segments are literal or `{name}`, for any one segment; what the names stand
/// for.
pub fn matches<'a>(pattern: &'a str, path: &'a str) -> Option<Vec<(&'a str, &'a str)>> {
    let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
    let mut names = vec![];
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return Some(names),
            (Some(wanted), Some(segment)) => {
                match wanted.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                    Some(name) if !segment.is_empty() => names.push((name, segment)),
                    None if wanted == segment => {}
                    _ => return None,
                }
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_fits_segment_by_segment() {
        assert_eq!(matches("/polls/{id}/live", "/polls/7/live"), Some(vec![("id", "7")]));
        assert_eq!(matches("line", "line"), Some(vec![]));
        for path in ["/polls//live", "/polls/7", "/polls/7/live/", "/poll/7/live", "polls/7/live"] {
            assert_eq!(matches("/polls/{id}/live", path), None, "{path}");
        }
    }

    #[test]
    fn an_offer_is_searched_by_kind_and_path() {
        let endpoint = |kind, name: &str| Endpoint { kind, name: name.into() };
        let endpoints = vec![endpoint(Kind::Tcp, "/a"), endpoint(Kind::Websocket, "/a")];
        let offer = Offer { endpoints, upgrades: false };
        assert_eq!(offer.find(Kind::Websocket, "/a"), Some(1));
        assert_eq!(offer.find(Kind::Websocket, "/b"), None);
        let later = r#"{"endpoints": [], "upgrades": true, "novelty": 1}"#;
        assert!(serde_json::from_str::<Offer>(later).unwrap().upgrades);
    }
}

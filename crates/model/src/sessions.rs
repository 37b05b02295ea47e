//! Sessions: what is set for them, and what is counted of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[sessions]`: what a session may take up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionLimits {
    /// A message of a client, in bytes.
    pub message_bytes: usize,
    /// What may wait for a client that does not read, in bytes.
    pub queue_bytes: usize,
    /// A session's state, in bytes.
    pub state_bytes: usize,
    /// A WebSocket's client that sends not a byte for so long is asked by a ping, and after twice as long is gone,
    /// unless a message of its is being handled; 0: never.
    #[serde(with = "humantime_serde")]
    pub ping: Duration,
    /// A raw TCP session whose client sends not a byte for so long is closed, unless a message of its is being
    /// handled; 0: never.
    #[serde(with = "humantime_serde")]
    pub tcp_idle: Duration,
    /// A client that takes nothing of what waits for it for so long is closed.
    #[serde(with = "humantime_serde")]
    pub stall: Duration,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            message_bytes: 1024 * 1024,
            queue_bytes: 1024 * 1024,
            state_bytes: 64 * 1024,
            // Below the 60 s after which most proxies close a connection on which nothing happens.
            ping: Duration::from_secs(30),
            tcp_idle: Duration::ZERO,
            stall: Duration::from_secs(30),
        }
    }
}

/// `[listen.tcp.<name>]`: a listener for raw TCP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpListen {
    /// Where it listens.
    pub address: SocketAddr,
    /// What a message is.
    #[serde(default)]
    pub framing: Framing,
}

/// What a message is on raw TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    /// A line, without its end (`\n` or `\r\n`); what is sent gets a `\n`.
    #[default]
    Lines,
    /// Bytes after their number (4 bytes, big endian), both ways.
    Length,
    /// Whatever the socket gave.
    Bytes,
}

/// A TCP listener that a host inherits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpStart {
    /// Its name.
    pub name: String,
    /// What a message is.
    pub framing: Framing,
}

/// A TCP listener that is bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpStatus {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: String,
}

/// How a session can end, in words: `client` closed it, the `application` did, its `handler_failed`, the client was
/// `slow` or `idle`, its message `too_big` or against the `protocol`, the release does `not_served` its path, the node
/// did `restart`, the connection was `lost`.
pub const ENDS: [&str; 10] = [
    "client",
    "application",
    "handler_failed",
    "slow",
    "idle",
    "too_big",
    "protocol",
    "not_served",
    "restart",
    "lost",
];

/// The sessions of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionCounts {
    /// Those that are open.
    pub open: OpenSessions,
    /// Since the host began.
    #[serde(flatten)]
    pub totals: SessionTotals,
}

/// Open sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OpenSessions {
    /// WebSockets.
    pub websocket: u64,
    /// On raw TCP.
    pub tcp: u64,
    /// Connections that an application took over, which end with their generation.
    pub upgraded: u64,
}

/// What became of sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionTotals {
    /// Sessions that began.
    pub begun: u64,
    /// Messages of clients.
    pub received: u64,
    /// Messages to clients.
    pub sent: u64,
    /// Sessions that ended, by [`ENDS`].
    pub ended: BTreeMap<String, u64>,
}

impl SessionTotals {
    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, |mine, others| mine + others);
    }

    /// Takes over what is more in `later`, an account of the same sessions: nothing goes back.
    pub fn advance(&mut self, later: &Self) {
        self.combine(later, u64::max);
    }

    fn combine(&mut self, other: &Self, with: impl Fn(u64, u64) -> u64) {
        self.begun = with(self.begun, other.begun);
        self.received = with(self.received, other.received);
        self.sent = with(self.sent, other.sent);
        for (end, count) in &other.ended {
            let mine = self.ended.entry(end.clone()).or_default();
            *mine = with(*mine, *count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_sums_and_nothing_goes_back() {
        let totals = |begun, ended: &[(&str, u64)]| SessionTotals {
            begun,
            ended: ended.iter().map(|(end, count)| ((*end).to_owned(), *count)).collect(),
            ..SessionTotals::default()
        };
        let mut sum = totals(3, &[("client", 1)]);
        sum.add(&totals(4, &[("client", 1), ("slow", 2)]));
        assert_eq!(sum, totals(7, &[("client", 2), ("slow", 2)]));
        sum.advance(&totals(9, &[("client", 1)]));
        assert_eq!(sum, totals(9, &[("client", 2), ("slow", 2)]));
    }
}

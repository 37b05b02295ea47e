//! Speaking to sessions, from anywhere.

use relmgr_abi::abi_stable::std_types::RStr;
use relmgr_abi::session::{DONE, FULL, GONE};
use serde::{Deserialize, Serialize};

use super::Message;
use crate::log;

/// A session by its number, to be kept and to be spoken to from every release: it may be written to a database and
/// read by the next one. Numbers of sessions that are over are not given again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionHandle(u64);

/// Why a message was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// The session is over, or ends.
    Gone,
    /// Its client has not read what was sent before: more than `sessions.queue_bytes` wait. The session ends.
    Full,
}

impl std::fmt::Display for SendError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gone => "the session is over",
            Self::Full => "the session's client does not read what it is sent: the session ends",
        })
    }
}

impl std::error::Error for SendError {}

impl SessionHandle {
    /// The session with this number.
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub fn number(self) -> u64 {
        self.0
    }

    /// Sends a message, after those that were sent before; does not wait.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(self, message: impl Into<Message>) -> Result<(), SendError> {
        let Some(send) = log::host().and_then(|host| host.session_send()) else {
            return Err(SendError::Gone);
        };
        let (kind, bytes) = message.into().take_apart();
        result(send(self.0, kind, bytes.into()))
    }

    /// Ends the session with a WebSocket close code, after what has been sent to it.
    ///
    /// # Errors
    /// [`SendError::Gone`].
    pub fn close(self, code: u16, reason: &str) -> Result<(), SendError> {
        let Some(end) = log::host().and_then(|host| host.session_end()) else { return Err(SendError::Gone) };
        result(end(self.0, code, RStr::from_str(reason)))
    }

    /// Has it get what is published to `topic`, in every release, until it ends or is unsubscribed.
    ///
    /// # Errors
    /// [`SendError::Gone`].
    pub fn subscribe(self, topic: &str) -> Result<(), SendError> {
        self.set_subscribed(topic, true)
    }

    /// Has it get no more of what is published to `topic`.
    ///
    /// # Errors
    /// [`SendError::Gone`].
    pub fn unsubscribe(self, topic: &str) -> Result<(), SendError> {
        self.set_subscribed(topic, false)
    }

    fn set_subscribed(self, topic: &str, subscribed: bool) -> Result<(), SendError> {
        let subscribe = log::host().and_then(|host| host.session_subscribe());
        let Some(subscribe) = subscribe else { return Err(SendError::Gone) };
        result(subscribe(self.0, RStr::from_str(topic), subscribed))
    }
}

fn result(code: u8) -> Result<(), SendError> {
    match code {
        DONE => Ok(()),
        FULL => Err(SendError::Full),
        GONE.. => Err(SendError::Gone),
    }
}

/// Sends a message to every session that is subscribed to `topic`; to how many.
pub(crate) fn publish(topic: &str, message: Message) -> u64 {
    let Some(publish) = log::host().and_then(|host| host.publish()) else { return 0 };
    let (kind, bytes) = message.take_apart();
    publish(RStr::from_str(topic), kind, bytes.into())
}

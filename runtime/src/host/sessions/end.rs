//! How a session ends.

/// How a session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Its client closed it.
    Client {
        /// With this WebSocket code; 1005: with none.
        code: u16,
        /// And these words.
        reason: String,
    },
    /// The application closed it.
    Application {
        /// With this WebSocket code.
        code: u16,
        /// And these words.
        reason: String,
    },
    /// A handler of the application panicked, failed, or kept too much state.
    Failed,
    /// Its client does not read what it is sent.
    Slow,
    /// Its client has sent not a byte for too long, while no message of its was being handled.
    Idle,
    /// A message of its client was too large.
    TooBig,
    /// Its client does not keep to the protocol.
    Protocol {
        /// 1002, or 1007 for text that is none.
        code: u16,
    },
    /// The release that serves takes no sessions at its path.
    NotServed,
    /// The host makes way for another one, or the generation that handled its message was retired.
    Restart,
    /// Its connection broke off.
    Lost,
}

impl End {
    /// Its word, one of [`relmgr_model::sessions::ENDS`].
    pub fn name(&self) -> &'static str {
        match self {
            Self::Client { .. } => "client",
            Self::Application { .. } => "application",
            Self::Failed => "handler_failed",
            Self::Slow => "slow",
            Self::Idle => "idle",
            Self::TooBig => "too_big",
            Self::Protocol { .. } => "protocol",
            Self::NotServed => "not_served",
            Self::Restart => "restart",
            Self::Lost => "lost",
        }
    }

    /// The WebSocket's close code and words (RFC 6455, 7.4, and IANA's registry).
    pub fn code(&self) -> (u16, &str) {
        match self {
            Self::Client { code, reason } | Self::Application { code, reason } => (*code, reason),
            Self::Failed => (1011, "the application failed"),
            Self::Slow => (1013, "what was sent was not read"),
            Self::Idle => (1001, "nothing was heard for too long"),
            Self::TooBig => (1009, "the message is too large"),
            Self::Protocol { code } => (*code, "against the protocol"),
            Self::NotServed => (1012, "this release takes no such sessions"),
            Self::Restart => (1012, "service restart"),
            Self::Lost => (1006, "the connection broke off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_is_counted_under_a_word_that_is_known() {
        let (code, reason) = (1000, String::new());
        let ends = [
            End::Client { code, reason: reason.clone() },
            End::Application { code, reason },
            End::Failed,
            End::Slow,
            End::Idle,
            End::TooBig,
            End::Protocol { code: 1002 },
            End::NotServed,
            End::Restart,
            End::Lost,
        ];
        assert_eq!(ends.map(|end| end.name()), relmgr_model::sessions::ENDS);
    }
}

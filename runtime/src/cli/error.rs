//! What a command could not do: kind, causes, advice, exit code.

use std::error::Error;
use std::fmt::Write;
use std::process::ExitCode;

use relmgr_model::control::{Fault, Operation, Outcome, exit};

/// What a failure means to a script that called `relmgr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Refused or failed; the node serves what it served before.
    Failed,
    /// The new release was tried and rolled back.
    RolledBack,
    /// No node runs there.
    NotRunning,
    /// Another operation is running.
    Busy,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Failed => exit::FAILED,
            Self::RolledBack => exit::ROLLED_BACK,
            Self::NotRunning => exit::NOT_RUNNING,
            Self::Busy => exit::BUSY,
        }
    }
}

/// A command that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandError {
    kind: Kind,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    /// Whether the node went away in the middle of its answer.
    cut: bool,
}

impl CommandError {
    /// A failure with its words.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), causes: vec![], hint: None, cut: false }
    }

    /// A failure in the words of `error`, with the chain of its causes.
    pub fn of(kind: Kind, error: &dyn Error) -> Self {
        let failed = Self::new(kind, error.to_string());
        match error.source() {
            Some(cause) => failed.because(cause),
            None => failed,
        }
    }

    /// The same with `cause` and the chain of its causes.
    #[must_use]
    pub fn because(mut self, cause: &dyn Error) -> Self {
        let mut next = Some(cause);
        while let Some(error) = next {
            // Some errors repeat their cause in their own words.
            let words = error.to_string();
            if !self.message.contains(&words) {
                self.causes.push(words);
            }
            next = error.source();
        }
        self
    }

    /// Whether it is that no node runs there.
    pub fn is_not_running(&self) -> bool {
        self.kind == Kind::NotRunning
    }

    /// The same, of a node that went away in the middle of its answer.
    #[must_use]
    pub fn cut(mut self) -> Self {
        self.cut = true;
        self
    }

    /// Whether the node went away in the middle of its answer.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// What failed.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The same with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What the node says of a request that it did not carry out, with the answer's status.
    pub fn refused(status: http::StatusCode, fault: Fault) -> Self {
        let kind = if status == http::StatusCode::CONFLICT { Kind::Busy } else { Kind::Failed };
        Self { kind, message: fault.error, causes: vec![], hint: fault.hint, cut: false }
    }

    /// An operation that did not end as asked; `None`: it did.
    pub fn of_operation(operation: &Operation) -> Option<Self> {
        let kind = match operation.outcome {
            Outcome::Done | Outcome::AlreadyDone => return None,
            Outcome::Failed | Outcome::Interrupted => Kind::Failed,
            Outcome::RolledBack => Kind::RolledBack,
        };
        let message = operation.error.clone().unwrap_or_else(|| "the node does not say why".into());
        Some(Self { kind, message, causes: vec![], hint: operation.hint.clone(), cut: false })
    }

    /// The command's exit code.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(self.kind.code())
    }

    /// What is printed to stderr.
    pub fn text(&self) -> String {
        let mut text = format!("error: {}\n", self.message);
        for cause in &self.causes {
            let _ = writeln!(text, "  because: {cause}");
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(text, "hint: {hint}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_why_and_what_next() {
        let cause = std::io::Error::other("disk on fire");
        let error =
            CommandError::new(Kind::Failed, "state.json cannot be read").because(&cause).hint("buy a disk");
        assert_eq!(
            error.text(),
            "error: state.json cannot be read\n  because: disk on fire\nhint: buy a disk\n"
        );
    }

    #[test]
    fn a_second_operation_is_told_from_a_refused_one() {
        let fault = || Fault { error: "no".into(), hint: None };
        assert_eq!(CommandError::refused(http::StatusCode::CONFLICT, fault()).kind, Kind::Busy);
        assert_eq!(CommandError::refused(http::StatusCode::BAD_REQUEST, fault()).kind, Kind::Failed);
    }
}

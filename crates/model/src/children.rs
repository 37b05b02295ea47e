//! The application's background children, as `status` shows them. Their words are OTP's.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// When a child that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Always.
    Permanent,
    /// When it ended by a fault.
    Transient,
    /// Never.
    Temporary,
}

impl Restart {
    /// The type's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Permanent => "permanent",
            Self::Transient => "transient",
            Self::Temporary => "temporary",
        }
    }
}

/// Which of a supervisor's children are started again together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The one that ended.
    OneForOne,
    /// All.
    OneForAll,
    /// The one that ended and those after it.
    RestForOne,
}

impl Strategy {
    /// The strategy's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::OneForOne => "one_for_one",
            Self::OneForAll => "one_for_all",
            Self::RestForOne => "rest_for_one",
        }
    }
}

/// What a child does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Work.
    Worker,
    /// It has children of its own.
    Supervisor,
}

/// What a child is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChildState {
    /// Waits for its turn, or has not yet said that it is ready.
    Starting,
    /// As it should.
    Running,
    /// Ended, and is being started again.
    Restarting,
    /// Ended, and is not started again.
    Stopped,
    /// Ended by a fault, and is not started again; of a supervisor: it gave up.
    Failed,
}

impl ChildState {
    /// The state's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// The supervisor at the top of a generation's children.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupervisorStatus {
    /// Whom it starts again together.
    pub strategy: Strategy,
    /// `failed`: it gave up, and the application is unhealthy.
    pub state: ChildState,
    /// Why it gave up.
    pub last_exit: Option<String>,
    /// Since when it has been in its state.
    pub since: DateTime<Utc>,
}

/// A child of a generation's application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildStatus {
    /// Its name among its siblings.
    pub name: String,
    /// What it does.
    pub kind: Kind,
    /// When it is started again.
    pub restart: Restart,
    /// Of a supervisor: whom it starts again together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// What it is doing.
    pub state: ChildState,
    /// How often it was started again since its generation became current.
    pub restarts: u64,
    /// How it ended the last time.
    pub last_exit: Option<String>,
    /// Since when it has been in its state; of one that was started again: since then.
    pub since: DateTime<Utc>,
    /// A supervisor's children, in the order in which they start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<ChildStatus>,
}

impl ChildStatus {
    /// Has `f` change all words of the application's own in it and below it.
    pub fn reword(&mut self, f: &impl Fn(&str) -> String) {
        self.last_exit = self.last_exit.take().map(|words| f(&words));
        self.children.iter_mut().for_each(|child| child.reword(f));
    }
}

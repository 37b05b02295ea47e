//! The application's background children, as it shows them. They cross as JSON, since they are asked for by people
//! only.

use serde::{Deserialize, Serialize};

/// When a child that ended is started again, after OTP's restart types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Always.
    Permanent,
    /// When it panicked, failed, or gave up.
    Transient,
    /// Never.
    Temporary,
}

/// Which children are started again together, after OTP's strategies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The one that ended alone.
    OneForOne,
    /// All of its supervisor's: the others are ended first.
    OneForAll,
    /// The one that ended and those that were declared after it.
    RestForOne,
}

/// What a child is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for its turn, or has not yet said that it is ready.
    Starting,
    /// As it should.
    Running,
    /// Ended, and is being started again.
    Restarting,
    /// Ended, and is not started again.
    Stopped,
    /// Ended by a fault, and is not started again.
    Failed,
}

/// A child, or the supervisor at the top, whose name is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name among its siblings.
    pub name: String,
    /// When it is started again.
    pub restart: Restart,
    /// Of a supervisor: whom it starts again together. `None`: a worker.
    pub strategy: Option<Strategy>,
    /// What it is doing.
    pub state: State,
    /// How often it was started again since its generation became current.
    pub restarts: u64,
    /// How it ended the last time.
    pub last_exit: Option<String>,
    /// Since when it has been in its state, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// A supervisor's children, in the order in which they start.
    pub children: Vec<Node>,
}

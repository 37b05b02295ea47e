//! The words of relmgr as types.
//!
//! Everything here is pure: values, decisions and formats, without files, clocks, threads or sockets. The
//! supervisor, the host, the command line and the release builder agree by sharing these types:
//!
//! | module | what |
//! | --- | --- |
//! | [`version`] | the timestamp version of a release |
//! | [`channel`] | a channel's signed document, and whether a node follows it |
//! | [`manifest`] | what a release says of itself |
//! | [`status`] | a release's status on a node, and the one table of its transitions |
//! | [`plan`] | which steps an operation takes, decided from a snapshot of facts |
//! | [`record`] | `state.json` and `history.jsonl` |
//! | [`probation`] | whether a new release stays, from what was seen before and after the swap |
//! | [`pull`] | when a node asks its channel by itself, and what it does with the answer |
//! | [`counts`] | what a release has answered, for whoever watches from outside |
//! | [`control`] | what the command line and the supervisor say to each other |
//! | [`conf`] | the part of it that is about the application's configuration |
//! | [`children`] | the part of it that is about the application's background children |
//! | [`notify`] | what the operator's commands and webhooks are told |
//! | [`host`] | what the supervisor and the host say to each other |
//! | [`sessions`] | WebSocket and raw TCP sessions: what is set for them, and what is counted |
//! | [`settings`] | `relmgr.toml` |
//! | [`state`] | whether in-memory state can go from one release to another |
//! | [`home`] | where things lie in a node's home directory |

pub mod channel;
pub mod children;
pub mod conf;
pub mod control;
pub mod counts;
pub mod home;
pub mod host;
pub mod manifest;
pub mod notify;
pub mod plan;
pub mod probation;
pub mod pull;
pub mod record;
pub mod recording;
pub mod sessions;
pub mod settings;
pub mod state;
pub mod status;
pub mod tables;
pub mod takeover;
pub mod tls;
pub mod version;

pub use version::Version;

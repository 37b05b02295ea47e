//! What one image of the supervisor leaves to the next when relmgr itself is upgraded: first the question whether the
//! other binary can take over, then, across `exec`, everything that has to go on.
//!
//! | when | who | what |
//! | --- | --- | --- |
//! | before | supervisor → `relmgr takeover-check` of the new binary, on stdin | [`Offer`] |
//! | before | its answer on stdout; otherwise exit code 1 and why on stderr | [`Accepted`] |
//! | exec | a sealed file in memory, whose descriptor [`VARIABLE`] names | [`Takeover`] |
//!
//! All are JSON. What is added with a default leaves [`FORMAT`] as it is; what an older reader would misunderstand
//! does not, and is refused by the check, before anything has happened.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::Version;
use crate::control::StepTime;
use crate::counts::ReleaseCounts;
use crate::settings::Listen;

/// The format of [`Offer`] and [`Takeover`] that this relmgr writes and reads.
pub const FORMAT: u32 = 1;

/// The environment variable that holds the number of the descriptor. Its value is no secret; what stands in the file
/// stays within the process.
pub const VARIABLE: &str = "RELMGR_TAKEOVER";

/// Can you take over?
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// [`FORMAT`] of the supervisor that asks.
    pub format: u32,
    /// The protocol that its host speaks: [`crate::host::PROTOCOL`].
    pub host_protocol: u32,
    /// The text of relmgr.toml.
    pub settings: String,
    /// The addresses as they were configured when the supervisor bound them.
    pub listen: Listen,
}

/// Yes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The version of relmgr that answers.
    pub relmgr: String,
}

/// An offer that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it, the fields are the facts that they name")]
pub enum Unacceptable {
    #[error(
        "the supervisor hands over in format {found}, this relmgr takes over in format {FORMAT}: {REMEDY}"
    )]
    Format { found: u32 },
    #[error("the host speaks protocol {found}, this relmgr speaks {expected}: {REMEDY}")]
    HostProtocol { found: u32, expected: u32 },
    #[error(
        "[listen] in relmgr.toml is not what the node has bound: `relmgr stop` and a new start apply it, or set it back"
    )]
    Listen,
}

const REMEDY: &str = "`relmgr stop` and a start with the new relmgr";

impl Offer {
    /// Whether this relmgr can take over what is offered; `listen` is what the settings say now.
    ///
    /// # Errors
    /// The first thing that is in the way.
    pub fn acceptable(&self, listen: &Listen) -> Result<(), Unacceptable> {
        let expected = crate::host::PROTOCOL;
        match self {
            Self { format, .. } if *format != FORMAT => Err(Unacceptable::Format { found: *format }),
            Self { host_protocol, .. } if *host_protocol != expected => {
                Err(Unacceptable::HostProtocol { found: *host_protocol, expected })
            }
            Self { listen: bound, .. } if bound != listen => Err(Unacceptable::Listen),
            _ => Ok(()),
        }
    }
}

/// What the next image takes over. Numbers of descriptors are those that it inherits, each named once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Takeover {
    /// [`FORMAT`].
    pub format: u32,
    /// The version of relmgr that hands over.
    pub relmgr: String,
    /// The text of relmgr.toml as it was checked.
    pub settings: String,
    /// Descriptor of the home's lock.
    pub lock: i32,
    /// Descriptor of the control socket, which listens.
    pub control: i32,
    /// Descriptors of the public listeners, in the order of the settings.
    pub listeners: Vec<i32>,
    /// Descriptor of the admin listener.
    pub admin: Option<i32>,
    /// The host, a child of this process.
    pub host: Host,
    /// The release that serves in it.
    pub serving: Option<Serving>,
    /// Other children that somebody has to wait for.
    pub children: Vec<i32>,
    /// Those of them that are the operator's commands.
    #[serde(default)]
    pub commands: Vec<Command>,
    /// When the supervisor started.
    pub started_at: DateTime<Utc>,
    /// How often the host was started again after it died.
    pub host_restarts: u64,
    /// How long ago hosts died, in milliseconds, as far back as `supervisor.period`: the intensity does not begin anew.
    #[serde(default)]
    pub deaths_ms_ago: Vec<u64>,
    /// What hosts that have ended had answered; of releases that are loaded nowhere, the newest.
    #[serde(default)]
    pub answered: Vec<ReleaseCounts>,
    /// Notifications that wait for webhooks; a webhook for which none waits stands there as well.
    #[serde(default)]
    pub untold: Vec<Untold>,
    /// Whether prev has taken the place of a permanent release that did not live.
    pub fallen_back: bool,
    /// The operation that this is part of.
    pub operation: Operation,
}

/// The host that goes on serving until there is another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its process.
    pub pid: i32,
    /// Descriptor of the supervisor's end of its channel. No command is unanswered.
    pub channel: i32,
    /// Descriptor of the pipe that its log comes through.
    pub stderr: Option<i32>,
    /// The number of the next command.
    pub next_id: u64,
    /// The last lines that it wrote.
    pub last_words: Vec<String>,
}

/// A command of the operator's that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The setting that names it.
    pub hook: String,
    /// Its process.
    pub pid: i32,
    /// Descriptor of the pipe that it writes its stderr to.
    pub stderr: Option<i32>,
    /// How long it has run, in milliseconds.
    pub ran_ms: u64,
    /// How long it may, in milliseconds.
    pub timeout_ms: u64,
}

/// What waits for one webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Untold {
    /// Its address as it was in the settings: of several with the same one the first comes first.
    pub url: String,
    /// The oldest first.
    pub deliveries: Vec<Delivery>,
}

/// A notification that is told by the next image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Its id.
    pub id: String,
    /// The event's word; an older reader may not know it, and passes it on.
    pub event: String,
    /// The JSON that is sent.
    pub body: String,
    /// The tries that are over.
    pub tries: u32,
    /// In how many milliseconds it is tried again.
    pub due_in_ms: u64,
}

/// The release that serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// Its version.
    pub version: Version,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// An operation half of which is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// The uid of who asked.
    pub uid: u32,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// The steps that are over.
    pub steps: Vec<StepTime>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_taken_over_is_refused_by_name() {
        let listen = Listen::default();
        let offer = Offer {
            format: FORMAT,
            host_protocol: crate::host::PROTOCOL,
            settings: String::new(),
            listen: listen.clone(),
        };
        assert_eq!(offer.acceptable(&listen), Ok(()));
        let newer = Offer { format: FORMAT + 1, ..offer.clone() };
        assert!(newer.acceptable(&listen).unwrap_err().to_string().contains("format 2"));
        let other = Offer { host_protocol: 7, ..offer.clone() };
        assert!(other.acceptable(&listen).unwrap_err().to_string().contains("protocol 7"));
        let elsewhere = Listen { http: vec![], ..listen };
        assert_eq!(offer.acceptable(&elsewhere), Err(Unacceptable::Listen));
    }

    #[test]
    fn what_a_later_relmgr_adds_is_no_fault() {
        let offer = r#"{"format":1,"host_protocol":1,"settings":"","listen":{},"news":true}"#;
        assert_eq!(serde_json::from_str::<Offer>(offer).unwrap().format, 1);
    }
}

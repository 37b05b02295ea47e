//! Who asks for an operation, and what is remembered of it for following a channel.

use chrono::Utc;
use relmgr_model::Version;
use relmgr_model::control::{Kind, Outcome};
use relmgr_model::record::{Agent, NodeRecord};
use relmgr_model::status::Status;

/// Who asks for an operation.
#[derive(Debug, Clone)]
pub enum Asker {
    /// A person or a script, by the control socket.
    User(u32),
    /// The node, following its channel, with the release that this names and the SHA-256 of its manifest.
    Pull(Option<(Version, String)>),
    /// The node itself, for this reason.
    Node(String),
}

/// Who asked, as the history has it.
#[derive(Debug, Clone, Copy, Default)]
pub struct By {
    /// A person; absent: none did.
    pub uid: Option<u32>,
    /// Who else; absent beside an absent uid: the node itself.
    pub agent: Option<Agent>,
}

impl From<Option<u32>> for By {
    fn from(uid: Option<u32>) -> Self {
        Self { uid, agent: None }
    }
}

impl Asker {
    /// As the history has it.
    pub fn by(&self) -> By {
        match self {
            Self::User(uid) => Some(*uid).into(),
            Self::Pull(_) => By { uid: None, agent: Some(Agent::Pull) },
            Self::Node(_) => By::default(),
        }
    }

    /// As the note of an operation under way has it.
    pub(super) fn recorded_uid(&self) -> u32 {
        self.by().uid.unwrap_or_else(|| nix::unistd::getuid().as_raw())
    }

    pub(super) fn pinned(&self) -> Option<(Version, String)> {
        match self {
            Self::User(_) | Self::Node(_) => None,
            Self::Pull(pinned) => pinned.clone(),
        }
    }

    /// Why, where nobody asked.
    pub(super) fn why(&self) -> Option<&str> {
        match self {
            Self::Node(why) => Some(why),
            Self::User(_) | Self::Pull(_) => None,
        }
    }
}

/// Notes in `record` what an operation that is over means for following a channel: what people have decided, what the
/// channel has brought, what failed.
pub fn note_for_pull(
    record: &mut NodeRecord,
    by: By,
    kind: Kind,
    (from, to): (Option<&Version>, Option<&Version>),
    outcome: Outcome,
) {
    let (Some(to), Kind::Upgrade | Kind::Downgrade) = (to, kind) else { return };
    match (by.agent, by.uid, outcome) {
        (Some(Agent::Pull), _, Outcome::Done | Outcome::AlreadyDone) => {
            record.pull.followed = Some(to.clone());
            record.pull.left = None;
        }
        (Some(Agent::Pull), _, _) => {
            if let Some(Status::Failed { reason, .. }) =
                record.releases.get(to).map(|release| &release.status)
            {
                let reason = reason.clone();
                record.pull.note_failed(to.clone(), reason);
            }
        }
        (None, Some(uid), Outcome::Done) => record.pull.note_operator(kind, from, to, uid, Utc::now()),
        _ => {}
    }
}

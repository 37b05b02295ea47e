//! The release that has been shipped to the candidate and back, on a node that is thrown away, with state.
//!
//! | stage | what |
//! | --- | --- |
//! | fetch | the node fetches what the channel names, from the repository, by its own rules |
//! | shipped | it serves; recorded state is given to it, more is made by requests; what it keeps is recorded |
//! | change | the candidate takes that state over and gives it back, on a copy, in a process of its own |
//! | candidate | swap up, and every record migrated |
//! | back | swap down; what is kept is recorded again, and compared |
//! | new | where asked for: up once more, state made by the candidate, and down |
//!
//! Requests are sent all the time. [`walk`] goes through them, [`node`] runs `relmgr`, [`load`] sends requests, [`memory`] and [`tables`] compare.

mod load;
mod looks;
mod memory;
mod node;
mod report;
mod tables;
mod walk;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use relmgr_model::Version;
use relmgr_model::settings::Repository as RepositorySettings;
use relmgr_store::repository::BuiltRelease;

use node::Node;
use report::Stage;
pub(crate) use report::{Failure, Outcome, Report};
use walk::Walk;

/// What `--moving` calls the state in memory.
pub(crate) const IN_MEMORY: &str = "memory";

/// What is rehearsed, and with what.
pub(crate) struct Rehearsal {
    /// The relmgr that runs the node.
    pub(crate) relmgr: PathBuf,
    /// The candidate.
    pub(crate) candidate: BuiltRelease,
    /// Where the shipped release comes from, and whom the node believes.
    pub(crate) repository: RepositorySettings,
    /// The application's settings.
    pub(crate) conf: Option<PathBuf>,
    /// Recorded state.
    pub(crate) state: Option<PathBuf>,
    /// Makes state by requests.
    pub(crate) feed: Option<String>,
    /// The same, for the candidate.
    pub(crate) feed_candidate: Option<String>,
    /// Looks at what the application answers.
    pub(crate) verify: Option<String>,
    /// How long each of these commands may take.
    pub(crate) timeout: Duration,
    /// Paths that must answer at every moment.
    pub(crate) probes: Vec<String>,
    /// What changes by itself.
    pub(crate) moving: BTreeSet<String>,
    /// Whether what is thrown away stays.
    pub(crate) keep: bool,
}

impl Rehearsal {
    /// Carries it out; what came of it. `shipped` is what the channel names. `None`: `interrupted` came first, and all of
    /// it has ended.
    pub(crate) async fn run(
        &self,
        shipped: Version,
        interrupted: impl Future<Output = ()>,
    ) -> Option<Report> {
        let report = Report::without_node(Outcome::Rehearsed, &self.candidate, Some(shipped.clone()));
        let node = match Node::new(self.relmgr.clone()) {
            Ok(node) => node,
            Err(error) => {
                let what = format!("a temporary directory cannot be made: {error}");
                let (stage, release) = (Stage::Fetch, shipped.to_string());
                let failure = Some(Failure { stage, release, what, hint: None });
                return Some(Report { outcome: Outcome::Failed, failure, ..report });
            }
        };
        Walk::new(self, node, report, shipped).carry_out(interrupted).await
    }
}

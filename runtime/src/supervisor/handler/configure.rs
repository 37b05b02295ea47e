//! Step 5: the effective configuration of the release that is about to run.

use relmgr_conf::{Effective, applied, effective};
use relmgr_model::Version;
use relmgr_model::conf::{ConfReport, Notice};
use relmgr_model::control::{Outcome, Progress};

use super::super::conf::{Cause, ReloadError, Reloaded, outdated, reload, schema_notices};
use super::super::node::Node;
use super::super::tls;
use super::OperationError;
use super::walk::Walk;
use crate::conf::sources;

/// Evaluates the configuration for `version`, from its own schema and what the operator has written.
///
/// # Errors
/// [`OperationError::Schema`] and [`OperationError::Configuration`] with every fault.
pub fn configure(node: &Node, version: &Version) -> Result<Effective, OperationError> {
    let sources = sources(&node.home, version)?;
    effective(&sources).map_err(|faults| OperationError::Configuration { version: version.clone(), faults })
}

/// What `version` ran with last on this node.
///
/// # Errors
/// As [`configure`]; a secret that cannot be had any more is among the faults.
pub fn last_applied(node: &Node, version: &Version) -> Result<Effective, OperationError> {
    let sources = sources(&node.home, version)?;
    let file = node.home.release(version).join("app.conf");
    applied(&sources, &file)
        .map_err(|faults| OperationError::Configuration { version: version.clone(), faults })
}

impl Walk<'_> {
    /// Tells what the release changes for the operator, and evaluates the configuration for it.
    pub(super) fn configure(&mut self, to: &Version) -> Result<Option<String>, OperationError> {
        // Told first: what is missing below may be what is new here.
        if let Some(from) = self.from.as_ref().filter(|from| *from != to) {
            self.notice(schema_notices(&self.node.home, from, to));
        }
        let effective = configure(self.node, to)?;
        self.notice(outdated(&effective));
        self.effective = Some(effective);
        Ok(None)
    }

    fn notice(&mut self, notices: Vec<Notice>) {
        for notice in &notices {
            self.tell(Progress::Notice(notice.clone()));
        }
        self.conf.notices.extend(notices);
    }

    /// Reloads the configuration of the release that serves.
    pub(super) async fn reload(&mut self, version: &Version) -> Result<Outcome, OperationError> {
        for error in tls::reload(self.node).await {
            self.warn(error);
        }
        let (outcome, report) = match reload(self.node, version, Cause::Command).await {
            Ok(Reloaded::Changed(report)) => (Outcome::Done, report),
            Ok(Reloaded::Same(report)) => (Outcome::AlreadyDone, report),
            Err(ReloadError::Refused(error)) => return Err(error),
            Err(ReloadError::Again) => (Outcome::AlreadyDone, ConfReport::default()),
        };
        let notices = report.notices.clone();
        self.conf = ConfReport { notices: vec![], ..report };
        self.notice(notices);
        Ok(outcome)
    }
}

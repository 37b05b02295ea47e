//! The code change of `relmgr check`: tried on a copy of the state of the release that serves, in processes that are
//! thrown away. A step up is the business of the release that is tried. A step down is that of the one that serves: its
//! library gives the older form in a process of its own, and the older release reads it in the next.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use relmgr_abi::state::Trial;
use relmgr_model::Version;
use relmgr_model::control::Kind;
use relmgr_model::host::{Answer, Command};
use relmgr_model::state::way;

use super::super::preflight::{PreflightError, give_back};
use super::OperationError;
use super::install::PREFLIGHT_SLACK;
use super::state::schema_of;
use super::switch::{millis, unexpected};
use super::walk::Walk;
use crate::host::preflight::{GiveBack, Passed};

/// Requests wait at most so long for those that run when the state is copied. A check changes nothing, so nobody is to
/// notice it; most handlers are over in a fraction of this.
const QUIET: Duration = Duration::from_millis(500);

/// A copy of the state of the release that serves.
pub(super) struct Copy {
    /// Where the host has written it.
    path: PathBuf,
    /// Its schema version.
    schema: u32,
    bytes: u64,
    written_ms: f64,
    down: Option<Down>,
}

/// What a step down came to.
enum Down {
    /// The older form, in memory of this process.
    Given { file: File, schema: u32, trial: Trial },
    /// The library has no words for it.
    Untried { schema: u32 },
}

impl Copy {
    /// How large it is.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What the release that is tried reads, and its schema version; `None`: nothing.
    pub(super) fn to_read(&self) -> Option<(PathBuf, u32)> {
        match &self.down {
            None => Some((self.path.clone(), self.schema)),
            Some(Down::Given { file, schema, .. }) => Some((memory_path(file), *schema)),
            Some(Down::Untried { .. }) => None,
        }
    }

    /// What the trial came to, of which `said` tells.
    pub(super) fn describe(&self, said: &str) -> String {
        let passed: Option<Passed> = last_line(said);
        let Self { schema, bytes, written_ms, .. } = self;
        let trial = passed.and_then(|passed| passed.trial);
        let within = trial.map(|trial| format!(" in {:.1} ms", trial.ms)).unwrap_or_default();
        let written = format!("state of schema {schema}, {bytes} bytes: written in {written_ms:.1} ms");
        match &self.down {
            None => format!("{written}, read and changed{within}"),
            Some(Down::Given { schema, trial: Trial { bytes, ms }, .. }) => format!(
                "{written}, changed down to schema {schema} in {ms:.1} ms, {bytes} bytes, read{within}"
            ),
            Some(Down::Untried { schema }) => format!(
                "{written}; the step down to schema {schema} was not tried: the release that serves was built with \
                 a relmgr-app that cannot"
            ),
        }
    }
}

fn last_line<T: serde::de::DeserializeOwned>(said: &str) -> Option<T> {
    said.lines().rev().find_map(|line| serde_json::from_str(line).ok())
}

/// By which processes of the same user open it.
fn memory_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()))
}

impl Walk<'_> {
    /// For `relmgr check`: a copy of the state of the release that serves, where the one that is tried takes it over.
    /// Requests wait while it is written, and for nothing else.
    pub(super) async fn copy_state(&mut self, to: &Version) -> Result<Option<Copy>, OperationError> {
        let (Kind::Check, Some(host)) = (self.request.kind, self.node.host()) else { return Ok(None) };
        let (from, to_state) = self.schemas(to)?;
        let Some(crossing) = way(from.as_ref(), to_state.as_ref()).ok().flatten() else { return Ok(None) };
        let schema = schema_of(from.as_ref());
        let begun = Instant::now();
        let patience_ms = millis(self.node.settings.upgrade.children_patience());
        let quiet_ms = Some(millis(QUIET.min(self.node.settings.upgrade.quiesce)));
        let command = Command::LendState { patience_ms, code_change: self.change(schema), quiet_ms };
        let lent = host.call(command).await;
        let _ = host.call(Command::Resume).await;
        let mut copy = match lent {
            Ok(Answer::Lent { path, bytes }) => {
                let written_ms = begun.elapsed().as_secs_f64() * 1e3;
                Copy { path, schema, bytes, written_ms, down: None }
            }
            Ok(other) => return Err(unexpected(to, &other)),
            Err(error) => {
                return Err(OperationError::CodeChange {
                    version: to.clone(),
                    reason: self.node.redact(&error.to_string()),
                    blames_release: false,
                });
            }
        };
        if crossing != schema {
            let down = self.step_down(&copy, crossing).await;
            if down.is_err() {
                self.forget_copy(Some(&copy)).await;
            }
            copy.down = Some(down?);
        }
        Ok(Some(copy))
    }

    async fn step_down(&self, copy: &Copy, schema: u32) -> Result<Down, OperationError> {
        let Some(from) = self.from.clone() else { return Ok(Down::Untried { schema }) };
        let failed = |error: PreflightError| {
            let error = self
                .node
                .with(|state| state.in_force.iter().fold(error, |error, of| error.redacted(&of.effective)));
            OperationError::StepDown { from: from.clone(), schema, error }
        };
        let library = self.node.home.release(&from).join(self.node.tree.manifest(&from)?.library);
        let library = std::path::absolute(&library).map_err(|source| OperationError::Io {
            path: library,
            what: "read",
            source,
        })?;
        let file = memfd_create(c"relmgr-state", MFdFlags::MFD_CLOEXEC)
            .map_err(|error| failed(PreflightError::Io(error.into())))?;
        let file = File::from(file);
        let back = GiveBack { schema, into: memory_path(&file), most: self.node.settings.upgrade.state_max };
        let limits = self.node.settings.preflight.with_state(copy.bytes);
        let deadline = self.node.settings.upgrade.start + PREFLIGHT_SLACK;
        let given = give_back(&library, (&copy.path, copy.schema), &back, &limits, deadline).await;
        Ok(match last_line(&given.map_err(failed)?) {
            Some(trial) => Down::Given { file, schema, trial },
            None => Down::Untried { schema },
        })
    }

    /// Nobody reads the copy any more.
    pub(super) async fn forget_copy(&self, copy: Option<&Copy>) {
        if let (Some(_), Some(host)) = (copy, self.node.host()) {
            let _ = host.call(Command::ForgetState).await;
        }
    }
}

//! Step 9: the in-memory state goes from the release that serves to the one that is to serve, or back.

use std::time::Duration;

use relmgr_model::Version;
use relmgr_model::host::{Answer, CodeChange, CodeChanged, Command};
use relmgr_model::manifest::StateSchema;
use relmgr_model::state::way;

use super::super::host_process::{CallError, HostProcess};
use super::OperationError;
use super::switch::{millis, unexpected};
use super::walk::Walk;

impl Walk<'_> {
    /// Hands the state over and swaps, in one: requests wait for both.
    pub(super) async fn code_change(&mut self, to: &Version) -> Result<Option<String>, OperationError> {
        let Some(generation) = self.candidate else { return Ok(None) };
        let (from, to_state) = self.schemas(to)?;
        // There was a way when the release was verified.
        let Some(schema) = way(from.as_ref(), to_state.as_ref()).ok().flatten() else { return Ok(None) };
        let changed = self.make_way(to, generation, Some(self.change(schema))).await?;
        let (before, after) = (schema_of(from.as_ref()), schema_of(to_state.as_ref()));
        Ok(changed.map(|changed| {
            if changed.refused > 0 {
                self.warn(format!(
                    "{} requests found no room to wait in and were answered 503 (http.limits.held)",
                    changed.refused
                ));
            }
            describe(before, after, &changed)
        }))
    }

    /// Has the host swap, with `code_change` where there is state.
    pub(super) async fn make_way(
        &mut self,
        to: &Version,
        generation: u64,
        code_change: Option<CodeChange>,
    ) -> Result<Option<CodeChanged>, OperationError> {
        if self.watched {
            self.take_before(to).await?;
        }
        let patience_ms = millis(self.node.settings.upgrade.children_patience());
        match self.call(to, Command::Swap { generation, patience_ms, code_change }).await? {
            Answer::Swapped { previous, code_change } => {
                (self.previous, self.changed) = (previous, true);
                Ok(code_change)
            }
            Answer::NotSwapped { reason, blames_candidate } => Err(OperationError::CodeChange {
                version: to.clone(),
                reason: self.node.redact(&reason),
                blames_release: blames_candidate,
            }),
            other => Err(unexpected(to, &other)),
        }
    }

    /// The schema in which the state goes from host to host at a restart; `None`: there is none to keep.
    pub(super) fn state_to_keep(&self) -> Result<Option<u32>, OperationError> {
        let Some(from) = self.from.as_ref().filter(|_| !self.request.lose_state) else { return Ok(None) };
        Ok(self.node.tree.manifest(from)?.state.map(|state| state.version))
    }

    /// Has the old host lend its state to the candidate in the new one. Where that fails the old one goes on.
    pub(super) async fn lend(
        &self,
        to: &Version,
        generation: u64,
        old: &HostProcess,
        schema: u32,
        patience: Duration,
    ) -> Result<(), OperationError> {
        let code_change = self.change(schema);
        let command = Command::LendState {
            patience_ms: millis(patience),
            code_change: code_change.clone(),
            quiet_ms: None,
        };
        let refused = |reason: String| OperationError::StateKept {
            version: to.clone(),
            reason: self.node.redact(&reason),
        };
        let path = match old.call(command).await {
            Ok(Answer::Lent { path, .. }) => path,
            Ok(other) => return Err(unexpected(to, &other)),
            // It has taken its state along.
            Err(CallError::Died(_)) => return Ok(()),
            Err(error) => return Err(refused(error.to_string())),
        };
        match self.call(to, Command::TakeState { generation, path, code_change }).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let _ = old.call(Command::Resume).await;
                let _ = old.call(Command::ForgetState).await;
                Err(refused(error.describe()))
            }
        }
    }

    pub(super) fn change(&self, schema: u32) -> CodeChange {
        let upgrade = &self.node.settings.upgrade;
        CodeChange { schema, quiesce_ms: millis(upgrade.quiesce), max_bytes: upgrade.state_max }
    }

    /// The forms of the state: of the release before, and of the one that this goes to.
    pub(super) fn schemas(
        &self,
        to: &Version,
    ) -> Result<(Option<StateSchema>, Option<StateSchema>), OperationError> {
        let state = |version: &Version| Ok::<_, OperationError>(self.node.tree.manifest(version)?.state);
        let from = self.from.as_ref().map(state).transpose()?.flatten();
        let to = match &self.manifest {
            Some(manifest) => manifest.state.clone(),
            None => state(to)?,
        };
        Ok((from, to))
    }

    /// How the state gets back to the release before; `None`: it does not, and why is noted.
    pub(super) fn change_back(&mut self) -> Option<CodeChange> {
        if self.request.lose_state {
            // What was left behind is still there.
            return None;
        }
        let to = self.to.clone()?;
        let (from, to_state) = self.schemas(&to).ok()?;
        from.as_ref()?;
        match way(to_state.as_ref(), from.as_ref()) {
            Ok(schema) => Some(self.change(schema?)),
            Err(no_way) => {
                self.note_lost(&no_way.to_string());
                None
            }
        }
    }

    /// Takes note of what became of the state on the way back.
    pub(super) fn handed_back(&mut self, answer: &Answer) {
        match answer {
            Answer::SwappedBack { lost: Some(reason), .. } => {
                let reason = self.node.redact(reason);
                self.note_lost(&reason);
            }
            Answer::SwappedBack { code_change: Some(changed), .. } => {
                tracing::info!(bytes = changed.bytes, held_ms = changed.held_ms, "the state was handed back");
            }
            _ => {}
        }
    }

    fn note_lost(&mut self, reason: &str) {
        let from = self.from.as_ref().map(ToString::to_string).unwrap_or_default();
        let words = format!(
            "{from} goes on with the state that it had handed over, what changed since is lost: {reason}"
        );
        self.warn(words.clone());
        self.state_lost = Some(words);
    }

    /// Takes note of what a host took along that died.
    pub(super) fn lost_with_host(&mut self) {
        let Some(Ok((from, _))) = self.to.clone().map(|to| self.schemas(&to)) else { return };
        if from.is_some() {
            self.state_lost = Some("what was kept in memory is lost with the host".into());
        }
    }
}

pub(super) fn schema_of(state: Option<&StateSchema>) -> u32 {
    state.map_or(0, |state| state.version)
}

fn describe(from: u32, to: u32, changed: &CodeChanged) -> String {
    let schemas = if from == to { format!("schema {from}") } else { format!("schema {from} to {to}") };
    let CodeChanged { bytes, held_ms, waited, .. } = changed;
    format!("{schemas}, {bytes} bytes; {waited} requests waited up to {held_ms:.1} ms")
}

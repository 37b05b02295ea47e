//! What all commands share that ask the node for an operation.

use clap::Args;
use relmgr_model::Version;
use relmgr_model::conf::ConfReport;
use relmgr_model::control::{Kind, Operation, OperationRequest, Outcome, Progress};
use relmgr_model::home::Home;
use relmgr_model::plan::Step;

use super::client::{Client, Lines};
use super::error::{self, CommandError};
use super::output::{self, Format, Steps, or_dash};

/// How to wait for an operation.
#[derive(Debug, Clone, Copy, Args)]
pub struct Waiting {
    /// Return as soon as the operation is under way (`relmgr status` and `relmgr history` tell how it went)
    #[arg(long, conflicts_with = "json")]
    pub detach: bool,
}

/// Carries out `request` and waits for its end.
///
/// # Errors
/// What the node refused, or what the operation failed of.
pub async fn run(home: &Home, request: &OperationRequest, format: Format) -> Result<(), CommandError> {
    let mut lines = post(home, request).await?;
    let mut steps = Steps::new();
    while let Some(progress) = lines.next::<Progress>().await? {
        match progress {
            // With --json a plan is data: what is printed is the event.
            Progress::Started { .. } if request.dry_run && format.json => output::print_json(&progress)?,
            Progress::Started { ref to, steps: ref planned, .. } if request.dry_run => {
                let words: Vec<_> = planned.iter().map(|step| step.name()).collect();
                let to = or_dash(to.as_ref());
                output::print(&format!("{} {to} would take: {}\n", request.kind.name(), words.join(", ")))?;
            }
            Progress::Done(operation) => {
                steps.show(&Progress::Done(operation.clone()));
                return conclude(&operation, request.dry_run, format);
            }
            other => steps.show(&other),
        }
    }
    Err(died())
}

/// Starts `request` and does not wait.
///
/// # Errors
/// What the node refused.
pub async fn detach(home: &Home, request: &OperationRequest) -> Result<(), CommandError> {
    let mut lines = post(home, request).await?;
    let mut steps = Steps::new();
    while let Some(progress) = lines.next::<Progress>().await? {
        match progress {
            Progress::Done(operation) => {
                return conclude(&operation, request.dry_run, Format { json: false });
            }
            // What it will do has been decided: the rest it does on its own.
            Progress::Started { .. } => {
                steps.show(&progress);
                return output::print("under way: `relmgr status` and `relmgr history` tell how it went\n");
            }
            other => steps.show(&other),
        }
    }
    Err(died())
}

pub(super) async fn post(home: &Home, request: &OperationRequest) -> Result<Lines, CommandError> {
    Client::connect(home).await?.post_lines("/v1/operations", request).await
}

pub(super) fn died() -> CommandError {
    CommandError::new(error::Kind::Failed, "the node went away before the operation ended")
        .hint("`relmgr status` says what serves now, `relmgr history` how the operation ended")
}

/// Says what came of an operation.
///
/// # Errors
/// That it did not end as asked.
pub(super) fn conclude(operation: &Operation, dry_run: bool, format: Format) -> Result<(), CommandError> {
    if format.json && !dry_run {
        output::print_json(operation)?;
    }
    if let Some(error) = CommandError::of_operation(operation) {
        return Err(error);
    }
    if format.json || (dry_run && operation.outcome == Outcome::Done) {
        return Ok(());
    }
    output::print(&format!("{}\n", success(operation)))
}

/// What was reached, in one line.
fn success(operation: &Operation) -> String {
    let to = or_dash(operation.to.as_ref());
    let already = operation.outcome == Outcome::AlreadyDone;
    match operation.kind {
        Kind::Upgrade | Kind::Downgrade if already => format!("{to} serves already"),
        Kind::Upgrade | Kind::Downgrade => {
            // Not `sum`, which is -0.0 of nothing. It serves from the swap on; what comes after it is on probation.
            let until_it_serves = operation.steps.iter().take_while(|step| step.step != Step::Probation);
            let took = output::millis(until_it_serves.fold(0.0, |sum, step| sum + step.ms));
            match &operation.verdict {
                Some(verdict) => format!("{to} serves, after {took}, and is permanent: {verdict}"),
                None => format!("{to} serves, after {took}"),
            }
        }
        Kind::Check if already => format!("{to} serves already"),
        Kind::Check => format!("{to} can be upgraded to"),
        Kind::Fetch if already => format!("{to} is installed already"),
        Kind::Fetch => format!("{to} is installed"),
        Kind::Restart => format!("{to} serves in a new host process"),
        Kind::Reload => reloaded(&operation.conf),
        Kind::Commit if already => format!("{to} is permanent already"),
        Kind::Commit => format!("{to} is permanent"),
        Kind::Rollback => format!("{to} serves again"),
        Kind::Remove | Kind::Prune => removed(&operation.removed),
        Kind::SelfUpgrade => {
            let relmgr = operation.relmgr.as_ref().map_or("relmgr", |change| &change.to);
            match &operation.to {
                Some(to) => format!("relmgr {relmgr} runs the node, and {to} serves in its host"),
                None => format!("relmgr {relmgr} runs the node, which has no release"),
            }
        }
    }
}

/// What a reload came to; one that was refused is an error.
fn reloaded(conf: &ConfReport) -> String {
    let waiting = "waiting for `relmgr restart` or the next upgrade";
    let lines = [
        ("changed", &conf.changed),
        ("new", &conf.new),
        ("removed", &conf.removed),
        (waiting, &conf.pending),
    ];
    let lines = lines.iter().filter(|(_, keys)| !keys.is_empty());
    let lines: Vec<_> = lines.map(|(what, keys)| format!("{what}: {}", keys.join(", "))).collect();
    if lines.is_empty() { "nothing is different from what runs".into() } else { lines.join("\n") }
}

fn removed(versions: &[Version]) -> String {
    if versions.is_empty() {
        return "nothing to remove".into();
    }
    let words: Vec<_> = versions.iter().map(ToString::to_string).collect();
    format!("removed {}", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(kind: Kind, outcome: Outcome) -> Operation {
        let (error, hint, verdict) = (None, None, None);
        let to = Some("1.2.3".parse().unwrap());
        let conf = ConfReport::default();
        Operation {
            kind,
            from: None,
            to,
            outcome,
            error,
            hint,
            verdict,
            steps: vec![],
            removed: vec![],
            conf,
            relmgr: None,
        }
    }

    #[test]
    fn every_kind_of_success_has_its_words() {
        let words = |kind, outcome| success(&operation(kind, outcome));
        assert_eq!(words(Kind::Upgrade, Outcome::AlreadyDone), "1.2.3 serves already");
        assert_eq!(words(Kind::Downgrade, Outcome::Done), "1.2.3 serves, after 0 µs");
        assert_eq!(words(Kind::Fetch, Outcome::Done), "1.2.3 is installed");
        assert_eq!(words(Kind::Prune, Outcome::Done), "nothing to remove");
    }

    #[test]
    fn a_reload_says_what_changed_and_what_waits() {
        let keys = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let mut reload = operation(Kind::Reload, Outcome::Done);
        assert_eq!(success(&reload), "nothing is different from what runs");
        reload.conf.changed = keys(&["Repo.pool_size", "logger.level"]);
        reload.conf.pending = keys(&["Endpoint.url.port"]);
        assert_eq!(
            success(&reload),
            "changed: Repo.pool_size, logger.level\n\
             waiting for `relmgr restart` or the next upgrade: Endpoint.url.port"
        );
    }

    #[test]
    fn an_operation_that_did_not_end_as_asked_is_an_error() {
        let format = Format { json: false };
        for outcome in [Outcome::Failed, Outcome::RolledBack, Outcome::Interrupted] {
            assert!(conclude(&operation(Kind::Upgrade, outcome), false, format).is_err());
        }
    }
}

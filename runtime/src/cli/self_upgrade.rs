//! `relmgr self-upgrade`

use std::path::PathBuf;
use std::time::Duration;

use relmgr_model::control::{Kind as Operation, NodeStatus, OperationRequest, Phase, Pong, Progress};
use relmgr_model::home::Home;

use super::client::Client;
use super::error::{CommandError, Kind};
use super::operation;
use super::output::{Format, Steps};

/// How often the node is asked whether it is done; the connection to it is lost when the new relmgr takes over.
const GLANCE: Duration = Duration::from_millis(20);

/// Put another relmgr in the place of the one that runs the node, while serving
///
/// The new binary is asked whether it can take over: it reads the settings, the record and app.conf, and tries the
/// release. Then the supervisor becomes it, with the same process id and the same sockets, and a host of it takes the
/// place of the old one, which ends when its requests are done. No request fails. For root and the node's user.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The new relmgr; default: the one that this command is
    #[arg(value_name = "PATH")]
    binary: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    let binary = binary(args.binary)?;
    let request = OperationRequest { binary: Some(binary), ..OperationRequest::new(Operation::SelfUpgrade) };
    let before: Pong = Client::connect(home).await?.get("/v1/ping").await?;
    let mut lines = operation::post(home, &request).await?;
    let mut steps = Steps::new();
    // The end of the lines without a last word: another image of the supervisor has taken over.
    while let Ok(Some(progress)) = lines.next::<Progress>().await {
        if let Progress::Done(operation) = &progress {
            steps.show(&progress);
            return operation::conclude(operation, false, args.format);
        }
        steps.show(&progress);
    }
    follow(home, &before, args.format).await
}

/// Waits for the outcome, which the new relmgr tells.
async fn follow(home: &Home, before: &Pong, format: Format) -> Result<(), CommandError> {
    loop {
        // It may die before it is asked, or before it answers.
        let gone = |error: CommandError| if error.is_not_running() { operation::died() } else { error };
        let mut client = Client::connect(home).await.map_err(gone)?;
        let status: NodeStatus = client.get("/v1/status").await.map_err(gone)?;
        if status.supervisor_pid != before.supervisor_pid {
            return Err(operation::died());
        }
        let ended = !matches!(status.phase, Phase::Upgrading | Phase::Booting);
        match status.last_operation.filter(|last| ended && last.kind == Operation::SelfUpgrade) {
            Some(operation) => return operation::conclude(&operation, false, format),
            None if ended => return Err(operation::died()),
            None => tokio::time::sleep(GLANCE).await,
        }
    }
}

/// Absolute: the node has another working directory.
fn binary(named: Option<PathBuf>) -> Result<PathBuf, CommandError> {
    let no_path = |error: &std::io::Error| {
        CommandError::new(Kind::Failed, "the new relmgr cannot be found").because(error)
    };
    match named {
        Some(path) => std::fs::canonicalize(&path).map_err(|error| {
            CommandError::new(Kind::Failed, format!("{} cannot be found", path.display())).because(&error)
        }),
        None => std::env::current_exe().map_err(|error| no_path(&error)),
    }
}

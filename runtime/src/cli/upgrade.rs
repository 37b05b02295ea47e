//! `relmgr upgrade`

use relmgr_model::Version;
use relmgr_model::control::{Kind, OperationRequest};
use relmgr_model::home::Home;

use super::error::CommandError;
use super::operation::{self, Waiting};
use super::output::Format;

/// Go to a newer release while serving
///
/// Fetches the release, checks it, tries it in a throw-away process, starts it beside the one that serves, and
/// swaps when it is healthy. Whatever fails before the swap leaves the node as it was. After it the release serves
/// on probation: this waits for the outcome, which is exit code 3 when the release before it serves again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The version; default: the one that the channel names
    version: Option<Version>,
    /// Follow another channel than the node's own
    #[arg(long, value_name = "NAME", conflicts_with = "version")]
    channel: Option<String>,
    /// Try a release that failed on this node before
    #[arg(long)]
    retry: bool,
    /// Commit at once instead of watching the release first (upgrade.probation in relmgr.toml)
    #[arg(long)]
    no_probation: bool,
    /// Leave behind what the release that serves keeps in memory, where there is no way for it
    #[arg(long)]
    lose_state: bool,
    /// Say which steps it would take, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    let request = OperationRequest {
        version: args.version,
        channel: args.channel,
        retry: args.retry,
        dry_run: args.dry_run,
        no_probation: args.no_probation,
        lose_state: args.lose_state,
        ..OperationRequest::new(Kind::Upgrade)
    };
    if args.waiting.detach {
        operation::detach(home, &request).await
    } else {
        operation::run(home, &request, args.format).await
    }
}

//! `relmgr downgrade`

use relmgr_model::Version;
use relmgr_model::control::{Kind, OperationRequest};
use relmgr_model::home::Home;

use super::error::CommandError;
use super::operation::{self, Waiting};
use super::output::Format;

/// Go back to the previous release, or to another installed one, while serving
///
/// During a probation this is `relmgr rollback`. A release that has been permanent here before is committed at once.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The version, which must be installed; default: the release that served before
    version: Option<Version>,
    /// Try a release that failed on this node before
    #[arg(long)]
    retry: bool,
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
        retry: args.retry,
        dry_run: args.dry_run,
        lose_state: args.lose_state,
        ..OperationRequest::new(Kind::Downgrade)
    };
    if args.waiting.detach {
        operation::detach(home, &request).await
    } else {
        operation::run(home, &request, args.format).await
    }
}

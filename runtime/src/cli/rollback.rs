//! `relmgr rollback`

use relmgr_model::control::{Kind, OperationRequest};
use relmgr_model::home::Home;

use super::error::CommandError;
use super::operation;
use super::output::Format;

/// End the probation: the release before comes back
///
/// It has stayed loaded, so this is one swap. The release that goes is marked as failed: `relmgr upgrade` takes it
/// again with --retry only.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    format: Format,
}

pub(super) async fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    operation::run(home, &OperationRequest::new(Kind::Rollback), args.format).await
}

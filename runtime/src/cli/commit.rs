//! `relmgr commit`

use relmgr_model::control::{Kind, OperationRequest};
use relmgr_model::home::Home;

use super::error::CommandError;
use super::operation;
use super::output::Format;

/// End the probation: the current release stays
///
/// The node boots it from now on, and the release before it is retired.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    format: Format,
}

pub(super) async fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    operation::run(home, &OperationRequest::new(Kind::Commit), args.format).await
}

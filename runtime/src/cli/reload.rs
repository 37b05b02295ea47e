//! `relmgr reload`

use relmgr_model::control::{Kind, OperationRequest};
use relmgr_model::home::Home;

use super::error::CommandError;
use super::operation;
use super::output::Format;

/// Apply app.conf to the running release
///
/// The node does this by itself when a file changes (conf.watch); this waits for the outcome. What is wrong with
/// the files is told and changes nothing. Keys that wait for a restart are listed.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    format: Format,
}

pub(super) async fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    let request = OperationRequest::new(Kind::Reload);
    operation::run(home, &request, args.format).await
}

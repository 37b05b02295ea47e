//! `relmgr restart`

use relmgr_model::control::{Kind, OperationRequest};
use relmgr_model::home::Home;

use super::error::CommandError;
use super::operation;
use super::output::Format;

/// Replace the host process while serving
///
/// A new host loads the current release with app.conf as it is now; the old one ends when its requests are
/// done.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    format: Format,
}

pub(super) async fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    let request = OperationRequest::new(Kind::Restart);
    operation::run(home, &request, args.format).await
}

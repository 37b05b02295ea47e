//! `relmgr restart`

use relmgr_model::control::{Kind, OperationRequest};
use relmgr_model::home::Home;

use super::error::CommandError;
use super::operation;
use super::output::Format;

/// Replace the host process while serving
///
/// A new host loads the current release with app.conf as it is now; the old one ends when its requests are
/// done. What the release keeps in memory goes along.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Begin without what the release keeps in memory
    #[arg(long)]
    lose_state: bool,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    let request = OperationRequest { lose_state: args.lose_state, ..OperationRequest::new(Kind::Restart) };
    operation::run(home, &request, args.format).await
}

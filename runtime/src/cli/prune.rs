//! `relmgr prune`

use relmgr_model::control::{Kind, OperationRequest};
use relmgr_model::home::Home;

use super::error::CommandError;
use super::operation;
use super::output::Format;

/// Remove old releases that nothing uses
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many installed releases to keep; those in use are kept in any case
    #[arg(long, value_name = "N")]
    keep: usize,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    let request = OperationRequest { keep: Some(args.keep), ..OperationRequest::new(Kind::Prune) };
    operation::run(home, &request, args.format).await
}

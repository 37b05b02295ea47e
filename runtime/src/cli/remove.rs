//! `relmgr remove`

use relmgr_model::Version;
use relmgr_model::control::{Kind, OperationRequest};
use relmgr_model::home::Home;

use super::error::CommandError;
use super::operation;
use super::output::Format;

/// Remove an installed release that nothing uses
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The version
    version: Version,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    let request = OperationRequest { version: Some(args.version), ..OperationRequest::new(Kind::Remove) };
    operation::run(home, &request, args.format).await
}

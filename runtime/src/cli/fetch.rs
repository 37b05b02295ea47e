//! `relmgr fetch`

use relmgr_model::Version;
use relmgr_model::control::{Kind, OperationRequest};
use relmgr_model::home::Home;

use super::error::CommandError;
use super::operation;
use super::output::Format;

/// Install a release without letting it serve
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The version; default: the one that the channel names
    version: Option<Version>,
    /// Follow another channel than the node's own
    #[arg(long, value_name = "NAME", conflicts_with = "version")]
    channel: Option<String>,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    let request = OperationRequest {
        version: args.version,
        channel: args.channel,
        ..OperationRequest::new(Kind::Fetch)
    };
    operation::run(home, &request, args.format).await
}

//! `cargo relmgr yank`

use relmgr_model::Version;
use relmgr_store::repository::Publisher;
use serde_json::json;

use super::{ChannelArgs, RepositoryArgs, block_on};
use crate::error::Error;
use crate::key::KeyArgs;
use crate::ui;

/// Withdraw a release: from then on no node goes to it
///
/// Nodes that run it go on; upgrade them to another release. Signed channels say it too, so the mark cannot be taken
/// away by who can write to the repository.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo relmgr yank 2026.1120.192733 --reason 'loses votes'")]
pub(super) struct Args {
    /// The release
    version: Version,
    /// Why, for those who meet it
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    document: ChannelArgs,
    #[command(flatten)]
    repository: RepositoryArgs,
    #[command(flatten)]
    keys: KeyArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    let repository = args.repository.open()?;
    let keys = args.keys.read()?;
    let publisher =
        Publisher { channel: keys.channel(), lifetime: args.document.lifetime()?, ..Publisher::default() };
    let channels = block_on(async { Ok(repository.yank(&args.version, &args.reason, &publisher).await?) })?;
    ui::status("Withdrew", format!("{} from {}", args.version, repository.url()));
    for channel in &channels {
        ui::status("Told", format!("channel {channel}"));
    }
    match args.json {
        true => ui::print_json(&json!({
            "version": args.version,
            "reason": args.reason,
            "repository": repository.url(),
            "channels": channels,
        })),
        false => Ok(()),
    }
}

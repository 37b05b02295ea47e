//! `cargo relmgr promote`

use relmgr_model::Version;
use relmgr_store::repository::Publisher;
use serde_json::json;

use super::{ChannelArgs, RepositoryArgs, RolloutArgs, block_on};
use crate::error::Error;
use crate::key::KeyArgs;
use crate::ui;

/// Have a channel name a release that is published already
///
/// Nothing is built or uploaded again: what was tried on staging is what production gets. With a key the channel's
/// document is signed; a channel that is signed once stays so.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo relmgr promote 2026.1120.192733                     the default channel and VERSION
  cargo relmgr promote 2026.1120.192733 --channel staging
  cargo relmgr promote 2026.1119.80112 --going-back         nodes may go back to it")]
pub(super) struct Args {
    /// The release
    version: Version,
    /// The channel (default: the default one, whose shadow is the file VERSION)
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    channel: String,
    /// The release is older than the one that the channel names now, on purpose
    #[arg(long)]
    going_back: bool,
    #[command(flatten)]
    document: ChannelArgs,
    #[command(flatten)]
    rollout: RolloutArgs,
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
    let publisher = Publisher {
        channel: keys.channel(),
        lifetime: args.document.lifetime()?,
        min_version: args.document.min_version.clone(),
        rollout: args.rollout.read(),
        going_back: args.going_back,
        ..Publisher::default()
    };
    let document =
        block_on(async { Ok(repository.promote(&args.version, &args.channel, &publisher).await?) })?;
    let name = if args.channel.is_empty() { "the default channel" } else { &args.channel };
    ui::status("Pointed", format!("{name} to {}", args.version));
    if let Some(document) = &document {
        ui::status("Signed", format!("its document, serial {}, until {}", document.serial, document.expires));
    }
    match args.json {
        true => ui::print_json(&json!({
            "version": args.version,
            "channel": args.channel,
            "repository": repository.url(),
            "document": document,
        })),
        false => Ok(()),
    }
}

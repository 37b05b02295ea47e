//! `cargo relmgr gc`

use serde_json::json;

use super::{RepositoryArgs, block_on};
use crate::error::Error;
use crate::ui;

/// Remove old releases from a repository
///
/// Keeps the newest releases and every release that a channel names. Also removes what belongs to no release any more,
/// and uploads that were interrupted more than a day ago.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo relmgr gc --keep 20 --dry-run
  cargo relmgr gc --keep 20")]
pub(super) struct Args {
    /// How many of the newest releases stay
    #[arg(long, value_name = "N")]
    keep: usize,
    /// Tell what would be removed
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    repository: RepositoryArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    let repository = args.repository.open()?;
    let collected = block_on(async { Ok(repository.collect(args.keep, args.dry_run).await?) })?;
    let verb = if args.dry_run { "Would remove" } else { "Removed" };
    for version in &collected.versions {
        ui::status(verb, version);
    }
    for stray in &collected.strays {
        ui::status(verb, format!("{stray}, which belongs to no release"));
    }
    match args.json {
        true => ui::print_json(&json!({
            "repository": repository.url(),
            "dry_run": args.dry_run,
            "removed": collected.versions,
            "strays": collected.strays,
            "interrupted_uploads": collected.uploads,
        })),
        false => Ok(()),
    }
}

//! `cargo relmgr publish`

use std::path::PathBuf;

use relmgr_store::repository::BuiltRelease;
use serde_json::json;

use super::{RepositoryArgs, block_on};
use crate::error::Error;
use crate::ui;

/// Publish the release that was built last
///
/// The package and its manifest go to the repository first, the pointer VERSION last, so that no node ever follows
/// it to something missing. A published version is never overwritten. To publish the same again is fine: what a
/// broken publish left out is completed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo relmgr publish --repository file:///srv/packages
  RELMGR_REPOSITORY=file:///srv/packages cargo relmgr publish
  cargo relmgr publish --no-channel        nodes get it by name only: relmgr upgrade 2026.1120.192733")]
pub(super) struct Args {
    /// What `cargo relmgr release` wrote
    #[arg(value_name = "DIR", default_value = "target/relmgr")]
    directory: PathBuf,
    #[command(flatten)]
    repository: RepositoryArgs,
    /// Leave VERSION and latest.tar.gz as they are
    #[arg(long)]
    no_channel: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    let repository = args.repository.open()?;
    let release = BuiltRelease::read(&args.directory)?;
    let (name, size) =
        (&release.manifest.name, release.manifest.package.as_ref().map_or(0, |digest| digest.size));
    let published = block_on(async { Ok(repository.publish(&release, !args.no_channel).await?) })?;

    let (version, url) = (&published.version, repository.url());
    match published.package_written {
        true => ui::status("Published", format!("{name} {version} ({}) to {url}", ui::size(size))),
        false => {
            ui::status("Unchanged", format!("{name} {version} is in {url} already, with the same content"))
        }
    }
    match published.channel_set {
        true => ui::status("Pointed", format!("VERSION to {version}")),
        false => ui::status("Left", "VERSION as it was"),
    }
    match args.json {
        true => ui::print_json(&json!({
            "version": version,
            "repository": url,
            "package_written": published.package_written,
            "channel_set": published.channel_set,
        })),
        false => Ok(()),
    }
}

//! `cargo relmgr conf schema`

use super::source::{RELEASES, SourceArgs};
use crate::error::Error;
use crate::ui;

/// Print a release's schema, as the conf/schema.toml that travels in it
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{RELEASES}\n\n{EXAMPLES}"))]
pub(super) struct Args {
    /// The release (default: the crate in this directory)
    #[arg(value_name = "RELEASE")]
    release: Option<String>,
    #[command(flatten)]
    source: SourceArgs,
}

const EXAMPLES: &str = "\
Examples:
  cargo relmgr conf schema
  cargo relmgr conf schema target/relmgr";

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    let release = args.source.find(args.release.as_deref())?;
    ui::print(release.keys().to_toml().trim_end())
}

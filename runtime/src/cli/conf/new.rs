//! `relmgr conf new`

use relmgr_model::home::Home;

use super::target::{Target, schema};
use crate::cli::error::{CommandError, Kind};
use crate::cli::output;

/// Print an app.conf that explains every key of a release
///
/// Each key is a comment with its default, so that the file changes nothing as it is.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: Target,
}

pub(super) fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    let release = args.target.need(home)?;
    match schema(home, &release)? {
        Some(schema) => output::print(&relmgr_conf::documented(&schema)),
        None => Err(CommandError::new(Kind::Failed, format!("{release} has no settings"))
            .hint("its author gives it some with conf/schema.toml")),
    }
}

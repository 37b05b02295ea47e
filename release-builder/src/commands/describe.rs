//! `cargo relmgr describe`: what `release` and `conf` run to ask a library, in a process that is thrown away.

use std::path::PathBuf;

use crate::build::schema;
use crate::error::Error;

/// Print what a library says of its settings, as JSON (run by `release` and `conf`)
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The library; its static initialisers run
    library: PathBuf,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    schema::describe(&args.library)
        .map_err(|reason| Error::Describe { library: args.library.clone(), reason })
}

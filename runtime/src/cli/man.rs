//! `relmgr man`

use std::path::PathBuf;

use clap::CommandFactory;

use super::error::{CommandError, Kind};
use super::{Relmgr, output};

/// Write the manual pages, one for each command, into a directory
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory, made where it is missing, such as /usr/local/share/man/man1
    directory: PathBuf,
}

pub(super) fn main(args: &Args) -> Result<(), CommandError> {
    let written = std::fs::create_dir_all(&args.directory)
        .and_then(|()| clap_mangen::generate_to(Relmgr::command(), &args.directory));
    written.map_err(|error| {
        let directory = args.directory.display();
        CommandError::new(Kind::Failed, format!("the manual pages are not written into {directory}"))
            .because(&error)
    })?;
    output::print(&format!("{}\n", args.directory.display()))
}

//! `cargo relmgr conf`, one file per command: what a node's `relmgr conf` does, without a node.

mod check;
mod diff;
mod new;
mod schema;
mod source;

use clap::Subcommand;

use crate::error::Error;

/// What operators may set: check a file, write one that explains every key, compare releases
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Args),
    New(new::Args),
    Diff(diff::Args),
    Schema(schema::Args),
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    match &args.command {
        Command::Check(args) => check::run(args),
        Command::New(args) => new::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Schema(args) => schema::run(args),
    }
}

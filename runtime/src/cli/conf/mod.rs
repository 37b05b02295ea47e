//! `relmgr conf`: the application's configuration, one file per command.
//!
//! | file | what |
//! | --- | --- |
//! | [`target`] | which release's schema applies, and where it is read |
//! | [`file`](mod@file) | a file is read, changed and replaced |

mod check;
mod diff;
mod effective;
mod file;
mod fmt;
mod get;
mod new;
mod set;
mod target;
mod unset;

use clap::Subcommand;
use relmgr_model::home::Home;

use super::error::CommandError;

/// Check, show, compare and edit app.conf
///
/// Works on the home directory, with the schema of the release that serves; all but `diff` without a VERSION
/// also while the node is down.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Args),
    Effective(effective::Args),
    New(new::Args),
    Diff(diff::Args),
    Fmt(fmt::Args),
    Set(set::Args),
    Get(get::Args),
    Unset(unset::Args),
}

pub(super) async fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    target::is_home(home)?;
    match args.command {
        Command::Check(args) => check::main(args, home).await,
        Command::Effective(args) => effective::main(args, home).await,
        Command::New(args) => new::main(args, home),
        Command::Diff(args) => diff::main(args, home).await,
        Command::Fmt(args) => fmt::main(args, home),
        Command::Set(args) => set::main(args, home),
        Command::Get(args) => get::main(args, home),
        Command::Unset(args) => unset::main(args, home),
    }
}

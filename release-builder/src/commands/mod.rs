//! The command line, one file per command.

mod completion;
mod conf;
mod describe;
mod list;
mod new;
mod previous;
mod publish;
mod release;
mod version;

use std::ffi::OsString;
use std::future::Future;

use clap::{Parser, Subcommand};
use relmgr_store::repository::Repository;

use crate::error::Error;

/// Build, package and publish releases that nodes upgrade to without a failed request
#[derive(Debug, Parser)]
#[command(name = "cargo-relmgr", bin_name = "cargo relmgr", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
An application's first day:
  cargo relmgr new hello && cd hello
  export RELMGR_REPOSITORY=file://$PWD/packages
  cargo relmgr release             build a release into target/relmgr/
  cargo relmgr publish             put it into the repository
  relmgr run --home node           start a node (in another terminal)
  relmgr upgrade --home node       serve the release
  … change src/lib.rs …
  cargo relmgr release && cargo relmgr publish
  relmgr upgrade --home node       swap it in under load

Exit codes: 0 done, 1 failed (the message says why), 2 the command line is wrong.";

#[derive(Debug, Subcommand)]
enum Command {
    New(new::Args),
    Release(release::Args),
    Publish(publish::Args),
    List(list::Args),
    Previous(previous::Args),
    Version(version::Args),
    Conf(conf::Args),
    Completion(completion::Args),
    #[command(hide = true)]
    Describe(describe::Args),
}

/// Where releases are published.
#[derive(Debug, clap::Args)]
struct RepositoryArgs {
    /// The repository: file:///directory
    #[arg(long = "repository", value_name = "URL", env = "RELMGR_REPOSITORY")]
    url: Option<String>,
}

impl RepositoryArgs {
    fn open(&self) -> Result<Repository, Error> {
        let url = self.url.as_deref().filter(|url| !url.is_empty()).ok_or(Error::NoRepository)?;
        Ok(Repository::open(url)?)
    }
}

/// Runs the command in `args`, the first of which is the program's name. A wrong command line, `--help` and
/// `--version` end the process, with clap's exit codes.
///
/// # Errors
/// What the command could not do.
pub(crate) fn run(args: Vec<OsString>) -> Result<(), Error> {
    match Cli::parse_from(args).command {
        Command::New(args) => new::run(&args),
        Command::Release(args) => release::run(&args),
        Command::Publish(args) => publish::run(&args),
        Command::List(args) => list::run(&args),
        Command::Previous(args) => previous::run(&args),
        Command::Version(args) => version::run(&args),
        Command::Conf(args) => conf::run(&args),
        Command::Completion(args) => completion::run(&args),
        Command::Describe(args) => describe::run(&args),
    }
}

/// Runs what waits for a repository.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|source| Error::Run { program: "tokio's runtime".into(), source })?.block_on(future)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

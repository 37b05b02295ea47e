//! The command line: one file per command.
//!
//! | file | what |
//! | --- | --- |
//! | [`client`] | the control socket, seen from here |
//! | [`error`] | what went wrong: kind, causes, advice, exit code |
//! | [`output`] | steps to stderr, results to stdout |
//! | [`operation`] | what commands share that ask for an operation |

pub mod client;
pub mod error;
pub mod operation;
pub mod output;

mod check;
mod commit;
mod completion;
mod conf;
mod downgrade;
mod fetch;
mod history;
mod internal;
mod man;
mod ping;
mod prune;
mod pull;
mod releases;
mod reload;
mod remove;
mod restart;
mod rollback;
mod run;
mod self_upgrade;
mod state;
mod status;
mod stop;
mod tables;
mod upgrade;
mod version;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use relmgr_model::home::Home;

use error::{CommandError, Kind};

/// The home where neither `--home` nor RELMGR_HOME nor the working directory names one.
const DEFAULT_HOME: &str = "/var/lib/relmgr";

/// Keeps a native service running while its code changes.
#[derive(Debug, Parser)]
#[command(name = "relmgr", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Relmgr {
    /// The node's home directory; default: the working directory if it holds relmgr.toml, else
    /// /var/lib/relmgr
    #[arg(long, global = true, env = "RELMGR_HOME", hide_env_values = true, value_name = "DIR")]
    home: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done (or already so), 1 refused or failed and the node serves what it \
served before, 2 usage, 3 the new release was tried and rolled back, 4 the node is not running, 5 another \
operation is running";

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Upgrade(upgrade::Args),
    Downgrade(downgrade::Args),
    Commit(commit::Args),
    Rollback(rollback::Args),
    Check(check::Args),
    Fetch(fetch::Args),
    Remove(remove::Args),
    Prune(prune::Args),
    Status(status::Args),
    Releases(releases::Args),
    History(history::Args),
    Ping(ping::Args),
    Reload(reload::Args),
    Conf(conf::Args),
    Pull(pull::Args),
    State(state::Args),
    Restart(restart::Args),
    SelfUpgrade(self_upgrade::Args),
    Stop(stop::Args),
    Version(version::Args),
    Completion(completion::Args),
    Man(man::Args),
    #[command(hide = true)]
    Host(internal::HostArgs),
    #[command(hide = true)]
    Preflight(internal::PreflightArgs),
    #[command(hide = true)]
    TakeoverCheck(internal::TakeoverCheckArgs),
}

/// Runs the command of this process's arguments.
pub fn main() -> ExitCode {
    let Relmgr { home, command } = Relmgr::parse();
    let home = match find_home(home) {
        Ok(home) => home,
        Err(error) => return fail(&error),
    };
    let done = match command {
        Command::Run(args) => run::main(args, home),
        Command::Host(args) => return internal::host(args),
        Command::Preflight(args) => return internal::preflight(args),
        Command::TakeoverCheck(args) => return internal::takeover_check(args, &home),
        Command::Completion(args) => completion::main(args),
        Command::Man(args) => man::main(&args),
        Command::History(args) => history::main(args, &home),
        Command::Upgrade(args) => wait(upgrade::main(args, &home)),
        Command::Downgrade(args) => wait(downgrade::main(args, &home)),
        Command::Commit(args) => wait(commit::main(args, &home)),
        Command::Rollback(args) => wait(rollback::main(args, &home)),
        Command::Check(args) => wait(check::main(args, &home)),
        Command::Fetch(args) => wait(fetch::main(args, &home)),
        Command::Remove(args) => wait(remove::main(args, &home)),
        Command::Prune(args) => wait(prune::main(args, &home)),
        Command::Status(args) => wait(status::main(args, &home)),
        Command::Releases(args) => wait(releases::main(args, &home)),
        Command::Ping(args) => wait(ping::main(args, &home)),
        Command::Reload(args) => wait(reload::main(args, &home)),
        Command::Conf(args) => wait(conf::main(args, &home)),
        Command::Pull(args) => wait(pull::main(args, &home)),
        Command::State(args) => wait(state::main(args, &home)),
        Command::SelfUpgrade(args) => wait(self_upgrade::main(args, &home)),
        Command::Restart(args) => wait(restart::main(args, &home)),
        Command::Stop(args) => wait(stop::main(args, &home)),
        Command::Version(args) => wait(version::main(args, &home)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &CommandError) -> ExitCode {
    eprint!("{}", error.text());
    error.code()
}

/// One connection, one request: one thread is enough.
fn wait(command: impl Future<Output = Result<(), CommandError>>) -> Result<(), CommandError> {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => Err(CommandError::new(Kind::Failed, "no runtime can be started").because(&error)),
    }
}

/// Absolute, since the host is told paths and people read them in the status.
fn find_home(named: Option<PathBuf>) -> Result<Home, CommandError> {
    let path = named.unwrap_or_else(|| {
        let here = Home::new(".");
        if here.settings().exists() { here.path().to_owned() } else { DEFAULT_HOME.into() }
    });
    absolute(&path).map(Home::new)
}

fn absolute(path: &Path) -> Result<PathBuf, CommandError> {
    // `.` is resolved where it can be; a home that is not there yet is named as it was given.
    std::fs::canonicalize(path).or_else(|_| std::path::absolute(path)).map_err(|error| {
        CommandError::new(Kind::Failed, format!("{} is no path", path.display())).because(&error)
    })
}

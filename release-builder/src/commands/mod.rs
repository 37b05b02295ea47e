//! The command line, one file per command.

mod channel;
mod completion;
mod conf;
mod describe;
mod dev;
mod gc;
mod keygen;
mod list;
mod new;
mod previous;
mod promote;
mod publish;
mod rehearse;
mod release;
mod verify;
mod version;
mod yank;

use std::ffi::OsString;
use std::future::Future;

use chrono::TimeDelta;
use clap::{Parser, Subcommand};
use relmgr_model::Version;
use relmgr_model::pull::{Wave, Window};
use relmgr_store::repository::{Options, Repository, RepositoryError, Waves};
use relmgr_store::signature::Trust;
use relmgr_store::storage::S3Options;

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
  cargo relmgr dev                 serve it, and every change of it while it serves

Its first release:
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
    Dev(dev::Args),
    Release(release::Args),
    Rehearse(rehearse::Args),
    Publish(publish::Args),
    Promote(promote::Args),
    List(list::Args),
    Previous(previous::Args),
    Verify(verify::Args),
    Yank(yank::Args),
    Gc(gc::Args),
    Channel(channel::Args),
    Keygen(keygen::Args),
    Version(version::Args),
    Conf(conf::Args),
    Completion(completion::Args),
    #[command(hide = true)]
    Describe(describe::Args),
}

/// Where releases are published.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Repository")]
struct RepositoryArgs {
    /// The repository: file:///directory or s3://bucket/prefix
    #[arg(long = "repository", value_name = "URL", env = "RELMGR_REPOSITORY")]
    url: Option<String>,
    /// Another S3 server than Amazon's, such as http://127.0.0.1:3900 (or AWS_ENDPOINT_URL)
    #[arg(long, value_name = "URL", env = "RELMGR_ENDPOINT_URL")]
    endpoint_url: Option<String>,
    /// The bucket's region (or AWS_REGION, or the profile's)
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// The bucket stands in the path, not in the host's name (default: with an endpoint)
    #[arg(long)]
    path_style: bool,
    /// A public key that releases and channels have to be signed with; several may be given
    #[arg(long = "trusted-key", value_name = "KEY", env = "RELMGR_TRUSTED_KEYS", value_delimiter = ',')]
    trusted_keys: Vec<String>,
}

impl RepositoryArgs {
    fn open(&self) -> Result<Repository, Error> {
        let url = self.url.as_deref().filter(|url| !url.is_empty()).ok_or(Error::NoRepository)?;
        let options = Options {
            s3: S3Options {
                endpoint_url: self.endpoint_url.clone().filter(|url| !url.is_empty()),
                region: self.region.clone(),
                path_style: self.path_style.then_some(true),
                credentials: None,
            },
            trust: Trust::new(&self.trusted(), &[]).map_err(RepositoryError::from)?,
            ..Options::default()
        };
        Ok(Repository::open(url, options)?)
    }

    /// Who is trusted. A variable of CI's that nobody has given is empty, and names nobody.
    fn trusted(&self) -> Vec<String> {
        self.trusted_keys.iter().filter(|key| !key.is_empty()).cloned().collect()
    }
}

/// What a channel's signed document says beside the release.
#[derive(Debug, clap::Args)]
struct ChannelArgs {
    /// How long the channel's signed document holds, such as 30d (default: 90d)
    #[arg(long, value_name = "TIME")]
    expires: Option<humantime::Duration>,
    /// No node of the channel goes to an older release from now on
    #[arg(long, value_name = "V")]
    min_version: Option<Version>,
}

impl ChannelArgs {
    fn lifetime(&self) -> Result<Option<TimeDelta>, Error> {
        let lifetime = self.expires.map(|expires| TimeDelta::from_std(expires.into()));
        lifetime.transpose().map_err(|_| Error::Lifetime)
    }
}

/// Who goes when of the nodes that follow the channel by themselves.
#[derive(Debug, clap::Args)]
struct RolloutArgs {
    /// When nodes go that follow the channel by themselves: 5%@0s for five of a hundred at once, 100%@4h for all after
    /// four hours; repeat it for each wave (default: all at once)
    #[arg(long = "wave", value_name = "PERCENT%@TIME")]
    waves: Vec<Wave>,
    /// Hours in UTC at which they may go, such as "Mon-Fri 02:00-04:00"; repeat it for each (default: always)
    #[arg(long = "window", value_name = "HOURS")]
    windows: Vec<Window>,
}

impl RolloutArgs {
    /// `None`: nothing is said of it.
    fn read(&self) -> Option<Waves> {
        let named = !self.waves.is_empty() || !self.windows.is_empty();
        named.then(|| Waves { waves: self.waves.clone(), windows: self.windows.clone() })
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
        Command::Dev(args) => dev::run(args),
        Command::Release(args) => release::run(&args),
        Command::Rehearse(args) => rehearse::run(&args),
        Command::Publish(args) => publish::run(&args),
        Command::Promote(args) => promote::run(&args),
        Command::List(args) => list::run(&args),
        Command::Previous(args) => previous::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Yank(args) => yank::run(&args),
        Command::Gc(args) => gc::run(&args),
        Command::Channel(args) => channel::run(&args),
        Command::Keygen(args) => keygen::run(&args),
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

//! `cargo relmgr rehearse`

use std::path::{Path, PathBuf};
use std::time::Duration;

use relmgr_model::Version;
use relmgr_model::settings::Repository as RepositorySettings;
use relmgr_store::repository::{BuiltRelease, Pointer, Repository, RepositoryError, TIMEOUT};

use super::{RepositoryArgs, block_on};
use crate::error::Error;
use crate::rehearse::{Outcome, Rehearsal, Report};
use crate::ui;

/// Try the way from the shipped release to the one that was built last, and back, with state
///
/// Takes the release that the channel names now, exactly as shipped, from the repository, starts a real node with it
/// in a temporary directory, gives it state, swaps to the candidate and back, and fails on any loss: of a request, of
/// state in memory, of a record in a state table, by --verify. State is a recording of a real node (`relmgr state save`)
/// or made by a command that sends requests. Nothing is published. To be run between `release` and `publish`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The commands are run by sh with RELMGR_URL (http://127.0.0.1:PORT), RELMGR_VERSION, and RELMGR_REHEARSAL: shipped,
candidate or back (with --feed-candidate: new). --verify and --probe must change nothing.

Examples:
  cargo relmgr rehearse --repository s3://example-app-packages/hello --trusted-key RWQ…
  cargo relmgr rehearse --feed ./ci/fill.sh --verify ./ci/smoke.sh --probe /polls
  cargo relmgr rehearse --state recorded/ --conf ci/app.conf
  cargo relmgr rehearse --json | jq .outcome

Exit codes: 0 nothing was lost, or nothing has been shipped yet, 1 a loss or a failure (the message says where), 2 the
command line is wrong.")]
pub(super) struct Args {
    /// What `cargo relmgr release` wrote
    #[arg(value_name = "DIR", default_value = "target/relmgr")]
    directory: PathBuf,
    #[command(flatten)]
    repository: RepositoryArgs,
    /// The channel that names the shipped release (default: the default one)
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    channel: String,
    /// Take a shipped release that nobody has signed, where no --trusted-key is given
    #[arg(long)]
    allow_unsigned: bool,
    /// The relmgr that runs the node (default: beside cargo-relmgr, then in PATH)
    #[arg(long, value_name = "PATH")]
    relmgr: Option<PathBuf>,
    /// The application's settings
    #[arg(long, value_name = "FILE")]
    conf: Option<PathBuf>,
    /// State to begin with: a recording by `relmgr state save DIR`
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// A command that makes state by requests, run while the shipped release serves
    #[arg(long, value_name = "CMD")]
    feed: Option<String>,
    /// A command that makes state while the candidate serves, on a second way up: the shipped release has to be able
    /// to read what the candidate writes into state tables
    #[arg(long, value_name = "CMD")]
    feed_candidate: Option<String>,
    /// A command that must succeed with the shipped release, with the candidate, and after the way back
    #[arg(long, value_name = "CMD")]
    verify: Option<String>,
    /// How long each of these commands may take; then it is killed with all that it has started, and the rehearsal fails
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// A path that must answer at every moment; repeat it for each
    #[arg(long = "probe", value_name = "PATH")]
    probes: Vec<String>,
    /// What changes by itself, so that it is not compared as a whole: `memory`, or a table's name; repeat it for each
    /// (what is seen to change is found without)
    #[arg(long, value_name = "NAME")]
    moving: Vec<String>,
    /// Leave the node's directory where it is
    #[arg(long)]
    keep: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    let repository = args.repository.open()?;
    let candidate = BuiltRelease::read(&args.directory)?;
    let report = block_on(rehearse(args, &repository, candidate))?;
    if args.json {
        ui::print_json(&report)?;
    }
    let Report { app, candidate, shipped, .. } = &report;
    let shipped = shipped.as_ref().map(ToString::to_string).unwrap_or_default();
    match (report.outcome, report.failure.clone()) {
        (_, Some(failure)) => return Err(Error::Rehearsal(Box::new(failure))),
        (Outcome::First, _) => {
            let channel = args.repository.url.as_deref().unwrap_or_default();
            ui::status("First", format!("{app} {candidate}: nothing has been shipped from {channel} yet"));
        }
        (Outcome::Same, _) => {
            ui::status(
                "Same",
                format!("{app} {candidate} has been shipped already: there is no way to rehearse"),
            );
        }
        _ => {
            let made = [args.feed.is_some(), args.feed_candidate.is_some(), args.state.is_some()];
            if report.keeps_state() && made == [false; 3] {
                ui::warning(
                    "no state was rehearsed: the shipped release began with none. Make some with --feed, or give it a \
                     recording with --state",
                );
            }
            ui::status("Rehearsed", format!("{app} {shipped} to {candidate} and back: {}", report.summary()));
        }
    }
    Ok(())
}

async fn rehearse(args: &Args, repository: &Repository, candidate: BuiltRelease) -> Result<Report, Error> {
    let Some(shipped) = shipped(repository, &args.channel).await? else {
        return Ok(Report::without_node(Outcome::First, &candidate, None));
    };
    if shipped == candidate.manifest.version {
        return Ok(Report::without_node(Outcome::Same, &candidate, Some(shipped)));
    }
    let rehearsal = Rehearsal {
        relmgr: relmgr(args.relmgr.as_deref()),
        candidate,
        repository: settings(args, repository),
        conf: args.conf.clone(),
        state: args.state.clone(),
        feed: args.feed.clone(),
        feed_candidate: args.feed_candidate.clone(),
        verify: args.verify.clone(),
        timeout: args.timeout,
        probes: args.probes.clone(),
        moving: args.moving.iter().cloned().collect(),
        keep: args.keep,
    };
    let twice = async {
        interrupted().await;
        interrupted().await;
    };
    tokio::select! {
        // The node is stopped, and what it was given is put away.
        report = rehearsal.run(shipped, interrupted()) => report.ok_or(Error::Interrupted),
        // Who cannot wait for that: dropped, the node is killed, and its directory goes.
        () = twice => Err(Error::Interrupted),
    }
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::hangup()));
    let (Ok(mut terminated), Ok(mut hung_up)) = signals else { return std::future::pending().await };
    tokio::select! {
        _ = terminated.recv() => {}
        _ = hung_up.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

/// What the channel names; `None`: nothing yet. Who names a channel means one that is there.
async fn shipped(repository: &Repository, channel: &str) -> Result<Option<Version>, Error> {
    match repository.channel(channel).await {
        Ok(Pointer::Plain(version)) => Ok(Some(version)),
        Ok(Pointer::Signed { document, .. }) => Ok(Some(document.version)),
        Err(RepositoryError::NoChannel { .. }) if channel.is_empty() => {
            // Not every server says of an object whether its bucket is there.
            repository.list().await?;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The same as a node's operator writes it.
fn settings(args: &Args, repository: &Repository) -> RepositorySettings {
    let RepositoryArgs { endpoint_url, region, path_style, .. } = &args.repository;
    RepositorySettings {
        url: repository.url().into(),
        channel: args.channel.clone(),
        endpoint_url: endpoint_url.clone().filter(|url| !url.is_empty()),
        region: region.clone(),
        path_style: path_style.then_some(true),
        timeout: TIMEOUT,
        trusted_keys: args.repository.trusted(),
        channel_keys: vec![],
        allow_unsigned: args.allow_unsigned,
    }
}

/// The one that was named, or the one that was installed along with this, or the one in PATH.
fn relmgr(named: Option<&Path>) -> PathBuf {
    let beside =
        || Some(std::env::current_exe().ok()?.with_file_name("relmgr")).filter(|path| path.is_file());
    named.map(Path::to_owned).or_else(beside).unwrap_or_else(|| "relmgr".into())
}

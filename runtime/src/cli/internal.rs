//! `relmgr host`, `relmgr preflight` and `relmgr takeover-check`: started by the supervisor, not by people.

use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use relmgr_model::home::Home;
use relmgr_model::host::CHANNEL_FD;
use relmgr_model::settings::LogFormat;

use crate::host::keeper::{self, Part};
use crate::host::preflight::GiveBack;
use crate::{host, log, process, supervisor};

/// Serve traffic (started by the supervisor)
#[derive(Debug, clap::Args)]
pub struct HostArgs {
    /// Log one JSON object a line
    #[arg(long)]
    json_log: bool,
}

/// Try a release (started by the supervisor)
#[derive(Debug, clap::Args)]
pub struct PreflightArgs {
    /// Processor time that it may use
    #[arg(long, default_value_t = 30)]
    cpu_seconds: u64,
    /// Memory that it may write to; 0: no limit
    #[arg(long, default_value_t = 0)]
    memory_bytes: u64,
    /// Files that it may hold open
    #[arg(long, default_value_t = 256)]
    files: u64,
    /// A state to try its code change on
    #[arg(long, value_name = "FILE", requires = "schema")]
    state: Option<PathBuf>,
    /// The schema version of that state
    #[arg(long)]
    schema: Option<u32>,
    /// Only read that state and write it into `--into` in the form of this schema version
    #[arg(long, value_name = "SCHEMA", requires = "state", requires = "into")]
    give: Option<u32>,
    /// Where that is written
    #[arg(long, value_name = "FILE")]
    into: Option<PathBuf>,
    /// The most bytes of it
    #[arg(long, default_value_t = u64::MAX)]
    most: u64,
    /// The release's library
    library: PathBuf,
}

/// Say whether this relmgr can take over a node (started by the supervisor of another one)
#[derive(Debug, clap::Args)]
pub struct TakeoverCheckArgs {}

fn init_log(format: LogFormat) {
    if let Err(error) = log::init(format, log::Process::Host) {
        eprintln!("{error}");
    }
}

pub(super) fn host(HostArgs { json_log }: HostArgs) -> ExitCode {
    init_log(if json_log { LogFormat::Json } else { LogFormat::Text });
    // Asked before anything is opened that would get the number.
    let channel = std::fs::metadata(format!("/proc/self/fd/{CHANNEL_FD}"));
    if !channel.is_ok_and(|channel| channel.file_type().is_socket()) {
        tracing::error!(
            "descriptor {CHANNEL_FD} is no supervisor's channel: the host is started by `relmgr run` only"
        );
        return ExitCode::FAILURE;
    }
    // A terminal and systemd send these to every process of the node. Only the supervisor knows what they mean:
    // it tells the host to stop over the channel, and requests in flight are finished first. Blocked before the
    // first thread starts, so that all of them inherit it.
    let of_the_supervisor: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    if let Err(error) = of_the_supervisor.thread_block() {
        tracing::warn!(%error, "signals to the whole node will end the host at once");
    }
    if let Err(error) = process::end_before_the_supervisor() {
        tracing::warn!(%error, "when memory runs out, the kernel may end the supervisor instead of the host");
    }
    host::run()
}

pub(super) fn preflight(args: PreflightArgs) -> ExitCode {
    let confined = match keeper::part() {
        Ok(Part::Keeper(trial)) => return keeper::keep(trial),
        Ok(Part::Trial) => host::preflight::confine(args.cpu_seconds, args.memory_bytes, args.files),
        Err(error) => Err(error),
    };
    // Its words are for people: they stand in the error of whoever started it.
    init_log(LogFormat::Text);
    if let Err(error) = confined {
        tracing::error!(%error, "the trial cannot be confined");
        return ExitCode::FAILURE;
    }
    if let Err(error) = process::end_first() {
        tracing::warn!(%error, "when memory runs out, the kernel may end the host instead of this trial");
    }
    let state = args.state.as_deref().zip(args.schema);
    match (state, args.give.zip(args.into)) {
        (Some(state), Some((schema, into))) => {
            let back = GiveBack { schema, into, most: args.most };
            host::preflight::run_back(&args.library, state, &back)
        }
        _ => host::preflight::run(&args.library, state),
    }
}

pub(super) fn takeover_check(TakeoverCheckArgs {}: TakeoverCheckArgs, home: &Home) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answered = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let accepted = runtime.block_on(supervisor::takeover_check(home))?;
        Ok(serde_json::to_string(&accepted)?)
    });
    match answered {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            // The supervisor repeats it to whoever asked.
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

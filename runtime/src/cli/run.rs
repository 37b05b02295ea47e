//! `relmgr run`

use relmgr_model::home::Home;

use super::error::{CommandError, Kind};
use crate::log;
use crate::supervisor::{self, RunError};

/// Run the node in the foreground
///
/// Binds the listeners of relmgr.toml, starts the host, boots the permanent release and waits for commands.
/// SIGTERM and SIGINT stop it gracefully. Under systemd: Type=notify, KillMode=mixed. RELMGR_LOG says what is
/// logged (default: info); [log] in relmgr.toml says how.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub(super) fn main(Args {}: Args, home: Home) -> Result<(), CommandError> {
    // How the log is written stands in the settings, so they come first.
    let failed = |error: &RunError| CommandError::of(Kind::Failed, error);
    // Before anything is opened: what another relmgr has left has its numbers.
    let received = supervisor::received().map_err(|error| CommandError::of(Kind::Failed, &error))?;
    let settings = match &received {
        Some(received) => received.settings.clone(),
        None => supervisor::read_settings(&home).map_err(|error| failed(&error))?,
    };
    let logged = log::init(settings.log.format, log::Process::Supervisor);
    logged.map_err(|error| CommandError::of(Kind::Failed, &error))?;
    // One thread, this one: everything that would block is given away.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime
        .map_err(|error| CommandError::new(Kind::Failed, "no runtime can be started").because(&error))?;
    runtime.block_on(supervisor::run(home, settings, received)).map_err(|error| failed(&error))
}

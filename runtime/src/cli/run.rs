//! `relmgr run`

use relmgr_model::home::Home;

use super::error::{CommandError, Kind};
use crate::supervisor;

/// Run the node in the foreground
///
/// Binds the listeners of relmgr.toml, starts the host, boots the permanent release and waits for commands.
/// SIGTERM and SIGINT stop it gracefully. Under systemd: Type=notify, KillMode=mixed. RELMGR_LOG says what is
/// logged to stderr (default: info).
#[derive(Debug, clap::Args)]
pub struct Args {}

pub(super) fn main(Args {}: Args, home: Home) -> Result<(), CommandError> {
    super::init_log();
    // One thread, this one: everything that would block is given away.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime
        .map_err(|error| CommandError::new(Kind::Failed, "no runtime can be started").because(&error))?;
    runtime.block_on(supervisor::run(home)).map_err(|error| CommandError::of(Kind::Failed, &error))
}

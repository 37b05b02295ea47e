//! `relmgr run`

use std::error::Error;

use relmgr_model::home::Home;

use super::error::{CommandError, Kind};
use crate::supervisor::{self, RunError};

/// Run the node in the foreground
///
/// Binds the listeners of relmgr.toml, starts the host, boots the permanent release and waits for commands.
/// SIGTERM and SIGINT stop it gracefully. Under systemd: Type=notify, KillMode=mixed. RELMGR_LOG says what is
/// logged to stderr (default: info).
#[derive(Debug, clap::Args)]
pub struct Args {}

pub(super) fn main(Args {}: Args, home: Home) -> Result<(), CommandError> {
    super::init_log();
    // One thread, this one: everything that would block is given away, and whatever depends on the thread that
    // started a process depends on one that lives as long as the supervisor.
    let ran = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(supervisor::run(home)),
        Err(error) => {
            return Err(CommandError::new(Kind::Failed, "no runtime can be started").because(&error));
        }
    };
    ran.map_err(|error| told(&error))
}

fn told(error: &RunError) -> CommandError {
    let failed = CommandError::new(Kind::Failed, error.to_string());
    match error.source() {
        Some(source) if source.to_string() != failed.message() => failed.because(source),
        _ => failed,
    }
}

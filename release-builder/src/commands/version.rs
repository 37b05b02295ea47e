//! `cargo relmgr version`

use crate::error::Error;
use crate::ui;

/// Print the version of cargo-relmgr and of the contract that it knows
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    let version = env!("CARGO_PKG_VERSION");
    let (major, minor) = (relmgr_abi::ABI_MAJOR, relmgr_abi::ABI_MINOR);
    match args.json {
        true => ui::print_json(&serde_json::json!({
            "relmgr": version,
            "abi": { "major": major, "minor": minor },
        })),
        false => ui::print(format!("cargo-relmgr {version} (contract {major}.{minor})")),
    }
}

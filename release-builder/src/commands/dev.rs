//! `cargo relmgr dev`

use std::net::SocketAddr;
use std::path::PathBuf;

use super::block_on;
use crate::build::compile::CargoOptions;
use crate::build::project::Selection;
use crate::dev::{self, Request};
use crate::error::Error;

/// Serve the package in this directory, and what is saved while it serves
///
/// Runs a node of its own on this machine. Each save of a source (of the package, and of the packages that it links by
/// their path) is built with the profile `dev` and swapped in as any release is: connections stay open, state tables,
/// in-memory state and WebSockets with their sessions are kept. What cannot be built, started or upgraded to is told in
/// cargo's or the node's own words, and what served before serves on. Ctrl-C stops the node.
#[derive(Debug, clap::Args)]
#[command(
    mut_arg("profile", |profile| profile.default_value("dev")),
    after_help = "\
What serves, and how, is taken from node/relmgr.toml and node/app.conf beside Cargo.toml, where
they are; state tables stay in the home from one session to the next. The application learns that
it is being developed (`Context::development`), so that its pages can reload themselves.

An editor that runs cargo on each save (rust-analyzer) holds the target directory meanwhile:
--target-dir target/dev gives this command one of its own.

With --json: started, changed, built, serving, unchanged, failed, stopped.

Examples:
  cargo relmgr dev
  cargo relmgr dev --listen 127.0.0.1:3000 --features mail
  cargo relmgr dev --json --lose-state"
)]
pub(super) struct Args {
    /// The Cargo.toml of the package or workspace
    #[arg(long, value_name = "PATH")]
    manifest_path: Option<PathBuf>,
    /// The package to serve, where the workspace has several
    #[arg(long, short, value_name = "NAME")]
    package: Option<String>,
    /// The node's home (default: relmgr-dev/<application> in the target directory)
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Where it listens; may be given several times (default: as node/relmgr.toml says, or 127.0.0.1:8080)
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<SocketAddr>,
    /// The `relmgr` program that runs the node (default: beside this program, then in PATH)
    #[arg(long, value_name = "PATH")]
    relmgr: Option<PathBuf>,
    /// Go on without what the running code keeps in memory, where the new code has no way for it
    #[arg(long)]
    lose_state: bool,
    /// Print events as JSON on stdout, one a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cargo: CargoOptions,
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<(), Error> {
    let Args { manifest_path, package, home, listen, relmgr, lose_state, json, cargo } = args;
    let selection = Selection { manifest_path, package };
    block_on(dev::run(Request { selection, options: cargo, home, listen, relmgr, lose_state, json }))
}

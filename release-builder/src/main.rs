//! `cargo relmgr`: what a developer and CI run to build, package and publish releases.
//!
//! | module | what |
//! | --- | --- |
//! | [`commands`] | the command line, one file per command |
//! | [`build`] | from a Cargo package to a library, and from that to `target/relmgr/` |
//! | [`rehearse`] | the shipped release to the one that was built, and back, on a node that is thrown away |
//! | [`dev`] | from a save to the first request that the new code answers |
//! | [`error`] | what can fail, why, and what to do about it |
//! | [`ui`] | lines for people: progress on stderr, tables on stdout |

mod build;
mod commands;
mod dev;
mod error;
mod group;
mod key;
mod rehearse;
mod ui;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args: Vec<_> = std::env::args_os().collect();
    // cargo calls `cargo-relmgr relmgr release …`; people may call `cargo-relmgr release …`.
    if args.get(1).is_some_and(|arg| arg == "relmgr") {
        args.remove(1);
    }
    match commands::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error::report(&error);
            ExitCode::FAILURE
        }
    }
}

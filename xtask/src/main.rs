//! The project's own commands: `cargo xtask setup | test | lint | demo | bench | deb | crash-matrix`.

#![allow(clippy::unwrap_used, reason = "a developer's tool says by a panic what went wrong")]

mod bench;
mod bench_conf;
mod bench_state;
mod bench_tables;
mod boot;
mod crash_matrix;
mod deb;
mod deltas;
mod demo;
mod dev;
mod faults;
mod licences;
mod lint;
mod pipeline;
mod recovery;
mod repository;
mod run;
mod self_upgrade;
mod sessions;
mod setup;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Xtask {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what the tests start that is no part of the project (as root; Debian's packages, cargo's commands)
    Setup,
    /// Run every test: builds the binaries, then cargo-nextest (or cargo test) over the workspace, then doctests
    Test {
        /// Passed on to the test runner, such as a test's name
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Check format, clippy with warnings denied, the layering of the crates, licences and sources
    Lint,
    /// Build two releases, run a node, upgrade and downgrade it under load, and print what clients saw
    Demo(demo::Args),
    /// Print the numbers, all of them by default (`bench --help` names them)
    Bench(bench::Args),
    /// Build relmgr's Debian package (needs cargo-deb), and print where it lies
    Deb,
    /// Break every operation at every call by which it changes a file: kills, errors, power losses (an hour for all)
    CrashMatrix(crash_matrix::Args),
}

fn main() -> ExitCode {
    let done = match Xtask::parse().command {
        Command::Setup => setup::main(),
        Command::Test { args } => test::main(&args),
        Command::Lint => lint::main(),
        Command::Demo(args) => demo::main(&args),
        Command::Bench(args) => bench::main(&args),
        Command::Deb => deb::main(),
        Command::CrashMatrix(args) => crash_matrix::main(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

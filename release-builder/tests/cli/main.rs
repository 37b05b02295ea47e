//! `cargo relmgr` as it is run: real packages, real cargo, real repositories in temporary directories.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by its panic; clippy sees only #[test] functions as tests"
)]

mod conf;
mod derived;
mod dev;
mod fixture;
mod help;
mod new;
mod publish;
mod refusals;
mod release;
mod signed;

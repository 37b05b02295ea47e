//! Nodes, releases and load for tests and benchmarks. Everything in it is real: the binaries, the releases, the
//! sockets; only the homes are temporary.

#![allow(clippy::unwrap_used, reason = "tests say by a panic what went wrong")]

pub mod deb;
pub mod dev;
pub mod example;
pub mod faults;
pub mod hosts;
pub mod kit;
pub mod load;
pub mod lost;
pub mod matrix;
pub mod memory;
pub mod pages;
pub mod process;
pub mod promises;
pub mod proxy;
pub mod s3;
mod started;
pub mod trace;

//! relmgr: the supervisor, the host and the command line, in one executable.

pub mod cli;
pub mod conf;
pub mod endpoint;
pub mod host;
pub mod log;
pub mod process;
pub mod supervisor;
pub mod tls;

/// The version of relmgr.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

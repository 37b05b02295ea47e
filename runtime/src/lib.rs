//! relmgr: supervisor, host and command line.

pub mod host;

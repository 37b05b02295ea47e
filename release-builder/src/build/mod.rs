//! From a Cargo package to `target/relmgr/`, in this order:
//!
//! 1. [`project`]: which package, and what it asks for in `[package.metadata.relmgr]`.
//! 2. [`profile`]: refuse what could not be caught at the border.
//! 3. [`compile`]: cargo builds the library, with flags that make the same source the same bytes.
//! 4. [`elf`]: what the library needs, and what would keep it in memory.
//!    For development, [`debug`] takes away what only debuggers read.
//! 5. [`schema`]: what the library says of its settings, and what is written by hand.
//! 6. [`state`]: the form of its in-memory state, beside that of the release that was shipped.
//! 7. [`assets`]: the files that travel along.
//! 8. [`output`]: version, manifest, package, `VERSION`.

pub(crate) mod allocator;
pub(crate) mod assets;
pub(crate) mod cargo_config;
pub(crate) mod compile;
pub(crate) mod debug;
pub(crate) mod elf;
pub(crate) mod git;
pub(crate) mod output;
pub(crate) mod prepared;
pub(crate) mod profile;
pub(crate) mod project;
pub(crate) mod schema;
pub(crate) mod state;
pub(crate) mod toolchain;

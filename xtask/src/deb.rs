//! `cargo xtask deb`

use relmgr_testkit::{deb, kit};

use crate::run::build_release_binaries;

/// Builds relmgr as users get it and packs it for Debian; prints where.
pub fn main() -> anyhow::Result<()> {
    kit::use_binaries(&build_release_binaries()?);
    println!("{}", deb::build("dist").display());
    Ok(())
}

//! `cargo xtask test`

use crate::run::{cargo, has_cargo, run};

/// Builds what the tests start, then runs them all.
pub fn main(args: &[String]) -> anyhow::Result<()> {
    run(cargo(&["build", "--package", "relmgr", "--package", "cargo-relmgr"]))?;
    let nextest = has_cargo("nextest");
    let mut tests = if nextest {
        cargo(&["nextest", "run", "--workspace", "--no-fail-fast"])
    } else {
        cargo(&["test", "--workspace", "--no-fail-fast", "--all-targets"])
    };
    tests.args(args);
    run(tests)?;
    // nextest does not run doctests.
    if args.is_empty() {
        run(cargo(&["test", "--workspace", "--doc"]))?;
    }
    Ok(())
}

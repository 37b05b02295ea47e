//! `cargo xtask test`

use crate::run::{cargo, has_cargo, run};
use crate::setup;

/// Says what is missing before anything is built; builds what the tests start, then runs them all.
pub fn main(args: &[String]) -> anyhow::Result<()> {
    match setup::check() {
        // Who asks for some tests knows what they need.
        Err(error) if !args.is_empty() => eprintln!("warning: {error:#}"),
        checked => checked?,
    }
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

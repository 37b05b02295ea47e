//! Running commands, and building what the others need.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use relmgr_testkit::kit;

/// `cargo args…` in the workspace.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(kit::workspace());
    command
}

/// Runs `command` to its success; what it prints goes to stderr.
pub fn run(mut command: Command) -> anyhow::Result<()> {
    command.stdout(std::io::stderr());
    let status = command.status().with_context(|| format!("{command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}

/// Whether `cargo name --version` is there.
pub fn has_cargo(name: &str) -> bool {
    let probe = cargo(&[name, "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    probe.is_ok_and(|status| status.success())
}

/// Builds `relmgr` and `cargo-relmgr` as users get them; the directory that they lie in.
pub fn build_release_binaries() -> anyhow::Result<PathBuf> {
    run(cargo(&["build", "--profile", "dist", "--package", "relmgr", "--package", "cargo-relmgr"]))?;
    Ok(target_dir()?.join("dist"))
}

/// The workspace's target directory.
pub fn target_dir() -> anyhow::Result<PathBuf> {
    let metadata = cargo_metadata::MetadataCommand::new().no_deps().current_dir(kit::workspace()).exec()?;
    Ok(metadata.target_directory.into())
}

//! cargo, rustc and git as they are run for one package.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;

/// The toolchain of the package in a directory: its `rust-toolchain.toml` and `.cargo/config.toml` count, as if
/// the developer stood there.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    directory: PathBuf,
}

/// What `rustc -vV` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rustc {
    /// The first line, such as `rustc 1.95.0 (59807616e 2026-04-14)`.
    pub(crate) version: String,
    /// The triple that it runs on.
    pub(crate) host: String,
    /// The commit that std's paths carry.
    pub(crate) commit: String,
    /// Where its libraries lie.
    pub(crate) sysroot: PathBuf,
}

impl Toolchain {
    /// The toolchain for `directory`.
    pub(crate) fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The directory that commands run in.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A cargo command.
    pub(crate) fn cargo(&self) -> Command {
        match chosen_by_directory() {
            // The variable names the real cargo of the toolchain that belonged to another directory.
            true => self.command("cargo".into()),
            false => self.command(std::env::var_os("CARGO").unwrap_or("cargo".into()).into()),
        }
    }

    /// The program behind [`Toolchain::cargo`], for the crate that runs it itself.
    pub(crate) fn cargo_program(&self) -> PathBuf {
        self.cargo().get_program().into()
    }

    /// Whether a command must not inherit `RUSTUP_TOOLCHAIN`.
    pub(crate) fn forgets_rustup_toolchain(&self) -> bool {
        chosen_by_directory()
    }

    fn command(&self, program: PathBuf) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.directory);
        if chosen_by_directory() {
            command.env_remove("RUSTUP_TOOLCHAIN");
        }
        command
    }

    /// Asks rustc who it is.
    ///
    /// # Errors
    /// It does not run, or answers something else.
    pub(crate) fn rustc(&self) -> Result<Rustc, Error> {
        let program: PathBuf = std::env::var_os("RUSTC").unwrap_or("rustc".into()).into();
        let text = self.ask(&program, &["-vV"])?;
        let sysroot = self.ask(&program, &["--print", "sysroot"])?;
        parse(&text, sysroot.trim_end().into()).ok_or(Error::RustcAnswer { answer: text })
    }

    fn ask(&self, program: &Path, args: &[&str]) -> Result<String, Error> {
        let output = self.command(program.into()).args(args).output();
        let output =
            output.map_err(|source| Error::Run { program: program.display().to_string(), source })?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => {
                Err(Error::RustcAnswer { answer: String::from_utf8_lossy(&output.stderr).trim_end().into() })
            }
        }
    }
}

/// Whether rustup chose the toolchain of this process by its working directory, which need not be the package's.
/// What the developer said (`cargo +nightly`, the environment) stays.
fn chosen_by_directory() -> bool {
    std::env::var("RUSTUP_TOOLCHAIN_SOURCE").is_ok_and(|source| source != "cli" && source != "env")
}

fn parse(text: &str, sysroot: PathBuf) -> Option<Rustc> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    Some(Rustc {
        version: text.lines().next()?.to_owned(),
        host: field("host: ")?,
        commit: field("commit-hash: ")?,
        sysroot,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rustc_says_who_it_is() {
        let rustc = Toolchain::new(env!("CARGO_MANIFEST_DIR")).rustc().unwrap();
        assert!(rustc.version.starts_with("rustc 1."), "{rustc:?}");
        assert!(rustc.host.starts_with(std::env::consts::ARCH), "{rustc:?}");
        assert!(rustc.sysroot.join("lib").is_dir(), "{rustc:?}");
        assert_eq!(parse("rustc 1.95.0\n", "/".into()), None);
    }
}

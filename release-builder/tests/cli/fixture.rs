//! Packages to release, and the command that does it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A package in a temporary directory.
pub(crate) struct Fixture {
    _home: tempfile::TempDir,
    /// The package's directory.
    pub(crate) directory: PathBuf,
}

/// An application's entry, made by hand: contract 1.0. It keeps the library small and quick to build.
pub(crate) const ENTRY: &str = r#"
#[repr(C)]
pub struct Entry {
    magic: [u8; 8],
    major: u32,
    minor: u32,
    fingerprint: u64,
    root: fn(usize) -> usize,
}

#[unsafe(no_mangle)]
pub static RELMGR_ENTRY: Entry = Entry { magic: *b"RELMGR\0\0", major: 1, minor: 0, fingerprint: 7, root: answer };

// Both panic with an absolute path as their place: into the sources, and into the target directory.
include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/included.rs"));

fn answer(number: usize) -> usize {
    part::half(checked(number))
}
"#;

const INCLUDED: &str = r#"
fn checked(number: usize) -> usize {
    assert!(number < 1_000_000, "{number} is too much");
    number
}
"#;

const BUILD_SCRIPT: &str = r#"
fn main() {
    let out = std::env::var("OUT_DIR").unwrap();
    let made = "pub fn half(number: usize) -> usize { [number / 2][number] }";
    std::fs::write(format!("{out}/made.rs"), made).unwrap();
    println!("cargo::rerun-if-changed=build.rs");
}
"#;

const MANIFEST: &str = r#"
[package]
name = "small-poll"
version = "0.1.0"
edition = "2024"

[lib]
crate-type = ["cdylib"]

[dependencies]
part = { path = "part" }

[workspace]
members = ["part"]
"#;

impl Fixture {
    /// A package with a library that is an application.
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let fixture = Self { directory: home.path().canonicalize().unwrap(), _home: home };
        fixture.write("Cargo.toml", MANIFEST);
        fixture.write("src/lib.rs", ENTRY);
        fixture.write(
            "part/Cargo.toml",
            "[package]\nname = \"part\"\nversion = \"0.1.0\"\nedition = \"2024\"\n",
        );
        fixture.write("part/src/lib.rs", "include!(concat!(env!(\"OUT_DIR\"), \"/made.rs\"));");
        fixture.write("part/build.rs", BUILD_SCRIPT);
        fixture.write("src/included.rs", INCLUDED);
        fixture
    }

    /// One whose Cargo.toml has `more` at its end.
    pub(crate) fn with_manifest(more: &str) -> Self {
        let fixture = Self::new();
        fixture.write("Cargo.toml", &format!("{MANIFEST}\n{more}\n"));
        fixture
    }

    /// Writes a file of the package.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// The path of a file of the package.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A directory beside the package's sources, as an URL.
    pub(crate) fn repository(&self) -> String {
        let path = self.path("target/packages");
        std::fs::create_dir_all(&path).unwrap();
        format!("file://{}", path.display())
    }

    /// `cargo relmgr ARGS` in the package's directory.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        command(&self.directory, args)
    }

    /// Runs it, which has to succeed; its stdout.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        succeeds(self.command(args))
    }

    /// Builds a release; its JSON.
    pub(crate) fn release(&self, args: &[&str]) -> serde_json::Value {
        let args: Vec<_> = ["release", "--json", "--offline"].iter().chain(args).copied().collect();
        serde_json::from_str(&self.run(&args)).unwrap()
    }

    /// Runs it, which has to fail with exit code 1 and nothing on stdout; its stderr.
    pub(crate) fn fails(&self, args: &[&str]) -> String {
        fails(self.command(args))
    }
}

/// `cargo-relmgr relmgr ARGS`, as cargo would call it, with nothing of this test's own build in its environment.
pub(crate) fn command(directory: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cargo-relmgr"));
    command.arg("relmgr").args(args).current_dir(directory);
    for name in [
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "RELMGR_REPOSITORY",
        "RUSTFLAGS",
        // Else the toolchain would be looked up for the temporary directory, where there may be none.
        "RUSTUP_TOOLCHAIN_SOURCE",
        "SOURCE_DATE_EPOCH",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs `command`, which has to succeed; its stdout.
pub(crate) fn succeeds(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{command:?}: {status}\n{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// Runs `command`, which has to fail; its stderr.
pub(crate) fn fails(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{command:?}\n{stderr}");
    assert_eq!(String::from_utf8(stdout).unwrap(), "", "{command:?}");
    stderr
}

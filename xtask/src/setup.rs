//! `cargo xtask setup`: what the tests start that is no part of the project, and how to get it.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::run::{cargo, has_cargo, run};

/// What proves that something is there.
enum Proof {
    /// A program on the path.
    Program(&'static str),
    /// A file.
    File(&'static str),
    /// A module of Python's.
    Module(&'static str),
}

impl Proof {
    fn holds(&self) -> bool {
        match self {
            Self::Program(name) => is_on_path(name),
            Self::File(path) => Path::new(path).exists(),
            Self::Module(name) => {
                let mut probe = Command::new("python3");
                let probe = probe
                    .args(["-m", name, "--version"])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status();
                probe.is_ok_and(|status| status.success())
            }
        }
    }
}

/// What is wanted, the Debian package that it is in, and what for.
const WANTED: [(Proof, &str, &str); 24] = [
    (Proof::Program("cc"), "gcc", "libraries that no Rust crate would make"),
    (Proof::Program("git"), "git", "the crate that `cargo relmgr new` makes"),
    (Proof::Program("readelf"), "binutils", "what the builder reads of a library"),
    (Proof::Program("minisign"), "minisign", "signatures, checked with the public tool"),
    (Proof::Module("pip"), "python3-pip", "S3, read with Amazon's command line"),
    (Proof::Program("chromium"), "chromium", "a page that stays open across upgrades, in a browser"),
    (Proof::Program("sshd"), "openssh-server", "hosts that are deployed to"),
    (Proof::Program("ssh"), "openssh-client", "hosts that are deployed to"),
    (Proof::Program("ip"), "iproute2", "hosts with a network of their own"),
    (Proof::Program("nsenter"), "util-linux", "hosts in namespaces, limits of a host's memory"),
    (Proof::Program("curl"), "curl", "what people's scripts ask"),
    (Proof::Program("openssl"), "openssl", "clients that speak old versions of TLS, and keys of every kind"),
    (Proof::Program("promtool"), PROMETHEUS, "metrics, read by who will read them"),
    (Proof::File("/lib/systemd/systemd"), "systemd", "hosts whose process 1 it is"),
    (Proof::File("/usr/lib/python3/dist-packages/apt"), "python3-apt", "Ansible's module for packages"),
    (Proof::File("/usr/lib/python3/dist-packages/yaml"), "python3-yaml", "the recipes for CI"),
    (Proof::Program("cap"), "capistrano", "the recipe for Capistrano"),
    (Proof::Program("ansible-playbook"), "ansible-core", "the recipe for Ansible"),
    (Proof::Program("shellcheck"), "shellcheck", "the scripts for operators"),
    (
        Proof::File("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"),
        "libfaketime",
        "clocks that are set",
    ),
    (Proof::Program("zsh"), "zsh", "completions, loaded by the shell that they are for"),
    (Proof::Program("fish"), "fish", "completions, loaded by the shell that they are for"),
    (Proof::Program(CLOUD_INIT), CLOUD_INIT, "the example for machines that boot from nothing"),
    (Proof::Program("zstd"), "zstd", "archives, compared in `cargo xtask bench deltas`"),
];

/// Runs on the hosts of tests; this machine is to be left alone by it.
const CLOUD_INIT: &str = "cloud-init";

/// Its tool is wanted; its server is not to run here.
const PROMETHEUS: &str = "prometheus";

/// Has systemd take a service that is about to be installed for one that must not run.
fn mask(service: &str) -> std::io::Result<()> {
    let units = Path::new("/etc/systemd/system");
    std::fs::create_dir_all(units)?;
    match std::os::unix::fs::symlink("/dev/null", units.join(format!("{service}.service"))) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

/// Cargo's commands that tests use.
const COMMANDS: [&str; 2] = ["deb", "nextest"];

fn is_on_path(name: &str) -> bool {
    // Where daemons lie is not on everybody's path.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    directories.into_iter().any(|directory| directory.join(name).is_file())
}

/// What is not there: its package, and what for.
fn missing() -> Vec<(&'static str, &'static str)> {
    let missing = WANTED.iter().filter(|(proof, ..)| !proof.holds());
    missing.map(|(_, package, purpose)| (*package, *purpose)).collect()
}

const INSTALL: [&str; 3] = ["install", "--yes", "--no-install-recommends"];

/// Says what is not there, and the line that brings it.
fn describe(missing: &[(&str, &str)]) -> String {
    let list: Vec<_> =
        missing.iter().map(|(package, purpose)| format!("  {package:<16} {purpose}")).collect();
    let packages: Vec<_> = missing.iter().map(|(package, _)| *package).collect();
    format!(
        "the tests start programs that are not there:\n{}\n\nAs root, `cargo xtask setup` installs them, or:\n\n  \
         apt-get {} {}\n",
        list.join("\n"),
        INSTALL.join(" "),
        packages.join(" ")
    )
}

/// Whether everything is there that the tests start.
///
/// # Errors
/// What is not, and how to get it.
pub fn check() -> anyhow::Result<()> {
    let missing = missing();
    if !missing.is_empty() {
        bail!("{}", describe(&missing));
    }
    if !has_cargo("deb") {
        bail!(
            "cargo-deb is not there, which makes the package that hosts get: `cargo install --locked cargo-deb`"
        );
    }
    Ok(())
}

/// Installs what is not there.
pub fn main() -> anyhow::Result<()> {
    let missing = missing();
    if !missing.is_empty() {
        if !is_on_path("apt-get") {
            bail!("{}\nThere is no apt-get here: the names are Debian's.", describe(&missing));
        }
        let apt_get = |args: &[&str]| {
            let mut command = Command::new("apt-get");
            command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
            run(command).context("apt-get needs root and a package mirror")
        };
        let packages: Vec<_> = missing.iter().map(|(package, _)| *package).collect();
        if packages.contains(&CLOUD_INIT) {
            std::fs::create_dir_all("/etc/cloud")?;
            std::fs::write("/etc/cloud/cloud-init.disabled", "")?;
        }
        if packages.contains(&PROMETHEUS) {
            mask(PROMETHEUS)?;
        }
        apt_get(&["update"])?;
        apt_get(&[&INSTALL[..], &packages].concat())?;
    }
    for command in COMMANDS.iter().filter(|command| !has_cargo(command)) {
        run(cargo(&["install", "--locked", &format!("cargo-{command}")]))?;
    }
    check()?;
    eprintln!("everything is there that `cargo xtask test` and `cargo xtask lint` use");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_with_the_line_that_brings_it() {
        let told = describe(&[("minisign", "signatures"), ("chromium", "a page")]);
        let line = "\n  apt-get install --yes --no-install-recommends minisign chromium\n";
        assert!(told.contains(line) && told.contains("  minisign         signatures\n"), "{told}");
    }

    #[test]
    fn the_proofs_tell_what_is_there_from_what_is_not() {
        assert!(Proof::Program("sh").holds() && Proof::File("/proc").holds());
        assert!(!Proof::Program("no-such-program").holds() && !Proof::File("/no/such/file").holds());
        assert!(!Proof::Module("no_such_module").holds());
    }
}

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
const WANTED: [(Proof, &str, &str); 25] = [
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
    (Proof::Program("pgrep"), "procps", "what runs on hosts, and what ends it"),
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

/// Cargo's commands that tests start, the crate that each is in, and what for.
const COMMANDS: [(&str, &str, &str); 1] = [("deb", "cargo-deb", "the package that hosts get")];

/// Cargo's command that runs the tests, where it is there.
const RUNNER: (&str, &str) = ("nextest", "cargo-nextest");

fn is_on_path(name: &str) -> bool {
    // Where daemons lie is not on everybody's path.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    directories.into_iter().any(|directory| directory.join(name).is_file())
}

/// What brings something, and what it is for.
type Wanted = (&'static str, &'static str);

/// The packages that are not there.
fn missing_packages() -> Vec<Wanted> {
    let missing = WANTED.iter().filter(|(proof, ..)| !proof.holds());
    missing.map(|(_, package, purpose)| (*package, *purpose)).collect()
}

/// The crates whose commands are not there.
fn missing_crates() -> Vec<Wanted> {
    let missing = COMMANDS.iter().filter(|(command, ..)| !has_cargo(command));
    missing.map(|(_, name, purpose)| (*name, *purpose)).collect()
}

const APT_INSTALL: [&str; 3] = ["install", "--yes", "--no-install-recommends"];

const CARGO_INSTALL: [&str; 2] = ["install", "--locked"];

/// Says what is not there, and the lines that bring it.
fn describe(packages: &[Wanted], crates: &[Wanted]) -> String {
    let mut told = "the tests start programs that are not there:\n".to_owned();
    for (name, purpose) in packages.iter().chain(crates) {
        told += &format!("  {name:<16} {purpose}\n");
    }
    told += "\nAs root, `cargo xtask setup` installs them, or:\n\n";
    let lines = [("apt-get", &APT_INSTALL[..], packages), ("cargo", &CARGO_INSTALL[..], crates)];
    for (program, install, wanted) in lines {
        let names: Vec<_> = wanted.iter().map(|(name, _)| *name).collect();
        if !names.is_empty() {
            told += &format!("  {program} {} {}\n", install.join(" "), names.join(" "));
        }
    }
    told
}

/// Whether everything is there that the tests start.
///
/// # Errors
/// All that is not, and how to get it.
pub fn check() -> anyhow::Result<()> {
    let (packages, crates) = (missing_packages(), missing_crates());
    if !packages.is_empty() || !crates.is_empty() {
        bail!("{}", describe(&packages, &crates));
    }
    Ok(())
}

/// Installs what is not there.
pub fn main() -> anyhow::Result<()> {
    let missing = missing_packages();
    if !missing.is_empty() {
        if !is_on_path("apt-get") {
            bail!("{}\nThere is no apt-get here: the names are Debian's.", describe(&missing, &[]));
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
        apt_get(&[&APT_INSTALL[..], &packages].concat())?;
    }
    let commands = COMMANDS.iter().map(|(command, name, _)| (*command, *name)).chain([RUNNER]);
    for (_, name) in commands.filter(|(command, _)| !has_cargo(command)) {
        run(cargo(&[&CARGO_INSTALL[..], &[name]].concat()))?;
    }
    check()?;
    eprintln!("everything is there that `cargo xtask test` and `cargo xtask lint` use");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_with_the_lines_that_bring_it() {
        let packages = [("minisign", "signatures"), ("chromium", "a page")];
        let of_apt = "\n  apt-get install --yes --no-install-recommends minisign chromium\n";
        let of_cargo = "\n  cargo install --locked cargo-deb\n";
        let both = describe(&packages, &[("cargo-deb", "a package")]);
        assert!(both.contains("\n  minisign         signatures\n  chromium         a page\n"), "{both}");
        assert!(both.contains("\n  cargo-deb        a package\n"), "{both}");
        assert!(both.contains("`cargo xtask setup`") && both.contains(of_apt), "{both}");
        assert!(both.ends_with(of_cargo), "{both}");
        let packages = describe(&packages, &[]);
        assert!(packages.ends_with(of_apt) && !packages.contains(of_cargo), "{packages}");
        let crates = describe(&[], &[("cargo-deb", "a package")]);
        assert!(crates.contains("`cargo xtask setup`") && crates.ends_with(of_cargo), "{crates}");
        assert!(!crates.contains("apt-get"), "{crates}");
    }

    #[test]
    fn the_proofs_tell_what_is_there_from_what_is_not() {
        assert!(Proof::Program("sh").holds() && Proof::File("/proc").holds());
        assert!(!Proof::Program("no-such-program").holds() && !Proof::File("/no/such/file").holds());
        assert!(!Proof::Module("no_such_module").holds());
    }
}

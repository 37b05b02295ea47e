//! `cargo xtask lint`

use std::collections::BTreeMap;

use anyhow::bail;
use cargo_metadata::{DependencyKind, MetadataCommand};
use relmgr_testkit::kit;

use crate::run::{cargo, has_cargo, run};

/// Which crates of ours a crate may use: arrows point down only. Those that are not named here (testkit, tests,
/// xtask, applications) may use all.
const LAYERS: [(&str, &[&str]); 8] = [
    ("relmgr-abi", &[]),
    ("relmgr-model", &[]),
    ("relmgr-conf", &["relmgr-model"]),
    ("relmgr-store", &["relmgr-model"]),
    ("relmgr-app", &["relmgr-abi", "relmgr-conf"]),
    ("relmgr", &["relmgr-abi", "relmgr-conf", "relmgr-model", "relmgr-store"]),
    ("cargo-relmgr", &["relmgr-abi", "relmgr-conf", "relmgr-model", "relmgr-store"]),
    ("live-poll", &["relmgr-app"]),
];

/// Runs every check.
pub fn main() -> anyhow::Result<()> {
    run(cargo(&["fmt", "--all", "--check"]))?;
    run(cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    layers()?;
    if has_cargo("deny") {
        run(cargo(&["deny", "check", "licenses", "bans", "sources"]))?;
    } else {
        eprintln!("cargo-deny is not installed: licences and sources are not checked");
    }
    Ok(())
}

fn layers() -> anyhow::Result<()> {
    let metadata = MetadataCommand::new().no_deps().current_dir(kit::workspace()).exec()?;
    let allowed = BTreeMap::from(LAYERS);
    let ours: Vec<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    for package in &metadata.packages {
        let Some(allowed) = allowed.get(package.name.as_str()) else { continue };
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            let for_tests = dependency.kind == DependencyKind::Development;
            if !for_tests && ours.contains(&name) && !allowed.contains(&name) {
                bail!(
                    "{} uses {name}: arrows between the crates point down only (ARCHITECTURE.md)",
                    package.name
                );
            }
        }
    }
    Ok(())
}

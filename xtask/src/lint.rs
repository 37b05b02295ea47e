//! `cargo xtask lint`

use anyhow::bail;
use cargo_metadata::{DependencyKind, MetadataCommand};
use relmgr_testkit::kit;

use crate::licences;
use crate::run::{cargo, has_cargo, run};

/// Which crates of ours a crate may use: arrows point down only. Those that are not named here (testkit, tests,
/// xtask, applications) may use all.
const LAYERS: [(&str, &[&str]); 10] = [
    ("relmgr-abi", &[]),
    ("relmgr-model", &[]),
    ("relmgr-conf", &["relmgr-model"]),
    ("relmgr-store", &["relmgr-model"]),
    ("relmgr-app-derive", &[]),
    ("relmgr-tables", &["relmgr-abi"]),
    ("relmgr-app", &["relmgr-abi", "relmgr-app-derive", "relmgr-tables"]),
    ("relmgr", &["relmgr-abi", "relmgr-conf", "relmgr-model", "relmgr-store", "relmgr-tables"]),
    ("cargo-relmgr", &["relmgr-abi", "relmgr-conf", "relmgr-model", "relmgr-store", "relmgr-tables"]),
    ("live-poll", &["relmgr-app"]),
];

/// Runs every check.
pub fn main() -> anyhow::Result<()> {
    run(cargo(&["fmt", "--all", "--check"]))?;
    run(cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    layers()?;
    licences::check()?;
    // What it knows beside that: wildcards, and what is there twice.
    if has_cargo("deny") {
        run(cargo(&["deny", "check", "licenses", "bans", "sources"]))?;
    }
    Ok(())
}

fn layers() -> anyhow::Result<()> {
    let metadata = MetadataCommand::new().no_deps().current_dir(kit::workspace()).exec()?;
    let ours: Vec<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    if let Some((missing, _)) = LAYERS.iter().find(|(name, _)| !ours.contains(name)) {
        bail!("{missing} is no crate of the workspace: correct the layers in xtask/src/lint.rs");
    }
    for package in &metadata.packages {
        // What only tests use leads to no arrow in what is shipped.
        let shipped =
            package.dependencies.iter().filter(|dependency| dependency.kind != DependencyKind::Development);
        for name in shipped.map(|dependency| dependency.name.as_str()).filter(|name| ours.contains(name)) {
            if !may_use(&package.name, name) {
                bail!(
                    "{} uses {name}: arrows between the crates point down only (ARCHITECTURE.md)",
                    package.name
                );
            }
        }
    }
    Ok(())
}

/// Whether one crate of ours may use another.
fn may_use(user: &str, used: &str) -> bool {
    LAYERS.iter().find(|(name, _)| *name == user).is_none_or(|(_, allowed)| allowed.contains(&used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_point_down() {
        for (user, used) in [("relmgr-store", "relmgr-model"), ("relmgr", "relmgr-abi"), ("xtask", "relmgr")]
        {
            assert!(may_use(user, used), "{user} -> {used}");
        }
        for (user, used) in
            [("relmgr-model", "relmgr-store"), ("relmgr-abi", "relmgr-model"), ("relmgr", "relmgr-testkit")]
        {
            assert!(!may_use(user, used), "{user} -> {used}");
        }
    }

    #[test]
    fn the_crates_keep_to_their_layers() {
        layers().unwrap();
    }
}

//! What the dependencies may be and where they may come from, as deny.toml has it: its licences and sources are looked
//! at here in a second, also where cargo-deny, which takes minutes to build, is not installed.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use cargo_metadata::{CargoOpt, MetadataCommand, Package};
use relmgr_testkit::kit;
use serde::Deserialize;
use spdx::{Expression, ParseMode};

#[derive(Debug, Deserialize)]
struct Deny {
    graph: Graph,
    licenses: Licences,
    sources: Sources,
}

#[derive(Debug, Deserialize)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Licences {
    allow: Vec<String>,
    exceptions: Vec<Exception>,
}

#[derive(Debug, Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
}

/// Looks at every crate that is built for the targets of deny.toml, with all features.
///
/// # Errors
/// All that it does not allow.
pub fn check() -> anyhow::Result<()> {
    let text = std::fs::read_to_string(kit::workspace().join("deny.toml")).context("deny.toml")?;
    let deny: Deny = toml::from_str(&text).context("deny.toml")?;
    let mut metadata = MetadataCommand::new();
    metadata.current_dir(kit::workspace()).features(CargoOpt::AllFeatures);
    let platforms = deny.graph.targets.iter().map(|target| format!("--filter-platform={target}"));
    metadata.other_options(platforms.collect::<Vec<_>>());
    let packages = metadata.exec()?.packages;
    // Those without a source are ours.
    let faults: Vec<_> = packages
        .iter()
        .filter(|package| package.source.is_some())
        .filter_map(|package| fault(package, &deny))
        .collect();
    if !faults.is_empty() {
        bail!("deny.toml does not allow these dependencies:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

fn fault(package: &Package, deny: &Deny) -> Option<String> {
    let (name, version) = (&package.name, &package.version);
    let source = package.source.as_ref().map(|source| source.repr.clone()).unwrap_or_default();
    let known = |registry: &String| source.strip_prefix("registry+") == Some(registry);
    if !deny.sources.allow_registry.iter().any(known) {
        return Some(format!("{name} {version} comes from {source}"));
    }
    let Some(licence) = &package.license else { return Some(format!("{name} {version} names no licence")) };
    let exceptions: BTreeMap<_, _> = deny
        .licenses
        .exceptions
        .iter()
        .map(|exception| (exception.name.as_str(), &exception.allow))
        .collect();
    let extra = exceptions.get(name.as_str()).map(|extra| extra.as_slice()).unwrap_or_default();
    (!is_allowed(licence, &deny.licenses.allow, extra))
        .then(|| format!("{name} {version} is licensed under {licence}"))
}

/// Whether one of the ways in which `licence` may be taken is made of what is allowed only.
fn is_allowed(licence: &str, allow: &[String], extra: &[String]) -> bool {
    let Ok(expression) = Expression::parse_mode(licence, ParseMode::LAX) else { return false };
    expression.evaluate(|part| {
        let plain = part.addition.is_none();
        let known = |id: spdx::LicenseId| allow.iter().chain(extra).any(|allowed| allowed == id.name);
        plain && part.license.id().is_some_and(known)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_way_to_take_it_is_enough_and_all_of_that_way_counts() {
        let (allow, none) = (["MIT", "Apache-2.0", "ISC"].map(String::from), []);
        for allowed in ["MIT", "MIT OR GPL-3.0-only", "MIT/Apache-2.0", "Apache-2.0 AND ISC"] {
            assert!(is_allowed(allowed, &allow, &none), "{allowed}");
        }
        for refused in
            ["GPL-3.0-only", "MIT AND GPL-3.0-only", "Apache-2.0 WITH LLVM-exception", "no licence"]
        {
            assert!(!is_allowed(refused, &allow, &none), "{refused}");
        }
        assert!(is_allowed("MPL-2.0", &allow, &["MPL-2.0".to_owned()]));
    }

    #[test]
    fn every_dependency_is_allowed() {
        check().unwrap();
    }
}

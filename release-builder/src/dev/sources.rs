//! Which files a build depends on: those of the package and of the packages beside it that it links by their path.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, PackageId};
use relmgr_store::atomic;

use crate::build::project::Project;

/// Directories in which nothing is written that a build reads.
const APART: [&str; 8] = [".git", ".hg", ".jj", ".svn", ".idea", ".vscode", ".direnv", "node_modules"];

/// A directory with this file says that it can be made anew (<https://bford.info/cachedir/>): cargo's target
/// directories have it.
const CACHE: &str = "CACHEDIR.TAG";

/// What counts in the workspace's directory, where that is not the package's own.
const OF_WORKSPACE: [&str; 3] = ["Cargo.lock", "Cargo.toml", "rust-toolchain.toml"];

/// Where to look, and what to pass by.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sources {
    /// The directories of the packages that are linked.
    packages: BTreeSet<PathBuf>,
    workspace: PathBuf,
    /// Directories that are written to without the developer.
    apart: Vec<PathBuf>,
}

impl Sources {
    /// Those of `project`; what lies below `apart` is none of them.
    pub(super) fn of(project: &Project, apart: &[&Path]) -> Self {
        let packages = local(&project.metadata, &project.package);
        let workspace = project.workspace_root().to_owned();
        Self { packages, workspace, apart: apart.iter().map(PathBuf::from).collect() }
    }

    /// The directories to watch. Each one of its own: a watch on a whole tree would be told of every file that a build
    /// writes.
    pub(super) fn directories(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::from([self.workspace.clone()]);
        self.packages.iter().for_each(|package| self.below(package, &mut found));
        found
    }

    /// Adds `directory` and what lies below it, where it counts.
    pub(super) fn below(&self, directory: &Path, found: &mut BTreeSet<PathBuf>) {
        if !self.enters(directory) || !found.insert(directory.to_owned()) && *directory != self.workspace {
            return;
        }
        // One that cannot be read has nothing that a build could read.
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            // Links are not followed: what they lead to is watched where it belongs to a package.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.below(&entry.path(), found);
            }
        }
    }

    /// Whether the directory belongs to the sources.
    fn enters(&self, directory: &Path) -> bool {
        if self.apart.iter().any(|apart| directory == apart) {
            return false;
        }
        if self.packages.contains(directory) {
            return true;
        }
        let holds = |name| directory.join(name).exists();
        let named = directory.file_name().and_then(OsStr::to_str);
        // Another package that is not linked, a node's home, a cache.
        named.is_none_or(|name| !APART.contains(&name))
            && !["Cargo.toml", "relmgr.toml", CACHE].into_iter().any(holds)
            && self.packages.iter().any(|package| directory.starts_with(package))
    }

    /// Whether a change of the file at `path`, which lies in a watched directory, is one of the sources.
    pub(super) fn concern(&self, path: &Path) -> bool {
        let (Some(name), Some(directory)) = (path.file_name().and_then(OsStr::to_str), path.parent()) else {
            return false;
        };
        if is_temporary(name) {
            return false;
        }
        let of_workspace = directory == self.workspace && OF_WORKSPACE.contains(&name);
        // Of a package and a directory apart, the nearer one decides: either may lie in the other.
        let near = path.ancestors().skip(1).find_map(|above| match () {
            () if self.packages.contains(above) => Some(true),
            () if self.apart.iter().any(|apart| apart == above) => Some(false),
            () => None,
        });
        near.unwrap_or(of_workspace)
    }

    /// Whether `path` decides on which files the sources are.
    pub(super) fn decides(path: &Path) -> bool {
        path.file_name().is_some_and(|name| OF_WORKSPACE.iter().any(|decides| name == *decides))
    }
}

/// Whether an editor keeps the file for itself: what it names so it renames when it is done, or removes.
fn is_temporary(name: &str) -> bool {
    const ENDINGS: [&str; 7] = ["~", ".swp", ".swx", ".swo", ".tmp", ".bak", ".orig"];
    const BEGINNINGS: [&str; 5] = [".#", "#", ".goutputstream-", ".~", atomic::TEMPORARY];
    // vim looks with this one whether it may write to a directory.
    name == "4913"
        || name.contains("___jb_")
        || ENDINGS.iter().any(|ending| name.ends_with(ending))
        || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// The directories of `package` and of those in its dependencies, for the library and for build scripts, that have no
/// source but their path.
fn local(metadata: &Metadata, package: &PackageId) -> BTreeSet<PathBuf> {
    let packages: HashMap<_, _> = metadata.packages.iter().map(|package| (&package.id, package)).collect();
    let nodes: HashMap<_, _> =
        metadata.resolve.iter().flat_map(|resolve| &resolve.nodes).map(|node| (&node.id, node)).collect();
    let (mut seen, mut next, mut found) = (BTreeSet::from([package]), vec![package], BTreeSet::new());
    while let Some(id) = next.pop() {
        // What comes from a registry depends on nothing local.
        let Some(package) = packages.get(id).filter(|package| package.source.is_none()) else { continue };
        found.extend(package.manifest_path.parent().map(PathBuf::from));
        for dependency in nodes.get(id).into_iter().flat_map(|node| &node.deps) {
            let built = dependency.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development);
            if built && seen.insert(&dependency.pkg) {
                next.push(&dependency.pkg);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> (tempfile::TempDir, Sources) {
        let place = tempfile::tempdir().unwrap();
        let root = place.path();
        for file in files {
            std::fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            std::fs::write(root.join(file), "").unwrap();
        }
        let sources = Sources {
            packages: BTreeSet::from([root.join("app"), root.join("app/crates/part")]),
            workspace: root.to_owned(),
            apart: vec![root.join("app/out")],
        };
        (place, sources)
    }

    #[test]
    fn directories_are_those_of_the_packages_that_are_linked() {
        let (place, sources) = tree(&[
            "app/Cargo.toml",
            "app/src/inner/a.rs",
            "app/priv/static/a.css",
            "app/.git/index",
            "app/target/CACHEDIR.TAG",
            "app/target/debug/a",
            "app/out/a",
            "app/node/relmgr.toml",
            "app/node/releases/a",
            "app/crates/part/Cargo.toml",
            "app/crates/part/src/lib.rs",
            "app/crates/other/Cargo.toml",
            "app/crates/other/src/lib.rs",
            "elsewhere/src/a.rs",
        ]);
        let found = sources.directories();
        let found: Vec<_> =
            found.iter().map(|path| path.strip_prefix(place.path()).unwrap().to_str().unwrap()).collect();
        assert_eq!(
            found,
            [
                "",
                "app",
                "app/crates",
                "app/crates/part",
                "app/crates/part/src",
                "app/priv",
                "app/priv/static",
                "app/src",
                "app/src/inner"
            ]
        );
    }

    #[test]
    fn a_workspace_that_is_a_package_is_walked() {
        let (place, mut sources) = tree(&["src/lib.rs", "Cargo.toml"]);
        sources.packages = BTreeSet::from([place.path().to_owned()]);
        assert!(sources.directories().contains(&place.path().join("src")));
    }

    #[test]
    fn what_editors_keep_for_themselves_does_not_count() {
        let (place, sources) = tree(&[]);
        let concern = |path: &str| sources.concern(&place.path().join(path));
        for path in
            ["app/src/lib.rs", "app/Cargo.toml", "app/conf/schema.toml", "app/priv/page.html", "Cargo.lock"]
        {
            assert!(concern(path), "{path}");
        }
        let editors =
            ["lib.rs~", ".lib.rs.swp", "4913", ".#lib.rs", "#lib.rs#", "lib.rs___jb_tmp___", "a.tmp"];
        for name in editors {
            assert!(!concern(&format!("app/src/{name}")), "{name}");
        }
        for path in ["app/out/a.rs", "README.md", "elsewhere/a.rs"] {
            assert!(!concern(path), "{path}");
        }
        let mut within = Sources { apart: vec![place.path().to_owned()], ..sources };
        assert!(within.concern(&place.path().join("app/src/lib.rs")));
        within.apart.push(place.path().join("app/out"));
        assert!(!within.concern(&place.path().join("app/out/a.rs")));
    }
}

//! Allocators that keep threads or thread-local arenas of their own. As a library's global allocator they outlive
//! every release: their threads and thread-locals point into code that is to be unmapped.

use std::collections::{BTreeSet, HashMap};

use cargo_metadata::{DependencyKind, Metadata, PackageId};

/// Crates that bring such an allocator.
const CRATES: [&str; 9] = [
    "jemallocator",
    "jemallocator-global",
    "mimalloc",
    "mimalloc-rust",
    "rpmalloc",
    "snmalloc-rs",
    "tcmalloc",
    "tcmalloc-better",
    "tikv-jemallocator",
];

/// Beginnings of the shared libraries that are one.
const LIBRARIES: [&str; 3] = ["libjemalloc.so", "libmimalloc.so", "libtcmalloc"];

/// Names the allocators that `package` is linked with: crates in its dependencies as they were resolved, and
/// shared libraries among `needed`.
pub(crate) fn find(metadata: &Metadata, package: &PackageId, needed: &[String]) -> Vec<String> {
    let names: HashMap<_, _> = metadata.packages.iter().map(|package| (&package.id, &package.name)).collect();
    let mut nodes = HashMap::new();
    for node in metadata.resolve.iter().flat_map(|resolve| &resolve.nodes) {
        nodes.insert(&node.id, node);
    }
    let mut found = BTreeSet::new();
    let (mut seen, mut next) = (BTreeSet::from([package]), vec![package]);
    while let Some(id) = next.pop() {
        found.extend(names.get(id).filter(|name| CRATES.contains(&name.as_str())).map(ToString::to_string));
        for dependency in nodes.get(id).into_iter().flat_map(|node| &node.deps) {
            // Build scripts and tests end with the build.
            let linked = dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
            if linked && seen.insert(&dependency.pkg) {
                next.push(&dependency.pkg);
            }
        }
    }
    let is_one = |library: &&String| LIBRARIES.iter().any(|name| library.starts_with(name));
    found.extend(needed.iter().filter(is_one).cloned());
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::toolchain::Toolchain;
    use std::path::Path;

    fn package(directory: &Path, name: &str, rest: &str) {
        let src = directory.join(name).join("src");
        std::fs::create_dir_all(&src).unwrap();
        std::fs::write(src.join("lib.rs"), "").unwrap();
        let text = format!("[package]\nname = \"{name}\"\nversion = \"1.0.0\"\nedition = \"2024\"\n{rest}");
        std::fs::write(directory.join(name).join("Cargo.toml"), text).unwrap();
    }

    #[test]
    fn an_allocator_behind_a_dependency_is_found_and_one_for_tests_is_not() {
        let home = tempfile::tempdir().unwrap();
        let members = "[workspace]\nresolver = \"3\"\nmembers = [\"*\"]\n";
        std::fs::write(home.path().join("Cargo.toml"), members).unwrap();
        package(home.path(), "mimalloc", "");
        package(home.path(), "tikv-jemallocator", "");
        package(home.path(), "between", "[dependencies]\nmimalloc = { path = \"../mimalloc\" }");
        let service = "[dependencies]\nbetween = { path = \"../between\" }\n\
                       [dev-dependencies]\ntikv-jemallocator = { path = \"../tikv-jemallocator\" }";
        package(home.path(), "service", service);

        let mut command = cargo_metadata::MetadataCommand::new();
        command.cargo_path(Toolchain::new(home.path()).cargo_program()).current_dir(home.path());
        let metadata = command.other_options(vec!["--offline".into()]).exec().unwrap();
        let id = |name: &str| &metadata.packages.iter().find(|package| package.name == name).unwrap().id;
        assert_eq!(find(&metadata, id("service"), &[]), ["mimalloc"]);
        assert_eq!(find(&metadata, id("tikv-jemallocator"), &[]), ["tikv-jemallocator"]);
        let needed = ["libc.so.6".to_owned(), "libjemalloc.so.2".to_owned()];
        assert_eq!(find(&metadata, id("service"), &needed), ["libjemalloc.so.2", "mimalloc"]);
    }
}

//! The example application as one that stands alone, to be changed.

use std::path::{Path, PathBuf};

use crate::kit;

/// Copies the example to `copy`, a workspace of its own with the paths of this one.
pub fn standing_copy(copy: &Path) {
    copy_tree(&kit::workspace().join("example-app"), copy);
    let root = kit::workspace();
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let (_, shared) = manifest.split_once("[workspace.package]").expect("the workspace's manifest");
    let shared = shared.replace("path = \"", &format!("path = \"{}/", root.display()));
    let own = std::fs::read_to_string(copy.join("Cargo.toml")).unwrap();
    std::fs::write(copy.join("Cargo.toml"), format!("{own}\n[workspace]\n\n[workspace.package]{shared}"))
        .unwrap();
    std::fs::copy(root.join("Cargo.lock"), copy.join("Cargo.lock")).unwrap();
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let dest: PathBuf = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_tree(&entry.path(), &dest),
            false => drop(std::fs::copy(entry.path(), dest).unwrap()),
        }
    }
}

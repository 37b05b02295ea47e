//! A node that holds one release and is handed bytes that shall be another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use relmgr_model::manifest::{AbiVersion, FORMAT, Manifest, Needs};
use relmgr_store::{delta, digest, package};

/// The file that a patch is made for.
pub(crate) const LIBRARY: &str = "lib/libapp.so";

/// A release's files.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// The release that the node holds.
pub(crate) fn base_files() -> Files {
    let library = (0u32..900).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    BTreeMap::from([(LIBRARY.into(), library), ("priv/same".into(), b"same".repeat(20))])
}

/// The release that is to be made: a file changed, one new, one the same.
pub(crate) fn target_files() -> Files {
    let mut files = base_files();
    let library = files.get_mut(LIBRARY).unwrap();
    library[1000] ^= 1;
    library.splice(2000..2000, *b"something new in the middle of the library");
    files.insert("priv/new".into(), b"new".repeat(50));
    files
}

/// The directories of one try.
pub(crate) struct Scene {
    root: tempfile::TempDir,
    base: Manifest,
    target: Manifest,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("staging")).unwrap();
        let base = lay_out(&root.path().join("base"), "1.0.0", &base_files());
        let target = manifest("1.0.1", &target_files());
        Self { root, base, target }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Makes and applies the delta between two releases whose libraries are `base` and `target`.
    pub(crate) fn there(base: &[u8], target: &[u8]) {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        std::fs::create_dir(path("staging")).unwrap();
        let files = |library: &[u8]| Files::from([(LIBRARY.into(), library.to_vec())]);
        let held = lay_out(&path("base"), "1.0.0", &files(base));
        let mut wanted = lay_out(&path("target"), "1.0.1", &files(target));
        let made = delta::make(&path("base"), &held, &path("target"), &wanted, &path("delta")).unwrap();
        wanted.deltas.insert(held.version.clone(), made);
        delta::apply(&path("delta"), &path("base"), &held, &wanted, &path("staging"), &path("dest")).unwrap();
        assert_eq!(std::fs::read(path("dest").join(LIBRARY)).unwrap(), target);
    }

    /// A sound delta.
    pub(crate) fn delta() -> Vec<u8> {
        let scene = Self::new();
        let (target, out) = (scene.path("target"), scene.path("delta"));
        lay_out(&target, "1.0.1", &target_files());
        delta::make(&scene.path("base"), &scene.base, &target, &scene.target, &out).unwrap();
        std::fs::read(out).unwrap()
    }

    /// A sound package.
    pub(crate) fn package() -> Vec<u8> {
        let scene = Self::new();
        let (target, out) = (scene.path("target"), scene.path("package"));
        lay_out(&target, "1.0.1", &target_files());
        package::pack(&target, &out).unwrap();
        std::fs::read(out).unwrap()
    }

    /// Applies `bytes`, for which the target's manifest vouches: the digest is not what is on trial here.
    pub(crate) fn apply(mut self, bytes: &[u8]) -> bool {
        self.target.deltas.insert(self.base.version.clone(), digest::of_bytes(bytes));
        self.judge(bytes, |scene, input, staging, dest| {
            delta::apply(input, &scene.path("base"), &scene.base, &scene.target, staging, dest)
                .map_err(|error| error.to_string())
        })
    }

    /// Unpacks `bytes`.
    pub(crate) fn unpack(self, bytes: &[u8]) -> bool {
        self.judge(bytes, |scene, input, staging, dest| {
            // Its own manifest, which a node without trusted keys may have to read.
            let _ = package::read_manifest(input).map_err(|error| error.to_string());
            package::unpack(input, staging, dest, &scene.target).map_err(|error| error.to_string())
        })
    }

    /// Has `make` make the release from `bytes`; whether it did. Whatever came of it must be whole.
    fn judge(
        self,
        bytes: &[u8],
        make: impl FnOnce(&Self, &Path, &Path, &Path) -> Result<(), String>,
    ) -> bool {
        let [input, staging, dest] = ["input", "staging", "dest"].map(|name| self.path(name));
        std::fs::write(&input, bytes).unwrap();
        let made = make(&self, &input, &staging, &dest);
        assert_eq!(listed(&staging), Vec::<String>::new(), "something is left in staging");
        let expected: &[&str] =
            if made.is_ok() { &["base", "dest", "input", "staging"] } else { &["base", "input", "staging"] };
        assert_eq!(listed(self.root.path()), expected, "something was written outside of staging");
        for (name, content) in base_files() {
            assert_eq!(std::fs::read(self.path("base").join(name)).unwrap(), content, "the base was changed");
        }
        if made.is_ok() {
            for (name, content) in target_files() {
                assert_eq!(std::fs::read(dest.join(&name)).unwrap(), content, "{name} is not the target's");
            }
        }
        made.is_ok()
    }
}

fn listed(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The manifest of a release with these files.
pub(crate) fn manifest(version: &str, files: &Files) -> Manifest {
    Manifest {
        format: FORMAT,
        name: "app".into(),
        version: version.parse().unwrap(),
        target: "x86_64-unknown-linux-gnu".into(),
        built_at: chrono::DateTime::UNIX_EPOCH,
        library: LIBRARY.into(),
        rustc: "rustc".into(),
        abi: AbiVersion { major: 1, minor: 0 },
        upgrade_from: None,
        git: None,
        needs: Needs::default(),
        state: None,
        package: None,
        probes: vec![],
        files: files.iter().map(|(name, bytes)| (name.clone(), digest::of_bytes(bytes))).collect(),
        deltas: BTreeMap::new(),
    }
}

fn lay_out(root: &Path, version: &str, files: &Files) -> Manifest {
    for (name, bytes) in files {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    let manifest = manifest(version, files);
    std::fs::write(root.join(package::MANIFEST), manifest.for_package().to_toml()).unwrap();
    manifest
}

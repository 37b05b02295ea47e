//! Small releases, laid out as the builder does it.

#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    reason = "a test's helpers, and not every test uses all"
)]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use relmgr_model::manifest::{AbiVersion, FORMAT, Manifest, Needs};
use relmgr_store::digest;

pub const LIBRARY: &str = "lib/libapp.so";

/// A release's files, by path.
pub type Files = BTreeMap<String, Vec<u8>>;

pub fn manifest(version: &str, files: &Files) -> Manifest {
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

/// A release's directory as the builder lays it out; `executable` names those of its files that are.
pub fn lay_out(root: &Path, version: &str, files: &Files, executable: &[&str]) -> Manifest {
    let manifest = manifest(version, files);
    for (name, bytes) in files {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let mode = if executable.contains(&name.as_str()) { 0o755 } else { 0o644 };
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }
    std::fs::write(root.join("manifest.toml"), manifest.for_package().to_toml()).unwrap();
    manifest
}

/// An error and its causes, as a person reads them.
pub fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Peak memory of this process so far, in KiB.
pub fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Bytes that do not compress, the same for the same `seed`.
pub fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed) * 2 + 1;
    let mut next = || {
        // Marsaglia's xorshift64: enough for gzip.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

/// A small tmpfs, unmounted at the end of the test.
pub struct Mounted(tempfile::TempDir);

impl Mounted {
    pub fn tmpfs(size: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(directory.path())
            .status()
            .unwrap();
        assert!(mounted.success());
        Self(directory)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

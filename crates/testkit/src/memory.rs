//! A control group with a limit of memory, of whichever version of cgroups(7) the machine has: what a unit's
//! `MemoryMax=` or a container's limit is to a node. Needs root.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::kit::wait_for;

/// A group for some processes, with no more memory than that. It ends when they have.
pub struct MemoryGroup {
    directory: PathBuf,
    version: Version,
    /// Where a controller that was mounted nowhere is mounted for this group.
    _own: Option<Mounted>,
}

#[derive(Debug, Clone, Copy)]
enum Version {
    One,
    Two,
}

/// A file system that was mounted for a group.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(version: Version) -> Result<Self, String> {
        let place = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        match version {
            Version::One => mount.args(["-t", "cgroup", "-o", "memory", "relmgr-tests"]),
            Version::Two => mount.args(["-t", "cgroup2", "relmgr-tests"]),
        };
        let done = mount.arg(place.path()).output().unwrap();
        if done.status.success() {
            return Ok(Self(place));
        }
        Err(format!("mounting version {version:?}: {}", String::from_utf8_lossy(&done.stderr).trim()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

impl MemoryGroup {
    /// A group that may have `bytes` of memory, and swaps nothing out.
    ///
    /// # Panics
    /// When this machine has no controller for memory that could be used, with what was tried.
    pub fn new(bytes: u64) -> Self {
        let mut tried = vec![];
        for (version, root) in mounted() {
            match Self::below(version, &root, bytes, None) {
                Ok(group) => return group,
                Err(error) => tried.push(format!("version {version:?} at {}: {error}", root.display())),
            }
        }
        for version in [Version::One, Version::Two] {
            match Mounted::new(version) {
                Err(error) => tried.push(error),
                Ok(own) => {
                    let root = own.0.path().to_owned();
                    match Self::below(version, &root, bytes, Some(own)) {
                        Ok(group) => return group,
                        Err(error) => tried.push(format!("version {version:?}, mounted for it: {error}")),
                    }
                }
            }
        }
        panic!(
            "a node's memory cannot be limited on this machine, which this test needs root for: {tried:#?}"
        );
    }

    fn below(version: Version, root: &Path, bytes: u64, own: Option<Mounted>) -> std::io::Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        if let Version::Two = version {
            // What a group may limit is what the one above it hands on.
            let handed_on = root.join("cgroup.subtree_control");
            if !std::fs::read_to_string(&handed_on)?.split_whitespace().any(|name| name == "memory") {
                std::fs::write(handed_on, "+memory")?;
            }
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = root.join(format!("relmgr-test-{}-{number}", std::process::id()));
        std::fs::create_dir(&directory)?;
        let group = Self { directory, version, _own: own };
        // The second counts swap too, and is there where the kernel counts it.
        let (limit, swap, most_swap) = match version {
            Version::One => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", bytes),
            Version::Two => ("memory.max", "memory.swap.max", 0),
        };
        std::fs::write(group.directory.join(limit), bytes.to_string())?;
        match std::fs::write(group.directory.join(swap), most_swap.to_string()) {
            // Files cannot be made there.
            Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::NotFound) => {}
            written => written?,
        }
        Ok(group)
    }

    /// The file that takes a process into the group, by its number.
    pub fn members(&self) -> PathBuf {
        self.directory.join("cgroup.procs")
    }

    /// How many processes of the group the kernel has killed for want of memory.
    pub fn kills(&self) -> u64 {
        let counter = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let text = std::fs::read_to_string(self.directory.join(counter)).unwrap();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.expect("the kernel counts them").trim().parse().unwrap()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let remove = || std::fs::remove_dir(&self.directory);
        if std::thread::panicking() {
            return drop(remove());
        }
        wait_for("the group's processes have ended", || remove().is_ok().then_some(()));
    }
}

/// Where controllers for memory are mounted.
fn mounted() -> Vec<(Version, PathBuf)> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let mut found = vec![];
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (root, has) = (PathBuf::from(fields[1]), |options: &str| {
            options.split([',', ' ', '\n']).any(|name| name == "memory")
        });
        match fields[2] {
            "cgroup" if has(fields[3]) => found.push((Version::One, root)),
            "cgroup2" => {
                let controllers = std::fs::read_to_string(root.join("cgroup.controllers"));
                if controllers.is_ok_and(|controllers| has(&controllers)) {
                    found.push((Version::Two, root));
                }
            }
            _ => {}
        }
    }
    found
}

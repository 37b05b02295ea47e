//! Every operation of a node, broken at every call by which it changes a file.
//!
//! A [`Bench`] brings a node to the point before an operation, again and again, and breaks the operation there: the
//! supervisor is killed, a call fails, or the machine loses power. Afterwards the promises of the home are looked at,
//! and the operation is done once more, to its end.

use std::path::{Path, PathBuf};

use relmgr_model::control::Phase;

use crate::kit::{Done, Node, Release, release, wait_for};
use crate::lost::{Disk, Following, Remains};
use crate::promises::{
    assert_kept, assert_nothing_half_fetched, assert_serves, assert_told, read_note, read_record, settled,
};
use crate::trace::{Errno, Plan, Seen, Watch};

/// What a node does when it is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// The first start of a home that holds relmgr.toml.
    FirstBoot,
    /// A start with a release.
    Boot,
    /// The first release comes.
    Install,
    /// An upgrade that is committed at once.
    Upgrade,
    /// An upgrade up to its probation.
    Probation,
    /// The end of a probation, one way.
    Commit,
    /// The end of a probation, the other way.
    Rollback,
    /// Back to prev.
    Downgrade,
    /// A release is fetched and unpacked.
    Fetch,
    /// A release is removed.
    Remove,
    /// All that may go is removed.
    Prune,
    /// Another host process.
    Restart,
}

/// All of them.
pub const OPERATIONS: [Operation; 12] = [
    Operation::FirstBoot,
    Operation::Boot,
    Operation::Install,
    Operation::Upgrade,
    Operation::Probation,
    Operation::Commit,
    Operation::Rollback,
    Operation::Downgrade,
    Operation::Fetch,
    Operation::Remove,
    Operation::Prune,
    Operation::Restart,
];

/// What a full disk, a broken one, and a system without descriptors or rights say.
pub const ERRORS: [Errno; 4] = [Errno::ENOSPC, Errno::EIO, Errno::EMFILE, Errno::EACCES];

const ONE: &str = "1.0.0";
const TWO: &str = "1.0.1";
const THREE: &str = "1.0.3";

const SETTINGS: &str = "[upgrade]\nprobation = \"10m\"\ndrain = \"2s\"\n[supervisor]\nintensity = 1000\n";

impl Operation {
    /// Its name on the command line.
    pub fn name(self) -> String {
        let name = format!("{self:?}");
        if self == Self::FirstBoot { "first-boot".into() } else { name.to_lowercase() }
    }

    /// Whether the start itself is what is broken.
    fn is_start(self) -> bool {
        matches!(self, Self::FirstBoot | Self::Boot)
    }

    /// What the node has done before.
    fn prepare(self, node: &Node) {
        let upgrades: &[&str] = match self {
            Self::FirstBoot | Self::Install => &[],
            Self::Downgrade | Self::Remove | Self::Prune => &[ONE, TWO],
            _ => &[ONE],
        };
        for version in upgrades {
            node.relmgr(&["upgrade", version, "--no-probation"]).ok();
        }
        if matches!(self, Self::Remove | Self::Prune) {
            node.relmgr(&["fetch", THREE]).ok();
        }
    }

    /// What it does right before, in the same process.
    fn lead_up(self, node: &Node) {
        if matches!(self, Self::Commit | Self::Rollback) {
            try_out(node);
        }
    }

    fn run(self, node: &Node) -> Done {
        let args: &[&str] = match self {
            // Their start was all.
            Self::FirstBoot | Self::Boot => &["ping"],
            Self::Install => &["upgrade", ONE, "--no-probation", "--retry"],
            Self::Upgrade => &["upgrade", TWO, "--no-probation", "--retry"],
            Self::Probation => &["upgrade", TWO, "--retry", "--detach"],
            Self::Commit => &["commit"],
            Self::Rollback => &["rollback"],
            Self::Downgrade => &["downgrade", ONE],
            Self::Fetch => &["fetch", TWO],
            Self::Remove => &["remove", THREE],
            Self::Prune => &["prune", "--keep", "0"],
            Self::Restart => &["restart"],
        };
        node.relmgr(args)
    }

    /// Whether what it is for is so.
    fn is_done(self, node: &Node) -> bool {
        let status = node.status();
        let permanent = status.permanent.map(|version| version.to_string());
        let installed =
            |version: &str| read_record(node).releases.keys().any(|known| known.to_string() == version);
        match self {
            Self::FirstBoot => permanent.is_none(),
            Self::Boot => permanent.as_deref() == Some(ONE),
            Self::Install | Self::Downgrade => permanent.as_deref() == Some(ONE),
            Self::Upgrade | Self::Commit => permanent.as_deref() == Some(TWO),
            Self::Probation => status.phase == Phase::Probation,
            Self::Rollback => {
                let version = TWO.parse().unwrap();
                let failed = read_record(node)
                    .releases
                    .get(&version)
                    .is_some_and(|release| release.status.name() == "failed");
                failed && status.phase == Phase::Steady && permanent.as_deref() == Some(ONE)
            }
            Self::Fetch => installed(TWO),
            Self::Remove | Self::Prune => !installed(THREE),
            Self::Restart => status.phase == Phase::Steady,
        }
    }

    /// Does it once more, from whatever state the node is in.
    fn complete(self, node: &Node) {
        if !self.is_done(node) {
            if matches!(self, Self::Commit | Self::Rollback) && node.status().phase != Phase::Probation {
                try_out(node);
            }
            let done = self.run(node);
            assert!(done.code == 0 || self == Self::Rollback, "once more: {done:#?}");
            settled(node);
        }
        assert!(self.is_done(node), "done once more, but it is not so: {:#?}", node.status());
    }
}

/// Brings the second release on probation.
fn try_out(node: &Node) {
    node.relmgr(&["upgrade", TWO, "--retry", "--detach"]).ok();
    let on_probation = || (node.status().phase == Phase::Probation).then_some(());
    wait_for("the release is on probation", on_probation);
}

/// A node before an operation, as often as wanted.
pub struct Bench {
    operation: Operation,
    node: Node,
    template: tempfile::TempDir,
    watch: Watch,
}

impl Bench {
    /// Brings a node to the point before `operation`.
    ///
    /// # Panics
    /// When that fails.
    pub fn new(operation: Operation) -> Self {
        let mut node = Node::new("relmgr-faulty", SETTINGS);
        for release in releases() {
            node.publish(&release);
        }
        if operation != Operation::FirstBoot {
            node.start();
            operation.prepare(&node);
            node.relmgr(&["stop"]).ok();
            node.wait_supervisor();
        }
        let template = tempfile::tempdir().unwrap();
        copy(&node.home(), &template.path().join("home"));
        let watch = Watch::new(node.home());
        Self { operation, node, template, watch }
    }

    /// The calls that the operation makes when nothing breaks it.
    ///
    /// # Panics
    /// When it fails.
    pub fn calls(&mut self) -> Vec<String> {
        let (done, seen) = self.break_with(Plan::Count);
        assert_eq!(done.map(|done| done.code), Some(0));
        self.check_and_complete();
        seen.calls
    }

    /// Kills the supervisor before the operation's call number `at`, starts it again, and looks; the call, `None`:
    /// there is none of this number.
    ///
    /// # Panics
    /// With the promise that was not kept.
    pub fn kill_before(&mut self, at: usize) -> Option<String> {
        let (_, seen) = self.break_with(Plan::KillBefore(at));
        if seen.hit.is_some() {
            self.node.wait_supervisor();
            let begun = read_note(&self.node);
            self.node.start();
            assert_told(&self.node, begun.as_ref());
            self.check_and_complete();
        }
        seen.hit
    }

    /// Has the operation's call number `at` fail with `error`, and looks; the call, `None`: there is none of this
    /// number.
    ///
    /// # Panics
    /// With the promise that was not kept.
    pub fn fail(&mut self, at: usize, error: Errno) -> Option<String> {
        let (done, seen) = self.break_with(Plan::Fail(at, error));
        seen.hit.as_ref()?;
        if self.operation.is_start() && !self.node.is_running() {
            // It said why and ended, which a start may do.
            assert_ne!(self.node.wait_supervisor(), Some(0));
        } else {
            let done = done.unwrap();
            assert!([0, 1, 3].contains(&done.code), "{done:#?}");
            let status = settled(&self.node);
            if status.phase == Phase::Steady {
                assert_serves(&self.node, &status, &read_record(&self.node));
            }
            // What says that it has done something has done it. (That a release failed is noted as well as may be, and
            // who does not wait is told of the beginning only.)
            let told = !matches!(self.operation, Operation::Probation | Operation::Rollback);
            if done.code == 0 && told {
                assert!(self.operation.is_done(&self.node), "it is not so: {done:#?}");
            }
            // The disk is well again, and nobody has touched the node.
            self.operation.complete(&self.node);
            self.node.relmgr(&["stop"]).ok();
            self.node.wait_supervisor();
        }
        self.node.start();
        self.check_and_complete();
        seen.hit
    }

    /// All that a power loss at any call of the operation may leave.
    ///
    /// # Panics
    /// When the operation fails.
    pub fn remains(&mut self) -> Vec<Remains> {
        self.restore();
        let disk;
        if self.operation.is_start() {
            disk = Disk::scan(&self.node.home());
            self.watch.record(Following(disk.clone()));
            self.node.start_traced(&self.watch);
        } else {
            self.node.start_traced(&self.watch);
            self.operation.lead_up(&self.node);
            disk = Disk::scan(&self.node.home());
            self.watch.record(Following(disk.clone()));
        }
        assert_eq!(self.operation.run(&self.node).code, 0);
        settled(&self.node);
        self.watch.disarm();
        self.node.kill_supervisor();
        let disk = disk.lock().unwrap();
        disk.remains()
    }

    /// Starts the node on what a power loss left, and looks.
    ///
    /// # Panics
    /// With the promise that was not kept.
    pub fn start_on(&mut self, remains: &Remains) {
        self.node.kill_supervisor();
        remains.restore(&self.node.home());
        let begun = read_note(&self.node);
        self.node.start();
        assert_told(&self.node, begun.as_ref());
        self.check_and_complete();
    }

    fn restore(&mut self) {
        self.node.kill_supervisor();
        let home = self.node.home();
        std::fs::remove_dir_all(&home).unwrap();
        copy(&self.template.path().join("home"), &home);
    }

    /// The operation under `plan`; nothing where a start did not come to its end.
    fn break_with(&mut self, plan: Plan) -> (Option<Done>, Seen) {
        self.restore();
        if self.operation.is_start() {
            self.watch.arm(plan);
            self.node.spawn_traced(&self.watch);
            let up = wait_for("the node is up, or has ended", || {
                if !self.node.is_running() {
                    return Some(false);
                }
                self.node.is_up().then_some(true)
            });
            let done = up.then(|| self.operation.run(&self.node));
            return (done, self.watch.disarm());
        }
        self.node.start_traced(&self.watch);
        self.operation.lead_up(&self.node);
        self.watch.arm(plan);
        let done = self.operation.run(&self.node);
        // What goes on without a listener has to come to its end, too.
        if self.operation == Operation::Probation {
            wait_for("the operation is over, or the node has ended", || {
                (!self.node.is_running() || self.node.is_settled()).then_some(())
            });
        }
        (Some(done), self.watch.disarm())
    }

    fn check_and_complete(&mut self) {
        assert_kept(&self.node);
        self.operation.complete(&self.node);
        assert_kept(&self.node);
        assert_nothing_half_fetched(&self.node);
    }
}

fn releases() -> [Release; 3] {
    [("", ONE), ("second", TWO), ("", THREE)].map(|(features, version)| release("faulty", features, version))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to): (PathBuf, PathBuf) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy(&from, &to);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&from).unwrap(), &to).unwrap();
        } else if kind.is_file() {
            std::fs::copy(&from, &to).unwrap();
        }
    }
}

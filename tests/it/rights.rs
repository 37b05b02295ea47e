//! A node whose user is not root, and what it says of what it may not read or write.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};

use relmgr_testkit::kit::{Done, Node, bin, release, wait_for};

const NOBODY: u32 = 65534;

/// A node of this user's, whose supervisor the test starts by itself.
struct Theirs {
    node: Node,
    supervisor: Option<Child>,
}

impl Theirs {
    fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test runs a node as another user, which needs root");
        let node = Node::new("relmgr-faulty", "");
        node.publish(&release("faulty", "", "1.0.0"));
        node.publish(&release("faulty", "second", "1.0.1"));
        let root = node.home().parent().unwrap().to_owned();
        // Where the tests' own lies may be closed to them.
        std::fs::copy(bin("relmgr"), root.join("relmgr")).unwrap();
        let chown = Command::new("chown").args(["-R", &format!("{NOBODY}:{NOBODY}")]).arg(root).status();
        assert!(chown.unwrap().success());
        Self { node, supervisor: None }
    }

    /// `relmgr args…` as their user.
    fn command(&self, args: &[&str]) -> Command {
        let root = self.node.home().parent().unwrap().to_owned();
        let mut command = Command::new(root.join("relmgr"));
        command.args(args).arg("--home").arg(self.node.home()).current_dir(root).uid(NOBODY).gid(NOBODY);
        command
    }

    fn relmgr(&self, args: &[&str]) -> Done {
        self.command(args).output().unwrap().into()
    }

    fn start(&mut self) {
        let log = std::fs::File::create(self.node.home().parent().unwrap().join("log")).unwrap();
        self.supervisor = Some(self.command(&["run"]).stderr(log).spawn().unwrap());
        wait_for("the node answers", || (self.relmgr(&["ping"]).code == 0).then_some(()));
    }

    fn serves(&self) -> String {
        let status = self.relmgr(&["status", "--json"]).ok().json();
        status["current"]["version"].as_str().unwrap_or_default().to_owned()
    }

    fn allow(&self, path: &Path, mode: u32) {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        let Some(mut supervisor) = self.supervisor.take() else { return };
        let _ = self.relmgr(&["stop"]);
        let _ = supervisor.kill();
        let _ = supervisor.wait();
        if std::thread::panicking() {
            eprintln!("---- the node's log\n{}", self.node.log());
        }
    }
}

#[test]
fn a_repository_that_may_not_be_read_and_a_home_that_may_not_be_written_are_named() {
    let mut theirs = Theirs::new();
    theirs.start();
    theirs.relmgr(&["upgrade", "1.0.0"]).ok();
    let (home, repository) = (theirs.node.home(), theirs.node.repository());
    theirs.allow(&repository, 0o000);
    theirs
        .relmgr(&["upgrade", "1.0.1"])
        .failed(1, &["packages", "Permission denied", "the node runs as (uid"]);
    theirs.allow(&repository, 0o755);
    for place in [home.clone(), home.join("releases")] {
        theirs.allow(&place, 0o555);
        theirs
            .relmgr(&["upgrade", "1.0.1"])
            .failed(1, &[place.to_str().unwrap(), "Permission denied", "the node runs as (uid"]);
        assert_eq!(theirs.serves(), "1.0.0");
        theirs.allow(&place, 0o755);
    }
    theirs.relmgr(&["upgrade", "1.0.1"]).ok();
    assert_eq!(theirs.serves(), "1.0.1");
}

#[test]
fn a_home_that_a_start_may_not_use_is_named() {
    let theirs = Theirs::new();
    let home = theirs.node.home();
    let settings = home.join("relmgr.toml");
    theirs.allow(&settings, 0o000);
    theirs.relmgr(&["run"]).failed(1, &["relmgr.toml cannot be read", "Permission denied"]);
    theirs.allow(&settings, 0o644);
    theirs.allow(&home, 0o555);
    theirs.relmgr(&["run"]).failed(1, &["/run cannot be written", "Permission denied"]);
    theirs.allow(&home, 0o000);
    theirs.relmgr(&["run"]).failed(1, &["relmgr.toml cannot be read", "Permission denied"]);
    theirs.allow(&home, 0o755);
}

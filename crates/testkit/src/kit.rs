//! Nodes and releases for tests: a home of its own for each, the binaries that `cargo xtask test` has built, and
//! releases made by `cargo relmgr release` once for all tests.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use relmgr_model::control::NodeStatus;
use serde_json::Value;

use crate::memory::MemoryGroup;
use crate::process;
use crate::started::Started;
use crate::trace::Watch;

/// Nothing that a test waits for takes so long on a machine that works.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A build may have to wait for another one, of another test, in the same target directory.
pub const BUILDS_PATIENCE: Duration = Duration::from_secs(300);

/// Waits until `look` finds something; gives up with what was waited for.
pub fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_so_long(PATIENCE, what, look)
}

/// As [`wait_for`], for what a build has to do first.
pub fn wait_for_build<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_so_long(BUILDS_PATIENCE, what, look)
}

fn wait_so_long<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} for: {what}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

static BINARIES: OnceLock<PathBuf> = OnceLock::new();

/// Has nodes and releases made with the binaries in `directory`; to be called first.
pub fn use_binaries(directory: &Path) {
    BINARIES.set(directory.to_owned()).expect("binaries are chosen once, before they are used");
}

/// The directory of the binaries: that of the running test's profile, unless chosen.
fn binaries() -> &'static Path {
    BINARIES.get_or_init(|| {
        // …/target/debug/deps/it-0123 → …/target/debug
        let here = std::env::current_exe().unwrap();
        here.parent().and_then(Path::parent).unwrap().to_owned()
    })
}

/// A binary of the workspace.
pub fn bin(name: &str) -> PathBuf {
    let path = binaries().join(name);
    assert!(path.exists(), "{} is not built: run `cargo xtask test`", path.display());
    path
}

/// The workspace's target directory.
pub fn target_dir() -> PathBuf {
    binaries().parent().unwrap().to_owned()
}

/// The workspace's directory.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().and_then(Path::parent).unwrap().to_owned()
}

/// A release of a crate under tests/fixtures (or of the crate that `manifest` names).
#[derive(Clone, Debug)]
pub struct Release {
    /// Where `VERSION`, the package and the manifest lie.
    pub out: PathBuf,
    /// Its version.
    pub version: String,
}

/// Builds a fixture with `features` as `version`; done once for all tests.
pub fn release(fixture: &str, features: &str, version: &str) -> Release {
    build(&workspace().join("tests/fixtures").join(fixture).join("Cargo.toml"), features, version)
}

/// Builds the crate at `manifest`.
pub fn build(manifest: &Path, features: &str, version: &str) -> Release {
    let name = manifest.parent().unwrap().file_name().unwrap().to_str().unwrap();
    let cache = target_dir().join("relmgr-releases");
    let out = cache.join(format!("{name}-{features}-{version}"));
    std::fs::create_dir_all(&out).unwrap();
    // One builder at a time: cargo would make the others wait all the same.
    let lock = std::fs::File::create(cache.join("lock")).unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap();
    let release = Release { out: out.clone(), version: version.to_owned() };
    let stamp = out.join("built-by");
    if std::fs::read_to_string(&stamp).is_ok_and(|text| text == run_id()) {
        return release;
    }
    // Another run's release of the same version may have other content.
    std::fs::remove_dir_all(&out).unwrap();
    std::fs::create_dir_all(&out).unwrap();
    let mut command = Command::new(bin("cargo-relmgr"));
    command.args(["relmgr", "release", "--profile", profile(), "--version", version, "--manifest-path"]);
    command.arg(manifest).arg("--out").arg(&out);
    if std::fs::read_to_string(manifest).is_ok_and(|text| text.contains("\"relmgr-faulty\"")) {
        // Some of them do not survive being loaded.
        command.arg("--no-describe");
    }
    if !features.is_empty() {
        command.args(["--features", features]);
    }
    let built = command.env("CARGO_TARGET_DIR", target_dir()).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    std::fs::write(stamp, run_id()).unwrap();
    release
}

/// The profile of releases: that of an author beside binaries as users get them.
fn profile() -> &'static str {
    if binaries().ends_with("debug") { "dev" } else { "release" }
}

/// A running node of the application with the defects that serves the first of `releases`, and the file that ends the
/// requests to its `/block`, which hold their worker until then.
pub fn node_that_blocks(settings: &str, releases: &[&Release]) -> (Node, PathBuf) {
    let mut node = Node::new("relmgr-faulty", settings);
    let go = node.home().join("go");
    for release in releases {
        node.publish(release);
    }
    node.start_with(&[("RELMGR_TEST_RELEASE_BLOCK", go.to_str().unwrap())]);
    node.relmgr(&["upgrade", &releases[0].version]).ok();
    (node, go)
}

/// The same for all processes of one test run: nextest says it, `cargo test` is one process.
fn run_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| std::env::var("NEXTEST_RUN_ID").unwrap_or_else(|_| std::process::id().to_string()))
}

/// `settings` with releases committed at once, unless it says how long their probation is.
fn without_probation(settings: &str) -> String {
    const TABLE: &str = "[upgrade]\n";
    let at_once = format!("{TABLE}probation = \"0s\"\n");
    match settings {
        said if said.lines().any(|line| line.starts_with("probation =")) => said.to_owned(),
        table if table.contains(TABLE) => table.replacen(TABLE, &at_once, 1),
        other => format!("{other}\n{at_once}"),
    }
}

/// `settings` with state tables that lie in `root`, not in the machine's shared memory: they go with it.
fn with_tables_in(settings: &str, root: &Path) -> String {
    const TABLE: &str = "[tables]\n";
    let place = format!("{TABLE}memory = \"{}\"\n", root.display());
    if settings.lines().any(|line| line.starts_with("memory =")) {
        return settings.to_owned();
    }
    match settings.contains(TABLE) {
        true => settings.replacen(TABLE, &place, 1),
        false => format!("{settings}\n{place}"),
    }
}

/// What a `relmgr` command came to.
#[derive(Debug)]
pub struct Done {
    /// The exit code; −1 for a signal.
    pub code: i32,
    /// All of it.
    pub stdout: String,
    /// All of it.
    pub stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Done {
    /// It succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }

    /// It ended with `code` and said `words`.
    #[track_caller]
    pub fn failed(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        for words in words {
            assert!(self.stderr.contains(words), "no `{words}` in: {self:#?}");
        }
        self
    }

    /// Its stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// A node's home, a repository, and the supervisor while it runs.
pub struct Node {
    root: tempfile::TempDir,
    supervisor: Option<Started>,
    address: Option<SocketAddr>,
    memory: Option<MemoryGroup>,
}

impl Node {
    /// A home for the application `app` with a repository beside it; nothing runs yet. `extra` is appended to
    /// relmgr.toml. Releases are committed at once unless it says how long their probation is.
    pub fn new(app: &str, extra: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let node = Self { root, supervisor: None, address: None, memory: None };
        std::fs::create_dir(node.home()).unwrap();
        std::fs::create_dir(node.repository()).unwrap();
        let settings = format!(
            "app = \"{app}\"\n[listen]\nhttp = [\"127.0.0.1:0\"]\n[repository]\nurl = \"{}\"\n\
             allow_unsigned = true\n{}\n",
            node.repository_url(),
            with_tables_in(&without_probation(extra), node.root.path())
        );
        std::fs::write(node.home().join("relmgr.toml"), settings).unwrap();
        node
    }

    /// A running node that serves the first of `releases`; all of them are published.
    pub fn serving(app: &str, extra: &str, releases: &[&Release]) -> Self {
        let mut node = Self::new(app, extra);
        for release in releases {
            node.publish(release);
        }
        node.start();
        if let Some(first) = releases.first() {
            node.relmgr(&["upgrade", &first.version]).ok();
        }
        node
    }

    /// The node's home directory.
    pub fn home(&self) -> PathBuf {
        self.root.path().join("home")
    }

    /// The directory of the repository.
    pub fn repository(&self) -> PathBuf {
        self.root.path().join("packages")
    }

    /// The repository as relmgr.toml has it.
    pub fn repository_url(&self) -> String {
        format!("file://{}", self.repository().display())
    }

    /// Publishes a release to the node's repository.
    pub fn publish(&self, release: &Release) {
        let done = Command::new(bin("cargo-relmgr"))
            .args(["relmgr", "publish", "--no-delta", "--repository", &self.repository_url()])
            .arg(&release.out)
            .output()
            .unwrap();
        Done::from(done).ok();
    }

    /// Starts the supervisor and waits until it answers.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// As [`Node::start`], with variables in the environment.
    pub fn start_with(&mut self, environment: &[(&str, &str)]) {
        self.spawn(environment, None);
        self.wait_up();
    }

    /// Gives the node, which does not run yet, no more memory than that, from its next start on.
    pub fn limit_memory(&mut self, bytes: u64) {
        self.memory = Some(MemoryGroup::new(bytes));
    }

    /// The group of a node whose memory is limited.
    pub fn memory(&self) -> &MemoryGroup {
        self.memory.as_ref().expect("its memory is limited")
    }

    /// As [`Node::start`], the supervisor's calls seen by `watch`.
    pub fn start_traced(&mut self, watch: &Watch) {
        self.spawn_traced(watch);
        self.wait_up();
    }

    /// As [`Node::start_traced`], without waiting: it may be killed before it answers.
    pub fn spawn_traced(&mut self, watch: &Watch) {
        self.spawn(&[], Some(watch));
    }

    fn spawn(&mut self, environment: &[(&str, &str)], watch: Option<&Watch>) {
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = match &self.memory {
            None => Command::new(bin("relmgr")),
            Some(group) => {
                let mut command = Command::new("/bin/sh");
                command
                    .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
                    .arg(group.members())
                    .arg(bin("relmgr"));
                command
            }
        };
        command.arg("run").arg("--home").arg(self.home()).envs(environment.iter().copied());
        // Where a core may come to lie.
        command.current_dir(self.root.path());
        self.supervisor = Some(Started::spawn(command, log, watch));
    }

    /// Waits until the supervisor answers.
    pub fn wait_up(&mut self) {
        let status = wait_for("the node is up", || {
            // Of one that has ended there is nothing to wait for.
            let ended = self.supervisor.as_mut().and_then(Started::try_wait);
            assert!(ended.is_none(), "the supervisor ended, {}", ended.unwrap_or_default());
            self.try_status().filter(|status| status.phase != relmgr_model::control::Phase::Booting)
        });
        let encrypted = status.tls.iter().flat_map(|tls| &tls.listeners);
        let address = status.listeners.iter().chain(encrypted).next().expect("a public listener");
        self.address = Some(address.parse().unwrap());
    }

    fn log_path(&self) -> PathBuf {
        self.root.path().join("log")
    }

    /// What the node has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Where the node listens.
    pub fn address(&self) -> SocketAddr {
        self.address.expect("the node was started")
    }

    /// `relmgr args…` on this node, to be run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(bin("relmgr"));
        command.args(args).env("RELMGR_HOME", self.home());
        command
    }

    /// Runs `relmgr args…` on this node.
    pub fn relmgr(&self, args: &[&str]) -> Done {
        self.command(args).output().unwrap().into()
    }

    /// The node's status.
    pub fn status(&self) -> NodeStatus {
        self.try_status().expect("the node answers")
    }

    /// The node's status, if it answers.
    pub fn try_status(&self) -> Option<NodeStatus> {
        let done = self.relmgr(&["status", "--json"]);
        (done.code == 0).then(|| serde_json::from_str(&done.stdout).unwrap())
    }

    /// The version that serves.
    pub fn current(&self) -> Option<String> {
        self.status().current.map(|current| current.version.to_string())
    }

    /// The supervisor's process.
    pub fn supervisor_pid(&self) -> Pid {
        Pid::from_raw(self.supervisor.as_ref().unwrap().id())
    }

    /// The host's process; waits for one.
    pub fn host_pid(&self) -> Pid {
        let pid = wait_for("there is a host", || self.status().host_pid);
        Pid::from_raw(pid.try_into().unwrap())
    }

    /// Leaves the node running and its directory in place, for people; the home.
    pub fn keep_running(&mut self) -> PathBuf {
        self.supervisor = None;
        self.root.disable_cleanup(true);
        self.home()
    }

    /// Kills the supervisor and waits for its end; the home stays.
    pub fn kill_supervisor(&mut self) {
        if let Some(mut supervisor) = self.supervisor.take() {
            supervisor.kill();
            supervisor.wait();
        }
    }

    /// Whether the supervisor answers and has a host; says from then on where the node listens.
    pub fn is_up(&mut self) -> bool {
        let up = self.try_status().filter(|status| status.phase != relmgr_model::control::Phase::Booting);
        self.address = up.as_ref().and_then(|status| status.listeners[0].parse().ok());
        up.is_some()
    }

    /// Whether nothing is under way, or a release is on probation.
    pub fn is_settled(&self) -> bool {
        use relmgr_model::control::Phase;
        self.try_status().is_some_and(|status| matches!(status.phase, Phase::Steady | Phase::Probation))
    }

    /// Whether the supervisor lives.
    pub fn is_running(&mut self) -> bool {
        self.supervisor.as_mut().is_some_and(|supervisor| supervisor.try_wait().is_none())
    }

    /// Waits for the supervisor's end; its exit code.
    pub fn wait_supervisor(&mut self) -> Option<i32> {
        let mut supervisor = self.supervisor.take().unwrap();
        wait_for("the supervisor ends", || supervisor.try_wait()).code()
    }

    /// The application's libraries that the host has mapped, by path.
    pub fn mapped(&self) -> Vec<String> {
        process::mapped_below(self.host_pid().as_raw(), &self.home().join("releases"))
    }

    /// The host's resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        process::resident_kib(self.host_pid().as_raw())
    }

    /// Every path below the home but the control socket's directory and the links, for comparison.
    pub fn files(&self) -> Vec<String> {
        let mut found = vec![];
        let mut open = vec![self.home()];
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    open.push(entry.path());
                }
                found.push(entry.path().strip_prefix(self.home()).unwrap().to_str().unwrap().to_owned());
            }
        }
        found.retain(|path| !path.starts_with("run"));
        found.sort();
        found
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let Some(mut supervisor) = self.supervisor.take() else { return };
        let host = self.try_status().and_then(|status| status.host_pid);
        supervisor.kill();
        supervisor.wait();
        // The host ends by itself when the supervisor is gone; a stuck one is not left behind either.
        if let Some(host) = host {
            let _ = kill(Pid::from_raw(host.try_into().unwrap()), Signal::SIGKILL);
        }
        if std::thread::panicking() {
            eprintln!("---- the node's log\n{}", self.log());
        }
    }
}

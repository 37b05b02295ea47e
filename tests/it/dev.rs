//! `cargo relmgr dev`: what is saved is served, on the connections that are open, with the state that there is.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use relmgr_testkit::dev::Dev;
use relmgr_testkit::kit::{Done, Node, bin, target_dir, wait_for, wait_for_build, workspace};
use serde_json::Value;

use crate::client::Connection;

/// A crate of `cargo relmgr new` that counts in memory, with a crate beside it that it links by its path. Its
/// dependencies are compiled: what is measured and waited for is a save.
struct Crate {
    directory: PathBuf,
}

impl Crate {
    fn new(name: &str) -> Self {
        // Always at the same path: so its dependencies are compiled once for all runs.
        let directory = target_dir().join("relmgr-dev-tests").join(name);
        if directory.exists() {
            std::fs::remove_dir_all(&directory).unwrap();
        }
        std::fs::create_dir_all(directory.parent().unwrap()).unwrap();
        let mut new = Command::new(bin("cargo-relmgr"));
        // cargo puts libraries of one name into one place.
        succeeds(new.args(["relmgr", "new", &format!("hello-{name}"), "--path"]).arg(&directory));
        std::fs::copy(workspace().join("Cargo.lock"), directory.join("Cargo.lock")).unwrap();
        let this = Self { directory };
        // By another name in each crate: cargo takes what lies at the same place in two workspaces for the same.
        let package = format!("[package]\nname = \"word-{name}\"\nversion = \"1.0.0\"\nedition = \"2024\"\n");
        this.write("word/Cargo.toml", &format!("{package}[lib]\nname = \"word\"\n"));
        this.write("word/src/lib.rs", "pub const WORD: &str = \"world\";\n");
        this.edit(
            "Cargo.toml",
            "relmgr-app =",
            &format!("word-{name} = {{ path = \"word\" }}\nrelmgr-app ="),
        );
        this.edit("src/lib.rs", "relmgr_app::export!(App);", STATE);
        this.edit("src/lib.rs", "format!(\"{}, world\", settings", "format!(\"{} {}\", settings");
        this.edit("src/lib.rs", "settings.greeting),", "settings.greeting, word::WORD),");
        let trace = ".route(\"/trace\", get(|| async { std::backtrace::Backtrace::force_capture().to_string() }))\n\
                     .route(\"/health\"";
        this.edit("src/lib.rs", ".route(\"/health\"", trace);
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--lib", "--offline"]).current_dir(&this.directory);
        succeeds(cargo.env("CARGO_TARGET_DIR", target_dir()));
        this
    }

    fn manifest(&self) -> PathBuf {
        self.directory.join("Cargo.toml")
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.directory.join(file)).unwrap()
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.directory.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// As editors do: a file beside it, renamed.
    fn edit(&self, file: &str, from: &str, to: &str) {
        let text = self.read(file);
        assert!(text.contains(from), "no `{from}` in {file}:\n{text}");
        let new = self.directory.join(format!("{file}.tmp"));
        std::fs::write(&new, text.replace(from, to)).unwrap();
        std::fs::rename(new, self.directory.join(file)).unwrap();
    }

    fn dev(&self, place: &Path) -> Dev {
        Dev::start(&self.manifest(), place, &["--target-dir", target_dir().to_str().unwrap()])
    }
}

/// The count of requests goes along to the next release.
const STATE: &str = "\
#[derive(Default, Serialize, Deserialize, relmgr_app::state::State)]
#[state(version = 1)]
pub struct Served {
    count: u64,
}

impl relmgr_app::state::Stateful for App {
    type State = Served;

    fn code_change() -> relmgr_app::state::CodeChange<Served> {
        relmgr_app::state::CodeChange::none()
    }

    async fn suspend(&self) -> Result<Served, Error> {
        Ok(Served { count: self.shared.served.load(Ordering::Relaxed), ..Served::default() })
    }

    async fn resume(&self, served: Served) -> Result<(), Error> {
        self.shared.served.store(served.count, Ordering::Relaxed);
        Ok(())
    }
}

relmgr_app::export!(App, state);";

fn succeeds(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// The text and the count of the next answer on `connection`.
async fn ask(connection: &mut Connection) -> (String, u64) {
    let (status, body) = connection.get("/").await.unwrap();
    let json: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 200, "{body}");
    (json["text"].as_str().unwrap().to_owned(), json["served"].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_saved_is_served_on_the_same_connection_with_its_state() {
    let (hello, place) = (Crate::new("saved"), tempfile::tempdir().unwrap());
    let mut dev = hello.dev(place.path());
    assert_eq!(dev.served, None);
    dev.next("built");
    let first = dev.next("serving");
    let mut connection = Connection::open(dev.address).await;
    assert_eq!(ask(&mut connection).await, ("Hello world".into(), 1));

    // A save, of the package itself and of one beside it.
    hello.edit("src/lib.rs", "\"{} {}\"", "\"{}, {}\"");
    let second = dev.serving();
    assert!(second["version"].as_str() > first["version"].as_str(), "{first} {second}");
    assert_eq!(ask(&mut connection).await, ("Hello, world".into(), 2));
    hello.edit("word/src/lib.rs", "world", "crates");
    dev.serving();
    assert_eq!(ask(&mut connection).await, ("Hello, crates".into(), 3));

    // What does not compile is told in the compiler's words, and what served serves on.
    hello.edit("src/lib.rs", "\"{}, {}\"", "\"{}; {}\" oops");
    dev.next("changed");
    assert_eq!(dev.next("failed")["stage"], "build");
    let words = dev.words();
    assert!(words.contains("src/lib.rs:") && words.contains("oops"), "{words}");
    assert_eq!(ask(&mut connection).await, ("Hello, crates".into(), 4));
    hello.edit("src/lib.rs", "\"{}; {}\" oops", "\"{}; {}\"");
    dev.serving();
    assert_eq!(ask(&mut connection).await, ("Hello; crates".into(), 5));
    // The library in the release is without what debuggers read, and backtraces have their lines all the same.
    let (_, trace) = connection.get("/trace").await.unwrap();
    assert!(trace.contains("src/lib.rs:"), "{trace}");

    // What the node refuses is told in its words.
    hello.edit(
        "src/lib.rs",
        "let version =",
        "return Err(\"no database\".into());\n#[allow(unreachable_code)]\nlet version =",
    );
    dev.next("changed");
    dev.next("built");
    let failed = dev.next("failed");
    assert_eq!(failed["stage"], "upgrade");
    assert!(failed["error"].as_str().unwrap().contains("no database"), "{failed}");
    assert_eq!(ask(&mut connection).await, ("Hello; crates".into(), 6));

    // So is a state that has another form than the one that is in memory.
    hello.edit("src/lib.rs", "return Err(\"no database\".into());\n#[allow(unreachable_code)]\n", "");
    dev.next("changed");
    dev.next("unchanged");
    hello.edit("src/lib.rs", "    count: u64,", "    count: u64,\n    failed: u64,");
    dev.next("changed");
    dev.next("built");
    let failed = dev.next("failed");
    assert!(failed["error"].as_str().unwrap().contains("another shape"), "{failed}");
    assert!(failed["hint"].as_str().unwrap().contains("cargo relmgr dev --lose-state"), "{failed}");
    assert_eq!(ask(&mut connection).await, ("Hello; crates".into(), 7));

    dev.signal(Signal::SIGINT);
    dev.next("stopped");
    assert_eq!(dev.wait().code(), Some(0));
    assert_eq!(dev.relmgr(&["ping"]).code, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_source_builds_nothing_and_what_is_saved_during_a_build_is_built_once() {
    let (hello, place) = (Crate::new("quiet"), tempfile::tempdir().unwrap());
    let mut dev = hello.dev(place.path());
    dev.next("built");
    dev.next("serving");

    // None of these is a save: the one after them is what is told next.
    for file in
        ["src/.lib.rs.swp", "src/lib.rs~", "src/4913", "src/.#lib.rs", "target/a.rs", "node/history.jsonl"]
    {
        hello.write(file, "x");
    }
    std::fs::File::options().append(true).open(hello.directory.join("src/lib.rs")).unwrap();
    hello.write("target/CACHEDIR.TAG", "");
    let mut last = None;
    hello.write("src/more.rs", "");
    let changed = dev.next("changed");
    let more = hello.directory.join("src/more.rs");
    assert_eq!(changed["files"], serde_json::json!([more]), "{changed}");
    dev.next("unchanged");

    // The build of the first begins with `changed`; what is saved from then on is one more, however often.
    hello.edit("word/src/lib.rs", "world", "one");
    dev.next("changed");
    for word in ["two", "three"] {
        hello.write("word/src/lib.rs", &format!("pub const WORD: &str = \"{word}\";\n"));
    }
    for event in ["built", "serving", "changed"] {
        last = Some(dev.next(event));
    }
    assert_eq!(last.unwrap()["files"].as_array().unwrap().len(), 1);
    // The first build may have read what was saved after it began.
    let after = dev.any();
    if after["event"] == "built" {
        dev.next("serving");
    }
    let mut connection = Connection::open(dev.address).await;
    assert_eq!(ask(&mut connection).await.0, "Hello three");

    // A manifest that cannot be read, and one that brings another package along.
    hello.edit("Cargo.toml", "[dependencies]", "[dependencies");
    dev.next("changed");
    assert_eq!(dev.next("failed")["stage"], "build");
    hello.write("other/Cargo.toml", "[package]\nname = \"other\"\nversion = \"1.0.0\"\nedition = \"2024\"\n");
    hello.write("other/src/lib.rs", "pub const WORD: &str = \"other\";\n");
    hello.edit("Cargo.toml", "[dependencies", "[dependencies]\nother = { path = \"other\" }\n#");
    hello.edit("src/lib.rs", "word::WORD", "other::WORD");
    let served = dev.until(|event| event["event"] == "serving");
    assert_eq!(ask(&mut connection).await.0, "Hello other", "{served}");
    hello.edit("other/src/lib.rs", "other", "another");
    dev.until(|event| event["event"] == "serving");
    assert_eq!(ask(&mut connection).await.0, "Hello another");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_is_told_and_one_that_was_left_behind_is_stopped() {
    let (hello, place) = (Crate::new("ends"), tempfile::tempdir().unwrap());
    let mut dev = hello.dev(place.path());
    dev.next("built");
    let version = dev.next("serving")["version"].as_str().unwrap().to_owned();
    let supervisor =
        |dev: &Dev| dev.relmgr(&["status", "--json"]).ok().json()["supervisor_pid"].as_i64().unwrap();
    let kill =
        |pid: i64| nix::sys::signal::kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();

    // A second one in the same home is refused.
    let mut second = Command::new(bin("cargo-relmgr"));
    second.args(["relmgr", "dev", "--manifest-path"]).arg(hello.manifest());
    let refused = second.arg("--home").arg(place.path().join("home")).output().unwrap();
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && words.contains("another `cargo relmgr dev` runs"), "{words}");

    // Killed, it leaves its node behind; the next one stops that one, and serves what was built last.
    let left = supervisor(&dev);
    dev.signal(Signal::SIGKILL);
    dev.wait();
    dev.relmgr(&["ping"]).ok();
    let mut dev = hello.dev(place.path());
    assert_ne!(supervisor(&dev), left);
    assert_eq!(dev.served.as_ref(), Some(&version));
    dev.next("unchanged");

    kill(supervisor(&dev));
    assert_eq!(dev.wait().code(), Some(1));
    assert!(dev.words().contains("the node has ended"), "{}", dev.words());
}

/// What builds ends with it, whatever it is at: the build's own program here, which never ends by itself.
#[test]
fn a_build_ends_with_it() {
    let (hello, place) = (Crate::new("killed"), tempfile::tempdir().unwrap());
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let told = place.path().join("pids");
        let _ = std::fs::remove_file(&told);
        let _ = std::fs::remove_file(hello.directory.join("build.rs"));
        let mut dev = hello.dev(place.path());
        dev.until(|event| ["serving", "unchanged"].contains(&event["event"].as_str().unwrap()));
        // Its own number and cargo's.
        hello.write(
            "build.rs",
            &format!(
                "fn main() {{\n    let pids = format!(\"{{}} {{}}.\", std::process::id(), std::os::unix::process::parent_id());\n    \
                 std::fs::write({told:?}, pids).unwrap();\n    loop {{\n        std::thread::park();\n    }}\n}}\n"
            ),
        );
        let text = wait_for_build("the build's program runs", || {
            std::fs::read_to_string(&told).ok().filter(|text| text.ends_with('.'))
        });
        let pids: Vec<&str> = text.trim_end_matches('.').split(' ').collect();
        dev.signal(signal);
        dev.until(|event| event["event"] == "stopped");
        assert_eq!(dev.wait().code(), Some(0));
        wait_for("cargo and what it ran are gone", || {
            pids.iter().all(|pid| !Path::new("/proc").join(pid).exists()).then_some(())
        });
    }
}

#[test]
fn a_home_that_is_somebody_elses_is_left_as_it_is() {
    let hello = Crate::new("foreign");
    let node = Node::new("relmgr-faulty", "");
    let before = node.files();
    let mut dev = Command::new(bin("cargo-relmgr"));
    dev.args(["relmgr", "dev", "--offline", "--manifest-path"]).arg(hello.manifest());
    let refused = Done::from(dev.arg("--home").arg(node.home()).output().unwrap());
    refused.failed(1, &[&node.home().display().to_string(), "`cargo relmgr dev` has not made"]);
    assert_eq!(node.files(), before);
}

//! `cargo relmgr rehearse`: the way up and back with state, on real nodes with real releases, and what it finds.

use std::path::Path;
use std::process::Command;

use crate::client::get;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use relmgr_testkit::kit::{Done, Node, Release, bin, release, target_dir, wait_for, workspace};
use serde_json::{Value, json};

/// A repository in which `shipped` is what the channel names. The node beside it does not run.
fn shipping(app: &str, shipped: &Release) -> Node {
    let node = Node::new(app, "");
    node.publish(shipped);
    node
}

fn command(node: &Node, candidate: &Release, args: &[&str]) -> Command {
    let mut command = Command::new(bin("cargo-relmgr"));
    command.args(["relmgr", "rehearse", "--repository", &node.repository_url()]).arg(&candidate.out);
    command.args(args).env_remove("RELMGR_HOME");
    command
}

fn rehearse(node: &Node, candidate: &Release, args: &[&str]) -> Done {
    command(node, candidate, &[args, &["--allow-unsigned"]].concat()).output().unwrap().into()
}

fn first_form() -> Node {
    shipping("relmgr-state", &release("state", "", "1.0.1"))
}

fn first_records() -> Node {
    shipping("relmgr-tabled", &release("tabled", "", "1.0.0"))
}

/// Numbers in memory: one above zero, one below.
const NUMBERS: &str = "curl -fsS \"$RELMGR_URL/add?key=a&by=5\" \"$RELMGR_URL/add?key=b&by=-7\"";

/// Records in a table.
const ITEMS: &str = "curl -fsS \"$RELMGR_URL/fill/2000\"";

#[test]
fn a_good_pair_goes_there_and_back() {
    let node = first_form();
    let verify = "echo \"$RELMGR_REHEARSAL of $RELMGR_VERSION\" && \
                  curl -fsS \"$RELMGR_URL/all\" | grep -qx '{\"a\":5,\"b\":-7}'";
    let args = ["--feed", NUMBERS, "--verify", verify, "--probe", "/all", "--probe", "/schema", "--json"];
    let done = rehearse(&node, &release("state", "three", "1.0.3"), &args).ok();
    let report = done.json();
    assert_eq!(report["outcome"], "rehearsed", "{report}");
    assert_eq!((&report["shipped"], &report["candidate"]), (&json!("1.0.1"), &json!("1.0.3")));
    let memory = &report["memory"];
    assert_eq!(
        (&memory["schema"], &memory["moving"], &memory["change_tried"]),
        (&json!(1), &json!(false), &json!(true))
    );
    assert_eq!(report["requests"]["failed"], 0);
    assert!(report["requests"]["answered"].as_u64() > Some(30), "{report}");
    let stages: Vec<_> = report["stages"].as_array().unwrap().iter().map(|stage| &stage["stage"]).collect();
    assert_eq!(stages, ["fetch", "shipped", "change", "candidate", "back"]);
    for words in
        ["shipped of 1.0.1", "candidate of 1.0.3", "back of 1.0.1", "Rehearsed relmgr-state 1.0.1 to 1.0.3"]
    {
        assert!(done.stderr.contains(words), "{words}: {done:?}");
    }
    // Nothing was published, and the candidate may be.
    assert!(!node.repository().join("1.0.3.tar.gz").exists());

    let node = first_records();
    let feed_candidate = "curl -fsS \"$RELMGR_URL/put/5000/1\"";
    let args = ["--feed", ITEMS, "--feed-candidate", feed_candidate, "--probe", "/sum", "--json"];
    let report = rehearse(&node, &release("tabled", "second", "2.0.0"), &args).ok().json();
    assert_eq!((&report["outcome"], &report["memory"]), (&json!("rehearsed"), &Value::Null), "{report}");
    let items = report["tables"].as_array().unwrap().iter().find(|table| table["name"] == "items").unwrap();
    let expected = json!({"name": "items", "records": 2000, "missing": 0, "unreadable": 0, "changed": 0, "moving": false});
    assert_eq!(items, &expected);
}

/// Whatever is lost in memory fails the build, in words that say where and what.
#[test]
fn lost_state_in_memory_is_found() {
    let node = first_form();
    let loses = |features: &str, version: &str, words: &[&str]| {
        let done = rehearse(&node, &release("state", features, version), &["--feed", NUMBERS]);
        done.failed(1, &[&[&*format!("failed at `change`, with {version}")], words].concat());
    };
    loses(
        "drops",
        "1.0.4",
        &["element 1 of the state had 2 elements and has 1", "hint: correct `code_change`"],
    );
    loses("forgets", "1.0.5", &["element 0 of the state was 2 and is 0"]);
    loses("one-way", "1.0.6", &["there is no way back from schema 2 to 1"]);
    let directory = tempfile::tempdir().unwrap();
    let told = directory.path().join("told");
    std::fs::write(&told, "up-panics").unwrap();
    let mut panics =
        command(&node, &release("state", "two", "1.0.2"), &["--allow-unsigned", "--feed", NUMBERS]);
    let done = Done::from(panics.env("RELMGR_TEST_STATE", &told).output().unwrap());
    done.failed(1, &["failed at `change`, with 1.0.2", "up panics on purpose"]);
    let done = rehearse(&node, &release("state", "none", "1.0.7"), &["--feed", NUMBERS]);
    done.failed(1, &["it keeps no state, the release that serves does (schema 1)"]);
}

#[test]
fn records_that_do_not_come_back_are_found() {
    let node = first_records();
    let done = rehearse(&node, &release("tabled", "fails-up", "2.0.1"), &["--feed", ITEMS]);
    done.failed(
        1,
        &["failed at `candidate`, with 2.0.1", "of 2000 records of table `items` it cannot read 1"],
    );
    let done = rehearse(&node, &release("tabled", "fails-down", "2.0.2"), &["--feed", ITEMS, "--json"]);
    let failure = done.json()["failure"].clone();
    assert_eq!(failure["stage"], "back", "{failure}");
    assert_eq!(failure["release"], "1.0.0 after 2.0.2");
    let what = failure["what"].as_str().unwrap();
    // It may have been moved aside already.
    assert!(what.starts_with("of 2000 records of table `items` 1 "), "{what}");
    assert!(what.ends_with("the first one is 000000000000000d"), "{what}");
    let done = rehearse(&node, &release("tabled", "forgets", "2.0.3"), &["--feed", ITEMS]);
    done.failed(1, &["failed at `back`", "of 2000 records of table `items` 1 changed", "`--moving items`"]);
    let only_here = ["--feed", ITEMS, "--feed-candidate", "curl -fsS \"$RELMGR_URL/only-here/7000\""];
    let done = rehearse(&node, &release("tabled", "second", "2.0.0"), &only_here);
    done.failed(
        1,
        &["failed at `new`, with 2.0.0", "of what the candidate wrote: of 2001 records of table `items` 1 "],
    );
}

#[test]
fn what_the_author_looks_at_must_hold_all_the_time() {
    let node = first_form();
    let candidate = release("state", "two", "1.0.2");
    let done = rehearse(&node, &candidate, &["--verify", "[ $RELMGR_REHEARSAL != candidate ]"]);
    done.failed(
        1,
        &["failed at `candidate`, with 1.0.2", "--verify `[ $RELMGR_REHEARSAL != candidate ]` failed (exit"],
    );
    let done = rehearse(&node, &candidate, &["--feed", "false"]);
    done.failed(1, &["failed at `shipped`, with 1.0.1", "--feed `false` failed"]);
    let done = rehearse(&node, &candidate, &["--probe", "/nowhere"]);
    done.failed(1, &["failed at `shipped`, with 1.0.1", "--probe /nowhere answers 404"]);

    let node = shipping("relmgr-faulty", &release("faulty", "", "1.0.0"));
    let candidate = release("faulty", "panics-every-10th", "1.0.9");
    // The candidate serves until one of the requests has met its defect: nobody else sends any.
    let place = tempfile::tempdir().unwrap();
    let verify = "[ $RELMGR_REHEARSAL != candidate ] || \
                  until grep -q 'panics on purpose' \"$TMPDIR\"/relmgr-rehearsal-*/log; do sleep 0.01; done";
    let mut command = command(&node, &candidate, &["--allow-unsigned", "--probe", "/", "--verify", verify]);
    let done = Done::from(command.env("TMPDIR", place.path()).output().unwrap());
    done.failed(1, &["requests failed, the first one: GET /: 500"]);
}

fn is_there(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// The processes whose numbers stand in the file, once there are so many.
fn numbers(file: &Path, count: usize) -> Vec<i32> {
    wait_for("the command runs", || {
        let text = std::fs::read_to_string(file).ok()?;
        let numbers: Vec<i32> =
            text.split_inclusive('\n').filter_map(|line| line.trim().parse().ok()).collect();
        (numbers.len() == count && text.ends_with('\n')).then_some(numbers)
    })
}

#[test]
fn a_command_that_takes_too_long_is_killed_with_all_that_it_has_started() {
    let (node, place) = (first_form(), tempfile::tempdir().unwrap());
    let told = place.path().join("pids");
    let feed = format!("sleep 3600 & printf '%s\\n' $$ $! > {}; wait", told.display());
    let args = ["--feed", &feed, "--timeout", "3s"];
    let done = rehearse(&node, &release("state", "two", "1.0.2"), &args);
    done.failed(1, &["failed at `shipped`, with 1.0.1", "took longer than 3s and was killed", "--timeout"]);
    let pids = numbers(&told, 2);
    wait_for("both are gone", || pids.iter().all(|pid| !is_there(*pid)).then_some(()));
}

/// Whoever interrupts it leaves nothing running and nothing behind, and the application is told to stop.
#[test]
fn an_interrupted_rehearsal_ends_its_command_and_stops_its_node() {
    let node = first_form();
    for (signal, keep) in [(Signal::SIGTERM, true), (Signal::SIGINT, false), (Signal::SIGHUP, false)] {
        let place = tempfile::tempdir().unwrap();
        let told = place.path().join("pids");
        let feed = format!("sleep 3600 & printf '%s\\n' $$ $! > {}; wait", told.display());
        let mut args = vec!["--allow-unsigned", "--feed", &feed];
        args.extend(keep.then_some("--keep"));
        let mut command = command(&node, &release("state", "two", "1.0.2"), &args);
        command.env("TMPDIR", place.path()).stderr(std::process::Stdio::piped());
        let mut rehearsal = command.stdin(std::process::Stdio::null()).spawn().unwrap();
        let words = rehearsal.stderr.take().unwrap();
        let pids = numbers(&told, 2);
        kill(Pid::from_raw(rehearsal.id().try_into().unwrap()), signal).unwrap();
        // The node's processes have this pipe, too.
        let words = std::io::read_to_string(words).unwrap();
        assert_eq!(rehearsal.wait().unwrap().code(), Some(1), "{words}");
        assert!(words.contains("the rehearsal was interrupted"), "{words}");
        wait_for("both are gone", || pids.iter().all(|pid| !is_there(*pid)).then_some(()));
        let left = std::fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().path());
        let left: Vec<_> = left.filter(|path| *path != told).collect();
        assert_eq!(left.len(), usize::from(keep), "{left:?}");
        for directory in left {
            let log = std::fs::read_to_string(directory.join("log")).unwrap();
            assert!(!log.contains("the supervisor is gone"), "{log}");
            assert!(!directory.join("home/run/control.sock").exists(), "a killed node leaves it: {log}");
            assert!(words.contains(&format!("Kept {}", directory.display())), "{words}");
        }
    }
}

/// Background work changes state, and a build does not fail of that.
#[test]
fn what_changes_by_itself_is_compared_on_a_copy() {
    let node = first_form();
    let directory = tempfile::tempdir().unwrap();
    let told = directory.path().join("told");
    std::fs::write(&told, "ticks").unwrap();
    let run = |features: &str, version: &str| {
        let args = ["--allow-unsigned", "--feed", NUMBERS, "--json"];
        let mut command = command(&node, &release("state", features, version), &args);
        Done::from(command.env("RELMGR_TEST_STATE", &told).output().unwrap())
    };
    let done = run("two", "1.0.2").ok();
    assert_eq!(done.json()["memory"]["moving"], true, "{done:?}");
    assert!(done.stderr.contains("the state in memory changes by itself"), "{done:?}");
    run("drops", "1.0.4").failed(1, &["failed at `change`, with 1.0.4"]);
}

#[test]
fn where_there_is_nothing_to_rehearse_it_says_so_and_trust_is_the_nodes() {
    let (one, two) = (release("state", "", "1.0.1"), release("state", "two", "1.0.2"));
    let empty = Node::new("relmgr-state", "");
    let done = rehearse(&empty, &one, &["--json"]).ok();
    assert_eq!(done.json()["outcome"], "first");
    assert!(done.stderr.contains("First relmgr-state 1.0.1: nothing has been shipped"), "{done:?}");

    let node = first_form();
    let done = rehearse(&node, &one, &["--json"]).ok();
    assert_eq!(done.json()["outcome"], "same");
    let done = Done::from(command(&node, &two, &[]).output().unwrap());
    done.failed(1, &["failed at `fetch`, with 1.0.1", "nobody vouches for 1.0.1"]);
    rehearse(&node, &two, &["--relmgr", "/nowhere/relmgr"]).failed(1, &["/nowhere/relmgr cannot be run"]);
    let done = Done::from(command(&node, &two, &["--bad"]).output().unwrap());
    assert_eq!(done.code, 2, "{done:?}");
}

/// That nothing was lost says little where there was nothing.
#[test]
fn a_rehearsal_without_state_says_so() {
    let words = "no state was rehearsed";
    let (node, two) = (first_form(), release("state", "two", "1.0.2"));
    let done = rehearse(&node, &two, &[]).ok();
    assert!(done.stderr.contains(words) && done.stderr.contains("--feed"), "{done:?}");
    let done = rehearse(&node, &two, &["--feed", NUMBERS]).ok();
    assert!(!done.stderr.contains(words), "{done:?}");
    let done = rehearse(&first_records(), &release("tabled", "second", "2.0.0"), &[]).ok();
    assert!(done.stderr.contains(words), "{done:?}");
    // One that keeps none has none to lose.
    let node = shipping("relmgr-faulty", &release("faulty", "", "1.0.0"));
    let done = rehearse(&node, &release("faulty", "", "1.0.1"), &[]).ok();
    assert!(!done.stderr.contains(words) && done.stderr.contains("no state;"), "{done:?}");
}

/// Makes a key; its file, and the public part.
fn key(directory: &Path) -> (String, String) {
    let file = directory.join("ci.key").to_str().unwrap().to_owned();
    let mut keygen = Command::new(bin("cargo-relmgr"));
    keygen.args(["relmgr", "keygen", "--no-password", "--out", &file]);
    let public = Done::from(keygen.output().unwrap()).ok().stdout.trim().to_owned();
    (file, public)
}

#[test]
fn a_signed_release_is_taken_for_its_key() {
    let directory = tempfile::tempdir().unwrap();
    let (file, public) = key(directory.path());
    let (one, two) = (release("state", "", "1.0.1"), release("state", "two", "1.0.2"));
    let node = Node::new("relmgr-state", "");
    let mut publish = Command::new(bin("cargo-relmgr"));
    publish.args(["relmgr", "publish", "--key", &file, "--repository", &node.repository_url()]).arg(&one.out);
    Done::from(publish.output().unwrap()).ok();
    let trusting = |key: &str| Done::from(command(&node, &two, &["--trusted-key", key]).output().unwrap());
    trusting(&public).ok();
    let other = tempfile::tempdir().unwrap();
    assert_eq!(trusting(&key(other.path()).1).code, 1);
}

/// A recording of a node that serves is what a rehearsal begins with, tables and memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_recording_of_a_node_is_rehearsed() {
    let place = tempfile::tempdir().unwrap();
    let recording = place.path().join("recorded");
    let recorded = recording.to_str().unwrap();

    let one = release("state", "", "1.0.1");
    let node = Node::serving("relmgr-state", "", &[&one]);
    get(node.address(), "/add?key=a&by=-3").await;
    let saved = node.relmgr(&["state", "save", recorded, "--json"]).ok().json();
    assert_eq!((&saved["version"], &saved["memory"]["schema"]), (&json!("1.0.1"), &json!(1)), "{saved}");
    assert_eq!(get(node.address(), "/all").await.1, "{\"a\":-3}", "it goes on with its own");
    node.relmgr(&["state", "save", recorded]).failed(1, &["is there already"]);
    get(node.address(), "/add?key=a&by=1").await;
    node.relmgr(&["state", "load", recorded]).ok();
    assert_eq!(get(node.address(), "/all").await.1, "{\"a\":-3}");
    // What was loaded is handed over like any state.
    let three = release("state", "three", "1.0.3");
    node.publish(&three);
    node.relmgr(&["upgrade", "1.0.3"]).ok();
    node.relmgr(&["state", "load", recorded]).ok();
    assert_eq!(get(node.address(), "/all").await.1, "{\"a\":-3}", "an older form");

    let verify = "curl -fsS \"$RELMGR_URL/all\" | grep -qx '{\"a\":-3}'";
    let shipped = first_form();
    let done = rehearse(&shipped, &three, &["--state", recorded, "--verify", verify]).ok();
    assert!(done.stderr.contains("of state in memory (schema 1)"), "{done:?}");
    let done = rehearse(&shipped, &release("state", "drops", "1.0.4"), &["--state", recorded]);
    done.failed(1, &["failed at `change`"]);

    let tabled = place.path().join("tabled");
    let tabled = tabled.to_str().unwrap();
    let node = Node::serving("relmgr-tabled", "", &[&release("tabled", "", "1.0.0")]);
    get(node.address(), "/fill/500").await;
    let shown = node.relmgr(&["state", "save", tabled]).ok().stdout;
    assert!(shown.contains("table items") && shown.contains("500 records"), "{shown}");
    node.relmgr(&["state", "load", tabled]).failed(1, &["holds no state in memory"]);
    let args = ["--state", tabled, "--json"];
    let report = rehearse(&first_records(), &release("tabled", "second", "2.0.0"), &args).ok().json();
    let items = report["tables"].as_array().unwrap().iter().find(|table| table["name"] == "items").unwrap();
    assert_eq!(items["records"], 500);
    let done = rehearse(&first_records(), &release("tabled", "fails-down", "2.0.2"), &["--state", tabled]);
    done.failed(1, &["failed at `back`"]);
}

/// A recording that is no use leaves the state where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_recording_that_does_not_fit_changes_nothing() {
    let place = tempfile::tempdir().unwrap();
    let recording = place.path().join("recorded");
    let recorded = recording.to_str().unwrap();
    let node = Node::serving(
        "relmgr-state",
        "",
        &[&release("state", "", "1.0.1"), &release("state", "two", "1.0.2")],
    );
    node.relmgr(&["upgrade", "1.0.2"]).ok();
    get(node.address(), "/add?key=a&by=2").await;
    node.relmgr(&["state", "save", recorded]).ok();
    let memory = recording.join("memory");
    let whole = std::fs::read(&memory).unwrap();
    for cut in [3, 20, whole.len() - 1] {
        std::fs::write(&memory, &whole[..cut]).unwrap();
        node.relmgr(&["state", "load", recorded]).failed(1, &["did not take the state over"]);
        assert_eq!(get(node.address(), "/all").await, (200, "{\"a\":2}".into()), "{cut}");
    }
    std::fs::write(&memory, &whole).unwrap();
    node.relmgr(&["downgrade"]).ok();
    node.relmgr(&["state", "load", recorded]).failed(1, &["is of schema 2, and 1.0.1 knows 1 at most"]);
    let other = Node::serving("relmgr-faulty", "", &[&release("faulty", "", "1.0.0")]);
    other
        .relmgr(&["state", "load", recorded])
        .failed(1, &["the recording is of relmgr-state, this node runs relmgr-faulty"]);
    wait_for("one library is left", || (node.mapped().len() == 1).then_some(()));
}

/// The script of the recipes: what loses something is not published.
#[test]
fn a_loss_keeps_the_recipes_script_from_publishing() {
    use std::os::unix::fs::PermissionsExt;

    let node = first_form();
    let place = tempfile::tempdir().unwrap();
    let feed = place.path().join("feed");
    std::fs::write(&feed, format!("#!/bin/sh\n{NUMBERS}\n")).unwrap();
    std::fs::set_permissions(&feed, PermissionsExt::from_mode(0o755)).unwrap();
    let tools = bin("cargo-relmgr").parent().unwrap().display().to_string();
    let path = format!("{tools}:{}", std::env::var("PATH").unwrap());
    let build = |features: &str, version: &str| {
        let mut script = Command::new(workspace().join("upgrade-scripts/build-release.sh"));
        script.args(["--profile", "dev", "--version", version, "--features", features, "--manifest-path"]);
        script.arg(workspace().join("tests/fixtures/state/Cargo.toml")).current_dir(workspace());
        script.env("PATH", &path).env("CARGO_TARGET_DIR", target_dir());
        script.env("RELMGR_OUT", place.path().join("out")).env("RELMGR_REPOSITORY", node.repository_url());
        let options = format!("--allow-unsigned --probe /all --feed {}", feed.display());
        Done::from(script.env("RELMGR_REHEARSE", options).output().unwrap())
    };
    build("drops", "1.0.4").failed(1, &["failed at `change`, with 1.0.4"]);
    assert!(!node.repository().join("1.0.4.tar.gz").exists());
    assert_eq!(build("two", "1.0.5").ok().stdout, "1.0.5\n");
    assert!(node.repository().join("1.0.5.tar.gz").exists());
}

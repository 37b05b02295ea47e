//! Probations: committed, rolled back, cut short; and hosts that die. What each fault of a release comes to stands in
//! faults.rs.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use relmgr_model::control::{GenerationState, Phase};
use relmgr_model::manifest::Probe;
use serde_json::Value;

use crate::client::{Load, get};
use crate::faulty::altered_of;
use relmgr_testkit::kit::{Done, Node, Release, release, wait_for};

/// Watched for longer than any test waits.
const WATCHED: &str = "[upgrade]\nprobation = \"50s\"\ndrain = \"1s\"\n\
                       [upgrade.thresholds]\nhealth_every = \"100ms\"\n";

/// Long enough to be ended by hand only, and no slowness of the machine ends it either.
const LONG: &str = "[upgrade]\nprobation = \"10m\"\ndrain = \"1s\"\n\
                    [upgrade.thresholds]\nlatency = \"50s\"\n";

fn good() -> Release {
    release("faulty", "", "1.0.0")
}

fn better() -> Release {
    release("faulty", "second", "1.0.1")
}

fn history(node: &Node) -> Vec<Value> {
    node.relmgr(&["history", "--json", "-n", "0"]).ok().json().as_array().unwrap().clone()
}

/// The last upgrade in the history that was not refused.
fn last_upgrade(node: &Node) -> Value {
    let upgrade = |entry: &Value| entry["kind"] == "upgrade" && entry["outcome"] != "failed";
    history(node).into_iter().rfind(upgrade).expect("an upgrade")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_words_of_background_work_are_searched_for_secrets() {
    let node = Node::serving(
        "relmgr-live",
        WATCHED,
        &[&release("live", "", "1.0.0"), &release("live", "", "1.0.1")],
    );
    let conf = "Repo.password = \"hunter2-hunter2\"\nmisbehave = lose-session\n";
    std::fs::write(node.home().join("app.conf"), conf).unwrap();
    let words = "gave up after starting children again 1 time within 5s: session failed: the database ended the \
                 session of `***`";
    wait_for("the background work has given up", || {
        let supervisor = node.status().generations.remove(0).supervisor?;
        (supervisor.last_exit.as_deref() == Some(words)).then_some(())
    });
    node.relmgr(&["upgrade"]).failed(3, &["unhealthy 2 times in a row", words]);
    let told = [&["status"][..], &["status", "--json"], &["history", "--json"], &["releases"]];
    let told = told.map(|args| node.relmgr(args).ok().stdout);
    for text in told.iter().chain([&node.log()]) {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

/// An upgrade to 1.0.1 that goes on by itself, from the moment on at which it is on probation.
fn on_probation(settings: &str) -> (Node, std::process::Child) {
    let node = Node::serving("relmgr-faulty", settings, &[&good(), &better()]);
    let upgrade = begin(&node);
    (node, upgrade)
}

fn begin(node: &Node) -> std::process::Child {
    let mut command = node.command(&["upgrade", "1.0.1"]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let upgrade = command.spawn().unwrap();
    wait_for("1.0.1 is on probation", || (node.status().phase == Phase::Probation).then_some(()));
    upgrade
}

fn ended(upgrade: std::process::Child) -> Done {
    upgrade.wait_with_output().unwrap().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probation_is_committed_by_hand() {
    let (mut node, upgrade) = on_probation(LONG);
    assert_eq!(get(node.address(), "/").await.1, "1.0.1");
    let status = node.status();
    assert_eq!(status.current.unwrap().status, "current");
    let of = |version: &Option<relmgr_model::Version>| version.as_ref().map(ToString::to_string);
    assert_eq!(of(&status.permanent).as_deref(), Some("1.0.0"), "what the node boots");
    assert_eq!(status.prev.unwrap().version.to_string(), "1.0.0");
    assert!(status.probation_ends_at.is_some());
    let states: Vec<_> = status.generations.iter().map(|generation| generation.state).collect();
    assert_eq!(states, [GenerationState::Idle, GenerationState::Current]);
    assert_eq!(node.mapped().len(), 2, "the old release stays loaded");

    node.relmgr(&["upgrade", "1.0.1"]).failed(5, &["1.0.1 is on probation until", "relmgr rollback"]);
    node.relmgr(&["restart"]).failed(5, &["relmgr commit"]);
    let done = node.relmgr(&["commit"]).ok();
    assert_eq!(done.stdout, "1.0.1 is permanent\n");
    let done = ended(upgrade).ok();
    assert!(done.stdout.contains("and is permanent: committed by uid"), "{done:?}");
    assert_eq!(node.mapped().len(), 1);
    assert_eq!(node.relmgr(&["commit"]).ok().stdout, "1.0.1 is permanent already\n");
    node.relmgr(&["rollback"]).failed(1, &["no release is on probation", "relmgr downgrade"]);
    let kinds: Vec<_> =
        history(&node).iter().map(|entry| entry["kind"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["upgrade", "commit", "upgrade", "rollback"]);
    node.relmgr(&["stop"]).ok();
    node.wait_supervisor();
    node.start();
    assert_eq!(node.current().as_deref(), Some("1.0.1"));
}

/// The record cannot be written: the release is not permanent, and who asked is not told that it is.
#[test]
fn a_commit_that_cannot_be_recorded_rolls_back_and_says_so() {
    let (node, upgrade) = on_probation(LONG);
    let (record, aside) = (node.home().join("state.json"), node.home().join("state.aside"));
    // No file takes the place of a directory that holds something.
    std::fs::rename(&record, &aside).unwrap();
    std::fs::create_dir_all(record.join("in the way")).unwrap();
    node.relmgr(&["commit"]).failed(1, &["state.json", "what served before serves again"]);
    ended(upgrade).failed(3, &["state.json"]);
    std::fs::remove_dir_all(&record).unwrap();
    std::fs::rename(&aside, &record).unwrap();
    assert_eq!(node.current().as_deref(), Some("1.0.0"));
    node.relmgr(&["upgrade", "1.0.1", "--retry", "--no-probation"]).ok();
    assert_eq!(node.status().permanent.unwrap().to_string(), "1.0.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probation_is_rolled_back_by_hand_without_a_failed_request() {
    for command in ["rollback", "downgrade"] {
        let (node, upgrade) = on_probation(LONG);
        let load = Load::start(node.address(), "/", 4);
        let done = node.relmgr(&[command]).ok();
        assert!(done.stdout.starts_with("1.0.0 serves"), "{done:?}");
        assert_eq!(get(node.address(), "/").await.1, "1.0.0");
        ended(upgrade).failed(3, &["1.0.1 was rolled back: asked for by uid"]);
        let seen = load.stop().await;
        assert!(seen.failures.is_empty(), "{:?}", seen.failures);
        node.relmgr(&["upgrade"]).failed(1, &["--retry"]);
        node.relmgr(&["upgrade", "--retry", "--no-probation", "1.0.1"]).ok();
        assert_eq!(node.current().as_deref(), Some("1.0.1"));
        // Where it has been permanent before, nobody watches.
        node.relmgr(&["downgrade"]).ok();
        assert_eq!(node.status().permanent.unwrap().to_string(), "1.0.0");
    }
}

/// Ends a probation by `command` with one release of the two, the first or the second, that takes its time to stop.
fn goes_on_after(command: &str, features: [&str; 2]) {
    let settings = "[upgrade]\nprobation = \"10m\"\ndrain = \"1s\"\n";
    let [one, two] = features;
    let (one, two) = (release("faulty", one, "1.0.0"), release("faulty", two, "1.0.1"));
    let node = Node::serving("relmgr-faulty", settings, &[&one, &two]);
    let upgrade = begin(&node);
    let done = node.relmgr(&[command]).ok();
    assert!(done.stderr.contains("\n  drain "), "{done:?}");
    node.relmgr(&["restart"]).ok();
    ended(upgrade);
}

#[test]
fn who_has_rolled_back_may_ask_for_the_next_operation() {
    goes_on_after("rollback", ["", "stop-hangs"]);
}

#[test]
fn who_has_committed_may_ask_for_the_next_operation() {
    goes_on_after("commit", ["stop-hangs", ""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_children_of_the_release_that_comes_back_run_again() {
    let settings = "[upgrade]\nprobation = \"10m\"\n";
    let node = Node::serving(
        "relmgr-kitchen",
        settings,
        &[&release("kitchen", "", "1.0.0"), &release("kitchen", "", "1.0.1")],
    );
    let count = async || get(node.address(), "/beats").await.1.parse::<u64>().unwrap();
    let beats = async |what: &str| {
        let before = count().await;
        let deadline = Instant::now() + Duration::from_secs(30);
        while count().await == before {
            assert!(Instant::now() < deadline, "no beat of the child: {what}");
            tokio::task::yield_now().await;
        }
    };
    beats("before").await;
    let upgrade = begin(&node);
    beats("on probation").await;
    node.relmgr(&["rollback"]).ok();
    assert_eq!(get(node.address(), "/api/public/version").await.1, "1.0.0");
    beats("after the rollback").await;
    ended(upgrade).failed(3, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_little_traffic_is_judged_by_its_own_setting() {
    let settings = "[upgrade]\nprobation = \"300ms\"\n";
    let node = Node::serving("relmgr-faulty", settings, &[&good(), &better()]);
    let done = node.relmgr(&["upgrade"]).ok();
    assert!(
        done.stderr.contains("inconclusive: 0 requests in") && done.stderr.contains("20 would"),
        "{done:?}"
    );
    assert!(last_upgrade(&node)["verdict"].as_str().unwrap().starts_with("inconclusive: 0 requests"));
    assert_eq!(node.status().permanent.unwrap().to_string(), "1.0.1");

    let settings = format!("{settings}inconclusive = \"rollback\"\n");
    let node = Node::serving("relmgr-faulty", &settings, &[&good(), &better()]);
    node.relmgr(&["upgrade"]).failed(3, &["rolled back: inconclusive: 0 requests", "upgrade.inconclusive"]);
    assert_eq!(node.current().as_deref(), Some("1.0.0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_fails_in_the_probation_brings_the_release_before_back() {
    // Nothing else would tell: errors and slowness are no fault here, and its own health is well.
    let settings = format!("{WATCHED}errors = 1.0\npanics = 0\nlatency = \"50s\"\n");
    let (_work, probed) = altered_of("shows-late", "1.0.1", |_, manifest| {
        manifest.probes = vec![Probe { path: "/".into(), status: 200 }];
    });
    let mut node = Node::new("relmgr-faulty", &settings);
    node.publish(&good());
    node.publish(&probed);
    node.start_with(&[("RELMGR_TEST_DEFECT", "answers 500")]);
    node.relmgr(&["upgrade", "1.0.0"]).ok();
    let load = Load::start(node.address(), "/", 2);
    node.relmgr(&["upgrade", "1.0.1"])
        .failed(3, &["unhealthy 2 times in a row", "probe / answered 500, expected 200"]);
    drop(load.stop().await);
    assert_eq!(get(node.address(), "/").await, (200, "1.0.0".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_release_passes_under_load_without_a_failed_request() {
    // Time enough for its requests, and no latency to count, on a machine that stands still for a moment.
    let settings = "[upgrade]\nprobation = \"3s\"\n[upgrade.thresholds]\nlatency = \"50s\"\n";
    let node = Node::serving("relmgr-faulty", settings, &[&good(), &better()]);
    let load = Load::start(node.address(), "/", 4);
    wait_for("the load runs", || (node.status().generations[0].requests > 100).then_some(()));
    let done = node.relmgr(&["upgrade"]).ok();
    let seen = load.stop().await;
    assert!(seen.failures.is_empty(), "{:?}", seen.failures);
    assert!(done.stdout.contains("is permanent: passed: "), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_is_killed_in_a_probation_boots_the_permanent_release() {
    let (mut node, upgrade) = on_probation(LONG);
    let host = node.host_pid();
    node.kill_supervisor();
    assert_eq!(ended(upgrade).code, 1, "nobody knows yet");
    wait_for("the orphaned host ends", || kill(host, None).is_err().then_some(()));
    node.start();
    assert_eq!(get(node.address(), "/").await, (200, "1.0.0".into()));
    let entry = last_upgrade(&node);
    assert_eq!(entry["outcome"], "rolled_back");
    assert_eq!(entry["error"], "the node ended in the probation of 1.0.1 and boots 1.0.0");
    assert_eq!(node.status().last_operation.unwrap().error.as_deref(), entry["error"].as_str());
    // The node's end is not the release's fault.
    node.relmgr(&["upgrade", "--no-probation"]).ok();
    assert_eq!(node.current().as_deref(), Some("1.0.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_stopped_in_a_probation_boots_the_permanent_release() {
    let (mut node, upgrade) = on_probation(LONG);
    node.relmgr(&["stop"]).ok();
    assert_eq!(node.wait_supervisor(), Some(0));
    ended(upgrade).failed(3, &["stopped in the middle"]);
    node.start();
    assert_eq!(node.current().as_deref(), Some("1.0.0"));
    assert_eq!(last_upgrade(&node)["outcome"], "rolled_back");
    assert_eq!(history(&node).len(), 2, "told once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_killed_in_a_probation_costs_nothing_of_the_intensity() {
    let (node, upgrade) = on_probation(&format!("{LONG}[supervisor]\nintensity = 0\n"));
    kill(node.host_pid(), Signal::SIGKILL).unwrap();
    // Connects while there is no host: waits, and is answered.
    assert_eq!(get(node.address(), "/").await, (200, "1.0.0".into()));
    ended(upgrade).failed(3, &["the host died of signal 9 SIGKILL"]);
    assert_eq!(node.status().permanent.unwrap().to_string(), "1.0.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_dies_too_often_falls_back_to_prev_once_and_then_the_node_stops() {
    let settings = "[supervisor]\nintensity = 1\nperiod = \"60s\"\n";
    let mut node = Node::serving("relmgr-faulty", settings, &[&good(), &better()]);
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    let deaths = || history(&node).iter().filter(|entry| entry["kind"] == "restart").count();
    // So many lines of the history tell of the deaths until then.
    let die = |serves: &str, told: usize| {
        let host = node.host_pid();
        kill(host, Signal::SIGKILL).unwrap();
        wait_for("another host", || {
            let status = node.status();
            (status.host_pid.is_some_and(|pid| pid != host.as_raw() as u32)).then_some(())
        });
        wait_for("it serves", || (node.current().as_deref() == Some(serves)).then_some(()));
        wait_for("it is told", || (deaths() >= told).then_some(()));
    };
    die("1.0.1", 1);
    die("1.0.0", 3);
    let status = node.status();
    assert_eq!(status.permanent.unwrap().to_string(), "1.0.0", "recorded");
    assert_eq!(status.prev, None, "nobody goes back to what does not live");
    let fallback = status.last_operation.unwrap();
    assert!(fallback.error.unwrap().contains("died 2 times (supervisor.intensity) with 1.0.1 in it"));
    node.relmgr(&["upgrade"]).failed(1, &["1.0.1 failed on this node", "--retry"]);
    die("1.0.0", 4);
    kill(node.host_pid(), Signal::SIGKILL).unwrap();
    assert_eq!(node.wait_supervisor(), Some(1));
    let told: Vec<_> = history(&node)
        .iter()
        .filter(|entry| entry["kind"] == "restart")
        .map(|entry| entry["outcome"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(told, ["done", "rolled_back", "done", "done", "failed"]);
    let last = history(&node).pop().unwrap();
    assert!(last["error"].as_str().unwrap().contains("the node gave up"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permanent_release_that_does_not_boot_makes_way_for_prev_and_that_is_recorded() {
    let mut node = Node::new("relmgr-faulty", "");
    node.publish(&good());
    node.publish(&release("faulty", "start-of-environment", "1.0.1"));
    node.start();
    node.relmgr(&["upgrade", "1.0.0"]).ok();
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    node.relmgr(&["stop"]).ok();
    node.wait_supervisor();
    node.start_with(&[("RELMGR_TEST_START", "abort")]);
    assert_eq!(node.current().as_deref(), Some("1.0.0"));
    assert_eq!(node.status().permanent.unwrap().to_string(), "1.0.0");
    let told: Vec<_> = history(&node).into_iter().filter(|entry| entry["kind"] == "restart").collect();
    let words = |at: usize| told[at]["error"].as_str().unwrap().to_owned();
    let died = words(0);
    assert!(died.starts_with("1.0.1: the host died (signal 6 SIGABRT with"), "{died}");
    assert!(died.ends_with(", while starting it)"), "{died}");
    assert_eq!((told[1]["outcome"].as_str(), words(1)), (Some("rolled_back"), words(0)));
    node.relmgr(&["stop"]).ok();
    node.wait_supervisor();
    node.start();
    assert_eq!(node.current().as_deref(), Some("1.0.0"), "what was recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_hook_is_told_and_holds_up_nothing() {
    let place = tempfile::tempdir().unwrap();
    let told = place.path().join("told");
    let hook =
        format!("[hooks]\noutcome = [\"/bin/sh\", \"-c\", \"cat >> {}; sleep 600\"]\n", told.display());
    let settings = format!("{hook}[upgrade]\nprobation = \"200ms\"\ninconclusive = \"rollback\"\n");
    let node = Node::serving("relmgr-faulty", &settings, &[&good(), &better()]);
    node.relmgr(&["upgrade"]).failed(3, &["inconclusive"]);
    let lines = wait_for("the hook is told twice", || {
        let text = std::fs::read_to_string(&told).unwrap_or_default();
        (text.lines().count() == 2).then_some(text)
    });
    let line: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!((&line["app"], &line["kind"]), (&"relmgr-faulty".into(), &"upgrade".into()));
    assert_eq!((&line["outcome"], &line["to"]), (&"rolled_back".into(), &"1.0.1".into()));
}

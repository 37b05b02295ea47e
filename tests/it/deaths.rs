//! Hosts that die of a release that nobody watches: one that is permanent, or one that goes.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::kill;
use relmgr_model::control::Phase;
use relmgr_testkit::faults::{BAD, Fault, GOOD};
use relmgr_testkit::kit::{Node, node_that_blocks, release, wait_for};
use relmgr_testkit::promises;
use serde_json::Value;

use crate::client::get;

/// Every one of them takes the host along in its own way. The release is asked until somebody is not answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_permanent_release_that_takes_its_host_along_serves_again_in_the_next_one() {
    let faults = [
        "segfaults_on_the_100th_request",
        "overflows_its_stack",
        "exits",
        "eats_memory",
        "outgrows_the_nodes_memory",
        "blocks_its_workers",
    ];
    for fault in faults.map(Fault::named) {
        let node = fault.node();
        node.relmgr(&["upgrade", BAD, "--no-probation"]).ok();
        let (host, address, died) = (node.host_pid(), node.address(), AtomicBool::new(false));
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| {
                    while !died.load(Ordering::Relaxed) {
                        if promises::get(address, "/").is_err() {
                            died.store(true, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(get(address, "/").await, (200, BAD.into()), "{}", fault.name);
        let told = wait_for("its end is told", || {
            let history = node.relmgr(&["history", "--json"]).ok().json();
            let last = history.as_array().unwrap().last().unwrap().clone();
            (last["kind"] == "restart").then_some(last)
        });
        assert_ne!(node.host_pid(), host, "{}", fault.name);
        assert_eq!(
            (&told["outcome"], &told["to"], &told["uid"]),
            (&"done".into(), &BAD.into(), &Value::Null)
        );
        for words in fault.says {
            assert!(told["error"].as_str().unwrap().contains(words), "no `{words}` in {told}");
        }
        assert!(told["last_words"].to_string().contains(fault.last_words), "{told}");
        let status = node.status();
        assert_eq!((status.host_restarts, status.permanent.unwrap().to_string()), (1, BAD.into()));
        assert_eq!(status.prev.unwrap().version.to_string(), GOOD);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_stuck_ends_with_its_supervisor_and_keeps_no_address() {
    let settings = "[supervisor]\nheartbeat = \"0s\"\n";
    let (mut node, _go) = node_that_blocks(settings, &[&release("faulty", "", "1.0.0")]);
    let (host, address) = (node.host_pid(), node.address());
    // The next supervisor asks for the very same one.
    let path = node.home().join("relmgr.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("127.0.0.1:0", &address.to_string())).unwrap();
    let workers = std::thread::available_parallelism().unwrap().get();
    for _ in 0..2 * workers {
        std::thread::spawn(move || drop(promises::get(address, "/block")));
    }
    wait_for("all of its workers are stuck", || node.status().generations.is_empty().then_some(()));
    assert!(kill(host, None).is_ok(), "it lives");
    node.kill_supervisor();
    node.start();
    // Only its end lets go of the address.
    wait_for("the stuck host is gone", || kill(host, None).is_err().then_some(()));
    assert_eq!(node.address(), address);
    assert_eq!(get(address, "/").await, (200, "1.0.0".into()));
}

/// A node that serves the first of `releases`, one of which aborts when it is to stop.
fn node_that_aborts_at_the_end(settings: &str, releases: [(&str, &str); 2]) -> Node {
    let mut node = Node::new("relmgr-faulty", settings);
    for (features, version) in releases {
        node.publish(&release("faulty", features, version));
    }
    node.start_with(&[("RELMGR_TEST_DEFECT", "aborts in its stop")]);
    node.relmgr(&["upgrade", releases[0].1]).ok();
    node
}

/// What it did wrong is told, and how often hosts have died is counted, but nothing else has come of it.
async fn the_next_host_serves(node: &Node, version: &str) {
    wait_for("the host is replaced", || (node.status().host_restarts == 1).then_some(()));
    assert_eq!(get(node.address(), "/").await, (200, version.into()));
    assert_eq!(node.status().permanent.unwrap().to_string(), version);
    wait_for("its end is told", || {
        let history = node.relmgr(&["history", "--json"]).ok().json();
        let restart = history.as_array().unwrap().iter().find(|entry| entry["kind"] == "restart")?.clone();
        assert_eq!((&restart["outcome"], &restart["to"]), (&"done".into(), &version.into()), "{restart}");
        restart["error"].as_str().unwrap().contains("signal 6 SIGABRT").then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_release_that_aborts_in_its_stop_undoes_no_upgrade() {
    let node = node_that_aborts_at_the_end("", [("shows-late", GOOD), ("second", BAD)]);
    let done = node.relmgr(&["upgrade", BAD]).ok();
    assert!(done.stderr.contains("1.0.0 was not retired: the host died (signal 6 SIGABRT"), "{done:?}");
    the_next_host_serves(&node, BAD).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_release_that_aborts_in_its_stop_undoes_no_rollback() {
    let settings = "[upgrade]\nprobation = \"10m\"\n";
    let node = node_that_aborts_at_the_end(settings, [("", GOOD), ("shows-late", BAD)]);
    let mut upgrade = node.command(&["upgrade", BAD]).stderr(Stdio::null()).spawn().unwrap();
    wait_for("it is on probation", || (node.status().phase == Phase::Probation).then_some(()));
    node.relmgr(&["rollback"]).ok();
    assert_eq!(upgrade.wait().unwrap().code(), Some(3));
    the_next_host_serves(&node, GOOD).await;
}

#[test]
fn steps_are_told_as_they_happen() {
    use std::io::{BufRead, BufReader};

    let mut node = Node::new("relmgr-faulty", "[upgrade]\nstart = \"60s\"\n");
    let told = node.home().join("hangs");
    node.publish(&release("faulty", "start-of-environment", "1.0.0"));
    node.start_with(&[("RELMGR_TEST_START", told.to_str().unwrap())]);
    std::fs::write(&told, "hang").unwrap();
    let mut command = node.command(&["upgrade"]);
    let mut upgrade = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(upgrade.stderr.take().unwrap()).lines().map(Result::unwrap);
    // It waits for its start for a minute, and its steps up to there have been read by now.
    let preflight = lines.find(|line| line.contains("preflight"));
    assert!(preflight.is_some_and(|line| line.contains("ms")), "with its time");
    assert!(upgrade.try_wait().unwrap().is_none(), "it goes on");
    let status = node.status();
    assert_eq!(status.phase, Phase::Upgrading);
    node.kill_supervisor();
    assert_eq!(upgrade.wait().unwrap().code(), Some(1));
}

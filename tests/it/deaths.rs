//! Hosts that die of the release that is permanent, when nobody watches it any more.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::kill;
use relmgr_testkit::faults::{BAD, Fault, GOOD};
use relmgr_testkit::kit::{node_that_blocks, release, wait_for};
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

#[test]
fn steps_are_told_as_they_happen() {
    use std::io::{BufRead, BufReader};

    let mut node = relmgr_testkit::kit::Node::new("relmgr-faulty", "[upgrade]\nstart = \"60s\"\n");
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
    assert_eq!(status.phase, relmgr_model::control::Phase::Upgrading);
    node.kill_supervisor();
    assert_eq!(upgrade.wait().unwrap().code(), Some(1));
}

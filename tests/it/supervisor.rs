//! Processes die, and nobody is refused.

use std::path::Path;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};

use crate::client::get;
use relmgr_testkit::faults::{BAD, Fault};
use relmgr_testkit::kit::{Done, Node, node_that_blocks, release, wait_for};
use relmgr_testkit::load::{Load, Request};

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_killed_is_replaced_and_no_connection_is_refused() {
    let node = Node::serving("relmgr-faulty", "", &[&release("faulty", "", "1.0.0")]);
    for round in 1..=3 {
        kill(node.host_pid(), Signal::SIGKILL).unwrap();
        // Connects while there is no host: waits, and is answered.
        assert_eq!(get(node.address(), "/").await, (200, "1.0.0".into()));
        wait_for("the restart is counted", || (node.status().host_restarts == round).then_some(()));
    }
    assert!(node.log().contains("signal 9 SIGKILL"), "{}", node.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_dies_too_often_ends_the_node_with_a_clear_word() {
    let settings = "[supervisor]\nintensity = 1\nperiod = \"60s\"\n";
    let mut node = Node::serving("relmgr-faulty", settings, &[&release("faulty", "", "1.0.0")]);
    kill(node.host_pid(), Signal::SIGKILL).unwrap();
    wait_for("the host is replaced", || (node.status().host_restarts == 1).then_some(()));
    kill(node.host_pid(), Signal::SIGKILL).unwrap();
    assert_eq!(node.wait_supervisor(), Some(1));
    assert!(node.log().contains("more than 1 times in 1m"), "{}", node.log());
}

#[test]
fn a_node_that_has_nothing_to_complain_of_logs_no_error() {
    let releases = [release("kitchen", "", "1.0.0"), release("kitchen", "", "1.0.1")];
    let mut node = Node::serving("relmgr-kitchen", "", &[&releases[0], &releases[1]]);
    for command in [["upgrade", "1.0.1"], ["downgrade", "1.0.0"]] {
        node.relmgr(&command).ok();
    }
    node.relmgr(&["restart"]).ok();
    node.relmgr(&["stop"]).ok();
    assert_eq!(node.wait_supervisor(), Some(0));
    assert!(!node.log().contains("ERROR"), "{}", node.log());
}

/// Sets how large a core of the host may be, in the words of prlimit(1).
fn limit_core(node: &Node, limit: &str) {
    let (pid, limit) = (node.host_pid().to_string(), format!("--core={limit}"));
    let done = std::process::Command::new("prlimit").args(["--pid", &pid, &limit]).output().unwrap();
    Done::from(done).ok();
}

#[test]
fn a_death_by_a_signal_says_where_the_core_is_and_what_was_said_last() {
    let node = Fault::named("segfaults_on_the_100th_request").node();
    limit_core(&node, "unlimited");
    let load = Load::start(node.address(), &[Request::get("/")], 4);
    node.relmgr(&["upgrade", BAD]).failed(3, &["signal 11 SIGSEGV with"]);
    drop(load.stop());
    let shown = node.relmgr(&["history", "show"]).ok().stdout;
    assert!(shown.contains("last words  "), "{shown}");
    assert!(shown.contains("about to segfault on purpose"), "{shown}");
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    // Where the machine's pattern leads elsewhere, there may be nobody who takes the core.
    if !pattern.starts_with(['|', '/']) {
        let place = shown.split("SIGSEGV with its core in ").nth(1).unwrap();
        let place = place.split([' ', ')', ',', '\n']).next().unwrap();
        let core = std::fs::read(Path::new(place)).unwrap();
        assert!(core.starts_with(b"\x7fELF"), "{place}");
    }
    limit_core(&node, "0");
    kill(node.host_pid(), Signal::SIGABRT).unwrap();
    wait_for("it is told", || {
        let shown = node.relmgr(&["history", "show"]).ok().stdout;
        shown.contains("the host died of signal 6 SIGABRT without a core").then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_stops_the_node_gracefully() {
    let (mut node, go) = node_that_blocks("", &[&release("faulty", "", "1.0.0")]);
    let (address, host) = (node.address(), node.host_pid());
    let slow = tokio::spawn(async move { get(address, "/block").await });
    wait_for("a request is in flight", || (node.status().generations[0].in_flight == 1).then_some(()));
    kill(node.supervisor_pid(), Signal::SIGTERM).unwrap();
    wait_for("it stops", || node.log().contains("SIGTERM: the node stops").then_some(()));
    std::fs::write(go, "").unwrap();
    assert_eq!(slow.await.unwrap().0, 200, "what has begun is finished");
    let code = tokio::task::spawn_blocking(move || node.wait_supervisor()).await.unwrap();
    assert_eq!(code, Some(0));
    assert!(kill(host, None).is_err(), "the host is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_is_killed_leaves_nothing_in_the_way_of_the_next() {
    let (one, two) = (release("faulty", "", "1.0.0"), release("faulty", "second", "1.0.1"));
    let mut node = Node::serving("relmgr-faulty", "", &[&one, &two]);
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    let host = node.host_pid();
    node.kill_supervisor();
    wait_for("the orphaned host ends", || kill(host, None).is_err().then_some(()));
    node.relmgr(&["ping"]).failed(4, &["no node is running"]);
    node.start();
    assert_eq!(get(node.address(), "/").await, (200, "1.0.1".into()));
}

#[test]
fn two_supervisors_of_one_home_never_run() {
    let node = Node::serving("relmgr-faulty", "", &[]);
    let pid = node.supervisor_pid().to_string();
    node.relmgr(&["run"]).failed(1, &["another supervisor", &pid]);
    node.relmgr(&["ping"]).ok();
}

#[test]
fn a_second_operation_is_refused_with_what_is_running() {
    let (one, two) = (release("live", "", "1.0.0"), release("live", "start-waits,start-panics", "1.0.1"));
    let node = Node::serving("relmgr-live", "[upgrade]\nstart = \"60s\"\n", &[&one, &two]);
    let mut first = node.command(&["upgrade", "1.0.1"]).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the first is under way", || {
        (node.status().phase == relmgr_model::control::Phase::Upgrading).then_some(())
    });
    node.relmgr(&["downgrade"]).failed(5, &["another operation is running: upgrade 1.0.1"]);
    // It is for the test to say how long the first one takes.
    std::fs::write(node.home().join("go"), "").unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(1));
    node.relmgr(&["check", "1.0.0"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_replaces_the_host_process_and_fails_no_request() {
    let node = Node::serving("relmgr-faulty", "", &[&release("faulty", "", "1.0.0")]);
    let before = node.host_pid();
    node.relmgr(&["restart"]).ok();
    assert_ne!(node.host_pid(), before);
    assert_eq!(get(node.address(), "/").await, (200, "1.0.0".into()));
    assert_eq!(node.status().host_restarts, 0, "it was asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_release_says_so() {
    let node = Node::serving("relmgr-faulty", "", &[]);
    let (status, body) = get(node.address(), "/").await;
    assert_eq!((status, body.trim_end()), (503, "no release serves on this node yet"));
    assert_eq!(node.current(), None);
    node.relmgr(&["downgrade"]).failed(1, &["relmgr upgrade"]);
    node.relmgr(&["restart"]).failed(1, &["no release serves yet"]);
    node.relmgr(&["upgrade"]).failed(1, &["cargo relmgr publish"]);
}

#[test]
fn an_operation_that_a_death_interrupted_is_told_at_the_next_start() {
    let (one, two) = (release("faulty", "", "1.0.0"), release("faulty", "start-hangs", "1.0.1"));
    let mut node = Node::serving("relmgr-faulty", "", &[&one, &two]);
    let mut upgrade = node.command(&["upgrade", "1.0.1"]).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the release is installed and noted", || {
        let noted = std::fs::read_to_string(node.home().join("state.json")).ok()?;
        noted.contains("\"step\": \"unpack\"").then_some(())
    });
    node.kill_supervisor();
    assert_eq!(upgrade.wait().unwrap().code(), Some(1));
    wait_for("the orphaned host ends", || {
        let listener = std::net::TcpListener::bind(node.address());
        listener.is_ok().then_some(())
    });
    node.start();
    assert_eq!(node.current().as_deref(), Some("1.0.0"));
    let history = node.relmgr(&["history", "--json"]).ok().json();
    let last = history.as_array().unwrap().last().unwrap().clone();
    assert_eq!((last["outcome"].as_str(), last["to"].as_str()), (Some("interrupted"), Some("1.0.1")));
    let words = "the node ended in the middle of it, not before its unpack had begun, and boots 1.0.0";
    assert_eq!(last["error"], words);
    assert!(!std::fs::read_to_string(node.home().join("state.json")).unwrap().contains("start-hangs"));
}

/// Supervisors, which end with the test.
struct Started(Vec<Child>);

impl Drop for Started {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The second and third time right after the death of the one that ran.
#[test]
fn of_many_supervisors_that_start_at_once_one_runs_the_node() {
    let node = Node::new("relmgr-faulty", "");
    for _ in 0..3 {
        let start = || node.command(&["run"]).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut running = Started((0..6).map(|_| start()).collect());
        let mut refused = vec![];
        wait_for("one is left", || {
            refused.extend(running.0.extract_if(.., |child| child.try_wait().unwrap().is_some()));
            (refused.len() >= 5).then_some(())
        });
        for refused in refused {
            let done = Done::from(refused.wait_with_output().unwrap());
            done.failed(1, &["another supervisor (pid ", "runs this home: `relmgr stop` ends it"]);
        }
        assert_eq!(running.0.len(), 1);
        wait_for("it answers", || (node.relmgr(&["ping"]).code == 0).then_some(()));
    }
}

//! Releases on trial in a process of their own: its limits, what it may reach, and that nothing of it is left.

use std::path::Path;

use nix::sys::signal::kill;
use nix::unistd::Pid;
use relmgr_testkit::kit::{Node, bin, release, wait_for};
use relmgr_testkit::process::oom_score_adj;
use relmgr_testkit::promises;

use crate::client::get;

/// A node that serves 1.0.0, and whose trial of 1.0.1 meets `check`.
fn node_with_trial(settings: &str, check: &str, pid: &Path) -> Node {
    let mut node = Node::new("relmgr-faulty", settings);
    let (home, socket) = (node.home(), node.home().join("run/control.sock"));
    node.publish(&release("faulty", "", "1.0.0"));
    node.publish(&release("faulty", "shows-late", "1.0.1"));
    node.start_with(&[
        ("RELMGR_TEST_CHECK", check),
        ("RELMGR_TEST_PID", pid.to_str().unwrap()),
        ("RELMGR_TEST_SOCKET", socket.to_str().unwrap()),
        ("RELMGR_TEST_RELMGR", bin("relmgr").to_str().unwrap()),
        ("RELMGR_HOME", home.to_str().unwrap()),
    ]);
    node.relmgr(&["upgrade", "1.0.0"]).ok();
    node
}

/// The process whose number is the last word in the file `pid` is gone; nobody is left to wait for it either.
fn assert_gone(pid: &Path) {
    let left = number_in(pid);
    assert!(kill(left, None).is_err(), "{left} is there");
}

fn number_in(file: &Path) -> Pid {
    let text = std::fs::read_to_string(file).unwrap();
    Pid::from_raw(text.split_whitespace().last().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_that_takes_too_much_is_ended_and_the_node_serves_on() {
    let limits = "[preflight]\ncpu = \"1s\"\nmemory_bytes = 268435456\nfiles = 64\n";
    let cases: [(&str, &[&str]); 3] = [
        ("spins", &["more than 1s of processor time (preflight.cpu in relmgr.toml)"]),
        ("eats memory", &["more than 268435456 bytes of memory (preflight.memory_bytes in relmgr.toml)"]),
        ("opens files", &["preflight refused it", "Too many open files"]),
    ];
    for (check, words) in cases {
        let node = node_with_trial(limits, check, Path::new("/dev/null"));
        let host = node.host_pid();
        node.relmgr(&["upgrade"]).failed(1, words);
        assert_eq!(get(node.address(), "/").await, (200, "1.0.0".into()));
        assert_eq!(node.host_pid(), host);
    }
}

#[test]
fn a_trial_that_sleeps_is_ended_at_its_deadline_with_the_child_that_it_waits_for() {
    let place = tempfile::tempdir().unwrap();
    let pid = place.path().join("pid");
    let node = node_with_trial("[upgrade]\nstart = \"3s\"\n", "sleeps", &pid);
    let host = node.host_pid();
    node.relmgr(&["upgrade"]).failed(1, &["preflight took longer than 8s and was ended"]);
    assert_eq!((node.current().as_deref(), node.host_pid()), (Some("1.0.0"), host));
    assert_gone(&pid);
}

#[test]
fn a_trial_does_not_speak_with_the_node_that_tries_it() {
    let mut node = node_with_trial("", "stops the node", Path::new("/dev/null"));
    node.relmgr(&["upgrade"])
        .failed(1, &["403 Forbidden", "a release on trial does not speak with the node"]);
    assert!(node.is_running() && node.log().contains("POST /v1/stop"), "{}", node.log());
    // Everybody else does.
    node.relmgr(&["ping"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trial_hides_is_refused_too_and_ends_with_it() {
    let place = tempfile::tempdir().unwrap();
    let told = place.path().join("told");
    let mut node = node_with_trial("", "asks in disguise", &told);
    node.relmgr(&["upgrade"]).ok();
    assert!(std::fs::read_to_string(&told).unwrap().starts_with("1 "), "refused");
    assert!(node.is_running() && node.log().contains("POST /v1/stop"), "{}", node.log());
    assert_gone(&told);
    assert_eq!(get(node.address(), "/").await, (200, "1.0.1".into()));
}

/// The trial is a descendant of the relmgr that is to take over, which the supervisor has started.
#[test]
fn what_is_tried_by_another_relmgr_does_not_speak_with_the_node_either() {
    let place = tempfile::tempdir().unwrap();
    let (check, told) = (place.path().join("check"), place.path().join("told"));
    let mut node = node_with_trial("", check.to_str().unwrap(), &told);
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    std::fs::write(check, "asks in disguise").unwrap();
    node.relmgr(&["self-upgrade"]).ok();
    assert!(std::fs::read_to_string(&told).unwrap().starts_with("1 "), "refused");
    assert_gone(&told);
    assert!(node.is_running() && node.log().contains("POST /v1/stop"), "{}", node.log());
}

#[test]
fn what_a_trial_hides_ends_at_its_deadline() {
    let place = tempfile::tempdir().unwrap();
    let told = place.path().join("told");
    let node = node_with_trial("[upgrade]\nstart = \"3s\"\n", "hides and sleeps", &told);
    node.relmgr(&["upgrade"]).failed(1, &["preflight took longer than 8s and was ended"]);
    assert_gone(&told);
}

#[test]
fn what_a_trial_hides_ends_with_the_supervisor() {
    let place = tempfile::tempdir().unwrap();
    let told = place.path().join("told");
    let mut node = node_with_trial("", "hides and sleeps", &told);
    let mut command = node.command(&["upgrade"]);
    let mut upgrade = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    wait_for("its trial has hidden something", || told.exists().then_some(()));
    let hidden = number_in(&told);
    assert!(kill(hidden, None).is_ok(), "it lives");
    node.kill_supervisor();
    wait_for("it has ended", || kill(hidden, None).is_err().then_some(()));
    assert_eq!(upgrade.wait().unwrap().code(), Some(1));
}

#[test]
fn a_trial_that_kills_its_keeper_ends_with_it_and_is_refused() {
    let node = node_with_trial("", "kills its parent", Path::new("/dev/null"));
    let host = node.host_pid();
    node.relmgr(&["upgrade"]).failed(1, &["crashed in preflight (signal 9 SIGKILL)"]);
    assert_eq!((node.current().as_deref(), node.host_pid()), (Some("1.0.0"), host));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_inherits_no_socket_and_leaves_no_process() {
    let place = tempfile::tempdir().unwrap();
    let pid = place.path().join("pid");
    node_with_trial("", "looks around", &pid).relmgr(&["upgrade"]).ok();
    // It holds the trial's stderr, for which nobody waits.
    node_with_trial("", "leaves a process", &pid).relmgr(&["upgrade"]).ok();
    assert_gone(&pid);
}

/// The host is the larger one, and the kernel would choose it.
#[test]
fn where_there_is_no_memory_the_trial_ends_first() {
    let place = tempfile::tempdir().unwrap();
    let check = place.path().join("check");
    let mut node = Node::new("relmgr-faulty", "");
    node.limit_memory(512 << 20);
    node.publish(&release("faulty", "shows-late", "1.0.0"));
    node.publish(&release("faulty", "shows-late", "1.0.1"));
    node.start_with(&[("RELMGR_TEST_CHECK", check.to_str().unwrap()), ("RELMGR_TEST_DEFECT", "eats memory")]);
    node.relmgr(&["upgrade", "1.0.0"]).ok();
    // 20 times 16 MiB, from the 100th request on.
    for _ in 0..119 {
        assert_eq!(promises::get(node.address(), "/").unwrap(), (200, "1.0.0".into()));
    }
    assert!(node.resident_kib() > 320 << 10, "{} KiB", node.resident_kib());
    std::fs::write(check, "eats memory").unwrap();
    let words = "crashed in preflight (signal 9 SIGKILL, since the kernel killed it for want of memory)";
    node.relmgr(&["upgrade", "1.0.1"]).failed(1, &[words]);
    // The kernel chose the trial, which is the smaller one. It may choose once more before the trial's pages are back:
    // then another host serves.
    assert!(node.memory().kills() >= 1);
    wait_for("the release serves on", || {
        let answer = promises::get(node.address(), "/").ok()?;
        (answer == (200, "1.0.0".into())).then_some(())
    });
    // The host in its turn goes before the supervisor.
    let host = wait_for("there is a host", || node.status().host_pid.map(|_| node.host_pid()));
    let [host, supervisor] = [host, node.supervisor_pid()].map(|pid| oom_score_adj(pid.as_raw()));
    assert!(host > supervisor, "{host} and {supervisor}");
}

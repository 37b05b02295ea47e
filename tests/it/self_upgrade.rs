//! Another relmgr in the place of the one that runs: nobody notices, and what cannot take over does not.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full};
use nix::sys::signal::{Signal, kill};
use relmgr_model::control::Phase;
use relmgr_testkit::kit::{Node, PATIENCE, bin, node_that_blocks, release, wait_for};
use relmgr_testkit::load::{Closed, Load, Report, Request};
use serde_json::Value;

use crate::client::{Connection, get};

/// What asks nothing has its connection closed after half of it, unannounced: no client is off the processor for so
/// long. Nobody waits for that, since everybody who has a connection asks on it.
const PATIENT: &str = "[upgrade]\ndrain = \"20s\"\n";

/// A copy of relmgr at another path.
fn another(node: &Node, name: &str) -> PathBuf {
    let path = node.home().parent().unwrap().join(name);
    std::fs::copy(bin("relmgr"), &path).unwrap();
    path
}

/// A relmgr of another version at another path, and that version: the same code, which says another number of itself
/// wherever it says one. (Another build would take minutes.)
fn renumbered(node: &Node, name: &str) -> (PathBuf, String) {
    let own = env!("CARGO_PKG_VERSION");
    let (rest, last) = own.split_at(own.len() - 1);
    let other = format!("{rest}{}", if last == "9" { "8" } else { "9" });
    let path = another(node, name);
    let mut bytes = std::fs::read(&path).unwrap();
    let places = bytes.windows(own.len()).enumerate().filter(|(_, window)| *window == own.as_bytes());
    let places: Vec<_> = places.map(|(at, _)| at).collect();
    for at in places {
        bytes[at..at + own.len()].copy_from_slice(other.as_bytes());
    }
    std::fs::write(&path, bytes).unwrap();
    (path, other)
}

fn executable(pid: i32) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/exe")).unwrap()
}

fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Children of `pid`, with the zombies among them.
fn children(pid: i32) -> (usize, usize) {
    let stats = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned);
        let (state, parent) = (fields.next()?, fields.next()?);
        (parent == pid.to_string()).then_some(state)
    });
    let states: Vec<_> = stats.collect();
    (states.len(), states.iter().filter(|state| *state == "Z").count())
}

fn last(node: &Node) -> Value {
    node.relmgr(&["history", "--json"]).ok().json().as_array().unwrap().last().unwrap().clone()
}

#[track_caller]
fn unharmed(report: &Report) {
    assert_eq!(report.failures(), 0, "{}", report.failures_by_kind());
    let unannounced = report.closed.iter().filter(|(how, _)| **how != Closed::Announced);
    assert_eq!(unannounced.count(), 0, "{:?}", report.closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_becomes_the_new_relmgr_and_nobody_notices() {
    let (one, two) = (release("faulty", "", "1.0.0"), release("faulty", "second", "1.0.1"));
    let node = Node::serving("relmgr-faulty", PATIENT, &[&one, &two]);
    let (pid, started_at) = (node.supervisor_pid(), node.status().started_at);
    let load = Load::start(node.address(), &[Request::get("/")], 8);
    for round in 0..4 {
        let new = another(&node, &format!("relmgr-{round}"));
        let before = (node.host_pid(), load.answered());
        let done = node.relmgr(&["self-upgrade", new.to_str().unwrap()]).ok();
        assert!(done.stdout.contains("runs the node, and 1.0.0 serves in its host"), "{done:?}");
        assert_eq!(executable(pid.as_raw()), new);
        assert_eq!(executable(node.host_pid().as_raw()), new);
        assert_ne!(node.host_pid(), before.0);
        wait_for("the load goes on", || (load.answered() > before.1 + 100).then_some(()));
    }
    // What comes after it works as ever.
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    node.relmgr(&["downgrade"]).ok();
    node.relmgr(&["reload"]).ok();
    node.relmgr(&["restart"]).ok();
    unharmed(&load.stop());
    let status = node.status();
    assert_eq!((status.phase, status.supervisor_pid), (Phase::Steady, pid.as_raw().unsigned_abs()));
    assert_eq!((status.started_at, status.host_restarts), (started_at, 0));
    let history = node.relmgr(&["history", "--json", "-n", "0"]).ok().json();
    let kind = |entry: &&Value| entry["kind"] == "self-upgrade";
    let upgrades: Vec<_> = history.as_array().unwrap().iter().filter(kind).cloned().collect();
    assert_eq!(upgrades.len(), 4);
    for upgrade in upgrades {
        assert_eq!(upgrade["outcome"], "done");
        assert_eq!(upgrade["relmgr"]["to"], status.relmgr, "{upgrade}");
        assert_eq!(upgrade["to"], "1.0.0");
    }
    node.relmgr(&["run"]).failed(1, &["another supervisor", &pid.to_string()]);
    node.relmgr(&["stop"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relmgr_of_another_version_takes_over_and_gives_back() {
    let node = Node::serving("relmgr-faulty", PATIENT, &[&release("faulty", "", "1.0.0")]);
    let own = env!("CARGO_PKG_VERSION");
    let ((new, other), old) = (renumbered(&node, "relmgr-new"), another(&node, "relmgr-old"));
    let load = Load::start(node.address(), &[Request::get("/")], 8);
    for (binary, from, to) in [(&new, own, other.as_str()), (&old, &other, own)] {
        let before = load.answered();
        let done = node.relmgr(&["self-upgrade", binary.to_str().unwrap()]).ok();
        assert!(done.stdout.contains(&format!("relmgr {to} runs the node")), "{done:?}");
        assert_eq!(
            (node.status().relmgr.as_str(), executable(node.host_pid().as_raw())),
            (to, binary.clone())
        );
        assert_eq!(last(&node)["relmgr"], serde_json::json!({ "from": from, "to": to }));
        wait_for("the load goes on", || (load.answered() > before + 100).then_some(()));
    }
    unharmed(&load.stop());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_closes_no_connection_that_it_has_not_announced() {
    let node = Node::serving("relmgr-faulty", PATIENT, &[&release("faulty", "", "1.0.0")]);
    let load = Load::start(node.address(), &[Request::get("/")], 8);
    for _ in 0..5 {
        let answered = load.answered();
        node.relmgr(&["restart"]).ok();
        wait_for("the load goes on", || (load.answered() > answered + 100).then_some(()));
    }
    unharmed(&load.stop());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_in_a_row_leave_no_descriptor_and_no_zombie() {
    let settings = format!("{PATIENT}[hooks]\noutcome = [\"/bin/cat\"]\n");
    let mut node = Node::new("relmgr-faulty", &settings);
    let text = std::fs::read_to_string(node.home().join("relmgr.toml")).unwrap();
    let text = text.replace("[listen]\n", "[listen]\nadmin = \"127.0.0.1:0\"\n");
    std::fs::write(node.home().join("relmgr.toml"), text).unwrap();
    node.publish(&release("faulty", "", "1.0.0"));
    node.start();
    node.relmgr(&["upgrade"]).ok();
    let pid = node.supervisor_pid().as_raw();
    let admin = node.status().admin.unwrap().parse().unwrap();
    let upgrade = || node.relmgr(&["self-upgrade"]).ok();
    upgrade();
    let settled = || {
        wait_for("the children that end have ended", || (children(pid) == (1, 0)).then_some(()));
        descriptors(pid)
    };
    let before = settled();
    for _ in 0..9 {
        upgrade();
    }
    wait_for("no descriptor is left over", || (settled() <= before).then_some(()));
    assert_eq!(node.status().admin.unwrap().parse(), Ok(admin));
    assert_eq!(get(admin, "/readyz").await, (200, "1.0.0 serves\n".into()));
    let metrics = get(admin, "/metrics").await.1;
    assert!(metrics.contains("relmgr_operations_total{kind=\"self-upgrade\",outcome=\"done\"}"), "{metrics}");
    let environment = std::fs::read_to_string(format!("/proc/{}/environ", node.host_pid())).unwrap();
    assert!(!environment.contains("RELMGR_TAKEOVER"), "{environment}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_take_over_changes_nothing() {
    let node = Node::serving("relmgr-faulty", PATIENT, &[&release("faulty", "", "1.0.0")]);
    let (host, executable_before) = (node.host_pid(), executable(node.supervisor_pid().as_raw()));
    let settings = node.home().join("relmgr.toml");
    let (settings_text, state) =
        (std::fs::read_to_string(&settings).unwrap(), std::fs::read(node.home().join("state.json")).unwrap());
    let script = |name: &str, text: &str, mode: u32| {
        let path = node.home().parent().unwrap().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path
    };
    let refused = |path: &Path, words: &str| {
        node.relmgr(&["self-upgrade", path.to_str().unwrap()]).failed(1, &[words]);
        assert_eq!(last(&node)["outcome"], "failed");
        assert_eq!((node.host_pid(), node.status().phase), (host, Phase::Steady));
        assert_eq!(executable(node.supervisor_pid().as_raw()), executable_before);
        assert_eq!(std::fs::read(node.home().join("state.json")).unwrap(), state);
    };
    refused(Path::new("/bin/true"), "is no relmgr that can take over");
    refused(&script("text", "this is no program", 0o755), "cannot be run");
    refused(&script("private", "this is no program", 0o644), "cannot be run");
    let cut = script("cut", "", 0o755);
    let relmgr = std::fs::read(bin("relmgr")).unwrap();
    std::fs::write(&cut, &relmgr[..4096]).unwrap();
    node.relmgr(&["self-upgrade", cut.to_str().unwrap()]).failed(1, &["cut"]);
    assert_eq!(node.host_pid(), host);

    // The new relmgr reads what is there, and says what it cannot do with it.
    let new = another(&node, "relmgr-new");
    std::fs::write(&settings, format!("{settings_text}\n[news]\nkey = 1\n")).unwrap();
    refused(&new, "unknown field `news`");
    std::fs::write(&settings, settings_text.replace("127.0.0.1:0", "127.0.0.1:1")).unwrap();
    refused(&new, "[listen] in relmgr.toml is not what the node has bound");
    std::fs::write(&settings, &settings_text).unwrap();
    let newer = String::from_utf8(state.clone()).unwrap().replace("\"format\": 1", "\"format\": 9");
    std::fs::write(node.home().join("state.json"), newer).unwrap();
    node.relmgr(&["self-upgrade", new.to_str().unwrap()]).failed(1, &["it has format 9"]);
    std::fs::write(node.home().join("state.json"), &state).unwrap();
    assert_eq!(get(node.address(), "/").await, (200, "1.0.0".into()));
    node.relmgr(&["self-upgrade", new.to_str().unwrap()]).ok();
    assert_eq!(executable(node.supervisor_pid().as_raw()), new);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_come_up_leaves_the_old_one_serving() {
    let mut node = Node::new("relmgr-faulty", PATIENT);
    node.publish(&release("faulty", "start-of-environment", "1.0.0"));
    // As long as this file is there, its start fails; a trial starts nothing.
    let told = node.home().parent().unwrap().join("fails");
    node.start_with(&[("RELMGR_TEST_START", told.to_str().unwrap())]);
    node.relmgr(&["upgrade"]).ok();
    let (host, new) = (node.host_pid(), another(&node, "relmgr-new"));
    std::fs::write(&told, "").unwrap();
    let load = Load::start(node.address(), &[Request::get("/")], 4);
    let done = node.relmgr(&["self-upgrade", new.to_str().unwrap()]);
    done.failed(1, &["its host did not come up and the host of before goes on serving"]);
    unharmed(&load.stop());
    assert_eq!((node.host_pid(), node.status().phase), (host, Phase::Steady));
    assert_eq!(executable(node.supervisor_pid().as_raw()), new);
    assert_ne!(executable(host.as_raw()), new);
    assert_eq!(last(&node)["outcome"], "failed");
    assert!(node.relmgr(&["status"]).ok().stdout.contains("the host of before goes on serving"));
    // It is this supervisor's host like any other: commanded, seen to die, started again.
    node.relmgr(&["reload"]).ok();
    std::fs::remove_file(&told).unwrap();
    kill(host, Signal::SIGKILL).unwrap();
    wait_for("another host serves", || (node.status().host_pid? as i32 != host.as_raw()).then_some(()));
    assert_eq!(executable(node.host_pid().as_raw()), new);
    assert!(node.log().contains("SIGKILL"), "how it died is known");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_release_is_upgraded_as_well() {
    let node = Node::serving("relmgr-faulty", PATIENT, &[]);
    let new = another(&node, "relmgr-new");
    let done = node.relmgr(&["self-upgrade", new.to_str().unwrap()]).ok();
    assert!(done.stdout.contains("which has no release"), "{done:?}");
    assert_eq!(executable(node.host_pid().as_raw()), new);
    assert_eq!(get(node.address(), "/").await.0, 503);
}

#[test]
fn how_often_the_host_has_died_is_not_forgotten() {
    let settings = format!("{PATIENT}[supervisor]\nintensity = 1\nperiod = \"10m\"\n");
    let mut node = Node::serving("relmgr-faulty", &settings, &[&release("faulty", "", "1.0.0")]);
    let die = |node: &Node| kill(node.host_pid(), Signal::SIGKILL).unwrap();
    die(&node);
    wait_for("the host is replaced", || (node.status().host_restarts == 1).then_some(()));
    wait_for("it serves", || node.current());
    node.relmgr(&["self-upgrade"]).ok();
    assert_eq!(node.status().host_restarts, 1);
    die(&node);
    assert_eq!(node.wait_supervisor(), Some(1));
    assert!(node.log().contains("more than 1 times in 10m"), "{}", node.log());
}

#[test]
fn who_may_only_speak_with_the_node_may_not_choose_what_runs_as_its_user() {
    assert!(nix::unistd::geteuid().is_root(), "this test runs a command as another user, which needs root");
    let node = Node::serving("relmgr-faulty", "", &[&release("faulty", "", "1.0.0")]);
    let open = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    for directory in [node.home().parent().unwrap().to_owned(), node.home(), node.home().join("run")] {
        open(&directory, 0o755);
    }
    open(&node.home().join("run/control.sock"), 0o666);
    let place = tempfile::Builder::new().prefix("relmgr").tempdir_in("/tmp").unwrap();
    open(place.path(), 0o755);
    let copy = place.path().join("relmgr");
    std::fs::copy(bin("relmgr"), &copy).unwrap();
    let asked_by_another = |args: &[&str]| {
        let mut command = std::process::Command::new(&copy);
        command.args(args).arg("--home").arg(node.home());
        std::os::unix::process::CommandExt::gid(&mut command, 65534);
        std::os::unix::process::CommandExt::uid(&mut command, 65534);
        relmgr_testkit::kit::Done::from(command.output().unwrap())
    };
    asked_by_another(&["restart"]).ok();
    let (host, runs) = (node.host_pid(), executable(node.supervisor_pid().as_raw()));
    let words = "uid 65534 may not put another relmgr in place: root and the node's user may";
    asked_by_another(&["self-upgrade"]).failed(1, &[words]);
    assert_eq!((node.host_pid(), executable(node.supervisor_pid().as_raw())), (host, runs));
}

#[test]
fn a_probation_is_not_interrupted() {
    let (one, two) = (release("faulty", "", "1.0.0"), release("faulty", "second", "1.0.1"));
    let node =
        Node::serving("relmgr-faulty", "[upgrade]\nprobation = \"10m\"\ndrain = \"1s\"\n", &[&one, &two]);
    let mut upgrade =
        node.command(&["upgrade", "1.0.1"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    wait_for("the probation begins", || (node.status().phase == Phase::Probation).then_some(()));
    node.relmgr(&["self-upgrade"]).failed(5, &["is on probation", "relmgr commit"]);
    node.relmgr(&["commit"]).ok();
    assert_eq!(upgrade.wait().unwrap().code(), Some(0));
    node.relmgr(&["self-upgrade"]).ok();
    assert_eq!(node.current().as_deref(), Some("1.0.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_connection_is_answered_once_more_and_a_stream_goes_on() {
    let settings = "[upgrade]\ndrain = \"10s\"\n";
    let (node, go) = node_that_blocks(settings, &[&release("faulty", "", "1.0.0")]);
    let mut open = [Connection::open(node.address()).await, Connection::open(node.address()).await];
    for connection in &mut open {
        assert_eq!(connection.get("/").await.unwrap(), (200, "1.0.0".into()));
    }
    let [mut asks, mut idle] = open;
    let address = node.address();
    let slow = tokio::spawn(async move { get(address, "/block").await });
    wait_for("a request is in flight", || (node.status().generations[0].in_flight == 1).then_some(()));
    let before = node.host_pid();
    let mut upgrade = node.command(&["self-upgrade"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    wait_for("another host serves", || (node.host_pid() != before).then_some(()));
    // The new one serves a moment before the old one hears of it.
    let mut announced = false;
    let deadline = std::time::Instant::now() + PATIENCE;
    while !announced && std::time::Instant::now() < deadline {
        let request = http::Request::get("/").header("host", "test").body(Full::default()).unwrap();
        let response = asks.send(request).await.expect("it is open");
        announced = response.headers().get("connection").is_some_and(|value| value == "close");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "1.0.0");
    }
    assert!(announced, "the last answer says that it is");
    assert!(asks.get("/").await.is_err(), "it was announced");
    assert!(!slow.is_finished(), "it is with the old host");
    std::fs::write(go, "").unwrap();
    assert_eq!(slow.await.unwrap().0, 200);
    assert!(upgrade.wait().unwrap().success());
    assert!(idle.get("/").await.is_err(), "nothing was asked on it until late in the drain");
    wait_for("the old host is gone", || kill(before, None).is_err().then_some(()));
}

#[test]
fn systemd_hears_of_it_and_keeps_the_main_process() {
    let mut node = Node::new("relmgr-faulty", PATIENT);
    let path = node.home().parent().unwrap().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let heard = |what: &str| {
        wait_for(what, || {
            let mut buffer = [0; 512];
            let len = socket.recv(&mut buffer).ok()?;
            let words = String::from_utf8_lossy(&buffer[..len]).into_owned();
            // What serves is told beside it.
            (!words.starts_with("STATUS=")).then_some(words)
        })
    };
    node.publish(&release("faulty", "", "1.0.0"));
    node.start_with(&[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    assert_eq!(heard("the node is ready").lines().next(), Some("READY=1"));
    node.relmgr(&["upgrade"]).ok();
    node.relmgr(&["self-upgrade"]).ok();
    let reloading = heard("it reloads");
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(heard("the new relmgr is ready").lines().next(), Some("READY=1"));
    assert!(!reloading.contains("MAINPID"));
    node.relmgr(&["stop"]).ok();
    assert_eq!(heard("it stops").trim(), "STOPPING=1");
}

#[test]
fn a_death_after_the_exec_is_told_and_the_next_start_serves() {
    let mut node = Node::new("relmgr-faulty", "[upgrade]\nstart = \"60s\"\ndrain = \"1s\"\n");
    node.publish(&release("faulty", "start-of-environment", "1.0.0"));
    let told = node.home().parent().unwrap().join("hangs");
    node.start_with(&[("RELMGR_TEST_START", told.to_str().unwrap())]);
    node.relmgr(&["upgrade"]).ok();
    let (host, new) = (node.host_pid(), another(&node, "relmgr-new"));
    std::fs::write(&told, "hang").unwrap();
    let arguments = ["self-upgrade", new.to_str().unwrap()];
    let mut upgrade = node.command(&arguments).stderr(std::process::Stdio::null()).spawn().unwrap();
    let pid = node.supervisor_pid().as_raw();
    wait_for("the new relmgr runs", || (executable(pid) == new).then_some(()));
    wait_for("its host starts", || (children(pid).0 == 2).then_some(()));
    assert_eq!(node.host_pid(), host, "the old one serves");
    node.relmgr(&["restart"]).failed(5, &["another operation is running: self-upgrade"]);
    node.kill_supervisor();
    assert_eq!(upgrade.wait().unwrap().code(), Some(1));
    wait_for("the orphaned host ends", || kill(host, None).is_err().then_some(()));
    std::fs::remove_file(&told).unwrap();
    node.start();
    assert_eq!(node.current().as_deref(), Some("1.0.0"));
    let last = last(&node);
    assert_eq!((&last["kind"], &last["outcome"]), (&"self-upgrade".into(), &"interrupted".into()), "{last}");
}

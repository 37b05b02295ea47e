//! Nodes that follow their channel by themselves.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use relmgr_model::pull::Outcome;
use relmgr_testkit::kit::{Done, Node, Release, bin, release, wait_for};
use relmgr_testkit::s3::S3Server;
use serde_json::Value;

fn releases() -> (Release, Release) {
    (release("faulty", "", "1.0.0"), release("faulty", "second", "1.0.1"))
}

/// A release that does not start.
fn broken() -> Release {
    release("faulty", "start-fails", "1.0.2")
}

/// A node whose supervisor runs and that has nothing yet.
fn node(pull: &str, published: &[&Release]) -> Node {
    let mut node = Node::new("relmgr-faulty", &format!("[pull]\n{pull}"));
    for release in published {
        node.publish(release);
    }
    node.start();
    node
}

/// Has the unsigned channel name `version`.
fn point(node: &Node, version: &str) {
    std::fs::write(node.repository().join("VERSION"), format!("{version}\n")).unwrap();
}

fn wait_for_current(node: &Node, version: &str) {
    wait_for(&format!("{version} serves"), || (node.current().as_deref() == Some(version)).then_some(()));
}

/// How the last check ended, once one has ended like `outcome`.
fn wait_for_outcome(node: &Node, outcome: Outcome) -> relmgr_model::pull::Checked {
    wait_for(&format!("a check ends {}", outcome.name()), || {
        node.status().pull?.last.filter(|last| last.outcome == outcome)
    })
}

/// The history's lines, as JSON.
fn history(node: &Node) -> Vec<Value> {
    node.relmgr(&["history", "-n", "0", "--json"]).ok().json().as_array().unwrap().clone()
}

/// What systemd would have been told so far.
fn told(socket: &UnixDatagram) -> String {
    let (mut all, mut buffer) = (String::new(), [0; 4096]);
    while let Ok(length) = socket.recv(&mut buffer) {
        all.push_str(&String::from_utf8_lossy(&buffer[..length]));
        all.push('\n');
    }
    all
}

#[test]
fn an_empty_node_is_ready_when_it_serves_what_nobody_told_it_to() {
    let (one, _) = releases();
    let mut node = Node::new("relmgr-faulty", "[pull]\nat_boot = true\n");
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    node.start_with(&[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    // Nothing is published yet: it goes on asking, and whoever started it is told to wait.
    wait_for("two checks", || {
        let asked = node.log().matches("pull: ").count();
        (asked >= 2).then_some(())
    });
    let before = told(&socket);
    assert!(before.contains("EXTEND_TIMEOUT_USEC=") && !before.contains("READY=1"), "{before}");
    node.publish(&one);
    wait_for("the node is ready", || told(&socket).contains("READY=1").then_some(()));
    assert_eq!(node.current().as_deref(), Some("1.0.0"));
    let history = history(&node);
    assert_eq!(history.len(), 1, "checks are no operations: {history:?}");
    assert_eq!((&history[0]["by"], &history[0]["uid"]), (&"pull".into(), &Value::Null));
    let shown = node.relmgr(&["history"]).ok().stdout;
    assert!(shown.contains("  pull  "), "{shown}");
}

/// A node that follows the bucket of `server`, which it reaches at `endpoint`; it does not run yet.
fn follower(server: &S3Server, endpoint: &str) -> Node {
    let node = Node::new("relmgr-faulty", "");
    let settings = format!(
        "app = \"relmgr-faulty\"\n[listen]\nhttp = [\"127.0.0.1:0\"]\n[upgrade]\nprobation = \"0s\"\n[repository]\n\
         url = \"{}\"\nendpoint_url = \"{endpoint}\"\nallow_unsigned = true\n[pull]\nat_boot = true\n\
         interval = \"1s\"\n",
        server.url(),
    );
    std::fs::write(node.home().join("relmgr.toml"), settings).unwrap();
    node
}

/// Starts `node` with what it needs to read the bucket of `server`.
fn start(node: &mut Node, server: &S3Server) {
    let environment = server.environment();
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    node.start_with(&environment);
}

fn publish(server: &S3Server, release: &Release) {
    let mut command = Command::new(bin("cargo-relmgr"));
    command.args(["relmgr", "publish", "--no-delta", "--repository", &server.url()]).arg(&release.out);
    Done::from(command.envs(server.environment()).output().unwrap()).ok();
}

#[test]
fn a_node_whose_bucket_is_away_serves_and_follows_when_it_is_back() {
    let (one, two) = releases();
    let server = S3Server::start();
    let mut node = follower(&server, &server.endpoint());
    publish(&server, &one);
    start(&mut node, &server);
    wait_for_current(&node, "1.0.0");
    // Away in an interval: it is told, and nothing else happens.
    server.answer("VERSION", usize::MAX, 400, "InternalFault");
    wait_for_outcome(&node, Outcome::Unavailable);
    assert_eq!(node.current().as_deref(), Some("1.0.0"));
    // Away at boot: what is permanent serves.
    node.kill_supervisor();
    start(&mut node, &server);
    assert_eq!(node.current().as_deref(), Some("1.0.0"));
    wait_for_outcome(&node, Outcome::Unavailable);
    server.settle();
    publish(&server, &two);
    wait_for_current(&node, "1.0.1");
    wait_for("the upgrade is over", || (history(&node).len() >= 2).then_some(()));
    assert_eq!(history(&node).len(), 2, "what was not heard is no operation");
}

/// Debian's libfaketime: the clock of whoever is started with it is off by what a file says.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// By how much a clock has to be off to show `hour` o'clock UTC, today or `days` later.
fn off(hour: i64, days: i64) -> String {
    let now = chrono::Utc::now().timestamp();
    format!("{:+}", now.div_euclid(86_400) * 86_400 + days * 86_400 + hour * 3_600 - now)
}

#[test]
fn a_clock_that_is_set_opens_and_closes_the_nodes_window_and_holds_up_no_check() {
    assert!(std::path::Path::new(FAKETIME).exists(), "{FAKETIME} is not there: `cargo xtask setup`");
    let (one, two) = releases();
    let mut node = Node::new("relmgr-faulty", "[pull]\ninterval = \"1s\"\nwindows = [\"02:00-04:00\"]\n");
    node.publish(&one);
    let clock = node.home().join("clock");
    // A file that is replaced: nobody reads half of it.
    let set = |to: String| {
        let next = clock.with_extension("next");
        std::fs::write(&next, to).unwrap();
        std::fs::rename(&next, &clock).unwrap();
    };
    set(off(12, 0));
    node.start_with(&[
        ("LD_PRELOAD", FAKETIME),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        // As the kernel has it: setting the clock moves no length of time.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ]);
    wait_for_current(&node, "1.0.0");
    node.publish(&two);
    let held = wait_for_outcome(&node, Outcome::Held);
    assert!(held.reason.as_deref().is_some_and(|reason| reason.contains("window")), "{held:?}");
    // Back by a day, which is noon still: it goes on asking, and waits.
    set(off(12, -1));
    wait_for("a check of the day before", || {
        node.status().pull?.last.filter(|last| last.at < held.at && last.outcome == Outcome::Held)
    });
    assert_eq!(node.current().as_deref(), Some("1.0.0"));
    // Into the window, days later.
    set(off(3, 5));
    wait_for_current(&node, "1.0.1");
    // And out of it, weeks back: what serves serves, and the checks go on.
    set(off(12, -20));
    let now = chrono::Utc::now();
    wait_for("a check of weeks ago", || {
        node.status().pull?.last.filter(|last| last.at < now && last.outcome == Outcome::UpToDate)
    });
    assert_eq!(node.current().as_deref(), Some("1.0.1"));
}

/// What becomes of connections at a [`Door`].
#[derive(Clone, Copy, PartialEq)]
enum Door {
    /// Nobody listens.
    Shut,
    /// They are taken, and nothing is answered.
    Hangs,
    Open,
}

/// A port in front of `server`, whose connections meet what `door` says from the next one on; it counts those that hang.
fn front(server: SocketAddr) -> (SocketAddr, Arc<Mutex<Door>>, Arc<AtomicUsize>) {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (door, hung) = (Arc::new(Mutex::new(Door::Shut)), Arc::new(AtomicUsize::new(0)));
    let (said, counted) = (door.clone(), hung.clone());
    // Ends with the test's process.
    std::thread::spawn(move || {
        let (mut listener, mut held, mut passed) = (None, vec![], Vec::<TcpStream>::new());
        loop {
            let now = *said.lock().unwrap();
            if now != Door::Hangs {
                held = vec![];
            }
            if now != Door::Open {
                // A client keeps its connection for the next question.
                passed.drain(..).for_each(|client| drop(client.shutdown(Shutdown::Both)));
            }
            if now == Door::Shut {
                listener = None;
            } else if listener.is_none() {
                let bound = TcpListener::bind(address).unwrap();
                bound.set_nonblocking(true).unwrap();
                listener = Some(bound);
            }
            match listener.as_ref().and_then(|listener| listener.accept().ok()) {
                Some((client, _)) if now == Door::Hangs => {
                    held.push(client);
                    counted.fetch_add(1, Ordering::SeqCst);
                }
                Some((client, _)) => {
                    passed.push(client.try_clone().unwrap());
                    pass(client, server);
                }
                None => std::thread::park_timeout(std::time::Duration::from_millis(2)),
            }
        }
    });
    (address, door, hung)
}

fn pass(client: TcpStream, server: SocketAddr) {
    client.set_nonblocking(false).unwrap();
    let upstream = TcpStream::connect(server).unwrap();
    let ways = [(client.try_clone().unwrap(), upstream.try_clone().unwrap()), (upstream, client)];
    for (mut from, mut to) in ways {
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
}

#[test]
fn a_node_serves_whatever_its_bucket_does_and_an_empty_one_serves_when_it_is_back() {
    let (one, two) = releases();
    let server = S3Server::start();
    let (address, door, hung) = front(server.address());
    let mut node = follower(&server, &format!("http://{address}"));
    // Nothing serves yet, and nobody listens there: it goes on asking.
    publish(&server, &one);
    start(&mut node, &server);
    wait_for("a check", || node.log().contains("pull: ").then_some(()));
    assert_eq!(node.current(), None);
    *door.lock().unwrap() = Door::Open;
    wait_for_current(&node, "1.0.0");
    wait_for("its check is over", || {
        node.status().pull?.last.filter(|last| last.outcome != Outcome::Unavailable)
    });
    // Nobody listens, in an interval and at boot.
    *door.lock().unwrap() = Door::Shut;
    wait_for_outcome(&node, Outcome::Unavailable);
    node.kill_supervisor();
    start(&mut node, &server);
    assert_eq!(node.current().as_deref(), Some("1.0.0"));
    wait_for_outcome(&node, Outcome::Unavailable);
    // Somebody listens and says nothing: what is permanent serves before there is an answer.
    node.kill_supervisor();
    *door.lock().unwrap() = Door::Hangs;
    start(&mut node, &server);
    assert_eq!(node.current().as_deref(), Some("1.0.0"));
    wait_for("a check hangs", || (hung.load(Ordering::SeqCst) > 0).then_some(()));
    node.relmgr(&["restart"]).ok();
    publish(&server, &two);
    *door.lock().unwrap() = Door::Open;
    wait_for_current(&node, "1.0.1");
    let upgrades = || history(&node).iter().filter(|entry| entry["kind"] == "upgrade").count();
    wait_for("the upgrade is over", || (upgrades() >= 2).then_some(()));
    assert_eq!(upgrades(), 2);
}

#[test]
fn what_an_operator_has_paused_stays_so_over_restarts() {
    let (one, two) = releases();
    let mut node = node("interval = \"1s\"\n", &[&one]);
    wait_for_current(&node, "1.0.0");
    let paused = node.relmgr(&["pull", "pause"]).ok().stdout;
    assert!(paused.contains("paused") && paused.contains("relmgr pull resume"), "{paused}");
    node.kill_supervisor();
    node.start();
    node.publish(&two);
    node.relmgr(&["pull", "now"]).failed(1, &["paused since", "relmgr pull resume"]);
    let status = node.status().pull.unwrap();
    assert_eq!(status.paused.unwrap().uid, nix::unistd::getuid().as_raw());
    assert_eq!((status.next_check_at, status.last), (None, None));
    assert!(node.relmgr(&["status"]).ok().stdout.contains("PAUSED"));
    node.relmgr(&["pull", "resume"]).ok();
    wait_for_current(&node, "1.0.1");
    wait_for_outcome(&node, Outcome::UpToDate);
    let metrics = node.relmgr(&["pull", "status", "--json"]).ok().json();
    assert_eq!((&metrics["channel"], &metrics["interval_ms"]), (&"default".into(), &1000.into()));
}

#[test]
fn a_release_that_failed_here_is_not_tried_again_wherever_the_channel_goes() {
    let (one, broken) = (releases().0, broken());
    let mut node = node("", &[&one]);
    node.relmgr(&["pull", "now"]).ok();
    node.publish(&broken);
    node.relmgr(&["pull", "now"]).failed(1, &["1.0.2"]);
    assert_eq!(node.current().as_deref(), Some("1.0.0"));
    let held = |node: &Node| {
        let held = node.relmgr(&["pull", "now", "--json"]).ok().json();
        assert_eq!(held["outcome"], "held", "{held}");
        assert!(held["reason"].as_str().unwrap().contains("--retry"), "{held}");
    };
    held(&node);
    // The channel moves back and forth, the release goes from the disk, the node is started anew.
    point(&node, "1.0.0");
    assert!(node.relmgr(&["pull", "now"]).ok().stdout.contains("is what the channel names"));
    point(&node, "1.0.2");
    node.relmgr(&["remove", "1.0.2"]).ok();
    held(&node);
    node.kill_supervisor();
    node.start();
    held(&node);
    let tried =
        history(&node).into_iter().filter(|entry| entry["to"] == "1.0.2" && entry["kind"] == "upgrade");
    assert_eq!(tried.count(), 1);
}

#[test]
fn what_an_operator_has_left_is_not_brought_back() {
    let (one, two) = releases();
    let mut node = node("", &[&one]);
    node.relmgr(&["pull", "now"]).ok();
    node.publish(&two);
    node.relmgr(&["pull", "now"]).ok();
    assert_eq!(node.current().as_deref(), Some("1.0.1"));
    // An unsigned pointer that goes back leads nobody.
    point(&node, "1.0.0");
    let held = node.relmgr(&["pull", "now"]).ok().stdout;
    assert!(held.contains("does not say that this is on purpose"), "{held}");
    point(&node, "1.0.1");
    node.relmgr(&["downgrade"]).ok();
    for _ in 0..2 {
        let held = node.relmgr(&["pull", "now"]).ok().stdout;
        assert!(held.contains("an operator has left 1.0.1"), "{held}");
        node.kill_supervisor();
        node.start();
        assert_eq!(node.current().as_deref(), Some("1.0.0"));
    }
    node.relmgr(&["pull", "resume"]).ok();
    node.relmgr(&["pull", "now"]).ok();
    assert_eq!(node.current().as_deref(), Some("1.0.1"));
}

#[test]
fn a_check_in_the_middle_of_an_operation_says_so_and_comes_again() {
    let (one, two) = releases();
    let mut node = Node::new("relmgr-faulty", "[upgrade]\nprobation = \"10m\"\n[pull]\ninterval = \"1s\"\n");
    node.publish(&one);
    node.start();
    wait_for_current(&node, "1.0.0");
    node.relmgr(&["pull", "pause"]).ok();
    node.publish(&two);
    node.relmgr(&["upgrade", "1.0.1", "--detach"]).ok();
    wait_for("the probation", || node.status().probation_ends_at);
    node.publish(&broken());
    node.relmgr(&["pull", "resume"]).ok();
    let busy = wait_for_outcome(&node, Outcome::Busy);
    assert!(busy.reason.unwrap().contains("on probation"));
    node.relmgr(&["pull", "now"]).failed(5, &["on probation"]);
    node.relmgr(&["commit"]).ok();
    // It has not forgotten what it was about.
    wait_for("the channel's release is tried", || {
        history(&node).into_iter().find(|entry| entry["to"] == "1.0.2" && entry["by"] == "pull")
    });
    assert_eq!(node.current().as_deref(), Some("1.0.1"));
}

/// `cargo relmgr args…` on the repository at `url`.
fn cargo(url: &str, args: &[&str]) -> Done {
    Command::new(bin("cargo-relmgr"))
        .arg("relmgr")
        .args(args)
        .env("RELMGR_REPOSITORY", url)
        .output()
        .unwrap()
        .into()
}

#[test]
fn a_node_follows_the_channel_that_its_settings_name() {
    let (one, two) = releases();
    // The default channel names the second.
    let node = node("channel = \"staging\"\n", &[&one, &two]);
    let promote = |version: &str| {
        cargo(&node.repository_url(), &["promote", version, "--channel", "staging"]).ok();
    };
    node.relmgr(&["pull", "now"]).failed(1, &["staging"]);
    for version in ["1.0.0", "1.0.1"] {
        promote(version);
        node.relmgr(&["pull", "now"]).ok();
        assert_eq!(node.current().as_deref(), Some(version));
    }
    assert_eq!(node.status().pull.unwrap().channel, "staging");
}

#[test]
fn a_signed_channel_leads_on_in_waves_and_back_at_once() {
    let (one, two) = releases();
    let mut node = Node::new("relmgr-faulty", "");
    let (keys, url) = (tempfile::tempdir().unwrap(), node.repository_url());
    let key = keys.path().join("relmgr.key").display().to_string();
    let made = cargo(&url, &["keygen", "--no-password", "--out", &key]).ok();
    let settings = format!(
        "app = \"relmgr-faulty\"\n[listen]\nhttp = [\"127.0.0.1:0\"]\n[upgrade]\nprobation = \"0s\"\n\
         [repository]\nurl = \"{url}\"\ntrusted_keys = [\"{}\"]\n[pull]\nwave = 50\n",
        made.stdout.trim()
    );
    std::fs::write(node.home().join("relmgr.toml"), settings).unwrap();
    let signed = |args: &[&str], more: &[&str]| {
        let args: Vec<_> = args.iter().chain(more).copied().chain(["--key", &key]).collect();
        cargo(&url, &args).ok();
    };
    let promote = |version: &str, more: &[&str]| signed(&["promote", version], more);
    for release in [&one, &two] {
        signed(&["publish", "--no-delta", &release.out.display().to_string()], &["--wave", "1%@0s"]);
    }
    node.start();
    let pull = |node: &Node| node.relmgr(&["pull", "now", "--json"]).ok().json();
    // With nothing to lose it does not wait for its wave.
    assert_eq!(pull(&node)["outcome"], "upgraded");
    assert_eq!(node.current().as_deref(), Some("1.0.1"));
    // Back to a release that it has never had.
    promote("1.0.0", &["--going-back", "--wave", "1%@0s"]);
    assert_eq!(pull(&node)["outcome"], "went_back");
    assert_eq!(node.current().as_deref(), Some("1.0.0"));
    // Forward in its wave only, and in the channel's hours.
    promote("1.0.1", &["--wave", "10%@0s", "--wave", "100%@1d"]);
    let held = pull(&node);
    assert!(held["reason"].as_str().unwrap().contains("its wave begins at"), "{held}");
    let hour = |hours| (chrono::Utc::now() + chrono::TimeDelta::hours(hours)).format("%H:00").to_string();
    promote("1.0.1", &["--window", &format!("{}-{}", hour(3), hour(5))]);
    let held = pull(&node);
    assert!(held["reason"].as_str().unwrap().contains("the maintenance window opens at"), "{held}");
    // Saying nothing of it leaves it for the same release.
    promote("1.0.1", &[]);
    assert_eq!(pull(&node)["outcome"], "held");
    // A document that has expired starts nothing and stops nothing.
    promote("1.0.1", &["--window", "00:00-24:00", "--expires", "0s"]);
    node.relmgr(&["pull", "now"]).failed(1, &["expired", "renew"]);
    assert_eq!(node.status().pull.unwrap().last.unwrap().outcome, Outcome::Refused);
    assert_eq!(node.current().as_deref(), Some("1.0.0"));
    signed(&["channel", "renew"], &[]);
    assert_eq!(pull(&node)["outcome"], "upgraded");
    assert_eq!(node.current().as_deref(), Some("1.0.1"));
}

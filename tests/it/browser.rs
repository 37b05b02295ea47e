//! A page in a real browser stays open across upgrades: no reconnect, no message lost, none twice.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use relmgr_testkit::dev::Dev;
use relmgr_testkit::example;
use relmgr_testkit::kit::{Node, target_dir, wait_for};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use crate::client::{eventually, get};
use crate::sessions::{Socket, next, open, releases, text};

/// A browser takes its time to start on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Chromium with one page and a profile of its own, while it runs.
pub struct Browser(Child, Mutex<tempfile::TempDir>);

impl Browser {
    /// Where it keeps what it knows.
    pub fn profile(&self) -> PathBuf {
        self.1.lock().unwrap().path().to_owned()
    }

    pub fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let started = Command::new("chromium")
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
            ])
            // It stays until it is killed; the port of DevTools is its own choice.
            .args(["--remote-debugging-port=0", "--disable-background-networking"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let started = started.expect("chromium is missing: `cargo xtask setup` installs it");
        Self(started, Mutex::new(profile))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the page says that it has seen, once `enough` of it.
async fn report(reports: &mut Socket, what: &str, enough: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    let mut last = Value::Null;
    while Instant::now() < deadline {
        match tokio::time::timeout(PATIENCE, next(reports)).await {
            Ok(Some(Ok(Message::Text(text)))) => last = serde_json::from_str(&text).unwrap(),
            other => panic!("no report of the page, waiting for {what}: {other:?}; the last was {last}"),
        }
        if enough(&last) {
            return last;
        }
    }
    panic!("the page never said {what}: {last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_a_browser_stays_connected_across_ten_upgrades() {
    let (one, two) = releases();
    let node = Node::serving("relmgr-sessions", "", &[&one, &two]);
    let mut reports = open(node.address(), "/topics/reports").await;
    assert_eq!(text(&mut reports).await, "subscribed");
    let _browser = Browser::open(&format!("http://{}/page", node.address()));
    // Its first report may be long in coming: sockets wait for what the browser does at its start.
    let begun = |seen: &Value| seen["next"].as_u64() > Some(5);
    let connected = || (node.status().sessions.unwrap().open.websocket >= 3).then_some(());
    wait_for("the page connects", connected);
    report(&mut reports, "that it has begun", begun).await;
    for switch in 1..=10_u64 {
        let command: &[&str] = if switch % 2 == 1 { &["upgrade", "1.0.1"] } else { &["downgrade"] };
        node.relmgr(command).ok();
        let met = |seen: &Value| seen["versions"].as_array().unwrap().len() as u64 == switch + 1;
        report(&mut reports, "that it has met the next release", met).await;
    }
    let seen = report(&mut reports, "anything", |_| true).await;
    assert_eq!((&seen["opened"], &seen["closed"]), (&1.into(), &0.into()), "{seen}");
    assert_eq!(seen["faults"].as_array().unwrap().len(), 0, "{seen}");
    assert!(seen["next"].as_u64() > Some(50), "{seen}");
}

/// What the page does that is drawn by the new code, and by nothing else: it asks for a poll to be made.
const DRAWN: &str = "<main>{{body}}</main>\n<script>fetch('/polls', {method: 'POST', headers: {'content-type': \
                     'application/json'}, body: '{\"question\": \"Drawn?\", \"options\": [\"yes\", \"no\"]}'})</script>";

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_page_reloads_itself_when_its_source_is_saved() {
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("live-poll");
    example::standing_copy(&copy);
    // What it depends on is compiled, in a directory whose `live-poll` is no other test's.
    let target = target_dir().join("relmgr-dev-tests/example");
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--lib", "--offline"]).current_dir(&copy).env("CARGO_TARGET_DIR", &target);
    assert!(cargo.output().unwrap().status.success());
    let mut dev =
        Dev::start(&copy.join("Cargo.toml"), place.path(), &["--target-dir", target.to_str().unwrap()]);
    dev.until(|event| event["event"] == "serving");

    let address = dev.address;
    let _browser = Browser::open(&format!("http://{address}/"));
    let sockets = || dev.relmgr(&["status", "--json"]).ok().json()["sessions"]["open"]["websocket"].as_u64();
    wait_for("the page connects", || sockets().filter(|open| *open > 0));
    assert_eq!(get(address, "/polls/1").await.0, 404);
    let page = copy.join("src/pages/frame.html");
    let text = std::fs::read_to_string(&page).unwrap();
    assert!(text.contains("<main>{{body}}</main>"), "{text}");
    std::fs::write(&page, text.replace("<main>{{body}}</main>", DRAWN)).unwrap();
    dev.until(|event| event["event"] == "serving");
    eventually("the page is drawn by the new code", async || {
        get(address, "/polls/1").await.1.contains("Drawn?").then_some(())
    })
    .await;
}

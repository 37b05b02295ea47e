//! A page in a real browser stays open across upgrades: no reconnect, no message lost, none twice.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use relmgr_testkit::kit::{Node, wait_for};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

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
        let started = started.expect("chromium is missing: apt-get install chromium (.ci/run does)");
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

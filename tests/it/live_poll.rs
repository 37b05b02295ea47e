//! The example application across upgrades, as its users see it: its page in a browser, its conversations, its line
//! protocol.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::SinkExt;
use relmgr_testkit::kit::{self, Node, Release, wait_for};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::browser::{self, Browser};
use crate::client::{Connection, eventually};
use crate::sessions::{Socket, next, open, text};

fn releases() -> [Release; 2] {
    let example = kit::workspace().join("example-app/Cargo.toml");
    [kit::build(&example, "", "1.0.0"), kit::build(&example, "", "1.0.1")]
}

async fn post(connection: &mut Connection, path: &str, body: &Value) {
    let request = http::Request::post(path).header("host", "test").header("content-type", "application/json");
    let request = request.body(http_body_util::Full::from(body.to_string())).unwrap();
    let answer = connection.send(request).await.unwrap();
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
    http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
}

/// A node that serves the first of two releases, with a poll.
async fn with_poll(extra: &str) -> Node {
    let [one, two] = releases();
    let node = Node::serving("live-poll", extra, &[&one, &two]);
    let poll = json!({"question": "Tea?", "options": ["yes", "no"]});
    post(&mut Connection::open(node.address()).await, "/polls", &poll).await;
    node
}

/// A page of a browser, looked into over DevTools.
struct Page {
    socket: Socket,
    asked: u64,
    _browser: Browser,
}

/// Takes note of what a page does and shows, from before its own script runs.
const WATCH: &str = r"
window.seen = { sockets: 0, closed: 0, totals: [], versions: [], faults: [] };
window.WebSocket = class extends WebSocket {
  constructor(...of) { super(...of); seen.sockets++; this.addEventListener('close', () => seen.closed++); }
};
addEventListener('error', event => seen.faults.push(event.message));
addEventListener('DOMContentLoaded', () => {
  const note = (id, list) => {
    const shown = document.getElementById(id);
    const look = () => { if (list.at(-1) !== shown.textContent) list.push(shown.textContent); };
    look();
    new MutationObserver(look).observe(shown, { childList: true, characterData: true, subtree: true });
  };
  note('total', seen.totals);
  note('version', seen.versions);
});";

impl Page {
    async fn open(url: &str) -> Self {
        let browser = Browser::open("about:blank");
        let file = browser.profile().join("DevToolsActivePort");
        let target = eventually("the browser has a page", async || {
            let port: u16 = std::fs::read_to_string(&file).ok()?.lines().next()?.parse().ok()?;
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let (_, body) =
                Connection::try_open(address).await?.get_from("/json/list", "127.0.0.1").await.ok()?;
            let pages: Value = serde_json::from_str(&body).ok()?;
            let page = pages.as_array()?.iter().find(|page| page["type"] == "page")?;
            Some((address, format!("/devtools/page/{}", page["id"].as_str()?)))
        });
        let (address, path) = target.await;
        let mut page = Self { socket: open(address, &path).await, asked: 0, _browser: browser };
        page.ask("Page.enable", json!({})).await;
        page.ask("Page.addScriptToEvaluateOnNewDocument", json!({"source": WATCH})).await;
        page.ask("Page.navigate", json!({"url": url})).await;
        page
    }

    async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.asked += 1;
        let request = json!({"id": self.asked, "method": method, "params": params});
        self.socket.send(Message::text(request.to_string())).await.unwrap();
        loop {
            let told = tokio::time::timeout(browser::PATIENCE, next(&mut self.socket)).await;
            let Ok(Some(Ok(Message::Text(told)))) = told else { panic!("{method}: {told:?}") };
            let mut told: Value = serde_json::from_str(&told).unwrap();
            if told["id"] == self.asked {
                return told["result"].take();
            }
        }
    }

    /// What a script comes to.
    async fn value(&mut self, script: &str) -> Value {
        let params = json!({"expression": script, "returnByValue": true});
        self.ask("Runtime.evaluate", params).await["result"]["value"].take()
    }

    /// What the page has seen, once `enough` of it.
    async fn seen(&mut self, what: &str, enough: impl Fn(&Value) -> bool) -> Value {
        let page = &mut *self;
        eventually(what, async || Some(page.value("window.seen").await).filter(&enough)).await
    }
}

/// Votes one after the other until told to stop; how many there were.
async fn vote(address: SocketAddr, stop: Arc<AtomicBool>) -> u64 {
    let mut connection = Connection::open(address).await;
    let mut votes = 0;
    while !stop.load(Ordering::Relaxed) {
        post(&mut connection, "/polls/1/votes", &json!({"option": votes % 2})).await;
        votes += 1;
    }
    votes
}

#[tokio::test(flavor = "multi_thread")]
async fn who_looks_at_a_poll_sees_each_vote_and_nothing_of_ten_upgrades_but_the_version() {
    let node = with_poll("").await;
    let mut page = Page::open(&format!("http://{}/polls/1/page", node.address())).await;
    wait_for("the page is connected", || (node.status().sessions?.open.websocket == 1).then_some(()));
    let stop = Arc::new(AtomicBool::new(false));
    let voting = tokio::spawn(vote(node.address(), stop.clone()));
    for switch in 1..=10 {
        let command: &[&str] = if switch % 2 == 1 { &["upgrade", "1.0.1"] } else { &["downgrade"] };
        node.relmgr(command).ok();
        let met = |seen: &Value| seen["versions"].as_array().is_some_and(|met| met.len() == switch + 1);
        page.seen("the page shows the next release", met).await;
    }
    stop.store(true, Ordering::Relaxed);
    let votes = voting.await.unwrap();
    assert!(votes > 20, "{votes}");
    let all = votes.to_string();
    let seen = page
        .seen("the page shows every vote", |seen| {
            seen["totals"].as_array().unwrap().last() == Some(&json!(all))
        })
        .await;
    let totals: Vec<_> = (0..=votes).map(|total| total.to_string()).collect();
    assert_eq!(seen["totals"], json!(totals), "each once, and in order");
    assert_eq!((&seen["sockets"], &seen["closed"]), (&json!(1), &json!(0)));
    assert_eq!(seen["faults"], json!([]));
    let shown = page.value("[...document.querySelectorAll('.votes')].map(votes => +votes.textContent)").await;
    assert_eq!(shown, json!([votes.div_ceil(2), votes / 2]));
    // It was drawn once, and is what it was.
    assert_eq!(page.value("document.querySelector('footer b').textContent").await, "1.0.0");
    assert_eq!(page.value("document.querySelector('h1').textContent").await, "Tea?");
    let sessions = node.status().sessions.unwrap();
    assert_eq!((sessions.totals.begun, sessions.open.websocket), (1, 1));
}

async fn told(socket: &mut Socket) -> Value {
    serde_json::from_str(&text(socket).await).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_votes_and_is_told_which_release_answers_after_a_swap_and_a_rollback() {
    let node = with_poll("[upgrade]\nprobation = \"10m\"\n").await;
    let mut socket = open(node.address(), "/polls/1/live").await;
    assert_eq!(told(&mut socket).await, json!({"version": "1.0.0"}));
    assert_eq!(told(&mut socket).await["results"]["total"], 0);
    let mut total = 0;
    let mut vote = async |socket: &mut Socket| {
        socket.send(Message::text("1")).await.unwrap();
        total += 1;
        let results = told(socket).await;
        assert_eq!(results["results"]["total"], total, "{results}");
        assert_eq!(results["results"]["options"][1]["votes"], total, "{results}");
    };
    vote(&mut socket).await;
    node.relmgr(&["upgrade", "1.0.1", "--detach"]).ok();
    assert_eq!(told(&mut socket).await, json!({"version": "1.0.1"}));
    vote(&mut socket).await;
    wait_for("it is on probation", || node.status().probation_ends_at);
    node.relmgr(&["rollback"]).ok();
    assert_eq!(told(&mut socket).await, json!({"version": "1.0.0"}));
    vote(&mut socket).await;
    // What is no vote is nobody's business.
    socket.send(Message::text("seven")).await.unwrap();
    vote(&mut socket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_a_handler_is_a_500_and_a_count_and_nobody_elses_business() {
    let node = with_poll("").await;
    let mut socket = open(node.address(), "/polls/1/live").await;
    assert_eq!(told(&mut socket).await, json!({"version": "1.0.0"}));
    assert_eq!(told(&mut socket).await["results"]["total"], 0);
    let mut connection = Connection::open(node.address()).await;
    for panics in 1..=3 {
        let answer = connection.get("/debug/panic").await;
        assert_eq!(answer, Ok((500, "the handler panicked\n".into())));
        assert_eq!(node.status().generations[0].panics, panics);
        assert_eq!(connection.get("/debug/json").await, Ok((200, r#"{"ok":true}"#.into())));
        post(&mut connection, "/polls/1/votes", &json!({"option": 0})).await;
        assert_eq!(told(&mut socket).await["results"]["total"], panics);
    }
    assert!(node.log().contains("asked to panic"), "{}", node.log());
    let status = node.status();
    assert_eq!((status.host_restarts, status.sessions.unwrap().open.websocket), (0, 1));
}

/// Connections of the line protocol that say nothing while releases come and go.
const IDLE: usize = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_lines_are_answered_after_a_hundred_upgrades_and_downgrades() {
    let node = with_poll("[listen.tcp.line]\naddress = \"127.0.0.1:0\"\n").await;
    let address = node.status().tcp[0].address.clone();
    let mut lines = vec![];
    for _ in 0..IDLE {
        lines.push(BufReader::new(TcpStream::connect(&address).await.unwrap()));
    }
    wait_for("all are accepted", || (node.status().sessions?.open.tcp == IDLE as u64).then_some(()));
    let ask = async |line: &mut BufReader<TcpStream>, words: &str| {
        line.get_mut().write_all(words.as_bytes()).await.unwrap();
        let mut answer = String::new();
        line.read_line(&mut answer).await.unwrap();
        answer
    };
    assert_eq!(ask(&mut lines[0], "vote 1 0\n").await, "open; yes 1; no 0\n");
    for _ in 0..50 {
        node.relmgr(&["upgrade", "1.0.1"]).ok();
        node.relmgr(&["downgrade"]).ok();
    }
    for line in &mut lines {
        assert_eq!(ask(line, "show 1\n").await, "open; yes 1; no 0\n");
    }
    let status = node.status();
    let sessions = status.sessions.unwrap();
    assert_eq!((sessions.totals.begun, sessions.open.tcp), (IDLE as u64, IDLE as u64));
    assert_eq!((status.generations.len(), node.mapped().len()), (1, 1));
}

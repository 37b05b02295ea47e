//! Sessions live across upgrades: WebSockets and raw TCP; what clients do to them meanwhile has its end.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use relmgr_testkit::kit::{Node, Release, release, wait_for};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::client::get;

/// Nothing that a client waits for takes so long.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub type Socket = WebSocketStream<TcpStream>;

/// What a WebSocket may go over.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

pub fn releases() -> (Release, Release) {
    (release("sessions", "", "1.0.0"), release("sessions", "", "1.0.1"))
}

pub async fn try_open(address: SocketAddr, path: &str) -> Result<Socket, Error> {
    let stream = TcpStream::connect(address).await.unwrap();
    let url = format!("ws://{address}{path}");
    tokio_tungstenite::client_async(url, stream).await.map(|(socket, _)| socket)
}

pub async fn open(address: SocketAddr, path: &str) -> Socket {
    try_open(address, path).await.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What comes next that is no ping.
pub async fn next<S: Stream>(socket: &mut WebSocketStream<S>) -> Option<Result<Message, Error>> {
    loop {
        let next = tokio::time::timeout(PATIENCE, socket.next()).await.expect("nothing came for too long");
        if !matches!(next, Some(Ok(Message::Ping(_) | Message::Pong(_)))) {
            return next;
        }
    }
}

pub async fn text<S: Stream>(socket: &mut WebSocketStream<S>) -> String {
    match next(socket).await {
        Some(Ok(Message::Text(text))) => text.as_str().to_owned(),
        other => panic!("no text: {other:?}"),
    }
}

pub async fn ask<S: Stream>(socket: &mut WebSocketStream<S>, words: &str) -> Value {
    socket.send(Message::text(words)).await.unwrap();
    serde_json::from_str(&text(socket).await).unwrap()
}

/// The close frame's code, whatever messages come before it.
pub async fn close_code(socket: &mut Socket) -> u16 {
    loop {
        match next(socket).await {
            Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
            Some(Ok(_)) => {}
            other => panic!("no close frame: {other:?}"),
        }
    }
}

/// `POST path` with `body`.
pub async fn post(address: SocketAddr, path: &str, body: &str) -> (StatusCode, String) {
    let request = http::Request::post(path).header("host", "test");
    let request = request.body(http_body_util::Full::from(body.to_owned())).unwrap();
    let response = crate::client::Connection::open(address).await.send(request).await.unwrap();
    let status = response.status();
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&bytes).into_owned())
}

pub fn ended(node: &Node, reason: &str) -> u64 {
    let sessions = node.status().sessions.expect("there is a host");
    sessions.totals.ended.get(reason).copied().unwrap_or_default()
}

/// Clients that ask without a pause until told to stop.
#[derive(Default)]
pub struct Chats {
    stop: Arc<AtomicBool>,
    chats: Vec<(Arc<Versions>, JoinHandle<()>)>,
}

/// The releases that have answered, one after the other.
type Versions = Mutex<Vec<String>>;

impl Chats {
    /// One more.
    pub fn begin<S: Stream + 'static>(&mut self, socket: WebSocketStream<S>) {
        let versions = Arc::new(Versions::default());
        let chat = chat(socket, self.stop.clone(), versions.clone());
        self.chats.push((versions, tokio::spawn(chat)));
    }

    /// Waits until so many releases, one after the other, have answered each of them.
    pub fn have_met(&self, count: usize) {
        wait_for(&format!("each has met {count} releases"), || {
            let met = |versions: &Versions| versions.lock().unwrap().len() >= count;
            self.chats.iter().all(|(versions, chat)| met(versions) || chat.is_finished()).then_some(())
        });
    }

    /// Ends them: so many releases, one after the other, and no more have answered each.
    pub async fn end(self, count: usize) {
        self.stop.store(true, Ordering::Relaxed);
        for (versions, chat) in self.chats {
            chat.await.unwrap();
            let versions = versions.lock().unwrap();
            assert_eq!(versions.len(), count, "{versions:?}");
        }
    }
}

async fn chat<S: Stream>(mut socket: WebSocketStream<S>, stop: Arc<AtomicBool>, versions: Arc<Versions>) {
    let mut asked = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        asked += 1;
        let answer = ask(&mut socket, "hello").await;
        assert_eq!(answer["n"], asked, "lost, twice or out of order: {answer}");
        let version = answer["version"].as_str().unwrap().to_owned();
        let mut versions = versions.lock().unwrap();
        if versions.last() != Some(&version) {
            versions.push(version);
        }
    }
    socket.close(None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_live_across_ten_upgrades_and_no_message_is_lost() {
    let (one, two) = releases();
    let node = Node::serving("relmgr-sessions", "", &[&one, &two]);
    let mut chats = Chats::default();
    for _ in 0..20 {
        chats.begin(open(node.address(), "/echo").await);
    }
    chats.have_met(1);
    for round in 1..=5 {
        node.relmgr(&["upgrade", "1.0.1"]).ok();
        chats.have_met(2 * round);
        node.relmgr(&["downgrade"]).ok();
        chats.have_met(2 * round + 1);
    }
    chats.end(11).await;
    wait_for("those who closed are counted", || (ended(&node, "client") == 20).then_some(()));
    assert_eq!(node.status().sessions.unwrap().open.websocket, 0);
    assert_eq!(node.mapped().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_sessions_hold_no_release_and_are_answered_by_the_next() {
    let (one, two) = releases();
    let node = Node::serving("relmgr-sessions", "", &[&one, &two]);
    let mut sockets = vec![];
    for _ in 0..300 {
        let mut socket = open(node.address(), "/echo").await;
        let answer = ask(&mut socket, "hello").await;
        assert_eq!((&answer["version"], &answer["schema"]), (&"1.0.0".into(), &3.into()));
        sockets.push(socket);
    }
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    assert_eq!(node.mapped().len(), 1, "{:?}", node.status());
    let status = node.status();
    assert_eq!((status.generations.len(), status.sessions.unwrap().open.websocket), (1, 300));
    assert!(node.relmgr(&["status"]).ok().stdout.contains("300 WebSocket"));
    for socket in &mut sockets {
        let answer = ask(socket, "hello").await;
        assert_eq!((&answer["n"], &answer["version"]), (&2.into(), &"1.0.1".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_and_topics_reach_sessions_that_another_release_began() {
    let (one, two) = releases();
    let node = Node::serving("relmgr-sessions", "", &[&one, &two]);
    let address = node.address();
    let mut echo = open(address, "/echo").await;
    let number = ask(&mut echo, "hello").await["number"].as_u64().unwrap();
    let (mut a, mut b) = (open(address, "/topics/tea").await, open(address, "/topics/tea").await);
    let mut other = open(address, "/topics/coffee").await;
    for socket in [&mut a, &mut b, &mut other] {
        assert_eq!(text(socket).await, "subscribed");
    }
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    assert_eq!(post(address, &format!("/push/{number}"), "psst").await, (StatusCode::OK, "1.0.1".into()));
    assert_eq!(text(&mut echo).await, "psst");
    for round in ["one", "two"] {
        assert_eq!(post(address, "/publish/tea", round).await.1, "2");
        assert_eq!((text(&mut a).await.as_str(), text(&mut b).await.as_str()), (round, round));
    }
    b.send(Message::text("no more")).await.unwrap();
    assert_eq!(text(&mut b).await, "unsubscribed");
    assert_eq!(post(address, "/publish/tea", "three").await.1, "1");
    a.close(None).await.unwrap();
    wait_for("the topic is empty", || (node.status().sessions.unwrap().open.websocket == 3).then_some(()));
    assert_eq!(post(address, "/publish/tea", "four").await.1, "0");
    echo.close(None).await.unwrap();
    wait_for("the session is over", || (node.status().sessions.unwrap().open.websocket == 2).then_some(()));
    assert_eq!(post(address, &format!("/push/{number}"), "psst").await.0, StatusCode::GONE);
    let over = format!("session {number} is over: 1005");
    wait_for(&over, || node.log().contains(&over).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_being_handled_at_the_swap_ends_there_and_the_next_goes_on() {
    let (one, two) = releases();
    let node = Node::serving("relmgr-sessions", "", &[&one, &two]);
    let mut socket = open(node.address(), "/echo").await;
    socket.send(Message::text("wait")).await.unwrap();
    wait_for("it is being handled", || (node.status().generations[0].in_flight == 1).then_some(()));
    socket.send(Message::text("after it")).await.unwrap();
    let node = tokio::task::spawn_blocking(move || {
        node.relmgr(&["upgrade", "1.0.1"]).ok();
        node
    });
    let node = node.await.unwrap();
    for (n, version) in [(1, "1.0.0"), (2, "1.0.1")] {
        let answer: Value = serde_json::from_str(&text(&mut socket).await).unwrap();
        assert_eq!((&answer["n"], &answer["version"]), (&n.into(), &version.into()));
    }
    assert_eq!(node.mapped().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_and_handlers_do_wrong_ends_the_one_session_with_its_code() {
    let (one, two) = releases();
    let node = Node::serving("relmgr-sessions", "", &[&one, &two]);
    let address = node.address();
    let switching = Arc::new(AtomicBool::new(true));
    let (running, node) = (switching.clone(), Arc::new(node));
    // All of it while releases are exchanged.
    let switches = tokio::task::spawn_blocking({
        let node = node.clone();
        move || {
            while running.load(Ordering::Relaxed) {
                node.relmgr(&["upgrade", "1.0.1"]).ok();
                node.relmgr(&["downgrade"]).ok();
            }
        }
    });
    let mut bystander = open(address, "/echo").await;
    // The head of a frame of 100 MB, masked; text that is none; a frame with a reserved opcode.
    let huge = [0x82, 0xff, 0, 0, 0, 0, 6, 0, 0, 0, 1, 2, 3, 4];
    let raw: [(&[u8], u16); 3] =
        [(&huge, 1009), (&[0x81, 0x82, 0, 0, 0, 0, 0xc3, 0x28], 1007), (&[0x83, 0x80, 0, 0, 0, 0], 1002)];
    for (bytes, code) in raw {
        let mut socket = open(address, "/echo").await;
        socket.get_mut().write_all(bytes).await.unwrap();
        assert_eq!(close_code(&mut socket).await, code);
    }
    for (words, code) in [("panic", 1011), ("fail", 1011), ("remember 70000", 1011), ("close", 4001)] {
        let mut socket = open(address, "/echo").await;
        socket.send(Message::text(words)).await.unwrap();
        assert_eq!(close_code(&mut socket).await, code, "{words}");
    }
    // Fragments that are too large together.
    let mut socket = open(address, "/echo").await;
    let piece = |opcode| {
        let mut frame = vec![opcode, 0xff, 0, 0, 0, 0, 0, 0x08, 0, 0, 0, 0, 0, 0];
        frame.resize(frame.len() + 0x8_0000, b'x');
        frame
    };
    for opcode in [0x02, 0, 0] {
        // Closed while it is written, perhaps.
        let _ = socket.get_mut().write_all(&piece(opcode)).await;
    }
    assert_eq!(close_code(&mut socket).await, 1009);
    // Some vanish without a word.
    for _ in 0..5 {
        drop(open(address, "/echo").await);
    }
    for (query, status) in [("refuse", 403), ("panic", 500)] {
        match try_open(address, &format!("/echo?{query}")).await {
            Err(Error::Http(response)) => assert_eq!(response.status(), status),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ask(&mut bystander, "hello").await["n"], 1);
    switching.store(false, Ordering::Relaxed);
    switches.await.unwrap();
    for (reason, count) in
        [("too_big", 2), ("protocol", 2), ("handler_failed", 3), ("application", 1), ("lost", 5)]
    {
        wait_for(reason, || (ended(&node, reason) == count).then_some(()));
    }
    assert_eq!(ask(&mut bystander, "hello").await["n"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_or_say_nothing_are_given_up_and_counted() {
    let (one, two) = releases();
    let extra = "[sessions]\nqueue_bytes = 65536\nstall = \"300ms\"\nping = \"2s\"\n";
    let node = Node::serving("relmgr-sessions", extra, &[&one, &two]);
    // More at once than may wait.
    let mut flooded = open(node.address(), "/echo").await;
    flooded.send(Message::text("flood 100000")).await.unwrap();
    wait_for("it is too slow", || (ended(&node, "slow") == 1).then_some(()));
    // A client that answers pings, and one whose program has stopped.
    let mut alive = open(node.address(), "/echo").await;
    // Reading on is what sends the answer.
    let answering = tokio::spawn(async move { while let Some(Ok(Message::Ping(_))) = alive.next().await {} });
    let stuck = open(node.address(), "/echo").await;
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    wait_for("it is silent", || (ended(&node, "idle") == 1).then_some(()));
    assert!(!answering.is_finished());
    assert_eq!(node.status().sessions.unwrap().open.websocket, 1);
    answering.abort();
    drop((flooded, stuck));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_the_next_release_does_not_take_are_told_to_come_back() {
    let (one, without) = (release("sessions", "", "1.0.0"), release("sessions", "without-echo", "1.0.1"));
    let node = Node::serving("relmgr-sessions", "", &[&one, &without]);
    let mut idle = open(node.address(), "/echo").await;
    let mut topic = open(node.address(), "/topics/tea").await;
    assert_eq!(text(&mut topic).await, "subscribed");
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    assert_eq!(close_code(&mut idle).await, 1012);
    wait_for("that is counted", || (ended(&node, "not_served") == 1).then_some(()));
    assert_eq!(post(node.address(), "/publish/tea", "still").await.1, "1");
    assert_eq!(text(&mut topic).await, "still");
    assert!(matches!(try_open(node.address(), "/echo").await, Err(Error::Http(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_host_begins_new_sessions_and_the_old_ones_are_told() {
    let (one, two) = releases();
    let node = Node::serving("relmgr-sessions", "[upgrade]\ndrain = \"5s\"\n", &[&one, &two]);
    let mut sockets = vec![];
    for _ in 0..50 {
        sockets.push(open(node.address(), "/echo").await);
    }
    let number = ask(&mut sockets[0], "hello").await["number"].as_u64().unwrap();
    let restart = tokio::task::spawn_blocking(move || {
        node.relmgr(&["restart"]).ok();
        node
    });
    for socket in &mut sockets {
        assert_eq!(close_code(socket).await, 1012);
    }
    let node = restart.await.unwrap();
    let mut again = open(node.address(), "/echo").await;
    let answer = ask(&mut again, "hello").await;
    assert!(answer["n"] == 1 && answer["number"].as_u64() > Some(number), "{answer}");
    assert_eq!(get(node.address(), "/").await.0, 200);
}

/// A client of the line protocol.
struct Line(BufReader<TcpStream>);

impl Line {
    async fn open(node: &Node) -> Self {
        Self(BufReader::new(TcpStream::connect(&node.status().tcp[0].address).await.unwrap()))
    }

    async fn ask(&mut self, words: &str) -> Value {
        self.0.get_mut().write_all(words.as_bytes()).await.unwrap();
        serde_json::from_str(&self.read().await).unwrap()
    }

    /// The next line; empty: there is none.
    async fn read(&mut self) -> String {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.0.read_line(&mut line)).await;
        read.expect("no line came").unwrap_or_default();
        line
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_tcp_lives_across_upgrades_too() {
    let (one, two) = releases();
    let extra = "[listen.tcp.line]\naddress = \"127.0.0.1:0\"\n[listen.tcp.unused]\naddress = \"127.0.0.1:0\"\n\
        [sessions]\nmessage_bytes = 1000\n";
    let node = Node::serving("relmgr-sessions", extra, &[&one, &two]);
    let mut line = Line::open(&node).await;
    assert_eq!(line.ask("hello\r\n").await["n"], 1);
    // The rest of a line comes to the next release.
    line.0.get_mut().write_all(b"hel").await.unwrap();
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    let answer = line.ask("lo\n").await;
    assert_eq!((&answer["n"], &answer["version"]), (&2.into(), &"1.0.1".into()));
    assert!(node.relmgr(&["status"]).ok().stdout.contains("(line, TCP)"));

    let mut long = Line::open(&node).await;
    long.0.get_mut().write_all(&[b'x'; 2000]).await.unwrap();
    assert_eq!(long.read().await, "");
    wait_for("that is counted", || (ended(&node, "too_big") == 1).then_some(()));
    let mut last = Line::open(&node).await;
    last.0.get_mut().write_all(b"without an end").await.unwrap();
    last.0.get_mut().shutdown().await.unwrap();
    assert!(last.read().await.contains("\"n\":1"));
    assert_eq!(last.read().await, "");
    // Nobody takes sessions there: closed at once.
    let unused = node.status().tcp[1].address.clone();
    assert_eq!(Line(BufReader::new(TcpStream::connect(&unused).await.unwrap())).read().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_raw_tcp_that_says_nothing_is_not_kept() {
    let (one, _) = releases();
    let extra = "[listen.tcp.line]\naddress = \"127.0.0.1:0\"\n[sessions]\ntcp_idle = \"1s\"\n";
    let node = Node::serving("relmgr-sessions", extra, &[&one]);
    let mut line = Line::open(&node).await;
    assert_eq!(line.read().await, "");
    wait_for("that is counted", || (ended(&node, "idle") == 1).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_arrive_in_their_order_and_once_while_releases_are_exchanged() {
    let (one, two) = releases();
    let node = Node::serving("relmgr-sessions", "", &[&one, &two]);
    let address = node.address();
    let mut socket = open(address, "/echo").await;
    let number = ask(&mut socket, "hello").await["number"].as_u64().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let pushing = tokio::spawn({
        let stop = stop.clone();
        async move {
            let (mut pushed, mut versions) = (0_u64, std::collections::BTreeSet::new());
            while !stop.load(Ordering::Relaxed) {
                let (status, version) = post(address, &format!("/push/{number}"), &pushed.to_string()).await;
                assert_eq!(status, StatusCode::OK, "{version}");
                versions.insert(version);
                pushed += 1;
            }
            (pushed, versions.len())
        }
    });
    let node = tokio::task::spawn_blocking(move || {
        for _ in 0..10 {
            node.relmgr(&["upgrade", "1.0.1"]).ok();
            node.relmgr(&["downgrade"]).ok();
        }
        node
    });
    let node = node.await.unwrap();
    stop.store(true, Ordering::Relaxed);
    let (pushed, versions) = pushing.await.unwrap();
    assert!(pushed > 100 && versions == 2, "{pushed} {versions}");
    for expected in 0..pushed {
        assert_eq!(text(&mut socket).await, expected.to_string());
    }
    assert_eq!(node.status().sessions.unwrap().totals.begun, 1);
}

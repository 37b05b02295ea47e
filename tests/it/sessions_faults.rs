//! What clients and releases do wrong to sessions across upgrades: clients that do not read, floods, pieces of
//! messages, a state that the next release does not know. Each has an outcome, and no release stays for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use relmgr_testkit::kit::{Node, release, wait_for};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::sessions::{PATIENCE, Socket, ask, close_code, ended, open, post, releases, text};

/// Three listeners of raw TCP, one for each framing.
const LISTENERS: &str = "[listen.tcp.line]\naddress = \"127.0.0.1:0\"\n\
    [listen.tcp.length]\naddress = \"127.0.0.1:0\"\nframing = \"length\"\n\
    [listen.tcp.bytes]\naddress = \"127.0.0.1:0\"\nframing = \"bytes\"\n";

/// A WebSocket whose client has little room for what it does not read.
async fn open_narrow(node: &Node, path: &str) -> Socket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(node.address()).await.unwrap();
    let url = format!("ws://{}{path}", node.address());
    tokio_tungstenite::client_async(url, stream).await.unwrap().0
}

async fn number(socket: &mut Socket) -> u64 {
    ask(socket, "hello").await["number"].as_u64().unwrap()
}

/// Exchanges releases until told to stop, three times at least; how often.
fn switching(node: &Arc<Node>, stop: &Arc<AtomicBool>) -> tokio::task::JoinHandle<()> {
    let (node, stop) = (node.clone(), stop.clone());
    tokio::task::spawn_blocking(move || {
        for round in 0.. {
            for command in [&["upgrade", "1.0.1"][..], &["downgrade"]] {
                node.relmgr(command).ok();
                assert_eq!(node.mapped().len(), 1, "{:?}", node.status());
            }
            if round > 0 && stop.load(Ordering::Relaxed) {
                return;
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_stall_across_upgrades_keep_their_session_until_too_much_waits_for_them() {
    let (one, two) = releases();
    // Nothing but the queue's end is to end them.
    let extra = "[sessions]\nqueue_bytes = 262144\nstall = \"10m\"\nping = \"0s\"\n";
    let node = Arc::new(Node::serving("relmgr-sessions", extra, &[&one, &two]));
    let (mut flooded, mut kept) = (vec![], vec![]);
    for _ in 0..20 {
        let mut socket = open_narrow(&node, "/echo").await;
        flooded.push((number(&mut socket).await, socket));
    }
    for _ in 0..10 {
        let mut socket = open_narrow(&node, "/echo").await;
        kept.push((number(&mut socket).await, socket));
    }
    let before = node.resident_kib();
    let stop = Arc::new(AtomicBool::new(false));
    let switches = switching(&node, &stop);
    let body = "x".repeat(64 * 1024);
    let mut open: Vec<u64> = flooded.iter().map(|(number, _)| *number).collect();
    for round in 0.. {
        // Sockets hold some MiB themselves.
        assert!(round < 1000, "there is no end to what may wait for {open:?}");
        let mut left = vec![];
        for number in open {
            let (status, words) = post(node.address(), &format!("/push/{number}"), &body).await;
            assert!([StatusCode::OK, StatusCode::GONE].contains(&status), "{status} {words}");
            left.extend((status == StatusCode::OK).then_some(number));
        }
        open = left;
        if round < 20 {
            for (number, _) in &kept {
                let pushed = post(node.address(), &format!("/push/{number}"), &round.to_string()).await;
                assert_eq!(pushed.0, StatusCode::OK, "{}", pushed.1);
            }
        }
        if open.is_empty() && round >= 20 {
            break;
        }
    }
    stop.store(true, Ordering::Relaxed);
    switches.await.unwrap();
    wait_for("their sessions are over", || (ended(&node, "slow") == 20).then_some(()));
    assert_eq!(node.status().sessions.unwrap().open.websocket, 10);
    // Twice what may wait for all of them, and what a host takes by itself.
    let grown = node.resident_kib().saturating_sub(before);
    assert!(grown < 30 * 2 * 256 + 64 * 1024, "{grown} KiB more");
    for (_, socket) in &mut kept {
        for round in 0..20 {
            assert_eq!(text(socket).await, round.to_string());
        }
        assert_eq!(ask(socket, "hello").await["n"], 2);
    }
    assert_eq!(node.mapped().len(), 1);
    drop(flooded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_for_too_long_is_given_up_while_releases_are_exchanged() {
    let (one, two) = releases();
    // Everything may wait, but not for long.
    let extra = "[sessions]\nqueue_bytes = 67108864\nstall = \"300ms\"\nping = \"0s\"\n";
    let node = Arc::new(Node::serving("relmgr-sessions", extra, &[&one, &two]));
    let mut reads = open(node.address(), "/echo").await;
    let mut stalls = open_narrow(&node, "/echo").await;
    let stop = Arc::new(AtomicBool::new(false));
    let switches = switching(&node, &stop);
    stalls.send(Message::text("flood 30000")).await.unwrap();
    wait_for("it is given up", || (ended(&node, "slow") == 1).then_some(()));
    assert_eq!(ask(&mut reads, "hello").await["n"], 1);
    stop.store(true, Ordering::Relaxed);
    switches.await.unwrap();
    assert_eq!(ask(&mut reads, "hello").await["n"], 2);
    drop(stalls);
}

/// The release that makes way is the one that says it, when the next one serves already.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_release_pushes_after_the_swap_still_reaches_the_client() {
    let (one, two) = releases();
    let node = Node::serving("relmgr-sessions", "", &[&one, &two]);
    let address = node.address();
    let mut sockets = vec![];
    let mut pushes = vec![];
    for _ in 0..5 {
        let mut socket = open(address, "/echo").await;
        let number = number(&mut socket).await;
        sockets.push(socket);
        pushes.push(tokio::spawn(async move {
            post(address, &format!("/push-late/{number}"), "from the one before").await
        }));
    }
    wait_for("they wait", || (node.status().generations[0].in_flight == 5).then_some(()));
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    for push in pushes {
        assert_eq!(push.await.unwrap(), (StatusCode::OK, "1.0.0".into()));
    }
    for socket in &mut sockets {
        assert_eq!(text(socket).await, "from the one before");
        let answer = ask(socket, "hello").await;
        assert_eq!((&answer["n"], &answer["version"]), (&2.into(), &"1.0.1".into()));
    }
    assert_eq!(node.mapped().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_the_release_does_not_know_ends_its_session_with_words_in_the_log() {
    let one = release("sessions", "", "1.0.0");
    let stranger = release("sessions", "state-of-4", "1.0.1");
    let heir = release("sessions", "knows-state-of-3", "1.1.0");
    let node = Node::serving("relmgr-sessions", "", &[&one, &stranger, &heir]);
    let mut sockets = vec![];
    for _ in 0..3 {
        let mut socket = open(node.address(), "/echo").await;
        let number = number(&mut socket).await;
        sockets.push((number, socket));
    }
    let [(first, a), (second, b), (_, c)] = &mut sockets[..] else { unreachable!() };
    // Who knows the older form goes on from it.
    node.relmgr(&["upgrade", "1.1.0"]).ok();
    for (n, schema) in [(2, 3), (3, 4)] {
        let answer = ask(a, "hello").await;
        assert_eq!((&answer["n"], &answer["schema"]), (&n.into(), &schema.into()));
    }
    // Nobody knows the newer one here. The others have been quiet, and have theirs.
    node.relmgr(&["downgrade", "1.0.0"]).ok();
    a.send(Message::text("hello")).await.unwrap();
    assert_eq!(close_code(a).await, 1011);
    assert_eq!(ask(b, "hello").await["n"], 2);
    let told = |number: &u64, schema: u32| {
        let words =
            format!("a message of session {number} failed: the session's state, of schema {schema}, is in");
        wait_for(&words, || node.log().contains(&words).then_some(()));
    };
    told(first, 4);
    // Nor the older one there.
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    b.send(Message::text("hello")).await.unwrap();
    assert_eq!(close_code(b).await, 1011);
    told(second, 3);
    let mut anew = open(node.address(), "/echo").await;
    assert_eq!(ask(&mut anew, "hello").await["n"], 1);
    // Whoever has said nothing meanwhile has lost nothing.
    node.relmgr(&["downgrade", "1.0.0"]).ok();
    assert_eq!(ask(c, "hello").await["n"], 2);
    wait_for("both are counted", || (ended(&node, "handler_failed") == 2).then_some(()));
    assert_eq!(node.mapped().len(), 1);
}

/// A client of raw TCP.
struct Raw(TcpStream);

impl Raw {
    async fn open(node: &Node, listener: &str) -> Self {
        let tcp = node.status().tcp;
        let address = &tcp.iter().find(|listens| listens.name == listener).unwrap().address;
        Self(TcpStream::connect(address).await.unwrap())
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn exactly(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let read = tokio::time::timeout(PATIENCE, self.0.read_exact(&mut bytes)).await;
        read.expect("nothing came for too long").unwrap();
        bytes
    }

    /// A message after its length.
    async fn framed(&mut self) -> Value {
        let length = self.exactly(4).await;
        let length = u32::from_be_bytes(length.try_into().unwrap());
        serde_json::from_slice(&self.exactly(length as usize).await).unwrap()
    }

    /// All bytes of an object.
    async fn object(&mut self) -> Value {
        let mut bytes = vec![];
        while bytes.last() != Some(&b'}') {
            bytes.extend(self.exactly(1).await);
        }
        serde_json::from_slice(&bytes).unwrap()
    }

    /// Whether the other side has ended it.
    async fn is_over(&mut self) -> bool {
        let read = tokio::time::timeout(PATIENCE, self.0.read(&mut [0; 1])).await;
        read.expect("it goes on for too long").unwrap_or_default() == 0
    }
}

fn of_length(message: &[u8]) -> Vec<u8> {
    let mut framed = u32::try_from(message.len()).unwrap().to_be_bytes().to_vec();
    framed.extend(message);
    framed
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_length_and_streams_of_bytes_go_on_across_an_upgrade_and_back() {
    let (one, two) = releases();
    let extra = format!("{LISTENERS}[sessions]\nmessage_bytes = 1000\n");
    let node = Node::serving("relmgr-sessions", &extra, &[&one, &two]);
    let (mut length, mut bytes) = (Raw::open(&node, "length").await, Raw::open(&node, "bytes").await);
    let mut idle = vec![];
    for _ in 0..50 {
        idle.push((Raw::open(&node, "length").await, Raw::open(&node, "bytes").await));
    }
    // A whole message and half of the next one's length; the rest comes to the next releases.
    length.write(&[&of_length(b"one")[..], &[0, 0]].concat()).await;
    bytes.write(b"abc").await;
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    assert_eq!(node.mapped().len(), 1, "{:?}", node.status());
    length.write(&[0, 5, b'h', b'e', b'l']).await;
    bytes.write(b"defg").await;
    node.relmgr(&["downgrade"]).ok();
    assert_eq!(node.mapped().len(), 1, "{:?}", node.status());
    length.write(&[&b"lo"[..], &of_length(b""), &of_length(b"and?")].concat()).await;
    bytes.write(b"?").await;
    let answer = length.framed().await;
    assert_eq!(
        (&answer["messages"], &answer["bytes"], &answer["version"]),
        (&4.into(), &12.into(), &"1.0.0".into())
    );
    let answer = bytes.object().await;
    assert_eq!((&answer["bytes"], &answer["version"]), (&8.into(), &"1.0.0".into()));
    // The same on those that have been idle all the time, in the release after the next.
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    for (length, bytes) in &mut idle {
        length.write(&of_length(b"?")).await;
        bytes.write(b"?").await;
        for answer in [length.framed().await, bytes.object().await] {
            assert_eq!((&answer["bytes"], &answer["version"]), (&1.into(), &"1.0.1".into()));
        }
    }
    // A length that is too large, and an end within a message.
    length.write(&[0, 0, 4, 0]).await;
    assert!(length.is_over().await);
    wait_for("it is refused", || (ended(&node, "too_big") == 1).then_some(()));
    let (mut cut, _) = idle.pop().unwrap();
    cut.write(&[0, 0, 1, 0, b'x']).await;
    cut.0.shutdown().await.unwrap();
    assert!(cut.is_over().await);
    wait_for("two have left", || (ended(&node, "client") + ended(&node, "lost") == 2).then_some(()));
}

/// What is sent byte by byte, each after so much time, takes longer than a client may be silent.
const SLOWLY: &[u8] = b"so slowly that others sleep";
const EACH: Duration = Duration::from_millis(250);

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_takes_longer_than_the_idle_time_is_answered_and_one_that_stops_ends_its_session() {
    let (one, two) = releases();
    let extra = format!("{LISTENERS}[sessions]\nping = \"2s\"\ntcp_idle = \"4s\"\n");
    let node = Node::serving("relmgr-sessions", &extra, &[&one, &two]);
    let mut stops = Raw::open(&node, "line").await;
    stops.write(b"so slow").await;
    let (mut line, mut socket) = (Raw::open(&node, "line").await, open(node.address(), "/echo").await);
    // The head of a text frame, masked with zeros. Within it, no ping can be answered.
    let length = u8::try_from(SLOWLY.len()).unwrap();
    socket.get_mut().write_all(&[0x81, 0x80 | length, 0, 0, 0, 0]).await.unwrap();
    let mut pace = tokio::time::interval(EACH);
    for byte in SLOWLY {
        pace.tick().await;
        line.write(&[*byte]).await;
        socket.get_mut().write_all(&[*byte]).await.unwrap();
    }
    line.write(b"\n").await;
    assert_eq!(line.object().await["n"], 1);
    let answer: Value = serde_json::from_str(&text(&mut socket).await).unwrap();
    assert_eq!(answer["n"], 1);
    assert!(stops.is_over().await);
    wait_for("it was idle", || (ended(&node, "idle") > 0).then_some(()));
}

/// Waits until a message `wait` is being handled, which it is until the next release serves.
fn is_handled(node: &Node) {
    wait_for("it is being handled", || (node.status().generations[0].in_flight == 1).then_some(()));
}

/// Has the next release serve.
fn go_on(node: &Arc<Node>) -> tokio::task::JoinHandle<()> {
    let node = node.clone();
    tokio::task::spawn_blocking(move || {
        node.relmgr(&["upgrade", "1.0.1"]).ok();
    })
}

/// The answers to `wait`, and to what was sent after it.
const ANSWERS: [(u64, &str); 2] = [(1, "1.0.0"), (2, "1.0.1")];

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_whose_handler_takes_longer_than_the_idle_time_is_answered_and_is_idle_after_it() {
    let (one, two) = releases();
    let node = Arc::new(Node::serving("relmgr-sessions", "[sessions]\nping = \"1s\"\n", &[&one, &two]));
    let mut socket = open(node.address(), "/echo").await;
    for words in ["wait", "after it"] {
        socket.send(Message::text(words)).await.unwrap();
    }
    is_handled(&node);
    // Two that are idle, one after the other: each begins later than the handler, and has all of its time.
    for count in 1..=2 {
        let stuck = open(node.address(), "/echo").await;
        wait_for("it is silent", || (ended(&node, "idle") == count).then_some(()));
        drop(stuck);
    }
    // One that is idle gets one. What answers them is not read before the handler's end.
    for _ in 0..4 {
        match tokio::time::timeout(PATIENCE, socket.next()).await.expect("nothing came for too long") {
            Some(Ok(Message::Ping(_))) => {}
            other => panic!("no ping: {other:?}"),
        }
    }
    let upgraded = go_on(&node);
    for (n, version) in ANSWERS {
        let answer: Value = serde_json::from_str(&text(&mut socket).await).unwrap();
        assert_eq!((&answer["n"], &answer["version"]), (&n.into(), &version.into()));
    }
    upgraded.await.unwrap();
    wait_for("it is silent in its turn", || (ended(&node, "idle") == 3).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_tcp_whose_handler_takes_longer_than_the_idle_time_is_answered_and_is_idle_after_it() {
    let (one, two) = releases();
    let extra = format!("{LISTENERS}[sessions]\ntcp_idle = \"2s\"\n");
    let node = Arc::new(Node::serving("relmgr-sessions", &extra, &[&one, &two]));
    let mut line = Raw::open(&node, "line").await;
    line.write(b"wait\nafter it\n").await;
    is_handled(&node);
    for count in 1..=2 {
        let mut silent = Raw::open(&node, "line").await;
        assert!(silent.is_over().await);
        wait_for("that is counted", || (ended(&node, "idle") == count).then_some(()));
    }
    let upgraded = go_on(&node);
    for (n, version) in ANSWERS {
        let answer = line.object().await;
        assert_eq!((&answer["n"], &answer["version"]), (&n.into(), &version.into()));
    }
    upgraded.await.unwrap();
    wait_for("it is silent in its turn", || (ended(&node, "idle") == 3).then_some(()));
}

/// So much is sent at once.
const PIECE: usize = 1_000_000;

/// So often.
const PIECES: usize = 100;

/// Of so many bytes, one is in the sum that the release makes.
const SAMPLE: usize = 61;

/// What is sent, again and again; no `?` is in it.
const PATTERN: &[u8] = b"the quick brown fox jumps over the lazy dog, and again ";

fn byte(at: usize) -> u8 {
    PATTERN[at % PATTERN.len()]
}

/// What the release makes of all of it.
fn sum() -> u64 {
    let sampled = (0..PIECE * PIECES + 1).step_by(SAMPLE);
    sampled.fold(0, |sum: u64, at| {
        let byte = if at == PIECE * PIECES { b'?' } else { byte(at) };
        sum.wrapping_mul(31).wrapping_add(u64::from(byte))
    })
}

fn piece(number: usize) -> Vec<u8> {
    let begin = number * PIECE % PATTERN.len();
    PATTERN.repeat(PIECE / PATTERN.len() + 2)[begin..begin + PIECE].to_vec()
}

/// A hundred megabytes arrive whole and in their order, or are refused at their limit; either way nobody else notices.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_on_raw_tcp_go_through_swaps_or_end_at_the_limit() {
    let (one, two) = releases();
    // Nobody is there to answer the bystander's pings.
    let settings = format!("{LISTENERS}[sessions]\nping = \"0s\"\n");
    let node = Arc::new(Node::serving("relmgr-sessions", &settings, &[&one, &two]));
    let before = node.resident_kib();
    let mut bystander = open(node.address(), "/echo").await;
    let stop = Arc::new(AtomicBool::new(false));
    let switches = switching(&node, &stop);
    let (mut length, mut bytes) = (Raw::open(&node, "length").await, Raw::open(&node, "bytes").await);
    let in_messages = tokio::spawn(async move {
        for number in 0..PIECES {
            length.write(&of_length(&piece(number))).await;
        }
        length.write(&of_length(b"?")).await;
        length.framed().await
    });
    let in_bytes = tokio::spawn(async move {
        for number in 0..PIECES {
            bytes.write(&piece(number)).await;
        }
        bytes.write(b"?").await;
        bytes.object().await
    });
    // A message of a hundred megabytes, with its length said and as a line without an end.
    let all = u32::try_from(PIECE * PIECES).unwrap().to_be_bytes();
    for (listener, head) in [("length", &all[..]), ("line", b"")] {
        let mut raw = Raw::open(&node, listener).await;
        let _ = raw.0.write_all(head).await;
        for number in 0..PIECES {
            // It is closed in the middle, as a rule.
            if raw.0.write_all(&piece(number)).await.is_err() {
                break;
            }
        }
        assert!(raw.is_over().await);
    }
    wait_for("both are refused", || (ended(&node, "too_big") == 2).then_some(()));
    let total = PIECE * PIECES + 1;
    let expected = (&Value::from(total), &Value::from(sum()));
    let answer = in_messages.await.unwrap();
    assert_eq!((&answer["bytes"], &answer["sum"]), expected);
    assert_eq!(answer["messages"], PIECES + 1);
    let answer = in_bytes.await.unwrap();
    assert_eq!((&answer["bytes"], &answer["sum"]), expected);
    stop.store(true, Ordering::Relaxed);
    switches.await.unwrap();
    assert_eq!(ask(&mut bystander, "hello").await["n"], 1);
    let grown = node.resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more");
}

//! What a release began and cannot hand over: streams, and connections that its router took over. They may end in
//! their own time, within the drain.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::SinkExt;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use relmgr_testkit::kit::{Node, wait_for};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::client::Connection;
use crate::sessions::{next, open, releases, text};

/// The body of `GET path`, from the head on, as it comes, and the connection that it comes on.
async fn begin(
    address: std::net::SocketAddr,
    path: &'static str,
) -> Result<(Connection, hyper::body::Incoming), hyper::Error> {
    let request = http::Request::get(path).header("host", "test");
    let request = request.body(http_body_util::Full::default()).unwrap();
    let mut connection = Connection::open(address).await;
    let response = connection.send(request).await?;
    Ok((connection, response.into_body()))
}

/// All of the body of `GET path`.
async fn read(address: std::net::SocketAddr, path: &'static str) -> Result<String, hyper::Error> {
    let (_connection, body) = begin(address, path).await?;
    Ok(String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned())
}

/// How many bytes `GET /flood` comes to, all of them as they should be. They are not kept: how many there are is up to
/// the machine.
async fn count_flood(address: std::net::SocketAddr) -> Result<usize, hyper::Error> {
    let (_connection, mut body) = begin(address, "/flood").await?;
    let mut count = 0;
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame?.into_data() {
            assert!(bytes.iter().all(|byte| *byte == b'x'), "after {count} bytes");
            count += bytes.len();
        }
    }
    Ok(count)
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_told_to_wind_up_and_end_by_themselves() {
    let (one, two) = releases();
    let node = Node::serving("relmgr-sessions", "", &[&one, &two]);
    let reading = tokio::spawn(read(node.address(), "/events"));
    wait_for("it streams", || (node.status().generations[0].in_flight == 1).then_some(()));
    let upgraded = tokio::task::spawn_blocking(move || (node.relmgr(&["upgrade", "1.0.1"]).ok(), node));
    let (done, node) = upgraded.await.unwrap();
    assert!(!done.stderr.contains("cut"), "{done:?}");
    assert_eq!(reading.await.unwrap().unwrap(), "data: hello\n\ndata: bye\n\n");
    assert_eq!(node.mapped().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_outlasts_the_drain_is_ended_cleanly_and_counted() {
    let (one, two) = releases();
    let node = Node::serving("relmgr-sessions", "[upgrade]\ndrain = \"200ms\"\n", &[&one, &two]);
    let reading = tokio::spawn(read(node.address(), "/endless"));
    wait_for("it streams", || (node.status().generations[0].in_flight == 1).then_some(()));
    let upgraded = tokio::task::spawn_blocking(move || (node.relmgr(&["upgrade", "1.0.1"]).ok(), node));
    let (done, node) = upgraded.await.unwrap();
    assert!(done.stderr.contains("1 requests on 1.0.0 were cut at the drain deadline"), "{done:?}");
    // With a last chunk: a body that broke off would be an error here.
    assert_eq!(reading.await.unwrap().unwrap(), "data: hello\n\n");
    assert_eq!(node.mapped().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_of_axums_own_stays_with_its_release_and_is_closed_at_the_drains_end() {
    let (one, two) = releases();
    let node = Node::serving("relmgr-sessions", "[upgrade]\ndrain = \"700ms\"\n", &[&one, &two]);
    let mut sockets = vec![];
    for _ in 0..10 {
        let mut socket = open(node.address(), "/own").await;
        socket.send(Message::text("hello")).await.unwrap();
        assert_eq!(text(&mut socket).await, "1.0.0 hello");
        sockets.push(socket);
    }
    assert_eq!(node.status().sessions.unwrap().open.upgraded, 10);
    let upgraded = tokio::task::spawn_blocking(move || (node.relmgr(&["upgrade", "1.0.1"]).ok(), node));
    // It goes on with the release that began it.
    let mut talking = sockets.pop().unwrap();
    let mut answers = 0;
    let code = loop {
        // Closed meanwhile: what came before is still to be read.
        let _ = talking.send(Message::text("still")).await;
        match next(&mut talking).await {
            Some(Ok(Message::Text(text))) => {
                assert_eq!(text.as_str(), "1.0.0 still");
                answers += 1;
            }
            Some(Ok(Message::Close(Some(frame)))) => break u16::from(frame.code),
            other => panic!("{other:?}"),
        }
    };
    assert!(code == 1012 && answers > 0, "{code} {answers}");
    for socket in &mut sockets {
        match next(socket).await {
            Some(Ok(Message::Close(Some(frame)))) => assert_eq!(u16::from(frame.code), 1012),
            other => panic!("no close frame: {other:?}"),
        }
    }
    let (done, node) = upgraded.await.unwrap();
    assert!(done.stderr.contains("10 requests on 1.0.0 were cut"), "{done:?}");
    assert_eq!(node.mapped().len(), 1, "{:?}", node.status());
    let mut socket = open(node.address(), "/own").await;
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(text(&mut socket).await, "1.0.1 hello");
}

/// Asks for `path` and reads nothing of what comes, not even the head.
async fn ask_and_stall(address: std::net::SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes()).await.unwrap();
    stream
}

/// hyper asks a body for nothing while its client takes nothing, so nothing of the drain's end reaches it.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_keep_no_release_in_memory() {
    let (one, two) = releases();
    let node = Node::serving("relmgr-sessions", "[upgrade]\ndrain = \"200ms\"\n", &[&one, &two]);
    let address = node.address();
    let stalled = [ask_and_stall(address, "/flood").await, ask_and_stall(address, "/large").await];
    // One that reads as fast as it can is brought to a clean end.
    let reading = tokio::spawn(count_flood(address));
    let is_under_way = || (node.status().generations[0].in_flight == 3).then_some(());
    wait_for("three answers are under way", is_under_way);
    let upgraded = tokio::task::spawn_blocking(move || (node.relmgr(&["upgrade", "1.0.1"]).ok(), node));
    let (done, node) = upgraded.await.unwrap();
    assert!(done.stderr.contains("3 requests on 1.0.0 were cut at the drain deadline"), "{done:?}");
    assert!(!done.stderr.contains("is still in memory"), "{done:?}");
    assert_eq!(node.mapped().len(), 1, "{:?}", node.status());
    assert!(reading.await.unwrap().unwrap() > 0);
    drop(stalled);
}

/// A small answer is over for its handler when hyper has it, but it is the library's own until it has been written.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_ask_without_an_end_and_read_no_answer_keep_no_release_in_memory() {
    let (one, two) = releases();
    let node = Node::serving("relmgr-sessions", "[upgrade]\ndrain = \"200ms\"\n", &[&one, &two]);
    let written = Arc::new(AtomicUsize::new(0));
    let mut asking = vec![];
    // The second one asks for a protocol that nobody speaks.
    for fields in ["", "connection: upgrade\r\nupgrade: none\r\n", ""] {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(node.address()).await.unwrap();
        let written = written.clone();
        asking.push(tokio::spawn(async move {
            let requests = format!("GET / HTTP/1.1\r\nhost: test\r\n{fields}\r\n").repeat(100);
            while stream.write_all(requests.as_bytes()).await.is_ok() {
                written.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let mut before = vec![];
    wait_for("nobody takes anything any more", || {
        before.push((written.load(Ordering::Relaxed), node.status().generations[0].in_flight));
        let last = before.iter().rev().take_while(|seen| Some(*seen) == before.last()).count();
        (last > 20 && before.last().is_some_and(|(written, _)| *written > 100)).then_some(())
    });
    let upgraded = tokio::task::spawn_blocking(move || (node.relmgr(&["upgrade", "1.0.1"]).ok(), node));
    let (done, node) = upgraded.await.unwrap();
    assert!(!done.stderr.contains("is still in memory"), "{done:?}");
    assert_eq!(node.mapped().len(), 1, "{:?}", node.status());
    // One that was not stuck yet at the swap may go on with the next release.
    asking.iter().for_each(tokio::task::JoinHandle::abort);
    assert_eq!(Connection::open(node.address()).await.get("/").await, Ok((200, "1.0.1".into())));
}

/// Its bytes wait for the client's window: with the first of two, or all of them.
#[tokio::test(flavor = "multi_thread")]
async fn small_answers_over_http2_that_no_window_lets_out_keep_no_release_in_memory() {
    let (one, two) = releases();
    let node = Node::serving("relmgr-sessions", "[upgrade]\ndrain = \"200ms\"\n", &[&one, &two]);
    let url = format!("http://{}", node.address());
    let mut unread = vec![];
    for window in [0, 1] {
        let stream = TcpStream::connect(node.address()).await.unwrap();
        let mut client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let handshake = client.initial_stream_window_size(window).handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        for _ in 0..3 {
            let request = http::Request::get(format!("{url}/"));
            let request = request.body(http_body_util::Full::<bytes::Bytes>::default()).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.status(), 200);
            unread.push((sender.clone(), answer));
        }
    }
    let upgraded = tokio::task::spawn_blocking(move || (node.relmgr(&["upgrade", "1.0.1"]).ok(), node));
    let (done, node) = upgraded.await.unwrap();
    assert!(!done.stderr.contains("is still in memory") && !done.stderr.contains("cut"), "{done:?}");
    assert_eq!(node.mapped().len(), 1, "{:?}", node.status());
    drop(unread);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_http2_that_is_not_read_ends_after_what_else_its_connection_carries() {
    let (one, two) = releases();
    let node = Node::serving("relmgr-sessions", "[upgrade]\ndrain = \"200ms\"\n", &[&one, &two]);
    let stream = TcpStream::connect(node.address()).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    let connection = tokio::spawn(connection);
    let url = format!("http://{}", node.address());
    let get = |path: &str| {
        let request = http::Request::get(format!("{url}{path}"));
        request.body(http_body_util::Full::<bytes::Bytes>::default()).unwrap()
    };
    // Its window is full soon, and nobody opens it.
    let stalled = sender.send_request(get("/flood")).await.unwrap();
    wait_for("it streams", || (node.status().generations[0].in_flight == 1).then_some(()));
    let upgraded = tokio::task::spawn_blocking(move || (node.relmgr(&["upgrade", "1.0.1"]).ok(), node));
    // Meanwhile others on the same connection are answered until it takes nothing new.
    let mut answered = 0;
    while let Ok(answer) = sender.send_request(get("/api/public/version")).await {
        answered += u32::from(answer.status() == 200);
    }
    assert!(answered > 0);
    let (done, node) = upgraded.await.unwrap();
    assert!(done.stderr.contains("1 requests on 1.0.0 were cut at the drain deadline"), "{done:?}");
    assert_eq!(node.mapped().len(), 1, "{:?}", node.status());
    assert!(stalled.into_body().collect().await.is_err(), "its client hears that there is no more");
    let _ = connection.await;
}

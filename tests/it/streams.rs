//! What a release began and cannot hand over: streams, and connections that its router took over. They may end in
//! their own time, within the drain.

use futures_util::SinkExt;
use http_body_util::BodyExt;
use relmgr_testkit::kit::{Node, wait_for};
use tokio_tungstenite::tungstenite::Message;

use crate::client::Connection;
use crate::sessions::{next, open, releases, text};

/// The body of `GET path`, from the head on, as it comes.
async fn read(address: std::net::SocketAddr, path: &'static str) -> Result<String, hyper::Error> {
    let request = http::Request::get(path).header("host", "test");
    let request = request.body(http_body_util::Full::default()).unwrap();
    let mut connection = Connection::open(address).await;
    let response = connection.send(request).await?;
    Ok(String::from_utf8_lossy(&response.into_body().collect().await?.to_bytes()).into_owned())
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

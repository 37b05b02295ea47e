//! What applications use works inside a library: tokio, reqwest, sqlx, streams in both directions, panics.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Connection, eventually, get, get_h2};
use relmgr_model::children::{ChildState, Kind, Restart, Strategy};
use relmgr_testkit::kit::{Node, release, wait_for};

fn kitchen() -> Node {
    Node::serving("relmgr-kitchen", "", &[&release("kitchen", "", "1.0.0")])
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_sockets_tasks_databases_and_thread_locals_work_and_are_cleaned_up_after() {
    let node = Node::serving(
        "relmgr-kitchen",
        "",
        &[&release("kitchen", "", "1.0.0"), &release("kitchen", "", "1.0.1")],
    );
    let address = node.address();
    let fetch = format!("/fetch?url=http://{address}/greeting");
    for round in 1..=2 {
        assert_eq!(get(address, "/timer").await, (200, "rang".into()));
        assert_eq!(get(address, &fetch).await, (200, "hello".into()));
        assert_eq!(get(address, "/db").await, (200, "1".into()), "each generation has a database of its own");
        assert_eq!(get(address, "/spawn").await, (200, "spawned".into()));
        assert_eq!(get(address, "/blocking").await, (200, "blocked".into()));
        assert_eq!(get(address, "/tls").await.0, 200);
        if round == 1 {
            let done = node.relmgr(&["upgrade"]).ok();
            assert!(done.stderr.contains("1.0.0 unmapped"), "{done:?}");
        }
    }
    assert_eq!(node.mapped().len(), 1, "{:?}", node.mapped());
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_cross_with_order_duplicates_and_the_facts_of_the_connection() {
    let node = kitchen();
    let mut connection = Connection::open(node.address()).await;
    let request = Request::get("/headers").header("host", "x").body(Full::default()).unwrap();
    let response = connection.send(request).await.unwrap();
    assert_eq!(response.status(), 418);
    let seen: Vec<_> = response
        .headers()
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-") || *name == "set-cookie")
        .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
        .collect();
    assert_eq!(seen, ["x-one=1", "set-cookie=a=1", "set-cookie=b=2", "x-two=2"]);
    let who: serde_json::Value = serde_json::from_str(&get(node.address(), "/who").await.1).unwrap();
    assert_eq!(who["local"], node.address().to_string());
    assert!(who["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!((&who["tls"], &who["http"]), (&false.into(), &"HTTP/1.1".into()));
    assert_eq!((&who["still"], &who["elsewhere"]), (&true.into(), &false.into()), "{who}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bodys_length_is_said_once() {
    let node = kitchen();
    let mut connection = Connection::open(node.address()).await;
    // Small and whole, without a body, large and whole, of no known length.
    for (method, path, length) in [
        ("GET", "/greeting", Some("5")),
        ("HEAD", "/greeting", Some("5")),
        ("GET", "/large", Some("100000")),
        ("GET", "/stream", None),
    ] {
        let request = Request::builder().method(method).uri(path).header("host", "x");
        let response = connection.send(request.body(Full::default()).unwrap()).await.unwrap();
        let lengths: Vec<_> = response.headers().get_all("content-length").iter().cloned().collect();
        assert_eq!(lengths, length.into_iter().collect::<Vec<_>>(), "{method} {path}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let length = length.filter(|_| method == "GET");
        assert!(length.is_none_or(|length| length == body.len().to_string()), "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_with_prior_knowledge_works_with_trailers() {
    let node = kitchen();
    let (status, body, trailers) = get_h2(node.address(), "/trailers").await;
    assert_eq!((status, body.as_str()), (200, "with trailers"));
    assert_eq!(trailers.unwrap()["x-checksum"], "42");
    let (_, who, _) = get_h2(node.address(), "/who").await;
    assert!(who.contains("HTTP/2.0"), "{who}");
    assert_eq!(get_h2(node.address(), "/api/public/version").await.1, "1.0.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_and_uploads_stream_and_are_never_gathered() {
    let node = kitchen();
    let (status, body) = get(node.address(), "/stream").await;
    let expected: String = (0..10).map(|number| format!("chunk {number}\n")).collect();
    assert_eq!((status, body), (200, expected));

    const SIZE: usize = 64 * 1024 * 1024;
    let before = node.resident_kib();
    let mut connection = Connection::open(node.address()).await;
    let upload = Full::new(Bytes::from(vec![7; SIZE]));
    let request = Request::post("/sink").header("host", "x").body(upload).unwrap();
    let response = connection.send(request).await.unwrap();
    let answer = response.into_body().collect().await.unwrap().to_bytes();
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["bytes"], SIZE);
    assert!(answer["largest_frame"].as_u64().unwrap() < 4 * 1024 * 1024, "{answer}");
    let grown = node.resident_kib().saturating_sub(before);
    assert!(grown < (SIZE / 1024) as u64 / 2, "grown by {grown} KiB for an upload of {} KiB", SIZE / 1024);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_echoed_while_it_arrives() {
    let node = kitchen();
    let mut stream = TcpStream::connect(node.address()).await.unwrap();
    stream.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    let mut seen = String::new();
    let mut buffer = [0; 1024];
    for word in ["first", "other"] {
        stream.write_all(format!("5\r\n{word}\r\n").as_bytes()).await.unwrap();
        // The upload is not over: what comes back can only have been streamed.
        while !seen.contains(word) {
            let len = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut buffer))
                .await
                .unwrap()
                .unwrap();
            assert!(len > 0, "closed after {seen}");
            seen.push_str(std::str::from_utf8(&buffer[..len]).unwrap());
        }
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_a_500_and_a_count_and_the_connection_lives_on() {
    let node = kitchen();
    let mut connection = Connection::open(node.address()).await;
    assert_eq!(connection.get("/panic").await.unwrap().0, 500);
    assert_eq!(connection.get("/greeting").await.unwrap(), (200, "hello".into()));
    assert_eq!(node.status().generations[0].panics, 1);
    assert!(node.log().contains("a handler panics on purpose"), "{}", node.log());
    assert_eq!(node.status().host_restarts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_is_seen_as_broken() {
    let node = kitchen();
    for path in ["/broken-stream", "/panicking-stream"] {
        let broken = Connection::open(node.address()).await.get(path).await;
        assert!(broken.is_err(), "{path}: {broken:?}");
    }
    assert_eq!(get(node.address(), "/greeting").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_cancels_its_request() {
    let node = kitchen();
    let mut stream = TcpStream::connect(node.address()).await.unwrap();
    stream.write_all(b"GET /hang HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    wait_for("the request is in flight", || (node.status().generations[0].in_flight == 1).then_some(()));
    drop(stream);
    let address = node.address();
    // The count is the application's own: its future was dropped.
    eventually("the request is cancelled", async || {
        (get(address, "/cancelled").await.1 == "1").then_some(())
    })
    .await;
    wait_for("nothing is in flight", || (node.status().generations[0].in_flight == 0).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn children_run_in_the_current_generation_only() {
    let node = Node::serving(
        "relmgr-kitchen",
        "",
        &[&release("kitchen", "", "1.0.0"), &release("kitchen", "", "1.0.1")],
    );
    let address = node.address();
    let beats = async || {
        eventually("the heart beats", async || {
            (get(address, "/beats").await.1.parse::<u64>().unwrap() >= 3).then_some(())
        })
        .await;
    };
    beats().await;
    node.relmgr(&["upgrade"]).ok();
    beats().await;
    assert_eq!(node.mapped().len(), 1, "the old generation's child has ended: {:?}", node.status());
    let before = node.host_pid();
    node.relmgr(&["restart"]).ok();
    assert_ne!(node.host_pid(), before);
    beats().await;
    assert!(!node.home().join("two-hearts").exists(), "two of them ran at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn children_are_seen_in_status_with_what_became_of_them() {
    let node = Node::serving("relmgr-kitchen", "", &[&release("kitchen", "", "1.0.0")]);
    let generation = || node.status().generations.remove(0);
    let chest = || generation().children.remove(0);
    let is = |state: ChildState, restarts: u64| {
        wait_for("the heart is started again", || {
            let chest = chest();
            let all_are =
                chest.children.iter().all(|child| (child.state, child.restarts) == (state, restarts));
            all_are.then_some(chest)
        })
    };
    let before = is(ChildState::Running, 0);
    assert_eq!((before.name.as_str(), before.kind), ("chest", Kind::Supervisor));
    assert_eq!((before.restart, before.strategy), (Restart::Temporary, Some(Strategy::RestForOne)));
    assert_eq!(before.children.iter().map(|child| &*child.name).collect::<Vec<_>>(), ["heart", "lungs"]);
    assert_eq!(generation().supervisor.unwrap().strategy, Strategy::OneForOne);

    let break_heart = || async {
        let mut connection = Connection::open(node.address()).await;
        let request =
            Request::post("/break-heart").header("host", "x").body(Full::new(Bytes::new())).unwrap();
        assert_eq!(connection.send(request).await.unwrap().status(), 200);
    };
    break_heart().await;
    let after = is(ChildState::Running, 1);
    let words = after.children[0].last_exit.as_deref().unwrap();
    assert!(words.starts_with("panicked: ") && words.contains("broken on purpose"), "{words}");
    assert_eq!(after.children[1].last_exit.as_deref(), Some("ended"));
    let text = node.relmgr(&["status"]).ok().stdout;
    let rows = ["  of generation 1  one_for_one ", "    chest          temporary, rest_for_one  running "];
    for row in rows.iter().chain(&["      heart        permanent ", "broken on purpose"]) {
        assert!(text.contains(row), "no `{row}` in {text}");
    }

    // Once too often: it gives up, which is the end of it, but not of the supervisor above it.
    break_heart().await;
    let chest = wait_for("the chest has given up", || {
        Some(chest()).filter(|chest| chest.state == ChildState::Failed)
    });
    let words = chest.last_exit.unwrap();
    assert!(
        words.starts_with("gave up after starting children again 1 time within 3600s: heart panicked"),
        "{words}"
    );
    assert_eq!(chest.children[0].state, ChildState::Failed);
    assert_eq!(chest.children[1].state, ChildState::Stopped);
    assert_eq!(generation().supervisor.unwrap().state, ChildState::Running);
    assert!(node.log().contains("child chest gave up"), "{}", node.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold() {
    let limits = "[http.limits]\nidle_time = \"300ms\"\nbody_bytes = 1000\nheader_bytes = 8192\n";
    let node = Node::serving("relmgr-kitchen", limits, &[&release("kitchen", "", "1.0.0")]);
    let address = node.address();
    // A body that says its size, and one that does not.
    let mut connection = Connection::open(address).await;
    let request =
        Request::post("/sink").header("host", "x").body(Full::new(Bytes::from(vec![1; 1001]))).unwrap();
    assert_eq!(connection.send(request).await.unwrap().status(), 413);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"POST /sink HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    stream.write_all(format!("7d0\r\n{}\r\n0\r\n\r\n", "x".repeat(2000)).as_bytes()).await.unwrap();
    let answer = read_until_closed(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("http.limits.body_bytes"), "{answer}");
    // A head that is too large.
    let mut large = TcpStream::connect(address).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nhost: x\r\nx-large: {}\r\n\r\n", "x".repeat(20_000));
    let _ = large.write_all(head.as_bytes()).await;
    // The answer may be lost when the rest of the head arrives at a closed socket.
    let answer = read_until_closed(&mut large).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    // A connection that does nothing.
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /greeting HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(read_until_closed(&mut idle).await.ends_with("hello"));
}

/// On a node of its own, and before there is a release: nobody else's head has to be there so soon.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_never_ends_ends_its_connection() {
    let node = Node::serving("relmgr-kitchen", "[http.limits]\nheader_time = \"200ms\"\n", &[]);
    let mut slow = TcpStream::connect(node.address()).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nx-slow: ").await.unwrap();
    assert_eq!(read_until_closed(&mut slow).await, "");
}

async fn read_until_closed(stream: &mut TcpStream) -> String {
    let mut bytes = vec![];
    let read = stream.read_to_end(&mut bytes);
    match tokio::time::timeout(Duration::from_secs(20), read).await {
        // A reset closes too.
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => panic!("the connection stays open after {}", String::from_utf8_lossy(&bytes)),
    }
}

//! What a client may do on one connection of HTTP/2: cancel streams, ask for too much, say nothing more.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use h2::Reason;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderValue, Request};
use relmgr_testkit::kit::{Node, PATIENCE, release, wait_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::eventually;

fn kitchen(settings: &str) -> Node {
    Node::serving("relmgr-kitchen", settings, &[&release("kitchen", "", "1.0.0")])
}

/// A client that keeps to the protocol.
async fn open(address: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    client
}

fn ask(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://node{path}")).body(()).unwrap()
}

/// Status and body of an answer.
async fn whole(answer: ResponseFuture) -> (u16, String) {
    let (head, mut body) = answer.await.unwrap().into_parts();
    let mut text = String::new();
    while let Some(bytes) = body.data().await {
        text.push_str(std::str::from_utf8(&bytes.unwrap()).unwrap());
    }
    (head.status.as_u16(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_cancelled_ends_its_handler_and_no_other_stream() {
    let node = kitchen("");
    let mut client = open(node.address()).await;
    let in_flight = |count: u64| {
        wait_for("so many are in flight", || (node.status().generations[0].in_flight == count).then_some(()));
    };
    let (answer, mut upload) = client.send_request(ask("POST", "/echo"), false).unwrap();
    in_flight(1);
    // By a reset of its own, and by that of a client whose caller does not wait any more.
    for (resets, cancelled) in [(true, "1"), (false, "2")] {
        let (hanging, mut request) = client.send_request(ask("GET", "/hang"), true).unwrap();
        in_flight(2);
        if resets {
            request.send_reset(Reason::CANCEL);
        }
        drop((hanging, request));
        // The count is the application's own: its future was dropped.
        eventually("the handler has been dropped", async || {
            let (answer, _) = client.send_request(ask("GET", "/cancelled"), true).unwrap();
            (whole(answer).await == (200, cancelled.to_owned())).then_some(())
        })
        .await;
        in_flight(1);
    }
    upload.send_data("still here".into(), true).unwrap();
    assert_eq!(whole(answer).await, (200, "still here".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_is_refused_and_the_other_streams_go_on() {
    let node = kitchen("[http.limits]\nheader_bytes = 8192\n");
    assert_eq!(Raw::open(node.address()).await.setting(MAX_HEADER_LIST_SIZE), Some(8192));
    let mut client = open(node.address()).await;
    let (answer, mut upload) = client.send_request(ask("POST", "/echo"), false).unwrap();
    // What comes after it is read right: it was decoded, for the table that the heads share, but not kept.
    for (bytes, status, body) in [(7_000, 200, "hello"), (10_000, 431, ""), (7_000, 200, "hello")] {
        let mut request = ask("GET", "/greeting");
        request.headers_mut().insert("x-large", HeaderValue::from_str(&"x".repeat(bytes)).unwrap());
        let (answer, _) = client.send_request(request, true).unwrap();
        assert_eq!(whole(answer).await, (status, body.to_owned()), "{bytes} bytes");
    }
    upload.send_data("still here".into(), true).unwrap();
    assert_eq!(whole(answer).await, (200, "still here".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_the_limit_are_refused_and_may_be_asked_for_again() {
    let node = kitchen("");
    let mut raw = Raw::open(node.address()).await;
    assert_eq!(raw.setting(MAX_CONCURRENT_STREAMS), Some(128));
    let streams: Vec<u32> = (0..200).map(|number| 2 * number + 1).collect();
    let (served, beyond) = streams.split_at(128);
    assert_eq!(raw.begin(&streams).await, (served.to_vec(), beyond.to_vec()));
    assert_eq!(node.status().generations[0].in_flight, 128);
    raw.finish(served).await;
    let again: Vec<u32> = beyond.iter().map(|stream| stream + 400).collect();
    assert_eq!(raw.begin(&again).await, (again.clone(), vec![]));
    raw.finish(&again).await;

    // A client that keeps to what was announced is answered in all that it asks. Should a stream be refused that it
    // opens when another is just over, it asks again, as it may (RFC 9113, 8.7).
    let client = open(node.address()).await;
    let asking = streams.iter().map(|_| {
        let mut client = client.clone();
        tokio::spawn(async move {
            loop {
                let (answer, _) = client.send_request(ask("GET", "/timer"), true).unwrap();
                match answer.await {
                    Err(error) if error.reason() == Some(Reason::REFUSED_STREAM) => {}
                    answer => break answer.unwrap().status().as_u16(),
                }
            }
        })
    });
    for asking in asking.collect::<Vec<_>>() {
        assert_eq!(asking.await.unwrap(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_confirm_the_goodbye_is_closed_all_the_same() {
    let node = kitchen("[http.limits]\nidle_time = \"300ms\"\n");
    let mut raw = Raw::open(node.address()).await;
    let mut said_goodbye = false;
    while let Some(frame) = raw.read().await {
        said_goodbye |= frame.kind == GOAWAY;
    }
    assert!(said_goodbye);
}

// Kinds of frames, flags and settings (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const MAX_HEADER_LIST_SIZE: u16 = 6;

/// The head of `POST /echo` of the host `node`, in HPACK.
const POST_ECHO: &[u8] = b"\x83\x86\x04\x05/echo\x01\x04node";

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// A client that writes its frames itself, and only those that a test says: it can do what is not allowed.
struct Raw {
    stream: TcpStream,
    /// What the node has announced.
    settings: Vec<u8>,
}

impl Raw {
    async fn open(address: SocketAddr) -> Self {
        let mut raw = Self { stream: TcpStream::connect(address).await.unwrap(), settings: vec![] };
        raw.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        raw.write(SETTINGS, 0, 0, &[]).await;
        let first = raw.read().await.unwrap();
        assert_eq!((first.kind, first.flags), (SETTINGS, 0));
        raw.settings = first.payload;
        raw
    }

    fn setting(&self, id: u16) -> Option<u32> {
        let setting = self.settings.chunks_exact(6).find(|setting| setting[..2] == id.to_be_bytes())?;
        Some(u32::from_be_bytes(setting[2..].try_into().unwrap()))
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.stream.write_all(&frame).await.unwrap();
    }

    /// The next frame; `None`: the connection is over.
    async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        let read = timeout(PATIENCE, self.stream.read_exact(&mut head)).await;
        read.expect("the node says nothing, and leaves the connection open").ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// Begins an upload on each of the streams; which of them are answered, and which are refused.
    async fn begin(&mut self, streams: &[u32]) -> (Vec<u32>, Vec<u32>) {
        for stream in streams {
            self.write(HEADERS, END_HEADERS, *stream, POST_ECHO).await;
        }
        let (mut answered, mut refused) = (vec![], vec![]);
        while answered.len() + refused.len() < streams.len() {
            let frame = self.read().await.expect("the connection stays open");
            match frame.kind {
                HEADERS => answered.push(frame.stream),
                RST_STREAM => {
                    assert_eq!(frame.payload, u32::from(Reason::REFUSED_STREAM).to_be_bytes());
                    refused.push(frame.stream);
                }
                _ => {}
            }
        }
        answered.sort_unstable();
        refused.sort_unstable();
        (answered, refused)
    }

    /// Ends the uploads on these streams, and reads what comes back of them.
    async fn finish(&mut self, streams: &[u32]) {
        for stream in streams {
            self.write(DATA, END_STREAM, *stream, b"hello").await;
        }
        let (mut echoed, mut ended) = (BTreeMap::<u32, Vec<u8>>::new(), 0);
        while ended < streams.len() {
            let frame = self.read().await.expect("the connection stays open");
            assert_ne!(frame.kind, RST_STREAM, "{}: {:?}", frame.stream, frame.payload);
            if frame.kind == DATA {
                echoed.entry(frame.stream).or_default().extend(&frame.payload);
                ended += usize::from(frame.flags & END_STREAM != 0);
            }
        }
        let sent: BTreeMap<_, _> = streams.iter().map(|stream| (*stream, b"hello".to_vec())).collect();
        assert_eq!(echoed, sent);
    }
}

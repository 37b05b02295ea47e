//! TLS on the public listeners: real handshakes with real certificates, exchanged while the node runs.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::signal::{Signal, kill};
use relmgr_testkit::kit::{Node, Release, release, wait_for};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::eventually;
use crate::sessions;

/// A certificate for `names` and its key, as PEM.
fn certificate(names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn write(directory: &Path, name: &str, (certificate, key): &(String, String)) {
    // As an ACME client does: new files, renamed over the old ones.
    for (end, text) in [("key", key), ("pem", certificate)] {
        let new = directory.join(format!("{name}.{end}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, directory.join(format!("{name}.{end}"))).unwrap();
    }
}

/// A node with one listener, which speaks TLS with `certificates`, that does not run yet.
fn encrypted(app: &str, certificates: &[(&str, &(String, String))], releases: &[&Release]) -> Node {
    let tables = certificates.iter().map(|(name, pair)| (name, pair));
    let extra: String = tables
        .clone()
        .map(|(name, _)| format!("[[tls]]\ncertificate = \"{name}.pem\"\nkey = \"{name}.key\"\n"))
        .collect();
    let node = Node::new(app, &extra);
    for (name, pair) in tables {
        write(&node.home(), name, pair);
    }
    let path = node.home().join("relmgr.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, text.replacen("http = [", "http = []\nhttps = [", 1)).unwrap();
    for release in releases {
        node.publish(release);
    }
    node
}

fn client(trusted: &[&(String, String)], protocols: &[&str]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for (certificate, _) in trusted {
        roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

async fn connect(
    address: SocketAddr,
    name: &str,
    client: &TlsConnector,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    client.connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
}

/// Whether a client that trusts only `trusted` is served under `name`.
async fn serves(address: SocketAddr, name: &str, trusted: &(String, String)) -> bool {
    connect(address, name, &client(&[trusted], &[])).await.is_ok()
}

/// A keep-alive connection of HTTP/1.1 over TLS.
struct Connection(http1::SendRequest<Full<Bytes>>);

impl Connection {
    async fn open(address: SocketAddr, name: &str, trusted: &(String, String)) -> Self {
        let stream = connect(address, name, &client(&[trusted], &["http/1.1"])).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    async fn get(&mut self, path: &str) -> (u16, String) {
        self.0.ready().await.unwrap();
        let request = Request::get(path).header("host", "test").body(Full::default()).unwrap();
        let response = self.0.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }
}

/// The connection is the host's, and so is what was agreed on for it: releases come and go above it.
#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_websocket_lives_across_ten_upgrades_and_a_renewed_certificate() {
    let (one, two) = sessions::releases();
    let pair = certificate(&["poll.example"]);
    let mut node = encrypted("relmgr-sessions", &[("poll", &pair)], &[&one, &two]);
    node.start();
    node.relmgr(&["upgrade", "1.0.0"]).ok();
    let stop = Arc::new(AtomicBool::new(false));
    let mut chats = vec![];
    for _ in 0..5 {
        let client = client(&[&pair], &["http/1.1"]);
        let stream = connect(node.address(), "poll.example", &client).await.unwrap();
        let opened = tokio_tungstenite::client_async("wss://poll.example/echo", stream).await;
        chats.push(tokio::spawn(sessions::chat(opened.unwrap().0, stop.clone())));
    }
    for round in 0..5 {
        node.relmgr(&["upgrade", "1.0.1"]).ok();
        if round == 2 {
            let renewed = certificate(&["poll.example"]);
            write(&node.home(), "poll", &renewed);
            let address = node.address();
            eventually("the renewed certificate is served", async || {
                serves(address, "poll.example", &renewed).await.then_some(())
            })
            .await;
        }
        node.relmgr(&["downgrade"]).ok();
        assert_eq!(node.mapped().len(), 1, "{:?}", node.status());
    }
    stop.store(true, Ordering::Relaxed);
    for chat in chats {
        let (asked, versions) = chat.await.unwrap();
        assert!(asked > 10 && versions.len() >= 10, "{asked} {versions:?}");
    }
    assert_eq!(node.status().sessions.unwrap().totals.begun, 5, "nobody came a second time");
}

async fn get_h2(address: SocketAddr, name: &str, trusted: &(String, String), path: &str) -> String {
    let stream = connect(address, name, &client(&[trusted], &["h2", "http/1.1"])).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("https://{name}{path}")).body(Full::<Bytes>::default()).unwrap();
    let body = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    String::from_utf8_lossy(&body.to_bytes()).into_owned()
}

fn error_of(node: &Node, at: usize) -> Option<String> {
    let certificates = node.status().tls.expect("it speaks TLS").certificates;
    certificates[at].error.clone().map(|error| error.text)
}

#[tokio::test(flavor = "multi_thread")]
async fn both_protocols_are_spoken_and_the_application_learns_what_was_agreed_on() {
    let pair = certificate(&["poll.example"]);
    let releases = [release("kitchen", "", "1.0.0"), release("kitchen", "", "1.0.1")];
    let mut node = encrypted("relmgr-kitchen", &[("a", &pair)], &[&releases[0], &releases[1]]);
    node.start();
    // The walk asks the version endpoint, and there is no listener without TLS.
    node.relmgr(&["upgrade", "1.0.0"]).ok();
    let address = node.address();
    let mut connection = Connection::open(address, "poll.example", &pair).await;
    let who = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let told = who(&connection.get("/who").await.1);
    assert_eq!(told["tls"], true);
    assert_eq!(told["http"], "HTTP/1.1");
    let agreed =
        |protocol| serde_json::json!(["TLSv1_3", "TLS13_AES_256_GCM_SHA384", "poll.example", protocol]);
    assert_eq!(told["agreed"], agreed("http/1.1"));
    let told = who(&get_h2(address, "poll.example", &pair, "/who").await);
    assert_eq!((&told["http"], &told["agreed"]), (&"HTTP/2.0".into(), &agreed("h2")));
    // The connection stays across the swap.
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    assert_eq!(connection.get("/api/public/version").await, (200, "1.0.1".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_that_a_client_asks_for_chooses_the_certificate() {
    let (first, second) = (certificate(&["a.example"]), certificate(&["*.b.example", "127.0.0.1"]));
    let mut node =
        encrypted("relmgr-faulty", &[("a", &first), ("b", &second)], &[&release("faulty", "", "1.0.0")]);
    node.start();
    let address = node.address();
    assert!(serves(address, "a.example", &first).await);
    assert!(serves(address, "x.b.example", &second).await);
    assert!(!serves(address, "x.b.example", &first).await);
    // A name that none is for is given the first one, and refuses it.
    let error = connect(address, "c.example", &client(&[&first], &[])).await.unwrap_err().to_string();
    assert!(error.contains("not valid for name \"c.example\""), "{error}");
    let status = node.status();
    assert!(status.listeners.is_empty());
    let names: Vec<_> = status.tls.unwrap().certificates.into_iter().map(|one| one.names).collect();
    assert_eq!(names, [vec!["a.example".to_owned()], vec!["*.b.example".into(), "127.0.0.1".into()]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_served_and_a_broken_one_is_not() {
    let (old, new) = (certificate(&["poll.example"]), certificate(&["poll.example"]));
    let mut node = encrypted("relmgr-faulty", &[("a", &old)], &[&release("faulty", "", "1.0.0")]);
    node.start();
    node.relmgr(&["upgrade", "1.0.0"]).ok();
    let address = node.address();
    let mut before = Connection::open(address, "poll.example", &old).await;
    write(&node.home(), "a", &new);
    let served = async |trusted| serves(address, "poll.example", trusted).await;
    eventually("the renewed certificate is served", async || served(&new).await.then_some(())).await;
    assert!(!served(&old).await);
    // Who was connected stays connected.
    assert_eq!(before.get("/").await, (200, "1.0.0".into()));

    // A key that belongs to another certificate: as it is for a moment while both files are exchanged one by one.
    std::fs::write(node.home().join("a.key"), &certificate(&["poll.example"]).1).unwrap();
    wait_for("the broken key is told", || error_of(&node, 0));
    assert!(error_of(&node, 0).unwrap().contains("a.pem: certificate and key do not go together"));
    assert!(served(&new).await);
    let done = node.relmgr(&["reload"]).ok();
    assert!(done.stderr.contains("do not go together: the certificate from before stays"), "{done:?}");
    // Nor does the next host serve it.
    let host = node.host_pid();
    kill(host, Signal::SIGKILL).unwrap();
    wait_for("the next host serves", || {
        node.status().host_pid.filter(|pid| *pid != host.as_raw().unsigned_abs())
    });
    eventually("the next host serves what the last one did", async || served(&new).await.then_some(())).await;

    write(&node.home(), "a", &new);
    wait_for("nothing is wrong any more", || error_of(&node, 0).is_none().then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_with_what_can_be_served_and_not_with_nothing() {
    let (good, broken) = (certificate(&["a.example"]), ("no PEM".to_owned(), "nor this".to_owned()));
    let faulty = release("faulty", "", "1.0.0");
    let mut node = encrypted("relmgr-faulty", &[("b", &broken), ("a", &good)], &[&faulty]);
    node.start();
    assert!(serves(node.address(), "a.example", &good).await);
    assert!(error_of(&node, 0).unwrap().contains("b.pem: no certificate stands in it"));
    drop(node);

    let mut node = encrypted("relmgr-faulty", &[("b", &broken)], &[&faulty]);
    let done = node.relmgr(&["run"]).failed(1, &["listen.https has no certificate that can be served"]);
    assert!(done.stderr.contains("b.pem: no certificate stands in it"), "{done:?}");
    write(&node.home(), "b", &good);
    node.start();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_shakes_hands_is_let_go_and_keeps_nobody() {
    let pair = certificate(&["a.example"]);
    let mut node = encrypted("relmgr-faulty", &[("a", &pair)], &[&release("faulty", "", "1.0.0")]);
    let path = node.home().join("relmgr.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}\n[http.limits]\nheader_time = \"200ms\"\n")).unwrap();
    node.start();
    let mut silent = TcpStream::connect(node.address()).await.unwrap();
    // Nor is plain HTTP an answer to anything.
    assert!(serves(node.address(), "a.example", &pair).await);
    let read = tokio::time::timeout(relmgr_testkit::kit::PATIENCE, silent.read(&mut [0; 16])).await;
    assert_eq!(read.expect("the silent client is let go").unwrap_or(0), 0);
}

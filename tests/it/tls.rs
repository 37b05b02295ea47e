//! TLS on the public listeners: real handshakes with real certificates, exchanged while the node runs.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::signal::{Signal, kill};
use relmgr_testkit::kit::{Done, Node, Release, release, wait_for};
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
    let mut chats = sessions::Chats::default();
    for _ in 0..5 {
        let client = client(&[&pair], &["http/1.1"]);
        let stream = connect(node.address(), "poll.example", &client).await.unwrap();
        let opened = tokio_tungstenite::client_async("wss://poll.example/echo", stream).await;
        chats.begin(opened.unwrap().0);
    }
    chats.have_met(1);
    for round in 1..=5 {
        node.relmgr(&["upgrade", "1.0.1"]).ok();
        chats.have_met(2 * round);
        if round == 3 {
            let renewed = certificate(&["poll.example"]);
            write(&node.home(), "poll", &renewed);
            let address = node.address();
            eventually("the renewed certificate is served", async || {
                serves(address, "poll.example", &renewed).await.then_some(())
            })
            .await;
        }
        node.relmgr(&["downgrade"]).ok();
        chats.have_met(2 * round + 1);
        assert_eq!(node.mapped().len(), 1, "{:?}", node.status());
    }
    chats.end(11).await;
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
    // A busy machine may take longer for the handshake of one that does shake hands.
    let address = node.address();
    eventually("another is served", async || serves(address, "a.example", &pair).await.then_some(())).await;
    let read = tokio::time::timeout(relmgr_testkit::kit::PATIENCE, silent.read(&mut [0; 16])).await;
    assert_eq!(read.expect("the silent client is let go").unwrap_or(0), 0);
}

/// `openssl s_client` at the node, asking for the certificate of `a.example`.
fn openssl(node: &Node, args: &[&str]) -> Done {
    let address = node.address().to_string();
    let trusted = node.home().join("a.pem").display().to_string();
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address, "-servername", "a.example", "-CAfile", &trusted]);
    let done = command.args(args).stdin(Stdio::null()).output();
    done.unwrap_or_else(|error| panic!("openssl is missing ({error}): `cargo xtask setup`")).into()
}

/// What a client of OpenSSL's is agreed on with.
#[test]
fn old_protocols_and_ciphers_are_refused_and_a_protocol_is_chosen_among_those_that_a_client_knows() {
    let pair = certificate(&["a.example"]);
    let mut node = encrypted("relmgr-faulty", &[("a", &pair)], &[&release("faulty", "", "1.0.0")]);
    node.start();
    // The alert is the server's: the client has offered what it was told to.
    for old in ["-tls1", "-tls1_1"] {
        openssl(&node, &[old, "-cipher", "DEFAULT@SECLEVEL=0"]).failed(1, &["SSL alert number"]);
    }
    let weak = "AES128-SHA:AES128-GCM-SHA256:ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384:@SECLEVEL=0";
    openssl(&node, &["-tls1_2", "-cipher", weak]).failed(1, &["SSL alert number"]);
    for (new, agreed) in
        [("-tls1_2", "New, TLSv1.2, Cipher is ECDHE-ECDSA-"), ("-tls1_3", "New, TLSv1.3, Cipher is TLS_")]
    {
        let done = openssl(&node, &[new, "-verify_return_error"]).ok();
        assert!(done.stdout.contains(agreed), "{done:?}");
        assert!(done.stdout.contains("Verification: OK"), "{done:?}");
    }
    // The server's order counts.
    for (offered, chosen) in [
        ("http/1.1,h2", "ALPN protocol: h2"),
        ("http/1.1", "ALPN protocol: http/1.1"),
        ("spdy/3,http/1.1", "ALPN protocol: http/1.1"),
    ] {
        let done = openssl(&node, &["-alpn", offered]).ok();
        assert!(done.stdout.contains(chosen), "{offered}: {done:?}");
    }
    let done = openssl(&node, &[]).ok();
    assert!(done.stdout.contains("No ALPN negotiated"), "{done:?}");
    openssl(&node, &["-alpn", "spdy/3,acme-tls/1"]).failed(1, &["alert no application protocol"]);
}

/// Certificates as a CA's client makes them: an RSA key in each of its forms, and keys that fit none of them.
#[test]
fn keys_of_every_kind_are_served_and_one_that_does_not_fit_is_refused() {
    let made = tempfile::tempdir().unwrap();
    let make = |name: &str, kind: &[&str]| {
        let path = |end: &str| made.path().join(format!("{name}.{end}")).display().to_string();
        let (key, certificate) = (path("key"), path("pem"));
        let mut command = Command::new("openssl");
        command
            .args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=a.example", "-newkey"])
            .args(kind);
        command.args(["-addext", "subjectAltName=DNS:a.example", "-keyout", &key, "-out", &certificate]);
        Done::from(command.output().unwrap()).ok();
        let read = |path: &str| std::fs::read_to_string(path).unwrap();
        (read(&certificate), read(&key))
    };
    let rsa = make("rsa", &["rsa:2048"]);
    let other = make("other", &["rsa:2048"]);
    let ec = make("ec", &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let ed25519 = make("ed", &["ed25519"]);
    let traditional = {
        let mut command = Command::new("openssl");
        command.args(["rsa", "-traditional", "-in"]).arg(made.path().join("rsa.key"));
        (rsa.0.clone(), Done::from(command.output().unwrap()).ok().stdout)
    };
    assert!(traditional.1.contains("BEGIN RSA PRIVATE KEY"), "{}", traditional.1);

    let faulty = release("faulty", "", "1.0.0");
    let mut node = encrypted("relmgr-faulty", &[("a", &rsa)], &[&faulty]);
    // At the start nothing fits.
    for (certificate, key) in [(&rsa.0, &other.1), (&rsa.0, &ec.1), (&ec.0, &ed25519.1)] {
        write(&node.home(), "a", &(certificate.clone(), key.clone()));
        node.relmgr(&["run"]).failed(1, &["a.pem: certificate and key do not go together: left out"]);
    }
    write(&node.home(), "a", &rsa);
    node.start();
    let served = |node: &Node, pair: &(String, String)| {
        let done = openssl(node, &["-showcerts"]);
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>().join("\n");
        done.stdout.contains(lines(&pair.0).trim())
    };
    for pair in [&traditional, &ec, &ed25519, &rsa] {
        write(&node.home(), "a", pair);
        wait_for("it is served", || served(&node, pair).then_some(()));
        assert_eq!(error_of(&node, 0), None);
    }
    write(&node.home(), "a", &(ec.0.clone(), rsa.1.clone()));
    let words = wait_for("the key that does not fit is told", || error_of(&node, 0));
    assert!(
        words.ends_with("certificate and key do not go together: the certificate from before stays"),
        "{words}"
    );
    assert!(served(&node, &rsa));
}

/// A certificate for `a.example` that is valid from `from` until `until`, in seconds from now.
fn dated(from: i64, until: i64) -> (String, String) {
    let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    let at = |seconds| SystemTime::from(Utc::now() + TimeDelta::seconds(seconds)).into();
    (params.not_before, params.not_after) = (at(from), at(until));
    let key = rcgen::KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

const DAY: i64 = 86_400;

#[test]
fn a_certificate_that_is_not_valid_now_is_served_at_a_start_and_replaces_none_that_is() {
    let (expired, early) = (dated(-9 * DAY, -DAY), dated(DAY, 9 * DAY));
    let good = certificate(&["a.example"]);
    for (bad, words, verdict) in [
        (&expired, "the certificate expired at", "certificate has expired"),
        (&early, "the certificate is not valid before", "certificate is not yet valid"),
    ] {
        let mut node = encrypted("relmgr-faulty", &[("a", bad)], &[&release("faulty", "", "1.0.0")]);
        node.start();
        let told = error_of(&node, 0).expect("it is told");
        assert!(told.contains(words), "{told}");
        assert!(told.ends_with(": it is served all the same, for want of another"), "{told}");
        assert!(node.log().contains(&told), "{}", node.log());
        let shown = node.relmgr(&["status"]).ok().stdout;
        assert!(shown.contains(&told), "{shown}");
        // Who looks at the dates refuses it, and whoever does not is served.
        let done = openssl(&node, &[]).ok();
        assert!(done.stdout.contains(verdict), "{done:?}");
        openssl(&node, &["-verify_return_error"]).failed(1, &["certificate verify failed"]);
        node.relmgr(&["upgrade", "1.0.0"]).ok();

        write(&node.home(), "a", &good);
        wait_for("the good one is served", || {
            (openssl(&node, &["-verify_return_error"]).code == 0).then_some(())
        });
        wait_for("nothing is wrong", || error_of(&node, 0).is_none().then_some(()));
        let done = node.relmgr(&["reload"]).ok();
        assert!(!done.stderr.contains("certificate"), "{done:?}");
        write(&node.home(), "a", bad);
        // Between its two files' renames they do not go together, which may be told, too.
        let told =
            wait_for("the bad one is told", || error_of(&node, 0).filter(|error| error.contains(words)));
        assert!(told.ends_with(": the certificate from before stays"), "{told}");
        let done = node.relmgr(&["reload"]).ok();
        assert!(done.stderr.contains(": the certificate from before stays"), "{done:?}");
        // The good one's file holds another one now.
        std::fs::write(node.home().join("good.pem"), &good.0).unwrap();
        let trusted = node.home().join("good.pem").display().to_string();
        openssl(&node, &["-verify_return_error", "-CAfile", &trusted]).ok();
    }
}

/// Nobody touches the files: one comes to be valid, another one is valid no more.
#[test]
fn the_time_of_a_certificate_comes_and_goes_without_a_change_of_its_files() {
    let mut node = encrypted(
        "relmgr-faulty",
        &[("a", &certificate(&["a.example"]))],
        &[&release("faulty", "", "1.0.0")],
    );
    node.start();
    let ends = |node: &Node| node.status().tls.unwrap().certificates[0].not_after.map(|at| at.timestamp());
    let seconds = |pair: &(String, String)| {
        let words = ["x509", "-noout", "-enddate", "-dateopt", "iso_8601"];
        let mut command = Command::new("openssl");
        std::fs::write(node.home().join("looked-at"), &pair.0).unwrap();
        let done =
            Done::from(command.args(words).arg("-in").arg(node.home().join("looked-at")).output().unwrap())
                .ok();
        let text = done.stdout.trim().trim_start_matches("notAfter=").replace(' ', "T");
        DateTime::parse_from_rfc3339(&text).unwrap().timestamp()
    };
    // A machine may be so slow that its time has come before it is looked at: then there is more time.
    let early = (2..).map(|power| dated(1 << power, DAY)).find(|early| {
        write(&node.home(), "a", early);
        wait_for("it is refused, or served", || {
            let refused = error_of(&node, 0).is_some_and(|error| error.contains("is not valid before"));
            (refused || ends(&node) == Some(seconds(early))).then_some(refused)
        })
    });
    let early = early.unwrap();
    wait_for("its time has come", || (ends(&node) == Some(seconds(&early))).then_some(()));
    assert_eq!(error_of(&node, 0), None);

    let late = (2..).map(|power| dated(-DAY, 1 << power)).find(|late| {
        write(&node.home(), "a", late);
        wait_for("it is served, or refused", || {
            let served = ends(&node) == Some(seconds(late));
            // For its own end, not for that of the one before it.
            let end = DateTime::from_timestamp(seconds(late), 0).unwrap();
            let refused = error_of(&node, 0).is_some_and(|error| {
                error.contains(&format!("expired at {end}")) && error.ends_with("from before stays")
            });
            (served || refused).then_some(served)
        })
    });
    let late = late.unwrap();
    let told = wait_for("its time is over", || {
        error_of(&node, 0).filter(|error| error.ends_with("for want of another"))
    });
    assert!(
        told.contains("expired at") && told.ends_with(": it is served all the same, for want of another"),
        "{told}"
    );
    assert_eq!(ends(&node), Some(seconds(&late)));
    openssl(&node, &[]).ok();
}

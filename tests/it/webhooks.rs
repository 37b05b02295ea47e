//! Those who are told what happens: webhooks that answer, hang and fail, and commands that misbehave.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use relmgr_store::digest;
use relmgr_testkit::kit::{Node, Release, release, wait_for};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

const SECRET: &str = "hunter4-hunter4";

/// How a request is answered.
#[derive(Clone, Copy, PartialEq)]
enum Reply {
    Status(u16),
    /// Not at all, as long as the client waits.
    Never,
}

/// A notification as it came.
#[derive(Clone, Debug)]
struct Heard {
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Heard {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A server that is told: the first requests are answered by `script`, the others with 204.
struct Receiver {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    /// As long as this is set, every request is answered with 503.
    refuses: Arc<AtomicBool>,
}

/// A connection, encrypted or not.
trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

/// Who has signed a server's certificate, and the server's part of TLS.
struct Signed {
    authority: String,
    server: Arc<ServerConfig>,
}

/// An authority of this name that nobody knows, and a certificate of its own for 127.0.0.1.
fn signed(name: &str) -> Signed {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    Signed { authority: authority.pem(), server: Arc::new(server) }
}

impl Receiver {
    fn start(script: &[Reply]) -> Self {
        Self::start_with(script, None)
    }

    /// With TLS where `tls` says how.
    fn start_with(script: &[Reply], tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(vec![]));
        let refuses = Arc::new(AtomicBool::new(false));
        let (script, told, refusing) = (script.to_vec(), heard.clone(), refuses.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), told) = (stream, told.clone()) else { return };
                let stream: Box<dyn Stream> = match &tls {
                    Some(tls) => {
                        Box::new(StreamOwned::new(ServerConnection::new(tls.clone()).unwrap(), stream))
                    }
                    None => Box::new(stream),
                };
                let at = told.lock().unwrap().len();
                let reply = match refusing.load(Ordering::SeqCst) {
                    true => Reply::Status(503),
                    false => script.get(at).copied().unwrap_or(Reply::Status(204)),
                };
                // Heard before the next one is accepted: the order is theirs.
                let Some(stream) = hear(stream, &told) else { continue };
                std::thread::spawn(move || answer(stream, reply));
            }
        });
        Self { address, heard, refuses }
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// The words of the first `count` events, once so many have come.
    fn events(&self, count: usize) -> Vec<String> {
        let heard = wait_for(&format!("{count} notifications"), || {
            let heard = self.heard();
            (heard.len() >= count).then_some(heard)
        });
        heard.iter().map(|heard| heard.json()["event"].as_str().unwrap().to_owned()).collect()
    }
}

fn hear(mut stream: Box<dyn Stream>, told: &Mutex<Vec<Heard>>) -> Option<Box<dyn Stream>> {
    // One request a connection: nothing of another one is read along.
    let mut reader = BufReader::new(&mut stream);
    let mut headers = vec![];
    let mut line = String::new();
    while reader.read_line(&mut line).ok()? > 2 {
        if let Some((name, value)) = line.trim_end().split_once(": ") {
            headers.push((name.to_owned(), value.to_owned()));
        }
        line.clear();
    }
    let mut heard = Heard { headers, body: vec![] };
    let length = heard.header("content-length").parse().ok()?;
    heard.body.resize(length, 0);
    reader.read_exact(&mut heard.body).ok()?;
    told.lock().unwrap().push(heard);
    Some(stream)
}

fn answer(mut stream: Box<dyn Stream>, reply: Reply) {
    match reply {
        Reply::Status(status) => {
            let _ =
                write!(stream, "HTTP/1.1 {status} Reply\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
        // Until the client goes away.
        Reply::Never => drop(stream.read(&mut [0])),
    }
}

/// HMAC-SHA256 after RFC 2104, of what the store has for digests.
fn hmac(key: &str, message: &[u8]) -> String {
    let pad = |byte: u8| -> Vec<u8> {
        (0..64).map(|at| key.as_bytes().get(at).copied().unwrap_or(0) ^ byte).collect()
    };
    let inner = digest::of_bytes(&[pad(0x36), message.to_vec()].concat()).sha256;
    let inner: Vec<u8> =
        (0..64).step_by(2).map(|at| u8::from_str_radix(&inner[at..at + 2], 16).unwrap()).collect();
    digest::of_bytes(&[pad(0x5c), inner].concat()).sha256
}

fn releases() -> (Release, Release) {
    (release("faulty", "", "1.0.0"), release("faulty", "second", "1.0.1"))
}

/// A node that tells `receiver`; `more` goes into its `[[webhooks]]`.
fn node(app: &str, receiver: &Receiver, more: &str, published: &[&Release]) -> Node {
    let webhook = format!("[[webhooks]]\nurl = \"http://{}/T0K3N/path\"\n{more}\n", receiver.address);
    let mut node = Node::new(app, &webhook);
    for release in published {
        node.publish(release);
    }
    node.start_with(&[("RELMGR_TEST_SECRET", SECRET)]);
    node
}

#[test]
fn a_webhook_is_told_once_of_each_event_signed_and_in_order() {
    let ((one, two), broken) = (releases(), release("faulty", "start-fails", "1.0.2"));
    let receiver = Receiver::start(&[]);
    let node = node("relmgr-faulty", &receiver, "secret = \"${RELMGR_TEST_SECRET}\"", &[&one, &two, &broken]);
    node.relmgr(&["upgrade", "1.0.0"]).ok();
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    node.relmgr(&["upgrade", "1.0.2"]).failed(1, &["1.0.2"]);
    // Nothing to be told of.
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    node.relmgr(&["check", "1.0.1"]).ok();
    node.relmgr(&["downgrade"]).ok();
    let expected =
        ["started", "committed", "started", "committed", "started", "failed", "started", "committed"];
    assert_eq!(receiver.events(8), expected, "what changes nothing is not told");
    let heard = receiver.heard();
    let ids: std::collections::BTreeSet<_> =
        heard.iter().map(|heard| heard.header("relmgr-delivery")).collect();
    assert_eq!(ids.len(), heard.len());
    for heard in &heard {
        let message = [heard.header("relmgr-timestamp").as_bytes(), b".", &heard.body].concat();
        assert_eq!(heard.header("relmgr-signature"), format!("v1={}", hmac(SECRET, &message)));
        assert_eq!(heard.header("relmgr-attempt"), "1");
    }
    let failed = heard[5].json();
    assert_eq!((&failed["app"], &failed["from"]), (&"relmgr-faulty".into(), &"1.0.1".into()));
    assert_eq!((&failed["kind"], &failed["to"]), (&"upgrade".into(), &"1.0.2".into()));
    assert!(failed["error"].as_str().is_some_and(|error| !error.is_empty()), "{failed}");
    // Neither the secret nor the address's path goes anywhere.
    let history = std::fs::read_to_string(node.home().join("history.jsonl")).unwrap();
    let status = node.relmgr(&["status", "--json"]).ok().stdout;
    for text in [node.log(), history, status] {
        assert!(!text.contains(SECRET) && !text.contains("T0K3N"), "{text}");
    }
}

#[test]
fn a_webhook_that_hangs_and_fails_is_told_again_and_holds_up_no_upgrade() {
    let (one, two) = releases();
    let receiver = Receiver::start(&[Reply::Never, Reply::Status(503)]);
    let node = node("relmgr-faulty", &receiver, "timeout = \"3s\"", &[&one, &two]);
    node.relmgr(&["upgrade", "1.0.0"]).ok();
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    assert_eq!(node.current().as_deref(), Some("1.0.1"));
    // The first one is tried three times, and what comes after it keeps its place.
    let expected = ["started", "started", "started", "committed", "started", "committed"];
    assert_eq!(receiver.events(6), expected);
    let heard = receiver.heard();
    let tries: Vec<_> = heard[..3].iter().map(|heard| heard.header("relmgr-attempt")).collect();
    assert_eq!(tries, ["1", "2", "3"]);
    assert!(
        heard[..3].iter().all(|try_| try_.header("relmgr-delivery") == heard[0].header("relmgr-delivery"))
    );
    assert_eq!(heard[3].header("relmgr-signature"), "", "there is no secret to sign with");
}

#[test]
fn a_webhook_that_hangs_for_ever_holds_up_nothing_and_what_does_not_fit_is_dropped() {
    let (one, two) = releases();
    let receiver = Receiver::start(&[Reply::Never]);
    let mut node = node("relmgr-faulty", &receiver, "timeout = \"1h\"", &[&one, &two]);
    node.relmgr(&["upgrade", "1.0.0"]).ok();
    wait_for("the first one hangs", || (receiver.heard().len() == 1).then_some(()));
    // Two events each, for more than the 256 that may wait.
    for version in ["1.0.1", "1.0.0"].iter().cycle().take(130) {
        let kind = if *version == "1.0.1" { "upgrade" } else { "downgrade" };
        node.relmgr(&[kind, version]).ok();
    }
    assert_eq!(node.current().as_deref(), Some("1.0.0"));
    wait_for("one is dropped", || {
        node.log().contains("256 notifications wait: this one is dropped").then_some(())
    });
    assert_eq!(receiver.heard().len(), 1, "the others keep their place");
    node.relmgr(&["stop"]).ok();
    assert_eq!(node.wait_supervisor(), Some(0), "nor is the node's end held up");
}

#[test]
fn what_waits_when_another_relmgr_takes_over_is_told_by_that_one() {
    let (one, _) = releases();
    let receiver = Receiver::start(&[Reply::Never]);
    let more = "timeout = \"1h\"\nsecret = \"${RELMGR_TEST_SECRET}\"";
    let node = node("relmgr-faulty", &receiver, more, &[&one]);
    node.relmgr(&["upgrade"]).ok();
    wait_for("the first one hangs", || (receiver.heard().len() == 1).then_some(()));
    node.relmgr(&["self-upgrade"]).ok();
    // The try that was cut off is made anew; what waited behind it is told once, before what came after it.
    assert_eq!(receiver.events(4), ["started", "started", "committed", "restarted"]);
    let heard = receiver.heard();
    assert_eq!(heard.len(), 4);
    assert_eq!(heard[0].body, heard[1].body);
    assert_eq!(heard[0].header("relmgr-delivery"), heard[1].header("relmgr-delivery"));
    let ids: std::collections::BTreeSet<_> =
        heard.iter().map(|heard| heard.header("relmgr-delivery")).collect();
    assert_eq!(ids.len(), 3);
    for heard in &heard {
        let message = [heard.header("relmgr-timestamp").as_bytes(), b".", &heard.body].concat();
        assert_eq!(heard.header("relmgr-signature"), format!("v1={}", hmac(SECRET, &message)));
        assert_eq!(heard.header("relmgr-attempt"), "1");
        assert_eq!(heard.header("relmgr-event"), heard.json()["event"]);
    }
}

#[test]
fn tries_go_on_from_where_they_were_when_another_relmgr_takes_over() {
    let (one, _) = releases();
    let receiver = Receiver::start(&[]);
    receiver.refuses.store(true, Ordering::SeqCst);
    let node = node("relmgr-faulty", &receiver, "", &[&one]);
    node.relmgr(&["upgrade"]).ok();
    wait_for("two tries", || (receiver.heard().len() >= 2).then_some(()));
    node.relmgr(&["self-upgrade"]).ok();
    receiver.refuses.store(false, Ordering::SeqCst);
    let heard = wait_for("all of it is told", || {
        let heard = receiver.heard();
        let last = heard.last().is_some_and(|heard| heard.json()["event"] == "restarted");
        last.then_some(heard)
    });
    let first = heard[0].header("relmgr-delivery");
    let (tries, rest): (Vec<_>, Vec<_>) =
        heard.iter().partition(|heard| heard.header("relmgr-delivery") == first);
    let number = |heard: &&Heard| heard.header("relmgr-attempt").parse::<u32>().unwrap();
    let attempts: Vec<_> = tries.iter().map(number).collect();
    // One that was on its way is made anew under its number.
    let go_on = |pair: &[u32]| pair[1] == pair[0] || pair[1] == pair[0] + 1;
    assert_eq!(attempts[0], 1);
    assert!(attempts.windows(2).all(go_on) && attempts.last() >= Some(&2), "{attempts:?}");
    let rest: Vec<_> = rest.iter().map(|heard| heard.json()["event"].clone()).collect();
    assert_eq!(rest, ["committed", "restarted"]);
}

#[test]
fn what_waits_for_a_webhook_that_another_relmgr_does_not_find_in_its_settings_is_dropped_and_logged() {
    let (one, _) = releases();
    let (gone, stays) = (Receiver::start(&[Reply::Never]), Receiver::start(&[Reply::Never]));
    let webhook = |receiver: &Receiver| {
        format!("[[webhooks]]\nurl = \"http://{}/T0K3N\"\ntimeout = \"1h\"\n", receiver.address)
    };
    let (first, second) = (webhook(&gone), webhook(&stays));
    let node = Node::serving("relmgr-faulty", &format!("{first}{second}"), &[&one]);
    wait_for("both hang", || (gone.heard().len() == 1 && stays.heard().len() == 1).then_some(()));
    let settings = node.home().join("relmgr.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    assert!(text.contains(&first), "{text}");
    std::fs::write(&settings, text.replace(&first, "")).unwrap();
    node.relmgr(&["self-upgrade"]).ok();
    assert_eq!(stays.events(4), ["started", "started", "committed", "restarted"]);
    assert_eq!(gone.heard().len(), 1);
    let log = node.log();
    assert!(log.contains("it is no longer in relmgr.toml: 2 notifications are dropped"), "{log}");
    assert!(!log.contains("T0K3N"), "{log}");
}

#[test]
fn a_rollback_a_restart_and_a_death_of_the_host_are_told() {
    let (one, two) = releases();
    let receiver = Receiver::start(&[]);
    let settings =
        format!("[upgrade]\nprobation = \"10m\"\n[[webhooks]]\nurl = \"http://{}/\"\n", receiver.address);
    let node = Node::serving("relmgr-faulty", &settings, &[&one, &two]);
    node.relmgr(&["commit"]);
    node.relmgr(&["upgrade", "1.0.1", "--detach"]).ok();
    wait_for("the probation", || node.status().probation_ends_at);
    node.relmgr(&["rollback"]).ok();
    node.relmgr(&["restart"]).ok();
    let before = receiver.heard().len();
    let host = node.host_pid();
    nix::sys::signal::kill(host, nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_for("another host", || node.status().host_pid.filter(|pid| *pid != host.as_raw() as u32));
    let told = wait_for("the death is told", || {
        let told = receiver.heard();
        told.iter().any(|heard| heard.json()["event"] == "host_died").then_some(told)
    });
    let of = |event: &str| told.iter().map(Heard::json).find(|heard| heard["event"] == event);
    let rolled_back = of("rolled_back").unwrap();
    assert_eq!(
        (&rolled_back["from"], &rolled_back["to"]),
        (&"1.0.0".into(), &"1.0.1".into()),
        "{rolled_back}"
    );
    assert_eq!(of("restarted").unwrap()["kind"], "restart");
    assert!(told.len() > before, "{before}");
}

#[test]
fn a_webhook_that_refuses_is_not_asked_again_and_a_secret_that_is_missing_is_said() {
    let (one, _) = releases();
    let refuses = Receiver::start(&[Reply::Status(404)]);
    let node = node("relmgr-faulty", &refuses, "events = [\"committed\", \"failed\"]", &[&one]);
    node.relmgr(&["upgrade", "1.0.0"]).ok();
    wait_for("the refusal is logged", || node.log().contains("404").then_some(()));
    node.relmgr(&["upgrade", "9.9.9"]).failed(1, &["9.9.9"]);
    assert_eq!(refuses.events(2), ["committed", "failed"]);
    let silent = Receiver::start(&[]);
    let unset = self::node("relmgr-faulty", &silent, "secret = \"${RELMGR_TEST_UNSET}\"", &[&one]);
    unset.relmgr(&["upgrade", "1.0.0"]).ok();
    wait_for("the secret is missed", || unset.log().contains("RELMGR_TEST_UNSET} is not set").then_some(()));
    assert!(silent.heard().is_empty(), "nothing goes out unsigned that is to be signed");
}

#[test]
fn a_command_that_takes_too_long_is_killed() {
    let (one, _) = releases();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("pid").display().to_string();
    let script = format!("echo $$ > {path}; exec sleep 3600");
    let hooks = format!(
        "[hooks]\nevent = [\"/bin/sh\", \"-c\", \"{script}\"]\nevents = [\"committed\"]\ntimeout = \"3s\"\n"
    );
    let node = Node::serving("relmgr-faulty", &hooks, &[&one]);
    let pid =
        wait_for("the command runs", || std::fs::read_to_string(&path).ok()?.trim().parse::<i32>().ok());
    wait_for("it is killed", || (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    wait_for("that is logged", || node.log().contains("hooks.event").then_some(()));
    node.relmgr(&["restart"]).ok();
}

#[test]
fn a_command_that_runs_when_another_relmgr_takes_over_is_heard_by_that_one() {
    let (one, _) = releases();
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str| place.path().join(name);
    // Without its directory, after a test that failed, it ends as well.
    let script = format!(
        "cd {}; cat > told; while [ -e told ] && [ ! -e go ]; do sleep 0.05; done; echo the end of it >&2; \
         echo > ended; exit 7",
        place.path().display()
    );
    let hooks = format!(
        "[hooks]\nevent = [\"/bin/sh\", \"-c\", \"{script}\"]\nevents = [\"committed\"]\ntimeout = \"1h\"\n"
    );
    let node = Node::serving("relmgr-faulty", &hooks, &[&one]);
    wait_for("the command runs", || file("told").exists().then_some(()));
    // Twice: the second one has it from the first.
    node.relmgr(&["self-upgrade"]).ok();
    node.relmgr(&["self-upgrade"]).ok();
    std::fs::write(file("go"), "").unwrap();
    wait_for("what it writes kills it not", || file("ended").exists().then_some(()));
    wait_for("its end is logged", || {
        node.log().contains("hooks.event ended with exit code 7: the end of it").then_some(())
    });
}

#[test]
fn a_command_has_the_same_time_when_another_relmgr_takes_over() {
    let (one, _) = releases();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("pid");
    let script = format!("echo $$ > {}; exec sleep 3600", path.display());
    let hooks = format!(
        "[hooks]\nevent = [\"/bin/sh\", \"-c\", \"{script}\"]\nevents = [\"committed\"]\ntimeout = \"10s\"\n"
    );
    let node = Node::serving("relmgr-faulty", &hooks, &[&one]);
    let pid =
        wait_for("the command runs", || std::fs::read_to_string(&path).ok()?.trim().parse::<i32>().ok());
    node.relmgr(&["self-upgrade"]).ok();
    wait_for("it is killed", || (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    wait_for("that is logged", || {
        node.log().contains("hooks.event took longer than 10s and is killed").then_some(())
    });
}

/// Replaces app.conf as editors do.
fn write(node: &Node, text: &str) {
    let temporary = node.home().join(".app.conf.tmp");
    std::fs::write(&temporary, text).unwrap();
    std::fs::rename(temporary, node.home().join("app.conf")).unwrap();
}

#[test]
fn changed_keys_are_told_and_no_values() {
    let receiver = Receiver::start(&[]);
    let mut node = Node::new(
        "relmgr-live",
        &format!(
            "[[webhooks]]\nurl = \"http://{}/\"\nevents = [\"conf_changed\", \"conf_refused\"]\n",
            receiver.address
        ),
    );
    node.publish(&release("live", "", "1.0.0"));
    let conf = "Endpoint.url.host = \"example.com\"\nEndpoint.secret_key_base = \"hunter3-hunter3\"\n\
                Repo.username = \"dbuser\"\nRepo.password = \"hunter2-hunter2\"\nRepo.database = \"exampledb\"\n\
                Repo.hostname = \"database-host.com\"\nRepo.pool_size = 20\n";
    write(&node, conf);
    node.start();
    node.relmgr(&["upgrade"]).ok();
    write(&node, &conf.replace("pool_size = 20", "pool_size = 21"));
    assert_eq!(receiver.events(1), ["conf_changed"]);
    write(&node, &conf.replace("pool_size = 20", "pool_size = many"));
    assert_eq!(receiver.events(2)[1], "conf_refused");
    let heard = receiver.heard();
    assert_eq!(heard[0].json()["conf"]["changed"], serde_json::json!(["Repo.pool_size"]));
    for heard in heard {
        let text = String::from_utf8(heard.body).unwrap();
        assert!(!text.contains("hunter"), "{text}");
    }
}

#[test]
fn a_command_that_fails_and_floods_its_output_fills_nothing() {
    let (one, _) = releases();
    let place = tempfile::tempdir().unwrap();
    let told = place.path().join("told");
    let script = format!(
        "cat >> {}; head -c 20000000 /dev/zero | tr '\\\\0' x >&2; echo the end of it >&2; exit 7",
        told.display()
    );
    let hooks = format!("[hooks]\nevent = [\"/bin/sh\", \"-c\", \"{script}\"]\nevents = [\"committed\"]\n");
    let node = Node::serving("relmgr-faulty", &hooks, &[&one]);
    wait_for("the command's end is logged", || {
        node.log().contains("hooks.event ended with exit code 7").then_some(())
    });
    let log = node.log();
    assert!(log.contains("the end of it") && log.len() < 100_000, "{} bytes", log.len());
    let line: Value = serde_json::from_str(&std::fs::read_to_string(&told).unwrap()).unwrap();
    assert_eq!((&line["event"], &line["to"]), (&"committed".into(), &"1.0.0".into()));
    node.relmgr(&["restart"]).ok();
    assert_eq!(std::fs::read_to_string(&told).unwrap().lines().count(), 1, "only what was asked for");
}

/// A node that tells `receiver` over TLS when a release is committed; `more` goes into its `[[webhooks]]`.
fn over_tls(receiver: &Receiver, more: &str) -> Node {
    let webhook = format!(
        "[[webhooks]]\nurl = \"https://{}/T0K3N\"\nevents = [\"committed\"]\n{more}\n",
        receiver.address
    );
    let node = Node::new("relmgr-faulty", &webhook);
    node.publish(&release("faulty", "", "1.0.0"));
    node
}

#[test]
fn a_webhook_over_tls_is_told_where_the_system_or_the_setting_trusts_who_has_signed_its_certificate() {
    let (ours, other) = (signed("ours"), signed("another"));
    let receiver = Receiver::start_with(&[], Some(ours.server.clone()));
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = place.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (known, unknown) = (file("known.pem", &ours.authority), file("unknown.pem", &other.authority));

    // By the setting: whom the system trusts is of no interest then.
    let mut by_setting =
        over_tls(&receiver, &format!("ca = \"{known}\"\nsecret = \"${{RELMGR_TEST_SECRET}}\""));
    by_setting.start_with(&[("SSL_CERT_FILE", &unknown), ("RELMGR_TEST_SECRET", SECRET)]);
    by_setting.relmgr(&["upgrade"]).ok();
    assert_eq!(receiver.events(1), ["committed"]);
    let heard = receiver.heard().remove(0);
    let message = [heard.header("relmgr-timestamp").as_bytes(), b".", &heard.body].concat();
    assert_eq!(heard.header("relmgr-signature"), format!("v1={}", hmac(SECRET, &message)));

    // By the system.
    let mut by_system = over_tls(&receiver, "");
    by_system.start_with(&[("SSL_CERT_FILE", &known)]);
    by_system.relmgr(&["upgrade"]).ok();
    assert_eq!(receiver.events(2).len(), 2);

    // By neither: it is not told, and the log says what is missing. The upgrade is none the worse.
    let mut untrusted = over_tls(&receiver, "");
    untrusted.start_with(&[("SSL_CERT_FILE", &unknown)]);
    untrusted.relmgr(&["upgrade"]).ok();
    wait_for("the stranger is told of", || {
        let log = untrusted.log();
        let words = ["invalid peer certificate: UnknownIssuer", "webhooks.ca names who has signed it"];
        (words.iter().all(|words| log.contains(words)) && !log.contains("T0K3N")).then_some(())
    });
    assert_eq!(receiver.heard().len(), 2);

    // What the setting names is read for each try: once it is right, what waited is told.
    let mut mended = over_tls(&receiver, "ca = \"ca.pem\"");
    mended.start();
    mended.relmgr(&["upgrade"]).ok();
    let logged = |words: &str| wait_for(words, || mended.log().contains(words).then_some(()));
    logged("ca.pem: No such file or directory");
    let ca = mended.home().join("ca.pem");
    std::fs::write(&ca, "no PEM\n").unwrap();
    logged("ca.pem: no certificate stands in it");
    std::fs::write(&ca, &other.authority).unwrap();
    logged("ca.pem (webhooks.ca) has signed it");
    std::fs::write(&ca, &ours.authority).unwrap();
    assert_eq!(receiver.events(3).len(), 3);
    let attempt: u32 = receiver.heard()[2].header("relmgr-attempt").parse().unwrap();
    assert!(attempt > 3, "{attempt}");
}

#[test]
fn a_ca_for_an_address_without_tls_keeps_the_node_from_starting() {
    let node = Node::new("relmgr-faulty", "[[webhooks]]\nurl = \"http://127.0.0.1/\"\nca = \"ca.pem\"\n");
    node.relmgr(&["run"]).failed(1, &["webhooks.ca", "begins with https://"]);
}

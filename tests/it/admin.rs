//! The admin listener: metrics, health and the node's page, whatever the host is doing.

use std::collections::BTreeMap;
use std::io::{BufRead, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use nix::sys::signal::{Signal, kill};
use prometheus_parse::{Scrape, Value};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::client::{Connection, Load, get};
use relmgr_testkit::kit::{Done, Node, PATIENCE, Release, release, wait_for};

/// A node with an admin listener that has published `releases` and does not run yet.
fn watched(app: &str, extra: &str, releases: &[&Release]) -> Node {
    let node = Node::new(app, extra);
    let path = node.home().join("relmgr.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replacen("[listen]\n", "[listen]\nadmin = \"127.0.0.1:0\"\n", 1);
    std::fs::write(path, text).unwrap();
    for release in releases {
        node.publish(release);
    }
    node
}

/// The same, which serves the first of `releases`.
fn watched_serving(app: &str, extra: &str, releases: &[&Release]) -> (Node, SocketAddr) {
    let mut node = watched(app, extra, releases);
    node.start();
    node.relmgr(&["upgrade", &releases[0].version]).ok();
    let admin = admin_of(&node);
    (node, admin)
}

fn admin_of(node: &Node) -> SocketAddr {
    node.status().admin.expect("an admin listener").parse().unwrap()
}

/// A scrape, by name and labels.
struct Metrics(BTreeMap<String, f64>);

async fn scrape(admin: SocketAddr) -> Metrics {
    let (status, text) = get(admin, "/metrics").await;
    assert_eq!(status, 200, "{text}");
    let scrape = Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).unwrap();
    let mut values = BTreeMap::new();
    for sample in scrape.samples {
        let labels: BTreeMap<_, _> = sample.labels.iter().collect();
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let name = format!("{} {}", sample.metric, labels.join(" "));
        let value = match sample.value {
            Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => value,
            Value::Histogram(buckets) => buckets.last().map_or(0.0, |bucket| bucket.count),
            Value::Summary(_) => panic!("there is none: {name}"),
        };
        let before = values.insert(name.trim().to_owned(), value);
        assert!(before.is_none(), "twice: {name}");
    }
    Metrics(values)
}

impl Metrics {
    fn get(&self, name: &str) -> f64 {
        *self.0.get(name).unwrap_or_else(|| panic!("no {name} among {:#?}", self.0.keys()))
    }
}

/// Scrapes until `look` finds something.
async fn eventually<T>(admin: SocketAddr, what: &str, look: impl Fn(&Metrics) -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let metrics = scrape(admin).await;
        if let Some(found) = look(&metrics) {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for: {what}: {:#?}", metrics.0);
    }
}

fn answered(version: &str) -> String {
    format!("relmgr_requests_total status=2xx version={version}")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_counted_across_an_upgrade_and_a_new_host() {
    let (one, two) = (release("faulty", "", "1.0.0"), release("faulty", "second", "1.0.1"));
    let (node, admin) = watched_serving("relmgr-faulty", "", &[&one, &two]);
    let load = Load::start(node.address(), "/", 8);
    node.relmgr(&["upgrade"]).ok();
    let metrics = scrape(admin).await;
    assert!(metrics.get(&answered("1.0.0")) > 0.0);
    assert!(metrics.get("relmgr_requests_in_flight version=1.0.1") <= 8.0);
    node.relmgr(&["restart"]).ok();
    let seen = load.stop().await;
    for (version, count) in &seen.answers {
        let total = answered(version);
        eventually(admin, &format!("{count} answers of {version}"), |metrics| {
            (metrics.get(&total) == *count as f64).then_some(())
        })
        .await;
    }
    assert_eq!(seen.answers.len(), 2);
    let metrics = scrape(admin).await;
    assert_eq!(metrics.get("relmgr_operations_total kind=upgrade outcome=done"), 2.0);
    assert_eq!(metrics.get("relmgr_operation_duration_seconds kind=upgrade"), 2.0);
    assert_eq!(metrics.get("relmgr_operations_total kind=restart outcome=done"), 1.0);
    assert_eq!(metrics.get("relmgr_host_restarts_total"), 0.0, "nothing died");
    assert_eq!(metrics.get("relmgr_generations state=current"), 1.0);
    assert_eq!(metrics.get("relmgr_phase phase=steady"), 1.0);
    let measured = metrics.get("relmgr_request_duration_seconds version=1.0.1");
    let requests = metrics.get(&answered("1.0.1"));
    // One in eight of each connection; each of eight to each of two hosts may fall short of its last one.
    assert!(measured > requests / 8.0 - 16.0 && measured <= requests, "{measured} of {requests}");
    lint(admin).await;
    let info = metrics.0.keys().find(|name| name.starts_with("relmgr_info")).unwrap();
    assert!(info.contains("app=relmgr-faulty current=1.0.1 permanent=1.0.1 prev=1.0.0"), "{info}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_and_what_led_to_it_are_counted() {
    let settings = "[upgrade]\nprobation = \"50s\"\ndrain = \"1s\"\n";
    let (one, two) = (release("faulty", "", "1.0.0"), release("faulty", "shows-late", "1.0.1"));
    let mut node = watched("relmgr-faulty", settings, &[&one, &two]);
    node.start_with(&[("RELMGR_TEST_DEFECT", "panics")]);
    node.relmgr(&["upgrade", "1.0.0"]).ok();
    let admin = admin_of(&node);
    let load = Load::start(node.address(), "/", 4);
    node.relmgr(&["upgrade", "1.0.1"]).failed(3, &["panics"]);
    let seen = load.stop().await;
    let failures = seen.failures.len() as f64;
    let metrics = eventually(admin, "every answer that failed", |metrics| {
        let failed = metrics.get("relmgr_requests_total status=5xx version=1.0.1");
        (failed == failures).then(|| Metrics(metrics.0.clone()))
    })
    .await;
    assert_eq!(metrics.get("relmgr_panics_total version=1.0.1"), failures);
    assert!(failures >= 3.0);
    assert_eq!(metrics.get("relmgr_operations_total kind=upgrade outcome=rolled_back"), 1.0);
    assert_eq!(metrics.get("relmgr_panics_total version=1.0.0"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_do_not_go_back_when_the_host_is_killed() {
    let (node, admin) = watched_serving("relmgr-faulty", "", &[&release("faulty", "", "1.0.0")]);
    for _ in 0..20 {
        assert_eq!(get(node.address(), "/").await.0, 200);
    }
    let total = answered("1.0.0");
    let enough = |at_least: f64| {
        let total = &total;
        move |metrics: &Metrics| (metrics.get(total) >= at_least).then_some(())
    };
    eventually(admin, "20 answers", enough(20.0)).await;
    kill(node.host_pid(), Signal::SIGKILL).unwrap();
    assert_eq!(get(node.address(), "/").await.0, 200);
    eventually(admin, "21 answers", enough(21.0)).await;
    let metrics = scrape(admin).await;
    assert_eq!(metrics.get(&total), 21.0);
    assert_eq!(metrics.get("relmgr_host_restarts_total"), 1.0);
    assert_eq!(metrics.get("relmgr_operations_total kind=restart outcome=done"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_ready_while_a_healthy_release_serves() {
    // The host is not to be killed for standing still.
    let settings = "[upgrade]\nhealth = \"3s\"\n[supervisor]\nheartbeat = \"1m\"\n";
    let (one, two) = (release("faulty", "", "1.0.0"), release("faulty", "shows-late", "1.0.1"));
    let mut node = watched("relmgr-faulty", settings, &[&one, &two]);
    node.start_with(&[("RELMGR_TEST_DEFECT", "goes unhealthy")]);
    let admin = admin_of(&node);
    let (status, words) = get(admin, "/readyz").await;
    assert!(status == 503 && words.contains("no release serves"), "{status} {words}");
    assert_eq!(get(admin, "/healthz").await.0, 200);
    lint(admin).await;
    node.relmgr(&["upgrade", "1.0.0"]).ok();
    assert_eq!(get(admin, "/readyz").await, (200, "1.0.0 serves\n".into()));

    // All of its threads stand still: it is there, and nobody is answered.
    kill(node.host_pid(), Signal::SIGSTOP).unwrap();
    let words = ready_until(admin, 503).await;
    assert!(words.contains("does not answer within 3s"), "{words}");
    assert_eq!(get(admin, "/metrics").await.0, 200);
    kill(node.host_pid(), Signal::SIGCONT).unwrap();
    ready_until(admin, 200).await;

    node.relmgr(&["upgrade", "1.0.1"]).ok();
    ready_until(admin, 200).await;
    for _ in 0..100 {
        assert_eq!(get(node.address(), "/").await.0, 200);
    }
    let words = ready_until(admin, 503).await;
    assert!(words.contains("1.0.1 is not healthy") && words.contains("at last"), "{words}");
}

/// Asks until the answer is `wanted`; its words.
async fn ready_until(admin: SocketAddr, wanted: u16) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (status, words) = get(admin, "/readyz").await;
        if status == wanted {
            return words;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {wanted}: {words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_host_answers_and_is_not_ready() {
    let (node, admin) = watched_serving("relmgr-faulty", "", &[&release("faulty", "", "1.0.0")]);
    // The next host reads the library from a pipe into which nobody writes: it is not up before this test says so.
    let library = node.home().join("releases/1.0.0/lib/librelmgr_faulty.so");
    let kept = node.home().join("kept.so");
    std::fs::rename(&library, &kept).unwrap();
    nix::unistd::mkfifo(&library, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    kill(node.host_pid(), Signal::SIGKILL).unwrap();
    // Who asked the host at that moment is told of its death first.
    crate::client::eventually("it is said that there is no host", async || {
        let (status, words) = get(admin, "/readyz").await;
        (status == 503 && words.contains("there is no host")).then_some(())
    })
    .await;
    let metrics = scrape(admin).await;
    assert_eq!((metrics.get("relmgr_host_up"), metrics.get("relmgr_phase phase=booting")), (0.0, 1.0));
    assert_eq!(get(admin, "/healthz").await, (200, "alive\n".into()));
    let page = get(admin, "/").await.1;
    assert!(page.contains("relmgr-faulty: booting") && page.contains("<td>none, started"), "{page}");
    // What comes through the pipe is not what was verified.
    wait_for("the host reads", || {
        std::fs::File::options().write(true).custom_flags(nix::libc::O_NONBLOCK).open(&library).ok()
    });
    eventually(admin, "a host", |metrics| (metrics.get("relmgr_host_up") == 1.0).then_some(())).await;
    let words = get(admin, "/readyz").await.1;
    assert!(words.contains("no release serves"), "{words}");
    std::fs::rename(&kept, &library).unwrap();
    node.relmgr(&["restart"]).ok();
    ready_until(admin, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_configuration_shows_until_it_is_right() {
    let (node, admin) = watched_serving("relmgr-kitchen", "", &[&release("kitchen", "", "1.0.0")]);
    let path = node.home().join("app.conf");
    std::fs::write(&path, "greetings = x\n").unwrap();
    node.relmgr(&["reload"]).failed(1, &["greeting"]);
    let metrics = scrape(admin).await;
    assert_eq!(metrics.get("relmgr_conf_invalid"), 1.0);
    assert!(metrics.get("relmgr_conf_reloads_total outcome=refused") >= 1.0);
    assert_eq!(metrics.get("relmgr_conf_reloads_total outcome=applied"), 0.0);
    std::fs::write(&path, "greeting = bonsoir\n").unwrap();
    node.relmgr(&["reload"]).ok();
    let metrics = scrape(admin).await;
    assert_eq!(metrics.get("relmgr_conf_invalid"), 0.0);
    assert_eq!(metrics.get("relmgr_conf_reloads_total outcome=applied"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listener_keeps_to_http_and_to_its_limits() {
    let (node, admin) = watched_serving("relmgr-faulty", "", &[&release("faulty", "", "1.0.0")]);
    let ask = async |method: Method, path: &str| {
        let request = Request::builder().method(method).uri(path).header("host", "x");
        let mut connection = Connection::open(admin).await;
        let response = connection.send(request.body(Full::default()).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        (head, body.collect().await.unwrap().to_bytes())
    };
    assert_eq!(ask(Method::GET, "/metric").await.0.status, 404);
    let (refused, _) = ask(Method::POST, "/metrics").await;
    assert_eq!((refused.status.as_u16(), refused.headers["allow"].to_str().unwrap()), (405, "GET, HEAD"));
    let (head, body) = ask(Method::HEAD, "/metrics").await;
    assert_eq!((head.status.as_u16(), body.len()), (200, 0));
    assert_eq!(head.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let (head, page) = ask(Method::GET, "/").await;
    assert_eq!(head.headers["content-type"], "text/html; charset=utf-8");
    let page = String::from_utf8_lossy(&page);
    assert!(page.contains("1.0.0 (permanent)") && page.contains("upgrade 1.0.0"), "{page}");
    let status = node.relmgr(&["status"]).ok().stdout;
    assert!(status.contains(&format!("http://{admin}/")), "{status}");

    // Clients that say nothing take all places, for a while.
    let mut silent = vec![];
    for _ in 0..40 {
        silent.push(TcpStream::connect(admin).await.unwrap());
    }
    let answered = tokio::time::timeout(PATIENCE, get(admin, "/healthz")).await;
    assert_eq!(answered.expect("an answer").0, 200);
    let mut first = vec![];
    let closed = tokio::time::timeout(PATIENCE, silent[0].read_to_end(&mut first)).await;
    closed.expect("the end of who said nothing").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_ends_the_start_and_names_the_setting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let node = watched("relmgr-faulty", "", &[]);
    let path = node.home().join("relmgr.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replacen("admin = \"127.0.0.1:0\"", &format!("admin = \"{address}\""), 1);
    std::fs::write(path, text).unwrap();
    node.relmgr(&["run"]).failed(1, &[&address, "listen.admin in relmgr.toml"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_setting_there_is_no_listener() {
    let node = Node::serving("relmgr-faulty", "", &[&release("faulty", "", "1.0.0")]);
    assert_eq!(node.status().admin, None);
    assert!(!node.relmgr(&["status"]).ok().stdout.contains("admin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_holds_a_secret_that_the_application_repeats() {
    let (node, admin) = watched_serving("relmgr-live", "", &[&release("live", "", "1.0.0")]);
    let conf = "Repo.password = \"hunter2-hunter2\"\nmisbehave = lose-session\n";
    std::fs::write(node.home().join("app.conf"), conf).unwrap();
    let words = ready_until(admin, 503).await;
    assert!(words.contains("session of `***`"), "{words}");
    for path in ["/readyz", "/", "/metrics"] {
        let (_, text) = get(admin, path).await;
        assert!(!text.contains("hunter2"), "{path}: {text}");
    }
}

/// From records of an older schema version to those of the release that serves, and one that only it can read.
#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_tell_of_state_tables() {
    let (one, two) = (release("tabled", "", "1.0.0"), release("tabled", "second", "2.0.0"));
    let settings = "[tables]\nmax_bytes = 67108864\n";
    let (node, admin) = watched_serving("relmgr-tabled", settings, &[&one, &two]);
    let ask = async |path: &str| assert_eq!(get(node.address(), path).await.0, 200, "{path}");
    ask("/fill/30000").await;
    ask("/add/1").await;
    let metrics = scrape(admin).await;
    assert_eq!(metrics.get("relmgr_table_records table=items"), 30_000.0);
    assert_eq!(metrics.get("relmgr_table_records table=counters"), 1.0);
    assert_eq!(metrics.get("relmgr_table_kept_aside_records table=items"), 0.0);
    assert_eq!(metrics.get("relmgr_tables_size_bytes"), 67_108_864.0);
    let (used, bytes) =
        (metrics.get("relmgr_tables_used_bytes"), metrics.get("relmgr_table_bytes table=items"));
    assert!(used >= bytes && bytes > 30_000.0 * 8.0, "{used} {bytes}");

    node.relmgr(&["upgrade", "2.0.0"]).ok();
    let left = |metrics: &Metrics| metrics.get("relmgr_table_sweep_left_records table=items");
    eventually(admin, "the sweep is under way", |metrics| (left(metrics) > 0.0).then_some(())).await;
    eventually(admin, "the sweep is over", |metrics| (left(metrics) == 0.0).then_some(())).await;
    ask("/only-here/1").await;
    node.relmgr(&["downgrade"]).ok();
    let aside = "relmgr_table_kept_aside_records table=items";
    let metrics = eventually(admin, "a record is kept aside", |metrics| {
        (metrics.get(aside) == 1.0).then(|| metrics.get("relmgr_table_records table=items"))
    });
    assert_eq!(metrics.await, 29_999.0);
    lint(admin).await;
}

/// Prometheus' own tool reads the text, and has nothing to say of names and types.
async fn lint(admin: SocketAddr) {
    let (status, text) = get(admin, "/metrics").await;
    assert_eq!(status, 200, "{text}");
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let promtool = promtool.spawn();
    let mut promtool =
        promtool.unwrap_or_else(|error| panic!("promtool is missing ({error}): `cargo xtask setup`"));
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let done = Done::from(promtool.wait_with_output().unwrap());
    assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (0, "", ""), "{text}");
}

/// A server that answers whatever is posted with `status`.
fn receiver(status: u16) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = String::new();
            let mut reader = std::io::BufReader::new(&mut stream);
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|len| len > 0) {}
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length").then(|| value.parse().unwrap())
            });
            let mut body = vec![0; length.unwrap_or(0)];
            if reader.read_exact(&mut body).is_ok() {
                let answer =
                    format!("HTTP/1.1 {status} Reply\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes());
            }
        }
    });
    address
}

/// A certificate for 127.0.0.1 that ends in `days`, its key, and its end as a Unix time.
fn certificate(days: u64) -> (String, String, f64) {
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let end = now + days * 86_400;
    params.not_after = (SystemTime::UNIX_EPOCH + Duration::from_secs(end)).into();
    let key = rcgen::KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem(), end as f64)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_tell_of_pull_webhooks_and_certificates() {
    let (one, broken) = (release("faulty", "", "1.0.0"), release("faulty", "start-fails", "1.0.2"));
    let (hears, refuses) = (receiver(204), receiver(404));
    let settings = format!(
        "[pull]\nat_boot = true\ninterval = \"10000h\"\n\
         [[webhooks]]\nurl = \"http://{hears}/\"\nevents = [\"started\", \"committed\"]\n\
         [[webhooks]]\nurl = \"http://{refuses}/\"\nevents = [\"committed\"]\n\
         [[tls]]\ncertificate = \"a.pem\"\nkey = \"a.key\"\n"
    );
    let mut node = watched("relmgr-faulty", &settings, &[&one]);
    let path = node.home().join("relmgr.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, text.replacen("[listen]\n", "[listen]\nhttps = [\"127.0.0.1:0\"]\n", 1)).unwrap();
    let files = (node.home().join("a.pem"), node.home().join("a.key"));
    let write = |certificate: &str, key: &str| {
        std::fs::write(&files.1, key).unwrap();
        std::fs::write(&files.0, certificate).unwrap();
    };
    let (first, key, first_end) = certificate(30);
    write(&first, &key);
    node.start();
    let admin = admin_of(&node);

    // It fetches at its boot, and then not for years.
    let checks = |outcome: &str| format!("relmgr_pull_checks_total outcome={outcome}");
    eventually(admin, "the release of the boot", |metrics| {
        (metrics.get(&checks("upgraded")) == 1.0).then_some(())
    })
    .await;
    let told = |of: SocketAddr, outcome: &str| {
        format!("relmgr_webhook_notifications_total outcome={outcome} webhook={of}")
    };
    let metrics = eventually(admin, "the webhooks are told", |metrics| {
        let all = metrics.get(&told(hears, "delivered")) + metrics.get(&told(refuses, "failed"));
        (all == 3.0).then(|| Metrics(metrics.0.clone()))
    })
    .await;
    for (name, expected) in [
        (told(hears, "delivered"), 2.0),
        (told(hears, "failed"), 0.0),
        (told(hears, "dropped"), 0.0),
        (told(refuses, "delivered"), 0.0),
        (told(refuses, "failed"), 1.0),
        (checks("up_to_date"), 0.0),
        (checks("failed"), 0.0),
        (checks("unavailable"), 0.0),
        ("relmgr_pull_paused".into(), 0.0),
        ("relmgr_operations_total kind=upgrade outcome=done".into(), 1.0),
    ] {
        assert_eq!(metrics.get(&name), expected, "{name}");
    }
    let start = metrics.get("relmgr_start_time_seconds");
    let asked = metrics.get("relmgr_pull_last_check_timestamp_seconds");
    assert!(asked >= start, "{asked} {start}");
    let next = metrics.get("relmgr_pull_next_check_timestamp_seconds");
    assert!(next > asked + 5_000.0 * 3600.0, "{asked} {next}");

    // A request over TLS is one like any other.
    let secure = node.status().tls.unwrap().listeners.remove(0);
    let mut curl = Command::new("curl");
    curl.args(["--fail", "--silent", "--show-error", "--cacert"])
        .arg(&files.0)
        .arg(format!("https://{secure}/"));
    assert_eq!(Done::from(curl.output().unwrap()).ok().stdout, "1.0.0");
    eventually(admin, "the request is counted", |metrics| {
        (metrics.get(&answered("1.0.0")) == 1.0).then_some(())
    })
    .await;
    let file = files.0.display();
    let expiry = format!("relmgr_tls_certificate_expiry_timestamp_seconds file={file}");
    let invalid = format!("relmgr_tls_certificate_invalid file={file}");
    assert_eq!((metrics.get(&expiry), metrics.get(&invalid)), (first_end, 0.0));
    let (second, second_key, second_end) = certificate(60);
    write(&first, &second_key);
    node.relmgr(&["reload"]).ok();
    let metrics = scrape(admin).await;
    assert_eq!((metrics.get(&expiry), metrics.get(&invalid)), (first_end, 1.0));
    write(&second, &second_key);
    node.relmgr(&["reload"]).ok();
    let metrics = scrape(admin).await;
    assert_eq!((metrics.get(&expiry), metrics.get(&invalid)), (second_end, 0.0));
    let (expired, expired_key, _) = certificate(0);
    write(&expired, &expired_key);
    wait_for("its second is over", || {
        node.relmgr(&["reload"]).ok().stderr.contains("expired at").then_some(())
    });
    let metrics = scrape(admin).await;
    assert_eq!(metrics.get(&invalid), 1.0);

    node.relmgr(&["pull", "now"]).ok();
    let metrics = scrape(admin).await;
    assert_eq!((metrics.get(&checks("up_to_date")), metrics.get(&checks("upgraded"))), (1.0, 1.0));
    assert!(metrics.get("relmgr_pull_last_check_timestamp_seconds") > asked);
    // What failed is not tried again, however often it asks from now on.
    node.publish(&broken);
    node.relmgr(&["pull", "now"]).failed(1, &["1.0.2"]);
    let metrics = scrape(admin).await;
    assert_eq!(metrics.get(&checks("failed")), 1.0);
    assert_eq!(metrics.get("relmgr_operations_total kind=upgrade outcome=failed"), 1.0);
    node.relmgr(&["pull", "now"]).ok();
    let metrics = scrape(admin).await;
    assert!(metrics.get(&checks("held")) >= 1.0);
    assert_eq!(metrics.get(&checks("failed")), 1.0);
    node.relmgr(&["pull", "pause"]).ok();
    let metrics = scrape(admin).await;
    assert_eq!(metrics.get("relmgr_pull_paused"), 1.0);
    lint(admin).await;
}

//! What release handling on the BEAM gets wrong (OTP's release_handler and the shell tools around it), each as the
//! opposite that is promised here.

use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::kill;
use relmgr_model::control::Phase;
use relmgr_model::manifest::{Manifest, Probe};
use relmgr_testkit::kit::{Done, Node, Release, release, wait_for};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Connection, get};
use crate::faulty::altered;

fn good() -> Release {
    release("faulty", "", "1.0.0")
}

fn better() -> Release {
    release("faulty", "second", "1.0.1")
}

/// A node of the application that shows its settings, which looks at its files only when it is told to.
fn live_node(next: &Release, settings: &str) -> Node {
    let settings = format!("[conf]\nwatch = false\n{settings}");
    Node::serving("relmgr-live", &settings, &[&release("live", "", "1.0.0"), next])
}

async fn ask(connection: &mut Connection, path: &str) -> Value {
    let (status, body) = connection.get(path).await.unwrap();
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap_or(Value::String(body))
}

fn history(node: &Node) -> Vec<Value> {
    node.relmgr(&["history", "--json", "-n", "0"]).ok().json().as_array().unwrap().clone()
}

fn conf_hash(node: &Node) -> String {
    node.status().conf.expect("a release serves").hash
}

/// An upgrade that ends on probation and goes on by itself.
fn on_probation(node: &Node) -> std::process::Child {
    let mut command = node.command(&["upgrade", "1.0.1"]);
    let upgrade = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("1.0.1 is on probation", || (node.status().phase == Phase::Probation).then_some(()));
    upgrade
}

/// OTP: an install that fails has switched the application's environment already, and does not go back.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_install_leaves_the_configuration_that_was_in_force() {
    let node = live_node(&release("live", "start-panics", "1.0.1"), "");
    let mut connection = Connection::open(node.address()).await;
    let (settings, hash) = (ask(&mut connection, "/settings").await, conf_hash(&node));
    let applied = node.home().join("releases/1.0.0/app.conf");
    let before = std::fs::read(&applied).unwrap();
    std::fs::write(node.home().join("app.conf"), "logger.level = error\nRepo.pool_size = 33\n").unwrap();
    node.relmgr(&["upgrade", "1.0.1"]).failed(1, &["the start panics on purpose"]);
    assert_eq!(ask(&mut connection, "/settings").await, settings);
    assert_eq!(ask(&mut connection, "/changes").await, json!([]));
    assert_eq!((conf_hash(&node), std::fs::read(&applied).unwrap()), (hash, before));
    assert_eq!(get(node.address(), "/api/public/version").await.1, "1.0.0");
}

/// The same for a release that served with its configuration and went.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_brings_back_the_configuration_with_the_release() {
    let next = release("live", "", "1.0.1");
    let node = live_node(&next, "[upgrade]\nprobation = \"10m\"\n");
    let hash = conf_hash(&node);
    std::fs::write(node.home().join("app.conf"), "logger.level = error\n").unwrap();
    let mut upgrade = on_probation(&node);
    let mut connection = Connection::open(node.address()).await;
    assert_eq!(ask(&mut connection, "/settings").await["logger"]["level"], "error");
    assert_ne!(conf_hash(&node), hash);
    node.relmgr(&["rollback"]).ok();
    assert_eq!(upgrade.wait().unwrap().code(), Some(3));
    assert_eq!(ask(&mut connection, "/settings").await["logger"]["level"], "info");
    assert_eq!(conf_hash(&node), hash);
}

/// OTP: a process that does not answer `suspend` in time is passed over, and its state is lost. Here a generation that
/// does not end in time has one outcome, which is told: the upgrade is done, its request has an answer, and what was
/// left undone stands in the operation's words.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_in_time_is_broken_off_and_told() {
    let hanging = release("faulty", "stop-hangs", "1.0.0");
    let node = Node::serving("relmgr-faulty", "[upgrade]\ndrain = \"100ms\"\n", &[&hanging, &better()]);
    let address = node.address();
    let waiting = tokio::spawn(async move { Connection::open(address).await.get("/wait").await });
    wait_for("a request waits", || (node.status().generations[0].in_flight == 1).then_some(()));
    let done = node.relmgr(&["upgrade", "1.0.1"]).ok();
    assert!(done.stderr.contains("1 requests on 1.0.0 were cut at the drain deadline"), "{done:?}");
    assert!(done.stderr.contains("the stop of 1.0.0 took longer than 10s and was left"), "{done:?}");
    assert_eq!(waiting.await.unwrap().unwrap().0, 503, "it is told too");
    assert_eq!(get(address, "/").await, (200, "1.0.1".into()));
    assert_eq!(node.mapped().len(), 1);
}

/// OTP's shell tools: `upgrade` ends with success while the old code serves.
#[tokio::test(flavor = "multi_thread")]
async fn success_means_that_the_new_code_serves_on_every_connection() {
    let node = Node::serving("relmgr-faulty", "", &[&good(), &better()]);
    let mut open = vec![];
    for _ in 0..8 {
        open.push(Connection::open(node.address()).await);
    }
    for round in 0..10 {
        let (command, version) = if round % 2 == 0 { ("upgrade", "1.0.1") } else { ("downgrade", "1.0.0") };
        node.relmgr(&[command]).ok();
        assert_eq!(get(node.address(), "/api/public/version").await.1, version);
        for connection in &mut open {
            assert_eq!(connection.get("/").await, Ok((200, version.into())), "round {round}");
        }
    }
    // Nor is a release called done that does not answer: what is said of it is what the node heard itself.
    let answer = node.relmgr(&["upgrade", "1.0.1", "--json"]).ok().json();
    assert_eq!((&answer["outcome"], &answer["to"]), (&json!("done"), &json!("1.0.1")));
}

/// Conform: what cannot be read is no configuration, and the defaults apply.
#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_be_read_is_never_taken_for_an_empty_one() {
    type Make = fn(&Path);
    let next = release("live", "", "1.0.1");
    let path = |node: &Node| node.home().join("app.conf");
    let remove =
        |node: &Node| drop(std::fs::remove_file(path(node)).or_else(|_| std::fs::remove_dir(path(node))));
    let unreadable: [(&str, Make); 4] = [
        ("a directory", |path| std::fs::create_dir(path).unwrap()),
        ("a symlink to itself", |path| std::os::unix::fs::symlink(path, path).unwrap()),
        ("no text", |path| std::fs::write(path, b"logger.level = warn\n\xff\xfe\n").unwrap()),
        ("a secret that is gone", |path| {
            std::fs::write(path, "Repo.password = file:/nowhere/secret\n").unwrap()
        }),
    ];
    let mut node = live_node(&next, "");
    std::fs::write(path(&node), "logger.level = warn\n").unwrap();
    node.relmgr(&["reload"]).ok();
    let mut connection = Connection::open(node.address()).await;
    let hash = conf_hash(&node);
    for (what, make) in unreadable {
        remove(&node);
        make(&path(&node));
        node.relmgr(&["reload"]).failed(1, &["app.conf"]);
        node.relmgr(&["upgrade", "1.0.1"]).failed(1, &["app.conf"]);
        node.relmgr(&["restart"]).failed(1, &["app.conf"]);
        assert_eq!(ask(&mut connection, "/settings").await["logger"]["level"], "warn", "{what}");
        assert_eq!(conf_hash(&node), hash, "{what}");
    }
    // Nor does a start: what was applied last goes on.
    node.relmgr(&["stop"]).ok();
    node.wait_supervisor();
    node.start();
    let mut connection = Connection::open(node.address()).await;
    assert_eq!(ask(&mut connection, "/settings").await["logger"]["level"], "warn");
    assert_eq!(conf_hash(&node), hash);
    let told = node.status().conf.unwrap().error.unwrap().text;
    assert!(told.contains("app.conf:1") && told.contains("/nowhere/secret"), "{told}");
    // The same for what the node itself is told and remembers.
    for file in ["relmgr.toml", "state.json"] {
        let node = Node::serving("relmgr-live", "", &[]);
        let mut node = node;
        node.kill_supervisor();
        drop(std::fs::remove_file(node.home().join(file)));
        std::fs::create_dir(node.home().join(file)).unwrap();
        node.relmgr(&["run"]).failed(1, &[file, "cannot be read"]);
    }
}

/// A node that is told to do what cannot be done, and whose home does not take what is written last: the links and the
/// history.
fn node_without_an_end(settings: &str) -> Node {
    let settings = format!("[hooks]\noutcome = [\"/nowhere/hook\"]\n{settings}");
    let node = Node::serving("relmgr-faulty", &settings, &[&good(), &better()]);
    let (link, journal) = (node.home().join("releases/current"), node.home().join("history.jsonl"));
    std::fs::remove_file(&link).unwrap();
    std::fs::create_dir_all(link.join("in the way")).unwrap();
    std::fs::rename(&journal, journal.with_extension("away")).unwrap();
    std::fs::create_dir(&journal).unwrap();
    node
}

/// The upgrade of such a node is `done`, and says what could not be; so it stays at the next start.
async fn told_and_not_undone(mut node: Node, done: Done) {
    assert!(done.stdout.contains("1.0.1 serves"), "{done:?}");
    for words in ["the links are rebuilt at the next start", "history.jsonl cannot be written"] {
        assert!(done.stderr.contains(words), "no `{words}` in {done:?}");
    }
    assert!(node.log().contains("hooks.outcome does not start"), "{}", node.log());
    assert_eq!(get(node.address(), "/").await, (200, "1.0.1".into()));
    assert_eq!(node.status().permanent.unwrap().to_string(), "1.0.1");
    // Nor does it keep the next start from serving, by whatever end the node went down.
    let host = node.host_pid();
    node.kill_supervisor();
    wait_for("the orphaned host ends", || kill(host, None).is_err().then_some(()));
    node.start();
    assert_eq!(get(node.address(), "/").await, (200, "1.0.1".into()));
    assert!(node.log().contains("history.jsonl cannot be read"), "{}", node.log());
}

/// OTP: what fails after the point of no return is not heard.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_after_the_commit_is_told_and_undoes_nothing() {
    let node = node_without_an_end("");
    let done = node.relmgr(&["upgrade", "1.0.1"]).ok();
    told_and_not_undone(node, done).await;
}

/// The same where the release was watched first: what fails from the swap on and is not the release's own undoes
/// nothing, neither its swap nor its probation.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_after_the_commit_of_a_watched_release_undoes_nothing() {
    let node = node_without_an_end("[upgrade]\nprobation = \"10m\"\n");
    let mut upgrade = node.command(&["upgrade", "1.0.1"]);
    let upgrade = upgrade.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("1.0.1 is on probation", || (node.status().phase == Phase::Probation).then_some(()));
    node.relmgr(&["commit"]).ok();
    let done = Done::from(upgrade.wait_with_output().unwrap()).ok();
    told_and_not_undone(node, done).await;
}

/// OTP: a code change that raises takes the process along, its state and its connections, or reboots the node.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_panics_loses_neither_state_nor_connections() {
    let place = tempfile::tempdir().unwrap();
    let told = place.path().join("told");
    let mut node = Node::new("relmgr-state", "");
    node.publish(&release("state", "", "1.0.1"));
    node.publish(&release("state", "two", "1.0.2"));
    node.start_with(&[("RELMGR_TEST_STATE", told.to_str().unwrap())]);
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    let host = node.host_pid();
    let mut idle = Connection::open(node.address()).await;
    ask(&mut idle, "/add?key=a&by=5").await;
    let state = ask(&mut idle, "/all").await;
    let mut half = TcpStream::connect(node.address()).await.unwrap();
    half.write_all(b"GET /all HTTP/1.1\r\nhost: x\r\nconn").await.unwrap();
    std::fs::write(&told, "up-panics").unwrap();
    node.relmgr(&["upgrade", "1.0.2"]).failed(1, &["code change", "up panics on purpose"]);
    assert_eq!(ask(&mut idle, "/all").await, state);
    std::fs::remove_file(&told).unwrap();
    node.relmgr(&["upgrade", "1.0.2", "--retry"]).ok();
    let changed = ask(&mut idle, "/all").await;
    assert_eq!(changed, state, "in another form");
    std::fs::write(&told, "down-panics").unwrap();
    node.relmgr(&["downgrade"]).failed(1, &["code change", "down panics on purpose"]);
    assert_eq!(ask(&mut idle, "/all").await, state);
    half.write_all(b"ection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    half.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let body = answer.split("\r\n\r\n").nth(1).unwrap();
    assert_eq!(serde_json::from_str::<Value>(body).unwrap(), state);
    assert_eq!((node.host_pid(), node.status().host_restarts), (host, 0));
}

/// The same for a start or a `conf_change` that panics.
#[tokio::test(flavor = "multi_thread")]
async fn a_conf_change_that_panics_loses_neither_state_nor_connections() {
    let node = live_node(&release("live", "start-panics", "1.0.1"), "");
    let host = node.host_pid();
    let mut idle = Connection::open(node.address()).await;
    std::fs::write(node.home().join("app.conf"), "logger.level = warn\n").unwrap();
    node.relmgr(&["reload"]).ok();
    let state = ask(&mut idle, "/changes").await;
    assert_eq!(state.as_array().unwrap().len(), 1, "what it keeps in memory");
    node.relmgr(&["upgrade", "1.0.1"]).failed(1, &["start panicked: the start panics on purpose"]);
    assert_eq!(ask(&mut idle, "/changes").await, state);
    std::fs::write(node.home().join("app.conf"), "logger.level = debug\nmisbehave = panic\n").unwrap();
    node.relmgr(&["reload"]).failed(1, &["conf_change panicked"]);
    assert_eq!(ask(&mut idle, "/changes").await, state);
    assert_eq!(ask(&mut idle, "/settings").await["logger"]["level"], "warn");
    assert_eq!((node.host_pid(), node.status().host_restarts), (host, 0));
}

/// OTP: a RELEASES file that was cut short is an empty one, and every release is forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_was_cut_short_forgets_no_release() {
    let mut node = Node::serving("relmgr-faulty", "", &[&good(), &better()]);
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    node.relmgr(&["stop"]).ok();
    node.wait_supervisor();
    let state = node.home().join("state.json");
    let whole = std::fs::read(&state).unwrap();
    // A newline at its end is no loss.
    for cut in 0..whole.len() - 1 {
        std::fs::write(&state, &whole[..cut]).unwrap();
        node.relmgr(&["run"]).failed(1, &["state.json cannot be used", "backup"]);
        assert_eq!(std::fs::read(&state).unwrap(), &whole[..cut], "it is left to people");
    }
    for version in ["1.0.0", "1.0.1"] {
        assert!(node.home().join("releases").join(version).join("VERSION").exists());
    }
    std::fs::write(&state, &whole).unwrap();
    node.start();
    assert_eq!(get(node.address(), "/").await, (200, "1.0.1".into()));
    node.relmgr(&["downgrade"]).ok();
}

/// The same for the history: what is whole is read, and what comes next is whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_was_cut_short_keeps_every_whole_line() {
    let mut node = Node::serving("relmgr-faulty", "", &[&good(), &better()]);
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    node.relmgr(&["stop"]).ok();
    node.wait_supervisor();
    let path = node.home().join("history.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    // Words that are more than ASCII.
    let text = text.replace("\"ms\"", "\"verdict\":\"gut für den Betrieb\",\"ms\"");
    let first = text.find('\n').unwrap() + 1;
    for cut in first..text.len() - 1 {
        std::fs::write(&path, &text.as_bytes()[..cut]).unwrap();
        assert_eq!(history(&node).len(), 1, "cut at {cut}");
    }
    // In the middle of a character.
    let cut = text.rfind('ü').unwrap() + 1;
    std::fs::write(&path, &text.as_bytes()[..cut]).unwrap();
    node.start();
    assert_eq!(get(node.address(), "/").await, (200, "1.0.1".into()));
    node.relmgr(&["downgrade"]).ok();
    let kinds: Vec<_> = history(&node).iter().map(|entry| entry["kind"].clone()).collect();
    assert_eq!(kinds, ["upgrade", "downgrade"], "the next line is not lost with the one that was cut");
}

/// OTP: `remove_release` and a cleaning script take away the files of what runs.
#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_what_serves_or_may_serve_again_stay() {
    let third = release("faulty", "", "1.0.2");
    let settings = "[upgrade]\nprobation = \"10m\"\nkeep_releases = 1\n";
    let node = Node::serving("relmgr-faulty", settings, &[&good(), &better(), &third]);
    let stay = |versions: &[&str]| {
        for version in versions {
            node.relmgr(&["remove", version]).failed(1, &[version, "cannot be removed"]);
            assert!(node.home().join("releases").join(version).join("manifest.toml").exists(), "{version}");
        }
    };
    stay(&["1.0.0"]);
    let mut upgrade = on_probation(&node);
    // An operation is under way, whatever it would have removed.
    for command in [&["remove", "1.0.0"][..], &["remove", "1.0.1"], &["prune", "--keep", "1"]] {
        node.relmgr(command).failed(5, &["on probation"]);
    }
    node.relmgr(&["commit"]).ok();
    assert!(upgrade.wait().unwrap().success());
    node.relmgr(&["prune", "--keep", "1"]).ok();
    stay(&["1.0.0", "1.0.1"]);
    node.relmgr(&["fetch", "1.0.2"]).ok();
    node.relmgr(&["remove", "1.0.2"]).ok();
    // And back, to what nobody has taken away.
    node.relmgr(&["downgrade"]).ok();
    assert_eq!(get(node.address(), "/").await.1, "1.0.0");
    stay(&["1.0.0", "1.0.1"]);
}

/// OTP: a half unpacked release, or one whose install failed, is in the way of the next try.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_try_is_in_the_way_of_no_other() {
    let (waits, panics) = (release("live", "start-waits", "1.0.1"), release("live", "start-panics", "1.0.2"));
    let third = release("live", "", "1.0.3");
    // The good ones are held to it, too; the first one would wait for ever.
    let node = live_node(&waits, "[upgrade]\nstart = \"3s\"\n");
    node.publish(&panics);
    node.publish(&third);
    node.relmgr(&["upgrade", "1.0.1"]).failed(1, &["took longer than 3s (upgrade.start)"]);
    node.relmgr(&["upgrade", "1.0.2"]).failed(1, &["panics on purpose"]);
    for _ in 0..3 {
        node.relmgr(&["upgrade", "1.0.2", "--retry"]).failed(1, &["panics on purpose"]);
    }
    // The operator's mistake is no fault of the release, which needs no word to be tried again.
    std::fs::write(node.home().join("app.conf"), "logger.level = loud\n").unwrap();
    node.relmgr(&["upgrade", "1.0.3"]).failed(1, &["app.conf:1"]);
    std::fs::write(node.home().join("app.conf"), "logger.level = warn\n").unwrap();
    // What was in its way is there now.
    std::fs::write(node.home().join("go"), "").unwrap();
    node.relmgr(&["upgrade", "1.0.1", "--retry"]).ok();
    assert_eq!(node.current().as_deref(), Some("1.0.1"));
    node.relmgr(&["upgrade", "1.0.3"]).ok();
    assert_eq!(node.current().as_deref(), Some("1.0.3"));
    assert_eq!(node.mapped().len(), 1);
}

/// OTP: the upgrade is carried out by the old version's own code. Here the plan is in the new release's manifest, the
/// old application is asked nothing that could stop it, and the home outlives the relmgr that wrote it.
#[tokio::test(flavor = "multi_thread")]
async fn the_old_version_has_no_say_in_the_upgrade() {
    let (hanging, next) = (release("faulty", "stop-hangs", "1.0.0"), better());
    let mut node = Node::serving("relmgr-faulty", "[upgrade]\ndrain = \"1s\"\n", &[&hanging]);
    let outdated = |node: &Node| {
        // As the first relmgr wrote them: without what was added since.
        let state = node.home().join("state.json");
        let mut record: Value = serde_json::from_str(&std::fs::read_to_string(&state).unwrap()).unwrap();
        record.as_object_mut().unwrap().remove("channels");
        std::fs::write(&state, record.to_string()).unwrap();
        let line = json!({
            "at": "2026-01-02T03:04:05Z", "kind": "upgrade", "uid": 0, "from": null, "to": "1.0.0",
            "outcome": "done", "ms": 12.5
        });
        std::fs::write(node.home().join("history.jsonl"), format!("{line}\n")).unwrap();
        let manifest = node.home().join("releases/1.0.0/manifest.toml");
        let text = std::fs::read_to_string(&manifest).unwrap();
        let mut parsed = Manifest::parse(&text).unwrap();
        assert!(parsed.abi.minor > 0, "{:?}", parsed.abi);
        parsed.abi.minor = 0;
        std::fs::write(&manifest, parsed.to_toml()).unwrap();
    };
    node.relmgr(&["stop"]).ok();
    node.wait_supervisor();
    outdated(&node);
    node.start();
    assert_eq!(get(node.address(), "/").await, (200, "1.0.0".into()));
    assert_eq!(history(&node)[0]["ms"], 12.5);
    // A manifest from the future says so, and stops nobody from going elsewhere.
    node.publish(&next);
    let manifest = node.repository().join("1.0.1.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("format = 1\n", "format = 2\nplan = \"by other means\"\n"))
        .unwrap();
    node.relmgr(&["upgrade", "1.0.1"]).failed(1, &["format 2", "reads format 1"]);
    // What the new release says counts, though the old one never heard of it: from where, and after which probes.
    std::fs::write(&manifest, text).unwrap();
    let (_work, picky) = altered("1.0.2", |_, manifest| {
        manifest.upgrade_from = Some(">=1.0.1".parse().unwrap());
    });
    let (_probing, probed) = altered("1.0.3", |_, manifest| {
        manifest.probes = vec![Probe { path: "/no-such".into(), status: 200 }];
    });
    node.publish(&picky);
    node.publish(&probed);
    node.relmgr(&["upgrade", "1.0.2"]).failed(1, &["may be upgraded to from >=1.0.1"]);
    node.relmgr(&["upgrade", "1.0.3"]).failed(1, &["/no-such"]);
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    assert_eq!(get(node.address(), "/").await, (200, "1.0.1".into()));
    assert_eq!(node.mapped().len(), 1, "the old one is gone, though its stop never ended");
    // A home from the future is refused, not read as something else.
    node.relmgr(&["stop"]).ok();
    node.wait_supervisor();
    let state = node.home().join("state.json");
    let text = std::fs::read_to_string(&state).unwrap();
    std::fs::write(&state, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
    node.relmgr(&["run"]).failed(1, &["format 2, this relmgr reads format 1"]);
    std::fs::write(&state, text).unwrap();
    node.start();
    assert_eq!(get(node.address(), "/").await, (200, "1.0.1".into()));
}

//! What clients, sessions and processes do while the state goes from one release to another, and what else can go wrong
//! with it than tests/it/state.rs has.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use nix::sys::signal::{Signal, kill};
use relmgr_model::control::GenerationState;
use relmgr_testkit::kit::{Done, Node, bin, release, target_dir, wait_for, workspace};
use relmgr_testkit::load::{Load, Request};
use relmgr_testkit::process;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use crate::client::{Connection, get};
use crate::sessions::{Socket, ask, close_code, open, text};
use crate::state::{Numbers, Scene, numbers};

const SHORT: &str = "[upgrade]\nquiesce = \"3s\"\n";
const LONG: &str = "[upgrade]\nquiesce = \"50s\"\n";

/// `relmgr args…`, beside what the test goes on to do.
fn running(scene: &Scene, args: &[&str]) -> JoinHandle<Done> {
    let mut command = scene.node.command(args);
    tokio::task::spawn_blocking(move || Done::from(command.output().unwrap()))
}

/// Whoever tried it is gone, and the release that serves has its state.
async fn is_as_before(scene: &Scene, told: &str) {
    scene.tell("");
    assert_eq!((scene.current().as_str(), scene.get("/schema").await.as_str()), ("1.0.1", "1"), "{told}");
    assert_eq!(scene.all().await, numbers(&[("a", 5)]), "{told}");
    wait_for("one library is left", || (scene.node.mapped().len() == 1).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_release_that_does_not_resume_and_an_old_one_that_blocks_its_thread() {
    let scene = Scene::new(SHORT);
    scene.add("a", 5).await;
    let late = "took longer than 3s (upgrade.quiesce)";
    for (told, words) in [
        ("resume-3-panics", "resume-3 panics on purpose"),
        ("resume-3-fails", "resume-3 fails on purpose"),
        ("resume-3-hangs", late),
        ("resume-3-waits", late),
        ("suspend-blocks", late),
    ] {
        scene.tell(told);
        scene.node.relmgr(&["upgrade", "1.0.3", "--retry"]).failed(1, &[words, "code change"]);
        is_as_before(&scene, told).await;
    }
    scene.node.relmgr(&["upgrade", "1.0.3", "--retry"]).ok();
    assert_eq!(scene.all().await, numbers(&[("a", 5)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_release_that_does_not_take_its_own_state_back_is_told_of() {
    let scene = Scene::new(SHORT);
    scene.add("a", 5).await;
    scene.tell("up-fails resume-of-1");
    let done = scene.node.relmgr(&["upgrade", "1.0.3"]);
    done.failed(
        1,
        &[
            "up fails on purpose",
            "1.0.1 did not go on with its own state: resume failed: resume fails on purpose",
        ],
    );
    scene.tell("");
    // It serves all the same, with what it has.
    assert_eq!((scene.current().as_str(), scene.all().await), ("1.0.1", Numbers::new()));
    let history = scene.node.relmgr(&["history", "--json"]).ok().stdout;
    assert!(history.contains("did not go on with its own state"), "{history}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_change_that_never_returns_keeps_its_release_named_and_stops_no_other() {
    let scene = Scene::new(SHORT);
    scene.add("a", 5).await;
    scene.tell("up-sticks");
    scene.node.relmgr(&["upgrade", "1.0.3"]).failed(1, &["took longer than 3s (upgrade.quiesce)"]);
    scene.tell("");
    let pinned = wait_for("it is named", || {
        let status = scene.node.status();
        status.generations.into_iter().find(|generation| generation.state == GenerationState::Pinned)
    });
    assert_eq!(pinned.version.to_string(), "1.0.3");
    assert!(!pinned.reasons.is_empty(), "{pinned:?}");
    assert_eq!(scene.all().await, numbers(&[("a", 5)]));
    scene.node.relmgr(&["upgrade", "1.0.2"]).ok();
    assert_eq!((scene.current().as_str(), scene.all().await), ("1.0.2", numbers(&[("a", 5)])));
    scene.tell("unstick");
    wait_for("it is gone", || (scene.node.mapped().len() == 1).then_some(()));
    scene.node.relmgr(&["upgrade", "1.0.3", "--retry"]).ok();
    assert_eq!(scene.all().await, numbers(&[("a", 5)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_aborts_takes_the_state_along_and_says_so() {
    let scene = Scene::new("[supervisor]\nintensity = 100\n");
    for (told, args) in [("suspend-aborts", ["upgrade", "1.0.3"]), ("down-aborts", ["downgrade", "1.0.1"])] {
        let serving = scene.current();
        scene.add("a", 5).await;
        scene.tell(told);
        let done = scene.node.relmgr(&args);
        scene.tell("");
        done.failed(1, &["died", "what was kept in memory is lost with the host"]);
        wait_for("another host serves", || (scene.node.status().current.is_some()).then_some(()));
        assert_eq!((scene.current(), scene.all().await), (serving, Numbers::new()), "{told}");
        if told == "suspend-aborts" {
            scene.node.relmgr(&["upgrade", "1.0.3", "--retry"]).ok();
        }
    }
}

/// Killed in the middle of a hand-over, the node serves what was permanent, with an empty state.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_or_a_supervisor_killed_while_the_state_is_handed_over_leaves_the_permanent_release() {
    for (told, args) in
        [("down-hangs", vec!["downgrade", "1.0.1", "--retry"]), ("suspend-hangs", vec!["restart"])]
    {
        let mut scene = Scene::new(&format!("{LONG}[supervisor]\nintensity = 100\n"));
        scene.node.relmgr(&["upgrade", "1.0.3"]).ok();
        for kills_host in [true, false] {
            scene.add("a", 5).await;
            scene.tell(told);
            let operation = running(&scene, &args);
            scene.wait_at(told);
            if kills_host {
                let host = scene.node.host_pid();
                kill(host, Signal::SIGKILL).unwrap();
                wait_for("another host serves", || {
                    let status = scene.node.status();
                    let other = status.host_pid.is_some_and(|pid| pid != host.as_raw().unsigned_abs());
                    (other && status.current.is_some() && scene.node.is_settled()).then_some(())
                });
                scene.tell("");
            } else {
                scene.node.kill_supervisor();
                scene.tell("");
                scene.start();
            }
            let done = operation.await.unwrap();
            // A restart whose old host is gone has nothing more to wait for.
            assert!(done.code == 1 || (kills_host && args.len() == 1) || done.code == 4, "{told}: {done:?}");
            let marked = scene.current();
            assert_eq!((marked.as_str(), scene.all().await), ("1.0.3", Numbers::new()), "{told}");
            scene.forget_waits();
        }
        scene.add("a", 5).await;
        scene.node.relmgr(&["downgrade", "1.0.1", "--retry"]).ok();
        assert_eq!(scene.all().await, numbers(&[("a", 5)]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_trial_of_the_code_change_does_requests_go_on() {
    let scene = Scene::new("[upgrade]\nstart = \"5s\"\n");
    scene.add("a", 5).await;
    for (told, words) in [
        ("up-panics", "up panics on purpose"),
        ("up-hangs", "preflight took longer than"),
        ("up-aborts", "crashed in preflight"),
        ("garbage", "the code change fails on a copy of the state"),
    ] {
        scene.tell(told);
        let checking = running(&scene, &["check", "1.0.3"]);
        if told == "up-hangs" {
            scene.wait_at(told);
            // The copy was written, and nobody waits for what becomes of it.
            assert_eq!(scene.all().await, numbers(&[("a", 5)]));
        }
        checking.await.unwrap().failed(1, &[words]);
        is_as_before(&scene, told).await;
    }
}

/// Sends part of an upload, and then nothing.
async fn stalled_upload(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "POST /upload HTTP/1.1\r\nhost: test\r\ncontent-length: 1000\r\n\r\nthe beginning";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stalls_in_its_upload_ends_the_upgrade_and_not_the_release() {
    let scene = Scene::new("[upgrade]\nquiesce = \"2s\"\n");
    scene.add("a", 5).await;
    let mut stalled = stalled_upload(scene.node.address()).await;
    wait_for("the upload is under way", || (scene.node.status().generations[0].in_flight == 1).then_some(()));
    let done = scene.node.relmgr(&["upgrade", "1.0.3"]);
    done.failed(1, &["1 request was not over within 2s (upgrade.quiesce)"]);
    is_as_before(&scene, "a stalled upload").await;
    stalled.write_all(&[b'x'; 1000 - "the beginning".len()]).await.unwrap();
    let mut answer = vec![0; 15];
    stalled.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 200 OK");
    drop(stalled);
    scene.node.relmgr(&["upgrade", "1.0.3"]).ok();
}

/// A body of so many bytes.
const UPLOAD: usize = 64 << 20;

/// How many bytes of a large body came.
async fn upload(address: SocketAddr) -> String {
    let body = http_body_util::Full::new(Bytes::from(vec![b'x'; UPLOAD]));
    let request = http::Request::post("/upload").header("host", "test").body(body).unwrap();
    let answer = Connection::open(address).await.send(request).await.unwrap();
    let bytes = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_upload_across_a_code_change_is_whole_and_so_is_one_that_waited_for_it() {
    let scene = Scene::new(LONG);
    let address = scene.node.address();
    // The one begins before the gate is shut and is waited for, the other one finds it shut.
    let mut before = stalled_upload(address).await;
    wait_for("it is under way", || (scene.node.status().generations[0].in_flight == 1).then_some(()));
    scene.tell("suspend-hangs");
    let upgrade = running(&scene, &["upgrade", "1.0.3"]);
    wait_for("requests wait", || {
        let schema = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::time::timeout(Duration::from_millis(100), get(address, "/schema")).await.is_err()
            })
        });
        schema.join().unwrap().then_some(())
    });
    let after = tokio::spawn(upload(address));
    before.write_all(&[b'x'; 1000 - "the beginning".len()]).await.unwrap();
    scene.wait_at("suspend-hangs");
    scene.tell("");
    upgrade.await.unwrap().ok();
    assert_eq!(after.await.unwrap(), UPLOAD.to_string());
    let mut answer = String::new();
    before.shutdown().await.unwrap();
    before.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("1000"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_go_while_they_are_held_leave_their_places_to_others() {
    let scene = Scene::new(&format!("{LONG}[http.limits]\nheld = 3\n"));
    scene.add("a", 5).await;
    let address = scene.node.address();
    scene.tell("suspend-hangs");
    let upgrade = running(&scene, &["upgrade", "1.0.3"]);
    scene.wait_at("suspend-hangs");
    for _ in 0..20 {
        // Three at a time ask, wait, and vanish.
        let mut going = vec![];
        for _ in 0..3 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /add?key=b&by=1 HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
            going.push(stream);
        }
    }
    // There is room for one that stays, as soon as the host has seen them go.
    let staying = crate::client::eventually("there is room", async || {
        let mut asked = tokio::spawn(async move { get(address, "/schema").await });
        match tokio::time::timeout(Duration::from_secs(1), &mut asked).await {
            Ok(_) => None,
            Err(_) => Some(asked),
        }
    });
    let staying = staying.await;
    scene.tell("");
    upgrade.await.unwrap().ok();
    assert_eq!(staying.await.unwrap(), (200, "3".into()));
    assert_eq!(scene.all().await, numbers(&[("a", 5)]), "who has gone is not answered");
}

/// The builder looks at what nodes run now before it makes anything of it.
#[test]
fn a_release_whose_state_has_another_shape_under_the_same_version_is_not_built() {
    let node = Node::new("relmgr-state", "");
    node.publish(&release("state", "", "1.0.1"));
    let out = node.home().join("out");
    let repository = node.repository_url();
    let build_as = |version: &str, features: &str, args: &[&str]| {
        let mut command = std::process::Command::new(bin("cargo-relmgr"));
        command.args(["relmgr", "release", "--profile", "dev", "--version", version, "--features", features]);
        command.arg("--manifest-path").arg(workspace().join("tests/fixtures/state/Cargo.toml"));
        command.args(args).arg("--out").arg(&out).env_remove("RELMGR_REPOSITORY");
        Done::from(command.env("CARGO_TARGET_DIR", target_dir()).output().unwrap())
    };
    let named = ["--repository", &repository];
    build_as("1.0.9", "other-shape", &named).failed(1, &["1.0.1", "another #[state(version = "]);
    assert!(!out.join("VERSION").exists());
    let built = build_as("1.0.9", "two", &named).ok();
    assert_eq!(std::fs::read_to_string(out.join("VERSION")).unwrap().trim(), "1.0.9");
    // Where it cannot look, it says so; where there is no state, there is nothing to look at.
    let unchecked = "the shape of its state was not compared with what nodes run";
    let silent = [built, build_as("1.0.10", "two", &["--json"]).ok(), build_as("1.0.11", "none", &[]).ok()];
    assert!(silent.iter().all(|done| !done.stderr.contains(unchecked)), "{silent:?}");
    let done = build_as("1.0.12", "two", &[]).ok();
    assert!(done.stderr.contains(unchecked) && done.stderr.contains("--repository"), "{done:?}");
}

fn answered(n: u64, sum: i64, schema: u32) -> Value {
    json!({"n": n, "sum": sum, "schema": schema})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_a_session_waits_for_the_code_change_and_a_handler_is_waited_for() {
    let scene = Scene::new("[upgrade]\nquiesce = \"2s\"\n");
    let address = scene.node.address();
    let mut socket = open(address, "/adder").await;
    assert_eq!(ask(&mut socket, "a").await, answered(1, 1, 1));
    // A handler that outlasts quiesce ends the upgrade, and is not disturbed.
    scene.tell("message-waits");
    socket.send(Message::text("a")).await.unwrap();
    scene.wait_at("message-waits");
    let done = scene.node.relmgr(&["upgrade", "1.0.3"]);
    done.failed(1, &["1 request was not over within 2s (upgrade.quiesce)"]);
    scene.tell("");
    let told = serde_json::from_str::<Value>(&text(&mut socket).await).unwrap();
    assert_eq!(told, answered(2, 2, 1));
    // A message that comes meanwhile is the next release's.
    scene.tell("suspend-hangs");
    let upgrade = running(&scene, &["upgrade", "1.0.3"]);
    scene.wait_at("suspend-hangs");
    socket.send(Message::text("a")).await.unwrap();
    assert!(!upgrade.is_finished());
    scene.tell("");
    upgrade.await.unwrap().ok();
    let told = serde_json::from_str::<Value>(&text(&mut socket).await).unwrap();
    assert_eq!(told, answered(3, 3, 3));
}

/// Sessions that count, in the state and each for itself.
const SESSIONS: usize = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_sessions_count_on_over_code_changes_up_and_down() {
    let scene = Scene::new("");
    scene.node.relmgr(&["fetch", "1.0.2"]).ok();
    let mut sockets: Vec<Socket> = vec![];
    for _ in 0..SESSIONS {
        sockets.push(open(scene.node.address(), "/adder").await);
    }
    let round = [
        ("upgrade", "1.0.3", 3),
        ("downgrade", "1.0.2", 2),
        ("upgrade", "1.0.3", 3),
        ("downgrade", "1.0.1", 1),
    ];
    for (at, (command, version, schema)) in (1_u64..).zip(round.iter().cycle().take(12)) {
        // Half of the messages are on their way when the release changes.
        let (early, late) = sockets.split_at_mut(SESSIONS / 2);
        for socket in early.iter_mut() {
            socket.send(Message::text("all")).await.unwrap();
        }
        scene.node.relmgr(&[command, version]).ok();
        for socket in late.iter_mut() {
            socket.send(Message::text("all")).await.unwrap();
        }
        for (number, socket) in sockets.iter_mut().enumerate() {
            let told: Value = serde_json::from_str(&text(socket).await).unwrap();
            assert_eq!(told["n"], at, "session {number}: {told}");
            assert!(number < SESSIONS / 2 || told["schema"] == *schema, "session {number}: {told}");
        }
        assert_eq!(scene.all().await, numbers(&[("all", (at * SESSIONS as u64).cast_signed())]));
    }
    let sessions = scene.node.status().sessions.unwrap();
    assert_eq!((sessions.totals.begun, sessions.open.websocket), (SESSIONS as u64, SESSIONS as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_may_have_as_much_memory_as_a_large_state_takes() {
    let scene = Scene::new("[preflight]\nmemory_bytes = 67108864\n[upgrade]\nquiesce = \"50s\"\n");
    // Decoded twice, these are more than the trial of a release without a state may use.
    scene.get("/fill?records=500000").await;
    let done = scene.node.relmgr(&["check", "1.0.3"]).ok();
    assert!(done.stderr.contains("read and changed in"), "{done:?}");
}

/// Enough that what the host has besides does not count.
const RECORDS: usize = 200_000;

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_double_twice_in_a_hand_over() {
    let scene = Scene::new("[upgrade]\nquiesce = \"50s\"\n");
    let host = scene.node.host_pid().as_raw();
    let empty = process::resident_kib(host);
    scene.get(&format!("/fill?records={RECORDS}")).await;
    let once = process::resident_kib(host).saturating_sub(empty);
    assert!(once > 8 * 1024, "{RECORDS} records take {once} KiB: too few to see anything");
    // The old release keeps its state, and the new one reads the old form and makes its own of it: two more, of which a
    // map is half as large again. Down there is a copy of what serves besides. What is encoded is never there as a whole.
    for (command, version, times) in [("upgrade", "1.0.2", 3), ("downgrade", "1.0.1", 5)] {
        process::forget_peak(host);
        let before = process::resident_kib(host);
        scene.node.relmgr(&[command, version]).ok();
        let more = process::peak_resident_kib(host).saturating_sub(before);
        eprintln!("{command}: {more} KiB more at the peak, where the state takes {once} KiB");
        assert!(more < once * times, "{command}: {more} KiB more, where the state takes {once} KiB");
    }
    assert_eq!(scene.all().await.len(), RECORDS);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_while_a_restart_takes_the_state_along_is_answered_by_the_new_host() {
    let scene = Scene::new(LONG);
    scene.add("a", 5).await;
    let address = scene.node.address();
    let mut known = Connection::open(address).await;
    known.get("/schema").await.unwrap();
    scene.tell("suspend-hangs");
    let restart = running(&scene, &["restart"]);
    scene.wait_at("suspend-hangs");
    let connecting: Vec<_> =
        (0..10).map(|_| tokio::spawn(async move { get(address, "/add?key=a&by=1").await })).collect();
    // It is on a connection of the old host already, which has nothing to answer with.
    let asking = tokio::spawn(async move { known.get("/add?key=a&by=100").await });
    scene.tell("");
    restart.await.unwrap().ok();
    for answer in connecting {
        assert_eq!(answer.await.unwrap().0, 200);
    }
    // Turned away, or told that there is no more on this connection: not done in any case.
    let turned_away = asking.await.unwrap();
    assert!(turned_away.as_ref().is_err() || turned_away.as_ref().unwrap().0 == 503, "{turned_away:?}");
    assert_eq!(scene.all().await, numbers(&[("a", 15)]));
}

/// A restart costs each connection one answer at most: that which it waited for when the state went.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_state_turns_away_no_more_than_one_request_of_a_connection() {
    let scene = Scene::new("[upgrade]\ndrain = \"2s\"\n");
    scene.get("/fill?records=50000").await;
    const CLIENTS: usize = 8;
    let load = Load::start(scene.node.address(), &[Request::get("/schema")], CLIENTS);
    for round in 1..=3 {
        let answered = load.answered();
        scene.node.relmgr(&["restart"]).ok();
        wait_for("the load goes on", || (load.answered() > answered + 100).then_some(()));
        assert_eq!(scene.all().await.len(), 50_000, "{round}");
    }
    let report = load.stop();
    eprintln!("{} of {} requests were turned away", report.failures(), report.requests());
    assert!(report.failures() <= (3 * CLIENTS) as u64, "{}", report.failures_by_kind());
}

/// Everything that a node keeps, across another relmgr in its place and what comes after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_self_upgrade_takes_state_and_tables_along_and_tells_the_sessions() {
    let extra = "[upgrade]\ndrain = \"3s\"\n[listen.tcp.line]\naddress = \"127.0.0.1:0\"\n";
    let scene = Scene::new(extra);
    scene.add("a", 5).await;
    assert_eq!(scene.get("/visit/home").await, "1");
    let tcp = scene.node.status().tcp[0].address.clone();
    let mut socket = open(scene.node.address(), "/adder").await;
    assert_eq!(ask(&mut socket, "a").await, answered(1, 6, 1));
    let mut line = TcpStream::connect(&tcp).await.unwrap();
    line.write_all(b"a\n").await.unwrap();
    let mut answer = vec![0; 64];
    let read = line.read(&mut answer).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&answer[..read]).unwrap(), answered(1, 7, 1));

    let new = scene.node.home().parent().unwrap().join("relmgr-new");
    std::fs::copy(bin("relmgr"), &new).unwrap();
    let before = (scene.node.supervisor_pid(), scene.node.host_pid());
    let upgrade = running(&scene, &["self-upgrade", new.to_str().unwrap()]);
    // Both are told in time: 1012 (service restart), and the end of the connection.
    assert_eq!(close_code(&mut socket).await, 1012);
    assert_eq!(line.read(&mut answer).await.unwrap(), 0);
    upgrade.await.unwrap().ok();
    assert_eq!(scene.node.supervisor_pid(), before.0);
    assert_ne!(scene.node.host_pid(), before.1);

    assert_eq!((scene.all().await, scene.get("/visit/home").await), (numbers(&[("a", 7)]), "2".into()));
    let mut socket = open(scene.node.address(), "/adder").await;
    assert_eq!(ask(&mut socket, "a").await, answered(1, 8, 1));
    let mut line = TcpStream::connect(&tcp).await.unwrap();
    line.write_all(b"a\n").await.unwrap();
    let read = line.read(&mut answer).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&answer[..read]).unwrap(), answered(1, 9, 1));
    // What was begun in the new host lives across what comes.
    scene.node.relmgr(&["upgrade", "1.0.3"]).ok();
    assert_eq!(ask(&mut socket, "a").await, answered(2, 10, 3));
    scene.node.relmgr(&["downgrade"]).ok();
    assert_eq!(ask(&mut socket, "a").await, answered(3, 11, 1));
    assert_eq!(scene.get("/visit/home").await, "3");
    assert_eq!(scene.node.mapped().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_down_that_looks_at_the_state_leaves_it_with_the_release_that_serves() {
    let scene = Scene::new(SHORT);
    scene.add("a", 5).await;
    scene.node.relmgr(&["upgrade", "1.0.2"]).ok();
    for (told, words) in [
        ("down-fails", "down fails on purpose"),
        ("down-panics", "down panics on purpose"),
        ("down-hangs", "took longer than 3s (upgrade.quiesce)"),
        ("garbage", "code_change failed"),
        ("resume-of-1", "resume fails on purpose"),
    ] {
        scene.tell(told);
        scene.node.relmgr(&["downgrade", "1.0.1", "--retry"]).failed(1, &[words, "code change"]);
        // One that hangs does so still.
        assert_eq!((scene.current().as_str(), scene.all().await), ("1.0.2", numbers(&[("a", 5)])), "{told}");
        scene.add("a", 1).await;
        scene.tell("");
        scene.add("a", -1).await;
        wait_for("one library is left", || (scene.node.mapped().len() == 1).then_some(()));
    }
    scene.node.relmgr(&["downgrade", "1.0.1", "--retry"]).ok();
    assert_eq!(scene.all().await, numbers(&[("a", 5)]));
}

/// A recording makes requests wait for a moment: nobody is left waiting when the command that asked has gone.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_a_recording_may_go_away() {
    use std::io::Write;
    let scene = Scene::new("");
    scene.add("a", 3).await;
    let directory = scene.node.home().join("recording");
    let body = format!("{{\"directory\":\"{}\"}}", directory.display());
    let asked =
        format!("POST /v1/state/save HTTP/1.1\r\nhost: node\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let socket = scene.node.home().join("run/control.sock");
    let mut socket = std::os::unix::net::UnixStream::connect(socket).unwrap();
    scene.tell("suspend-hangs");
    socket.write_all(asked.as_bytes()).unwrap();
    // Whoever goes away earlier may have asked for nothing.
    scene.wait_at("suspend-hangs");
    drop(socket);
    scene.tell("");
    wait_for("the recording is whole", || directory.join("recording.json").exists().then_some(()));
    assert_eq!(scene.all().await, Numbers::from([("a".to_owned(), 3)]));
    scene.node.relmgr(&["upgrade", "1.0.2"]).ok();
    assert_eq!(scene.all().await, Numbers::from([("a".to_owned(), 3)]));
}

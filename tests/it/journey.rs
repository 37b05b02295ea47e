//! The main road: publish, run, upgrade under load, downgrade, and what lies in the home afterwards.

use std::os::unix::fs::PermissionsExt;

use crate::client::{Load, get};
use relmgr_testkit::kit::{Node, release};

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_and_downgrades_under_load_fail_no_request() {
    let (one, two) = (release("faulty", "", "1.0.0"), release("faulty", "second", "1.0.1"));
    let node = Node::serving("relmgr-faulty", "", &[&one, &two]);
    let load = Load::start(node.address(), "/", 8);
    for _ in 0..5 {
        node.relmgr(&["upgrade", "1.0.1"]).ok();
        assert_eq!(get(node.address(), "/api/public/version").await.1, "1.0.1");
        node.relmgr(&["downgrade"]).ok();
        assert_eq!(get(node.address(), "/api/public/version").await.1, "1.0.0");
    }
    let seen = load.stop().await;
    assert!(seen.failures.is_empty(), "{:?}", seen.failures);
    let versions: Vec<_> = seen.answers.keys().map(String::as_str).collect();
    assert_eq!(versions, ["1.0.0", "1.0.1"]);
    assert_eq!(node.mapped().len(), 1, "{:?}", node.mapped());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_home_tells_people_and_scripts_what_serves() {
    let (one, two) = (release("faulty", "", "1.0.0"), release("faulty", "second", "1.0.1"));
    let node = Node::serving("relmgr-faulty", "", &[&one, &two]);
    // Without a version: the channel's.
    let done = node.relmgr(&["upgrade", "--json"]).ok();
    let operation = done.json();
    assert_eq!((operation["from"].as_str(), operation["to"].as_str()), (Some("1.0.0"), Some("1.0.1")));
    let steps: Vec<_> =
        operation["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(
        steps.join(" "),
        "resolve fetch verify unpack configure preflight start health swap record drain"
    );
    assert!(done.stderr.contains("unpack") && done.stderr.contains("1.0.0 unmapped"), "{}", done.stderr);

    let releases = node.home().join("releases");
    assert_eq!(std::fs::read_link(releases.join("current")).unwrap().to_str(), Some("1.0.1"));
    assert_eq!(std::fs::read_to_string(releases.join("prev/VERSION")).unwrap(), "1.0.0\n");
    let (_, version) = get(node.address(), "/api/public/version").await;
    assert_eq!(std::fs::read_to_string(releases.join("current/VERSION")).unwrap().trim_end(), version);

    let again = node.relmgr(&["upgrade"]).ok();
    assert!(again.stdout.contains("serves already"), "{again:?}");
    let listed = node.relmgr(&["releases", "--json"]).ok().json();
    let statuses: Vec<_> = listed["releases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|release| (release["version"].as_str().unwrap(), release["status"].as_str().unwrap()))
        .collect();
    assert_eq!(statuses, [("1.0.1", "permanent"), ("1.0.0", "old")]);
    let history = node.relmgr(&["history", "--json"]).ok().json();
    let kinds: Vec<_> =
        history.as_array().unwrap().iter().map(|line| line["outcome"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["done", "done"], "what was so already is no operation");
    let status = node.relmgr(&["status", "--json"]).ok().json();
    for key in [
        "app",
        "home",
        "phase",
        "supervisor_pid",
        "host_pid",
        "started_at",
        "host_restarts",
        "current",
        "prev",
        "permanent",
        "probation_ends_at",
        "generations",
        "last_operation",
    ] {
        assert!(status.get(key).is_some(), "{key}: {status}");
    }
    assert_eq!(status["phase"], "steady");
    let socket = std::fs::metadata(node.home().join("run/control.sock")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o660);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_endpoint_speaks_json_to_who_asks_for_it() {
    let node = Node::serving("relmgr-faulty", "", &[&release("faulty", "", "1.0.0")]);
    let mut connection = crate::client::Connection::open(node.address()).await;
    let request =
        http::Request::get("/api/public/version").header("host", "x").header("accept", "application/json");
    let response = connection.send(request.body(http_body_util::Full::default()).unwrap()).await.unwrap();
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&json["version"], &json["status"]), (&"1.0.0".into(), &"permanent".into()));
    let manifest = std::fs::read_to_string(node.home().join("releases/1.0.0/manifest.toml")).unwrap();
    assert!(manifest.contains(json["sha256"].as_str().unwrap()));
    assert_eq!(json["build_id"].as_str().unwrap().len(), 40);
    assert!(json["since"].is_string() && json["conf"].is_string() && json["prev"].is_null());
    let (code, _) = get(node.address(), "/api/public/version/").await;
    assert_eq!(code, 404, "another path is the application's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_boots_what_it_served_and_remembers_prev() {
    let (one, two) = (release("faulty", "", "1.0.0"), release("faulty", "second", "1.0.1"));
    let mut node = Node::serving("relmgr-faulty", "", &[&one, &two]);
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    node.relmgr(&["stop"]).ok();
    assert_eq!(node.wait_supervisor(), Some(0));
    node.relmgr(&["status"]).failed(4, &["no node is running"]);
    // The links are for people: a start rebuilds them.
    std::fs::remove_file(node.home().join("releases/current")).unwrap();
    node.start();
    assert_eq!(get(node.address(), "/").await, (200, "1.0.1".into()));
    assert_eq!(std::fs::read_link(node.home().join("releases/current")).unwrap().to_str(), Some("1.0.1"));
    node.relmgr(&["downgrade"]).ok();
    assert_eq!(get(node.address(), "/").await, (200, "1.0.0".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn releases_are_fetched_checked_removed_and_pruned_without_serving() {
    let versions = ["1.0.0", "1.0.1", "1.0.2", "1.0.3"];
    let releases: Vec<_> = versions.iter().map(|version| release("faulty", "", version)).collect();
    let node = Node::serving("relmgr-faulty", "", &releases.iter().collect::<Vec<_>>());
    let check = node.relmgr(&["check", "1.0.1"]).ok();
    assert!(check.stdout.contains("1.0.1 can be upgraded to"), "{check:?}");
    node.relmgr(&["fetch", "1.0.2"]).ok();
    node.relmgr(&["fetch", "1.0.3"]).ok();
    assert_eq!(node.current().as_deref(), Some("1.0.0"));
    let plan = node.relmgr(&["upgrade", "--dry-run"]).ok();
    assert!(plan.stdout.contains("1.0.3 would take: verify, configure, preflight, start"), "{plan:?}");
    node.relmgr(&["remove", "1.0.0"]).failed(1, &["current release and cannot be removed"]);
    node.relmgr(&["remove", "1.0.1"]).ok();
    assert!(!node.home().join("releases/1.0.1").exists());
    node.relmgr(&["upgrade"]).ok();
    let pruned = node.relmgr(&["prune", "--keep", "2"]).ok();
    assert!(pruned.stdout.contains("removed 1.0.2"), "{pruned:?}");
    node.relmgr(&["upgrade", "1.0.2"]).failed(1, &["relmgr downgrade 1.0.2"]);
    node.relmgr(&["downgrade", "1.0.2"]).failed(1, &["not installed", "relmgr fetch 1.0.2"]);
    node.relmgr(&["downgrade", "1.0.0"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_is_evaluated_anew_for_each_release() {
    let node = Node::serving("relmgr-kitchen", "", &[&release("kitchen", "", "1.0.0")]);
    assert_eq!(get(node.address(), "/greeting").await.1, "hello");
    std::fs::write(node.home().join("app.conf"), "greeting = \"good evening\"\ndb.password = sesame\n")
        .unwrap();
    node.relmgr(&["restart"]).ok();
    assert_eq!(get(node.address(), "/greeting").await.1, "good evening");
    std::fs::write(node.home().join("app.conf"), "greetings = x\n").unwrap();
    node.publish(&release("kitchen", "", "1.0.1"));
    node.relmgr(&["upgrade"]).failed(1, &["app.conf:1:1", "greeting"]);
    assert_eq!(get(node.address(), "/greeting").await.1, "good evening");
    // The operator's mistake is not the release's fault.
    std::fs::write(node.home().join("app.conf"), "greeting = bonsoir\ndb.password = sesame\n").unwrap();
    node.relmgr(&["upgrade"]).ok();
    assert_eq!(get(node.address(), "/greeting").await.1, "bonsoir");
    let applied = node.home().join("releases/1.0.1/app.conf");
    assert!(std::fs::read_to_string(&applied).unwrap().contains("bonsoir"));
    assert_eq!(std::fs::metadata(&applied).unwrap().permissions().mode() & 0o777, 0o600);
    for file in node.files() {
        let path = node.home().join(&file);
        if path.is_file() && file != "app.conf" {
            let bytes = std::fs::read(&path).unwrap();
            assert!(!String::from_utf8_lossy(&bytes).contains("sesame"), "the secret is in {file}");
        }
    }
    assert!(!node.log().contains("sesame"));
}

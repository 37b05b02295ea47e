//! Configuration on a node: what is in force, live changes, and what is wrong with a file.

use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::client::{eventually, get};
use relmgr_model::conf::ConfStatus;
use relmgr_model::control::Phase;
use relmgr_testkit::kit::{Node, Release, release, wait_for};

/// The classic Phoenix deployment's file.
const CLASSIC: &str = r#"logger.level = info

Endpoint.url.host = "example.com"
Endpoint.url.port = 443
Endpoint.secret_key_base = "hunter3-hunter3"
Repo.username = "dbuser"
Repo.password = "hunter2-hunter2"
Repo.database = "exampledb"
Repo.hostname = "database-host.com"
Repo.pool_size = 20
"#;

pub fn live() -> Release {
    release("live", "", "1.0.0")
}

pub fn app_conf(node: &Node) -> std::path::PathBuf {
    node.home().join("app.conf")
}

/// Replaces a file as editors and `relmgr conf set` do.
pub fn replace(path: &Path, text: impl AsRef<[u8]>) {
    let temporary = path.with_file_name(".editor.tmp");
    std::fs::write(&temporary, text).unwrap();
    std::fs::rename(temporary, path).unwrap();
}

pub async fn ask(node: &Node, path: &str) -> Value {
    let (status, body) = get(node.address(), path).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap_or(Value::String(body))
}

/// What the application runs with.
pub async fn setting(node: &Node, pointer: &str) -> Value {
    ask(node, "/settings").await.pointer(pointer).cloned().unwrap_or_default()
}

/// Waits until the application runs with `value`.
pub async fn becomes(node: &Node, pointer: &str, value: impl Into<Value>) {
    let value = value.into();
    let what = format!("{pointer} is {value}");
    eventually(&what, async || (setting(node, pointer).await == value).then_some(())).await;
}

pub fn conf(node: &Node) -> ConfStatus {
    node.status().conf.expect("a release serves")
}

/// Waits until `status` says that the files were refused for a reason with these words.
fn refused(node: &Node, words: &str) -> String {
    wait_for(&format!("the files are refused: {words}"), || {
        node.status().conf?.error.map(|error| error.text).filter(|text| text.contains(words))
    })
}

fn accepted(node: &Node) {
    wait_for("the files are accepted", || conf(node).error.is_none().then_some(()));
}

/// The keys of each change that the application was told of.
async fn changes(node: &Node) -> Vec<String> {
    let keys = |change: &Value| {
        let part = |name: &str| change[name].as_array().unwrap().clone();
        let keys = [part("changed"), part("new"), part("removed")].concat();
        keys.iter().map(|key| key.as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    ask(node, "/changes").await.as_array().unwrap().iter().map(keys).collect()
}

/// No file below the home but the operator's holds a secret, nor does any of these outputs or the log.
pub fn without_secrets(node: &Node, outputs: &[String]) {
    for file in node.files().iter().filter(|file| *file != "app.conf") {
        let path = node.home().join(file);
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            for secret in ["hunter2", "hunter3"] {
                let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!found, "{secret} is in {file}");
            }
        }
    }
    for output in outputs.iter().chain([&node.log()]) {
        assert!(!output.contains("hunter"), "{output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_classic_file_drives_the_application_through_upgrade_reload_and_downgrade() {
    let next = release("live-next", "", "1.1.0");
    let mut node = Node::new("relmgr-live", "");
    node.publish(&live());
    node.publish(&next);
    // As cloud-init does it: before the node ever ran.
    std::fs::write(app_conf(&node), CLASSIC).unwrap();
    node.start();
    let mut outputs = vec![];
    let mut run = |node: &Node, arguments: &[&str], code: i32| {
        let done = node.relmgr(arguments);
        assert_eq!(done.code, code, "{done:#?}");
        outputs.extend([done.stdout.clone(), done.stderr.clone()]);
        done
    };
    run(&node, &["upgrade", "1.0.0"], 0);
    let expected = json!({
        "logger": {"level": "info"},
        "Endpoint": {
            "url": {"host": "example.com", "port": 443}, "secret_key_base": "***", "scheme": null,
        },
        "Repo": {
            "username": "dbuser", "password": "***", "database": "exampledb", "hostname": "database-host.com",
            "pool_size": 20, "timeout": "15s", "ssl": null,
        },
        "queues": {},
        "misbehave": "never",
    });
    assert_eq!(ask(&node, "/settings").await, expected);
    assert_eq!(ask(&node, "/password").await, "hunter2-hunter2");

    // A reload by itself: the file is replaced, the application is told.
    let before = conf(&node);
    run(&node, &["conf", "set", "Repo.pool_size", "25"], 0);
    becomes(&node, "/Repo/pool_size", 25).await;
    let after = wait_for("the account follows", || Some(conf(&node)).filter(|conf| conf.hash != before.hash));
    assert!(after.loaded_at > before.loaded_at && after.reloads == 1, "{after:?}");
    let endpoint = ask_version(&node).await;
    assert_eq!(endpoint["conf"], after.hash);
    let written = node.home().join("releases/1.0.0/app.conf");
    assert!(std::fs::read_to_string(&written).unwrap().contains("Repo.pool_size = 25"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&written).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    // The next release requires a key: it is told before anything else, and ends the upgrade at `configure`.
    let check = run(&node, &["check", "1.1.0", "--json"], 1);
    let notices = check.json()["conf"]["notices"].clone();
    let told = |what: &str| {
        let of_kind = notices.as_array().unwrap().iter().filter(|notice| notice["what"] == what);
        of_kind.map(|notice| notice["key"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(told("added"), "Repo.ssl Endpoint.scheme");
    assert_eq!(told("dropped"), "queues.$name.size");
    assert_eq!(told("renamed"), "Repo.query_timeout");
    assert_eq!(told("retyped"), "Repo.pool_size");
    let refused = run(&node, &["upgrade", "1.1.0"], 1);
    let words = [
        "conf        + Repo.ssl: true or false (or on, off, yes, no); REQUIRED",
        "configure      failed",
        "Repo.ssl: is required and set nowhere",
    ];
    for words in words {
        assert!(refused.stderr.contains(words), "no `{words}` in {refused:#?}");
    }
    assert_eq!(setting(&node, "/Repo/pool_size").await, 25);

    // Set before the upgrade, it does not disturb the release that serves, and survives its restart.
    run(&node, &["conf", "set", "Repo.ssl", "on"], 1);
    run(&node, &["conf", "set", "Repo.ssl", "on", "--release", "1.1.0"], 0);
    let reload = run(&node, &["reload"], 0);
    assert!(reload.stderr.contains("Repo.ssl: is ignored: it is a key of 1.1.0"), "{reload:?}");
    run(&node, &["restart"], 0);
    run(&node, &["upgrade", "1.1.0"], 0);
    assert_eq!(setting(&node, "/Repo/ssl").await, true);
    assert_eq!(setting(&node, "/Repo/pool_size").await, 25);
    run(&node, &["conf", "set", "Repo.query_timeout", "3s"], 0);
    becomes(&node, "/Repo/timeout", "3s").await;

    // Back: with the keys of the newer release in the file.
    run(&node, &["conf", "set", "Repo.pool_size", "30"], 0);
    becomes(&node, "/Repo/pool_size", 30).await;
    let down = run(&node, &["downgrade"], 0);
    assert!(down.stderr.contains("Repo.query_timeout: is ignored: it is a key of 1.1.0"), "{down:?}");
    assert_eq!(setting(&node, "/Repo/pool_size").await, 30);
    assert_eq!(setting(&node, "/Repo/timeout").await, "15s");
    assert_eq!(ask(&node, "/password").await, "hunter2-hunter2");

    for arguments in [
        &["status"] as &[&str],
        &["status", "--json"],
        &["history"],
        &["history", "--json"],
        &["conf", "check"],
        &["conf", "effective", "--show-origin"],
        &["conf", "effective", "--json"],
        &["conf", "get", "Repo.password"],
        &["conf", "diff"],
    ] {
        run(&node, arguments, 0);
    }
    let history = node.relmgr(&["history"]).stdout;
    assert!(history.contains("the node") && history.contains("reload"), "{history}");
    without_secrets(&node, &outputs);
}

async fn ask_version(node: &Node) -> Value {
    let mut connection = crate::client::Connection::open(node.address()).await;
    let request =
        http::Request::get("/api/public/version").header("host", "x").header("accept", "application/json");
    let response = connection.send(request.body(http_body_util::Full::default()).unwrap()).await.unwrap();
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_defaults_of_a_release_alone_start_it() {
    let node = Node::serving("relmgr-live", "", &[&live()]);
    assert_eq!(setting(&node, "/Endpoint/url").await, json!({"host": "localhost", "port": 4000}));
    // What appears later applies.
    std::fs::write(app_conf(&node), "Endpoint.url.host = later.example.com\n").unwrap();
    becomes(&node, "/Endpoint/url/host", "later.example.com").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_of_changing_a_file_is_seen() {
    let node = Node::serving("relmgr-live", "", &[&live()]);
    let home = node.home();
    let path = app_conf(&node);

    std::fs::write(&path, "Endpoint.url.host = one\n").unwrap();
    becomes(&node, "/Endpoint/url/host", "one").await;
    replace(&path, "Endpoint.url.host = two\n");
    becomes(&node, "/Endpoint/url/host", "two").await;
    // vim's way: the old file is moved away, a new one is written.
    std::fs::rename(&path, home.join("app.conf~")).unwrap();
    std::fs::write(&path, "Endpoint.url.host = three\n").unwrap();
    becomes(&node, "/Endpoint/url/host", "three").await;
    std::fs::remove_file(&path).unwrap();
    refused(&node, "was there and has vanished");
    assert_eq!(setting(&node, "/Endpoint/url/host").await, "three");
    std::fs::write(&path, "Endpoint.url.host = four\n").unwrap();
    becomes(&node, "/Endpoint/url/host", "four").await;
    accepted(&node);

    // What is included, by name and by pattern, also when it comes later.
    replace(&path, "Endpoint.url.host = four\ninclude conf.d/*.conf\n");
    std::fs::create_dir(home.join("conf.d")).unwrap();
    std::fs::write(home.join("conf.d/a.conf"), "Repo.pool_size = 11\n").unwrap();
    becomes(&node, "/Repo/pool_size", 11).await;
    replace(&home.join("conf.d/a.conf"), "Repo.pool_size = 12\n");
    becomes(&node, "/Repo/pool_size", 12).await;

    // app.conf.d, made, filled, emptied, made anew.
    let directory = home.join("app.conf.d");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("a.conf"), "Repo.database = a\n").unwrap();
    becomes(&node, "/Repo/database", "a").await;
    std::fs::write(directory.join("b.conf"), "Repo.database = b\n").unwrap();
    becomes(&node, "/Repo/database", "b").await;
    std::fs::remove_file(directory.join("b.conf")).unwrap();
    becomes(&node, "/Repo/database", "a").await;
    std::fs::remove_dir_all(&directory).unwrap();
    refused(&node, "app.conf.d: was there and has vanished");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("c.conf"), "Repo.database = c\n").unwrap();
    becomes(&node, "/Repo/database", "c").await;
    std::fs::write(directory.join("c.conf"), "Repo.database = d\n").unwrap();
    becomes(&node, "/Repo/database", "d").await;
    accepted(&node);
    assert_eq!(conf(&node).unwatched, None);

    let told = changes(&node).await;
    let hosts = told.iter().filter(|keys| keys.contains("Endpoint.url.host")).count();
    // Each change once, and none of them in parts. (vim's may be read between its two steps.)
    assert_eq!(hosts, 4, "{told:?}");
    assert!(told.iter().all(|keys| !keys.contains(' ')), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn symlinks_are_followed_as_kubernetes_swaps_them() {
    let node = Node::serving("relmgr-live", "", &[&live()]);
    let mount = tempfile::tempdir().unwrap();
    let version = |number: u32| {
        let directory = mount.path().join(format!("..{number}"));
        std::fs::create_dir(&directory).unwrap();
        let password = mount.path().join("password");
        let text = format!("Repo.pool_size = {number}\nRepo.password = file:{}\n", password.display());
        std::fs::write(directory.join("app.conf"), text).unwrap();
        std::fs::write(directory.join("password"), format!("secret {number}\n")).unwrap();
        symlink(format!("..{number}"), mount.path().join("..data_tmp")).unwrap();
        std::fs::rename(mount.path().join("..data_tmp"), mount.path().join("..data")).unwrap();
        number
    };
    version(1);
    symlink("..data/app.conf", mount.path().join("app.conf")).unwrap();
    symlink("..data/password", mount.path().join("password")).unwrap();
    symlink(mount.path().join("app.conf"), app_conf(&node)).unwrap();
    becomes(&node, "/Repo/pool_size", 1).await;
    for number in 2..5 {
        version(number);
        becomes(&node, "/Repo/pool_size", number).await;
        assert_eq!(ask(&node, "/password").await, format!("secret {number}"));
        std::fs::remove_dir_all(mount.path().join(format!("..{}", number - 1))).unwrap();
    }
    // Both keys at once: the two files are one change.
    let told = changes(&node).await;
    assert_eq!(told.last().unwrap(), "Repo.password Repo.pool_size", "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_holds_a_secret_is_watched() {
    let node = Node::serving("relmgr-live", "", &[&live()]);
    let secrets = tempfile::tempdir().unwrap();
    let path = secrets.path().join("run/password");
    std::fs::write(app_conf(&node), format!("Repo.password = file:{}\n", path.display())).unwrap();
    refused(&node, "run/password does not exist");
    std::fs::create_dir(secrets.path().join("run")).unwrap();
    std::fs::write(&path, "hunter2-one\n").unwrap();
    eventually("the secret arrives", async || (ask(&node, "/password").await == "hunter2-one").then_some(()))
        .await;
    let hash = conf(&node).hash;
    replace(&path, "hunter2-two\n");
    eventually("the secret changes", async || (ask(&node, "/password").await == "hunter2-two").then_some(()))
        .await;
    assert_eq!(conf(&node).hash, hash, "the public hash does not depend on a secret's value");
    std::fs::remove_dir_all(secrets.path().join("run")).unwrap();
    refused(&node, "run/password does not exist");
    std::fs::create_dir(secrets.path().join("run")).unwrap();
    std::fs::write(&path, "hunter2-three\n").unwrap();
    eventually("it comes back", async || (ask(&node, "/password").await == "hunter2-three").then_some(()))
        .await;
    let status = node.relmgr(&["status", "--json"]).ok().stdout;
    without_secrets(&node, &[status]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_wrong_changes_nothing_and_says_so() {
    let node = Node::serving("relmgr-live", "", &[&live()]);
    let path = app_conf(&node);
    replace(&path, "Repo.pool_size = 20\n");
    becomes(&node, "/Repo/pool_size", 20).await;
    let huge = std::fs::File::create(node.home().join("huge")).unwrap();
    huge.set_len(100 << 20).unwrap();

    let cases: [(&[u8], &str); 6] = [
        (b"Repo.pool_size = 21\nRepo.pool_sise = 5\n", "did you mean Repo.pool_size?"),
        (b"Repo.pool_size = many\n", "app.conf:1:18: Repo.pool_size: expected an integer"),
        (b"Repo.pool_size = 21\nRepo.database = a, b\nlogger.level = loud\n", "Repo.database"),
        (b"Repo.database = \xff\n", "is no text file: a byte that is not UTF-8"),
        (b"Repo.database = a\0b\n", "is no text file: a NUL byte"),
        (b"Repo.pool_size = 21\nRepo.password = \"hunter2\nRepo.database = x\n", "app.conf:2"),
    ];
    let mut failures = conf(&node).refused;
    for (text, words) in cases {
        replace(&path, text);
        let error = refused(&node, words);
        assert!(!error.contains("hunter2"), "{error}");
        let seen = node.relmgr(&["reload"]).failed(1, &[words]);
        assert!(!seen.stderr.contains("hunter2"), "{seen:?}");
        node.relmgr(&["conf", "check"]).failed(1, &[words]);
        assert!(conf(&node).refused > failures, "refusals are counted");
        failures = conf(&node).refused;
        assert_eq!(setting(&node, "/Repo/pool_size").await, 20, "{words}");
    }
    std::fs::rename(node.home().join("huge"), &path).unwrap();
    refused(&node, "is larger than");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    refused(&node, "is a directory; a file was expected");
    let status = node.relmgr(&["status"]).ok().stdout;
    assert!(status.contains("refused") && status.contains("is a directory"), "{status}");
    assert_eq!(setting(&node, "/Repo/pool_size").await, 20);
    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, "Repo.pool_size = 22\n").unwrap();
    becomes(&node, "/Repo/pool_size", 22).await;
    accepted(&node);
    assert_eq!(changes(&node).await, ["Repo.pool_size", "Repo.pool_size"]);
    assert!(node.log().contains("the configuration is not reloaded, the values from before stay"));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_wait_for_a_restart_are_listed_and_applied_by_it() {
    let node = Node::serving("relmgr-live", "", &[&live(), &release("live-next", "", "1.1.0")]);
    let path = app_conf(&node);
    replace(&path, "Endpoint.url.port = 443\nRepo.hostname = db\nRepo.pool_size = 5\n");
    becomes(&node, "/Repo/pool_size", 5).await;
    let waiting = wait_for("two keys wait", || Some(conf(&node).pending).filter(|keys| keys.len() == 2));
    assert_eq!(waiting, ["Endpoint.url.port", "Repo.hostname"]);
    assert_eq!(setting(&node, "/Endpoint/url/port").await, 4000);
    assert_eq!(changes(&node).await, ["Repo.pool_size"]);
    let done = node.relmgr(&["reload"]).ok();
    assert!(
        done.stdout
            .contains("waiting for `relmgr restart` or the next upgrade: Endpoint.url.port, Repo.hostname"),
        "{done:?}"
    );
    assert_eq!(node.relmgr(&["reload", "--json"]).ok().json()["conf"]["pending"], json!(waiting));
    let status = node.relmgr(&["status"]).ok().stdout;
    assert!(status.contains("waiting for `relmgr restart` or an upgrade: Endpoint.url.port"), "{status}");
    let differences = node.relmgr(&["conf", "diff"]).ok().stdout;
    assert!(differences.contains("~ Endpoint.url.port: 4000 -> 443  (waits for a restart)"), "{differences}");
    let effective = node.relmgr(&["conf", "effective"]).ok().stdout;
    assert!(effective.contains("Endpoint.url.port = 4000\n"), "{effective}");

    // A host that dies comes back with what was in force, and what waits goes on waiting.
    let host = node.host_pid();
    kill(host, Signal::SIGKILL).unwrap();
    wait_for("another host serves", || (node.status().host_pid? as i32 != host.as_raw()).then_some(()));
    assert_eq!(setting(&node, "/Endpoint/url/port").await, 4000);
    assert_eq!(setting(&node, "/Repo/pool_size").await, 5);
    assert_eq!(conf(&node).pending, waiting);

    node.relmgr(&["restart"]).ok();
    assert_eq!(setting(&node, "/Endpoint/url/port").await, 443);
    assert_eq!(setting(&node, "/Repo/hostname").await, "db");
    wait_for("nothing waits", || conf(&node).pending.is_empty().then_some(()));

    // The next upgrade applies them as well.
    node.relmgr(&["fetch", "1.1.0"]).ok();
    replace(&path, "Endpoint.url.port = 444\nRepo.ssl = on\n");
    wait_for("keys wait", || (!conf(&node).pending.is_empty()).then_some(()));
    node.relmgr(&["upgrade", "1.1.0"]).ok();
    assert_eq!(setting(&node, "/Endpoint/url/port").await, 444);
    assert!(conf(&node).pending.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_without_conf_change_gets_every_change_at_the_restart() {
    let node = Node::serving("relmgr-kitchen", "", &[&release("kitchen", "", "1.0.0")]);
    replace(&app_conf(&node), "greeting = servus\n");
    let waiting = wait_for("a key waits", || Some(conf(&node).pending).filter(|keys| !keys.is_empty()));
    assert_eq!(waiting, ["greeting"]);
    let done = node.relmgr(&["reload"]).ok();
    assert_eq!(done.stdout, "waiting for `relmgr restart` or the next upgrade: greeting\n");
    assert_eq!(get(node.address(), "/greeting").await.1, "hello");
    node.relmgr(&["restart"]).ok();
    assert_eq!(get(node.address(), "/greeting").await.1, "servus");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_does_not_take_a_change_keeps_the_old_values() {
    let node = Node::serving("relmgr-live", "[conf]\nchange = \"3s\"\n", &[&live()]);
    let path = app_conf(&node);
    replace(&path, "Repo.password = hunter2-hunter2\n");
    becomes(&node, "/Repo/password", "***").await;
    let before = wait_for("it is in force", || Some(conf(&node)).filter(|conf| conf.reloads == 1));
    for (how, words) in [
        ("refuse", "its conf_change failed: the database does not let in `***`"),
        ("panic", "its conf_change failed: conf_change panicked: conf_change panics"),
        ("hang", "its conf_change took longer than 3s (conf.change)"),
    ] {
        replace(&path, format!("Repo.password = hunter2-hunter2\nmisbehave = {how}\nlogger.level = warn\n"));
        refused(&node, words);
        let now = conf(&node);
        assert_eq!((&now.hash, now.loaded_at), (&before.hash, before.loaded_at), "{how}");
        assert_eq!(ask_version(&node).await["conf"], before.hash);
        node.relmgr(&["reload"]).failed(1, &[words]);
        assert_eq!(setting(&node, "/logger/level").await, "info");
    }
    // Touched, it is not told again; changed, it is.
    let calls = ask(&node, "/calls").await;
    replace(&path, std::fs::read(&path).unwrap());
    replace(&path, "Repo.password = hunter2-hunter2\nlogger.level = error\n");
    becomes(&node, "/logger/level", "error").await;
    accepted(&node);
    assert_eq!(ask(&node, "/calls").await, calls.as_u64().unwrap() + 1);
    // One that blocks its thread cannot be ended, and holds up nobody but its own application's next change.
    replace(&path, "Repo.password = hunter2-hunter2\nmisbehave = block\n");
    refused(&node, "its conf_change took longer than 3s (conf.change)");
    replace(&path, "Repo.password = hunter2-hunter2\nlogger.level = warn\n");
    std::fs::write(node.home().join("go"), "").unwrap();
    wait_for("its threads are free", || (node.relmgr(&["reload"]).code == 0).then_some(()));
    assert_eq!(setting(&node, "/logger/level").await, "warn");
    without_secrets(&node, &[node.relmgr(&["history", "--json"]).stdout, node.relmgr(&["status"]).stdout]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_dies_of_a_change_comes_back_with_the_old_values_once() {
    let node = Node::serving("relmgr-live", "", &[&live()]);
    replace(&app_conf(&node), "misbehave = abort\nlogger.level = warn\n");
    let error = refused(&node, "the host died (signal 6 SIGABRT");
    assert!(error.contains("1.0.0"), "{error}");
    let steady = wait_for("it serves again", || {
        Some(node.status()).filter(|status| status.phase == Phase::Steady && status.host_restarts > 0)
    });
    assert_eq!(steady.host_restarts, 1);
    assert_eq!(setting(&node, "/logger/level").await, "info");
    // The same file, touched: nobody dies of it again.
    let before = node.host_pid();
    replace(&app_conf(&node), "# touched\nmisbehave = abort\nlogger.level = warn\n");
    replace(&node.home().join("app.conf"), "logger.level = debug\n");
    becomes(&node, "/logger/level", "debug").await;
    accepted(&node);
    assert_eq!(node.host_pid(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_watch_reload_and_sighup_apply_the_files() {
    let node = Node::serving("relmgr-live", "[conf]\nwatch = false\n", &[&live()]);
    assert_eq!(conf(&node).unwatched.as_deref(), Some("conf.watch = false in relmgr.toml"));
    let path = app_conf(&node);
    replace(&path, "logger.level = warn\nqueues.mail.size = 3\n");
    let diff = node.relmgr(&["conf", "diff", "--json"]).ok().json();
    assert_eq!(diff["keys"][0]["key"], "logger.level");
    assert_eq!((&diff["keys"][0]["running"], &diff["keys"][0]["file"]), (&json!("info"), &json!("warn")));
    assert_eq!(setting(&node, "/logger/level").await, "info");
    let done = node.relmgr(&["reload"]).ok();
    assert_eq!(done.stdout, "changed: logger.level\nnew: queues.mail.size\n");
    assert_eq!(setting(&node, "/queues").await, json!({"mail": {"size": 3}}));
    assert_eq!(node.relmgr(&["reload"]).ok().stdout, "nothing is different from what runs\n");
    replace(&path, "logger.level = error\n");
    let done = node.relmgr(&["reload", "--json"]).ok().json();
    assert_eq!((&done["kind"], &done["outcome"]), (&json!("reload"), &json!("done")));
    assert_eq!(done["conf"], json!({"changed": ["logger.level"], "removed": ["queues.mail.size"]}));
    replace(&path, "logger.level = debug\n");
    kill(node.supervisor_pid(), Signal::SIGHUP).unwrap();
    becomes(&node, "/logger/level", "debug").await;
    replace(&path, "logger.level = loud\n");
    kill(node.supervisor_pid(), Signal::SIGHUP).unwrap();
    refused(&node, "logger.level: expected one of debug, info, warn, error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_during_an_upgrade_waits_for_its_end() {
    let slow = release("live", "start-waits", "1.0.1");
    let node = Node::serving("relmgr-live", "", &[&live(), &slow]);
    let mut upgrade = node.command(&["upgrade", "1.0.1"]).spawn().unwrap();
    wait_for("the new release starts", || {
        node.status().generations.iter().any(|one| one.version.to_string() == "1.0.1").then_some(())
    });
    node.relmgr(&["reload"]).failed(5, &["another operation is running: upgrade 1.0.1"]);
    replace(&app_conf(&node), "logger.level = warn\n");
    assert_eq!(setting(&node, "/logger/level").await, "info");
    std::fs::write(node.home().join("go"), "").unwrap();
    assert!(upgrade.wait().unwrap().success());
    // It was configured before the file changed, and is told now.
    becomes(&node, "/logger/level", "warn").await;
    assert_eq!(changes(&node).await, ["logger.level"]);
    assert_eq!(node.current().as_deref(), Some("1.0.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_on_the_node_sees_the_nodes_environment() {
    let mut node = Node::new("relmgr-live", "");
    node.publish(&live());
    node.start_with(&[("DB_PASSWORD", "hunter2-hunter2")]);
    node.relmgr(&["upgrade", "1.0.0"]).ok();
    replace(&app_conf(&node), "Repo.password = ${DB_PASSWORD}\n");
    eventually("it arrives", async || (ask(&node, "/password").await == "hunter2-hunter2").then_some(()))
        .await;
    let done = node.relmgr(&["conf", "check"]).ok();
    assert_eq!(done.stdout, "the configuration fits 1.0.0\n");
    replace(&app_conf(&node), "Repo.password = ${NO_SUCH_VARIABLE}\n");
    let failed = node.relmgr(&["conf", "check"]).failed(1, &["NO_SUCH_VARIABLE is not set"]);
    // Another file is checked for what can be known of it.
    let other = node.home().join("other.conf");
    std::fs::write(&other, "Repo.pool_size = 500\n").unwrap();
    let seen = node.relmgr(&["conf", "check", other.to_str().unwrap(), "--json"]);
    assert_eq!((seen.code, &seen.json()["ok"]), (1, &json!(false)));
    assert_eq!(seen.json()["faults"][0]["key"], "Repo.pool_size");
    without_secrets(&node, &[failed.stderr, seen.stdout]);
}

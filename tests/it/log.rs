//! The node's log in the forms that `[log] format` names.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Mutex};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::client::{Connection, get};
use relmgr_testkit::kit::{Node, release, wait_for};

const JSON: &str = "[log]\nformat = \"json\"\n";

/// Every line of the log, each of which is an object with what every line has.
fn lines(node: &Node) -> Vec<Value> {
    let log = node.log();
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let line = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for key in ["timestamp", "level", "target", "process", "message"] {
            assert!(value[key].is_string(), "no {key}: {line}");
        }
        value
    };
    whole.lines().map(line).collect()
}

/// The line whose message begins with `words`; waits for it.
fn line(node: &Node, words: &str) -> Value {
    let begins = |line: &Value| line["message"].as_str().is_some_and(|message| message.starts_with(words));
    wait_for(words, || lines(node).into_iter().find(begins))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_json_log_has_one_object_a_line_and_the_release_of_the_applications_events() {
    let node = Node::serving("relmgr-kitchen", JSON, &[&release("kitchen", "", "1.0.0")]);
    assert_eq!(get(node.address(), "/panic").await.0, 500);
    let opens = line(&node, "the kitchen opens");
    assert_eq!((&opens["release"], &opens["process"]), (&"1.0.0".into(), &"host".into()));
    assert_eq!((&opens["level"], &opens["target"]), (&"INFO".into(), &"relmgr_kitchen".into()));
    let panic = line(&node, "panic in thread");
    assert_eq!((&panic["release"], &panic["level"]), (&"1.0.0".into(), &"ERROR".into()));
    let done = line(&node, "operation done");
    assert_eq!((&done["process"], &done["release"]), (&"supervisor".into(), &Value::Null));
    assert_eq!((&done["fields"]["kind"], &done["fields"]["to"]), (&"upgrade".into(), &"1.0.0".into()));
    assert!(done["fields"]["ms"].is_number(), "{done}");
    // One line for each of its steps, in their order.
    let logged: Vec<_> = lines(&node)
        .into_iter()
        .filter(|line| line["message"] == "step done")
        .map(|line| line["fields"]["step"].as_str().unwrap().to_owned())
        .collect();
    let steps = node.status().last_operation.unwrap().steps;
    let steps: Vec<_> = steps.iter().map(|step| step.step.name().to_owned()).collect();
    assert!(steps.len() > 5);
    assert_eq!(logged, steps);
    kill(node.host_pid(), Signal::SIGKILL).unwrap();
    assert_eq!(line(&node, "the host died")["level"], "ERROR");
    node.relmgr(&["stop"]).ok();
    lines(&node);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_words_of_a_host_are_text_and_an_object_in_a_json_log() {
    let mut node = Node::new("relmgr-faulty", JSON);
    node.publish(&release("faulty", "shows-late", "1.0.1"));
    node.start_with(&[("RELMGR_TEST_DEFECT", "overflows its stack")]);
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    let mut connection = Connection::open(node.address()).await;
    while connection.get("/").await.is_ok() {}
    let raw = line(&node, "thread 'host'");
    assert_eq!((&raw["target"], &raw["process"]), (&"stderr".into(), &"host".into()));
    let death = wait_for("the death in the history", || {
        let history = node.relmgr(&["history", "--json"]).ok().json();
        history.as_array().unwrap().iter().find(|entry| entry["kind"] == "restart").cloned()
    });
    let words = death["last_words"].to_string();
    assert!(words.contains("has overflowed its stack") && !words.contains("timestamp"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_log_names_the_release_of_the_applications_events() {
    let node = Node::serving("relmgr-kitchen", "", &[&release("kitchen", "", "1.0.0")]);
    let opens = wait_for("the application's event", || {
        node.log().lines().find(|line| line.contains("the kitchen opens")).map(str::to_owned)
    });
    assert!(opens.contains("release=1.0.0") && opens.contains("module=relmgr_kitchen"), "{opens}");
}

/// A journal of this thread's own, and of the processes that it starts: they see another /run/systemd.
fn journal() -> UnixDatagram {
    assert!(nix::unistd::geteuid().is_root(), "this test mounts a small tmpfs, which needs root");
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    let at = Path::new("/run");
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
    std::fs::create_dir_all("/run/systemd/journal").unwrap();
    UnixDatagram::bind("/run/systemd/journal/socket").unwrap()
}

/// A journal entry's fields (systemd's native protocol: `NAME=value`, or name, length and value).
fn fields(entry: &[u8]) -> Vec<(String, String)> {
    let (mut rest, mut fields) = (entry, vec![]);
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = (String::from_utf8_lossy(&rest[..end]).into_owned(), &rest[end + 1..]);
        rest = match line.split_once('=') {
            Some((name, value)) => {
                fields.push((name.to_owned(), value.to_owned()));
                after
            }
            None => {
                let (length, after) = after.split_at(8);
                let length = usize::try_from(u64::from_le_bytes(length.try_into().unwrap())).unwrap();
                fields.push((line, String::from_utf8_lossy(&after[..length]).into_owned()));
                &after[length + 1..]
            }
        };
    }
    fields
}

#[test]
fn a_journal_gets_fields_and_priorities() {
    let (journal, seen) = (journal(), Arc::new(Mutex::new(vec![])));
    // Read as it comes: a journal that nobody reads would hold up who writes.
    std::thread::spawn({
        let seen = seen.clone();
        move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(length) = journal.recv(&mut buffer) {
                seen.lock().unwrap().push(fields(&buffer[..length]));
            }
        }
    });
    let settings = "[log]\nformat = \"journald\"\n";
    let node = Node::serving("relmgr-kitchen", settings, &[&release("kitchen", "", "1.0.0")]);
    let find = |name: &str, value: &str| {
        let is = |entry: &&Vec<(String, String)>| {
            entry.iter().any(|field| field.0 == name && field.1.starts_with(value))
        };
        wait_for(value, || seen.lock().unwrap().iter().find(is).cloned())
    };
    let has = |entry: &[(String, String)], name: &str, value: &str| {
        assert!(
            entry.iter().any(|field| (&*field.0, &*field.1) == (name, value)),
            "{name}={value}: {entry:?}"
        );
    };
    let opens = find("MESSAGE", "the kitchen opens");
    has(&opens, "RELMGR_RELEASE", "1.0.0");
    has(&opens, "RELMGR_MODULE", "relmgr_kitchen");
    has(&opens, "SYSLOG_IDENTIFIER", "relmgr");
    let done = find("MESSAGE", "operation done");
    has(&done, "RELMGR_KIND", "upgrade");
    kill(node.host_pid(), Signal::SIGKILL).unwrap();
    let died = find("MESSAGE", "the host died");
    has(&died, "PRIORITY", "3");
}

#[test]
fn a_journal_that_is_not_there_ends_the_start_and_names_the_setting() {
    let socket = journal();
    drop(socket);
    std::fs::remove_file("/run/systemd/journal/socket").unwrap();
    let node = Node::new("relmgr-kitchen", "[log]\nformat = \"journald\"\n");
    node.relmgr(&["run"]).failed(1, &["log.format", "/run/systemd/journal/socket"]);
}

//! What a home keeps, whatever happened before: the invariants that tests look at after every fault.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use relmgr_model::Version;
use relmgr_model::control::{NodeStatus, Outcome, Phase};
use relmgr_model::record::{HistoryEntry, NodeRecord, OperationRecord};
use relmgr_model::status::Status;

use crate::kit::{Node, wait_for};

/// What is in a home of which nothing temporary is left.
const KNOWN: [&str; 8] =
    ["app.conf", "app.conf.d", "history.jsonl", "relmgr.toml", "releases", "run", "state.json", "bin"];

/// How the names of files begin that are to replace others.
const TEMPORARY: &str = ".relmgr-tmp-";

/// Waits until nothing is under way.
pub fn settled(node: &Node) -> NodeStatus {
    wait_for("the node has settled", || {
        // One that is traced may take longer than who asks has patience.
        node.try_status().filter(|status| matches!(status.phase, Phase::Steady | Phase::Probation))
    })
}

/// One whole release serves, and everybody says the same of it. What is on disk is that, too.
///
/// # Panics
/// With the promise that is not kept.
pub fn assert_kept(node: &Node) {
    let status = settled(node);
    let home = node.home();
    let record = read_record(node);
    let on_probation = status.phase == Phase::Probation;
    assert_serves(node, &status, &record);
    assert_eq!(record.operation.is_some(), on_probation, "an operation that is over leaves no note");
    let current = status.current.clone().map(|current| current.version);
    let link = |name| std::fs::read_link(home.join("releases").join(name)).ok();
    let named = |version: Option<&Version>| version.map(|version| version.to_string().into());
    assert_eq!(link("current"), named(current.as_ref()), "releases/current");
    assert_eq!(link("prev"), named(status.prev.as_ref().map(|prev| &prev.version)), "releases/prev");
    // The directories are those of the record.
    let mut directories = BTreeSet::new();
    for entry in std::fs::read_dir(home.join("releases")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() && !name.starts_with('.') {
            assert!(entry.path().join("VERSION").exists(), "{name} is whole");
            assert_nothing_half_written(&entry.path());
            directories.insert(name);
        }
    }
    assert_eq!(directories, record.releases.keys().map(ToString::to_string).collect());
    // Nothing temporary is left.
    assert_nothing_half_unpacked(node);
    for directory in [home.join("bin"), home.join("releases"), home.join("releases/.fetch")] {
        assert_nothing_half_written(&directory);
    }
    for entry in std::fs::read_dir(&home).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(KNOWN.contains(&name.as_str()), "{name} is left in the home");
    }
    // What may serve is in memory, and nothing else.
    let may_serve: BTreeSet<_> = current.into_iter().chain(record.permanent).collect();
    // What cannot be unmapped at once is tried again.
    wait_for("nothing else is in memory", || {
        let status = node.status();
        let loaded: BTreeSet<_> =
            status.generations.iter().map(|generation| generation.version.clone()).collect();
        (loaded == may_serve).then_some(())
    });
}

/// Nothing is waiting to be fetched on: what was interrupted is kept for the next try.
///
/// # Panics
/// With what is there.
pub fn assert_nothing_half_fetched(node: &Node) {
    assert_empty(&node.home().join("releases/.fetch"));
}

/// Nothing is left of a package that was being unpacked.
///
/// # Panics
/// With what is there.
pub fn assert_nothing_half_unpacked(node: &Node) {
    assert_empty(&node.home().join("releases/.staging"));
}

/// Nothing is left of a file in `directory` that was being replaced.
fn assert_nothing_half_written(directory: &Path) {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<_> = names.filter(|name| name.starts_with(TEMPORARY)).collect();
    assert!(left.is_empty(), "{} holds {left:?}", directory.display());
}

fn assert_empty(directory: &Path) {
    let left: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{} holds {left:?}", directory.display());
}

/// `state.json`; nothing was written before anything was installed.
pub fn read_record(node: &Node) -> NodeRecord {
    match std::fs::read_to_string(node.home().join("state.json")) {
        Ok(text) => NodeRecord::parse(&text).unwrap(),
        Err(_) => NodeRecord::new(&node.status().app),
    }
}

/// The operation that `state.json` says was under way, in a home that nobody runs.
pub fn read_note(node: &Node) -> Option<OperationRecord> {
    let text = std::fs::read_to_string(node.home().join("state.json")).ok()?;
    NodeRecord::parse(&text).unwrap().operation
}

/// The history can be read, and tells last of all what a death has interrupted; `begun`: its note, from before the
/// start.
///
/// # Panics
/// With the promise that is not kept.
pub fn assert_told(node: &Node, begun: Option<&OperationRecord>) {
    let history: Vec<HistoryEntry> =
        serde_json::from_value(node.relmgr(&["history", "--json", "-n", "0"]).ok().json()).unwrap();
    let Some(begun) = begun else { return };
    let told = history.last().unwrap_or_else(|| panic!("nothing is told of {begun:?}"));
    assert_eq!((told.kind, &told.from, &told.to), (begun.kind, &begun.from, &begun.to), "of {begun:?}");
    let words = told.error.as_deref().unwrap_or_default();
    let step = begun.step.map(|step| format!("not before its {} had begun", step.name())).unwrap_or_default();
    assert!(told.outcome != Outcome::Interrupted || words.contains(&step), "no `{step}` in: {words}");
}

/// The part of [`assert_kept`] that holds even while the disk refuses to be written to.
///
/// # Panics
/// With the promise that is not kept.
pub fn assert_serves(node: &Node, status: &NodeStatus, record: &NodeRecord) {
    // The record is whole, and says nothing that only a living process can make true.
    let permanent = record.releases.iter().filter(|(_, release)| release.status == Status::Permanent);
    let permanent: Vec<_> = permanent.map(|(version, _)| version.clone()).collect();
    assert_eq!(permanent, Vec::from_iter(record.permanent.clone()), "one permanent release, and that one");
    assert!(record.releases.values().all(|release| release.status != Status::Current));
    let prev = record.prev.as_ref();
    assert!(prev.is_none_or(|prev| record.releases.contains_key(prev)), "prev is installed");
    assert!(prev.is_none() || prev != record.permanent.as_ref(), "prev is another release");
    let current = status.current.clone().map(|current| current.version);
    let (code, body) = get(node.address(), "/api/public/version").expect("an answer");
    match &current {
        Some(version) => assert_eq!((code, body), (200, version.to_string())),
        None => assert_eq!((code, record.permanent.as_ref()), (503, None), "nothing was ever installed"),
    }
    assert!(status.phase == Phase::Probation || current == record.permanent, "what serves is what boots");
}

/// Status and body of `GET path` on a connection of its own.
///
/// # Errors
/// What the connection says, or that the answer is no HTTP.
pub fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let parts = answer.split_once("\r\n\r\n");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    match (parts, status) {
        (Some((_, body)), Some(status)) => Ok((status, body.to_owned())),
        _ => Err(std::io::Error::other(format!("no HTTP: `{answer}`"))),
    }
}

//! Anything in any order: after each step the promises of the home directory hold.

use std::collections::BTreeSet;

use nix::sys::signal::{Signal, kill};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use relmgr_model::control::Phase;
use relmgr_model::record::NodeRecord;
use relmgr_model::status::Status;
use relmgr_testkit::kit::{Node, Release, release, wait_for};

use crate::client::get;

/// What can be asked of a node, or happen to it.
#[derive(Debug, Clone)]
enum Step {
    Upgrade { version: usize, retry: bool, no_probation: bool },
    Downgrade,
    Commit,
    Rollback,
    Restart,
    Fetch(usize),
    Remove(usize),
    Prune,
    KillHost,
    KillSupervisor,
    StopNode,
    Corrupt(usize),
    EditConf { valid: bool },
}

/// The second to last does not start.
const VERSIONS: [&str; 4] = ["1.0.0", "1.0.1", "1.0.2", "1.0.3"];

fn releases() -> [Release; 4] {
    [("", 0), ("second", 1), ("start-fails", 2), ("", 3)]
        .map(|(features, version)| release("faulty", features, VERSIONS[version]))
}

fn step() -> impl Strategy<Value = Step> {
    let version = 0..VERSIONS.len();
    prop_oneof![
        6 => (version.clone(), any::<bool>(), any::<bool>()).prop_map(|(version, retry, no_probation)| {
            Step::Upgrade { version, retry, no_probation }
        }),
        2 => Just(Step::Downgrade),
        2 => Just(Step::Commit),
        2 => Just(Step::Rollback),
        1 => Just(Step::Restart),
        1 => version.clone().prop_map(Step::Fetch),
        1 => version.clone().prop_map(Step::Remove),
        1 => Just(Step::Prune),
        2 => Just(Step::KillHost),
        2 => Just(Step::KillSupervisor),
        1 => Just(Step::StopNode),
        1 => version.prop_map(Step::Corrupt),
        1 => any::<bool>().prop_map(|valid| Step::EditConf { valid }),
    ]
}

/// Takes a step. Whether it is refused is not the question here; the exit codes are those of the documentation.
fn take(node: &mut Node, step: &Step) {
    let relmgr = |node: &Node, args: &[&str]| {
        let done = node.relmgr(args);
        assert!([0, 1, 3, 5].contains(&done.code), "{args:?}: {done:?}");
    };
    match step {
        Step::Upgrade { version, retry, no_probation } => {
            let mut args = vec!["upgrade", VERSIONS[*version], "--detach"];
            args.extend(retry.then_some("--retry"));
            args.extend(no_probation.then_some("--no-probation"));
            relmgr(node, &args);
        }
        Step::Downgrade => relmgr(node, &["downgrade"]),
        Step::Commit => relmgr(node, &["commit"]),
        Step::Rollback => relmgr(node, &["rollback"]),
        Step::Restart => relmgr(node, &["restart"]),
        Step::Fetch(version) => relmgr(node, &["fetch", VERSIONS[*version]]),
        Step::Remove(version) => relmgr(node, &["remove", VERSIONS[*version]]),
        Step::Prune => relmgr(node, &["prune", "--keep", "1"]),
        Step::KillHost => {
            let host = node.host_pid();
            kill(host, Signal::SIGKILL).unwrap();
            wait_for("another host", || {
                node.status().host_pid.filter(|pid| i32::try_from(*pid) != Ok(host.as_raw()))
            });
        }
        Step::KillSupervisor => {
            node.kill_supervisor();
            edit_conf(node, true);
            node.start();
        }
        Step::StopNode => {
            relmgr(node, &["stop"]);
            assert_eq!(node.wait_supervisor(), Some(0));
            edit_conf(node, true);
            node.start();
        }
        Step::Corrupt(version) => corrupt(node, VERSIONS[*version]),
        Step::EditConf { valid } => edit_conf(node, *valid),
    }
}

/// A start needs a configuration that is one; a host that dies has its own again, whatever the file says.
fn edit_conf(node: &Node, valid: bool) {
    let text = if valid { "# nothing to say\n" } else { "key = = 1\n" };
    std::fs::write(node.home().join("app.conf"), text).unwrap();
}

/// Damages an installed release that neither serves nor is to serve.
fn corrupt(node: &Node, version: &str) {
    let status = node.status();
    let serving = status.current.map(|current| current.version);
    let in_use = [serving, status.permanent, status.prev.map(|prev| prev.version)];
    let library = node.home().join("releases").join(version).join("lib/librelmgr_faulty.so");
    if library.exists() && !in_use.iter().flatten().any(|used| used.to_string() == version) {
        let mut bytes = std::fs::read(&library).unwrap();
        bytes[4000] ^= 1;
        let beside = library.with_extension("damaged");
        std::fs::write(&beside, bytes).unwrap();
        std::fs::rename(beside, library).unwrap();
    }
}

/// What DESIGN promises of a home, whatever happened before.
async fn check(node: &Node) {
    let status = wait_for("the node has settled", || {
        Some(node.status()).filter(|status| matches!(status.phase, Phase::Steady | Phase::Probation))
    });
    let on_probation = status.phase == Phase::Probation;
    let home = node.home();
    // The record is whole, and says nothing that only a living process can make true.
    let record = match std::fs::read_to_string(home.join("state.json")) {
        Ok(text) => NodeRecord::parse(&text).unwrap(),
        // Nothing has been written yet.
        Err(_) => NodeRecord::new("relmgr-faulty"),
    };
    assert_eq!(record.operation.is_some(), on_probation, "an operation that is over leaves no note");
    let permanent = record.releases.iter().filter(|(_, release)| release.status == Status::Permanent);
    let permanent: Vec<_> = permanent.map(|(version, _)| version.clone()).collect();
    assert_eq!(permanent, Vec::from_iter(record.permanent.clone()), "one permanent release, and that one");
    assert!(record.releases.values().all(|release| release.status != Status::Current));
    let prev = record.prev.as_ref();
    assert!(prev.is_none_or(|prev| record.releases.contains_key(prev)), "prev is installed");
    assert!(prev.is_none() || prev != record.permanent.as_ref());
    // One whole release serves, and everybody says the same of it.
    let current = status.current.clone().map(|current| current.version);
    let (code, body) = get(node.address(), "/api/public/version").await;
    match &current {
        Some(version) => assert_eq!((code, body), (200, version.to_string())),
        None => assert_eq!((code, record.permanent.as_ref()), (503, None), "nothing was ever installed"),
    }
    assert!(on_probation || current == record.permanent, "what serves is what boots");
    let link = |name| std::fs::read_link(home.join("releases").join(name)).ok();
    let named = |version: Option<&relmgr_model::Version>| version.map(|version| version.to_string().into());
    assert_eq!(link("current"), named(current.as_ref()));
    assert_eq!(link("prev"), named(status.prev.as_ref().map(|prev| &prev.version)));
    // The directories are those of the record.
    let mut directories = BTreeSet::new();
    for entry in std::fs::read_dir(home.join("releases")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() && !name.starts_with('.') {
            assert!(entry.path().join("VERSION").exists(), "{name} is whole");
            directories.insert(name);
        }
    }
    assert_eq!(directories, record.releases.keys().map(ToString::to_string).collect());
    // Nothing temporary is left.
    for directory in [".staging", ".fetch"] {
        // The directory of fetches comes with the first of them.
        let Ok(entries) = std::fs::read_dir(home.join("releases").join(directory)) else { continue };
        let left: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.is_empty(), "{directory} holds {left:?}");
    }
    let known = ["app.conf", "history.jsonl", "relmgr.toml", "releases", "run", "state.json"];
    for entry in std::fs::read_dir(&home).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(known.contains(&name.as_str()), "{name} is left in the home");
    }
    // What may serve is in memory, and nothing else.
    let loaded: BTreeSet<_> =
        status.generations.iter().map(|generation| generation.version.clone()).collect();
    let may_serve: BTreeSet<_> = current.into_iter().chain(record.permanent).collect();
    assert_eq!(loaded, may_serve);
}

#[test]
fn any_order_of_operations_and_deaths_keeps_the_promises() {
    let releases = releases();
    // Each case is a minute of somebody's life: a soak sets PROPTEST_CASES.
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(5);
    let config = Config { cases, max_shrink_iters: 12, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&prop::collection::vec(step(), 8..16), |steps| {
        let settings = "[upgrade]\nprobation = \"10m\"\ndrain = \"2s\"\n\
                        [supervisor]\nintensity = 1000\n";
        let mut node = Node::serving("relmgr-faulty", settings, &[]);
        releases.iter().for_each(|release| node.publish(release));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for (at, step) in steps.iter().enumerate() {
            eprintln!("{at}: {step:?}");
            take(&mut node, step);
            runtime.block_on(check(&node));
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

//! Anything in any order: after each step the promises of the home directory hold.

use nix::sys::signal::{Signal, kill};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use relmgr_testkit::kit::{Node, Release, release, wait_for};
use relmgr_testkit::promises::assert_kept;

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
        for (at, step) in steps.iter().enumerate() {
            eprintln!("{at}: {step:?}");
            take(&mut node, step);
            assert_kept(&node);
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

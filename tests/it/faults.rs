//! Every fault of `relmgr_testkit::faults`, under load: the node ends on the good release, says why, and the release
//! with the fault is marked.

use std::collections::BTreeSet;

use relmgr_model::control::{GenerationState, Kind, Outcome, Phase};
use relmgr_model::record::NodeRecord;
use relmgr_testkit::faults::{BAD, End, FAULTS, Fault, GOOD};
use relmgr_testkit::kit::{Node, wait_for};
use relmgr_testkit::load::{Failure, Load, Report, Request};
use relmgr_testkit::promises::{assert_nothing_half_fetched, assert_nothing_half_unpacked};
use serde_json::Value;

/// Clients that ask without a pause.
const CONNECTIONS: usize = 8;

/// One test for each fault of the table, so that they run beside each other and are told by name.
macro_rules! faults {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                ends_on_the_good_release(Fault::named(stringify!($name)));
            }
        )*

        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

faults!(
    aborts_in_a_static_initialiser,
    check_fails,
    check_exits,
    start_fails,
    start_panics,
    start_hangs,
    start_blocks_its_thread,
    start_exits,
    aborts_in_its_start,
    segfaults_in_its_start,
    never_healthy,
    health_hangs,
    panics_on_every_10th_request,
    answers_500_only,
    answers_500_after_a_while,
    goes_unhealthy,
    background_work_gives_up,
    becomes_slow,
    leaks_threads,
    segfaults_on_the_100th_request,
    overflows_its_stack,
    exits,
    blocks_its_workers,
    eats_memory,
    outgrows_the_nodes_memory,
);

#[test]
fn each_fault_has_its_test() {
    let all: BTreeSet<_> = FAULTS.iter().map(|fault| fault.name).collect();
    assert_eq!(TESTED.iter().copied().collect::<BTreeSet<_>>(), all);
}

fn ends_on_the_good_release(fault: &Fault) {
    let node = fault.node();
    let host = node.host_pid();
    let load = Load::start(node.address(), &[Request::get("/")], CONNECTIONS);
    wait_for("the load runs", || (load.answered() > 100).then_some(()));
    node.relmgr(&["upgrade", BAD]).failed(fault.end.code(), fault.says);
    let answered = load.answered();
    wait_for("the load runs on", || (load.answered() > answered + 100).then_some(()));
    clients_saw(fault, &load.stop());
    serves_the_good_one(&node);
    assert_eq!(node.host_pid() == host, !fault.end.is_death(), "one swap, or another host");
    assert_eq!(node.status().host_restarts, u64::from(fault.end.is_death()));
    the_status_says_why(&node, fault);
    the_history_says_why(&node, fault);
    the_release_is_marked(&node, fault);
    the_memory_is_free(&node, fault);
}

/// What a fault may cost clients: nothing before the swap, its own answers after it, what is in flight when it takes
/// the host along.
fn clients_saw(fault: &Fault, seen: &Report) {
    let kinds = seen.failures_by_kind();
    match fault.end {
        End::Refused => assert_eq!((seen.failures(), seen.closed_connections()), (0, 0), "{kinds}"),
        End::RolledBack => {
            assert!(seen.failed.keys().all(|failure| *failure == Failure::Status(500)), "{kinds}");
            assert_eq!(seen.closed_connections(), 0, "connections stay open");
        }
        End::HostDied | End::HostDiedEarly => {
            // One that is about to run out of memory may stand still for longer than a client waits.
            let late = [Failure::Timeout, Failure::ConnectTimeout];
            let late: u64 = late.iter().filter_map(|failure| seen.failed.get(failure)).sum();
            let failures = seen.failures() - late;
            assert!(failures <= CONNECTIONS as u64, "more than what was in flight: {kinds}");
            assert!(!seen.failed.contains_key(&Failure::Refused), "{kinds}");
        }
    }
}

fn serves_the_good_one(node: &Node) {
    let status = node.status();
    assert_eq!((status.phase, status.probation_ends_at), (Phase::Steady, None));
    let current = status.current.expect("a release serves");
    assert_eq!((current.version.to_string().as_str(), current.status.as_str()), (GOOD, "permanent"));
    let link = std::fs::read_link(node.home().join("releases/current")).unwrap();
    assert_eq!(link.to_str(), Some(GOOD));
    let record = std::fs::read_to_string(node.home().join("state.json")).unwrap();
    let record = NodeRecord::parse(&record).unwrap();
    assert_eq!(record.permanent.unwrap().to_string(), GOOD, "what the node boots");
    assert_eq!(record.operation, None, "an operation that is over leaves no note");
    assert_nothing_half_fetched(node);
    assert_nothing_half_unpacked(node);
}

fn the_status_says_why(node: &Node, fault: &Fault) {
    let last = node.status().last_operation.expect("an operation has ended");
    let outcome = if fault.end.is_before_the_swap() { Outcome::Failed } else { Outcome::RolledBack };
    assert_eq!((last.kind, last.outcome), (Kind::Upgrade, outcome), "{last:?}");
    assert_eq!(last.to.map(|version| version.to_string()).as_deref(), Some(BAD));
    let error = last.error.expect("it says why");
    for words in fault.says {
        assert!(error.contains(words), "no `{words}` in {error}");
    }
}

fn the_history_says_why(node: &Node, fault: &Fault) {
    let history = node.relmgr(&["history", "--json"]).ok().json();
    let upgrade = |entry: &&Value| entry["kind"] == "upgrade";
    let entry = history.as_array().unwrap().iter().rfind(upgrade).unwrap().clone();
    assert_eq!((entry["to"].as_str(), entry["outcome"].as_str()), (Some(BAD), Some(fault.end.outcome())));
    for words in fault.says {
        assert!(entry["error"].as_str().unwrap().contains(words), "no `{words}` in {entry}");
    }
    assert!(entry["last_words"].to_string().contains(fault.last_words), "{entry}");
}

/// It is not tried again until it is told so.
fn the_release_is_marked(node: &Node, fault: &Fault) {
    let listed = node.relmgr(&["releases", "--json"]).ok().json();
    let bad = listed["releases"].as_array().unwrap().iter().find(|release| release["version"] == BAD);
    let bad = bad.expect("it stays for those who look into it");
    assert_eq!(bad["status"], "failed");
    for words in fault.says {
        assert!(bad["reason"].as_str().unwrap().contains(words), "no `{words}` in {bad}");
    }
    node.relmgr(&["upgrade"]).failed(1, &["1.0.1 failed on this node", "--retry"]);
    if fault.end == End::Refused && fault.pinned.is_empty() {
        node.relmgr(&["upgrade", BAD, "--retry"]).failed(1, fault.says);
    }
}

fn the_memory_is_free(node: &Node, fault: &Fault) {
    if fault.pinned.is_empty() {
        return wait_for("only the good release is mapped", || {
            node.mapped().iter().all(|path| path.contains(GOOD)).then_some(())
        });
    }
    let generations = node.status().generations;
    let pinned = generations.iter().find(|generation| generation.state == GenerationState::Pinned);
    let pinned = pinned.expect("it is named");
    assert!(pinned.reasons.iter().any(|reason| reason.contains(fault.pinned)), "{pinned:?}");
}

//! A permanent release that the kernel kills for want of memory, under load.

use relmgr_testkit::faults::{BAD, Fault, GOOD};
use relmgr_testkit::kit::wait_for;
use relmgr_testkit::load::{Failure, Load, Request};
use serde_json::Value;

const CONNECTIONS: usize = 8;

fn is_late(failure: &Failure) -> bool {
    matches!(failure, Failure::Timeout | Failure::ConnectTimeout)
}

#[test]
fn a_permanent_release_without_memory_is_restarted_and_then_makes_way_for_prev() {
    let fault = Fault::named("outgrows_the_nodes_memory");
    let mut node = fault.node_with("intensity = 1\nperiod = \"10m\"\n");
    node.relmgr(&["upgrade", BAD, "--no-probation"]).ok();
    let supervisor = node.supervisor_pid();
    let load = Load::start(node.address(), &[Request::get("/")], CONNECTIONS);
    wait_for("it has died", || (node.status().host_restarts >= 1).then_some(()));
    wait_for("it has died twice, and prev serves", || (node.status().host_restarts == 2).then_some(()));
    wait_for("prev serves", || (node.current().as_deref() == Some(GOOD)).then_some(()));
    let answered = load.answered();
    wait_for("the load runs on", || (load.answered() > answered + 100).then_some(()));
    let seen = load.stop();
    let kinds = seen.failures_by_kind();
    // A host that reclaims memory until it is killed may stand still for longer than a client waits.
    let failures: u64 =
        seen.failed.iter().filter(|(failure, _)| !is_late(failure)).map(|(_, count)| count).sum();
    assert!(failures <= 2 * CONNECTIONS as u64, "more than what was in flight: {kinds}");
    assert!(!seen.failed.contains_key(&Failure::Refused), "{kinds}");
    assert_eq!(node.memory().kills(), 2);
    assert!(node.is_running() && node.supervisor_pid() == supervisor, "the supervisor lives");
    assert_eq!(node.status().permanent.unwrap().to_string(), GOOD);
    // The second death, that prev is to serve therefore, and that it does.
    let deaths = wait_for("all of it is in the history", || {
        let history = node.relmgr(&["history", "--json"]).ok().json();
        let deaths = history.as_array()?.iter().filter(|entry| entry["kind"] == "restart");
        let deaths: Vec<Value> = deaths.cloned().collect();
        (deaths.len() >= 3).then_some(deaths)
    });
    let outcomes: Vec<_> = deaths.iter().map(|entry| entry["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["done", "rolled_back", "done"], "{deaths:#?}");
    for death in deaths {
        let words = death["error"].as_str().unwrap();
        assert!(words.contains("since the kernel killed it for want of memory"), "{words}");
    }
}

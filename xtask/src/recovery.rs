//! `cargo xtask bench recovery`: how long clients wait when a host dies, and when a release on probation goes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use relmgr_testkit::kit::{self, Node, Release, wait_for};
use relmgr_testkit::load::{Failure, Load, Report, Request};

use crate::bench::{CONNECTIONS, median};
use crate::faults::ask;

/// Rounds of each.
const ROUNDS: usize = 10;

/// Both parts, with `release` of the example for the first.
pub fn main(release: &Release) {
    deaths(release);
    rollbacks();
}

/// SIGKILL of the host under load.
fn deaths(release: &Release) {
    let node = Node::serving("live-poll", "[supervisor]\nintensity = 1000\n", &[release]);
    let load = Load::start(node.address(), &[Request::get("/debug/json")], CONNECTIONS);
    let (mut first, mut gaps, mut lost, mut refused) = (vec![], vec![], vec![], 0);
    for _ in 0..ROUNDS {
        let answered = load.answered();
        wait_for("the load runs", || (load.answered() > answered + 1000).then_some(()));
        drop(load.lap());
        let host = node.host_pid();
        let killed = Instant::now();
        kill(host, Signal::SIGKILL).expect("the host lives");
        ask(node.address()).expect("connects while there is no host, waits, and is answered");
        first.push(millis(killed.elapsed()));
        let answered = load.answered();
        wait_for("the load runs again", || (load.answered() > answered + 1000).then_some(()));
        let lap = load.lap();
        gaps.push(millis(lap.longest_gap));
        lost.push(lap.failures() as f64);
        refused += refusals(&lap);
    }
    drop(load.stop());
    println!("\nSIGKILL of the host under load of {CONNECTIONS} keep-alive connections, {ROUNDS} times\n");
    print("a client that connects at once is answered after", &first, "ms");
    print("no answer on any connection for", &gaps, "ms");
    print("requests lost", &lost, "");
    println!("  connections refused {refused}");
}

fn refusals(report: &Report) -> u64 {
    report.failed.get(&Failure::Refused).copied().unwrap_or(0)
}

/// A release that answers 500 from its 100th request on, under load.
fn rollbacks() {
    let good = kit::release("faulty", "", "1.0.0");
    let bad = kit::release("faulty", "shows-late", "1.0.1");
    let mut node = Node::new("relmgr-faulty", "[upgrade]\nprobation = \"10m\"\n");
    node.publish(&good);
    node.publish(&bad);
    node.start_with(&[("RELMGR_TEST_DEFECT", "answers 500")]);
    node.relmgr(&["upgrade", "1.0.0"]).ok();
    let (mut times, mut failed) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        let load = Load::start(node.address(), &[Request::get("/")], CONNECTIONS);
        let address = node.address();
        let probe = std::thread::spawn(move || faults_until_good(address));
        node.relmgr(&["upgrade", "1.0.1", "--retry"]).failed(3, &["answered 5xx"]);
        times.push(millis(probe.join().expect("the probe sees a fault")));
        failed.push(load.stop().failures() as f64);
    }
    println!("\nRollback in probation, under load of {CONNECTIONS} connections, {ROUNDS} times\n");
    print("from the first fault that a client sees to the release before", &times, "ms");
    print("requests answered 500 meanwhile", &failed, "");
}

/// Asks without a pause until a fault was seen and is over; how long it lasted.
fn faults_until_good(address: SocketAddr) -> Duration {
    let mut begun: Option<Instant> = None;
    loop {
        match (ask(address).expect("an answer"), begun) {
            (500.., None) => begun = Some(Instant::now()),
            (200, Some(begun)) => return begun.elapsed(),
            _ => {}
        }
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn print(what: &str, values: &[f64], unit: &str) {
    let longest = values.iter().copied().fold(0.0, f64::max);
    println!("  {what:<64} {:>8.1} {unit} median, {longest:.1} {unit} at most", median(values.to_vec()));
}

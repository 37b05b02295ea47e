//! Every operation, broken where it changes files: a sample of what `cargo xtask crash-matrix` sweeps.

use nix::errno::Errno;
use relmgr_testkit::matrix::{Bench, ERRORS, Operation};

/// So many places of each operation are tried, spread over it; the first and the last always.
const PLACES: usize = 5;

fn spread(calls: usize) -> Vec<usize> {
    assert!(calls > 0, "an operation that changes nothing");
    let mut places: Vec<_> = (0..PLACES).map(|at| 1 + at * (calls - 1) / (PLACES - 1)).collect();
    places.dedup();
    places
}

fn killed(operation: Operation) {
    let mut bench = Bench::new(operation);
    let calls = bench.calls();
    for at in spread(calls.len()) {
        let call = bench.kill_before(at).unwrap_or_else(|| panic!("no call {at} of {}", calls.len()));
        println!("{operation:?}: killed before {at} of {}: {call}", calls.len());
    }
}

fn failing(operation: Operation) {
    let mut bench = Bench::new(operation);
    let calls = bench.calls();
    for (at, error) in spread(calls.len()).into_iter().zip(ERRORS.iter().cycle()) {
        let call = bench.fail(at, *error).unwrap_or_else(|| panic!("no call {at} of {}", calls.len()));
        println!("{operation:?}: {error} at {at} of {}: {call}", calls.len());
    }
}

fn without_power(operation: Operation) {
    let mut bench = Bench::new(operation);
    let remains = bench.remains();
    for at in spread(remains.len()) {
        let remains = &remains[at - 1];
        println!("{operation:?}: {}", remains.when);
        bench.start_on(remains);
    }
}

#[test]
fn a_record_that_cannot_be_made_durable_is_taken_back() {
    let mut bench = Bench::new(Operation::Fetch);
    let calls = bench.calls();
    let renamed = calls.iter().position(|call| call.starts_with("rename") && call.ends_with("/state.json)"));
    let synced = renamed.expect("the release is recorded") + 1;
    assert!(calls[synced].starts_with("fsync") && calls[synced].ends_with("/home)"), "{}", calls[synced]);
    // The file is there, the directory's sync is not: the release that was fetched is none, on disk as in memory.
    bench.fail(synced + 1, Errno::EIO).expect("the call is made");
}

macro_rules! each {
    ($($name:ident: $operation:ident;)*) => {
        mod the_supervisor_is_killed_in {
            use super::*;
            $(#[test] fn $name() { killed(Operation::$operation) })*
        }
        mod a_call_fails_in {
            use super::*;
            $(#[test] fn $name() { failing(Operation::$operation) })*
        }
        mod the_power_goes_in {
            use super::*;
            $(#[test] fn $name() { without_power(Operation::$operation) })*
        }
    };
}

each! {
    the_first_boot: FirstBoot;
    a_boot: Boot;
    the_first_install: Install;
    an_upgrade: Upgrade;
    an_upgrade_up_to_its_probation: Probation;
    a_commit: Commit;
    a_rollback: Rollback;
    a_downgrade: Downgrade;
    a_fetch: Fetch;
    a_removal: Remove;
    a_prune: Prune;
    a_restart: Restart;
}

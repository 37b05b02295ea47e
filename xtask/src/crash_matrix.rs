//! `cargo xtask crash-matrix`: every operation, broken at every call by which it changes a file.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{bail, ensure};
use relmgr_testkit::kit::use_binaries;
use relmgr_testkit::matrix::{Bench, ERRORS, OPERATIONS, Operation};

use crate::run::{cargo, run, target_dir};

/// What is done at each point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// The supervisor is killed before the call
    Kill,
    /// The call fails: ENOSPC, EIO, EMFILE, EACCES
    Error,
    /// The machine loses power after the call, and with it what was not made durable
    Power,
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these operations, such as upgrade or first-boot
    operations: Vec<String>,
    /// Only these faults
    #[arg(long = "fault", value_enum)]
    faults: Vec<Fault>,
}

/// Points that were tried, and what went wrong at some of them.
#[derive(Default)]
struct Tried {
    points: usize,
    broken: Vec<String>,
}

pub fn main(args: &Args) -> anyhow::Result<()> {
    run(cargo(&["build", "--package", "relmgr", "--package", "cargo-relmgr"]))?;
    use_binaries(&target_dir()?.join("debug"));
    let chosen = chosen(&args.operations)?;
    let faults = match args.faults.as_slice() {
        [] => &[Fault::Kill, Fault::Error, Fault::Power],
        some => some,
    };
    let mut broken = vec![];
    let mut sums: BTreeMap<&str, usize> = BTreeMap::new();
    println!("{:<12} {:>7} {:>7} {:>7} {:>7}", "operation", "calls", "kills", "errors", "power");
    for operation in chosen {
        let mut bench = Bench::new(operation);
        let calls = bench.calls().len();
        let mut row = [0; 3];
        for (at, fault) in [Fault::Kill, Fault::Error, Fault::Power].into_iter().enumerate() {
            if !faults.contains(&fault) {
                continue;
            }
            let tried = sweep(operation, fault);
            row[at] = tried.points;
            broken.extend(tried.broken);
        }
        println!("{:<12} {calls:>7} {:>7} {:>7} {:>7}", operation.name(), row[0], row[1], row[2]);
        for (name, points) in ["kills", "errors", "power losses"].into_iter().zip(row) {
            *sums.entry(name).or_default() += points;
        }
    }
    println!("\n{sums:?}, {} broken", broken.len());
    for words in &broken {
        println!("  {words}");
    }
    ensure!(broken.is_empty(), "{} points broke a promise", broken.len());
    Ok(())
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<Operation>> {
    let known = |name: &String| OPERATIONS.into_iter().find(|operation| operation.name() == *name);
    if let Some(unknown) = names.iter().find(|name| known(name).is_none()) {
        let all: Vec<_> = OPERATIONS.iter().map(|operation| operation.name()).collect();
        bail!("no operation `{unknown}`: {}", all.join(", "));
    }
    Ok(if names.is_empty() { OPERATIONS.to_vec() } else { names.iter().filter_map(known).collect() })
}

/// Every point of an operation. A point that breaks a promise gets a fresh node after it.
fn sweep(operation: Operation, fault: Fault) -> Tried {
    let mut tried = Tried::default();
    let mut bench = Bench::new(operation);
    let mut point = |bench: &mut Bench, what: String, f: &dyn Fn(&mut Bench) -> bool| {
        let reached = catch_unwind(AssertUnwindSafe(|| f(bench)));
        tried.points += usize::from(!matches!(reached, Ok(false)));
        if let Err(words) = reached {
            let words = words.downcast_ref::<String>().cloned().unwrap_or_default();
            let first = words.lines().take(3).collect::<Vec<_>>().join(" ");
            tried.broken.push(format!("{}: {what}: {first}", operation.name()));
            *bench = Bench::new(operation);
            return true;
        }
        reached.unwrap_or(true)
    };
    match fault {
        Fault::Kill => {
            let mut at = 1;
            while point(&mut bench, format!("killed before call {at}"), &|bench| {
                bench.kill_before(at).is_some()
            }) {
                at += 1;
            }
        }
        Fault::Error => {
            for error in ERRORS {
                let mut at = 1;
                while point(&mut bench, format!("{error} at call {at}"), &|bench| {
                    bench.fail(at, error).is_some()
                }) {
                    at += 1;
                }
            }
        }
        Fault::Power => {
            for remains in bench.remains() {
                let when = format!("power lost after {}", remains.when);
                point(&mut bench, when, &|bench| {
                    bench.start_on(&remains);
                    true
                });
            }
        }
    }
    tried
}

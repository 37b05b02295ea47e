//! `cargo xtask bench self-upgrade`: what clients see of another relmgr, and of another host, beside a run without.

use std::time::Instant;

use relmgr_testkit::kit::{Node, Release, bin};

use crate::bench::{Both, CONNECTIONS, median, print_seen};

/// So many of each.
const ROUNDS: usize = 10;

/// Both commands under load, with `release` of the example.
pub fn main(release: &Release) -> anyhow::Result<()> {
    let node = Node::serving("live-poll", "[upgrade]\ndrain = \"5s\"\n", &[release]);
    let directory = tempfile::tempdir()?;
    // Two files, so that each time another one takes over.
    let paths = ["one", "two"].map(|name| directory.path().join(name).display().to_string());
    for path in &paths {
        std::fs::copy(bin("relmgr"), path)?;
    }
    let restart = |_: usize| vec!["restart".to_owned()];
    let self_upgrade = |round: usize| vec!["self-upgrade".to_owned(), paths[round % 2].clone()];
    compare(&node, "restart", &restart);
    compare(&node, "self-upgrade", &self_upgrade);
    Ok(())
}

fn compare(node: &Node, name: &str, command: &dyn Fn(usize) -> Vec<String>) {
    let both = Both::start(node.address());
    let begun = Instant::now();
    let mut times = vec![];
    for round in 0..ROUNDS {
        let arguments = command(round);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let asked = Instant::now();
        node.relmgr(&arguments).ok();
        times.push(asked.elapsed().as_secs_f64() * 1e3);
    }
    let time = begun.elapsed();
    let replacing = both.stop();
    let both = Both::start(node.address());
    std::thread::sleep(time);
    let quiet = both.stop();
    let longest = times.iter().copied().fold(0.0, f64::max);
    println!("\n`relmgr {name}`, {ROUNDS} times under load of {CONNECTIONS} keep-alive connections,");
    println!(
        "beside as long without; the command takes {:.0} ms median, {longest:.0} ms at most\n",
        median(times)
    );
    println!("  {:<28} {:>14} {:>14}", "", name, "quiet");
    print_seen(&replacing, &quiet);
}

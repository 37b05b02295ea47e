//! `cargo xtask demo`: the whole road in one command, under load.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use chrono::{TimeDelta, Utc};
use relmgr_model::Version;
use relmgr_testkit::example;
use relmgr_testkit::kit::{self, Node, Release};
use relmgr_testkit::load::{Load, Report, Request};
use serde_json::json;

use crate::run::build_release_binaries;

/// Connections that ask without a pause.
const CONNECTIONS: usize = 32;

/// How long the load goes on around each switch, so that there is something to compare the gaps with.
const BREATH: Duration = Duration::from_millis(800);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one line of JSON: requests, failed, closed_connections, longest_gap_ms, versions
    #[arg(long)]
    json: bool,
    /// Leave the node running and say what to try next
    #[arg(long)]
    keep: bool,
    /// Take relmgr and cargo-relmgr from here, instead of building them as users get them
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
}

/// Builds, publishes, runs, upgrades and downgrades under load; fails when a client saw a failure.
pub fn main(args: &Args) -> anyhow::Result<()> {
    eprintln!("== building relmgr, cargo-relmgr and two releases of example-app from changed source");
    let binaries = match &args.binaries {
        Some(binaries) => std::path::absolute(binaries)?,
        None => build_release_binaries()?,
    };
    kit::use_binaries(&binaries);
    let (one, two) = releases()?;

    eprintln!("== publishing both and starting a node with {}", one.version);
    let mut node = Node::serving("live-poll", "", &[&one, &two]);
    let laps = switch_under_load(&node, &one, &two)?;
    let mut whole = laps[0].1.clone();
    laps[1..].iter().for_each(|(_, lap)| whole.add(lap));
    if args.json {
        print_json(&whole);
    } else {
        print_table(&node, &laps, &whole);
    }
    if args.keep {
        keep(&mut node, &binaries)?;
    } else {
        node.relmgr(&["stop"]).ok();
        node.wait_supervisor();
    }
    if whole.failures() > 0 {
        bail!("{} requests failed: {}", whole.failures(), whole.failures_by_kind());
    }
    Ok(())
}

/// What was seen in a while of the demo, and what happened in it.
type Lap = (String, Report);

/// Upgrades, downgrades and upgrades again while clients ask without a pause.
fn switch_under_load(node: &Node, one: &Release, two: &Release) -> anyhow::Result<Vec<Lap>> {
    let requests = [Request::get("/debug/json"), Request::get("/"), Request::version("/api/public/version")];
    let load = Load::start(node.address(), &requests, CONNECTIONS);
    let mut laps = vec![];
    let mut serves = one;
    for (command, to) in [("upgrade", two), ("downgrade", one), ("upgrade", two)] {
        pause();
        laps.push((format!("{} serves", serves.version), load.lap()));
        eprintln!("== relmgr {command} {}, under load", to.version);
        let done = node.relmgr(&[command, &to.version]);
        laps.push((format!("{command} to {}", to.version), load.lap()));
        eprint!("{}", done.stderr);
        if done.code != 0 {
            bail!("{command} failed with exit code {}", done.code);
        }
        serves = to;
    }
    pause();
    laps.push((format!("{} serves", serves.version), load.stop()));
    Ok(laps)
}

fn pause() {
    std::thread::sleep(BREATH);
}

/// Two releases of the example: as it is, and with another heading on its pages.
fn releases() -> anyhow::Result<(Release, Release)> {
    let copy = kit::target_dir().join("demo/example-app");
    if copy.exists() {
        std::fs::remove_dir_all(&copy)?;
    }
    example::standing_copy(&copy);
    let version = |time| Version::from_build_time(time).to_string();
    let now = Utc::now();
    let one = kit::build(&copy.join("Cargo.toml"), "", &version(now));
    let page = copy.join("src/pages.rs");
    let text = std::fs::read_to_string(&page)?;
    let changed = text.replace("\"<h1>\"", "\"<h1>Changed: \"");
    if changed == text {
        bail!("{} has no heading to change", page.display());
    }
    std::fs::write(page, changed)?;
    let two = kit::build(&copy.join("Cargo.toml"), "", &version(now + TimeDelta::seconds(1)));
    Ok((one, two))
}

fn print_json(whole: &Report) {
    let line = json!({
        "requests": whole.requests(),
        "failed": whole.failures(),
        "closed_connections": whole.closed_connections(),
        "longest_gap_ms": (millis(whole.longest_gap) * 100.0).round() / 100.0,
        "versions": whole.versions.keys().collect::<Vec<_>>(),
    });
    println!("{line}");
}

fn print_table(node: &Node, laps: &[Lap], whole: &Report) {
    println!(
        "\n  {:<32} {:>9} {:>9} {:>7} {:>7} {:>12} {:>10}",
        "", "time", "requests", "failed", "closed", "longest gap", "p99"
    );
    let all = ("in all".to_owned(), whole.clone());
    for (what, lap) in laps.iter().chain([&all]) {
        println!(
            "  {what:<32} {:>6.0} ms {:>9} {:>7} {:>7} {:>9.2} ms {:>7.2} ms",
            millis(lap.elapsed),
            lap.requests(),
            lap.failures(),
            lap.closed_connections(),
            millis(lap.longest_gap),
            millis(lap.quantile(0.99)),
        );
    }
    println!("\n  {CONNECTIONS} keep-alive connections; a gap is time without an answer on any of them");
    for (version, count) in &whole.versions {
        println!("  {version} answered {count} times when asked for the version");
    }
    println!("  the failures: {}", whole.failures_by_kind());
    println!("  libraries of live-poll mapped at the end: {}", node.mapped().len());
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn keep(node: &mut Node, binaries: &Path) -> anyhow::Result<()> {
    let (home, address) = (node.keep_running(), node.address());
    let relmgr = binaries.join("relmgr");
    let (home, relmgr) = (home.display(), relmgr.display());
    eprintln!("\nThe node goes on running. Open http://{address}/ in a browser, or try:");
    eprintln!("  export RELMGR_HOME={home}");
    for command in ["status", "downgrade", "upgrade", "releases", "history"] {
        eprintln!("  {relmgr} {command}");
    }
    eprintln!("  curl http://{address}/api/public/version");
    eprintln!("  readlink $RELMGR_HOME/releases/current; cat $RELMGR_HOME/releases/prev/VERSION");
    // Last, so that all of it can be pasted as it stands.
    eprintln!("  {relmgr} stop");
    Ok(())
}

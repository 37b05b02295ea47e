//! `cargo xtask demo`: the whole road in one command, under load.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use chrono::{TimeDelta, Utc};
use relmgr_model::Version;
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
}

/// Builds, publishes, runs, upgrades and downgrades under load; fails when a client saw a failure.
pub fn main(args: &Args) -> anyhow::Result<()> {
    eprintln!("== building relmgr, cargo-relmgr and two releases of example-app from changed source");
    let binaries = build_release_binaries()?;
    kit::use_binaries(&binaries);
    let (one, two) = releases()?;

    eprintln!("== publishing both and starting a node with {}", one.version);
    let mut node = Node::serving("live-poll", "", &[&one, &two]);
    let mut switches = vec![];
    let requests = [Request::get("/debug/json"), Request::get("/"), Request::version("/api/public/version")];
    let load = Load::start(node.address(), &requests, CONNECTIONS);
    for (command, version) in [("upgrade", &two), ("downgrade", &one), ("upgrade", &two)] {
        pause();
        eprintln!("== relmgr {command} {}, under load", version.version);
        let begun = Instant::now();
        let done = node.relmgr(&[command, &version.version]);
        eprint!("{}", done.stderr);
        if done.code != 0 {
            bail!("{command} failed with exit code {}", done.code);
        }
        switches.push((command, &version.version, begun.elapsed()));
    }
    pause();
    let report = load.stop();
    print(args, &node, &report, &switches)?;
    if args.keep {
        keep(&mut node, &binaries)?;
    }
    if report.failures() > 0 {
        bail!("{} requests failed: {:?}", report.failures(), report.failed);
    }
    Ok(())
}

fn pause() {
    std::thread::sleep(BREATH);
}

/// Two releases of the example: as it is, and with another heading on its pages.
fn releases() -> anyhow::Result<(Release, Release)> {
    let source = kit::workspace().join("example-app");
    let copy = kit::target_dir().join("demo/example-app");
    if copy.exists() {
        std::fs::remove_dir_all(&copy)?;
    }
    copy_tree(&source, &copy)?;
    stand_alone(&copy)?;
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

/// Makes the copy a workspace of its own, with the paths of this one.
fn stand_alone(copy: &Path) -> anyhow::Result<()> {
    let root = kit::workspace();
    let manifest = std::fs::read_to_string(root.join("Cargo.toml"))?;
    let (_, shared) = manifest.split_once("[workspace.package]").context("the workspace's manifest")?;
    let shared = shared.replace("path = \"", &format!("path = \"{}/", root.display()));
    let own = std::fs::read_to_string(copy.join("Cargo.toml"))?;
    std::fs::write(copy.join("Cargo.toml"), format!("{own}\n[workspace]\n\n[workspace.package]{shared}"))?;
    std::fs::copy(root.join("Cargo.lock"), copy.join("Cargo.lock"))?;
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let dest: PathBuf = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &dest)?;
        } else {
            std::fs::copy(entry.path(), dest)?;
        }
    }
    Ok(())
}

fn print(
    args: &Args,
    node: &Node,
    report: &Report,
    switches: &[(&str, &String, Duration)],
) -> anyhow::Result<()> {
    let gap_ms = (report.longest_gap.as_secs_f64() * 1e5).round() / 100.0;
    if args.json {
        let line = json!({
            "requests": report.answers + report.failures(),
            "failed": report.failures(),
            "closed_connections": report.closed_connections,
            "longest_gap_ms": gap_ms,
            "versions": report.versions.keys().collect::<Vec<_>>(),
        });
        println!("{line}");
        return Ok(());
    }
    println!();
    println!("  requests             {}", report.answers + report.failures());
    println!("  failed               {}", report.failures());
    println!("  closed connections   {} of {CONNECTIONS}", report.closed_connections);
    println!("  longest gap          {gap_ms} ms without an answer on any connection");
    println!("  99 % of answers in   {:.2} ms", report.quantile(0.99).as_secs_f64() * 1e3);
    for (version, count) in &report.versions {
        println!("  answered by          {version}, {count} times when asked for its version");
    }
    for (command, version, took) in switches {
        println!("  {command:<20} to {version} in {:.0} ms, command and all", took.as_secs_f64() * 1e3);
    }
    println!("  libraries mapped     {}", node.mapped().len());
    Ok(())
}

fn keep(node: &mut Node, binaries: &Path) -> anyhow::Result<()> {
    let (home, address) = (node.keep_running(), node.address());
    let relmgr = binaries.join("relmgr");
    let (home, relmgr) = (home.display(), relmgr.display());
    eprintln!("\nThe node goes on running. Try:");
    eprintln!("  export RELMGR_HOME={home}");
    for command in ["status", "downgrade", "upgrade", "releases", "history", "stop"] {
        eprintln!("  {relmgr} {command}");
    }
    eprintln!("  curl http://{address}/api/public/version");
    eprintln!("  readlink $RELMGR_HOME/releases/current; cat $RELMGR_HOME/releases/prev/VERSION");
    eprintln!("and open http://{address}/ in a browser.");
    Ok(())
}

//! `cargo xtask bench pipeline`: from `git push` to serving, stage by stage, as CI's recipe takes them: the example
//! application, one line changed, a bucket on the same machine, a node that serves under load.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use relmgr_testkit::example;
use relmgr_testkit::kit::{self, Node, bin};
use relmgr_testkit::load::{Load, Request};
use relmgr_testkit::s3::S3Server;

use crate::bench::median;

const STAGES: [&str; 8] =
    ["push", "checkout", "build", "package", "publish", "fetch", "upgrade", "the command's own"];

/// What a push of a Phoenix application takes by the pipeline that this one replaces, in minutes.
const CLASSIC_MINUTES: [f64; 2] = [5.0, 6.0];

/// Prints the table, medians of `rounds`.
pub fn main(rounds: usize) -> anyhow::Result<()> {
    let work = tempfile::tempdir()?;
    let server = S3Server::start();
    let place = Place::new(work.path(), &server)?;
    let mut node = node(&server)?;
    let environment = server.environment();
    let pairs: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    node.start_with(&pairs);
    // What is built and published once is what every later push changes a line of.
    place.change(0)?;
    place.stages(&node)?;
    let load = Load::start(node.address(), &[Request::get("/")], 4);
    let mut taken: Vec<Vec<Duration>> = vec![vec![]; STAGES.len()];
    for round in 1..=rounds {
        place.change(round)?;
        let stages = place.stages(&node)?;
        taken.iter_mut().zip(stages).for_each(|(times, time)| times.push(time));
    }
    let report = load.stop();
    println!("\nFrom `git push` to serving, the example with one line changed, medians of {rounds}\n");
    let mut sum = 0.0;
    for (name, times) in STAGES.iter().zip(taken) {
        let ms = median(times.iter().map(|time| time.as_secs_f64() * 1e3).collect());
        sum += ms;
        println!("  {name:<20} {ms:>9.1} ms");
    }
    println!("  {:<20} {sum:>9.1} ms", "all of it");
    let [least, most] = CLASSIC_MINUTES.map(|minutes| minutes * 60e3 / sum);
    println!("  the classic Phoenix pipeline: 5 to 6 minutes, {least:.0} to {most:.0} times as long");
    println!("  requests meanwhile: {}, failed: {}", report.requests(), report.failures());
    ensure!(report.failures() == 0, "{}", report.failures_by_kind());
    Ok(())
}

fn node(server: &S3Server) -> anyhow::Result<Node> {
    let node = Node::new("live-poll", "");
    let path = node.home().join("relmgr.toml");
    let settings = std::fs::read_to_string(&path)?.replace(&node.repository_url(), &server.url());
    let endpoint = format!("allow_unsigned = true\nendpoint_url = \"{}\"", server.endpoint());
    std::fs::write(path, settings.replace("allow_unsigned = true", &endpoint))?;
    Ok(node)
}

/// A developer's clone, the repository that is pushed to, and CI's checkout.
struct Place<'a> {
    developer: std::path::PathBuf,
    checkout: std::path::PathBuf,
    server: &'a S3Server,
}

impl<'a> Place<'a> {
    fn new(work: &Path, server: &'a S3Server) -> anyhow::Result<Self> {
        let (developer, bare) = (work.join("developer"), work.join("origin.git"));
        example::standing_copy(&developer);
        git(work, &["init", "--quiet", "--bare", "--initial-branch=main", "origin.git"])?;
        git(&developer, &["init", "--quiet", "--initial-branch=main"])?;
        git(&developer, &["add", "."])?;
        git(&developer, &["commit", "--quiet", "--message=the example"])?;
        git(&developer, &["remote", "add", "origin", bare.to_str().context("a path that is text")?])?;
        git(&developer, &["push", "--quiet", "origin", "main"])?;
        git(work, &["clone", "--quiet", "origin.git", "checkout"])?;
        Ok(Self { developer, checkout: work.join("checkout"), server })
    }

    /// Another heading than before, committed.
    fn change(&self, round: usize) -> anyhow::Result<()> {
        let page = self.developer.join("src/pages.rs");
        let text = std::fs::read_to_string(&page)?;
        let before = if round == 0 { "\"<h1>".to_owned() } else { format!("\"<h1>Changed {}: ", round - 1) };
        ensure!(text.contains(&before), "{} has no heading to change", page.display());
        std::fs::write(&page, text.replacen(&before, &format!("\"<h1>Changed {round}: "), 1))?;
        git(&self.developer, &["commit", "--quiet", "--all", "--message=another heading"])
    }

    /// Carries out every stage; how long each took.
    fn stages(&self, node: &Node) -> anyhow::Result<[Duration; 8]> {
        let push = timed(|| git(&self.developer, &["push", "--quiet", "origin", "main"]))?;
        let checkout = timed(|| git(&self.checkout, &["pull", "--quiet", "--ff-only"]))?;
        let release = || self.cargo(&["relmgr", "release", "--clean"]);
        let built = timed(release)?;
        // Once more, with nothing to compile: what is left is describing, packing and checking.
        let package = timed(release)?;
        let publish = timed(|| self.cargo(&["relmgr", "publish"]))?;
        let begun = Instant::now();
        let done = node.relmgr(&["upgrade", "--json"]).ok().json();
        let upgrade = begun.elapsed();
        let steps = done["steps"].as_array().context("an upgrade has steps")?;
        let ms = |wanted: bool| -> f64 {
            let counted = steps.iter().filter(|step| (step["step"] == "fetch") == wanted);
            counted.filter_map(|step| step["ms"].as_f64()).sum()
        };
        let (fetch, steps) =
            (Duration::from_secs_f64(ms(true) / 1e3), Duration::from_secs_f64(ms(false) / 1e3));
        let own = upgrade.saturating_sub(fetch + steps);
        Ok([push, checkout, built.saturating_sub(package), package, publish, fetch, steps, own])
    }

    fn cargo(&self, args: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(bin("cargo-relmgr"));
        command.args(args).current_dir(&self.checkout).envs(self.server.environment());
        command.env("RELMGR_REPOSITORY", self.server.url());
        command.env("CARGO_TARGET_DIR", kit::target_dir().join("pipeline"));
        succeed(command)
    }
}

fn git(directory: &Path, args: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=bench", "-c", "user.email=bench@relmgr.invalid"]).args(args);
    command.current_dir(directory);
    succeed(command)
}

fn succeed(mut command: Command) -> anyhow::Result<()> {
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    ensure!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

fn timed(act: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    act()?;
    Ok(begun.elapsed())
}

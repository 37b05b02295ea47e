//! `cargo xtask bench repository`: a package of 100 MB to a bucket and back, beside Amazon's own command line on the
//! same server.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use relmgr_model::manifest::{AbiVersion, FORMAT, Manifest, Needs};
use relmgr_store::{digest, package};
use relmgr_testkit::kit::{self, Node, bin};
use relmgr_testkit::s3::{BUCKET, S3Server, aws_cli};

/// Bytes in the package, which no compression makes smaller.
const SIZE: usize = 100_000_000;

const ROUNDS: usize = 3;

/// Prints the table.
pub fn main(release: &kit::Release) -> anyhow::Result<()> {
    let work = tempfile::tempdir()?;
    let server = S3Server::start();
    let mut node = Node::new("big", "");
    std::fs::write(
        node.home().join("relmgr.toml"),
        format!(
            "app = \"big\"\n[listen]\nhttp = [\"127.0.0.1:0\"]\n[repository]\nurl = \"{}\"\nendpoint_url = \"{}\"\n\
             allow_unsigned = true\n",
            server.url(),
            server.endpoint()
        ),
    )?;
    let environment = server.environment();
    let pairs: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    node.start_with(&pairs);
    let (mut up, mut aws_up, mut down, mut aws_down) = (vec![], vec![], vec![], vec![]);
    let mut publisher_peak = 0;
    for round in 0..ROUNDS {
        let version = format!("1.0.{round}");
        let out = work.path().join(&version);
        std::fs::create_dir(&out)?;
        build(&out, &version, round as u64)?;
        let file = out.join(format!("{version}.tar.gz"));
        let mut publish = Command::new(bin("cargo-relmgr"));
        publish.args(["relmgr", "publish", "--no-delta", "--repository", &server.url()]).arg(&out);
        let (time, peak) = timed(publish.envs(pairs.iter().copied()));
        up.push(time);
        publisher_peak = publisher_peak.max(peak);
        let copy = format!("s3://{BUCKET}/aws/{version}.tar.gz");
        aws_up.push(timed(aws_cli().args(["s3", "cp"]).arg(&file).arg(&copy).envs(pairs.iter().copied())).0);

        let fetched = node.relmgr(&["fetch", &version, "--json"]).ok().json();
        let step =
            fetched["steps"].as_array().and_then(|steps| steps.iter().find(|step| step["step"] == "fetch"));
        let ms = step.and_then(|step| step["ms"].as_f64()).unwrap_or_default();
        down.push(Duration::from_secs_f64(ms / 1000.0));
        let into = out.join("copy");
        aws_down.push(timed(aws_cli().args(["s3", "cp", &copy]).arg(&into).envs(pairs.iter().copied())).0);
    }
    let node_peak = peak_kib(node.supervisor_pid().as_raw());
    println!("\nA package of {} MB to a bucket and back, medians of {ROUNDS}\n", SIZE / 1_000_000);
    println!("  {:<34} {:>9} {:>9} {:>7}", "", "relmgr", "aws s3 cp", "ratio");
    for (name, ours, theirs) in [("publish", up, aws_up), ("fetch (verified by SHA-256)", down, aws_down)] {
        let (ours, theirs) = (median(ours), median(theirs));
        let rate = |time: Duration| format!("{:.0} MB/s", SIZE as f64 / 1e6 / time.as_secs_f64());
        let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
        println!("  {name:<34} {:>9} {:>9} {ratio:>7.2}", rate(ours), rate(theirs));
    }
    println!(
        "  peak memory: publish {} MB, the node's supervisor {} MB",
        publisher_peak / 1024,
        node_peak / 1024
    );
    follow(release)
}

/// From `cargo relmgr publish` to the new release's first answer, with the upgrade that a runner calls.
fn follow(release: &kit::Release) -> anyhow::Result<()> {
    let server = S3Server::start();
    let environment = server.environment();
    let mut node = Node::new("live-poll", "");
    let settings = std::fs::read_to_string(node.home().join("relmgr.toml"))?;
    let settings = settings.replace(&node.repository_url(), &server.url());
    let endpoint = format!("allow_unsigned = true\nendpoint_url = \"{}\"", server.endpoint());
    std::fs::write(node.home().join("relmgr.toml"), settings.replace("allow_unsigned = true", &endpoint))?;
    let pairs: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    node.start_with(&pairs);
    let begun = Instant::now();
    let mut publish = Command::new(bin("cargo-relmgr"));
    publish.args(["relmgr", "publish", "--repository", &server.url()]).arg(&release.out);
    timed(publish.envs(pairs.iter().copied()));
    let published = begun.elapsed();
    node.relmgr(&["upgrade"]).ok();
    println!(
        "  from `cargo relmgr publish` to serving: {:.0} ms, of which publish {:.0} ms",
        begun.elapsed().as_secs_f64() * 1e3,
        published.as_secs_f64() * 1e3
    );
    Ok(())
}

fn build(out: &Path, version: &str, seed: u64) -> anyhow::Result<()> {
    let source = tempfile::tempdir()?;
    std::fs::create_dir(source.path().join("lib"))?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ (seed + 1);
    let mut bytes = Vec::with_capacity(SIZE);
    while bytes.len() < SIZE {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    std::fs::write(source.path().join("lib/libbig.so"), &bytes)?;
    let mut manifest = Manifest {
        format: FORMAT,
        name: "big".into(),
        version: version.parse()?,
        target: "x86_64-unknown-linux-gnu".into(),
        built_at: chrono::Utc::now(),
        library: "lib/libbig.so".into(),
        rustc: "none".into(),
        abi: AbiVersion { major: 1, minor: 0 },
        upgrade_from: None,
        git: None,
        needs: Needs::default(),
        state: None,
        package: None,
        probes: vec![],
        files: BTreeMap::from([("lib/libbig.so".to_owned(), digest::of_bytes(&bytes))]),
        deltas: BTreeMap::new(),
    };
    std::fs::write(source.path().join("manifest.toml"), manifest.to_toml())?;
    manifest.package = Some(package::pack(source.path(), &out.join(format!("{version}.tar.gz")))?);
    std::fs::write(out.join(format!("{version}.toml")), manifest.to_toml())?;
    std::fs::write(out.join("VERSION"), format!("{version}\n"))?;
    Ok(())
}

/// Runs it to its end; how long it took, and the most memory that was seen of it, in KiB.
fn timed(command: &mut Command) -> (Duration, u64) {
    let begun = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let mut peak = 0;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{command:?}: {status}");
            return (begun.elapsed(), peak);
        }
        peak = peak.max(peak_kib(pid));
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The most memory that a process has had, in KiB.
fn peak_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

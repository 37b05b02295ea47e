//! `cargo xtask bench boot`: a node that boots from nothing until it answers with the channel's release, and a release
//! that is published until a node that follows the channel answers with it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use relmgr_testkit::kit::{Node, Release, bin, wait_for};
use relmgr_testkit::s3::S3Server;

use crate::bench::free_address;

const ROUNDS: usize = 5;

/// Where a node's releases come from.
struct Place {
    url: String,
    /// More of `[repository]`.
    more: String,
    environment: Vec<(&'static str, String)>,
}

impl Place {
    fn environment(&self) -> Vec<(&str, &str)> {
        self.environment.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    fn publish(&self, release: &Release) {
        let mut publish = Command::new(bin("cargo-relmgr"));
        publish.args(["relmgr", "publish", "--no-delta", "--repository", &self.url]).arg(&release.out);
        let done =
            publish.envs(self.environment()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(done.success(), "publish: {done}");
    }

    /// Starts an empty node with `pull` in its `[pull]`; from its start to its first answer.
    fn boot(&self, release: &Release, pull: &str) -> (Node, SocketAddr, Duration) {
        let (mut node, address) = (Node::new("live-poll", ""), free_address());
        let Self { url, more, .. } = self;
        let settings = format!(
            "app = \"live-poll\"\n[listen]\nhttp = [\"{address}\"]\n[upgrade]\nprobation = \"0s\"\n[repository]\n\
             url = \"{url}\"\nallow_unsigned = true\n{more}\n[pull]\n{pull}\n"
        );
        std::fs::write(node.home().join("relmgr.toml"), settings).unwrap();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let answers = scope.spawn(|| {
                answers_with(address, &release.version);
                begun.elapsed()
            });
            node.start_with(&self.environment());
            let took = answers.join().unwrap();
            (node, address, took)
        })
    }
}

/// Prints the table.
pub fn main(releases: &[Release; 2]) {
    let server = S3Server::start();
    let directory = tempfile::tempdir().unwrap();
    let bucket = Place {
        url: server.url(),
        more: format!("endpoint_url = \"{}\"", server.endpoint()),
        environment: server.environment(),
    };
    let directory = Place {
        url: format!("file://{}", directory.path().display()),
        more: String::new(),
        environment: vec![],
    };
    println!("\nNodes that follow their channel, medians of {ROUNDS}\n");
    println!("  {:<58} {:>9} {:>9}", "", "directory", "bucket");
    let places = [&directory, &bucket];
    for place in places {
        place.publish(&releases[0]);
    }
    let boots = places.map(|place| median(|_| place.boot(&releases[0], "at_boot = true\njitter = \"0s\"").2));
    // The second within which an empty node asks is left out: it is chance.
    row("an empty node without jitter, from its start to its answer", boots);
    let nodes = places.map(|place| place.boot(&releases[0], "at_boot = true\ninterval = \"1s\""));
    for place in places {
        place.publish(&releases[1]);
    }
    let begun = Instant::now();
    for (_, address, _) in &nodes {
        answers_with(*address, &releases[1].version);
    }
    println!(
        "  published, with an interval of 1s, until both nodes answer with it: {:.0} ms",
        begun.elapsed().as_secs_f64() * 1e3
    );
    let asked = nodes.each_ref().map(|(node, address, _)| {
        median(|_| {
            // What an operator has left is not pulled until `resume`.
            node.relmgr(&["downgrade"]).ok();
            let begun = Instant::now();
            node.relmgr(&["pull", "resume"]).ok();
            node.relmgr(&["pull", "now"]);
            answers_with(*address, &releases[1].version);
            begun.elapsed()
        })
    });
    row("`relmgr pull resume` and `now`, until what it had answers", asked);
}

fn row(what: &str, times: [Duration; 2]) {
    let [directory, bucket] = times.map(|time| format!("{:.0} ms", time.as_secs_f64() * 1e3));
    println!("  {what:<58} {directory:>9} {bucket:>9}");
}

/// Waits until the node at `address` answers with `version`.
fn answers_with(address: SocketAddr, version: &str) {
    wait_for(&format!("{version} answers"), || (ask(address)? == version).then_some(()));
}

/// What the version endpoint says.
fn ask(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /api/public/version HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").filter(|(head, _)| head.contains(" 200 ")).map(|(_, body)| body.to_owned())
}

fn median(mut measure: impl FnMut(usize) -> Duration) -> Duration {
    let mut times: Vec<_> = (0..ROUNDS).map(&mut measure).collect();
    times.sort();
    times[ROUNDS / 2]
}

//! `cargo xtask bench conf`: how soon a changed file is with the application, and how long many keys take.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use relmgr_testkit::kit::{self, Node, wait_for};

use crate::run::{cargo, run};

/// Enough for a median and to meet a stall of the machine or two.
const RELOADS: usize = 200;

/// Reload latency on a node, then reading, checking and decoding of 10,000 keys.
pub fn conf() -> anyhow::Result<()> {
    let node = Node::serving("relmgr-live", "", &[&kit::release("live", "", "1.0.0")]);
    let mut times = vec![];
    for round in 0..RELOADS {
        let (path, temporary) = (node.home().join("app.conf"), node.home().join("app.conf.new"));
        std::fs::write(&temporary, format!("Repo.database = round{round}\n"))?;
        let renamed = since_epoch();
        std::fs::rename(&temporary, &path)?;
        let heard = wait_for("the application is told", || heard(&node, round));
        times.push(heard.saturating_sub(renamed));
    }
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!("\nA reload, from the rename to the application's conf_change, {RELOADS} times\n");
    for (name, at) in
        [("shortest", 0), ("median", RELOADS / 2), ("p99", RELOADS * 99 / 100), ("longest", RELOADS - 1)]
    {
        println!("  {name:<12} {:>8.2} ms", ms(times[at]));
    }
    println!("  (20 ms of it wait for the writer's next step; goal: 100 ms)\n");
    run(cargo(&["run", "--quiet", "--release", "--package", "relmgr-conf", "--example", "bench10k"]))
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// When the application was told of the change of this round; `None`: it was not yet.
fn heard(node: &Node, round: usize) -> Option<Duration> {
    let changes: Vec<serde_json::Value> = ask(node).ok()?;
    Some(Duration::from_nanos(changes.get(round)?["at_ns"].as_u64()?))
}

fn ask(node: &Node) -> anyhow::Result<Vec<serde_json::Value>> {
    let mut stream = TcpStream::connect(node.address())?;
    stream.write_all(b"GET /changes HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (_, body) = text.split_once("\r\n\r\n").context("the answer has no body")?;
    Ok(serde_json::from_str(body)?)
}

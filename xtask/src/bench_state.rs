//! `cargo xtask bench state`: how long requests wait while in-memory state goes from one release to another, beside what
//! writing and reading it costs by itself.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::Context;
use relmgr_testkit::kit::{self, Node};
use relmgr_testkit::process;

/// How many records are kept in memory.
const RECORDS: [usize; 3] = [0, 10_000, 1_000_000];

/// Medians of so many swaps in each direction.
const ROUNDS: usize = 5;

/// Prints the table.
pub fn main() -> anyhow::Result<()> {
    let forms = [("", "1.0.1"), ("two", "1.0.2")].map(|(features, v)| kit::release("state", features, v));
    let node = Node::serving("relmgr-state", "[upgrade]\nquiesce = \"60s\"\n", &[&forms[0], &forms[1]]);
    println!("\nIn-memory state from one release to another, medians of {ROUNDS}\n");
    println!(
        "  {:>9} {:>11} {:>13} {:>13} {:>22} {:>8} {:>10} {:>10} {:>11}",
        "records",
        "bytes",
        "waited, up",
        "waited, down",
        "writing and reading",
        "up/cost",
        "resident",
        "peak, up",
        "peak, down"
    );
    for records in RECORDS {
        get(&node, &format!("/fill?records={records}"))?;
        let (mut up, mut down, mut bytes, mut cost) = (vec![], vec![], 0, vec![]);
        let resident = node.resident_kib();
        let mut peaks = [0, 0];
        for _ in 0..ROUNDS {
            let measured: serde_json::Value = serde_json::from_str(&get(&node, "/cost")?)?;
            cost.push(measured["ms"].as_f64().context("no cost")?);
            bytes = measured["bytes"].as_u64().unwrap_or_default();
            let [peak_up, peak_down] = &mut peaks;
            up.push(peaked(&node, peak_up, || held(&node, "upgrade", "1.0.2"))?);
            down.push(peaked(&node, peak_down, || held(&node, "downgrade", "1.0.1"))?);
        }
        let (up, down, cost) = (median(up), median(down), median(cost));
        println!(
            "  {records:>9} {bytes:>11} {:>13} {:>13} {:>22} {:>8.2} {:>10} {:>10} {:>11}",
            ms(up),
            ms(down),
            ms(cost),
            up / cost,
            format!("{} MiB", resident / 1024),
            format!("{} MiB", peaks[0] / 1024),
            format!("{} MiB", peaks[1] / 1024),
        );
    }
    println!(
        "\n  peak                 of the host in the course of one hand-over, the larger of all\n  \
         waited               from the moment from which requests wait until they go on\n  \
         writing and reading  of the same state with the same codec, one after the other, on one thread; goal: 1.2"
    );
    Ok(())
}

/// What the host has of memory at most in the course of `run`.
fn peaked<T>(node: &Node, most: &mut u64, run: impl FnOnce() -> T) -> T {
    let host = node.host_pid().as_raw();
    process::forget_peak(host);
    let result = run();
    *most = process::peak_resident_kib(host).max(*most);
    result
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn ms(value: f64) -> String {
    format!("{value:.2} ms")
}

/// Swaps; for how long requests waited.
fn held(node: &Node, command: &str, version: &str) -> anyhow::Result<f64> {
    let done = node.relmgr(&[command, version]).ok();
    let told = done.stderr.lines().find_map(|line| line.split_once(" waited up to "));
    let (_, held) = told.with_context(|| format!("no code change in: {done:?}"))?;
    Ok(held.trim_end_matches(" ms").trim().parse()?)
}

fn get(node: &Node, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(node.address())?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (_, body) = text.split_once("\r\n\r\n").context("the answer has no body")?;
    Ok(body.to_owned())
}

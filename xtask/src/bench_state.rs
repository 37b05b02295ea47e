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

/// What is measured of the swaps in one direction.
#[derive(Default)]
struct Way {
    waited: Vec<f64>,
    codec: Vec<f64>,
    step: Vec<f64>,
    own: Vec<f64>,
    peak: u64,
}

/// Prints the table.
pub fn main() -> anyhow::Result<()> {
    let forms = [("", "1.0.1"), ("two", "1.0.2"), ("two,takes", "1.0.3")];
    let forms = forms.map(|(features, version)| kit::release("state", features, version));
    let node =
        Node::serving("relmgr-state", "[upgrade]\nquiesce = \"60s\"\n", &[&forms[0], &forms[1], &forms[2]]);
    println!("\nIn-memory state from one release to another, medians of {ROUNDS}, milliseconds\n");
    println!(
        "  {:>9} {:>9} {:<13} {:>8} {:>8} {:>7} {:>8} {:>7} {:>8} {:>9}",
        "records", "bytes", "way", "waited", "codec", "ratio", "step", "rest", "own form", "peak"
    );
    for records in RECORDS {
        get(&node, &format!("/fill?records={records}"))?;
        for (version, down_is) in [("1.0.2", "down, from_ref"), ("1.0.3", "down, from")] {
            let (mut up, mut down, mut bytes) = (Way::default(), Way::default(), 0);
            for _ in 0..ROUNDS {
                let first = costs(&node)?;
                bytes = first["bytes"].as_u64().unwrap_or_default();
                up.codec.push(sum(&first, ["write", "read"])?);
                up.waited.push(peaked(&node, &mut up.peak, || held(&node, "upgrade", version))?);
                let second = costs(&node)?;
                up.step.push(sum(&second, ["up"])?);
                down.codec.push(sum(&second, ["write", "read"])?);
                down.step.push(sum(&second, ["down"])?);
                down.own.push(sum(&second, ["own_write", "own_read"])?);
                down.waited.push(peaked(&node, &mut down.peak, || held(&node, "downgrade", "1.0.1"))?);
            }
            // The form that it comes from is the one that crosses.
            up.own.clone_from(&up.codec);
            for (name, way) in [("up", up), (down_is, down)] {
                let (waited, codec, step) = (median(way.waited), median(way.codec), median(way.step));
                println!(
                    "  {records:>9} {bytes:>9} {name:<14} {waited:>7.1} {codec:>8.1} {:>7.2} {step:>8.1} {:>7.2} \
                     {:>8.1} {:>5} MiB",
                    waited / codec,
                    (waited - step) / codec,
                    median(way.own),
                    way.peak / 1024,
                );
            }
        }
    }
    println!(
        "\n  waited    from the moment from which requests wait until they go on\n  \
         codec     writing the form that crosses to a vector and reading it from there, one after the other, on one\n            \
         thread that has just begun, in the library of the release that gives the state; goal: a ratio of 1.2\n  \
         step      the application's own change from one form to the other, alone; the wait has it in it\n  \
         rest      the ratio without the step\n  \
         own form  as codec, of the form that the giving release keeps\n  \
         peak      resident memory of the host in the course of one hand-over, the largest of all"
    );
    Ok(())
}

fn costs(node: &Node) -> anyhow::Result<serde_json::Value> {
    Ok(serde_json::from_str(&get(node, "/cost")?)?)
}

fn sum<const N: usize>(costs: &serde_json::Value, names: [&str; N]) -> anyhow::Result<f64> {
    let times =
        names.iter().map(|name| costs[name].as_f64().with_context(|| format!("no {name} in {costs}")));
    times.sum()
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

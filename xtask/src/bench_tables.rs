//! `cargo xtask bench tables`: operations of state tables, and how long requests that need them wait at a swap.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};
use relmgr_testkit::kit::{self, Node};
use relmgr_testkit::load::{Load, Report, Request};

use crate::bench::median;

/// Operations of each kind in each thread.
const COUNT: u64 = 100_000;

/// Records at which the swap is looked at.
const RECORDS: [u64; 3] = [0, 10_000, 1_000_000];

/// Upgrades and downgrades for each number of records.
const SWITCHES: usize = 10;

/// Clients that ask for a record at a fixed rate.
const PROBES: usize = 4;
const PROBE_EVERY: Duration = Duration::from_millis(1);

/// Prints the numbers.
pub fn main(rounds: usize) -> anyhow::Result<()> {
    let releases = [
        kit::release("tabled", "", "1.0.0"),
        kit::release("tabled", "", "1.0.1"),
        kit::release("tabled", "second", "2.0.0"),
    ];
    let node = Node::serving(
        "relmgr-tabled",
        "[tables]\nmemory = \"/dev/shm\"\nmax_bytes = 2147483648\n[upgrade]\nstart = \"10m\"\n",
        &[&releases[0], &releases[1], &releases[2]],
    );
    // Shared memory, as a node has it; the kit would put it beside the home, on the disk.
    let _removed = Shared(node.status().tables.map(|tables| tables.path));
    println!(
        "\nRequests that read a record at a swap, {PROBES} connections, one request a millisecond each\n"
    );
    println!(
        "  {:>9}  {:<22} {:>10} {:>12} {:>12} {:>12} {:>8}",
        "records", "", "swap", "upgrade", "longest", "p99.9", "failed"
    );
    let mut filled = 0;
    for records in RECORDS {
        if records > filled {
            ask(node.address(), &format!("/fill/{records}"))?;
            filled = records;
        }
        swaps(&node, records, "same schema", ["1.0.1", "1.0.0"]);
        swaps(&node, records, "schema 1 to 2 and back", ["2.0.0", "1.0.0"]);
    }
    // Last, since they write.
    operations(&node, rounds)
}

/// The directory in shared memory, removed at the end.
struct Shared(Option<std::path::PathBuf>);

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

fn ask(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("{path}: {answer}");
    }
    Ok(body.to_owned())
}

fn operations(node: &Node, rounds: usize) -> anyhow::Result<()> {
    ask(node.address(), "/fill/100000")?;
    println!(
        "\nOperations of state tables in shared memory, each a transaction of its own, median of {rounds}\n"
    );
    println!("  {:<22} {:>12} {:>12} {:>14} {:>12}", "", "1 thread", "a second", "2 threads", "a second");
    for (what, name) in
        [("get", "get"), ("put", "put"), ("add", "counter"), ("range", "range of 100 records")]
    {
        let count = if what == "range" { COUNT / 20 } else { COUNT };
        let mut times = [vec![], vec![]];
        for _ in 0..rounds {
            for (threads, times) in (1..).zip(&mut times) {
                let ns: f64 = ask(node.address(), &format!("/bench/{what}/{threads}/{count}"))?.parse()?;
                // So much goes by for each operation of all threads together.
                times.push(ns / 1e3 / f64::from(threads));
            }
        }
        let [one, two] = times.map(median);
        let a_second = |us: f64| 1e6 / us;
        println!("  {name:<22} {one:>9.2} µs {:>12.0} {two:>11.2} µs {:>12.0}", a_second(one), a_second(two));
    }
    Ok(())
}

/// Back and forth between two releases.
fn swaps(node: &Node, records: u64, name: &str, versions: [&str; 2]) {
    let probes = || Load::paced(node.address(), &[Request::get("/item/1")], PROBES, PROBE_EVERY);
    let load = probes();
    let (mut swap, mut all) = (vec![], vec![]);
    for switch in 0..SWITCHES {
        let command = if switch % 2 == 0 { "upgrade" } else { "downgrade" };
        let operation = node.relmgr(&[command, versions[switch % 2], "--json"]).ok().json();
        let mut total = 0.0;
        for step in operation["steps"].as_array().unwrap() {
            let ms = step["ms"].as_f64().unwrap();
            total += ms;
            if step["step"] == "swap" {
                swap.push(ms);
            }
        }
        all.push(total);
    }
    let seen = load.stop();
    let load = probes();
    std::thread::sleep(Duration::from_secs(2));
    let quiet = load.stop();
    let ms = |report: &Report, quantile| report.quantile(quantile).as_secs_f64() * 1e3;
    println!(
        "  {records:>9}  {name:<22} {:>7.2} ms {:>9.2} ms {:>9.2} ms {:>9.2} ms {:>8}",
        median(swap),
        median(all),
        ms(&seen, 1.0),
        ms(&seen, 0.999),
        seen.failures()
    );
    println!(
        "  {:>9}  {:<22} {:>10} {:>12} {:>9.2} ms {:>9.2} ms {:>8}",
        "",
        "  without a swap",
        "",
        "",
        ms(&quiet, 1.0),
        ms(&quiet, 0.999),
        quiet.failures()
    );
}

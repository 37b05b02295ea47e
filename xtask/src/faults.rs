//! `cargo xtask bench faults`: what each fault of a release costs clients, and how soon the release before serves.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use relmgr_testkit::faults::{BAD, End, FAULTS, Fault};
use relmgr_testkit::kit::{Node, wait_for};
use relmgr_testkit::load::{Load, Report, Request};

use crate::bench::CONNECTIONS;

/// Each fault of the table, once.
pub fn main() {
    println!("\nFaulty releases under load of {CONNECTIONS} keep-alive connections\n");
    println!(
        "  {:<32} {:<26} {:>9} {:>7} {:>14} {:>12} {:>12}",
        "fault", "ends", "requests", "failed", "first to last", "no answer", "watched"
    );
    for fault in FAULTS {
        let cost = Cost::of(fault);
        let ends = match fault.end {
            End::Refused => "refused before the swap",
            End::HostDiedEarly => "refused, another host",
            End::RolledBack => "rolled back, same host",
            End::HostDied => "rolled back, another host",
        };
        println!(
            "  {:<32} {ends:<26} {:>9} {:>7} {:>14} {:>12} {:>12}",
            fault.name,
            cost.seen.requests(),
            cost.seen.failures(),
            millis(cost.faults),
            millis(Some(cost.seen.longest_gap)),
            millis(cost.watched),
        );
    }
    println!(
        "\n  first to last  from the first failure that a new client sees to the first answer after its last one"
    );
    println!("  no answer      for so long, at most, on any connection");
    println!("  watched        from the swap to the verdict; `-`: there was none");
}

/// What clients paid for a fault.
struct Cost {
    seen: Report,
    faults: Option<Duration>,
    watched: Option<Duration>,
}

impl Cost {
    fn of(fault: &Fault) -> Self {
        let node = fault.node();
        let load = Load::start(node.address(), &[Request::get("/")], CONNECTIONS);
        wait_for("the load runs", || (load.answered() > 1000).then_some(()));
        drop(load.lap());
        let (address, over) = (node.address(), AtomicBool::new(false));
        let faults = std::thread::scope(|scope| {
            let probe = scope.spawn(|| first_to_last(address, &over));
            let done = node.relmgr(&["upgrade", BAD]);
            over.store(true, Ordering::Relaxed);
            done.failed(fault.end.code(), fault.says);
            probe.join().unwrap()
        });
        Self { seen: load.stop(), faults, watched: watched(&node) }
    }
}

/// Asks without a pause until it is over, on a connection of its own each time.
fn first_to_last(address: SocketAddr, over: &AtomicBool) -> Option<Duration> {
    let (mut first, mut lasted, mut failing) = (None, None, false);
    while failing || !over.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let failed = !matches!(ask(address), Ok(200));
        if failed {
            first = first.or(Some(asked));
        } else if failing {
            lasted = first.map(|first| first.elapsed());
        }
        failing = failed;
    }
    lasted
}

/// How long the release was on probation, as the history has it.
fn watched(node: &Node) -> Option<Duration> {
    let history = node.relmgr(&["history", "--json"]).ok().json();
    let upgrade = history.as_array()?.iter().rfind(|entry| entry["to"] == BAD)?.clone();
    let step = upgrade["steps"].as_array()?.iter().find(|step| step["step"] == "probation")?.clone();
    Some(Duration::from_secs_f64(step["ms"].as_f64()? / 1e3))
}

/// The status of `GET /` on a connection of its own.
pub fn ask(address: SocketAddr) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| std::io::Error::other("no HTTP"))
}

fn millis(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".into(), |time| format!("{:.1} ms", time.as_secs_f64() * 1e3))
}

//! `cargo xtask bench`: numbers, printed; nothing here passes or fails by a clock.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use relmgr_testkit::kit::{self, Node, Release, wait_for};
use relmgr_testkit::load::{Load, Report, Request};
use relmgr_testkit::process;

use crate::run::{build_release_binaries, cargo, run};

/// Clients of the load: enough to keep two cores busy.
pub const CONNECTIONS: usize = 32;

/// Clients that ask at a fixed rate beside the load: a closed loop stops asking while the server pauses.
const PROBES: usize = 4;

/// Often enough to meet every pause that a person could notice, seldom enough to be no load.
const PROBE_EVERY: Duration = Duration::from_millis(1);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which: throughput, upgrades, latency, conf, recovery, self-upgrade, faults, deltas, repository, tables, state,
    /// sessions, boot, pipeline, dev; all when none is named
    names: Vec<String>,
    /// Rounds of the comparisons
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of load for each measurement
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Upgrades and downgrades under load
    #[arg(long, default_value_t = 1000)]
    switches: usize,
}

/// Runs the named benchmarks.
pub fn main(args: &Args) -> anyhow::Result<()> {
    let wanted = |name: &str| args.names.is_empty() || args.names.iter().any(|wanted| wanted == name);
    kit::use_binaries(&build_release_binaries()?);
    if wanted("deltas") {
        crate::deltas::main(args.rounds)?;
        if args.names.len() == 1 {
            return Ok(());
        }
    }
    if wanted("faults") {
        crate::faults::main();
        if args.names.len() == 1 {
            return Ok(());
        }
    }
    if wanted("state") {
        crate::bench_state::main()?;
        if args.names.len() == 1 {
            return Ok(());
        }
    }
    if wanted("tables") {
        crate::bench_tables::main(args.rounds)?;
        if args.names.len() == 1 {
            return Ok(());
        }
    }
    if wanted("pipeline") {
        crate::pipeline::main(args.rounds)?;
        if args.names.len() == 1 {
            return Ok(());
        }
    }
    if wanted("dev") {
        crate::dev::main(args.rounds)?;
        if args.names.len() == 1 {
            return Ok(());
        }
    }
    if wanted("sessions") {
        crate::sessions::main();
        if args.names.len() == 1 {
            return Ok(());
        }
    }
    let example = kit::workspace().join("example-app/Cargo.toml");
    let releases = [kit::build(&example, "", "1.0.0"), kit::build(&example, "", "1.0.1")];
    if wanted("throughput") {
        throughput(args, &releases[0])?;
    }
    if wanted("latency") {
        latency(&releases);
    }
    if wanted("conf") {
        crate::bench_conf::conf()?;
    }
    if wanted("repository") {
        crate::repository::main(&releases[0])?;
    }
    if wanted("upgrades") {
        upgrades(args, &releases);
    }
    if wanted("self-upgrade") {
        crate::self_upgrade::main(&releases[0])?;
    }
    if wanted("recovery") {
        crate::recovery::main(&releases[0]);
    }
    if wanted("boot") {
        crate::boot::main(&releases);
    }
    Ok(())
}

/// The example's router in one plain binary, while it runs.
struct Plain {
    process: Child,
    address: SocketAddr,
}

impl Plain {
    fn start() -> anyhow::Result<Self> {
        run(cargo(&["build", "--release", "--package", "live-poll", "--example", "plain"]))?;
        let path = kit::target_dir().join("release/examples/plain");
        let address = free_address();
        let process = Command::new(path).arg(address.to_string()).stdout(Stdio::null()).spawn()?;
        wait_for("the plain binary listens", || std::net::TcpStream::connect(address).ok());
        Ok(Self { process, address })
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An address that nobody listens on.
pub fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// What one side did in one turn.
struct Turn {
    rate: f64,
    p99: Duration,
}

impl Turn {
    /// Answers a second.
    fn rate(&self) -> f64 {
        self.rate
    }

    /// In milliseconds.
    fn p99(&self) -> f64 {
        self.p99.as_secs_f64() * 1e3
    }
}

/// One side of the comparison, with what all of its turns took.
struct Side {
    address: SocketAddr,
    pid: i32,
    turns: Vec<Turn>,
    answers: u64,
    cpu: Duration,
}

impl Side {
    fn new(address: SocketAddr, pid: i32) -> Self {
        Self { address, pid, turns: vec![], answers: 0, cpu: Duration::ZERO }
    }

    fn turn(&mut self, request: &Request, time: Duration) {
        let before = process::cpu_time(self.pid);
        let load = Load::start(self.address, std::slice::from_ref(request), CONNECTIONS);
        std::thread::sleep(time);
        let report = load.stop();
        assert_eq!(report.failures(), 0, "{}", report.failures_by_kind());
        self.cpu += process::cpu_time(self.pid) - before;
        self.answers += report.answers;
        self.turns.push(Turn { rate: report.rate(), p99: report.quantile(0.99) });
    }

    fn forget(&mut self) {
        *self = Self::new(self.address, self.pid);
    }

    fn median(&self, of: fn(&Turn) -> f64) -> f64 {
        median(self.turns.iter().map(of).collect())
    }

    /// The server's processor time for each answer, in microseconds.
    fn cpu(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.answers.max(1) as f64
    }

    /// Each turn beside the other side's that came with it: median, and the quarters' bounds.
    fn beside(&self, other: &Self, of: fn(&Turn) -> f64) -> [f64; 3] {
        let pairs = self.turns.iter().zip(&other.turns);
        let mut ratios: Vec<f64> = pairs.map(|(ours, theirs)| of(ours) / of(theirs)).collect();
        ratios.sort_by(f64::total_cmp);
        [1, 2, 3].map(|quarter| ratios[ratios.len() * quarter / 4])
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A side's turn: a shared machine is faster and slower for seconds on end, and both sides are to have the same of it.
const TURN: Duration = Duration::from_millis(250);

/// The same router in the host and in one plain binary, alternating.
fn throughput(args: &Args, release: &Release) -> anyhow::Result<()> {
    let node = Node::serving("live-poll", "", &[release]);
    let plain = Plain::start()?;
    let mut ours = Side::new(node.address(), node.host_pid().as_raw());
    let mut theirs = Side::new(plain.address, plain.process.id().try_into()?);
    let turns = (Duration::from_secs(args.seconds).div_duration_f64(TURN) as usize).max(1);
    println!(
        "\nThroughput, host beside the same router in one plain binary (axum::serve), {CONNECTIONS} connections,"
    );
    println!(
        "{} rounds of {} s each, in turns of {} ms; medians, ratios of turns that came together (and half of them)\n",
        args.rounds,
        args.seconds,
        TURN.as_millis()
    );
    println!(
        "  {:<14} {:>8} {:>8} {:>6} {:>15}   {:>8} {:>8} {:>6}   {:>7} {:>7} {:>6}",
        "request", "host/s", "plain/s", "ratio", "", "p99", "plain", "ratio", "CPU µs", "plain", "ratio"
    );
    let requests = [
        ("tiny JSON", Request::get("/debug/json")),
        ("64 KiB answer", Request::get("/debug/bytes?n=65536")),
        ("1 MiB upload", Request::upload("/debug/sink", 1 << 20)),
    ];
    for (name, request) in &requests {
        // One second each for warm caches, counted by nobody.
        ours.turn(request, Duration::from_secs(1));
        theirs.turn(request, Duration::from_secs(1));
        ours.forget();
        theirs.forget();
        for turn in 0..args.rounds.max(1) * turns {
            // Who goes first alternates too.
            let sides = if turn % 2 == 0 { [&mut ours, &mut theirs] } else { [&mut theirs, &mut ours] };
            for side in sides {
                side.turn(request, TURN);
            }
        }
        let [low, ratio, high] = ours.beside(&theirs, Turn::rate);
        println!(
            "  {name:<14} {:>8.0} {:>8.0} {ratio:>6.3} ({low:>5.3} to {high:>5.3})  {:>5.2} ms {:>5.2} ms {:>6.3}   {:>7.2} {:>7.2} {:>6.3}",
            ours.median(Turn::rate),
            theirs.median(Turn::rate),
            ours.median(Turn::p99),
            theirs.median(Turn::p99),
            ours.beside(&theirs, Turn::p99)[1],
            ours.cpu(),
            theirs.cpu(),
            ours.cpu() / theirs.cpu()
        );
    }
    Ok(())
}

/// `relmgr upgrade` of a fetched release, without load: median of 20, and each step's share.
fn latency(releases: &[Release; 2]) {
    let node = Node::serving("live-poll", "", &[&releases[0], &releases[1]]);
    let mut totals = vec![];
    let mut commands = vec![];
    let mut steps: BTreeMap<usize, (String, Vec<f64>)> = BTreeMap::new();
    for _ in 0..20 {
        let begun = Instant::now();
        let done = node.relmgr(&["upgrade", "1.0.1", "--json"]).ok();
        commands.push(begun.elapsed().as_secs_f64() * 1e3);
        let operation = done.json();
        let times = operation["steps"].as_array().unwrap();
        totals.push(times.iter().map(|step| step["ms"].as_f64().unwrap()).sum());
        // The first upgrade fetched it; the steps of one that did not are what is asked for.
        if times.iter().all(|step| step["step"] != "fetch") {
            for (at, step) in times.iter().enumerate() {
                let name = step["step"].as_str().unwrap().to_owned();
                steps.entry(at).or_insert((name, vec![])).1.push(step["ms"].as_f64().unwrap());
            }
        }
        node.relmgr(&["downgrade"]).ok();
    }
    println!("\n`relmgr upgrade` of a fetched release, median of 20\n");
    println!("  {:<12} {:>8.2} ms, the command and all", "in all", median(commands));
    println!("  {:<12} {:>8.2} ms", "steps", median(totals));
    for (name, times) in steps.into_values() {
        println!("  {name:<12} {:>8.2} ms", median(times));
    }
}

/// Load without a pause, and beside it a few clients that ask at a fixed rate.
pub struct Both {
    load: Load,
    probes: Load,
}

impl Both {
    /// Both at once, of the example's paths.
    pub fn start(address: SocketAddr) -> Self {
        let requests = [Request::get("/debug/json"), Request::version("/api/public/version")];
        Self {
            load: Load::start(address, &requests, CONNECTIONS),
            probes: Load::paced(address, &requests, PROBES, PROBE_EVERY),
        }
    }

    /// What the load and what the probes have seen.
    pub fn stop(self) -> [Report; 2] {
        [self.load.stop(), self.probes.stop()]
    }
}

/// Many upgrades and downgrades under load, beside the same time without one.
fn upgrades(args: &Args, releases: &[Release; 2]) {
    let node = Node::serving("live-poll", "", &[&releases[0], &releases[1]]);
    let both = Both::start(node.address());
    let begun = Instant::now();
    let mut memory = vec![node.resident_kib()];
    for switch in 0..args.switches {
        let command: &[&str] = if switch % 2 == 0 { &["upgrade", "1.0.1"] } else { &["downgrade", "1.0.0"] };
        node.relmgr(command).ok();
        if switch + 1 == 10 || (switch + 1) * 2 == args.switches || switch + 1 == args.switches {
            memory.push(node.resident_kib());
        }
    }
    let time = begun.elapsed();
    let switching = both.stop();
    let mapped = node.mapped().len();
    let both = Both::start(node.address());
    std::thread::sleep(time);
    let quiet = both.stop();
    println!(
        "\n{} upgrades and downgrades under load of {CONNECTIONS} keep-alive connections, {:.0} s,",
        args.switches,
        time.as_secs_f64()
    );
    println!("beside as long without one\n");
    println!("  {:<28} {:>14} {:>14}", "", "switching", "quiet");
    print_seen(&switching, &quiet);
    println!(
        "  resident memory  {} KiB (start, after 10, middle, end)",
        memory.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    );
    println!("  libraries mapped {mapped}");
}

/// One column for each run.
pub fn print_seen([load, probes]: &[Report; 2], [quiet_load, quiet_probes]: &[Report; 2]) {
    let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
    let lag =
        |report: &Report, quantile| ms(Duration::from_nanos(report.wake_lag.value_at_quantile(quantile)));
    let row = |name: &str, of: &dyn Fn(&Report) -> String, reports: [&Report; 2]| {
        println!("  {name:<28} {:>14} {:>14}", of(reports[0]), of(reports[1]));
    };
    let loads = [load, quiet_load];
    row("answers", &|report| report.answers.to_string(), loads);
    row("failed", &|report| report.failures().to_string(), loads);
    row("closed connections", &|report| report.closed_connections().to_string(), loads);
    row("longest gap", &|report| ms(report.longest_gap), loads);
    row("p99", &|report| ms(report.quantile(0.99)), loads);
    let probes = [probes, quiet_probes];
    println!("  {PROBES} connections, one request every {} ms", PROBE_EVERY.as_millis());
    row("  answers", &|report| report.answers.to_string(), probes);
    row("  failed", &|report| report.failures().to_string(), probes);
    row("  p99", &|report| ms(report.quantile(0.99)), probes);
    row("  longest", &|report| ms(report.quantile(1.0)), probes);
    row("  wake lag, p99", &|report| lag(report, 0.99), probes);
    row("  wake lag, longest", &|report| lag(report, 1.0), probes);
}

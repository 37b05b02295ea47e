//! `cargo xtask bench dev`: from a save to the first request that the new code answers: `cargo relmgr dev`, a program that
//! is built and started anew as with cargo-watch, and a function that hot-lib-reloader loads anew. Each serves a page of
//! which one line changes, and is built with the profile `dev`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use relmgr_testkit::dev::Dev;
use relmgr_testkit::example;
use relmgr_testkit::kit;

use crate::bench::{free_address, median};

/// How long hot-lib-reloader waits for the library's writer: its default, and the least that still lets a linker end.
const DEBOUNCES: [u64; 2] = [500, 20];

/// A client asks so often.
const EVERY: Duration = Duration::from_millis(1);

/// A build takes its time on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Prints the table, medians of `rounds`.
pub fn main(rounds: usize) -> anyhow::Result<()> {
    let work = tempfile::tempdir()?;
    // Kept from run to run, since nothing of it is measured but what changes.
    let target = kit::target_dir().join("bench-dev");
    println!(
        "\nFrom a save to the first request that the new code answers, one line changed, medians of {rounds}\n"
    );
    println!("  {:<56} {:>9} {:>9} {:>9}", "", "median", "least", "most");
    relmgr(work.path(), &target, rounds)?;
    restart(work.path(), &target, rounds)?;
    for debounce in DEBOUNCES {
        reloader(work.path(), &target, debounce, rounds)?;
    }
    println!(
        "\n  Both peers are built the moment a file is saved: what their watchers wait for (cargo-watch: 500 ms) is not \
         in these numbers,\n  but in those of `cargo relmgr dev`. hot-lib-reloader's library is one function, its server \
         axum; the other two are the example."
    );
    Ok(())
}

/// A source with a heading.
struct Page {
    path: PathBuf,
    text: String,
    /// What stands before the heading's own words.
    before: &'static str,
}

impl Page {
    fn new(path: PathBuf, before: &'static str) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(&path)?;
        ensure!(text.contains(before), "{} has no heading to change", path.display());
        Ok(Self { path, text, before })
    }

    /// Saves it with another heading; the heading.
    fn change(&self, round: usize) -> anyhow::Result<String> {
        let heading = format!("Changed {round}.");
        let text = self.text.replacen(self.before, &format!("{}{heading}", self.before), 1);
        std::fs::write(&self.path, text)?;
        Ok(heading)
    }
}

fn print(name: &str, times: Vec<Duration>) {
    let ms: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    let (least, most) = (ms.iter().copied().fold(f64::MAX, f64::min), ms.iter().copied().fold(0.0, f64::max));
    println!("  {name:<56} {:>6.0} ms {least:>6.0} ms {most:>6.0} ms", median(ms));
}

fn relmgr(work: &Path, target: &Path, rounds: usize) -> anyhow::Result<()> {
    let copy = work.join("application");
    example::standing_copy(&copy);
    let page = Page::new(copy.join("src/pages.rs"), "\"<h1>")?;
    let target = target.to_str().context("a path that is text")?;
    build(&copy, Path::new(target), &["--lib"])?;
    let mut dev = Dev::start(&copy.join("Cargo.toml"), work, &["--target-dir", target]);
    dev.until(|event| event["event"] == "serving");
    let mut client = Client::open(dev.address)?;
    let (mut times, mut stages) = (vec![], [const { vec![] }; 3]);
    for round in 0..=rounds {
        let heading = page.change(round)?;
        let begun = Instant::now();
        wait_until(|| client.get().is_ok_and(|body| body.contains(&heading)))?;
        let time = begun.elapsed();
        let serving = dev.until(|event| event["event"] == "serving");
        // The first one also writes what incremental builds go on with.
        if round > 0 {
            times.push(time);
            for (stage, name) in stages.iter_mut().zip(["build_ms", "package_ms", "upgrade_ms"]) {
                stage.push(serving[name].as_f64().context("a stage")?);
            }
        }
    }
    let [build, package, upgrade] = stages.map(median);
    print(&format!("cargo relmgr dev (build {build:.0}, package {package:.0}, upgrade {upgrade:.0})"), times);
    Ok(())
}

/// What cargo-watch does: build, end the program, start it.
fn restart(work: &Path, target: &Path, rounds: usize) -> anyhow::Result<()> {
    let copy = work.join("plain");
    example::standing_copy(&copy);
    let page = Page::new(copy.join("src/pages.rs"), "\"<h1>")?;
    let arguments = ["--example", "plain"];
    build(&copy, target, &arguments)?;
    let (program, address) = (target.join("debug/examples/plain"), free_address());
    let mut process = Process::start(&program, address)?;
    let mut times = vec![];
    for round in 0..=rounds {
        let heading = page.change(round)?;
        let begun = Instant::now();
        build(&copy, target, &arguments)?;
        drop(process);
        process = Process::start(&program, address)?;
        wait_until(|| {
            Client::open(address)
                .and_then(|mut client| client.get())
                .is_ok_and(|body| body.contains(&heading))
        })?;
        if round > 0 {
            times.push(begun.elapsed());
        }
    }
    print("cargo build and restart", times);
    Ok(())
}

const RELOADER: &str = r#"[workspace]
resolver = "3"
members = ["page"]

[package]
name = "reloader"
version = "0.1.0"
edition = "2024"

[dependencies]
axum = { version = "0.8", default-features = false, features = ["http1", "tokio"] }
hot-lib-reloader = "=0.8.2"
page = { path = "page" }
tokio = { version = "1", features = ["macros", "net", "rt-multi-thread"] }

[profile.dev]
debug = "line-tables-only"
"#;

const MAIN: &str = r#"#[hot_lib_reloader::hot_module(dylib = "page", lib_dir = "LIBRARIES", file_watch_debounce = DEBOUNCE)]
mod page {
    hot_functions_from_file!("page/src/lib.rs");
}

#[tokio::main]
async fn main() {
    let address = std::env::args().nth(1).unwrap();
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    println!("listening");
    let page = axum::routing::get(|| async { axum::response::Html(page::page()) });
    axum::serve(listener, axum::Router::new().route("/", page)).await.unwrap();
}
"#;

/// A function in a library that hot-lib-reloader loads anew when the file changes.
fn reloader(work: &Path, target: &Path, debounce: u64, rounds: usize) -> anyhow::Result<()> {
    let place = work.join(format!("reloader-{debounce}"));
    std::fs::create_dir_all(place.join("src"))?;
    std::fs::create_dir_all(place.join("page/src"))?;
    // A directory of its own: two libraries of one name would take each other's place.
    let target = target.join(format!("reloader-{debounce}"));
    let libraries = target.join("debug");
    let main = MAIN.replace("DEBOUNCE", &debounce.to_string());
    let main = main.replace("LIBRARIES", libraries.to_str().context("a path that is text")?);
    let page = "[package]\nname = \"page\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[lib]\n\
                crate-type = [\"rlib\", \"dylib\"]\n";
    let source = "#[unsafe(no_mangle)]\npub fn page() -> String {\n    format!(\"<h1>{}</h1>\", 1)\n}\n";
    for (name, text) in [
        ("Cargo.toml", RELOADER),
        ("src/main.rs", main.as_str()),
        ("page/Cargo.toml", page),
        ("page/src/lib.rs", source),
    ] {
        std::fs::write(place.join(name), text)?;
    }
    let page = Page::new(place.join("page/src/lib.rs"), "<h1>")?;
    build(&place, &target, &["--workspace"])?;
    let address = free_address();
    let _process = Process::start(&libraries.join("reloader"), address)?;
    let mut client = Client::open(address)?;
    let mut times = vec![];
    for round in 0..=rounds {
        let heading = page.change(round)?;
        let begun = Instant::now();
        build(&place, &target, &["--package", "page"])?;
        wait_until(|| client.get().is_ok_and(|body| body.contains(&heading)))?;
        if round > 0 {
            times.push(begun.elapsed());
        }
    }
    print(&format!("hot-lib-reloader, file_watch_debounce = {debounce}"), times);
    Ok(())
}

fn build(directory: &Path, target: &Path, args: &[&str]) -> anyhow::Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet"]).args(args).current_dir(directory).env("CARGO_TARGET_DIR", target);
    let done = cargo.stdin(Stdio::null()).output()?;
    ensure!(done.status.success(), "{cargo:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// A program that listens, while it runs.
struct Process(Child);

impl Process {
    fn start(program: &Path, address: SocketAddr) -> anyhow::Result<Self> {
        let mut child = Command::new(program)
            .arg(address.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdout = child.stdout.take().context("a pipe")?;
        BufReader::new(stdout).read_line(&mut String::new())?;
        Ok(Self(child))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A keep-alive connection.
struct Client(BufReader<TcpStream>);

impl Client {
    fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The body of `GET /`.
    fn get(&mut self) -> anyhow::Result<String> {
        self.0.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n")?;
        let mut len = 0;
        loop {
            let mut line = String::new();
            ensure!(self.0.read_line(&mut line)? > 0, "the connection was closed");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                len = value.trim().parse()?;
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; len];
        self.0.read_exact(&mut body)?;
        Ok(String::from_utf8(body)?)
    }
}

fn wait_until(mut look: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !look() {
        ensure!(Instant::now() < deadline, "waited {PATIENCE:?} for the new code");
        std::thread::sleep(EVERY);
    }
    Ok(())
}

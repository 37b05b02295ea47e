//! How long 10,000 keys take: `cargo run -p relmgr-conf --release --example bench10k`.
//!
//! The goal is 20 ms for reading, checking and decoding. Each figure is the median of 21 runs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use relmgr_conf::{Schema, Sources, effective, format};

const KEYS: usize = 10_000;
const RUNS: usize = 21;

/// The median time of `run`, without the freeing of what it gives.
fn median<T>(mut run: impl FnMut() -> T) -> Duration {
    let mut times: Vec<_> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            let result = run();
            let elapsed = start.elapsed();
            drop(result);
            elapsed
        })
        .collect();
    times.sort();
    times[RUNS / 2]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let types = [
        ("type = \"integer\"\nmin = 0\ndefault = 1", "1_000"),
        ("type = \"string\"", "\"a text with blanks\"   # and a comment"),
        ("type = \"duration\"", "1h30m"),
        ("type = \"list\"\nitems = \"address\"", "10.0.0.1:80, example.com:8080"),
        ("type = \"enum\"\nvalues = [\"debug\", \"info\"]", "info"),
    ];
    let (mut schema, mut app_conf) = (String::new(), String::new());
    for index in 0..KEYS {
        let (ty, value) = types[index % types.len()];
        let key = format!("group{}.part{}.key{index}", index % 10, index % 100);
        schema.push_str(&format!("[keys.\"{key}\"]\n{ty}\ndoc = \"What it does.\"\n"));
        app_conf.push_str(&format!("{key} = {value}\n"));
    }
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("app.conf");
    std::fs::write(&path, &app_conf)?;
    let parsed = Schema::parse(&schema)?;
    let mut sources = Sources::new(Some(parsed), path, dir.path().join("app.conf.d"));
    sources.env.clear();

    let ready = effective(&sources)?;
    assert_eq!(ready.entries().count(), KEYS);
    let loaded = median(|| effective(&sources));
    type Settings = BTreeMap<String, BTreeMap<String, BTreeMap<String, serde_json::Value>>>;
    let decoded = median(|| ready.decode::<Settings>());
    println!("{KEYS} keys, {} KB of app.conf", app_conf.len() / 1024);
    println!("read, check and resolve   {:7.2} ms", loaded.as_secs_f64() * 1e3);
    println!("decode into a type        {:7.2} ms", decoded.as_secs_f64() * 1e3);
    println!("together                  {:7.2} ms   (goal: 20)", (loaded + decoded).as_secs_f64() * 1e3);
    println!("schema                    {:7.2} ms", median(|| Schema::parse(&schema)).as_secs_f64() * 1e3);
    let formatted = median(|| format("app.conf", &app_conf, None));
    println!("format                    {:7.2} ms", formatted.as_secs_f64() * 1e3);
    Ok(())
}

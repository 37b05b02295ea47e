//! Deltas by hand, and what `cargo xtask bench deltas` measures, each step a process of its own:
//!
//! ```text
//! delta unpack PACKAGE DIRECTORY       a package as a directory that is not there yet
//! delta make BASE TARGET OUT           the delta between two such directories
//! delta apply DELTA BASE TARGET DEST   DEST from BASE; TARGET is asked for its manifest only
//! delta measure COMMAND…               runs COMMAND and prints its milliseconds and its peak memory in KiB
//! ```

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use relmgr_model::manifest::Manifest;
use relmgr_store::{delta, digest, package};

type Done = Result<(), Box<dyn std::error::Error>>;

fn main() -> Done {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["unpack", packed, directory] => unpack(Path::new(packed), Path::new(directory)),
        ["make", base, target, out] => make(Path::new(base), Path::new(target), Path::new(out)),
        ["apply", delta, base, target, dest] => {
            apply(Path::new(delta), Path::new(base), Path::new(target), Path::new(dest))
        }
        ["measure", command, ref arguments @ ..] => measure(command, arguments),
        _ => {
            Err("use: delta unpack PACKAGE DIRECTORY | make BASE TARGET OUT | apply DELTA BASE TARGET DEST \
                  | measure COMMAND…"
                .into())
        }
    }
}

fn manifest(directory: &Path) -> Result<Manifest, Box<dyn std::error::Error>> {
    Ok(Manifest::parse(&std::fs::read_to_string(directory.join(package::MANIFEST))?)?)
}

/// The directory that `path` is made in.
fn beside(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn unpack(packed: &Path, directory: &Path) -> Done {
    let manifest = package::read_manifest(packed)?;
    Ok(package::unpack(packed, beside(directory), directory, &manifest)?)
}

fn make(base: &Path, target: &Path, out: &Path) -> Done {
    delta::make(base, &manifest(base)?, target, &manifest(target)?, out)?;
    Ok(())
}

fn apply(delta: &Path, base: &Path, target: &Path, dest: &Path) -> Done {
    let held = manifest(base)?;
    let mut wanted = manifest(target)?;
    // Published, the manifest says it and is signed; here nobody vouches but who runs this.
    wanted.deltas.insert(held.version.clone(), digest::of_file(delta)?);
    Ok(delta::apply(delta, base, &held, &wanted, beside(dest), dest)?)
}

fn measure(command: &str, arguments: &[&str]) -> Done {
    let begun = Instant::now();
    let status = Command::new(command).args(arguments).stdout(Stdio::null()).status()?;
    let time = begun.elapsed();
    if !status.success() {
        return Err(format!("{command} {}: {status}", arguments.join(" ")).into());
    }
    // The largest of all children, of which there was one.
    println!("{} {}", time.as_secs_f64() * 1e3, getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss());
    Ok(())
}

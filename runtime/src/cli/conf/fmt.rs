//! `relmgr conf fmt`

use std::path::PathBuf;

use relmgr_conf::Schema;
use relmgr_model::home::Home;

use super::file;
use super::target::{Target, refused, schema};
use crate::cli::error::{CommandError, Kind};
use crate::cli::output;

/// Write app.conf and the files of app.conf.d in one style, comments kept
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Other files; default: app.conf and app.conf.d/*.conf
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Change nothing; exit 1 and name the files that are written otherwise
    #[arg(long)]
    check: bool,
}

pub(super) fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    // The schema says only which lines a fault may quote.
    let release = Target { release: None }.find(home)?;
    let schema = release.and_then(|release| schema(home, &release).ok().flatten());
    let named = !args.files.is_empty();
    let files = if named { args.files } else { the_nodes(home)? };
    let mut other = vec![];
    for path in files {
        if named && !path.exists() {
            return Err(CommandError::new(Kind::Failed, format!("{} does not exist", path.display())));
        }
        let differs = match args.check {
            true => file::read(&path)?
                .map_or(Ok(false), |text| formatted(&path, &text, schema.as_ref()).map(|new| new != text))?,
            false => file::change(&path, |text| formatted(&path, text, schema.as_ref()).map(Some))?,
        };
        if differs {
            other.push(path.display().to_string());
        }
    }
    if args.check && !other.is_empty() {
        let words = format!("not in the style of `relmgr conf fmt`: {}", other.join(", "));
        return Err(CommandError::new(Kind::Failed, words).hint("`relmgr conf fmt` rewrites them"));
    }
    output::print(&other.iter().map(|path| format!("formatted {path}\n")).collect::<String>())
}

fn formatted(path: &std::path::Path, text: &str, schema: Option<&Schema>) -> Result<String, CommandError> {
    let name = path.display().to_string();
    relmgr_conf::format(&name, text, schema)
        .map_err(|faults| refused(&format!("{name} cannot be read, so it is left as it is:"), &faults))
}

/// The node's own files that are there.
fn the_nodes(home: &Home) -> Result<Vec<PathBuf>, CommandError> {
    let directory = home.app_conf_d();
    let mut files = vec![home.app_conf()];
    match std::fs::read_dir(&directory) {
        Ok(entries) => files.extend(entries.flatten().map(|entry| entry.path()).filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.ends_with(".conf") && !name.starts_with('.')
        })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            let words = format!("{} cannot be read", directory.display());
            return Err(CommandError::new(Kind::Failed, words).because(&error));
        }
    }
    files.retain(|path| path.exists());
    files.sort();
    Ok(files)
}

//! `cargo relmgr conf new`

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use relmgr_conf::{KeySpec, Value, documented};
use serde_json::json;

use super::source::{RELEASES, SourceArgs};
use crate::error::Error;
use crate::ui;

/// Write an app.conf that explains every key of a release
///
/// Each key stands there with its documentation and its default, commented out: the file sets nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{RELEASES}\n\n{EXAMPLES}"))]
pub(super) struct Args {
    /// The release (default: the crate in this directory)
    #[arg(long, value_name = "RELEASE")]
    release: Option<String>,
    /// Write it here instead of to stdout; an existing file stays as it is
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print the keys as JSON
    #[arg(long, conflicts_with = "out")]
    json: bool,
    #[command(flatten)]
    source: SourceArgs,
}

const EXAMPLES: &str = "\
Examples:
  cargo relmgr conf new --out deploy/app.conf
  cargo relmgr conf new --json | jq -r '.keys[] | select(.required) | .key'";

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    let release = args.source.find(args.release.as_deref())?;
    let schema = release.keys();
    if args.json {
        let keys: Vec<_> = schema.keys().map(|(key, spec)| to_json(&key, spec)).collect();
        return ui::print_json(&json!({ "release": release.name, "keys": keys }));
    }
    let text = documented(&schema);
    let Some(path) = &args.out else { return ui::print(text.trim_end()) };
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => Error::Exists { path: path.clone() },
        _ => Error::Write { path: path.clone(), source },
    })?;
    ui::status("Wrote", format!("{}, for {}", path.display(), release.name));
    Ok(())
}

fn to_json(key: &str, spec: &KeySpec) -> serde_json::Value {
    json!({
        "key": key,
        "type": spec.ty.name(),
        "expected": spec.ty.describe(),
        "default": spec.default.as_ref().map(Value::to_json),
        "example": spec.example.as_ref().map(Value::to_json),
        "doc": spec.doc,
        "env": spec.env,
        "required": spec.required,
        "secret": spec.secret,
        "restart": spec.restart,
        "was": spec.was,
        "deprecated": spec.deprecated,
    })
}

//! `cargo relmgr conf check`

use std::path::PathBuf;

use relmgr_conf::{Sources, check};
use serde_json::json;

use super::source::{RELEASES, SourceArgs};
use crate::error::Error;
use crate::ui;

/// Check an app.conf against a release's schema
///
/// Files that it includes and those in its directory of the same name with `.d` are read, too. Variables and files
/// that values refer to are left to the node. A mistake is named with file, line and column; all are reported.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{RELEASES}\n\n{EXAMPLES}"))]
pub(super) struct Args {
    /// The operator's file
    #[arg(default_value = "app.conf")]
    file: PathBuf,
    /// The release (default: the crate in this directory)
    #[arg(long, value_name = "RELEASE")]
    release: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: SourceArgs,
}

const EXAMPLES: &str = "\
Examples:
  cargo relmgr conf check deploy/app.conf
  cargo relmgr conf check deploy/app.conf --release target/relmgr
  cargo relmgr conf check deploy/app.conf --release 2026.1120.192733 \\
      --repository file:///srv/packages";

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    // A file that is not there is a node's right, and here a slip.
    std::fs::metadata(&args.file).map_err(|source| Error::Read { path: args.file.clone(), source })?;
    let release = args.source.find(args.release.as_deref())?;
    let mut directory = args.file.clone().into_os_string();
    directory.push(".d");
    let name = release.name.clone();
    let checked = check(&Sources::new(release.schema, &args.file, directory));
    let (faults, warnings) = match &checked {
        Ok(warnings) => (None, warnings.as_slice()),
        Err(faults) => (Some(faults), [].as_slice()),
    };
    if args.json {
        ui::print_json(&json!({
            "file": args.file,
            "release": name,
            "ok": faults.is_none(),
            "faults": faults.map_or(json!([]), |faults| json!(faults)),
            "warnings": warnings,
        }))?;
    } else {
        warnings.iter().for_each(ui::warning);
    }
    match checked {
        Ok(_) => {
            ui::status("Checked", format!("{} fits {name}", args.file.display()));
            Ok(())
        }
        Err(source) => Err(Error::Configuration { file: args.file.clone(), release: name, source }),
    }
}

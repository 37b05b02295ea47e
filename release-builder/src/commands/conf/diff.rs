//! `cargo relmgr conf diff`

use relmgr_conf::SchemaDiff;
use serde_json::json;

use super::source::{RELEASES, SourceArgs};
use crate::error::Error;
use crate::ui;

/// Show what a release changes for operators: new, dropped, renamed and retyped keys
///
/// What is required and was not has to be set before the upgrade. A line begins with `+` for a key that is new, `-`
/// for one that is gone, `~` for one that is different.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{RELEASES}\n\n{EXAMPLES}"))]
pub(super) struct Args {
    /// The release before (default: what the repository's channel names)
    #[arg(value_name = "FROM")]
    from: Option<String>,
    /// The release after it (default: the crate in this directory)
    #[arg(value_name = "TO")]
    to: Option<String>,
    /// The channel (default: the file VERSION)
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    channel: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: SourceArgs,
}

const EXAMPLES: &str = "\
Examples:
  cargo relmgr conf diff --repository file:///srv/packages
  cargo relmgr conf diff 2026.1119.80112 2026.1120.192733
  cargo relmgr conf diff target/relmgr .";

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    let from = match &args.from {
        Some(name) => args.source.find(Some(name))?,
        None => args.source.of_channel(&args.channel)?,
    };
    let to = args.source.find(args.to.as_deref())?;
    let diff = SchemaDiff::between(&from.keys(), &to.keys());
    if args.json {
        return ui::print_json(&json!({ "from": from.name, "to": to.name, "diff": diff }));
    }
    ui::status("Compared", format!("{} -> {}", from.name, to.name));
    match diff.is_empty() {
        true => ui::print("no difference"),
        false => ui::print(diff.to_string().trim_end()),
    }
}

//! `relmgr conf check`

use std::path::PathBuf;

use relmgr_conf::{Fault, Faults};
use relmgr_model::Version;
use relmgr_model::conf::EffectiveConf;
use relmgr_model::home::Home;
use serde::Serialize;

use super::target::{Target, refused, sources};
use crate::cli::client::Client;
use crate::cli::error::{CommandError, Kind};
use crate::cli::output::{self, Format};

/// Check app.conf and app.conf.d against a release's schema
///
/// A node that runs is asked to try the files in its own environment; otherwise, and for FILE, the variables and
/// files that values refer to are not looked at.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file to check in the place of app.conf
    file: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    format: Format,
}

/// What a check came to.
#[derive(Debug, Serialize)]
struct Report<'a> {
    ok: bool,
    release: &'a Version,
    /// Whether variables and files that values refer to were looked at.
    resolved: bool,
    faults: Vec<Fault>,
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(super) async fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    let release = args.target.need(home)?;
    let mut sources = sources(home, &release)?;
    if let Some(file) = &args.file {
        if !file.exists() {
            return Err(CommandError::new(Kind::Failed, format!("{} does not exist", file.display())));
        }
        sources.app_conf.clone_from(file);
    }
    let checked = relmgr_conf::check(&sources);
    let on_node = match (&checked, &args.file) {
        (Ok(_), None) => try_on_node(home, &release).await?,
        _ => None,
    };
    let failed = refusal(&release, &checked, on_node.as_ref());
    let report = Report {
        ok: failed.is_none(),
        release: &release,
        resolved: on_node.is_some(),
        faults: checked.clone().err().into_iter().flatten().collect(),
        warnings: checked.iter().flatten().map(ToString::to_string).collect(),
        error: on_node.as_ref().and_then(|result| Some(result.as_ref().err()?.message().to_owned())),
    };
    if args.format.json {
        output::print_json(&report)?;
    }
    if let Some(error) = failed {
        return Err(error);
    }
    if args.format.json {
        return Ok(());
    }
    let mut text: String = report.warnings.iter().map(|warning| format!("warning: {warning}\n\n")).collect();
    text.push_str(&format!("the configuration fits {release}\n"));
    if !report.resolved {
        text.push_str("variables and files that values refer to were not looked at\n");
    }
    output::print(&text)
}

fn refusal(
    release: &Version,
    checked: &Result<Vec<Fault>, Faults>,
    on_node: Option<&Result<EffectiveConf, CommandError>>,
) -> Option<CommandError> {
    match (checked, on_node) {
        (Err(faults), _) => Some(refused(&format!("the configuration does not fit {release}:"), faults)),
        (Ok(_), Some(Err(error))) => Some(error.clone()),
        (Ok(_), _) => None,
    }
}

/// What the node makes of it; `None`: it does not run.
async fn try_on_node(
    home: &Home,
    release: &Version,
) -> Result<Option<Result<EffectiveConf, CommandError>>, CommandError> {
    let mut client = match Client::connect(home).await {
        Ok(client) => client,
        Err(error) if error.is_not_running() => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(client.get(&format!("/v1/conf/effective?release={release}")).await))
}

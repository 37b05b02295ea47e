//! `relmgr releases`

use relmgr_model::control::{ReleaseList, ReleaseStatus};
use relmgr_model::home::Home;

use super::client::Client;
use super::error::CommandError;
use super::output::{self, Format};

/// List the installed releases, newest first
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    format: Format,
}

pub(super) async fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    let list: ReleaseList = Client::connect(home).await?.get("/v1/releases").await?;
    if args.format.json {
        return output::print_json(&list);
    }
    if list.releases.is_empty() {
        return output::print("no release is installed: `relmgr upgrade` installs the channel's\n");
    }
    let rows: Vec<_> = list.releases.iter().map(row).collect();
    output::print(&output::table(&["VERSION", "STATUS", "INSTALLED", ""], &rows))
}

fn row(release: &ReleaseStatus) -> Vec<String> {
    let status = if release.prev { format!("{}, prev", release.status) } else { release.status.clone() };
    let installed = release.installed_at.format("%Y-%m-%d %H:%M:%S UTC").to_string();
    let reason = release.reason.as_deref().and_then(|reason| reason.lines().next()).unwrap_or("");
    vec![release.version.to_string(), status, installed, reason.into()]
}

//! `relmgr version`

use relmgr_abi::{ABI_MAJOR, ABI_MINOR};
use relmgr_model::Version;
use relmgr_model::control::NodeStatus;
use relmgr_model::home::Home;
use serde::Serialize;

use super::client::Client;
use super::error::CommandError;
use super::output::{self, Format, or_dash};

/// Print the version of relmgr and, where the node runs, of the release that serves
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Versions {
    relmgr: &'static str,
    /// The contract with libraries.
    abi: String,
    /// The application, where the node runs.
    app: Option<String>,
    current: Option<Version>,
}

pub(super) async fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    // Without a node there is still a version to print.
    let status: Option<NodeStatus> = match Client::connect(home).await {
        Ok(mut client) => Some(client.get("/v1/status").await?),
        Err(_) => None,
    };
    let versions = Versions {
        relmgr: crate::VERSION,
        abi: format!("{ABI_MAJOR}.{ABI_MINOR}"),
        app: status.as_ref().map(|status| status.app.clone()),
        current: status.and_then(|status| status.current).map(|current| current.version),
    };
    if args.format.json {
        return output::print_json(&versions);
    }
    let mut text = format!("relmgr {} (contract {})\n", versions.relmgr, versions.abi);
    if let Some(app) = &versions.app {
        text += &format!("{app} {}\n", or_dash(versions.current.as_ref()));
    }
    output::print(&text)
}

//! `relmgr stop`

use relmgr_model::control::Pong;
use relmgr_model::home::Home;

use super::client::Client;
use super::error::CommandError;
use super::output::{self, Format};

/// Stop the node gracefully and wait until it has ended
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    format: Format,
}

pub(super) async fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    let mut client = Client::connect(home).await?;
    let pong: Pong = client.post("/v1/stop").await?;
    client.closed().await;
    if args.format.json {
        return output::print_json(&pong);
    }
    output::print(&format!("{} has stopped (supervisor {})\n", pong.app, pong.supervisor_pid))
}

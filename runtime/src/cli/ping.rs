//! `relmgr ping`

use std::time::Instant;

use relmgr_model::control::Pong;
use relmgr_model::home::Home;

use super::client::Client;
use super::error::CommandError;
use super::output::{self, Format};

/// Ask whether the node runs
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    format: Format,
}

pub(super) async fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    let begin = Instant::now();
    let pong: Pong = Client::connect(home).await?.get("/v1/ping").await?;
    if args.format.json {
        return output::print_json(&pong);
    }
    let Pong { app, supervisor_pid, relmgr } = pong;
    let took = output::millis(begin.elapsed().as_secs_f64() * 1000.0);
    output::print(&format!("{app} answers in {took} (supervisor {supervisor_pid}, relmgr {relmgr})\n"))
}

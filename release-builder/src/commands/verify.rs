//! `cargo relmgr verify`

use serde_json::json;

use super::{RepositoryArgs, block_on};
use crate::error::Error;
use crate::ui;

/// Check every digest and signature in a repository
///
/// Reads every package and delta and compares it with its manifest, and every channel with what it names. With
/// --trusted-key every release and channel has to be signed by one of these keys.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo relmgr verify --repository file:///srv/packages
  cargo relmgr verify --trusted-key RWQ… --trusted-key RWR…
  cargo relmgr verify --json | jq '.findings[] | select(.fault)'

Exit codes: 0 all is well, 1 something is not.")]
pub(super) struct Args {
    #[command(flatten)]
    repository: RepositoryArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    let repository = args.repository.open()?;
    let findings = block_on(async {
        let tell = |finding: &relmgr_store::repository::Finding| match &finding.fault {
            None => ui::status("Verified", &finding.what),
            Some(fault) => ui::fault("error", format!("{}: {fault}", finding.what)),
        };
        Ok(repository.verify(tell).await?)
    })?;
    let faults = findings.iter().filter(|finding| finding.fault.is_some()).count();
    if args.json {
        let findings: Vec<_> =
            findings.iter().map(|finding| json!({"what": finding.what, "fault": finding.fault})).collect();
        ui::print_json(&json!({"repository": repository.url(), "findings": findings, "faults": faults}))?;
    }
    match faults {
        0 => Ok(()),
        faults => Err(Error::NotVerified { faults, url: repository.url().into() }),
    }
}

//! `relmgr conf unset`

use relmgr_conf::Key;
use relmgr_model::home::Home;

use super::file;
use super::target::{Target, refused, schema};
use crate::cli::error::CommandError;
use crate::cli::output;

/// Take a key out of app.conf; comments stay
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The key, such as poll.title
    key: Key,
}

pub(super) fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    let key = args.key;
    let path = home.app_conf();
    // The schema says only which lines a fault may quote.
    let release = Target { release: None }.find(home)?;
    let schema = release.and_then(|release| schema(home, &release).ok().flatten());
    let name = path.display().to_string();
    let changed = file::change(&path, |text| {
        relmgr_conf::unset(&name, text, &key, schema.as_ref())
            .map_err(|faults| refused(&format!("{name} cannot be read, so it is left as it is:"), &faults))
    })?;
    if !changed {
        output::note(&format!("{key} is not set in {name}"));
    }
    Ok(())
}

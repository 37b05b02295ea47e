//! `relmgr conf get`

use relmgr_conf::Key;
use relmgr_model::home::Home;

use super::file;
use super::target::{Target, refused, schema};
use crate::cli::error::{CommandError, Kind};
use crate::cli::output;

/// Print what app.conf sets a key to, as it is written there
///
/// Exits with 1 where app.conf does not set it; `relmgr conf effective` prints what applies then.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The key, such as poll.title
    key: Key,
    #[command(flatten)]
    target: Target,
}

pub(super) fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    let Args { key, target } = args;
    let path = home.app_conf();
    let schema = match target.find(home)? {
        Some(release) => schema(home, &release)?,
        None => None,
    };
    let text = file::read(&path)?.unwrap_or_default();
    let name = path.display().to_string();
    let found = relmgr_conf::get(&name, &text, &key, schema.as_ref());
    match found.map_err(|faults| refused(&format!("{name} cannot be read:"), &faults))? {
        Some(value) => output::print(&format!("{value}\n")),
        None => Err(CommandError::new(Kind::Failed, format!("{key} is not set in {name}"))
            .hint("`relmgr conf effective --show-origin` prints every value that applies")),
    }
}

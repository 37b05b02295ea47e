//! `relmgr conf set`

use std::io::Read;

use relmgr_conf::{Key, Origin};
use relmgr_model::home::Home;

use super::file;
use super::target::{Target, refused, schema, sources};
use crate::cli::error::{CommandError, Kind};
use crate::cli::output;

/// A value on stdin is no longer than a file that holds one.
const STDIN_BYTES: u64 = 1024 * 1024;

/// Set a key in app.conf; everything else stays as it is
///
/// The value is checked against the schema first, and a wrong one changes nothing. A node that runs applies it as
/// soon as it is written.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The key, such as poll.title
    key: Key,
    /// The value as it would stand in the file; quotes are added where it needs them. `-`: read it from stdin, so
    /// that a secret is in no list of processes
    #[arg(allow_hyphen_values = true)]
    value: String,
    #[command(flatten)]
    target: Target,
}

pub(super) fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    let Args { key, value, target } = args;
    let value = if value == "-" { from_stdin()? } else { value };
    let path = home.app_conf();
    let release = target.find(home)?;
    let schema = match &release {
        Some(release) => schema(home, release)?,
        None => {
            output::note("no release is installed: nothing says whether the key exists and the value fits");
            None
        }
    };
    let name = path.display().to_string();
    let changed = file::change(&path, |text| {
        relmgr_conf::set(&name, text, &key, &value, schema.as_ref())
            .map(Some)
            .map_err(|faults| refused(&format!("{key} is not set, {name} is as it was:"), &faults))
    })?;
    if !changed {
        output::note("it is set so already");
    }
    // Said where it can be seen from here; the node's own environment may hide it as well.
    if let Some(sources) = release.and_then(|release| sources(home, &release).ok())
        && let Ok(effective) = relmgr_conf::effective(&sources)
        && let Some(entry) = effective.get(&key)
        && !matches!(&entry.origin, Origin::File(place) if place.file == name)
    {
        output::note(&format!("it has no effect: {} wins over {name}", entry.origin));
    }
    Ok(())
}

fn from_stdin() -> Result<String, CommandError> {
    let mut text = String::new();
    let read = std::io::stdin().take(STDIN_BYTES).read_to_string(&mut text);
    read.map_err(|error| {
        CommandError::new(Kind::Failed, "the value on stdin cannot be read").because(&error)
    })?;
    // The newline that `echo` puts at its end is no part of a value.
    Ok(text.strip_suffix('\n').map(ToOwned::to_owned).unwrap_or(text))
}

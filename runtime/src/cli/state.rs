//! `relmgr state`

use std::path::{Path, PathBuf};

use relmgr_model::home::Home;
use relmgr_model::recording::{Loaded, Recording, RecordingRequest};

use super::client::Client;
use super::error::{CommandError, Kind};
use super::output::{self, Format};

/// Record what the application keeps, or give it to the release that serves
///
/// A recording is a directory with the state in memory and a copy of the state tables: what an upgrade would hand over.
/// `cargo relmgr rehearse --state DIR` tries a new release on it. It holds everything that the application knows, so
/// it is for root and the node's user, and so are these commands.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a recording, while serving
    ///
    /// Requests wait while the state in memory is written, as in an upgrade; the tables are copied after it, as they
    /// are at one moment, and nobody waits for that.
    Save {
        /// A directory that is not there yet; the node's user must be able to make it
        directory: PathBuf,
        #[command(flatten)]
        format: Format,
    },
    /// Give the release that serves the state in memory of a recording, in the place of its own
    ///
    /// Also one of an older schema version that the release takes over from. Tables are not touched: a recording's are
    /// put into the home's tables/ before the node starts, with tables.durability = "disk".
    Load {
        /// The recording
        directory: PathBuf,
        #[command(flatten)]
        format: Format,
    },
}

pub(super) async fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    match args.command {
        Command::Save { directory, format } => {
            let recording: Recording = ask(home, "save", &directory).await?;
            if format.json { output::print_json(&recording) } else { output::print(&text(&recording)) }
        }
        Command::Load { directory, format } => {
            let loaded: Loaded = ask(home, "load", &directory).await?;
            let Loaded { version, schema, bytes } = &loaded;
            match format.json {
                true => output::print_json(&loaded),
                false => output::print(&format!(
                    "{version} goes on with the recorded state of schema {schema}, {bytes} bytes\n"
                )),
            }
        }
    }
}

async fn ask<T: serde::de::DeserializeOwned>(
    home: &Home,
    what: &str,
    directory: &Path,
) -> Result<T, CommandError> {
    // The node has another working directory.
    let directory = std::path::absolute(directory).map_err(|error| {
        CommandError::new(Kind::Failed, format!("{} is no path", directory.display())).because(&error)
    })?;
    let request = RecordingRequest { directory };
    Client::connect(home).await?.post_with(&format!("/v1/state/{what}"), &request).await
}

fn text(recording: &Recording) -> String {
    let Recording { version, memory, tables, .. } = recording;
    let mut text = format!("recorded {version}\n");
    let row = |what: &str, schema: u32, held: String| {
        vec![String::new(), what.to_owned(), schema.to_string(), held]
    };
    let mut rows = vec![];
    rows.extend(memory.iter().map(|memory| row("in memory", memory.schema, output::size(memory.bytes))));
    for table in tables.iter().flatten() {
        let held = match table.kept_aside {
            0 => format!("{} records", table.records),
            aside => format!("{} records, {aside} kept aside", table.records),
        };
        rows.push(row(&format!("table {}", table.name), table.schema, held));
    }
    match rows.is_empty() {
        true => text.push_str("  the release keeps nothing\n"),
        false => text.push_str(&output::table(&["", "WHAT", "SCHEMA", "HOLDS"], &rows)),
    }
    text
}

//! `relmgr conf diff`

use relmgr_conf::{Schema, SchemaDiff};
use relmgr_model::Version;
use relmgr_model::conf::{ConfDifference, ConfDifferences};
use relmgr_model::home::Home;

use super::target::{Target, installed, schema};
use crate::cli::client::Client;
use crate::cli::error::CommandError;
use crate::cli::output::{self, Format};

/// Compare what runs with the files, or the schemas of two releases
///
/// Without a VERSION: what `relmgr reload` or `relmgr restart` would change. With one: what that release's schema
/// adds, drops, renames and retypes against the release that serves. With two: the second against the first.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Installed releases
    #[arg(num_args = 0..=2, value_name = "VERSION")]
    releases: Vec<Version>,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    let (from, to) = match args.releases.as_slice() {
        [] => return running(home, args.format).await,
        [to] => (Target { release: None }.need(home)?, installed(home, to)?),
        [from, to, ..] => (installed(home, from)?, installed(home, to)?),
    };
    // A release without a schema has no keys.
    let read = |version| Ok::<_, CommandError>(schema(home, version)?.or_else(|| Schema::parse("").ok()));
    let diff = match (read(&from)?, read(&to)?) {
        (Some(old), Some(new)) => SchemaDiff::between(&old, &new),
        _ => SchemaDiff::default(),
    };
    if args.format.json {
        return output::print_json(&diff);
    }
    if diff.is_empty() {
        return output::print(&format!("{from} and {to} have the same keys\n"));
    }
    output::print(&diff.to_string())
}

async fn running(home: &Home, format: Format) -> Result<(), CommandError> {
    let differences: ConfDifferences = Client::connect(home).await?.get("/v1/conf/diff").await?;
    if format.json {
        return output::print_json(&differences);
    }
    if differences.keys.is_empty() {
        return output::print("nothing is different from what runs\n");
    }
    output::print(&differences.keys.iter().map(line).collect::<String>())
}

fn line(difference: &ConfDifference) -> String {
    let ConfDifference { key, running, file, restart, origin } = difference;
    let change = match (running, file) {
        (Some(running), Some(file)) => format!("~ {key}: {running} -> {file}"),
        (None, Some(file)) => format!("+ {key}: {file}"),
        (Some(running), None) => format!("- {key}: {running}"),
        (None, None) => format!("~ {key}"),
    };
    let origin = origin.as_ref().map(|origin| format!("  # {origin}")).unwrap_or_default();
    let restart = if *restart { "  (waits for a restart)" } else { "" };
    format!("{change}{restart}{origin}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_key() {
        let difference = |running: Option<&str>, file: Option<&str>, restart| ConfDifference {
            key: "a.b".into(),
            running: running.map(Into::into),
            file: file.map(Into::into),
            restart,
            origin: file.map(|_| "app.conf:3:1".into()),
        };
        assert_eq!(line(&difference(Some("1"), Some("2"), false)), "~ a.b: 1 -> 2  # app.conf:3:1\n");
        assert_eq!(
            line(&difference(None, Some("2"), true)),
            "+ a.b: 2  (waits for a restart)  # app.conf:3:1\n"
        );
        assert_eq!(line(&difference(Some("1"), None, false)), "- a.b: 1\n");
    }
}

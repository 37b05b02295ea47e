//! `relmgr history`

use relmgr_model::control::Outcome;
use relmgr_model::home::Home;
use relmgr_model::record::HistoryEntry;
use relmgr_store::journal;

use super::error::{CommandError, Kind};
use super::output::{self, Format, or_dash};

/// List the operations that ended, newest last
///
/// Reads the node's history.jsonl, so it also answers when the node does not run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many operations; 0: all
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
    last: usize,
    #[command(flatten)]
    format: Format,
}

pub(super) fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    if !home.settings().exists() && !home.history().exists() {
        let words = format!("{} is not a node's home: it has no relmgr.toml", home.path().display());
        return Err(
            CommandError::new(Kind::NotRunning, words).hint("name the home with `--home DIR` or RELMGR_HOME")
        );
    }
    let entries = journal::read_history(home)
        .map_err(|error| CommandError::new(Kind::Failed, "the history cannot be read").because(&error))?;
    let surplus = if args.last == 0 { 0 } else { entries.len().saturating_sub(args.last) };
    let entries = &entries[surplus..];
    if args.format.json {
        return output::print_json(&entries);
    }
    if entries.is_empty() {
        return output::print("nothing has happened yet\n");
    }
    let rows: Vec<_> = entries.iter().map(row).collect();
    output::print(&output::table(&["AT", "BY", "WHAT", "FROM", "TO", "OUTCOME", "TOOK", ""], &rows))
}

fn row(entry: &HistoryEntry) -> Vec<String> {
    let by = entry.uid.map_or_else(|| "the node".into(), user);
    let error = entry.error.as_deref().and_then(|error| error.lines().next()).unwrap_or("");
    vec![
        entry.at.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
        by,
        entry.kind.name().into(),
        or_dash(entry.from.as_ref()),
        or_dash(entry.to.as_ref()),
        outcome(entry.outcome).into(),
        output::millis(entry.ms),
        error.into(),
    ]
}

/// A user's name where the system knows it.
fn user(uid: u32) -> String {
    let known = nix::unistd::User::from_uid(uid.into()).ok().flatten();
    known.map_or_else(|| format!("uid {uid}"), |user| user.name)
}

/// An outcome's words.
pub(super) fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "done",
        Outcome::AlreadyDone => "already done",
        Outcome::Failed => "failed",
        Outcome::RolledBack => "rolled back",
        Outcome::Interrupted => "interrupted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relmgr_model::control::Kind as Operation;

    #[test]
    fn a_row_says_who_what_and_how() {
        let entry = HistoryEntry {
            at: "2026-11-20T19:27:33Z".parse().unwrap(),
            kind: Operation::Upgrade,
            uid: None,
            from: None,
            to: Some("1.2.3".parse().unwrap()),
            outcome: Outcome::Failed,
            error: Some("2 faults\napp.conf:1:1: no".into()),
            ms: 12.34,
            steps: vec![],
        };
        let expected =
            ["2026-11-20 19:27:33 UTC", "the node", "upgrade", "-", "1.2.3", "failed", "12.3 ms", "2 faults"];
        assert_eq!(row(&entry), expected);
    }
}

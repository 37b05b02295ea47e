//! `relmgr history`

use std::fmt::Write;
use std::num::NonZeroUsize;

use relmgr_model::control::{Outcome, RelmgrChange};
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
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show all that is known of one operation: why it ended so, its steps, a dead host's last words
    Show {
        /// Which, counted from the newest, which is 1
        #[arg(value_name = "N", default_value = "1")]
        number: NonZeroUsize,
        #[command(flatten)]
        format: Format,
    },
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
    if let Some(Command::Show { number, format }) = args.command {
        return show(&entries, number, format);
    }
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

fn show(entries: &[HistoryEntry], number: NonZeroUsize, format: Format) -> Result<(), CommandError> {
    let Some(entry) = entries.iter().rev().nth(number.get() - 1) else {
        let words = format!("the history has {} operations, not {number}", entries.len());
        return Err(CommandError::new(Kind::Failed, words).hint("`relmgr history -n 0` lists them"));
    };
    if format.json { output::print_json(entry) } else { output::print(&whole(entry)) }
}

/// All that is known of an operation.
fn whole(entry: &HistoryEntry) -> String {
    let mut text = String::new();
    // Writing to a `String` cannot fail.
    let mut line = |name: &str, words: &str| {
        let _ = writeln!(text, "{name:<11} {}", words.replace('\n', "\n            "));
    };
    line("what", &format!("{}, asked for by {}", entry.kind.name(), by(entry)));
    line("ended", &entry.at.format("%Y-%m-%d %H:%M:%S UTC").to_string());
    line("from", &or_dash(entry.from.as_ref()));
    line("to", &or_dash(entry.to.as_ref()));
    if let Some(RelmgrChange { from, to }) = &entry.relmgr {
        line("relmgr", &format!("{from} -> {to}"));
    }
    line("outcome", &format!("{}, after {}", outcome(entry.outcome), output::millis(entry.ms)));
    for words in entry.error.iter().chain(&entry.verdict) {
        line("because", words);
    }
    for step in &entry.steps {
        line("step", &format!("{:<11} {:>9}", step.step.name(), output::millis(step.ms)));
    }
    if !entry.last_words.is_empty() {
        line("last words", &entry.last_words.join("\n"));
    }
    text
}

fn by(entry: &HistoryEntry) -> String {
    match (entry.by, entry.uid) {
        (Some(agent), _) => agent.name().into(),
        (None, uid) => uid.map_or_else(|| "the node".into(), user),
    }
}

fn row(entry: &HistoryEntry) -> Vec<String> {
    let words = entry.error.as_deref().or(entry.verdict.as_deref());
    let words = words.and_then(|words| words.lines().next()).map(str::to_owned);
    let relmgr = entry.relmgr.as_ref().map(|RelmgrChange { from, to }| format!("relmgr {from} -> {to}"));
    vec![
        entry.at.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
        by(entry),
        entry.kind.name().into(),
        or_dash(entry.from.as_ref()),
        or_dash(entry.to.as_ref()),
        outcome(entry.outcome).into(),
        output::millis(entry.ms),
        words.or(relmgr).unwrap_or_default(),
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
    use relmgr_model::control::{Kind as Operation, StepTime};
    use relmgr_model::plan::Step;

    #[test]
    fn a_row_says_who_what_and_how() {
        let entry = HistoryEntry {
            at: "2026-11-20T19:27:33Z".parse().unwrap(),
            kind: Operation::Upgrade,
            uid: None,
            by: None,
            from: None,
            to: Some("1.2.3".parse().unwrap()),
            outcome: Outcome::Failed,
            error: Some("2 faults\napp.conf:1:1: no".into()),
            verdict: None,
            relmgr: None,
            last_words: vec![],
            ms: 12.34,
            steps: vec![],
        };
        let expected =
            ["2026-11-20 19:27:33 UTC", "the node", "upgrade", "-", "1.2.3", "failed", "12.3 ms", "2 faults"];
        assert_eq!(row(&entry), expected);
    }

    #[test]
    fn one_operation_is_shown_with_the_last_words_of_its_host() {
        let version = |text: &str| Some(text.parse().unwrap());
        let entry = HistoryEntry {
            at: "2026-11-20T19:27:33Z".parse().unwrap(),
            kind: Operation::Upgrade,
            uid: None,
            by: None,
            from: version("1.2.2"),
            to: version("1.2.3"),
            outcome: Outcome::RolledBack,
            error: Some(
                "1.2.3 was rolled back: the host died of signal 6 SIGABRT 2.3 s after the swap".into(),
            ),
            verdict: None,
            relmgr: None,
            last_words: vec!["thread 'host' has overflowed its stack".into(), "fatal: stack overflow".into()],
            ms: 2345.0,
            steps: vec![
                StepTime { step: Step::Swap, ms: 0.25 },
                StepTime { step: Step::Probation, ms: 2300.0 },
            ],
        };
        insta::assert_snapshot!(whole(&entry));
    }
}

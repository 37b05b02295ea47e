//! `relmgr pull`

use chrono::{DateTime, Utc};
use relmgr_model::control::NodeStatus;
use relmgr_model::home::Home;
use relmgr_model::pull::{Checked, Outcome, PullLine, PullStatus};

use super::client::Client;
use super::error::{CommandError, Kind};
use super::output::{self, Format, Steps, moment, or_dash};

/// Follow the channel: ask it now, stop asking, go on, or show how it went
///
/// When the node asks by itself stands in relmgr.toml, [pull].
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Ask the channel now, and do what the node would do by itself
    ///
    /// Waves, windows, and what was held or failed count as always: only the time is another one. `relmgr upgrade` goes
    /// past all of them.
    Now {
        #[command(flatten)]
        format: Format,
    },
    /// Stop following the channel, also over restarts of the node
    ///
    /// An upgrade that is under way goes on.
    Pause {
        #[command(flatten)]
        format: Format,
    },
    /// Go on following the channel, also to what an operator has gone back from
    Resume {
        #[command(flatten)]
        format: Format,
    },
    /// Show when the node asks next and how it went last
    Status {
        #[command(flatten)]
        format: Format,
    },
}

pub(super) async fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    match args.command {
        Command::Now { format } => now(home, format).await,
        Command::Pause { format } => {
            let status: PullStatus = Client::connect(home).await?.post("/v1/pull/pause").await?;
            show(Some(&status), format)
        }
        Command::Resume { format } => {
            let status: PullStatus = Client::connect(home).await?.post("/v1/pull/resume").await?;
            show(Some(&status), format)
        }
        Command::Status { format } => {
            let status: NodeStatus = Client::connect(home).await?.get("/v1/status").await?;
            show(status.pull.as_ref(), format)
        }
    }
}

fn show(status: Option<&PullStatus>, format: Format) -> Result<(), CommandError> {
    match (status, format.json) {
        (status, true) => output::print_json(&status),
        (Some(status), false) => output::print(&text(status, Utc::now())),
        (None, false) => output::print(
            "the node does not follow its channel: `interval` or `at_boot` of [pull] in relmgr.toml has it do so\n",
        ),
    }
}

async fn now(home: &Home, format: Format) -> Result<(), CommandError> {
    let mut lines = Client::connect(home).await?.post_lines("/v1/pull/now", &()).await?;
    let mut steps = Steps::new();
    while let Some(line) = lines.next::<PullLine>().await? {
        match line {
            PullLine::Progress(progress) => steps.show(&progress),
            PullLine::Checked(checked) => {
                if format.json {
                    output::print_json(&checked)?;
                }
                return conclude(&checked, format);
            }
        }
    }
    Err(CommandError::new(Kind::Failed, "the node went away before the check ended")
        .hint("`relmgr pull status` says how it went"))
}

fn conclude(checked: &Checked, format: Format) -> Result<(), CommandError> {
    if let Some(error) = checked.operation.as_deref().and_then(CommandError::of_operation) {
        return Err(error);
    }
    let failed = |kind| CommandError::new(kind, checked.reason.clone().unwrap_or_else(|| words(checked)));
    match checked.outcome {
        Outcome::Busy => return Err(failed(Kind::Busy)),
        Outcome::Failed | Outcome::Refused | Outcome::Unavailable => return Err(failed(Kind::Failed)),
        Outcome::UpToDate | Outcome::Upgraded | Outcome::WentBack | Outcome::Held => {}
    }
    if format.json { Ok(()) } else { output::print(&format!("{}\n", words(checked))) }
}

/// How a check ended, in one line.
pub(super) fn words(checked: &Checked) -> String {
    let version = or_dash(checked.version.as_ref());
    let reason =
        checked.reason.as_deref().and_then(|reason| reason.lines().next()).unwrap_or("the log says why");
    match checked.outcome {
        Outcome::UpToDate => format!("{version} is what the channel names"),
        Outcome::Upgraded => format!("{version} serves"),
        Outcome::WentBack => format!("{version} serves again, as the channel says"),
        Outcome::Held => format!("{version} waits: {reason}"),
        Outcome::Failed => format!("{version} failed: {reason}"),
        Outcome::Refused => format!("refused: {reason}"),
        Outcome::Unavailable => format!("the channel was not heard: {reason}"),
        Outcome::Busy => format!("{version} waits: {reason}"),
    }
}

fn text(status: &PullStatus, now: DateTime<Utc>) -> String {
    let every = match (status.interval_ms, status.at_boot) {
        (0, true) => "at boot only".into(),
        (0, false) => "when `relmgr pull now` asks for it".into(),
        (ms, at_boot) => {
            let interval = humantime::format_duration(std::time::Duration::from_millis(ms));
            format!("every {interval}{}", if at_boot { ", and at boot" } else { "" })
        }
    };
    let mut text = format!("follows {}, {every}\n", status.channel);
    let mut line = |name: &str, words: &str| text.push_str(&format!("  {name:<11} {words}\n"));
    if let Some(paused) = &status.paused {
        line("paused", &format!("{}, by uid {}: `relmgr pull resume`", moment(paused.at, now), paused.uid));
    }
    if let Some(left) = &status.left {
        let (version, at) = (&left.version, moment(left.at, now));
        line("left", &format!("{version}, {at}, by uid {}: only what is newer is taken", left.uid));
    }
    if let Some(next) = status.next_check_at {
        line("next", &next.format("%Y-%m-%d %H:%M:%S UTC").to_string());
    }
    if let Some(last) = &status.last {
        line("last", &format!("{}: {}", moment(last.at, now), words(last)));
    }
    line("place", &format!("{:.1} of 100, in waves", status.place));
    text
}

/// The line of `relmgr status`.
pub(super) fn line(status: &PullStatus, now: DateTime<Utc>) -> String {
    if let Some(paused) = &status.paused {
        return format!("PAUSED {} by uid {}: `relmgr pull resume`", moment(paused.at, now), paused.uid);
    }
    let last = status.last.as_ref();
    let last = last
        .map_or_else(|| "not asked yet".into(), |last| format!("{}, {}", words(last), moment(last.at, now)));
    match status.next_check_at {
        Some(next) => format!("{last}; next {}", next.format("%H:%M:%S UTC")),
        None => last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relmgr_model::pull::{Left, Paused};

    #[test]
    fn how_a_node_follows_its_channel() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let now = at("2026-11-20T20:00:00Z");
        let mut status = PullStatus {
            channel: "default".into(),
            at_boot: true,
            interval_ms: 300_000,
            place: 45.449,
            paused: None,
            left: Some(Left { version: "1.2.4".parse().unwrap(), at: at("2026-11-20T18:00:00Z"), uid: 0 }),
            next_check_at: Some(at("2026-11-20T20:03:10Z")),
            last: Some(Checked {
                at: at("2026-11-20T19:58:00Z"),
                outcome: Outcome::Held,
                version: Some("1.2.4".parse().unwrap()),
                reason: Some("an operator has left 1.2.4".into()),
                operation: None,
            }),
        };
        let running = format!("{}{}\n", text(&status, now), line(&status, now));
        status.paused = Some(Paused { at: at("2026-11-20T19:59:00Z"), uid: 7 });
        status.next_check_at = None;
        insta::assert_snapshot!(format!("{running}\n{}{}\n", text(&status, now), line(&status, now)));
    }
}

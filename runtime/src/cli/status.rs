//! `relmgr status`

use std::fmt::Write;

use chrono::{DateTime, Utc};
use relmgr_model::children::ChildStatus;
use relmgr_model::conf::ConfStatus;
use relmgr_model::control::{GenerationStatus, NodeStatus, Operation, Phase, TlsStatus};
use relmgr_model::home::Home;

use super::client::Client;
use super::error::CommandError;
use super::history::outcome;
use super::output::{self, Format, moment, or_dash};
use super::tables;

/// Show what serves, what is loaded and how the last operation went
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    format: Format,
}

pub(super) async fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    let status: NodeStatus = Client::connect(home).await?.get("/v1/status").await?;
    if args.format.json {
        return output::print_json(&status);
    }
    output::print(&text(&status, Utc::now()))
}

fn text(status: &NodeStatus, now: DateTime<Utc>) -> String {
    let mut text = format!("{} in {}: {}\n", status.app, status.home.display(), status.phase.name());
    // Writing to a `String` cannot fail.
    let mut line = |name: &str, words: &str| {
        let _ = writeln!(text, "  {name:<11} {words}");
    };
    match &status.current {
        Some(current) => {
            let since = moment(current.since, now);
            line("current", &format!("{} ({}) since {since}", current.version, current.status));
        }
        None if status.permanent.is_some() && status.phase != Phase::Booting => {
            line("current", "none, since the permanent release does not start: `relmgr restart` tries again");
        }
        None if status.permanent.is_some() => line("current", "none yet"),
        None => line("current", "none: `relmgr upgrade` installs the channel's release"),
    }
    line("prev", &or_dash(status.prev.as_ref().map(|prev| &prev.version)));
    if status.permanent.as_ref() != status.current.as_ref().map(|current| &current.version) {
        line("permanent", &or_dash(status.permanent.as_ref()));
    }
    if let Some(ends) = status.probation_ends_at {
        line("probation", &format!("until {}", ends.format("%Y-%m-%d %H:%M:%S UTC")));
    }
    if let Some(channel) = &status.channel {
        let expires = channel.expires.format("%Y-%m-%d %H:%M:%S UTC");
        match channel.expired {
            true => line(
                "channel",
                &format!(
                    "{} EXPIRED at {expires}: no upgrade starts from it; `cargo relmgr channel renew`",
                    channel.name
                ),
            ),
            false => {
                line("channel", &format!("{}, serial {}, until {expires}", channel.name, channel.serial))
            }
        }
    }
    if let Some(pull) = &status.pull {
        line("pull", &super::pull::line(pull, now));
    }
    line("listeners", &status.listeners.join(", "));
    let tcp = status.tcp.iter().map(|listener| format!("{} ({}, TCP)", listener.address, listener.name));
    if !status.tcp.is_empty() {
        line("", &tcp.collect::<Vec<_>>().join(", "));
    }
    if let Some(tls) = &status.tls {
        tls_lines(tls, now, &mut line);
    }
    if let Some(admin) = &status.admin {
        line("admin", &format!("http://{admin}/"));
    }
    // A node of an older relmgr does not say which.
    let relmgr = Some(&status.relmgr).filter(|relmgr| !relmgr.is_empty());
    let relmgr = relmgr.map(|relmgr| format!(", relmgr {relmgr}")).unwrap_or_default();
    let since = moment(status.started_at, now);
    line("supervisor", &format!("{}{relmgr}, since {since}", status.supervisor_pid));
    let host = status.host_pid.map_or_else(|| "none at the moment".into(), |pid| pid.to_string());
    match status.host_restarts {
        0 => line("host", &host),
        1 => line("host", &format!("{host}, started again once after it died")),
        times => line("host", &format!("{host}, started again {times} times after it died")),
    }
    if let Some(open) = status.sessions.as_ref().map(|sessions| sessions.open) {
        let kinds = [
            (open.websocket, "WebSocket"),
            (open.tcp, "TCP"),
            (open.upgraded, "taken over by the application"),
        ];
        let kinds = kinds.iter().filter(|(count, _)| *count > 0);
        let words: Vec<_> = kinds.map(|(count, kind)| format!("{count} {kind}")).collect();
        if !words.is_empty() {
            line("sessions", &words.join(", "));
        }
    }
    if let Some(conf) = &status.conf {
        conf_lines(conf, now, &mut line);
    }
    if let Some(operation) = &status.last_operation {
        line("last", &last(operation));
    }
    text.push_str(&generations(&status.generations));
    text.push_str(&children(&status.generations, now));
    text.push_str(&status.tables.as_ref().map(tables::text).unwrap_or_default());
    text
}

/// What speaks TLS, with which certificates, and what is wrong with their files.
fn tls_lines(tls: &TlsStatus, now: DateTime<Utc>, line: &mut impl FnMut(&str, &str)) {
    line("tls", &tls.listeners.join(", "));
    for certificate in &tls.certificates {
        match certificate.not_after {
            Some(until) => {
                let ended = if until < now { "EXPIRED at" } else { "until" };
                let until = until.format("%Y-%m-%d %H:%M:%S UTC");
                line("", &format!("{} {ended} {until}", certificate.names.join(", ")));
            }
            None => line("", &format!("{} is not served", certificate.file.display())),
        }
        if let Some(error) = &certificate.error {
            line("", &format!("since {}: {}", moment(error.at, now), error.text));
        }
    }
    if let Some(reason) = &tls.unwatched {
        line("", &format!("not watched ({reason}): `relmgr reload` applies changes"));
    }
}

/// The configuration: what is in force, what waits, what is wrong.
fn conf_lines(conf: &ConfStatus, now: DateTime<Utc>, line: &mut impl FnMut(&str, &str)) {
    let hash = conf.hash.get(..12).unwrap_or(&conf.hash);
    line("conf", &format!("{hash} since {}", moment(conf.loaded_at, now)));
    if !conf.pending.is_empty() {
        line("", &format!("waiting for `relmgr restart` or an upgrade: {}", conf.pending.join(", ")));
    }
    if let Some(reason) = &conf.unwatched {
        line("", &format!("not watched ({reason}): `relmgr reload` applies changes"));
    }
    if let Some(error) = &conf.error {
        let text = error.text.replace('\n', "\n              ");
        line("", &format!("refused {}: {text}", moment(error.at, now)));
    }
}

fn last(operation: &Operation) -> String {
    let Operation { kind, from, to, error, .. } = operation;
    let mut words = kind.name().to_owned();
    match (from, to) {
        (Some(from), Some(to)) if from != to => _ = write!(words, " {from} -> {to}"),
        (_, Some(to)) => _ = write!(words, " {to}"),
        _ => {}
    }
    _ = write!(words, ": {}", outcome(operation.outcome));
    if let Some(error) = error.as_ref().or(operation.verdict.as_ref()) {
        _ = write!(words, ": {}", error.replace('\n', "\n              "));
    }
    words
}

fn generations(generations: &[GenerationStatus]) -> String {
    if generations.is_empty() {
        return String::new();
    }
    let head = ["", "GENERATION", "VERSION", "STATE", "IN FLIGHT", "REQUESTS", "PANICS", "THREADS"];
    let row = |generation: &GenerationStatus| {
        let state = generation.state.name().to_owned();
        let numbers = [generation.in_flight, generation.requests, generation.panics, generation.threads];
        let mut cells = vec![String::new(), generation.id.to_string(), generation.version.to_string(), state];
        cells.extend(numbers.map(|number| number.to_string()));
        cells
    };
    let rows: Vec<_> = generations.iter().map(row).collect();
    let mut text = output::table(&head, &rows);
    for generation in generations {
        for reason in &generation.reasons {
            _ = writeln!(text, "  generation {} cannot be unmapped: {reason}", generation.id);
        }
    }
    text
}

/// The background children, as a tree under their generation's supervisor.
fn children(generations: &[GenerationStatus], now: DateTime<Utc>) -> String {
    let mut rows = vec![];
    for generation in generations {
        let Some(top) = &generation.supervisor else { continue };
        rows.push(vec![
            String::new(),
            format!("of generation {}", generation.id),
            top.strategy.name().into(),
            top.state.name().into(),
            "-".into(),
            moment(top.since, now),
            last_exit(top.last_exit.as_deref()),
        ]);
        child_rows(&generation.children, 1, now, &mut rows);
    }
    match rows.is_empty() {
        true => String::new(),
        false => output::table(&["", "CHILD", "TYPE", "STATE", "RESTARTS", "SINCE", "LAST EXIT"], &rows),
    }
}

fn child_rows(children: &[ChildStatus], depth: usize, now: DateTime<Utc>, rows: &mut Vec<Vec<String>>) {
    for child in children {
        let restart = child.restart.name();
        rows.push(vec![
            String::new(),
            format!("{:indent$}{}", "", child.name, indent = 2 * depth),
            child
                .strategy
                .map_or_else(|| restart.into(), |strategy| format!("{restart}, {}", strategy.name())),
            child.state.name().into(),
            child.restarts.to_string(),
            moment(child.since, now),
            last_exit(child.last_exit.as_deref()),
        ]);
        child_rows(&child.children, depth + 1, now, rows);
    }
}

/// On one line: the words may be a panic's.
fn last_exit(words: Option<&str>) -> String {
    words.map_or_else(|| "-".into(), |words| words.lines().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use relmgr_model::children::{ChildState, Kind, Restart, Strategy, SupervisorStatus};
    use relmgr_model::conf::{ConfError, ConfReport};
    use relmgr_model::control::{self, ChannelStatus, CurrentRelease, GenerationState, Outcome, PrevRelease};
    use relmgr_model::sessions::{OpenSessions, SessionCounts, SessionTotals, TcpStatus};
    use relmgr_model::tls::CertificateStatus;

    #[test]
    fn the_node_at_a_glance() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let version = |text: &str| text.parse::<relmgr_model::Version>().unwrap();
        let worker = |name: &str, state, restarts, last_exit: Option<&str>| ChildStatus {
            name: name.into(),
            kind: Kind::Worker,
            restart: Restart::Permanent,
            strategy: None,
            state,
            restarts,
            last_exit: last_exit.map(Into::into),
            since: at("2026-11-20T19:30:00Z"),
            children: vec![],
        };
        let status = NodeStatus {
            app: "live-poll".into(),
            home: "/srv/live-poll".into(),
            phase: Phase::Steady,
            supervisor_pid: 4711,
            relmgr: "0.1.0".into(),
            host_pid: Some(4712),
            started_at: at("2026-11-19T08:00:00Z"),
            host_restarts: 0,
            current: Some(CurrentRelease {
                version: version("2026.1120.192733"),
                status: "permanent".into(),
                since: at("2026-11-20T19:30:00Z"),
            }),
            prev: Some(PrevRelease { version: version("2026.1119.80112") }),
            permanent: Some(version("2026.1120.192733")),
            probation_ends_at: None,
            generations: vec![
                GenerationStatus {
                    id: 1,
                    version: version("2026.1119.80112"),
                    state: GenerationState::Pinned,
                    in_flight: 0,
                    requests: 120_000,
                    panics: 0,
                    threads: 1,
                    reasons: vec!["a thread named `metrics` still runs".into()],
                    supervisor: None,
                    children: vec![],
                },
                GenerationStatus {
                    id: 2,
                    version: version("2026.1120.192733"),
                    state: GenerationState::Current,
                    in_flight: 32,
                    requests: 5_000,
                    panics: 0,
                    threads: 3,
                    reasons: vec![],
                    supervisor: Some(SupervisorStatus {
                        strategy: Strategy::OneForOne,
                        state: ChildState::Running,
                        last_exit: None,
                        since: at("2026-11-20T19:30:00Z"),
                    }),
                    children: vec![
                        worker("closer", ChildState::Running, 0, None),
                        ChildStatus {
                            kind: Kind::Supervisor,
                            strategy: Some(Strategy::RestForOne),
                            children: vec![
                                worker("connection", ChildState::Running, 1, Some("panicked: no\nroute")),
                                worker("sender", ChildState::Starting, 1, Some("ended")),
                            ],
                            ..worker("mail", ChildState::Running, 0, None)
                        },
                    ],
                },
            ],
            listeners: vec!["127.0.0.1:8080".into()],
            tls: Some(TlsStatus {
                listeners: vec!["0.0.0.0:443".into()],
                certificates: vec![
                    CertificateStatus {
                        file: "/etc/poll/fullchain.pem".into(),
                        names: vec!["poll.example".into(), "*.poll.example".into()],
                        not_after: Some(at("2027-02-01T00:00:00Z")),
                        loaded_at: Some(at("2026-11-19T08:00:00Z")),
                        error: Some(ConfError {
                            at: at("2026-11-20T19:58:00Z"),
                            text: "/etc/poll/fullchain.pem: certificate and key do not go together: the certificate \
                                   from before stays"
                                .into(),
                        }),
                    },
                    CertificateStatus {
                        file: "/etc/old/fullchain.pem".into(),
                        names: vec!["old.example".into()],
                        not_after: Some(at("2026-11-01T00:00:00Z")),
                        loaded_at: Some(at("2026-11-19T08:00:00Z")),
                        error: None,
                    },
                ],
                unwatched: None,
            }),
            admin: Some("127.0.0.1:9090".into()),
            tcp: vec![TcpStatus { name: "line".into(), address: "127.0.0.1:7000".into() }],
            sessions: Some(SessionCounts {
                open: OpenSessions { websocket: 12, tcp: 3, upgraded: 1 },
                totals: SessionTotals::default(),
            }),
            last_operation: Some(Operation {
                kind: control::Kind::Upgrade,
                from: Some(version("2026.1119.80112")),
                to: Some(version("2026.1120.192733")),
                outcome: Outcome::Done,
                error: None,
                hint: None,
                verdict: None,
                steps: vec![],
                removed: vec![],
                conf: ConfReport::default(),
                relmgr: None,
            }),
            channel: Some(ChannelStatus {
                name: "default".into(),
                serial: 1_795_188_000,
                expires: at("2026-11-20T18:00:00Z"),
                expired: true,
            }),
            pull: None,
            conf: Some(ConfStatus {
                hash: "5a2c".repeat(16),
                loaded_at: at("2026-11-20T19:55:00Z"),
                pending: vec!["Endpoint.url.port".into(), "Repo.hostname".into()],
                error: Some(ConfError {
                    at: at("2026-11-20T19:58:00Z"),
                    text: "the configuration does not fit 2026.1120.192733:\napp.conf:3:1: no.such: is not a key \
                           of this release"
                        .into(),
                }),
                unwatched: None,
                reloads: 3,
                refused: 1,
            }),
            tables: Some(tables::tests::example()),
        };
        insta::assert_snapshot!(text(&status, at("2026-11-20T20:00:00Z")));
    }
}

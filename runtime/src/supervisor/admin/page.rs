//! The node on a page, for people: plain HTML, no script, nothing to load.

use std::fmt::{Display, Write};
use std::sync::Arc;

use relmgr_model::Version;
use relmgr_model::control::{NodeStatus, ReleaseList};
use relmgr_model::record::HistoryEntry;
use relmgr_store::journal;

use super::super::node::Node;

/// So many of the last operations are shown.
const HISTORY: usize = 10;

const STYLE: &str = "body{font:16px/1.4 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse;margin:.5rem 0 1.5rem}th,td{text-align:left;padding:.2rem 1.2rem .2rem 0;\
border-bottom:1px solid #8884;vertical-align:top}h2{font-size:1.1rem}:root{color-scheme:light dark}";

/// What the page shows.
struct Shown {
    status: NodeStatus,
    releases: ReleaseList,
    running: Option<String>,
    /// Newest first.
    history: Result<Vec<HistoryEntry>, String>,
}

/// The page of `node`.
pub async fn of(node: &Arc<Node>) -> String {
    let home = node.home.clone();
    let read = tokio::task::spawn_blocking(move || journal::read_history(&home)).await;
    let history = match read {
        Ok(Ok(entries)) => Ok(entries.into_iter().rev().take(HISTORY).collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let status = node.status().await;
    html(&Shown {
        status,
        releases: node.releases(),
        running: node.with(|state| state.running.clone()),
        history,
    })
}

fn html(shown: &Shown) -> String {
    let Shown { status, releases, running, history } = shown;
    let app = Escaped(&status.app);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{app}: {phase}</title>\
         <style>{STYLE}</style></head><body>\n<h1>{app}: {phase}</h1>\n",
        phase = status.phase.name()
    );
    facts(&mut page, status, running.as_deref());
    let generations = status.generations.iter().map(|generation| {
        vec![
            generation.id.to_string(),
            generation.version.to_string(),
            generation.state.name().to_owned(),
            generation.in_flight.to_string(),
            generation.requests.to_string(),
            generation.panics.to_string(),
            generation.reasons.join("; "),
        ]
    });
    let head = ["", "release", "state", "in flight", "requests", "panics", ""];
    table(&mut page, "In memory", &head, generations.collect());
    let installed = releases.releases.iter().map(|release| {
        let prev = if release.prev { ", prev" } else { "" };
        vec![
            release.version.to_string(),
            format!("{}{prev}", release.status),
            release.installed_at.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
            release.reason.clone().unwrap_or_default(),
        ]
    });
    table(&mut page, "Installed releases", &["release", "status", "since", ""], installed.collect());
    match history {
        Ok(entries) => {
            let rows = entries.iter().map(told).collect();
            table(&mut page, "Last operations", &["at", "operation", "outcome", "took", ""], rows);
        }
        Err(error) => put(&mut page, format_args!("<p>The history cannot be read: {}</p>\n", Escaped(error))),
    }
    page.push_str(
        "<p><a href=\"/metrics\">metrics</a> · <a href=\"/readyz\">ready?</a></p>\n</body></html>\n",
    );
    page
}

fn facts(page: &mut String, status: &NodeStatus, running: Option<&str>) {
    let or_none = |version: Option<String>| version.unwrap_or_else(|| "none".into());
    let current = status.current.as_ref();
    let current = current.map(|current| {
        let since = current.since.format("%Y-%m-%d %H:%M:%S UTC");
        format!("{} ({}) since {since}", current.version, current.status)
    });
    let mut rows = vec![
        vec!["current".into(), or_none(current)],
        vec!["prev".into(), or_none(status.prev.as_ref().map(|prev| prev.version.to_string()))],
        vec!["permanent".into(), or_none(status.permanent.as_ref().map(ToString::to_string))],
        vec!["under way".into(), running.unwrap_or("nothing").to_owned()],
    ];
    if let Some(ends) = status.probation_ends_at {
        rows.push(vec!["probation".into(), format!("until {}", ends.format("%Y-%m-%d %H:%M:%S UTC"))]);
    }
    let host = or_none(status.host_pid.map(|pid| pid.to_string()));
    rows.push(vec!["host".into(), format!("{host}, started again {} times", status.host_restarts)]);
    if let Some(conf) = &status.conf {
        let hash = conf.hash.get(..12).unwrap_or(&conf.hash);
        rows.push(vec![
            "conf".into(),
            format!("{hash} since {}", conf.loaded_at.format("%Y-%m-%d %H:%M:%S UTC")),
        ]);
        if !conf.pending.is_empty() {
            rows.push(vec!["waiting for a restart".into(), conf.pending.join(", ")]);
        }
        if let Some(error) = &conf.error {
            rows.push(vec!["conf refused".into(), error.text.clone()]);
        }
    }
    if let Some(channel) = &status.channel {
        let expires = channel.expires.format("%Y-%m-%d %H:%M:%S UTC");
        let word = if channel.expired { "EXPIRED at" } else { "until" };
        rows.push(vec!["channel".into(), format!("{} {word} {expires}", channel.name)]);
    }
    rows.push(vec!["home".into(), status.home.display().to_string()]);
    table(page, "Node", &[], rows);
}

fn told(entry: &HistoryEntry) -> Vec<String> {
    let version = |version: &Option<Version>| version.as_ref().map(ToString::to_string).unwrap_or_default();
    let (from, to) = (version(&entry.from), version(&entry.to));
    let arrow = if from.is_empty() || to.is_empty() || from == to { to } else { format!("{from} → {to}") };
    vec![
        entry.at.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
        format!("{} {arrow}", entry.kind.name()),
        entry.outcome.name().replace('_', " "),
        format!("{:.1} ms", entry.ms),
        entry.error.clone().or_else(|| entry.verdict.clone()).unwrap_or_default(),
    ]
}

fn table(page: &mut String, title: &str, head: &[&str], rows: Vec<Vec<String>>) {
    put(page, format_args!("<h2>{title}</h2>\n"));
    if rows.is_empty() {
        return page.push_str("<p>none</p>\n");
    }
    page.push_str("<table>\n");
    if !head.is_empty() {
        let cells: String = head.iter().map(|cell| format!("<th>{cell}</th>")).collect();
        put(page, format_args!("<tr>{cells}</tr>\n"));
    }
    for row in rows {
        let cells: String = row.iter().map(|cell| format!("<td>{}</td>", Escaped(cell))).collect();
        put(page, format_args!("<tr>{cells}</tr>\n"));
    }
    page.push_str("</table>\n");
}

fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = page.write_fmt(text);
}

/// Text that is no markup, whatever it holds: errors repeat what stands in files.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_markup_is_text() {
        assert_eq!(Escaped("<b a='\"'>&").to_string(), "&lt;b a=&#39;&quot;&#39;&gt;&amp;");
        let mut page = String::new();
        table(&mut page, "T", &[], vec![vec!["<script>".into()]]);
        assert!(!page.contains("<script>"), "{page}");
    }

    #[test]
    fn the_page_shows_the_node() {
        let sample = super::super::metrics::tests::sample();
        let shown = Shown {
            status: sample.status,
            releases: ReleaseList { releases: vec![] },
            running: Some("upgrade 2026.1120.192733".into()),
            history: Ok(vec![]),
        };
        insta::assert_snapshot!(html(&shown));
    }
}

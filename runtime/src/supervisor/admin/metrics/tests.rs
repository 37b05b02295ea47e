//! What is exposed: read back by another parser, held against the documentation.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use prometheus_parse::Scrape;
use relmgr_model::conf::{ConfError, ConfStatus};
use relmgr_model::control::{ChannelStatus, CurrentRelease, GenerationStatus, PrevRelease, TlsStatus};
use relmgr_model::probation::{CLASSES, Latencies};
use relmgr_model::pull::{Checked, PullStatus};
use relmgr_model::sessions::{OpenSessions, SessionCounts};
use relmgr_model::tables::{Durability, SweepStatus, TableStatus, TablesStatus};
use relmgr_model::tls::CertificateStatus;

use super::super::tally::Metrics;
use super::*;

/// A node that has something of everything.
pub fn sample() -> Snapshot {
    let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
    let version = |text: &str| text.parse::<Version>().unwrap();
    let (old, new) = (version("2026.1119.80112"), version("2026.1120.192733"));
    let generation = |id, version: &Version, state, reasons| GenerationStatus {
        id,
        version: version.clone(),
        state,
        in_flight: id,
        requests: 7,
        panics: 0,
        threads: 1,
        reasons,
        supervisor: None,
        children: vec![],
    };
    let status = NodeStatus {
        app: "live-poll".into(),
        home: "/srv/live-poll".into(),
        phase: Phase::Probation,
        supervisor_pid: 4711,
        relmgr: "0.1.0".into(),
        host_pid: Some(4712),
        started_at: at("2026-11-19T08:00:00Z"),
        host_restarts: 2,
        current: Some(CurrentRelease {
            version: new.clone(),
            status: "current".into(),
            since: at("2026-11-20T19:30:00Z"),
        }),
        prev: Some(PrevRelease { version: old.clone() }),
        permanent: Some(old.clone()),
        probation_ends_at: Some(at("2026-11-20T19:31:00Z")),
        generations: vec![
            generation(
                1,
                &old,
                GenerationState::Pinned,
                vec!["a thread named `<metrics>` still runs".into()],
            ),
            generation(2, &old, GenerationState::Idle, vec![]),
            generation(3, &new, GenerationState::Current, vec![]),
        ],
        listeners: vec!["127.0.0.1:8080".into()],
        tls: Some(TlsStatus {
            listeners: vec!["127.0.0.1:8443".into()],
            certificates: vec![CertificateStatus {
                file: "/etc/poll/fullchain.pem".into(),
                names: vec!["poll.example".into()],
                not_after: Some(at("2027-02-01T00:00:00Z")),
                loaded_at: Some(at("2026-11-19T08:00:00Z")),
                error: None,
            }],
            unwatched: None,
        }),
        admin: Some("127.0.0.1:9090".into()),
        tcp: vec![],
        sessions: Some(SessionCounts {
            open: OpenSessions { websocket: 1000, tcp: 20, upgraded: 3 },
            totals: SessionTotals::default(),
        }),
        last_operation: None,
        conf: Some(ConfStatus {
            hash: "5a2c".repeat(16),
            loaded_at: at("2026-11-20T19:55:00Z"),
            pending: vec!["Endpoint.url.port".into()],
            error: Some(ConfError { at: at("2026-11-20T19:58:00Z"), text: "app.conf:3:1: no.such".into() }),
            unwatched: None,
            reloads: 3,
            refused: 1,
        }),
        tables: Some(TablesStatus {
            durability: Durability::Process,
            path: "/dev/shm/relmgr-5a2c".into(),
            used_bytes: 1_048_576,
            max_bytes: 1_073_741_824,
            tables: vec![TableStatus {
                name: "votes".into(),
                key: "u64".into(),
                record: "vote".into(),
                schema: 2,
                opened: Some(2),
                records: 5000,
                bytes: 409_600,
                kept_aside: 3,
                sweep: Some(SweepStatus { sweeping: Some(1000), ..SweepStatus::default() }),
            }],
        }),
        channel: Some(ChannelStatus {
            name: "default".into(),
            serial: 1_795_188_000,
            expires: at("2027-02-18T19:27:33Z"),
            expired: false,
        }),
        pull: Some(PullStatus {
            channel: "default".into(),
            at_boot: true,
            interval_ms: 300_000,
            place: 45.4,
            paused: None,
            left: None,
            next_check_at: Some(at("2026-11-20T20:03:10Z")),
            last: Some(Checked {
                at: at("2026-11-20T19:58:00Z"),
                outcome: relmgr_model::pull::Outcome::UpToDate,
                version: None,
                reason: None,
                operation: None,
            }),
        }),
    };
    let mut classes = vec![0; CLASSES];
    for micros in [50, 70, 127, 128, 5000, 30_000_000] {
        classes[Latencies::class(Duration::from_micros(micros))] += 1;
    }
    let counts = Counts {
        ends: [1, 0, 40, 3, 2, 5],
        panics: 4,
        cut: 6,
        latencies: Latencies::new(classes),
        latency_ns: 30_005_375_000,
    };
    let metrics = Metrics::default();
    metrics.operation(Kind::Upgrade, Outcome::RolledBack, 61_000.0);
    metrics.operation(Kind::Upgrade, Outcome::Done, 58.0);
    Snapshot {
        status,
        answers: [(old, Counts::default()), (new, counts)].into(),
        sessions: SessionTotals {
            begun: 4000,
            received: 70_000,
            sent: 90_000,
            ended: [("client".to_owned(), 2900), ("slow".to_owned(), 77)].into(),
        },
        operations: metrics.operations(),
        reloads: 3,
        refused: 1,
        checks: [("up_to_date", 12), ("unavailable", 1)].into(),
        webhooks: [(("hooks.example.com".into(), "delivered"), 9)].into(),
    }
}

fn parsed(text: &str) -> Scrape {
    Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).unwrap()
}

#[test]
fn another_parser_reads_what_was_meant() {
    let text = render(&sample()).unwrap();
    let scrape = parsed(&text);
    let find = |metric: &str, label: &str, value: &str| {
        let found = scrape.samples.iter().filter(|sample| {
            sample.metric == metric && (label.is_empty() || sample.labels.get(label) == Some(value))
        });
        found.map(|sample| sample.value.clone()).collect::<Vec<_>>()
    };
    use prometheus_parse::Value::{Counter, Gauge, Histogram};
    assert_eq!(find("relmgr_host_restarts_total", "", ""), [Counter(2.0)]);
    assert_eq!(find("relmgr_phase", "phase", "probation"), [Gauge(1.0)]);
    assert_eq!(find("relmgr_phase", "phase", "steady"), [Gauge(0.0)]);
    assert_eq!(find("relmgr_generations", "state", "pinned"), [Gauge(1.0)]);
    assert_eq!(find("relmgr_requests_in_flight", "version", "2026.1119.80112"), [Gauge(3.0)]);
    assert_eq!(find("relmgr_panics_total", "version", "2026.1120.192733"), [Counter(4.0)]);
    assert_eq!(find("relmgr_requests_cut_total", "version", "2026.1120.192733"), [Counter(6.0)]);
    assert_eq!(find("relmgr_conf_invalid", "", ""), [Gauge(1.0)]);
    assert_eq!(
        find("relmgr_channel_expiry_timestamp_seconds", "channel", "default"),
        [Gauge(1_802_978_853.0)]
    );
    let found = find("relmgr_request_duration_seconds", "version", "2026.1120.192733");
    let [Histogram(buckets)] = &found[..] else { panic!("{found:?}") };
    let below = |bound: f64| {
        buckets.iter().find(|bucket| bucket.less_than == bound).map(|bucket| bucket.count).unwrap()
    };
    assert_eq!((below(64e-6), below(128e-6), below(256e-6)), (1.0, 3.0, 4.0));
    assert_eq!((below(0.008192), below(16.777216), below(f64::INFINITY)), (5.0, 5.0, 6.0));
    assert!(text.contains("relmgr_request_duration_seconds_sum{version=\"2026.1120.192733\"} 30.005375\n"));
    assert!(text.contains("relmgr_request_duration_seconds_count{version=\"2026.1120.192733\"} 6\n"));
}

#[test]
fn the_text_keeps_to_the_format_and_the_conventions() {
    let text = render(&sample()).unwrap();
    let (mut series, mut typed, mut helped) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for line in text.lines() {
        let words: Vec<_> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => {
                assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}");
            }
            ["#", "TYPE", name, kind] => {
                assert!(helped.contains(name) && typed.insert(name.to_owned()), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            }
            _ => {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(value.parse::<f64>().is_ok(), "{line}");
                assert!(series.insert(name.to_owned()), "twice: {line}");
                let name = name.split('{').next().unwrap();
                let stems = ["_bucket", "_sum", "_count"].map(|end| name.strip_suffix(end).unwrap_or(name));
                assert!(stems.iter().chain([&name]).any(|stem| typed.contains(*stem)), "no type: {line}");
                assert!(name.starts_with("relmgr_"), "{line}");
            }
        }
    }
    assert!(text.ends_with('\n'));
    insta::assert_snapshot!(text.replace(env!("CARGO_PKG_VERSION"), "[relmgr]"));
}

#[test]
fn the_documentation_has_every_metric_and_no_other() {
    let documented = include_str!("../../../../../docs/metrics.md");
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').map(|cell| cell.trim().replace('`', "")).collect();
        let is_metric = cells.get(1).is_some_and(|name| name.starts_with("relmgr_"));
        is_metric.then(|| (cells[1].clone(), cells[2].clone(), cells[3].clone()))
    };
    let documented: BTreeSet<_> = documented.lines().filter_map(row).collect();
    let exposed = families(&sample()).into_iter().map(|family| {
        let labels = family.get_metric().first().map(Metric::get_label).unwrap_or_default();
        let labels: Vec<_> = labels.iter().map(LabelPair::name).collect();
        let kind = format!("{:?}", family.get_field_type()).to_lowercase();
        (family.name().to_owned(), kind, labels.join(", "))
    });
    assert_eq!(documented, exposed.collect::<BTreeSet<_>>());
}

#[test]
fn a_node_that_has_nothing_yet_has_metrics_all_the_same() {
    let mut empty = sample();
    empty.status.current = None;
    empty.status.channel = None;
    empty.status.conf = None;
    empty.status.tables = None;
    empty.status.generations.clear();
    empty.answers.clear();
    empty.operations = Operations::default();
    let scrape = parsed(&render(&empty).unwrap());
    assert!(scrape.samples.iter().any(|sample| sample.metric == "relmgr_operations_total"));
    assert!(!scrape.samples.iter().any(|sample| sample.metric.starts_with("relmgr_channel")));
    assert!(!scrape.samples.iter().any(|sample| sample.metric.starts_with("relmgr_table")));
}

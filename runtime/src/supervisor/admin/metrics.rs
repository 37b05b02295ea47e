//! The node's metrics in Prometheus' text format. What is exposed is decided here from a snapshot, without asking
//! anybody; docs/metrics.md has the same list for people, and a test compares the two.

mod tables;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Error, TextEncoder};
use relmgr_model::Version;
use relmgr_model::control::{GenerationState, Kind, NodeStatus, Outcome, Phase, TlsStatus};
use relmgr_model::counts::{Counts, ENDS};
use relmgr_model::sessions::{ENDS as ENDS_OF_SESSIONS, SessionTotals};
use relmgr_model::tls::CertificateStatus;

use super::super::node::Node;
use super::super::tell::Delivered;
use super::tally::{BOUNDS, Durations, Operations, ask};

/// The text format's media type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The bounds of the requests' latencies are powers of two of a microsecond, where the host's classes have ends: from
/// 64 µs to 16.8 s.
const LATENCY_BOUNDS: std::ops::RangeInclusive<u32> = 6..=24;

/// A host whose workers are stuck must not keep a scrape from its answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is known of a node at one instant.
#[derive(Debug)]
pub struct Snapshot {
    /// What `relmgr status` tells.
    pub status: NodeStatus,
    /// What was answered, by release.
    pub answers: BTreeMap<Version, Counts>,
    /// What became of sessions.
    pub sessions: SessionTotals,
    /// The operations that ended.
    pub operations: Operations,
    /// Reloads that changed something.
    pub reloads: u64,
    /// Reloads that were refused.
    pub refused: u64,
    /// Checks of the channel that ended, by how.
    pub checks: BTreeMap<&'static str, u64>,
    /// Notifications by webhook and what became of them.
    pub webhooks: Delivered,
}

/// Looks at `node`.
pub async fn snapshot(node: &Arc<Node>) -> Snapshot {
    let counted = async {
        if let Some(host) = node.host() {
            // What was heard last is told where nothing new comes.
            let _ = tokio::time::timeout(PATIENCE, ask(node, &host)).await;
        }
    };
    let (status, ()) = tokio::join!(node.status(), counted);
    let (reloads, refused) = node.with(|state| (state.conf.reloads, state.conf.refused));
    Snapshot {
        status,
        answers: node.metrics.answers(),
        sessions: node.metrics.sessions(),
        operations: node.metrics.operations(),
        reloads,
        refused,
        checks: node.pull.counts(),
        webhooks: node.webhooks.counts(),
    }
}

/// `snapshot` in the text format.
///
/// # Errors
/// None that a snapshot can lead to; the encoder's own.
pub fn render(snapshot: &Snapshot) -> Result<String, Error> {
    // A family without a value says nothing, and the encoder takes none.
    let families: Vec<_> =
        families(snapshot).into_iter().filter(|family| !family.get_metric().is_empty()).collect();
    TextEncoder::new().encode_to_string(&families)
}

fn families(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let mut families = of_node(&snapshot.status);
    families.extend(of_requests(snapshot));
    families.extend(of_sessions(snapshot));
    families.extend(of_operations(&snapshot.operations));
    families.extend(of_conf(snapshot));
    families.extend(snapshot.status.tls.iter().flat_map(of_tls));
    families.extend(tables::families(snapshot.status.tables.as_ref()));
    families.extend(of_pull(snapshot));
    let webhooks = snapshot.webhooks.iter();
    let webhooks = webhooks.map(|((host, outcome), count)| {
        counter(&[("webhook", host.as_str()), ("outcome", *outcome)], *count)
    });
    families.push(family(
        "relmgr_webhook_notifications_total",
        "Notifications by webhook and what became of them",
        MetricType::COUNTER,
        webhooks.collect(),
    ));
    let channel = snapshot.status.channel.iter();
    let expiry =
        channel.map(|channel| gauge(&[("channel", &channel.name)], channel.expires.timestamp() as f64));
    families.push(family(
        "relmgr_channel_expiry_timestamp_seconds",
        "When the signed channel's document expires, from the last one that was verified",
        MetricType::GAUGE,
        expiry.collect(),
    ));
    families
}

fn of_node(status: &NodeStatus) -> Vec<MetricFamily> {
    let version = |version: Option<&Version>| version.map(ToString::to_string).unwrap_or_default();
    let info = [
        ("app", status.app.as_str()),
        ("relmgr", env!("CARGO_PKG_VERSION")),
        ("current", &version(status.current.as_ref().map(|current| &current.version))),
        ("permanent", &version(status.permanent.as_ref())),
        ("prev", &version(status.prev.as_ref().map(|prev| &prev.version))),
    ];
    let phases = Phase::ALL.map(|phase| gauge(&[("phase", phase.name())], is(phase == status.phase)));
    let generations = GenerationState::ALL.map(|state| {
        let count = status.generations.iter().filter(|generation| generation.state == state).count();
        gauge(&[("state", state.name())], count as f64)
    });
    vec![
        family(
            "relmgr_info",
            "Always 1: the application, relmgr's own version and the releases that serve, boot and served before",
            MetricType::GAUGE,
            vec![gauge(&info, 1.0)],
        ),
        family(
            "relmgr_start_time_seconds",
            "When the supervisor started, as a Unix time",
            MetricType::GAUGE,
            vec![gauge(&[], status.started_at.timestamp_millis() as f64 / 1e3)],
        ),
        family(
            "relmgr_phase",
            "1 for what the node is doing, 0 for the rest",
            MetricType::GAUGE,
            phases.into(),
        ),
        family(
            "relmgr_host_up",
            "1 while there is a host",
            MetricType::GAUGE,
            vec![gauge(&[], is(status.host_pid.is_some()))],
        ),
        family(
            "relmgr_host_restarts_total",
            "Hosts that were started since the one before died",
            MetricType::COUNTER,
            vec![counter(&[], status.host_restarts)],
        ),
        family(
            "relmgr_generations",
            "Releases in the host's memory by what they are doing; pinned: cannot be unmapped",
            MetricType::GAUGE,
            generations.into(),
        ),
    ]
}

fn of_requests(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let (mut requests, mut panics, mut cut, mut latencies) = (vec![], vec![], vec![], vec![]);
    for (version, counts) in &snapshot.answers {
        let version = version.to_string();
        let ends = ENDS.iter().zip(counts.ends);
        requests.extend(ends.map(|(end, count)| counter(&[("version", &version), ("status", end)], count)));
        panics.push(counter(&[("version", &version)], counts.panics));
        cut.push(counter(&[("version", &version)], counts.cut));
        let bounds = LATENCY_BOUNDS.map(|power| Duration::from_micros(1 << power));
        let buckets = bounds.map(|bound| (bound.as_secs_f64(), counts.latencies.below(bound)));
        let count = counts.latencies.count();
        let latency = counts.latency().as_secs_f64();
        latencies.push(histogram(&[("version", &version)], buckets.collect(), count, latency));
    }
    let mut in_flight: BTreeMap<&Version, u64> = BTreeMap::new();
    for generation in &snapshot.status.generations {
        *in_flight.entry(&generation.version).or_default() += generation.in_flight;
    }
    let in_flight = in_flight.into_iter();
    let in_flight =
        in_flight.map(|(version, count)| gauge(&[("version", &version.to_string())], count as f64));
    vec![
        family(
            "relmgr_requests_total",
            "Clients' requests by the release that answered and the class of the status; none: the client went away",
            MetricType::COUNTER,
            requests,
        ),
        family(
            "relmgr_request_duration_seconds",
            "From a request's head to the answer's head, for one in eight requests of each connection, the first always",
            MetricType::HISTOGRAM,
            latencies,
        ),
        family("relmgr_panics_total", "Handlers that panicked, by release", MetricType::COUNTER, panics),
        family(
            "relmgr_requests_cut_total",
            "Answers and streams that were broken off at the end of a drain, by release",
            MetricType::COUNTER,
            cut,
        ),
        family(
            "relmgr_requests_in_flight",
            "Requests that are being answered, by release",
            MetricType::GAUGE,
            in_flight.collect(),
        ),
    ]
}

fn of_sessions(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let open = snapshot.status.sessions.as_ref().map(|sessions| sessions.open).unwrap_or_default();
    let open = [("websocket", open.websocket), ("tcp", open.tcp), ("upgraded", open.upgraded)];
    let SessionTotals { begun, received, sent, ended } = &snapshot.sessions;
    let messages = [("received", *received), ("sent", *sent)];
    let ended = ENDS_OF_SESSIONS.iter().map(|end| {
        let count = ended.get(*end).copied().unwrap_or_default();
        counter(&[("reason", end)], count)
    });
    vec![
        family(
            "relmgr_sessions",
            "Open sessions; upgraded: connections that the application took over, which end with their release",
            MetricType::GAUGE,
            open.map(|(kind, count)| gauge(&[("kind", kind)], count as f64)).into(),
        ),
        family(
            "relmgr_sessions_begun_total",
            "Sessions that began",
            MetricType::COUNTER,
            vec![counter(&[], *begun)],
        ),
        family(
            "relmgr_session_messages_total",
            "Messages of sessions, from clients and to them",
            MetricType::COUNTER,
            messages.map(|(direction, count)| counter(&[("direction", direction)], count)).into(),
        ),
        family(
            "relmgr_sessions_ended_total",
            "Sessions that ended, by why",
            MetricType::COUNTER,
            ended.collect(),
        ),
    ]
}

fn of_operations(operations: &Operations) -> Vec<MetricFamily> {
    // Those that may come stand there before they come: an alert needs the step from 0 to 1.
    let outcomes = [Outcome::Done, Outcome::Failed, Outcome::RolledBack, Outcome::Interrupted];
    let mut ended: BTreeMap<_, u64> = Kind::ALL
        .iter()
        .flat_map(|kind| outcomes.map(|outcome| ((kind.name(), outcome.name()), 0)))
        .collect();
    ended.extend(&operations.ended);
    let ended = ended.into_iter();
    let ended = ended.map(|((kind, outcome), count)| counter(&[("kind", kind), ("outcome", outcome)], count));
    let durations = operations.durations.iter().map(|(kind, durations)| {
        let Durations { within, count, sum } = durations;
        let mut so_far = 0;
        let buckets = BOUNDS.iter().zip(within).map(|(bound, within)| {
            so_far += within;
            (*bound, so_far)
        });
        histogram(&[("kind", kind)], buckets.collect(), *count, *sum)
    });
    vec![
        family(
            "relmgr_operations_total",
            "Operations that ended, by kind and outcome, as in relmgr history",
            MetricType::COUNTER,
            ended.collect(),
        ),
        family(
            "relmgr_operation_duration_seconds",
            "How long operations took, probation and drain included",
            MetricType::HISTOGRAM,
            durations.collect(),
        ),
    ]
}

fn of_conf(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let conf = snapshot.status.conf.as_ref();
    let invalid = conf.is_some_and(|conf| conf.error.is_some());
    let waiting = conf.map_or(0, |conf| conf.pending.len());
    let reloads = [("applied", snapshot.reloads), ("refused", snapshot.refused)];
    vec![
        family(
            "relmgr_conf_reloads_total",
            "Reloads of the application's configuration that changed something, or were refused",
            MetricType::COUNTER,
            reloads.map(|(outcome, count)| counter(&[("outcome", outcome)], count)).into(),
        ),
        family(
            "relmgr_conf_invalid",
            "1 while the configuration's files, as they are now, are refused",
            MetricType::GAUGE,
            vec![gauge(&[], is(invalid))],
        ),
        family(
            "relmgr_conf_pending_keys",
            "Keys of which a new value waits for a restart",
            MetricType::GAUGE,
            vec![gauge(&[], waiting as f64)],
        ),
    ]
}

fn of_tls(tls: &TlsStatus) -> Vec<MetricFamily> {
    let of_each = |value: &dyn Fn(&CertificateStatus) -> Option<f64>| -> Vec<_> {
        let labelled = tls.certificates.iter().filter_map(|certificate| {
            let file = certificate.file.to_string_lossy();
            Some(gauge(&[("file", &file)], value(certificate)?))
        });
        labelled.collect()
    };
    vec![
        family(
            "relmgr_tls_certificate_expiry_timestamp_seconds",
            "When the certificate that is served expires, as a Unix time",
            MetricType::GAUGE,
            of_each(&|certificate| certificate.not_after.map(|until| until.timestamp() as f64)),
        ),
        family(
            "relmgr_tls_certificate_invalid",
            "1 while a certificate's files, as they are now, are wrong or not valid now",
            MetricType::GAUGE,
            of_each(&|certificate| Some(is(certificate.error.is_some()))),
        ),
    ]
}

fn of_pull(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let Some(pull) = &snapshot.status.pull else { return vec![] };
    let checks = relmgr_model::pull::Outcome::ALL.iter().map(|outcome| {
        let count = snapshot.checks.get(outcome.name()).copied().unwrap_or(0);
        counter(&[("outcome", outcome.name())], count)
    });
    let moment = |at: Option<chrono::DateTime<chrono::Utc>>| {
        at.map(|at| gauge(&[], at.timestamp_millis() as f64 / 1e3)).into_iter().collect()
    };
    vec![
        family(
            "relmgr_pull_checks_total",
            "Checks of the channel by how they ended",
            MetricType::COUNTER,
            checks.collect(),
        ),
        family(
            "relmgr_pull_last_check_timestamp_seconds",
            "When the channel was last asked, as a Unix time",
            MetricType::GAUGE,
            moment(pull.last.as_ref().map(|last| last.at)),
        ),
        family(
            "relmgr_pull_next_check_timestamp_seconds",
            "When the channel is asked next, as a Unix time",
            MetricType::GAUGE,
            moment(pull.next_check_at),
        ),
        family(
            "relmgr_pull_paused",
            "1 while an operator has stopped following the channel",
            MetricType::GAUGE,
            vec![gauge(&[], is(pull.paused.is_some()))],
        ),
    ]
}

fn is(so: bool) -> f64 {
    f64::from(u8::from(so))
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value((*value).into());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}

fn gauge(labels: &[(&str, &str)], value: f64) -> Metric {
    let (mut metric, mut gauge) = (labelled(labels), Gauge::default());
    gauge.set_value(value);
    metric.set_gauge(gauge);
    metric
}

fn counter(labels: &[(&str, &str)], value: u64) -> Metric {
    let (mut metric, mut counter) = (labelled(labels), Counter::default());
    counter.set_value(value as f64);
    metric.set_counter(counter);
    metric
}

/// `buckets` are upper bounds with how many were at most so much.
fn histogram(labels: &[(&str, &str)], buckets: Vec<(f64, u64)>, count: u64, sum: f64) -> Metric {
    let (mut metric, mut histogram) = (labelled(labels), Histogram::default());
    let bucket = |(bound, count): (f64, u64)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(count);
        bucket
    };
    histogram.set_bucket(buckets.into_iter().map(bucket).collect());
    histogram.set_sample_count(count);
    histogram.set_sample_sum(sum);
    metric.set_histogram(histogram);
    metric
}

#[cfg(test)]
pub mod tests;

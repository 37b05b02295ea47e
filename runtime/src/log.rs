//! Logs of processes that run for long, in the form that `[log] format` names.
//!
//! The supervisor writes them; a host's come to it through a pipe, as text or as one JSON object a line, so that their
//! last lines are known when it dies and each stands whole among the supervisor's own.

use std::borrow::Cow;
use std::fmt;
use std::io::IsTerminal;

use chrono::{SecondsFormat, Utc};
use relmgr_model::settings::LogFormat;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// What the events of an application are called that are its release's and none of ours.
pub const APPLICATION: &str = "app";

/// The journal's fields are `RELMGR_RELEASE=` and the like.
const JOURNAL_PREFIX: &str = "RELMGR";

/// The journal cannot be written to.
#[derive(Debug, thiserror::Error)]
#[error(
    "log.format is \"journald\", and there is no journal at /run/systemd/journal/socket: \"text\" and \"json\" go to stderr"
)]
pub struct JournalError(#[source] std::io::Error);

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Process {
    /// `relmgr run`
    Supervisor,
    /// `relmgr host`
    Host,
}

/// Logs `info` and up, or what RELMGR_LOG says, from here on.
///
/// # Errors
/// [`JournalError`].
pub fn init(format: LogFormat, process: Process) -> Result<(), JournalError> {
    let filter = EnvFilter::try_from_env("RELMGR_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let to_stderr = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = match format {
        LogFormat::Text => to_stderr.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => to_stderr.with_ansi(false).event_format(Json { process }).boxed(),
        LogFormat::Journald => {
            let journal = tracing_journald::Layer::new().map_err(JournalError)?;
            let journal = journal.with_field_prefix(Some(JOURNAL_PREFIX.into()));
            journal.with_syslog_identifier("relmgr".into()).boxed()
        }
    };
    tracing_subscriber::registry().with(layer).with(filter).init();
    if format != LogFormat::Text {
        // A panic of our own is a line like the others.
        std::panic::set_hook(Box::new(|info| tracing::error!("{info}")));
    }
    Ok(())
}

/// One line of a log in JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line<'a> {
    /// RFC 3339, to the microsecond.
    pub timestamp: Cow<'a, str>,
    /// `ERROR` to `TRACE`.
    pub level: Cow<'a, str>,
    /// The module that it came from.
    pub target: Cow<'a, str>,
    /// Who wrote it.
    pub process: Process,
    /// The release that it came from; absent: it is relmgr's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// What happened.
    pub message: String,
    /// Its circumstances.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub fields: Map<String, Value>,
}

impl Line<'_> {
    /// What a process wrote that is no event: the last words of a runtime, a library or a program that it started.
    pub fn raw(process: Process, text: &str) -> Self {
        Line {
            timestamp: now().into(),
            level: "WARN".into(),
            target: "stderr".into(),
            process,
            release: None,
            message: text.into(),
            fields: Map::new(),
        }
    }

    /// For people, on a line of its own.
    pub fn text(&self) -> String {
        let Line { timestamp, level, target, release, message, fields, .. } = self;
        let release = release.iter().map(|release| format!(" release={release}"));
        let fields = fields.iter().map(|(name, value)| format!(" {name}={value}"));
        let rest: String = release.chain(fields).collect();
        format!("{timestamp} {level:>5} {target}: {message}{rest}")
    }
}

fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Events as [`Line`]s.
struct Json {
    process: Process,
}

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = fields.line(event.metadata(), self.process);
        // Every line has a JSON form.
        writeln!(out, "{}", serde_json::to_string(&line).map_err(|_| fmt::Error)?)
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    fields: Map<String, Value>,
}

impl Fields {
    fn line<'a>(self, metadata: &'a tracing::Metadata<'_>, process: Process) -> Line<'a> {
        let Self { message, mut fields } = self;
        let mut target = Cow::Borrowed(metadata.target());
        let mut release = None;
        if target == APPLICATION {
            release = text(fields.remove("release"));
            target = text(fields.remove("module")).map_or(target, Cow::Owned);
        }
        let level = metadata.level().as_str().into();
        Line { timestamp: now().into(), level, target, process, release, message, fields }
    }

    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => drop(self.fields.insert(name.into(), value)),
        }
    }
}

fn text(value: Option<Value>) -> Option<String> {
    match value {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let causes = std::iter::successors(Some(value), |error| error.source());
        let words: Vec<_> = causes.map(ToString::to_string).collect();
        self.put(field, words.join(": ").into());
    }
}

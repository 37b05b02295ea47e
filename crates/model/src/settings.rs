//! `relmgr.toml`: the node's settings. Unknown keys are refused; every key but `app` and `repository.url` has a
//! default. Long, since the file is: a struct for each of its tables, in their order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::notify::Event;
use crate::sessions::{SessionLimits, TcpListen};
use crate::tls::CertificateFiles;

/// The node's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The application's name, as in its manifests.
    pub app: String,
    /// Where it listens.
    #[serde(default)]
    pub listen: Listen,
    /// The certificates of `listen.https`; a client that names none of their names is given the first one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<CertificateFiles>,
    /// Where releases come from.
    pub repository: Repository,
    /// Deadlines of an upgrade.
    #[serde(default)]
    pub upgrade: Upgrade,
    /// Changes of the application's configuration while it runs.
    #[serde(default)]
    pub conf: Conf,
    /// Restarts of the host.
    #[serde(default)]
    pub supervisor: Supervisor,
    /// The HTTP front.
    #[serde(default)]
    pub http: Http,
    /// WebSocket and raw TCP sessions.
    #[serde(default)]
    pub sessions: SessionLimits,
    /// Loading and unloading.
    #[serde(default)]
    pub loader: Loader,
    /// State tables.
    #[serde(default)]
    pub tables: crate::tables::Tables,
    /// The trial of a release.
    #[serde(default)]
    pub preflight: Preflight,
    /// Following a channel by itself.
    #[serde(default)]
    pub pull: Pull,
    /// Commands of the operator's.
    #[serde(default)]
    pub hooks: Hooks,
    /// Servers of the operator's that are told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub webhooks: Vec<Webhook>,
    /// What the node says of itself.
    #[serde(default)]
    pub log: Log,
}

/// `[listen]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// Public addresses.
    pub http: Vec<SocketAddr>,
    /// Public addresses that speak TLS, with the certificates in `[[tls]]`.
    pub https: Vec<SocketAddr>,
    /// Where metrics, health and the node's page are answered; absent: nowhere.
    pub admin: Option<SocketAddr>,
    /// Listeners for raw TCP, by name.
    pub tcp: BTreeMap<String, TcpListen>,
}

impl Default for Listen {
    fn default() -> Self {
        let http = vec![SocketAddr::from(([127, 0, 0, 1], 8080))];
        Self { http, https: vec![], admin: None, tcp: BTreeMap::new() }
    }
}

/// `[repository]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    /// `file:///dir` or `s3://bucket/prefix`.
    pub url: String,
    /// The channel to follow; empty: the file `VERSION`.
    #[serde(default)]
    pub channel: String,
    /// Another S3 server than Amazon's, such as `http://127.0.0.1:3900`.
    #[serde(default)]
    pub endpoint_url: Option<String>,
    /// The bucket's region; absent: from the AWS variables and files.
    #[serde(default)]
    pub region: Option<String>,
    /// Whether the bucket stands in the path; absent: with `endpoint_url`.
    #[serde(default)]
    pub path_style: Option<bool>,
    /// A fetch as a whole may take so long.
    #[serde(default = "Repository::default_timeout", with = "humantime_serde")]
    pub timeout: Duration,
    /// Public keys whose releases are accepted.
    #[serde(default)]
    pub trusted_keys: Vec<String>,
    /// Public keys whose channel documents are accepted; empty: those of `trusted_keys`.
    #[serde(default)]
    pub channel_keys: Vec<String>,
    /// Whether releases without a signature are accepted, where no key is trusted.
    #[serde(default)]
    pub allow_unsigned: bool,
}

impl Repository {
    /// A package of 100 MB at 1 Mbit/s.
    fn default_timeout() -> Duration {
        Duration::from_secs(15 * 60)
    }

    /// The channel's name as its document has it.
    pub fn channel_name<'a>(&'a self, asked: Option<&'a str>) -> &'a str {
        match asked.unwrap_or(&self.channel) {
            "" => crate::channel::DEFAULT,
            name => name,
        }
    }
}

/// `[upgrade]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upgrade {
    /// Deadline of the application's start.
    #[serde(with = "humantime_serde")]
    pub start: Duration,
    /// Deadline of the application's health and the probes together.
    #[serde(with = "humantime_serde")]
    pub health: Duration,
    /// Requests wait at most so long for a code change.
    #[serde(with = "humantime_serde")]
    pub quiesce: Duration,
    /// A larger in-memory state is not handed over, in bytes.
    pub state_max: u64,
    /// Requests on the old generation may take so long.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// How long a new release is watched before it is committed; 0: not at all.
    #[serde(with = "humantime_serde")]
    pub probation: Duration,
    /// What becomes of a release on whose probation there was too little traffic to tell.
    pub inconclusive: Inconclusive,
    /// How many installed releases are kept after an upgrade; those in use always are.
    pub keep_releases: usize,
    /// What ends a probation.
    pub thresholds: Thresholds,
}

impl Default for Upgrade {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(30),
            health: Duration::from_secs(10),
            quiesce: Duration::from_secs(5),
            // What is written, read and changed within `quiesce` on an ordinary machine.
            state_max: 1024 * 1024 * 1024,
            drain: Duration::from_secs(30),
            probation: Duration::from_secs(60),
            inconclusive: Inconclusive::default(),
            keep_releases: 5,
            thresholds: Thresholds::default(),
        }
    }
}

impl Upgrade {
    /// The background children of a generation that makes way have so long at least, however short the drain is:
    /// to end in the middle of a job is worse for them than a wait is for an upgrade.
    pub const CHILDREN: Duration = Duration::from_secs(10);

    /// The background children of a generation that makes way may take so long, whatever their own deadlines are.
    pub fn children_patience(&self) -> Duration {
        self.drain.max(Self::CHILDREN)
    }
}

/// What becomes of a release on whose probation there was too little traffic to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Inconclusive {
    /// It stays: it lived, it was healthy, and nobody asked.
    #[default]
    Commit,
    /// It goes.
    Rollback,
}

/// `[upgrade.thresholds]`: what ends a probation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    /// So many panics of handlers; 0: they do not count.
    pub panics: u64,
    /// So many requests are needed to judge errors and latency.
    pub requests: u64,
    /// The share of 5xx answers may be so much above the one before the swap.
    pub errors: f64,
    /// 95 of 100 requests may take so many times what they took before the swap …
    pub latency_factor: f64,
    /// … and must take so much longer, for it to count.
    #[serde(with = "humantime_serde")]
    pub latency: Duration,
    /// How often the application's health and the manifest's probes are asked.
    #[serde(with = "humantime_serde")]
    pub health_every: Duration,
    /// So many failures in a row; 0: they do not count.
    pub health_failures: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            panics: 3,
            // The least with which a single error is not above `errors`.
            requests: 20,
            errors: 0.05,
            latency_factor: 3.0,
            latency: Duration::from_millis(100),
            health_every: Duration::from_secs(2),
            health_failures: 2,
        }
    }
}

/// `[conf]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Conf {
    /// Whether changes of `app.conf` and its like apply by themselves.
    pub watch: bool,
    /// How long the application may take over changed settings.
    #[serde(with = "humantime_serde")]
    pub change: Duration,
}

impl Default for Conf {
    fn default() -> Self {
        Self { watch: true, change: Duration::from_secs(10) }
    }
}

/// `[supervisor]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Supervisor {
    /// So many restarts of the host are allowed …
    pub intensity: u32,
    /// … within this time; one more and the node stops.
    #[serde(with = "humantime_serde")]
    pub period: Duration,
    /// A host that says nothing for so long is killed and replaced; 0: never.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
}

impl Default for Supervisor {
    fn default() -> Self {
        Self { intensity: 3, period: Duration::from_secs(10), heartbeat: Duration::from_secs(10) }
    }
}

/// `[http]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// The path that answers the version; the application never sees it.
    pub version_path: String,
    /// What a client may take up.
    pub limits: Limits,
}

impl Default for Http {
    fn default() -> Self {
        Self { version_path: "/api/public/version".into(), limits: Limits::default() }
    }
}

/// `[http.limits]`: what a client may take up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// From the first byte of a request to the end of its headers.
    #[serde(with = "humantime_serde")]
    pub header_time: Duration,
    /// A request's line and headers together, in bytes; at least 8192.
    pub header_bytes: usize,
    /// A request's body, in bytes.
    pub body_bytes: u64,
    /// Open connections; further ones wait in the backlog.
    pub connections: usize,
    /// Requests that may wait for a code change; further ones are answered 503.
    pub held: usize,
    /// A connection without a request is closed after this.
    #[serde(with = "humantime_serde")]
    pub idle_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_time: Duration::from_secs(15),
            header_bytes: 64 * 1024,
            body_bytes: 256 * 1024 * 1024,
            connections: 16_384,
            // One for each connection of HTTP/1.
            held: 16_384,
            // Above the 60 s after which nginx, HAProxy and AWS' load balancers close theirs, so that the
            // client is the one who closes.
            idle_time: Duration::from_secs(75),
        }
    }
}

/// `[loader]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Loader {
    /// Whether retired libraries are unmapped.
    pub unload: Unload,
    /// A host that holds more retired libraries than this is replaced by another one.
    pub max_unretired: u32,
}

impl Default for Loader {
    fn default() -> Self {
        // Some megabytes of code each: a machine bears eight, and who leaks a thread in every release has time to see it.
        Self { unload: Unload::default(), max_unretired: 8 }
    }
}

/// Whether retired libraries are unmapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Unload {
    /// When it is proven that nothing points into them.
    #[default]
    Proven,
    /// Never.
    Never,
}

/// `[preflight]`: what the trial of a release may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Preflight {
    /// Processor time.
    #[serde(with = "humantime_serde")]
    pub cpu: Duration,
    /// Memory that it writes to, in bytes; 0: no limit.
    pub memory_bytes: u64,
    /// Open files.
    pub files: u64,
}

impl Preflight {
    /// A trial that changes a state of `bytes` has it in its older and its newer form at once. In memory a form takes up
    /// to eight times what it does when it is encoded: a number of a byte has its place in a map, with a key's text.
    const OF_STATE: u64 = 2 * 8;

    /// The same for a trial that is given a state of so many bytes.
    #[must_use]
    pub fn with_state(&self, bytes: u64) -> Self {
        let memory_bytes = match self.memory_bytes {
            0 => 0,
            limit => limit.saturating_add(bytes.saturating_mul(Self::OF_STATE)),
        };
        Self { memory_bytes, ..self.clone() }
    }
}

impl Default for Preflight {
    fn default() -> Self {
        Self { cpu: Duration::from_secs(30), memory_bytes: 1024 * 1024 * 1024, files: 256 }
    }
}

/// `[pull]`: whether the node follows a channel by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Pull {
    /// The channel; absent: `repository.channel`.
    pub channel: Option<String>,
    /// Whether the node asks when it boots.
    pub at_boot: bool,
    /// How often it asks; 0: not by itself.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// By how much the waits differ; absent: a fifth of the interval, and at boot up to a minute.
    #[serde(with = "humantime_serde")]
    pub jitter: Option<Duration>,
    /// When it may go to another release; empty: at any time.
    pub windows: Vec<crate::pull::Window>,
    /// Its place in a channel's waves, from 0 to below 100; absent: made of its machine's id.
    pub wave: Option<f64>,
}

impl Pull {
    /// By how much waits differ.
    pub fn jitter(&self) -> Duration {
        self.jitter.unwrap_or(self.interval / 5)
    }

    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if !self.interval.is_zero() && self.interval < Duration::from_secs(1) {
            return Err(("pull.interval", "is below 1s: it would be a load of its own"));
        }
        if self.jitter.is_some_and(|jitter| jitter > self.interval && !self.interval.is_zero()) {
            return Err(("pull.jitter", "is longer than pull.interval, around which it is"));
        }
        if self.wave.is_some_and(|wave| !(0.0..100.0).contains(&wave)) {
            return Err((
                "pull.wave",
                "is no place among a hundred nodes: from 0 to below 100, 0 goes first",
            ));
        }
        Ok(())
    }
}

/// `[hooks]`: commands of the operator's. They learn what happened; they hold up and undo nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hooks {
    /// Program and arguments; run at the end of every operation that changed what serves, or tried to, with the
    /// history's line as JSON on its stdin. Empty: none.
    pub outcome: Vec<String>,
    /// Program and arguments; run for each of `events`, with it as JSON on its stdin. Empty: none.
    pub event: Vec<String>,
    /// Which events; empty: all.
    pub events: Vec<Event>,
    /// How long each may take; then it is killed.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for Hooks {
    fn default() -> Self {
        Self { outcome: vec![], event: vec![], events: vec![], timeout: Duration::from_secs(30) }
    }
}

/// `[[webhooks]]`: a server that is told events by a POST with JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// `https://…` or `http://…`. Whatever is secret in it is shown nowhere: what names it is its host.
    pub url: String,
    /// Which events; empty: all.
    #[serde(default)]
    pub events: Vec<Event>,
    /// Where the secret is that signs: `${NAME}` of the environment or `file:/path`; absent: nothing is signed.
    #[serde(default)]
    pub secret: Option<String>,
    /// Who has signed the server's certificate: PEM, one or several; relative to the home. Absent: those that the
    /// system trusts; with it, nobody else.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// How long each try may take.
    #[serde(default = "Webhook::default_timeout", with = "humantime_serde")]
    pub timeout: Duration,
}

impl Webhook {
    /// Longer than most servers take and shorter than a person waits.
    fn default_timeout() -> Duration {
        Duration::from_secs(10)
    }

    /// The name in `${NAME}`.
    pub fn variable(secret: &str) -> Option<&str> {
        secret.strip_prefix("${")?.strip_suffix('}').filter(|name| !name.is_empty())
    }

    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let address = self.url.strip_prefix("https://").or_else(|| self.url.strip_prefix("http://"));
        let Some(address) = address.filter(|address| !address.is_empty()) else {
            return Err(("webhooks.url", "is neither https://host/path nor http://host/path"));
        };
        if address.split('/').next().is_some_and(|authority| authority.contains('@')) {
            return Err((
                "webhooks.url",
                "has a user or password in it: use `secret`, which signs what is sent",
            ));
        }
        if self.ca.is_some() && !self.url.starts_with("https://") {
            return Err(("webhooks.ca", "is for an address that begins with https://"));
        }
        match &self.secret {
            Some(secret) if Self::variable(secret).is_none() && !secret.starts_with("file:/") => Err((
                "webhooks.secret",
                "is neither \"${NAME}\", of the environment, nor \"file:/path\": secrets do not stand in relmgr.toml",
            )),
            _ => Ok(()),
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// How events are written.
    pub format: LogFormat,
}

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people, to stderr.
    #[default]
    Text,
    /// One JSON object a line, to stderr.
    Json,
    /// To systemd's journal, with fields.
    Journald,
}

/// A `relmgr.toml` that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// No TOML, an unknown key, a wrong type.
    #[error("{0}")]
    Parse(Box<toml::de::Error>),
    /// A value that cannot be.
    #[error("{key}: {reason}")]
    Value {
        /// The key's path.
        key: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
}

impl Settings {
    /// Reads `relmgr.toml`.
    ///
    /// # Errors
    /// The first fault, with its line where the text has one.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let settings: Self = toml::from_str(text).map_err(|error| SettingsError::Parse(Box::new(error)))?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), SettingsError> {
        let fault = |key, reason: &str| Err(SettingsError::Value { key, reason: reason.into() });
        if self.app.is_empty() {
            return fault("app", "is empty: name the application as its Cargo.toml does");
        }
        if self.listen.http.is_empty() && self.listen.https.is_empty() {
            return fault(
                "listen.http",
                "names no address: at least one is needed, such as \"127.0.0.1:8080\"",
            );
        }
        if !self.listen.https.is_empty() && self.tls.is_empty() {
            return fault("listen.https", "has no certificate: name one, with its key, in a [[tls]] table");
        }
        if self.listen.https.is_empty() && !self.tls.is_empty() {
            return fault("tls", "has no address that it is for: name one in listen.https");
        }
        if self.sessions.message_bytes == 0 || self.sessions.queue_bytes == 0 {
            return fault("sessions", "message_bytes or queue_bytes is 0: no message could pass");
        }
        if self.sessions.stall.is_zero() {
            return fault("sessions.stall", "is 0: every client would be too slow");
        }
        if !self.repository.url.starts_with("file:///") && !self.repository.url.starts_with("s3://") {
            return fault("repository.url", "is neither file:///directory nor s3://bucket/prefix");
        }
        let repository = &self.repository;
        if repository.endpoint_url.as_deref().is_some_and(|url| url.contains('@')) {
            return fault(
                "repository.endpoint_url",
                "has a user or password in it: credentials come from the AWS variables, a profile or a role",
            );
        }
        if !repository.channel_keys.is_empty() && repository.trusted_keys.is_empty() {
            return fault(
                "repository.channel_keys",
                "are given without repository.trusted_keys: name those too",
            );
        }
        if !self.http.version_path.starts_with('/') {
            return fault("http.version_path", "does not start with a slash");
        }
        if self.http.limits.header_bytes < 8192 {
            return fault("http.limits.header_bytes", "is below 8192, the least that HTTP clients rely on");
        }
        let thresholds = &self.upgrade.thresholds;
        if !(0.0..=1.0).contains(&thresholds.errors) {
            return fault("upgrade.thresholds.errors", "is no share: 0.05 is five in a hundred");
        }
        if thresholds.requests == 0 {
            return fault("upgrade.thresholds.requests", "is 0: nothing can be judged by no request");
        }
        if thresholds.health_every < Duration::from_millis(10) {
            return fault("upgrade.thresholds.health_every", "is below 10ms: it would be a load of its own");
        }
        if self.preflight.cpu < Duration::from_secs(1) {
            return fault("preflight.cpu", "is below 1s, the least that the kernel can limit");
        }
        if self.preflight.files < 16 {
            return fault("preflight.files", "is below 16: no application starts with so few open files");
        }
        if let Err((key, reason)) = self.pull.check() {
            return fault(key, reason);
        }
        if let Some(Err((key, reason))) = self.webhooks.iter().map(Webhook::check).find(Result::is_err) {
            return fault(key, reason);
        }
        if self.tables.max_bytes < 1024 * 1024 {
            return fault("tables.max_bytes", "is below 1048576: no table would fit");
        }
        if !self.tables.memory.is_absolute() {
            return fault("tables.memory", "is no absolute path, such as \"/dev/shm\"");
        }
        if self.http.limits.connections == 0 {
            return fault("http.limits.connections", "is 0: nobody could connect");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

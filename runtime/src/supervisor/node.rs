//! What the supervisor knows: settings, the record, and what only living processes make true.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use chrono::{DateTime, Utc};
use nix::fcntl::Flock;
use relmgr_conf::Effective;
use relmgr_model::Version;
use relmgr_model::conf::{ConfError, ConfStatus};
use relmgr_model::control::{
    ChannelStatus, CurrentRelease, GenerationStatus, NodeStatus, Operation, Phase, Pong, PrevRelease,
    ReleaseList, ReleaseStatus,
};
use relmgr_model::home::Home;
use relmgr_model::host::{Answer, Command, HostStart, TablesStart};
use relmgr_model::manifest::AbiVersion;
use relmgr_model::plan::{Facts, Machine};
use relmgr_model::record::NodeRecord;
use relmgr_model::sessions::{SessionCounts, TcpStart, TcpStatus};
use relmgr_model::settings::Settings;
use relmgr_model::status::Status;
use relmgr_model::tables::TablesStatus;
use relmgr_store::journal::{self, JournalError};
use relmgr_store::repository::Repository;
use relmgr_store::tree::ReleaseTree;
use tokio::sync::watch;

use super::admin::Metrics;
use super::handler::OnProbation;
use super::host_process::{CallError, HostProcess, SpawnError};
use super::listeners::Listener;
use super::lock;
use super::pull::Pull;
use super::pulse::Lately;
use super::takeover::Door;
use super::tell::{Running, Webhooks};

/// The target triple that relmgr itself was built for.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A node while its supervisor runs.
pub struct Node {
    /// Its home directory.
    pub home: Home,
    /// `relmgr.toml`.
    pub settings: Settings,
    /// The installed releases on disk.
    pub tree: ReleaseTree,
    /// Where releases come from.
    pub repository: Repository,
    /// What releases must fit.
    pub machine: Machine,
    /// The listening sockets.
    pub listeners: Vec<Listener>,
    /// Those for raw TCP, and what for.
    pub tcp: Vec<(TcpStart, Listener)>,
    /// The admin listener's socket.
    pub admin: Option<Listener>,
    /// What is counted for who watches.
    pub metrics: Metrics,
    /// Following a channel by itself.
    pub pull: Pull,
    /// Who is told what happens.
    pub webhooks: Webhooks,
    /// Held by the operation that is under way.
    pub operations: tokio::sync::Mutex<()>,
    /// Held while a host is brought up with the permanent release, and while another release becomes that one:
    /// the two must not meet.
    pub pointers: tokio::sync::Mutex<()>,
    /// Notified when another release serves, or the same one with other values: other files may belong to it.
    pub rearm: tokio::sync::Notify,
    /// Set once, when the node is to end.
    pub end: watch::Sender<Option<End>>,
    /// What another image of the supervisor needs beside the listeners.
    pub held: Held,
    /// Where questions come in.
    pub door: Door,
    /// When the supervisor started; another image of it is the same one.
    pub started_at: DateTime<Utc>,
    commands: Arc<Mutex<BTreeMap<i32, Arc<Running>>>>,
    state: Mutex<State>,
}

/// What a supervisor holds for as long as it lives, in whatever image.
#[derive(Debug)]
pub struct Held {
    /// The home's lock.
    pub lock: Flock<File>,
    /// The control socket.
    pub control: OwnedFd,
    /// When the supervisor started, in its first image.
    pub started_at: DateTime<Utc>,
}

/// A command that somebody waits for, as long as this lives.
#[derive(Debug)]
pub struct Known {
    pid: i32,
    among: Arc<Mutex<BTreeMap<i32, Arc<Running>>>>,
}

impl Drop for Known {
    fn drop(&mut self) {
        lock(&self.among).remove(&self.pid);
    }
}

/// The sockets that a node listens on.
pub struct Sockets {
    /// Public, for HTTP: those that speak TLS last.
    pub listeners: Vec<Listener>,
    /// Public, for raw TCP.
    pub tcp: Vec<(TcpStart, Listener)>,
    /// For who watches.
    pub admin: Option<Listener>,
}

/// Why a node ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Someone asked for it.
    Asked,
    /// The host dies too often.
    GaveUp(String),
}

/// What changes while the supervisor runs.
pub struct State {
    /// What `state.json` says.
    pub record: NodeRecord,
    /// The release that serves.
    pub current: Option<Serving>,
    /// What the release that serves runs with.
    pub in_force: Option<InForce>,
    /// What became of reloads.
    pub conf: Reloads,
    /// The certificates of the listeners that speak TLS.
    pub tls: super::tls::Account,
    /// What the release before it was started with, while that may come back.
    pub in_force_before: Option<InForce>,
    /// The release on probation.
    pub probation: Option<OnProbation>,
    /// What the current generation has answered lately.
    pub lately: Lately,
    /// Whether prev has taken the place of a permanent release that does not live: that happens once.
    pub fallen_back: bool,
    /// The process that serves.
    pub host: Option<Arc<HostProcess>>,
    /// How often a host was started again after it died.
    pub host_restarts: u64,
    /// When hosts died, as far back as `supervisor.period`.
    pub deaths: VecDeque<Instant>,
    /// What an operation that is under way is called, for the one who is refused.
    pub running: Option<String>,
    /// The last operation that ended.
    pub last_operation: Option<Operation>,
    /// The node has given up, or was told to stop.
    pub stopped: bool,
}

/// The release that serves.
#[derive(Debug, Clone)]
pub struct Serving {
    /// Its version.
    pub version: Version,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// A release and the configuration that it runs with. Secrets are in it: it never leaves the process but for the
/// host.
#[derive(Debug, Clone)]
pub struct InForce {
    /// The release.
    pub version: Version,
    /// Its configuration.
    pub effective: Effective,
    /// Since when.
    pub loaded_at: DateTime<Utc>,
    /// Keys of which the files have other values, which wait for a restart.
    pub pending: Vec<String>,
    /// Why the files as they are now are not in force.
    pub error: Option<ConfError>,
}

impl InForce {
    /// What a release has just been started with.
    pub fn new(version: Version, effective: Effective) -> Self {
        Self { version, effective, loaded_at: Utc::now(), pending: vec![], error: None }
    }
}

/// What became of reloads since the supervisor started.
#[derive(Debug, Default)]
pub struct Reloads {
    /// Those that changed something.
    pub reloads: u64,
    /// Those that were refused.
    pub refused: u64,
    /// What the last evaluation looked at.
    pub reads: relmgr_conf::Reads,
    /// Why changes of files go unseen.
    pub unwatched: Option<String>,
    /// What an application was told and did not take over.
    pub refused_values: Option<(Version, Effective)>,
}

impl Node {
    /// Has the node end; the first reason counts.
    pub fn end_for(&self, why: End) {
        self.with(|state| state.stopped = true);
        self.end.send_if_modified(|end| {
            let first = end.is_none();
            end.get_or_insert(why);
            first
        });
    }

    /// A node whose processes are not up yet.
    pub fn new(
        home: Home,
        settings: Settings,
        repository: Repository,
        webhooks: Webhooks,
        record: NodeRecord,
        sockets: Sockets,
        held: Held,
    ) -> Arc<Self> {
        let started_at = held.started_at;
        let Sockets { listeners, tcp, admin } = sockets;
        let machine = Machine {
            app: settings.app.clone(),
            target: TARGET.into(),
            glibc: crate::host::loader::sys::glibc_version(),
            abi: AbiVersion { major: relmgr_abi::ABI_MAJOR, minor: relmgr_abi::ABI_MINOR },
        };
        let state = State {
            record,
            current: None,
            in_force: None,
            conf: Reloads::default(),
            tls: super::tls::Account::default(),
            in_force_before: None,
            probation: None,
            lately: Lately::default(),
            fallen_back: false,
            host: None,
            host_restarts: 0,
            deaths: VecDeque::new(),
            running: None,
            last_operation: None,
            stopped: false,
        };
        Arc::new(Self {
            pull: Pull::new(&home, &settings),
            tree: ReleaseTree::new(home.clone()),
            home,
            settings,
            repository,
            webhooks,
            machine,
            listeners,
            tcp,
            admin,
            metrics: Metrics::default(),
            operations: tokio::sync::Mutex::new(()),
            pointers: tokio::sync::Mutex::new(()),
            rearm: tokio::sync::Notify::new(),
            end: watch::Sender::new(None),
            held,
            door: Door::default(),
            started_at,
            commands: Arc::default(),
            state: Mutex::new(state),
        })
    }

    /// Looks at, or changes, what changes. `f` must not wait for anything.
    pub fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut lock(&self.state))
    }

    /// Changes the record, in memory when it is on disk.
    ///
    /// # Errors
    /// [`JournalError`]; nothing has changed then.
    pub fn change_record(&self, change: impl FnOnce(&mut NodeRecord)) -> Result<(), JournalError> {
        // Under the lock, so that no other change comes in between: a start and an operation may meet.
        self.with(|state| {
            let mut record = state.record.clone();
            change(&mut record);
            if record != state.record {
                journal::replace(&self.home, &state.record, &record)?;
                state.record = record;
            }
            Ok(())
        })
    }

    /// Notes a command that is waited for until the result is dropped.
    pub fn know(&self, command: Running) -> Known {
        let pid = command.pid;
        lock(&self.commands).insert(pid, Arc::new(command));
        Known { pid, among: self.commands.clone() }
    }

    /// The commands that are waited for: the children of this process, but for the host and trials.
    pub fn commands(&self) -> Vec<Arc<Running>> {
        lock(&self.commands).values().cloned().collect()
    }

    /// Whether the node has given up, or was told to stop.
    pub fn is_stopping(&self) -> bool {
        self.with(|state| state.stopped)
    }

    /// Waits until no host is being brought up.
    pub async fn booted(&self) {
        drop(self.pointers.lock().await);
    }

    /// Waits until another host serves in the place of `dead`, or the node has given up.
    pub async fn recovered(&self, dead: &Arc<HostProcess>) {
        loop {
            self.booted().await;
            let another = self.host().is_some_and(|host| !Arc::ptr_eq(&host, dead));
            if another || self.is_stopping() {
                return;
            }
            // Whoever brings the next one up has been woken by the same death and is about to begin.
            tokio::task::yield_now().await;
        }
    }

    /// The host that serves.
    pub fn host(&self) -> Option<Arc<HostProcess>> {
        self.with(|state| state.host.clone())
    }

    /// Starts a host process that does not accept yet.
    ///
    /// # Errors
    /// [`SpawnError`], or that it died at once.
    pub async fn start_host(&self) -> Result<Arc<HostProcess>, HostStartError> {
        self.with(|state| state.tls.usable())?;
        let sockets = self.listeners.iter().chain(self.tcp.iter().map(|(_, listener)| listener));
        let lent = sockets.map(Listener::lend).collect::<Result<Vec<_>, _>>();
        let host = HostProcess::spawn(lent.map_err(SpawnError::from)?, self.settings.log.format)?;
        let start = HostStart {
            listeners: self.listeners.len(),
            secure: self.listeners.iter().filter(|listener| listener.secure).count(),
            certificates: self.with(|state| state.tls.pairs()),
            tcp: self.tcp.iter().map(|(start, _)| start.clone()).collect(),
            version_path: self.settings.http.version_path.clone(),
            limits: self.settings.http.limits.clone(),
            sessions: self.settings.sessions.clone(),
            unload: self.settings.loader.unload,
            tables: Some(TablesStart { home: absolute(&self.home), settings: self.settings.tables.clone() }),
        };
        host.init(start).await?;
        Ok(host)
    }

    /// The facts that a plan is decided from, without the channel's and what only manifests say.
    pub fn facts(&self) -> Facts {
        self.with(|state| Facts {
            current: state.current.as_ref().map(|serving| serving.version.clone()),
            prev: state.record.prev.clone(),
            permanent: state.record.permanent.clone(),
            channel: None,
            releases: state
                .record
                .releases
                .iter()
                .map(|(version, release)| (version.clone(), release.status.clone()))
                .collect(),
            probation: !self.settings.upgrade.probation.is_zero(),
            state: false,
        })
    }

    /// Whether `version` keeps state in memory. What cannot be read is told by the steps that need it.
    pub fn keeps_state(&self, version: &Version) -> bool {
        self.tree.manifest(version).is_ok_and(|manifest| manifest.state.is_some())
    }

    /// The answer to `ping`.
    pub fn pong(&self) -> Pong {
        Pong {
            app: self.settings.app.clone(),
            supervisor_pid: std::process::id(),
            relmgr: crate::VERSION.into(),
        }
    }

    fn channel_status(&self, record: &NodeRecord) -> Option<ChannelStatus> {
        let name = self.settings.repository.channel_name(None);
        let seen = record.channels.get(name)?;
        let (serial, expires) = (seen.serial, seen.expires);
        Some(ChannelStatus { name: name.into(), serial, expires, expired: expires <= Utc::now() })
    }

    /// The answer to `status`.
    pub async fn status(&self) -> NodeStatus {
        let ((generations, sessions), tables) = tokio::join!(self.loaded(), self.tables());
        let tcp = self.tcp.iter().map(|(start, listener)| TcpStatus {
            name: start.name.clone(),
            address: listener.address.to_string(),
        });
        let addresses = |secure| {
            let of_kind = self.listeners.iter().filter(move |listener| listener.secure == secure);
            of_kind.map(|listener| listener.address.to_string()).collect::<Vec<_>>()
        };
        self.with(|state| {
            let permanent = state.record.permanent.clone();
            let current = state.current.as_ref().map(|serving| CurrentRelease {
                version: serving.version.clone(),
                status: if permanent.as_ref() == Some(&serving.version) { "permanent" } else { "current" }
                    .into(),
                since: serving.since,
            });
            NodeStatus {
                app: self.settings.app.clone(),
                home: absolute(&self.home),
                phase: state.phase(),
                supervisor_pid: std::process::id(),
                relmgr: crate::VERSION.into(),
                host_pid: state.host.as_ref().map(|host| host.pid),
                started_at: self.started_at,
                host_restarts: state.host_restarts,
                current,
                prev: state.prev().map(|version| PrevRelease { version }),
                permanent,
                probation_ends_at: state.probation.as_ref().map(|probation| probation.ends_at),
                generations,
                listeners: addresses(false),
                tls: state.tls.status(addresses(true)),
                admin: self.admin.as_ref().map(|listener| listener.address.to_string()),
                tcp: tcp.collect(),
                sessions,
                last_operation: state.last_operation.clone(),
                conf: state.conf_status(),
                channel: self.channel_status(&state.record),
                pull: super::pull::status(self, &state.record),
                tables,
            }
        })
    }

    /// `words` of the application that serves, without the secrets of the configuration in force.
    pub fn redact(&self, words: &str) -> String {
        self.with(|state| {
            let known = state.in_force.iter().chain(&state.in_force_before);
            known.fold(words.to_owned(), |words, in_force| in_force.effective.redact(&words))
        })
    }

    async fn tables(&self) -> Option<TablesStatus> {
        let host = self.host()?;
        // As for the generations.
        let asked = tokio::time::timeout(std::time::Duration::from_secs(1), host.call(Command::Tables));
        match asked.await {
            Ok(Ok(Answer::Tables { tables })) => tables,
            _ => None,
        }
    }

    async fn loaded(&self) -> (Vec<GenerationStatus>, Option<SessionCounts>) {
        let Some(host) = self.host() else { return (vec![], None) };
        // A host whose workers are all stuck must not keep `status` from answering.
        let asked = tokio::time::timeout(std::time::Duration::from_secs(1), host.call(Command::Generations));
        match asked.await {
            Ok(Ok(Answer::Generations { mut generations, sessions })) => {
                let redact = |words: &str| self.redact(words);
                for generation in &mut generations {
                    generation.reword(&redact);
                }
                (generations, Some(sessions))
            }
            _ => (vec![], None),
        }
    }

    /// The answer to `releases`.
    pub fn releases(&self) -> ReleaseList {
        self.with(|state| {
            let serving = state.current.as_ref().map(|serving| &serving.version);
            let (record, prev) = (&state.record, state.prev());
            let releases = record.releases.iter().rev().map(|(version, release)| {
                let is_current = serving == Some(version) && release.status != Status::Permanent;
                let reason = match &release.status {
                    Status::Failed { reason, .. } => Some(reason.clone()),
                    _ => None,
                };
                ReleaseStatus {
                    version: version.clone(),
                    status: if is_current { "current" } else { release.status.name() }.into(),
                    reason,
                    prev: prev.as_ref() == Some(version),
                    installed_at: release.installed_at,
                }
            });
            ReleaseList { releases: releases.collect() }
        })
    }
}

/// A host that could not be brought up.
#[derive(Debug, thiserror::Error)]
pub enum HostStartError {
    /// There is no process.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// It could not serve those who speak TLS.
    #[error(transparent)]
    Tls(#[from] super::tls::NoneError),
    /// It did not get as far as to serve.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl State {
    /// The configuration of the release that serves.
    fn conf_status(&self) -> Option<ConfStatus> {
        let serving = self.current.as_ref().map(|serving| &serving.version);
        let in_force = self.in_force.as_ref().filter(|in_force| serving == Some(&in_force.version))?;
        Some(ConfStatus {
            hash: in_force.effective.hash(),
            loaded_at: in_force.loaded_at,
            pending: in_force.pending.clone(),
            error: in_force.error.clone(),
            unwatched: self.conf.unwatched.clone(),
            reloads: self.conf.reloads,
            refused: self.conf.refused,
        })
    }

    /// The release that served before the one that serves.
    fn prev(&self) -> Option<Version> {
        match &self.probation {
            Some(probation) => Some(probation.from.clone()),
            None => self.record.prev.clone(),
        }
    }

    fn phase(&self) -> Phase {
        match (&self.host, &self.running) {
            _ if self.stopped => Phase::Stopped,
            (None, _) => Phase::Booting,
            (Some(_), _) if self.probation.is_some() => Phase::Probation,
            (Some(_), Some(_)) => Phase::Upgrading,
            (Some(_), None) => Phase::Steady,
        }
    }
}

fn absolute(home: &Home) -> PathBuf {
    std::path::absolute(home.path()).unwrap_or_else(|_| home.path().to_owned())
}

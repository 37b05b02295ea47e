//! The supervisor: the process with the stable pid. It holds the listening sockets, the control socket and the
//! release handler, and starts the host again when it dies. It loads no application code.
//!
//! ```text
//! run            lock, settings, record, listeners; boot; until told to stop
//!   ├─ boot      a host with the permanent release; again after a death, under the intensity
//!   ├─ conf      app.conf while the node runs: watch, reload
//!   ├─ tls       the certificates of the public listeners: read, judged, watched
//!   ├─ control   the control socket; peer: who may speak
//!   │    └─ handler   one operation at a time: plan, walk, history
//!   │         └─ probation   a release that serves and is watched
//!   ├─ admin     metrics, health and the node's page for who watches
//!   ├─ pull      the channel, followed by itself
//!   ├─ pulse     the host's heartbeat, and what it has answered lately
//!   ├─ unretired another host for one that holds too many libraries
//!   ├─ tell      the operator's commands and webhooks
//!   ├─ takeover  another relmgr in the place of this one
//!   ├─ host_process, preflight   the two kinds of children of ours; core_dump, oom: what they died of
//!   └─ systemd, wrapper   who started it, and whose scripts call it
//! ```

mod admin;
mod boot;
mod conf;
mod control;
mod core_dump;
mod handler;
mod home_lock;
mod host_process;
mod last_words;
mod listeners;
mod node;
mod oom;
mod peer;
mod preflight;
mod pull;
mod pulse;
mod recording;
mod relay;
mod systemd;
mod takeover;
mod tell;
mod tls;
mod unretired;
mod wrapper;

use std::fs::File;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::Utc;
use nix::fcntl::{Flock, FlockArg};
use relmgr_model::home::Home;
use relmgr_model::record::{HistoryEntry, NodeRecord, OperationRecord};
use relmgr_model::sessions::TcpStart;
use relmgr_model::settings::{Settings, SettingsError};
use relmgr_model::takeover::{Takeover, Untold};
use relmgr_store::journal::{self, JournalError};
use relmgr_store::repository::{Options, Repository, RepositoryError};
use relmgr_store::signature::Trust;
use relmgr_store::storage::S3Options;
use relmgr_store::tree::ReleaseTree;
use tokio::signal::unix::{SignalKind, signal};

use handler::{By, OperationError, note_for_pull};
use listeners::{BindError, Listener};
use node::{End, Held, Node, Sockets};
use tell::Webhooks;

pub use takeover::{Received, ReceivedError, answer as takeover_check, received};

/// Locks without minding a panic under the lock: every value behind one is whole at every point.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A node that cannot run, or that gave up.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// `relmgr.toml` is not there or not readable.
    #[error("{} cannot be read: a node's home holds relmgr.toml (--home or RELMGR_HOME says where)", path.display())]
    ReadSettings {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// `relmgr.toml` is wrong.
    #[error("{}: {source}", path.display())]
    Settings {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        source: SettingsError,
    },
    /// Another supervisor runs this home.
    #[error("another supervisor (pid {pid}) runs this home: `relmgr stop` ends it")]
    Locked {
        /// Its process.
        pid: String,
    },
    /// The system refused.
    #[error("{} cannot be {what}", path.display())]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// `read` or `written`.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// No certificate can be served.
    #[error(transparent)]
    Tls(#[from] tls::NoneError),
    /// The repository's URL is wrong.
    #[error("repository.url: {0}")]
    Repository(#[source] RepositoryError),
    /// The node's memory.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What another image of this process has left.
    #[error("what another relmgr handed over cannot be used")]
    Takeover(#[source] std::io::Error),
    /// The host dies too often.
    #[error("the node gave up: {0}")]
    GaveUp(String),
}

fn open_repository(settings: &Settings) -> Result<Repository, RepositoryError> {
    let settings = &settings.repository;
    let options = Options {
        s3: S3Options {
            endpoint_url: settings.endpoint_url.clone(),
            region: settings.region.clone(),
            path_style: settings.path_style,
            credentials: None,
        },
        trust: Trust::new(&settings.trusted_keys, &settings.channel_keys)?,
        timeout: settings.timeout,
    };
    Repository::open(&settings.url, options)
}

/// Runs the node at `home` with its `settings` until it is told to stop; in the place of another image of this process
/// where one has left something.
///
/// # Errors
/// [`RunError`].
pub async fn run(home: Home, settings: Settings, received: Option<Received>) -> Result<(), RunError> {
    let io = |path: std::path::PathBuf, what| move |source| RunError::Io { path, what, source };
    let repository = open_repository(&settings).map_err(RunError::Repository)?;
    let (node, left) = match received {
        Some(received) => {
            let (node, left) = inherit(home, settings, repository, received)?;
            (node, Some(left))
        }
        None => (begin(home, settings, repository).await?, None),
    };
    let mut signals = Signals::new().map_err(io("signals".into(), "caught"))?;
    // 4. An operation that a death interrupted ends here, in a definite state. One that came with this image goes on.
    match &left {
        Some(_) => takeover::hear_signals(),
        None => resolve_interrupted(&node)?,
    }
    handler::remember_last(&node);
    let half = match left {
        Some((host, takeover)) => {
            takeover::await_children(&takeover.children);
            takeover::adopt(&node, host, &takeover).map_err(|error| RunError::Takeover(error.0))?;
            Some((takeover.operation, takeover.relmgr))
        }
        None => None,
    };
    // 5. The permanent release, or another host for the one that serves.
    let control = control::listen(&node.held.control);
    let control = control.map_err(io(node.home.control_socket(), "listened on"))?;
    tokio::spawn(control::serve(node.clone(), control));
    if let Some(listener) = &node.admin {
        let listening = listener.lend().and_then(admin::listen);
        let listening = listening.map_err(io("listen.admin".into(), "listened on"))?;
        tracing::info!(address = %listener.address, "listening for who watches");
        tokio::spawn(admin::serve(node.clone(), listening));
    }
    tokio::spawn(conf::watch(node.clone()));
    if !node.settings.tls.is_empty() {
        tokio::spawn(tls::watch(node.clone()));
    }
    systemd::attend(node.clone());
    let mut end = node.end.subscribe();
    let booting = tokio::spawn({
        let node = node.clone();
        async move {
            match half {
                Some((half, from)) => handler::complete(&node, half, from).await,
                None => boot::boot(&node).await,
            }
            // A node that is to fetch its first release is ready when that serves.
            let (ready, is_ready) = tokio::sync::oneshot::channel();
            tokio::spawn(pull::run(node.clone(), ready));
            let _ = is_ready.await;
            systemd::ready(&node);
        }
    });
    tokio::select! {
        _ = end.wait_for(Option::is_some) => {}
        name = signals.stop(&node) => {
            tracing::info!("{name}: the node stops");
            node.end_for(End::Asked);
        }
    }
    booting.abort();
    systemd::stopping();
    stop(&node).await;
    let why = end.borrow().clone();
    match why {
        Some(End::GaveUp(words)) => Err(RunError::GaveUp(words)),
        _ => Ok(()),
    }
}

/// A node that starts from nothing.
async fn begin(home: Home, settings: Settings, repository: Repository) -> Result<Arc<Node>, RunError> {
    let io = |path: std::path::PathBuf, what| move |source| RunError::Io { path, what, source };
    // 1. One supervisor a home.
    std::fs::create_dir_all(home.run()).map_err(io(home.run(), "written"))?;
    let lock = home_lock::take(&home)?;
    // 2. What is remembered, and what a death left behind.
    let record = journal::load(&home, &settings.app)?;
    tidy(&home, &record);
    wrapper::write(&home, &settings.app);
    // 3. The sockets; from here on clients wait instead of being refused.
    let mut listeners = vec![];
    let plain = settings.listen.http.iter().map(|address| (address, "listen.http"));
    let secure = settings.listen.https.iter().map(|address| (address, listeners::HTTPS));
    for (address, setting) in plain.chain(secure) {
        let listener = bind(*address, setting).await?;
        tracing::info!(address = %listener.address, tls = listener.secure, "listening");
        listeners.push(listener);
    }
    let mut tcp = vec![];
    for (name, listen) in &settings.listen.tcp {
        let listener = bind(listen.address, "listen.tcp").await?;
        tracing::info!(address = %listener.address, name, "listening for raw TCP");
        tcp.push((TcpStart { name: name.clone(), framing: listen.framing }, listener));
    }
    let certificates = tls::Account::load(&home, &settings.tls, Utc::now());
    certificates.usable()?;
    // No host has it, so there is none to wait for.
    let admin = settings.listen.admin.map(|address| Listener::bind(address, "listen.admin")).transpose()?;
    let control = control::bind(&home.control_socket()).map_err(io(home.control_socket(), "written"))?;
    let held = Held { lock, control: control.into(), started_at: Utc::now() };
    let webhooks = start_webhooks(&home, &settings, vec![])?;
    let sockets = Sockets { listeners, tcp, admin };
    let node = Node::new(home, settings, repository, webhooks, record, sockets, held);
    node.with(|state| state.tls = certificates);
    Ok(node)
}

/// A node that goes on from another image of this process.
fn inherit(
    home: Home,
    settings: Settings,
    repository: Repository,
    received: Received,
) -> Result<(Arc<Node>, (host_process::Left, Takeover)), RunError> {
    let Received { mut takeover, lock, control, listeners, admin, host, commands, .. } = received;
    tracing::info!(before = takeover.relmgr, now = crate::VERSION, "taking over");
    // It is held already: to take it again proves that it is.
    let lock = Flock::lock(File::from(lock), FlockArg::LockExclusiveNonblock);
    let lock = lock.map_err(|(_, error)| RunError::Takeover(error.into()))?;
    let record = journal::load(&home, &settings.app)?;
    // In the order of the settings: HTTP, TLS, raw TCP.
    let (plain, secure) = (settings.listen.http.len(), settings.listen.https.len());
    let is_secure = |at| (plain..plain + secure).contains(&at);
    let sockets = listeners.into_iter().enumerate();
    let listeners = sockets.map(|(at, socket)| Listener::inherited(socket, is_secure(at)));
    let mut listeners = listeners.collect::<Result<Vec<_>, _>>().map_err(RunError::Takeover)?;
    let of_tcp = listeners.split_off((plain + secure).min(listeners.len()));
    let starts = settings.listen.tcp.iter();
    let starts = starts.map(|(name, listen)| TcpStart { name: name.clone(), framing: listen.framing });
    let tcp = starts.zip(of_tcp).collect();
    let admin = admin.map(|socket| Listener::inherited(socket, false)).transpose();
    let sockets = Sockets { listeners, tcp, admin: admin.map_err(RunError::Takeover)? };
    let held = Held { lock, control, started_at: takeover.started_at };
    let webhooks = start_webhooks(&home, &settings, std::mem::take(&mut takeover.untold))?;
    // Where none can be served the new host does not come up, and the old one goes on with those that it has.
    let certificates = tls::Account::load(&home, &settings.tls, Utc::now());
    let node = Node::new(home, settings, repository, webhooks, record, sockets, held);
    node.with(|state| state.tls = certificates);
    takeover.children.retain(|child| commands.iter().all(|(command, _)| command.pid != *child));
    for (command, stderr) in commands {
        tell::go_on(&node, command, stderr);
    }
    Ok((node, (host, takeover)))
}

fn start_webhooks(home: &Home, settings: &Settings, untold: Vec<Untold>) -> Result<Webhooks, RunError> {
    let path = home.settings();
    Webhooks::start(home, settings, untold).map_err(|source| RunError::Settings { path, source })
}

/// Clears what a death left. A disk that refuses is no reason not to serve.
fn tidy(home: &Home, record: &NodeRecord) {
    let tree = ReleaseTree::new(home.clone());
    let written = home.state().exists();
    if let Err(error) = tree.tidy(written.then_some(record)) {
        tracing::error!(
            "what an interrupted operation left is not cleared: {}",
            OperationError::from(error).describe()
        );
    }
    // From the first start on, what is in releases/ and not in the record is known to be of no use.
    if !written
        && tree.versions().is_ok_and(|versions| versions.is_empty())
        && let Err(error) = journal::save(home, record)
    {
        tracing::error!("{}", OperationError::from(error).describe());
    }
}

/// The host of a supervisor that was killed sees that it is alone and lets go of its sockets, within five seconds
/// even when all of its workers are stuck.
const TAKE_OVER: Duration = Duration::from_secs(6);

/// An operation that fails since the node stops has two files to write.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What happened last is told in one try of a server that answers; one that does not holds up no stop.
const LAST_NOTIFICATIONS: Duration = Duration::from_secs(1);

/// Binds `address`, and waits for a dying host that still has it.
async fn bind(address: SocketAddr, setting: &'static str) -> Result<Listener, BindError> {
    let deadline = Instant::now() + TAKE_OVER;
    let mut told = false;
    loop {
        match Listener::bind(address, setting) {
            Err(error) if error.is_taken() && Instant::now() < deadline => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%address, "the address is taken: waiting for a host of before to let go of it");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            bound => return bound,
        }
    }
}

async fn stop(node: &Arc<Node>) {
    if let Some(host) = node.host() {
        let drain = node.settings.upgrade.drain;
        host.stop(drain).await;
    }
    // An operation that was under way has lost its host, and says so in the history.
    let _ = tokio::time::timeout(LAST_WORDS, node.operations.lock()).await;
    node.webhooks.settle(LAST_NOTIFICATIONS).await;
    // Nobody is to wait for a node that is gone.
    let _ = std::fs::remove_file(node.home.control_socket());
}

/// The signals that mean something to a node.
struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
    hup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let (term, int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { term, int, hup: signal(SignalKind::hangup())? })
    }

    /// Waits for one that ends the node; SIGHUP reloads the configuration.
    async fn stop(&mut self, node: &Arc<Node>) -> &'static str {
        loop {
            tokio::select! {
                _ = self.term.recv() => return "SIGTERM",
                _ = self.int.recv() => return "SIGINT",
                // What a terminal that goes away sends, too: it must not take the node along.
                _ = self.hup.recv() => {
                    tracing::info!("SIGHUP: the configuration is reloaded");
                    let node = node.clone();
                    tokio::spawn(async move {
                        systemd::reloading();
                        conf::reload_by_itself(&node, conf::Cause::Signal).await;
                        let alone = node.operations.lock().await;
                        tls::reload(&node).await;
                        drop(alone);
                        systemd::reloaded();
                    });
                }
            }
        }
    }
}

/// Reads `relmgr.toml`.
///
/// # Errors
/// [`RunError::ReadSettings`] and [`RunError::Settings`].
pub fn read_settings(home: &Home) -> Result<Settings, RunError> {
    let path = home.settings();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(RunError::ReadSettings { path, source }),
    };
    Settings::parse(&text).map_err(|source| RunError::Settings { path, source })
}

/// An operation that was under way when the last supervisor ended is over: the node boots what was recorded, the
/// release before it or the new one, and that is said.
fn resolve_interrupted(node: &Node) -> Result<(), JournalError> {
    let record = node.with(|state| state.record.clone());
    let Some(operation) = &record.operation else { return Ok(()) };
    let (outcome, error) = operation.resolve(&record);
    let OperationRecord { kind, from, to, started_at, uid, by, relmgr, .. } = operation.clone();
    let by = By { uid: by.is_none().then_some(uid), agent: by };
    let words = error.as_deref().unwrap_or("it was committed");
    tracing::warn!(
        kind = kind.name(),
        to = to.as_ref().map(tracing::field::display),
        "an operation was interrupted: {words}"
    );
    let now = Utc::now();
    let ms = (now - started_at).num_milliseconds().max(0) as f64;
    let entry = HistoryEntry {
        at: now,
        kind,
        uid: by.uid,
        by: by.agent,
        from,
        to,
        outcome,
        error,
        verdict: None,
        relmgr,
        last_words: vec![],
        ms,
        steps: vec![],
    };
    node.metrics.operation(kind, outcome, ms);
    if let Err(error) = journal::append_history(&node.home, &entry) {
        // The log and the operator's hook have it; a history is no reason to serve nobody.
        tracing::error!(%error, "the history is not written");
    }
    let path = (entry.from.clone(), entry.to.clone());
    tell::ended(node, &entry, &Default::default());
    node.change_record(|record| {
        record.operation = None;
        note_for_pull(record, by, kind, (path.0.as_ref(), path.1.as_ref()), outcome);
    })
}

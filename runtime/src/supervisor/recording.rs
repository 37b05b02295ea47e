//! Recordings of what the application keeps (`relmgr state`): made while it serves, and given to the release that
//! serves elsewhere. Requests wait while the state in memory is written or read; state tables are copied beside them.

use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use relmgr_model::Version;
use relmgr_model::host::{Answer, CodeChange, Command};
use relmgr_model::manifest::StateSchema;
use relmgr_model::plan::Refusal;
use relmgr_model::recording::{self, Loaded, MemoryRecording, Recording, TableRecording};
use relmgr_model::state::{NoWay, way};
use relmgr_model::tables::TableStatus;
use relmgr_store::atomic;
use relmgr_store::tree::TreeError;

use super::host_process::{CallError, HostProcess};
use super::node::Node;

/// A recording that was not made, or not taken.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// Whoever reads a state reads everything in it.
    #[error("uid {uid} may not do this: what an application keeps is for root and the node's user")]
    NotAllowed {
        /// Who asks.
        uid: u32,
    },
    /// One at a time.
    #[error("another operation is running")]
    Busy,
    /// Nothing serves.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The release's directory.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// There is no host.
    #[error("there is no host process: see the log of `relmgr run`")]
    NoHost,
    /// It would be two recordings in one.
    #[error("{} is there already: a recording is a directory of its own", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// A file.
    #[error("{} cannot be {what}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It says nothing that is known.
    #[error("{} is no recording of this relmgr", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// It is of something else.
    #[error("the recording is of {recorded}, this node runs {app}")]
    OtherApp {
        /// Whose it is.
        recorded: String,
        /// Whose it should be.
        app: String,
    },
    /// There is nothing in it to give.
    #[error("{} holds no state in memory (state tables are put in place before a node starts)", path.display())]
    NoMemory {
        /// The recording.
        path: PathBuf,
    },
    /// It comes from the future.
    #[error("the recording is of schema {recorded}, and {version} knows {known} at most")]
    Newer {
        /// Its schema version.
        recorded: u32,
        /// The release that serves.
        version: Version,
        /// Its own.
        known: u32,
    },
    /// The release cannot read it.
    #[error("{version} cannot take the recording over: {no_way}")]
    NoWay {
        /// The release that serves.
        version: Version,
        /// Why.
        no_way: NoWay,
    },
    /// The host's words.
    #[error("{0}")]
    Host(String),
}

impl RecordingError {
    /// With its causes.
    pub fn describe(&self) -> String {
        let cause = std::error::Error::source(self).map(|cause| format!(": {cause}"));
        format!("{self}{}", cause.unwrap_or_default())
    }
}

/// What serves, and who is asked for it.
struct Serving {
    version: Version,
    state: Option<StateSchema>,
    host: Arc<HostProcess>,
}

fn serving(node: &Node, uid: u32) -> Result<Serving, RecordingError> {
    if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
        return Err(RecordingError::NotAllowed { uid });
    }
    let version = node.facts().current.ok_or(Refusal::NoCurrent)?;
    let state = node.tree.manifest(&version)?.state;
    let host = node.host().ok_or(RecordingError::NoHost)?;
    Ok(Serving { version, state, host })
}

/// Nothing else changes what serves meanwhile. A reload by the node itself takes milliseconds and is waited for.
async fn begin(node: &Node) -> Result<tokio::sync::MutexGuard<'_, ()>, RecordingError> {
    if node.with(|state| state.running.is_some()) {
        return Err(RecordingError::Busy);
    }
    Ok(node.operations.lock().await)
}

/// Makes a recording in `directory`, which must not be there.
///
/// # Errors
/// [`RecordingError`]; nothing is left of it.
pub async fn save(node: &Arc<Node>, directory: PathBuf, uid: u32) -> Result<Recording, RecordingError> {
    let _operation = begin(node).await?;
    let serving = serving(node, uid)?;
    make(&directory, "written")?;
    let recorded = record(node, &serving, &directory).await;
    if recorded.is_err() {
        // Half a recording is none.
        let _ = std::fs::remove_dir_all(&directory);
    }
    recorded
}

async fn record(node: &Node, serving: &Serving, directory: &Path) -> Result<Recording, RecordingError> {
    let memory = match &serving.state {
        Some(state) => Some(save_memory(node, serving, state, directory.join(recording::MEMORY)).await?),
        None => None,
    };
    let path = directory.join(recording::TABLES);
    make(&path, "written")?;
    let copied = serving.host.call(Command::CopyTables { path: path.clone() }).await;
    let tables = match copied.map_err(|error| refused(node, &error))? {
        Answer::Tables { tables: Some(tables) } => Some(tables.tables.into_iter().map(table).collect()),
        _ => {
            // There is nothing in it.
            let _ = std::fs::remove_dir(&path);
            None
        }
    };
    let (app, version) = (node.settings.app.clone(), serving.version.clone());
    let recording = Recording { app, version, memory, tables };
    let text = serde_json::to_vec_pretty(&recording).unwrap_or_default();
    let path = directory.join(recording::DESCRIPTION);
    atomic::write(&path, &text, 0o600).map_err(|source| RecordingError::Io {
        path,
        what: "written",
        source,
    })?;
    // The directory itself is a new entry of another one.
    if let Some(parent) = directory.parent() {
        let path = parent.to_owned();
        atomic::sync_dir(parent).map_err(|source| RecordingError::Io { path, what: "written", source })?;
    }
    Ok(recording)
}

async fn save_memory(
    node: &Node,
    serving: &Serving,
    state: &StateSchema,
    into: PathBuf,
) -> Result<MemoryRecording, RecordingError> {
    let (patience_ms, code_change) = (patience(node), change(node, state.version));
    let lent = serving.host.call(Command::LendState { patience_ms, code_change, quiet_ms: None }).await;
    let _ = serving.host.call(Command::Resume).await;
    let Answer::Lent { path: from, bytes } = lent.map_err(|error| refused(node, &error))? else {
        return Err(RecordingError::Host("the host lends no state".into()));
    };
    let copied = tokio::task::spawn_blocking(move || copy(&from, &into)).await;
    let _ = serving.host.call(Command::ForgetState).await;
    copied.unwrap_or_else(|error| Err(RecordingError::Host(error.to_string())))?;
    Ok(MemoryRecording { schema: state.version, shape: state.shape.clone(), bytes })
}

/// The directory is new, and nobody looks for the file before the recording is described.
fn copy(from: &Path, into: &Path) -> Result<(), RecordingError> {
    let copied = File::open(from).and_then(|mut from| {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(into)?;
        std::io::copy(&mut from, &mut file)?;
        file.sync_all()
    });
    copied.map_err(|source| RecordingError::Io { path: into.to_owned(), what: "written", source })
}

fn make(path: &Path, what: &'static str) -> Result<(), RecordingError> {
    // What applications keep is nobody else's to read.
    DirBuilder::new().mode(0o700).create(path).map_err(|source| match source.kind() {
        ErrorKind::AlreadyExists => RecordingError::Exists { path: path.to_owned() },
        _ => RecordingError::Io { path: path.to_owned(), what, source },
    })
}

fn table(status: TableStatus) -> TableRecording {
    let TableStatus { name, schema, opened, records, kept_aside, .. } = status;
    TableRecording { name, schema: opened.unwrap_or(schema), records, kept_aside }
}

/// Gives the release that serves the state in memory that the recording in `directory` holds.
///
/// # Errors
/// [`RecordingError`]; the release goes on with its own.
pub async fn load(node: &Arc<Node>, directory: PathBuf, uid: u32) -> Result<Loaded, RecordingError> {
    let _operation = begin(node).await?;
    let Serving { version, state, host } = serving(node, uid)?;
    let recording = read(&directory)?;
    if recording.app != node.settings.app {
        return Err(RecordingError::OtherApp { recorded: recording.app, app: node.settings.app.clone() });
    }
    let MemoryRecording { schema, shape, bytes } =
        recording.memory.ok_or(RecordingError::NoMemory { path: directory.clone() })?;
    if let Some(own) = state.as_ref().filter(|own| own.version < schema) {
        return Err(RecordingError::Newer { recorded: schema, version, known: own.version });
    }
    let recorded = StateSchema { version: schema, shape, older: vec![] };
    way(Some(&recorded), state.as_ref())
        .map_err(|no_way| RecordingError::NoWay { version: version.clone(), no_way })?;
    let path = directory.join(recording::MEMORY);
    let own_schema = state.map_or(schema, |state| state.version);
    let (patience_ms, code_change) = (patience(node), change(node, schema));
    let loaded = host.call(Command::LoadState { path, own_schema, patience_ms, code_change }).await;
    loaded.map_err(|error| refused(node, &error))?;
    Ok(Loaded { version, schema, bytes })
}

fn read(directory: &Path) -> Result<Recording, RecordingError> {
    let path = directory.join(recording::DESCRIPTION);
    match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|source| RecordingError::Unknown { path, source }),
        Err(source) => Err(RecordingError::Io { path, what: "read", source }),
    }
}

fn patience(node: &Node) -> u64 {
    u64::try_from(node.settings.upgrade.children_patience().as_millis()).unwrap_or(u64::MAX)
}

fn change(node: &Node, schema: u32) -> CodeChange {
    let upgrade = &node.settings.upgrade;
    let quiesce_ms = u64::try_from(upgrade.quiesce.as_millis()).unwrap_or(u64::MAX);
    CodeChange { schema, quiesce_ms, max_bytes: upgrade.state_max }
}

fn refused(node: &Node, error: &CallError) -> RecordingError {
    RecordingError::Host(node.redact(&error.to_string()))
}

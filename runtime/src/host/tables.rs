//! The state tables: where they lie, opened when the first release asks for them.

use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use super::lend::beside;
use relmgr_abi::tables::{FfiStore, TableFault, kind};
use relmgr_model::host::{Answer, HostError, TablesStart};
use relmgr_model::tables::{Durability, SchemaCount, SweepStatus, Sync, TableStatus, Tables, TablesStatus};
use relmgr_store::atomic;
use relmgr_tables::{OpenError, Options, Store, TableFacts};
use tokio::sync::Notify;

/// What the supervisor says of them; none in a preflight.
static START: OnceLock<TablesStart> = OnceLock::new();

/// Open from the first time that a release asks, for as long as the host lives: LMDB must not have it open twice.
static STORE: Mutex<Option<Store>> = Mutex::new(None);

/// Something has changed that those who watch are to be told of.
static NEWS: Notify = Notify::const_new();

/// What is on its way with `sync = "relaxed"` reaches the disk so soon.
const RELAXED: Duration = Duration::from_secs(1);

/// Where they lie; to be said once, before a release is loaded, on one of the host's workers.
///
/// # Errors
/// No thread can be started.
pub fn settle(start: TablesStart) -> std::io::Result<()> {
    let relaxed = (start.settings.durability, start.settings.sync) == (Durability::Disk, Sync::Relaxed);
    // The channel takes one init only.
    let _ = START.set(start);
    tokio::spawn(tell_who_watches());
    if relaxed {
        // Here, and not where a release first asks: a thread that is started on a library's is taken for its own, and
        // keeps it in memory.
        std::thread::Builder::new().name("tables-sync".into()).spawn(sync_again_and_again)?;
    }
    Ok(())
}

/// A waker of a library's runs that library's code, also when its future has been dropped meanwhile: whoever wakes has
/// taken it out of the list. So it is woken by the host's workers only, and not by the thread that wrote, which may be
/// another library's. Before a library is unmapped, each of the workers has come to the end of what it was doing then,
/// and has run what the waking left on it.
async fn tell_who_watches() {
    loop {
        NEWS.notified().await;
        let store = super::lock(&STORE).clone();
        if let Some(store) = store {
            store.announce();
        }
    }
}

fn sync_again_and_again() {
    loop {
        std::thread::sleep(RELAXED);
        let store = super::lock(&STORE).clone();
        if let Some(Err(error)) = store.map(|store| store.sync()) {
            tracing::warn!("state tables: {}", error.words);
        }
    }
}

/// Why there are no tables.
#[derive(Debug, thiserror::Error)]
enum Unavailable {
    #[error("there are no state tables in a preflight: open them in `start`")]
    Preflight,
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{path}: the directory of the state tables cannot be made: {source}")]
    Directory { path: PathBuf, source: std::io::Error },
    #[error(
        "{path}: the directory of the state tables is not this node's alone (it belongs to user {owner}, mode \
         {mode:o}): remove it, or set tables.memory in relmgr.toml to a directory that others cannot write to"
    )]
    Foreign { path: PathBuf, owner: u32, mode: u32 },
}

/// The tables, for one instance of the release `version`.
pub fn lend(version: &str) -> Result<FfiStore, TableFault> {
    match store() {
        Ok(store) => Ok(store.lend()),
        Err(error) => {
            tracing::error!(version, "no state tables: {error}");
            Err(TableFault::new(kind::OTHER, error.to_string()))
        }
    }
}

fn store() -> Result<Store, Unavailable> {
    let start = START.get().ok_or(Unavailable::Preflight)?;
    let mut store = super::lock(&STORE);
    if let Some(store) = &*store {
        return Ok(store.clone());
    }
    let opened = Store::open(&directory(start)?, options(&start.settings))?;
    opened.announce_by(|| NEWS.notify_one());
    Ok(store.insert(opened).clone())
}

fn options(settings: &Tables) -> Options {
    let sync = match (settings.durability, settings.sync) {
        (Durability::Process, _) => relmgr_tables::Sync::Never,
        (Durability::Disk, Sync::Relaxed) => relmgr_tables::Sync::Relaxed,
        (Durability::Disk, Sync::Commit) => relmgr_tables::Sync::Commit,
    };
    Options { max_bytes: settings.max_bytes, sync }
}

/// The directory of the tables, made where there is none: the home's own, or one in shared memory.
fn directory(start: &TablesStart) -> Result<PathBuf, Unavailable> {
    let own = start.home.join("tables");
    private_directory(&own)?;
    match start.settings.durability {
        Durability::Disk => Ok(own),
        Durability::Process => {
            let id = identity(&own, &start.home)?;
            let directory = start.settings.memory.join(format!("relmgr-{id:016x}"));
            private_directory(&directory)?;
            Ok(directory)
        }
    }
}

/// Makes a directory that nobody else may look into; one that is there must be so.
fn private_directory(path: &Path) -> Result<(), Unavailable> {
    let words = |source| Unavailable::Directory { path: path.to_owned(), source };
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(words(error)),
    }
    // Not what a link points to: another user may have put it there.
    let found = std::fs::symlink_metadata(path).map_err(words)?;
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    if !found.is_dir() || owner != nix::unistd::geteuid().as_raw() || mode & 0o077 != 0 {
        return Err(Unavailable::Foreign { path: path.to_owned(), owner, mode });
    }
    Ok(())
}

/// A number for this home: made by chance when tables are first opened, so that a home that was removed and made anew
/// begins without them, and mixed with the path, so that a copy of a home has tables of its own.
fn identity(directory: &Path, home: &Path) -> Result<u64, Unavailable> {
    let path = directory.join("id");
    let words = |source| Unavailable::Directory { path: path.clone(), source };
    let seed = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mut seed = [0; 16];
            std::fs::File::open("/dev/urandom")
                .and_then(|mut file| file.read_exact(&mut seed))
                .map_err(words)?;
            let text: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
            atomic::write(&path, text.as_bytes(), 0o600).map_err(words)?;
            text
        }
        Err(error) => return Err(words(error)),
    };
    let home = std::fs::canonicalize(home).map_err(words)?;
    Ok(fnv(seed.trim().bytes().chain(home.as_os_str().as_encoded_bytes().iter().copied())))
}

/// FNV-1a: the same in every version of relmgr.
fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// What `status` says of the tables; `None`: nobody has opened one.
pub fn status() -> Option<TablesStatus> {
    let store = super::lock(&STORE).clone()?;
    let start = START.get()?;
    match store.facts() {
        Ok(facts) => Some(TablesStatus {
            durability: start.settings.durability,
            path: facts.path,
            used_bytes: facts.used_bytes,
            max_bytes: facts.max_bytes,
            tables: facts.tables.into_iter().map(table).collect(),
        }),
        Err(error) => {
            tracing::warn!("{error}");
            None
        }
    }
}

/// Copies the tables into the directory at `path`.
///
/// # Errors
/// The store's words.
pub async fn copy(path: PathBuf) -> Result<Answer, HostError> {
    let Some(store) = super::lock(&STORE).clone() else { return Ok(Answer::Tables { tables: None }) };
    let refused = |message: String| HostError { message };
    let copied = beside(move || store.copy(&path).map_err(|error| error.to_string()));
    match copied.map_err(|error| refused(error.to_string()))?.await {
        Ok(Ok(())) => Ok(Answer::Tables { tables: status() }),
        Ok(Err(message)) => Err(refused(message)),
        Err(_) => Err(refused("the copy was cut short".into())),
    }
}

fn table(facts: TableFacts) -> TableStatus {
    let sweep = facts.report.map(|report| SweepStatus {
        schemas: report
            .schemas
            .into_iter()
            .map(|(schema, records)| SchemaCount { schema, records })
            .collect(),
        sweeping: report.sweeping,
        migrated: report.migrated,
        expired: report.expired,
        unreadable: report.unreadable,
        not_handed_down: report.not_handed_down,
    });
    TableStatus {
        name: facts.name,
        key: facts.key,
        record: facts.record,
        schema: facts.schema,
        opened: facts.opened,
        records: facts.records,
        bytes: facts.bytes,
        kept_aside: facts.aside,
        sweep,
    }
}

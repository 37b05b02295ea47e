//! The environment, its tables and who has them open.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use heed::types::{Bytes, Str};
use heed::{Database, Env, EnvFlags, EnvOpenOptions, MdbError, RwTxn, WithTls};
use relmgr_abi::tables::{Report, TableFault, TableSpec, kind};
use serde::{Deserialize, Serialize};

use crate::watch::Watched;

/// So many tables may there be. Each transaction has a place for every one, whether it is used or not.
pub const MAX_TABLES: usize = 60;

/// Each thread that reads keeps a place for as long as it lives: the host's workers, and the threads for blocking
/// work of each generation, of which tokio has 512 at most.
const MAX_READERS: u32 = 2048;

/// What LMDB calls its file.
pub const FILE: &str = "data.mdb";

/// The layout of the environment, in the name of its directory.
const DIRECTORY: &str = "directory 1";

/// When what was committed reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Whenever the system likes: memory that outlives processes.
    Never,
    /// Before a commit returns, but for its last step, which the next commit or sync takes along.
    Relaxed,
    /// Before a commit returns.
    Commit,
}

/// How an environment is opened.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// It may grow so large, in bytes.
    pub max_bytes: u64,
    /// When what was committed reaches the disk.
    pub sync: Sync,
}

/// Tables that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made.
    #[error("{path}: the directory of the state tables cannot be made: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// LMDB does not open it.
    #[error("{path}: the state tables cannot be opened: {source}")]
    Environment {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: heed::Error,
    },
    /// An entry of the directory is of no form that is known.
    #[error("{path}: the entry of table `{table}` cannot be read: {source}")]
    Entry {
        /// The directory.
        path: PathBuf,
        /// Whose.
        table: String,
        /// Why.
        source: serde_json::Error,
    },
}

/// What the directory says of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub number: u32,
    pub key: String,
    pub record: String,
    /// The highest schema version that it was ever opened with.
    pub schema: u32,
}

/// An open table.
pub struct Table {
    pub db: Database<Bytes, Bytes>,
    pub watched: Watched,
    pub lowest: AtomicU32,
    pub users: AtomicU32,
    pub report: Mutex<Option<Report>>,
}

/// The store; cheap to clone.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Inner>);

pub struct Inner {
    pub env: Env<WithTls>,
    path: PathBuf,
    max_bytes: u64,
    directory: Database<Str, Bytes>,
    pub aside: Database<Bytes, Bytes>,
    tables: [OnceLock<Table>; MAX_TABLES],
    /// Schema versions by table and user.
    users: Mutex<BTreeMap<(u32, u64), u32>>,
    next_user: AtomicU64,
    /// Has [`Store::announce`] called soon; empty: who writes wakes those who watch.
    news: OnceLock<fn()>,
}

/// What there is to say of all tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Where they lie.
    pub path: PathBuf,
    /// So much may they take up, in bytes.
    pub max_bytes: u64,
    /// So much was ever taken up at once.
    pub used_bytes: u64,
    /// By name.
    pub tables: Vec<TableFacts>,
}

/// What there is to say of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableFacts {
    /// Its name.
    pub name: String,
    /// What its keys are.
    pub key: String,
    /// What its records are.
    pub record: String,
    /// Their highest schema version so far.
    pub schema: u32,
    /// The lowest schema version of those who have it open.
    pub opened: Option<u32>,
    /// How many there are.
    pub records: u64,
    /// Pages that they take up, in bytes.
    pub bytes: u64,
    /// Records that were kept aside.
    pub aside: u64,
    /// What the release that serves says of it.
    pub report: Option<Report>,
}

/// What LMDB says, in words that help.
pub fn fault(store: &Inner, error: &heed::Error) -> TableFault {
    let full = |words: String| TableFault::new(kind::FULL, words);
    match error {
        heed::Error::Mdb(MdbError::MapFull) => full(format!(
            "the tables are full ({} bytes, tables.max_bytes): delete records, or set a greater value in \
             relmgr.toml and start the node again",
            store.max_bytes
        )),
        heed::Error::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            full(format!("{}: the file system is full: make room on it", store.path.display()))
        }
        heed::Error::Mdb(MdbError::TxnFull) => {
            full("one transaction changes too much (512 MiB of records): change it in several".to_owned())
        }
        error => TableFault::new(kind::OTHER, format!("{}: {error}", store.path.display())),
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Opens the environment in `directory`, making it where there is none.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(directory: &Path, options: Options) -> Result<Self, OpenError> {
        let path = directory.to_owned();
        std::fs::create_dir_all(&path)
            .map_err(|source| OpenError::Directory { path: path.clone(), source })?;
        if options.sync != Sync::Never {
            make_durable(&path, options)?;
        }
        let words = |source| OpenError::Environment { path: path.clone(), source };
        let env = environment(&path, options).map_err(words)?;
        // Whoever was killed while it read would keep pages from being used again.
        env.clear_stale_readers().map_err(words)?;
        let mut txn = env.write_txn().map_err(words)?;
        let directory = env.create_database(&mut txn, Some(DIRECTORY)).map_err(words)?;
        let aside = env.create_database(&mut txn, Some("aside")).map_err(words)?;
        let tables = std::array::from_fn(|_| OnceLock::new());
        for entry in entries(&path, &directory, &txn)? {
            let (name, entry) = entry;
            if let Some(slot) = tables.get(entry.number as usize) {
                let table = Table::create(&env, &mut txn, &name).map_err(words)?;
                slot.get_or_init(|| table);
            }
        }
        txn.commit().map_err(words)?;
        let (users, next_user) = (Mutex::default(), AtomicU64::new(1));
        let (max_bytes, news) = (options.max_bytes, OnceLock::new());
        let inner =
            Inner { env, path: path.clone(), max_bytes, directory, aside, tables, users, next_user, news };
        Ok(Self(Arc::new(inner)))
    }

    /// Writes to the disk what has been committed.
    ///
    /// # Errors
    /// The system's words.
    pub fn sync(&self) -> Result<(), TableFault> {
        self.0.env.force_sync().map_err(|error| fault(&self.0, &error))
    }

    /// From now on, who writes calls `news` instead of waking those who watch: that runs code of theirs, and who writes
    /// may be on a thread of another library. `news` has [`announce`](Self::announce) called soon, elsewhere.
    pub fn announce_by(&self, news: fn()) {
        // The first one stays.
        let _ = self.0.news.set(news);
    }

    /// Wakes those who watch for what has been committed, on the calling thread.
    pub fn announce(&self) {
        self.0.announce();
    }

    /// Whether no generation has a table open.
    pub fn is_idle(&self) -> bool {
        lock(&self.0.users).is_empty()
    }

    /// What there is to say of the tables.
    ///
    /// # Errors
    /// The store's.
    pub fn facts(&self) -> Result<Facts, OpenError> {
        let inner = &*self.0;
        let words = |source| OpenError::Environment { path: inner.path.clone(), source };
        let txn = inner.env.read_txn().map_err(words)?;
        let mut tables = vec![];
        for (name, entry) in entries(&inner.path, &inner.directory, &txn)? {
            // One that another process has made in this moment.
            let Some(table) = inner.tables.get(entry.number as usize).and_then(OnceLock::get) else {
                continue;
            };
            let stat = table.db.stat(&txn).map_err(words)?;
            let pages = stat.branch_pages + stat.leaf_pages + stat.overflow_pages;
            let aside = inner.aside.prefix_iter(&txn, &entry.number.to_be_bytes()[..]).map_err(words)?;
            tables.push(TableFacts {
                name,
                key: entry.key,
                record: entry.record,
                schema: entry.schema,
                opened: Some(table.lowest.load(Ordering::Acquire)).filter(|lowest| *lowest != u32::MAX),
                records: stat.entries as u64,
                bytes: pages as u64 * u64::from(stat.page_size),
                aside: aside.count() as u64,
                report: lock(&table.report).clone(),
            });
        }
        let page = u64::from(inner.env.stat().page_size);
        let used_bytes = (inner.env.info().last_page_number as u64 + 1) * page;
        Ok(Facts { path: inner.path.clone(), max_bytes: inner.max_bytes, used_bytes, tables })
    }
}

/// Sees to it that a power loss leaves an environment, whole, where one has been opened.
///
/// LMDB makes its file in place and syncs what it writes into it, but not that there is a file. What a power loss leaves
/// of one that has just been made is none, or one of zeros that is refused ever after.
fn make_durable(directory: &Path, options: Options) -> Result<(), OpenError> {
    let words = |source| OpenError::Environment { path: directory.to_owned(), source };
    let words_of_system = |source: std::io::Error| words(source.into());
    let handle = File::open(directory).map_err(words_of_system)?;
    // 1. Two hosts may open it at once, and one of them would go on with a file that the other has replaced.
    handle.lock().map_err(words_of_system)?;
    let file = directory.join(FILE);
    if !file.try_exists().map_err(words_of_system)? {
        // 2. Made beside its place; what a death left of an earlier try goes.
        let new = directory.join("new");
        match std::fs::remove_dir_all(&new) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(words_of_system(error)),
            _ => {}
        }
        std::fs::create_dir(&new).map_err(words_of_system)?;
        let env = environment(&new, options).map_err(words)?;
        env.force_sync().map_err(words)?;
        env.prepare_for_closing().wait();
        // 3. Put into its place whole.
        std::fs::rename(new.join(FILE), &file).map_err(words_of_system)?;
        std::fs::remove_dir_all(&new).map_err(words_of_system)?;
    }
    // 4. That it is there, and its directory, is durable before anything is committed to it. Also where it was there
    //    before: whoever made it may have died in between.
    handle.sync_all().map_err(words_of_system)?;
    match directory.parent() {
        Some(parent) => File::open(parent).and_then(|parent| parent.sync_all()).map_err(words_of_system),
        None => Ok(()),
    }
}

/// Which tables there are, by name.
fn entries(
    path: &Path,
    directory: &Database<Str, Bytes>,
    txn: &heed::RoTxn<'_>,
) -> Result<Vec<(String, Entry)>, OpenError> {
    let words = |source| OpenError::Environment { path: path.to_owned(), source };
    let mut found = vec![];
    for entry in directory.iter(txn).map_err(words)? {
        let (name, entry) = entry.map_err(words)?;
        let parsed = serde_json::from_slice(entry);
        let table = name.to_owned();
        let entry = parsed.map_err(|source| OpenError::Entry {
            path: path.to_owned(),
            table: table.clone(),
            source,
        })?;
        found.push((table, entry));
    }
    Ok(found)
}

#[allow(unsafe_code, reason = "maps a file; the block says who upholds what")]
fn environment(path: &Path, options: Options) -> heed::Result<Env<WithTls>> {
    let flags = match options.sync {
        Sync::Never => EnvFlags::NO_SYNC,
        Sync::Relaxed => EnvFlags::NO_META_SYNC,
        Sync::Commit => EnvFlags::empty(),
    };
    let mut open = EnvOpenOptions::new();
    // Whole pages.
    let size = usize::try_from(options.max_bytes).unwrap_or(usize::MAX) & !0xffff;
    open.map_size(size).max_dbs(MAX_TABLES as u32 + 2).max_readers(MAX_READERS);
    // SAFETY: the directory is this node's alone (mode 0700, named in the documentation as nobody else's to touch),
    // on a local file system, and all who have it open go by LMDB's lock file. `NO_SYNC` is used only where nothing
    // outlives the machine, and `NO_META_SYNC` keeps the file whole; neither lets LMDB write through the map.
    unsafe { open.flags(flags).open(path) }
}

impl Table {
    fn create(env: &Env<WithTls>, txn: &mut RwTxn<'_>, name: &str) -> heed::Result<Self> {
        let db = env.create_database(txn, Some(&format!("table {name}")))?;
        Ok(Self {
            db,
            watched: Watched::default(),
            lowest: AtomicU32::new(u32::MAX),
            users: AtomicU32::new(0),
            report: Mutex::default(),
        })
    }
}

impl Inner {
    /// The table of this name.
    pub fn named(&self, name: &str) -> Result<Option<&Table>, OpenError> {
        let words = |source| OpenError::Environment { path: self.path.clone(), source };
        let txn = self.env.read_txn().map_err(words)?;
        let entries = entries(&self.path, &self.directory, &txn)?;
        let number = entries.into_iter().find(|(found, _)| found == name).map(|(_, entry)| entry.number);
        Ok(number.and_then(|number| self.tables.get(number as usize)?.get()))
    }

    /// Those who watch are told of what was committed, here or elsewhere.
    pub fn tell(&self) {
        match self.news.get() {
            Some(news) => news(),
            None => self.announce(),
        }
    }

    fn announce(&self) {
        let tables = self.tables.iter().filter_map(OnceLock::get);
        tables.filter(|table| table.watched.is_asked()).for_each(|table| table.watched.announce());
    }

    pub fn table(&self, number: u32) -> Result<&Table, TableFault> {
        let found = self.tables.get(number as usize).and_then(OnceLock::get);
        found.ok_or_else(|| TableFault::new(kind::OTHER, format!("there is no table number {number}")))
    }

    /// A number for one who opens tables.
    pub fn new_user(&self) -> u64 {
        self.next_user.fetch_add(1, Ordering::Relaxed)
    }

    /// Opens a table for `user`; its number.
    pub fn open(&self, user: u64, spec: &TableSpec<'_>) -> Result<u32, TableFault> {
        check_name(&spec.name)?;
        let words = |error| fault(self, &error);
        // 1. A transaction that writes: whoever writes before it knows nothing of this user, and whoever writes
        //    after it does.
        let mut txn = self.env.write_txn().map_err(words)?;
        let (entry, is_new) = self.entry(&txn, spec)?;
        if is_new {
            let Ok(bytes) = serde_json::to_vec(&entry) else { unreachable!("an entry has a JSON form") };
            self.directory.put(&mut txn, &spec.name, &bytes).map_err(words)?;
        }
        let Some(slot) = self.tables.get(entry.number as usize) else {
            let words = format!("there are {MAX_TABLES} tables already, as many as there may be");
            return Err(TableFault::new(kind::FULL, words));
        };
        let table = match slot.get() {
            Some(_) => None,
            None => Some(Table::create(&self.env, &mut txn, &spec.name).map_err(words)?),
        };
        // 2. Known before the transaction ends, given up when it fails.
        let mut users = lock(&self.users);
        let before = users.insert((entry.number, user), spec.schema);
        if let Some(table) = slot.get() {
            table.count(&users, entry.number);
        }
        if let Err(error) = txn.commit() {
            match before {
                Some(schema) => users.insert((entry.number, user), schema),
                None => users.remove(&(entry.number, user)),
            };
            if let Some(table) = slot.get() {
                table.count(&users, entry.number);
            }
            return Err(fault(self, &error));
        }
        // 3. Its database is open only now.
        if let Some(table) = table {
            slot.get_or_init(|| table).count(&users, entry.number);
        }
        Ok(entry.number)
    }

    /// What the directory is to say of a table, and whether it says something else so far.
    fn entry(&self, txn: &RwTxn<'_>, spec: &TableSpec<'_>) -> Result<(Entry, bool), TableFault> {
        let found = self.directory.get(txn, &spec.name).map_err(|error| fault(self, &error))?;
        let (key, record) = (spec.key.as_str(), spec.record.as_str());
        let Some(found) = found else {
            let number = self.directory.len(txn).map_err(|error| fault(self, &error))?;
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            return Ok((Entry { number, key: key.into(), record: record.into(), schema: spec.schema }, true));
        };
        let mut entry: Entry = serde_json::from_slice(found).map_err(|error| {
            TableFault::new(
                kind::OTHER,
                format!("the entry of table `{}` cannot be read: {error}", spec.name),
            )
        })?;
        if (entry.key.as_str(), entry.record.as_str()) != (key, record) {
            let words = format!(
                "table `{}` holds {} by {}, and this release opens it for {record} by {key}: give the new \
                 records a table of another name",
                spec.name, entry.record, entry.key
            );
            return Err(TableFault::new(kind::TYPE, words));
        }
        let is_newer = spec.schema > entry.schema;
        entry.schema = entry.schema.max(spec.schema);
        Ok((entry, is_newer))
    }

    /// `user` has no table open any more.
    pub fn close(&self, user: u64) {
        let mut users = lock(&self.users);
        users.retain(|(_, of), _| *of != user);
        for (number, slot) in (0..).zip(&self.tables) {
            if let Some(table) = slot.get() {
                table.count(&users, number);
            }
        }
    }
}

impl Table {
    fn count(&self, users: &BTreeMap<(u32, u64), u32>, number: u32) {
        let mut lowest = u32::MAX;
        let mut count = 0;
        for (_, schema) in users.range((number, 0)..=(number, u64::MAX)) {
            lowest = lowest.min(*schema);
            count += 1;
        }
        let before = (self.lowest.swap(lowest, Ordering::AcqRel), self.users.swap(count, Ordering::AcqRel));
        if before != (lowest, count) {
            // What was counted for others says nothing of what these need.
            *lock(&self.report) = None;
        }
    }
}

fn check_name(name: &str) -> Result<(), TableFault> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    if (1..=64).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(());
    }
    let words = format!("`{name}` is no name for a table: 1 to 64 of a-z, A-Z, 0-9, `-`, `_`, `.`, `/`");
    Err(TableFault::new(kind::OTHER, words))
}

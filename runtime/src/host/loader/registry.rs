//! Which library an address belongs to, and how much it has left behind.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use super::sys;

/// A library that is, or was, in memory. The record outlives the mapping, so that a thread may finish its books.
#[derive(Debug)]
pub struct LibraryRecord {
    /// The path that it was opened by; no two records share one at a time.
    pub path: PathBuf,
    range: OnceLock<Range<usize>>,
    /// Destructors of thread-locals that are registered and have not run, on all threads together.
    pub registrations: AtomicUsize,
    /// Threads that the library started and that have not ended.
    pub threads: AtomicUsize,
    /// What the library left with `pthread_key_create`.
    keys: Mutex<Vec<Key>>,
    /// From this epoch on, threads run what the library left on them; 0: not yet.
    condemned: AtomicU64,
    /// Whether a call to `exit` from one of the library's own threads ends that thread only.
    pub holds_exit: AtomicBool,
    exit_code: OnceLock<i32>,
}

/// A key of `pthread_key_create` whose destructor lies in a library.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The key.
    pub key: libc::pthread_key_t,
    /// To be called with a thread's value.
    pub destructor: unsafe extern "C" fn(*mut libc::c_void),
}

static LIBRARIES: RwLock<Vec<Arc<LibraryRecord>>> = RwLock::new(Vec::new());

/// Grows by one with every library that is condemned.
static EPOCH: AtomicU64 = AtomicU64::new(0);

/// The epoch that threads have to reach.
pub fn epoch() -> u64 {
    EPOCH.load(Ordering::Acquire)
}

/// Locks without minding a panic under the lock: every value behind one is whole at every point.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn libraries() -> Vec<Arc<LibraryRecord>> {
    LIBRARIES.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The library that `address` lies in; `None`: the host's own, libc's, or a dependency's.
pub fn find(address: usize) -> Option<Arc<LibraryRecord>> {
    let libraries = LIBRARIES.read().unwrap_or_else(PoisonError::into_inner);
    libraries.iter().find(|library| library.contains(address)).cloned()
}

/// The condemned libraries, oldest first.
pub fn condemned() -> Vec<Arc<LibraryRecord>> {
    libraries().into_iter().filter(|library| library.is_condemned()).collect()
}

/// Every library that left a key.
pub fn with_keys() -> Vec<Arc<LibraryRecord>> {
    libraries().into_iter().filter(|library| !lock(&library.keys).is_empty()).collect()
}

/// Takes back the record of the key `key`, whoever left it.
pub fn forget_key(key: libc::pthread_key_t) {
    for library in libraries() {
        lock(&library.keys).retain(|known| known.key != key);
    }
}

impl LibraryRecord {
    /// Announces the library at `path`, before it is opened: its static initialisers may register already.
    pub fn announce(path: &Path) -> Arc<Self> {
        let record = Arc::new(Self {
            path: path.to_owned(),
            range: OnceLock::new(),
            registrations: AtomicUsize::new(0),
            threads: AtomicUsize::new(0),
            keys: Mutex::new(Vec::new()),
            condemned: AtomicU64::new(0),
            holds_exit: AtomicBool::new(true),
            exit_code: OnceLock::new(),
        });
        LIBRARIES.write().unwrap_or_else(PoisonError::into_inner).push(record.clone());
        record
    }

    /// The end of the record: the library is unmapped, or it never was mapped.
    pub fn withdraw(self: &Arc<Self>) {
        let mut libraries = LIBRARIES.write().unwrap_or_else(PoisonError::into_inner);
        libraries.retain(|library| !Arc::ptr_eq(library, self));
    }

    /// Where the library lies, once it is mapped.
    pub fn range(&self) -> Option<Range<usize>> {
        if let Some(range) = self.range.get() {
            return Some(range.clone());
        }
        // Only between announcement and the end of `dlopen`.
        let range = sys::mapped_range(&self.path)?;
        Some(self.range.get_or_init(|| range).clone())
    }

    /// Whether `address` lies in the library.
    pub fn contains(&self, address: usize) -> bool {
        self.range().is_some_and(|range| range.contains(&address))
    }

    /// Keeps a key.
    pub fn keep_key(&self, key: Key) {
        lock(&self.keys).push(key);
    }

    /// The library's keys.
    pub fn keys(&self) -> Vec<Key> {
        lock(&self.keys).clone()
    }

    /// Takes the keys away, for their deletion.
    pub fn take_keys(&self) -> Vec<Key> {
        std::mem::take(&mut lock(&self.keys))
    }

    /// Makes every thread run what the library left on it, from its next quiescent state on. Returns the epoch
    /// that each has to reach.
    pub fn condemn(&self) -> u64 {
        // One at a time: two libraries with one epoch could be passed by a thread that has seen one of the marks.
        static CONDEMNING: Mutex<()> = Mutex::new(());
        let _one = lock(&CONDEMNING);
        let condemned = self.condemned.load(Ordering::Acquire);
        if condemned != 0 {
            return condemned;
        }
        // The library's own mark first: a thread that sees the new epoch sees it too.
        let epoch = EPOCH.load(Ordering::Acquire) + 1;
        self.condemned.store(epoch, Ordering::Release);
        EPOCH.store(epoch, Ordering::Release);
        epoch
    }

    /// Whether threads run what it left.
    pub fn is_condemned(&self) -> bool {
        self.condemned.load(Ordering::Acquire) != 0
    }

    /// Notes that one of the library's threads called `exit`.
    pub fn note_exit(&self, code: i32) {
        let _ = self.exit_code.set(code);
    }

    /// The code that one of the library's threads called `exit` with.
    pub fn exit_code(&self) -> Option<i32> {
        self.exit_code.get().copied()
    }
}

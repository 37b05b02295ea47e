//! One library: open, symbols, close, proof.

use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libloading::os::unix::{Library as Opened, RTLD_LOCAL, RTLD_NOW};
use relmgr_abi::entry::{ENTRY_SYMBOL, Entry};
use relmgr_abi::root::AppRootRef;

use super::registry::LibraryRecord;
use super::{stray, sys, threads};

/// A library that is mapped. Only [`Library::unmap`] closes it: dropping it leaves it mapped for ever, since
/// destructors that it left on threads may still be to run.
#[derive(Debug)]
pub struct Library {
    opened: ManuallyDrop<Opened>,
    record: Arc<LibraryRecord>,
}

/// Why a library cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The dynamic linker refused it.
    #[error("{} does not load: {reason}{remedy}", path.display())]
    Open {
        /// The library.
        path: PathBuf,
        /// The linker's words.
        reason: String,
        /// What to do, where the words tell.
        remedy: String,
    },
    /// It lacks a symbol.
    #[error("{} is no relmgr application: it has no symbol {ENTRY_SYMBOL} (add `relmgr_app::export!(YourApplication);`)", path.display())]
    NoEntry {
        /// The library.
        path: PathBuf,
    },
    /// Its contract is another one.
    #[error("{} does not fit this relmgr: {reason}", path.display())]
    Contract {
        /// The library.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A copy of it is still mapped.
    #[error("{} is still mapped by an earlier generation that could not be unmapped: `relmgr restart` makes room", path.display())]
    StillMapped {
        /// The library.
        path: PathBuf,
    },
}

/// The address range of the library that was unmapped last.
static LAST_RANGE: Mutex<Option<sys::Reserved>> = Mutex::new(None);

/// Set when libraries are to stay for ever (`loader.unload = "never"`).
pub static NEVER_UNLOAD: AtomicBool = AtomicBool::new(false);

impl Library {
    /// Opens the library at `path` and runs its static initialisers, on the calling thread.
    ///
    /// # Errors
    /// [`LoadError`]; nothing of the library is mapped then.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        if sys::mapped_range(path).is_some() {
            // The linker would hand out the same mapping again, with the old statics.
            return Err(LoadError::StillMapped { path: path.to_owned() });
        }
        let record = LibraryRecord::announce(path);
        // SAFETY: the library's initialisers run. That they do no harm is what the preflight process found out
        // with the same file, and what the release's signature or the operator vouches for.
        match unsafe { Opened::open(Some(path), RTLD_NOW | RTLD_LOCAL) } {
            Ok(opened) => Ok(Self { opened: ManuallyDrop::new(opened), record }),
            Err(error) => {
                record.withdraw();
                // libloading keeps the linker's words behind its own.
                let reason =
                    std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
                let remedy = remedy(&reason);
                Err(LoadError::Open { path: path.to_owned(), reason, remedy })
            }
        }
    }

    /// What the library has left behind, and where it lies.
    pub fn record(&self) -> &Arc<LibraryRecord> {
        &self.record
    }

    /// The library's functions and its contract's minor version, after its header was checked.
    ///
    /// # Errors
    /// [`LoadError::NoEntry`] and [`LoadError::Contract`].
    pub fn root(&self) -> Result<(AppRootRef, u32), LoadError> {
        let path = || self.record.path.clone();
        // SAFETY: the symbol is used only after its magic has been read; what lies under that name in a library
        // that is none of relmgr's is at least mapped memory, which the preflight process has read before.
        let entry = unsafe { self.opened.get::<*const Entry>(ENTRY_SYMBOL.as_bytes()) };
        let entry = entry.map_err(|_| LoadError::NoEntry { path: path() })?;
        // SAFETY: as above; the header has a fixed layout, and `check` looks at it before anything else is used.
        let entry = unsafe { &**entry };
        entry.check().map_err(|reason| LoadError::Contract { path: path(), reason })?;
        Ok((entry.root, entry.minor))
    }

    /// A symbol's address, for abi_stable's header.
    pub fn symbol(&self, name: &str) -> Option<*const ()> {
        // SAFETY: the address is only handed on.
        unsafe { self.opened.get::<*const ()>(name.as_bytes()) }.ok().map(|symbol| *symbol)
    }

    /// Unmaps the library, when nothing stands in the way. To be called where no code of it is running and none
    /// of its values is left in the host.
    ///
    /// `rouse` makes the host's workers pass quiescent states; it is called again and again until `patience` is
    /// over.
    ///
    /// # Errors
    /// The library, still mapped, and why. It may be tried again.
    pub async fn unmap<R: Future<Output = ()>>(
        self,
        patience: Duration,
        rouse: impl Fn() -> R,
    ) -> Result<(), (Option<Self>, Vec<String>)> {
        if NEVER_UNLOAD.load(Ordering::Relaxed) {
            return Err((Some(self), vec!["loader.unload is \"never\"".into()]));
        }
        let deadline = Instant::now() + patience;
        let mut epoch = None;
        loop {
            // Its own threads first: what they still do may register on others.
            if epoch.is_none() && self.record.threads.load(Ordering::Acquire) == 0 {
                epoch = Some(self.record.condemn());
            }
            if let Some(epoch) = epoch
                && threads::all_passed(epoch)
                && self.record.registrations.load(Ordering::Acquire) == 0
            {
                break;
            }
            if Instant::now() >= deadline {
                let reasons = self.reasons(epoch);
                return Err((Some(self), reasons));
            }
            // Waking the workers helps when it is them that are waited for, not for the library's own threads.
            match epoch {
                Some(_) => rouse().await,
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
        self.close()
    }

    fn close(self) -> Result<(), (Option<Self>, Vec<String>)> {
        let Self { opened, record } = self;
        let path = record.path.clone();
        let range = record.range();
        let handlers = range.as_ref().map(sys::handlers_within).unwrap_or_default();
        if !handlers.is_empty() {
            let reason = format!("the handlers of signals {handlers:?} lie in it");
            return Err((Some(Self { opened, record }), vec![reason]));
        }
        for key in record.take_keys() {
            sys::delete_key(key.key);
        }
        let closed = ManuallyDrop::into_inner(opened).close();
        if sys::mapped_range(&path).is_some() {
            // Closed for good all the same: there is no second try.
            let reason = match closed {
                Err(error) => format!("dlclose failed: {error}"),
                Ok(()) => {
                    "glibc keeps it after dlclose: it is marked NODELETE, has unique symbols, or another \
                           library needs it"
                        .into()
                }
            };
            return Err((None, vec![reason]));
        }
        record.withdraw();
        if let Some(range) = range {
            let mut last = LAST_RANGE.lock().unwrap_or_else(PoisonError::into_inner);
            // The one before is given back first, so that at most one range is reserved.
            stray::forget();
            *last = None;
            *last = sys::reserve(&range);
            if last.is_some() {
                stray::remember(&range, &path);
            }
        }
        Ok(())
    }

    fn reasons(&self, epoch: Option<u64>) -> Vec<String> {
        let mut reasons = vec![];
        if let Some(code) = self.record.exit_code() {
            reasons.push(format!("a thread of it called exit({code}) and is held"));
        }
        for thread in threads::in_the_way(&self.record, epoch) {
            let tid = thread.tid;
            let name = std::fs::read_to_string(format!("/proc/self/task/{tid}/comm")).unwrap_or_default();
            let name = name.trim_end();
            reasons.push(match thread.owner {
                Some(_) => format!("thread {tid} ({name}), which it started, still runs"),
                None => format!("the host's thread {tid} ({name}) has not come to a quiescent state"),
            });
        }
        let registrations = self.record.registrations.load(Ordering::Acquire);
        if registrations > 0 && reasons.is_empty() {
            reasons.push(format!("{registrations} destructors of thread-locals have not run"));
        }
        if reasons.is_empty() {
            let threads = self.record.threads.load(Ordering::Acquire);
            reasons.push(format!("{threads} threads that it started have not ended"));
        }
        reasons
    }
}

/// What to do about the dynamic linker's words.
fn remedy(reason: &str) -> String {
    let advice = if reason.contains("version `GLIBC_") {
        "build it on a system whose glibc is as old as this machine's"
    } else if reason.contains("cannot open shared object file") {
        "install the library that it needs, or link it statically"
    } else if reason.contains("undefined symbol") {
        "the library that defines the symbol is missing among what it links; rebuild it"
    } else if reason.contains("invalid ELF header") || reason.contains("file too short") {
        "the file is no library; build the release again"
    } else if reason.contains("wrong ELF class") || reason.contains("ELF file's phentsize") {
        "it was built for another machine"
    } else {
        return String::new();
    };
    format!(" ({advice})")
}

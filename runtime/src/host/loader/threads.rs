//! A thread's own record: what libraries left on it, when it last was quiescent, and what happens at its end.
//!
//! Only the thread itself runs what was left on it: a thread-local's destructor looks for its value on the
//! thread that it runs on.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::registry::{self, LibraryRecord};
use super::sys;

/// The destructor of a thread-local value.
pub type Destructor = unsafe extern "C" fn(*mut libc::c_void);

/// How often a thread's values are asked again for new ones at its end, as POSIX has it for keys: what registers
/// itself again for ever is not run for ever.
const ROUNDS: usize = 4;

/// A destructor that a library registered on a thread.
struct Registration {
    library: Arc<LibraryRecord>,
    destructor: Destructor,
    value: *mut libc::c_void,
}

/// What the thread itself knows.
#[derive(Default)]
struct Local {
    registrations: RefCell<Vec<Registration>>,
    /// The library that started the thread.
    owner: RefCell<Option<Arc<LibraryRecord>>>,
    shared: RefCell<Option<Arc<Shared>>>,
}

/// What others may know of a thread.
#[derive(Debug)]
pub struct Shared {
    /// The kernel's number, for `/proc/self/task/…`.
    pub tid: i32,
    /// The library that started it; the host's own threads have none.
    pub owner: Option<Arc<LibraryRecord>>,
    /// The last epoch that it has passed in a quiescent state; counted for workers only.
    passed: AtomicU64,
    /// Whether it is one of the host's workers, which answer requests and live as long as the process.
    worker: AtomicBool,
}

static THREADS: Mutex<Vec<Arc<Shared>>> = Mutex::new(Vec::new());

thread_local! {
    // A plain pointer, since a thread-local with a destructor would itself have to be registered, and be gone
    // when others are still at work at the thread's end.
    static LOCAL: Cell<*const Local> = const { Cell::new(std::ptr::null()) };
}

fn threads() -> MutexGuard<'static, Vec<Arc<Shared>>> {
    THREADS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread's record, made at its first use. It is freed by [`thread_end`], as the thread's last act; should
/// something of the host register again after that, a second record is made and freed in the same way.
fn local() -> &'static Local {
    let mut local = LOCAL.get();
    if local.is_null() {
        local = Box::into_raw(Box::default());
        LOCAL.set(local);
        sys::at_thread_end(thread_end, local.cast_mut().cast());
    }
    // SAFETY: made above or by an earlier call on this thread, and freed by `thread_end` only, which takes the
    // pointer away first and runs on this thread. No reference is kept over a call of `thread_end`: it is called
    // by libc when no frame of the thread is left.
    unsafe { &*local }
}

fn shared() -> Arc<Shared> {
    let local = local();
    let mut slot = local.shared.borrow_mut();
    let make = || {
        let shared = Arc::new(Shared {
            tid: sys::thread_id(),
            owner: local.owner.borrow().clone(),
            passed: AtomicU64::new(registry::epoch()),
            worker: AtomicBool::new(false),
        });
        threads().push(shared.clone());
        shared
    };
    slot.get_or_insert_with(make).clone()
}

/// Makes the calling thread one of the host's workers: retirements wait for its quiescent states.
pub fn enlist_worker() {
    shared().worker.store(true, Ordering::Release);
}

/// Makes the calling thread one that `library` started.
pub fn enlist_owned(library: Arc<LibraryRecord>) {
    *local().owner.borrow_mut() = Some(library);
    shared();
}

/// The library that started the calling thread.
pub fn owner() -> Option<Arc<LibraryRecord>> {
    if LOCAL.get().is_null() {
        return None;
    }
    local().owner.borrow().clone()
}

/// Keeps `destructor(value)` for the thread's end or the library's, whichever comes first.
pub fn keep(library: Arc<LibraryRecord>, destructor: Destructor, value: *mut libc::c_void) {
    library.registrations.fetch_add(1, Ordering::AcqRel);
    local().registrations.borrow_mut().push(Registration { library, destructor, value });
}

/// To be called where no code of a library is on the calling thread's stack: runs what condemned libraries left
/// on it. Two loads when there is nothing to do.
pub fn quiescent() {
    let pointer = LOCAL.get();
    if pointer.is_null() {
        return;
    }
    // SAFETY: as in `local`.
    let local = unsafe { &*pointer };
    let shared = local.shared.borrow().clone();
    let Some(shared) = shared else { return };
    let epoch = registry::epoch();
    if shared.passed.load(Ordering::Relaxed) == epoch {
        return;
    }
    for library in registry::condemned() {
        for _ in 0..ROUNDS {
            let ran = run_registrations(local, Some(&library)) + run_keys(&library);
            if ran == 0 {
                break;
            }
        }
    }
    shared.passed.store(epoch, Ordering::Release);
}

/// Runs the registrations of `library` (`None`: of every one), last registered first, until none is left.
fn run_registrations(local: &Local, library: Option<&Arc<LibraryRecord>>) -> usize {
    let mut ran = 0;
    loop {
        // Not borrowed while the destructor runs: it may register again.
        let next = {
            let mut registrations = local.registrations.borrow_mut();
            let of_library = |registration: &Registration| {
                library.is_none_or(|library| Arc::ptr_eq(&registration.library, library))
            };
            registrations.iter().rposition(of_library).map(|at| registrations.remove(at))
        };
        let Some(registration) = next else { return ran };
        // SAFETY: the library registered this pair for this thread; it is still mapped, since registrations are
        // counted and none is left when a library is closed; and nobody else runs it, since it was taken out.
        unsafe { (registration.destructor)(registration.value) };
        registration.library.registrations.fetch_sub(1, Ordering::AcqRel);
        ran += 1;
    }
}

/// Runs the destructors of the thread's values under the keys of `library`.
fn run_keys(library: &LibraryRecord) -> usize {
    let mut ran = 0;
    for key in library.keys() {
        let value = sys::take_specific(key.key);
        if !value.is_null() {
            // SAFETY: the library set this value on this thread for this destructor; it is still mapped, and the
            // value was taken out, so nobody runs it again.
            unsafe { (key.destructor)(value) };
            ran += 1;
        }
    }
    ran
}

/// The end of a thread: runs what every library left on it.
unsafe extern "C" fn thread_end(pointer: *mut libc::c_void) {
    // SAFETY: `local` registered this pointer, a box that nobody else frees, for this thread.
    let local = unsafe { Box::from_raw(pointer.cast::<Local>()) };
    for _ in 0..ROUNDS {
        let keys: usize = registry::with_keys().iter().map(|library| run_keys(library)).sum();
        if run_registrations(&local, None) + keys == 0 {
            break;
        }
    }
    LOCAL.set(std::ptr::null());
    if let Some(shared) = local.shared.take() {
        threads().retain(|known| !Arc::ptr_eq(known, &shared));
    }
    if let Some(owner) = local.owner.take() {
        owner.threads.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whether every worker has been quiescent since `epoch`.
pub fn all_passed(epoch: u64) -> bool {
    threads().iter().all(|thread| {
        !thread.worker.load(Ordering::Acquire) || thread.passed.load(Ordering::Acquire) >= epoch
    })
}

/// The host's workers that have not been quiescent since `epoch`, and the threads that `library` started.
pub fn in_the_way(library: &Arc<LibraryRecord>, epoch: Option<u64>) -> Vec<Arc<Shared>> {
    let mut threads = threads().clone();
    threads.retain(|thread| match &thread.owner {
        Some(owner) => Arc::ptr_eq(owner, library),
        None => {
            thread.worker.load(Ordering::Acquire)
                && epoch.is_some_and(|epoch| thread.passed.load(Ordering::Acquire) < epoch)
        }
    });
    threads
}

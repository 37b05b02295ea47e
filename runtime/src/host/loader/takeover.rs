//! The functions of libc that this executable stands in for.
//!
//! The dynamic linker looks a library's references up in the executable first, so the functions that are
//! exported here (see `build.rs`) are the ones that every library calls. What belongs to the host or to libc is
//! passed on at once.
//!
//! | function | what a library would leave behind with it |
//! | --- | --- |
//! | `__cxa_thread_atexit_impl` | destructors of thread-locals, on whatever thread; glibc pins the library for each |
//! | `pthread_key_create` | destructors of thread-specific values (Rust's own std uses one key per copy of itself, and a process has 1,024) |
//! | `pthread_create` | threads |
//! | `exit`, `_exit` | nothing, but a candidate whose start calls it would take the serving release along |

use std::sync::Arc;
use std::sync::atomic::Ordering;

use libc::{c_int, c_void, pthread_attr_t, pthread_key_t, pthread_t};

use super::registry::{self, Key, LibraryRecord};
use super::sys::{self, Real};
use super::threads::{self, Destructor};

type StartRoutine = extern "C" fn(*mut c_void) -> *mut c_void;

static THREAD_ATEXIT: Real<unsafe extern "C" fn(Destructor, *mut c_void, *mut c_void) -> c_int> =
    Real::new(c"__cxa_thread_atexit_impl");
static KEY_CREATE: Real<unsafe extern "C" fn(*mut pthread_key_t, Option<Destructor>) -> c_int> =
    Real::new(c"pthread_key_create");
static KEY_DELETE: Real<unsafe extern "C" fn(pthread_key_t) -> c_int> = Real::new(c"pthread_key_delete");
static THREAD_CREATE: Real<
    unsafe extern "C" fn(*mut pthread_t, *const pthread_attr_t, StartRoutine, *mut c_void) -> c_int,
> = Real::new(c"pthread_create");
static EXIT: Real<unsafe extern "C" fn(c_int) -> !> = Real::new(c"exit");
static IMMEDIATE_EXIT: Real<unsafe extern "C" fn(c_int) -> !> = Real::new(c"_exit");

/// Registers `destructor(value)` for the calling thread's end on behalf of the object that `dso` lies in.
///
/// # Safety
/// As libc's: called by compilers' runtime libraries, with a pair that may be run once on this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __cxa_thread_atexit_impl(
    destructor: Destructor,
    value: *mut c_void,
    dso: *mut c_void,
) -> c_int {
    match registry::find(dso as usize) {
        Some(library) => {
            threads::keep(library, destructor, value);
            0
        }
        // SAFETY: the caller's promise is passed on unchanged.
        None => unsafe { THREAD_ATEXIT.get()(destructor, value, dso) },
    }
}

/// Makes a key; where its destructor lies in a library, the host runs it instead of libc.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_key_create(
    key: *mut pthread_key_t,
    destructor: Option<Destructor>,
) -> c_int {
    let kept = destructor.and_then(|destructor| Some((registry::find(destructor as usize)?, destructor)));
    let Some((library, destructor)) = kept else {
        // SAFETY: the caller's promise is passed on unchanged.
        return unsafe { KEY_CREATE.get()(key, destructor) };
    };
    // SAFETY: the caller's promise is passed on; a key without a destructor is a lesser one.
    let result = unsafe { KEY_CREATE.get()(key, None) };
    if result == 0 {
        // SAFETY: libc has just written the key there.
        library.keep_key(Key { key: unsafe { *key }, destructor });
    }
    result
}

/// Deletes a key.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_key_delete(key: pthread_key_t) -> c_int {
    registry::forget_key(key);
    // SAFETY: the caller's promise is passed on unchanged.
    unsafe { KEY_DELETE.get()(key) }
}

/// What a library's thread starts with.
struct Started {
    library: Arc<LibraryRecord>,
    routine: StartRoutine,
    argument: *mut c_void,
}

/// Starts a thread; one that a library starts, or a library's thread, is counted as that library's.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_create(
    thread: *mut pthread_t,
    attributes: *const pthread_attr_t,
    routine: StartRoutine,
    argument: *mut c_void,
) -> c_int {
    // A library may start a thread through another one (libstdc++'s start routine is libstdc++'s), so the
    // starter counts as well as the routine.
    let Some(library) = registry::find(routine as usize).or_else(threads::owner) else {
        // SAFETY: the caller's promise is passed on unchanged.
        return unsafe { THREAD_CREATE.get()(thread, attributes, routine, argument) };
    };
    library.threads.fetch_add(1, Ordering::AcqRel);
    let started = Box::into_raw(Box::new(Started { library, routine, argument }));
    // SAFETY: the caller's promise is passed on; `run_owned` calls its routine with its argument.
    let result = unsafe { THREAD_CREATE.get()(thread, attributes, run_owned, started.cast()) };
    if result != 0 {
        // SAFETY: no thread was started, so the box is still this function's.
        let started = unsafe { Box::from_raw(started) };
        started.library.threads.fetch_sub(1, Ordering::AcqRel);
    }
    result
}

extern "C" fn run_owned(started: *mut c_void) -> *mut c_void {
    // SAFETY: `pthread_create` above made this box for this call only.
    let Started { library, routine, argument } = *unsafe { Box::from_raw(started.cast::<Started>()) };
    // Enlisted first, so that its end is the last thing that happens on the thread; the count goes down there.
    threads::enlist_owned(library);
    routine(argument)
}

/// Ends the process, except where a candidate's own thread asks for it: then that thread is held for ever and
/// the candidate has failed.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exit(code: c_int) -> ! {
    hold_a_candidate(code);
    // SAFETY: the caller's promise is passed on unchanged.
    unsafe { EXIT.get()(code) }
}

/// As [`exit`], without libc's exit handlers.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _exit(code: c_int) -> ! {
    hold_a_candidate(code);
    // SAFETY: the caller's promise is passed on unchanged.
    unsafe { IMMEDIATE_EXIT.get()(code) }
}

fn hold_a_candidate(code: c_int) {
    let Some(library) = threads::owner().filter(|library| library.holds_exit.load(Ordering::Acquire)) else {
        return;
    };
    library.note_exit(code);
    // The thread cannot go on and must not return: it stays, and with it the library's code.
    loop {
        sys::pause();
    }
}

//! System calls that have no safe form in a library, each with one.

use std::ffi::{CStr, c_void};
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicPtr, Ordering};

use relmgr_model::manifest::GlibcVersion;

use super::threads::Destructor;

/// The function of libc under a name that this executable stands in for.
pub struct Real<F> {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
    function: PhantomData<F>,
}

impl<F: Copy> Real<F> {
    /// `F` is the function's type.
    pub const fn new(name: &'static CStr) -> Self {
        Self { name, found: AtomicPtr::new(std::ptr::null_mut()), function: PhantomData }
    }

    /// Looked up once; every glibc has the five names that are asked for, so a miss ends the process.
    pub fn get(&self) -> F {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        let mut found = self.found.load(Ordering::Acquire);
        if found.is_null() {
            // SAFETY: a C string that lives for ever.
            found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
            if found.is_null() {
                std::process::abort();
            }
            self.found.store(found, Ordering::Release);
        }
        // SAFETY: `F` is a function pointer (as large as a pointer, checked above) of libc's type for the name,
        // which the statics in `takeover` and below state beside each other.
        unsafe { std::mem::transmute_copy(&found) }
    }
}

static THREAD_ATEXIT: Real<unsafe extern "C" fn(Destructor, *mut c_void, *mut c_void) -> libc::c_int> =
    Real::new(c"__cxa_thread_atexit_impl");

/// Has libc call `destructor(value)` at the calling thread's end, as for a thread-local of the executable.
#[allow(
    clippy::not_unsafe_ptr_arg_deref,
    reason = "libc hands the pointer on to `destructor`, nothing reads it here"
)]
pub fn at_thread_end(destructor: Destructor, value: *mut c_void) {
    // SAFETY: the destructor lies in the executable, which is never unmapped; an address within it stands for
    // it. It fails when memory runs out only, and then the value is leaked.
    unsafe { THREAD_ATEXIT.get()(destructor, value, (&raw const THREAD_ATEXIT).cast_mut().cast()) };
}

/// The calling thread's value under `key`, which is null from now on.
pub fn take_specific(key: libc::pthread_key_t) -> *mut c_void {
    // SAFETY: both accept every key; for one that is deleted they answer null and an error.
    unsafe {
        let value = libc::pthread_getspecific(key);
        if !value.is_null() {
            libc::pthread_setspecific(key, std::ptr::null());
        }
        value
    }
}

/// Deletes a key that a library left.
pub fn delete_key(key: libc::pthread_key_t) {
    // SAFETY: accepts every key.
    unsafe { libc::pthread_key_delete(key) };
}

/// Closes every descriptor from `first` on. For the start of a process, when it has opened none of them itself.
pub fn close_from(first: u32) {
    // SAFETY: touches descriptors only, and the caller says that nothing in this process owns them. An older kernel
    // answers ENOSYS: then what was inherited stays open, as in every program.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// Makes a copy of this process; its number, or `None` in the copy. For the start of a process, while it has one thread.
///
/// # Errors
/// What the system says.
pub fn fork() -> nix::Result<Option<nix::unistd::Pid>> {
    // SAFETY: the caller says that there is one thread, so no lock is held in the copy by one that is not there.
    Ok(match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Some(child),
        nix::unistd::ForkResult::Child => None,
    })
}

/// Sends this process `signal` with its default action, and not blocked.
pub fn raise_by_default(signal: libc::c_int) {
    // SAFETY: the default action is no code of ours; an unknown number gives an error.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // What cannot be unblocked was not blocked.
    let _ = nix::sys::signal::SigSet::all().thread_unblock();
    // SAFETY: an unknown number gives an error.
    unsafe { libc::raise(signal) };
}

/// The kernel's number of the calling thread.
pub fn thread_id() -> i32 {
    // SAFETY: always succeeds.
    unsafe { libc::gettid() }
}

/// Waits for a signal.
pub fn pause() {
    // SAFETY: no arguments, and returning early is expected.
    unsafe { libc::pause() };
}

/// Where the object that was opened as `path` lies, from its first to its last mapped byte.
pub fn mapped_range(path: &Path) -> Option<Range<usize>> {
    struct Search<'a> {
        path: &'a [u8],
        range: Option<Range<usize>>,
    }
    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _: usize, search: *mut c_void) -> libc::c_int {
        // SAFETY: the linker hands out a valid description for the call; `search` is the value below.
        let (info, search) = unsafe { (&*info, &mut *search.cast::<Search<'_>>()) };
        if info.dlpi_name.is_null() {
            return 0;
        }
        // SAFETY: not null, so the name that the object was opened by.
        if unsafe { CStr::from_ptr(info.dlpi_name) }.to_bytes() != search.path {
            return 0;
        }
        // SAFETY: the linker says so many headers at this place.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        let loaded = headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
        let base = info.dlpi_addr as usize;
        for header in loaded {
            let start = base + header.p_vaddr as usize;
            let end = start + header.p_memsz as usize;
            let range = search.range.get_or_insert(start..end);
            *range = range.start.min(start)..range.end.max(end);
        }
        1
    }
    let mut search = Search { path: path.as_os_str().as_bytes(), range: None };
    // SAFETY: `visit` has the right form and uses `search` during the call only.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
    search.range
}

/// Signals whose handlers lie in `range`.
pub fn handlers_within(range: &Range<usize>) -> Vec<i32> {
    let handler = |signal: i32| {
        // SAFETY: all zeroes is a valid value of this plain C struct.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: only asks; the result goes to a valid place. Numbers that are none give an error.
        let result = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
        (result == 0).then_some(action.sa_sigaction)
    };
    (1..=64).filter(|signal| handler(*signal).is_some_and(|at| range.contains(&at))).collect()
}

/// Keeps `range` reserved without access. `None`: somebody else was faster, which is no fault.
pub fn reserve(range: &Range<usize>) -> Option<Reserved> {
    let page = 4096;
    let start = range.start / page * page;
    let len = range.end.div_ceil(page) * page - start;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: NOREPLACE never touches what is mapped already.
    let at = unsafe { libc::mmap(start as *mut c_void, len, libc::PROT_NONE, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return None;
    }
    let reserved = Reserved { start: at as usize, len };
    (at as usize == start).then_some(reserved)
}

/// An address range without access; given back when dropped.
#[derive(Debug)]
pub struct Reserved {
    start: usize,
    len: usize,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: mapped by `reserve`, and nobody can hold a reference into memory without access.
        unsafe { libc::munmap(self.start as *mut c_void, self.len) };
    }
}

/// Takes over a descriptor that was passed down: by the supervisor to its host, by one image of it to the next.
pub fn inherited(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: only asks whether it is open.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it is open, and each inherited number is taken once, at the process's start, before it opens any.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The value of the environment variable `name`, which is gone from then on: no child inherits it. For the start of a
/// process, while it has one thread.
pub fn take_variable(name: &str) -> Option<String> {
    let value = std::env::var(name).ok()?;
    // SAFETY: the caller says that there is no other thread that could read the environment meanwhile.
    unsafe { std::env::remove_var(name) };
    Some(value)
}

/// Another descriptor for what `fd` stands for.
pub fn duplicate(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: borrowed for this call; a number that is not open gives an error.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }.try_clone_to_owned().ok()
}

/// The running C library's version.
pub fn glibc_version() -> GlibcVersion {
    // SAFETY: gives a C string that lives for ever.
    let text = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) };
    let version = text.to_str().ok().and_then(|text| text.parse().ok());
    // Never met; 2.17 is what Rust itself asks for at least.
    version.unwrap_or(GlibcVersion { major: 2, minor: 17 })
}

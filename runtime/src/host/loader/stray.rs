//! The last words of a host that dies of a stray pointer: which release it led into.
//!
//! The range of the library that was unmapped last is reserved without access, so whatever still points into it faults
//! at once. By then nothing else knows whose addresses they were. What the handler needs lies in atomics, written when
//! a range is reserved: in a handler there is no lock to take and no memory to be had.

use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// What a fault at an address raises. The order is that of [`BEFORE`].
const SIGNALS: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// A version is shorter, and the words around it are ours.
const WORDS: usize = 256;

static START: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);
static TEXT: [AtomicU8; WORDS] = [const { AtomicU8::new(0) }; WORDS];
static LENGTH: AtomicUsize = AtomicUsize::new(0);

/// Who handled the signals before: Rust's std, which tells an overflow of the stack from other faults.
static BEFORE: OnceLock<[libc::sigaction; 2]> = OnceLock::new();

type Handler = unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// From now on a fault in the range that [`remember`] was told is named before the process ends of it.
pub fn watch() {
    let before = SIGNALS.map(|signal| {
        // SAFETY: all zeroes is a valid value of this plain C struct.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: only asks; the result goes to a valid place.
        unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
        action
    });
    // Before a handler is in place that looks at it.
    if BEFORE.set(before).is_err() {
        return;
    }
    for signal in SIGNALS {
        // SAFETY: as above.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = tell as Handler as usize;
        // On the stack that std has set up for it, where it has: the thread's own may be what is used up.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: `tell` has the form that SA_SIGINFO asks for, and does what a handler may do only.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
}

/// What lies in `range` from now on are the addresses of the library that was opened as `path`, and is no more.
pub fn remember(range: &Range<usize>, path: &Path) {
    forget();
    // …/releases/VERSION/lib/libNAME.so
    let release = path.parent().and_then(Path::parent).and_then(Path::file_name).unwrap_or(path.as_os_str());
    let release = release.to_string_lossy();
    let text = format!("a stray pointer led into {release}, which has been unmapped: the host dies of it\n");
    let text = &text.as_bytes()[..text.len().min(WORDS)];
    for (place, byte) in TEXT.iter().zip(text) {
        place.store(*byte, Ordering::Relaxed);
    }
    LENGTH.store(text.len(), Ordering::Relaxed);
    START.store(range.start, Ordering::Relaxed);
    END.store(range.end, Ordering::Release);
}

/// No range is known any more.
pub fn forget() {
    END.store(0, Ordering::Release);
}

fn is_stray(address: usize) -> bool {
    // An empty range contains nothing.
    let end = END.load(Ordering::Acquire);
    (START.load(Ordering::Relaxed)..end).contains(&address)
}

/// The handler. Afterwards whoever handled the signal before does what he would have done.
unsafe extern "C" fn tell(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands out a valid description. A positive code is a fault; one that somebody sent has no
    // address.
    let at = unsafe { if (*info).si_code > 0 { (*info).si_addr() as usize } else { 0 } };
    if is_stray(at) {
        // SAFETY: `write` may be called in a handler; so many bytes lie in the static, whose atomics are bytes.
        unsafe { libc::write(libc::STDERR_FILENO, TEXT.as_ptr().cast(), LENGTH.load(Ordering::Relaxed)) };
    }
    let at = SIGNALS.iter().position(|known| *known == signal);
    let before = at.and_then(|at| BEFORE.get().map(|before| &before[at]));
    match before {
        Some(before) if before.sa_sigaction != libc::SIG_DFL && before.sa_sigaction != libc::SIG_IGN => {
            // SAFETY: what sigaction(2) said was there: std's handler, which takes what this one was given. It
            // ends the process, or restores the default and returns to the fault.
            unsafe { std::mem::transmute::<usize, Handler>(before.sa_sigaction)(signal, info, context) };
        }
        // The fault is met again when this returns, and ends the process with its signal and its core.
        _ => {
            // SAFETY: may be called in a handler.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_known_until_the_next_one() {
        assert!(!is_stray(0) && !is_stray(0x1000));
        remember(&(0x1000..0x2000), Path::new("/srv/node/releases/1.2.3/lib/libpoll.so"));
        assert!(is_stray(0x1000) && is_stray(0x1fff) && !is_stray(0x2000));
        let text: Vec<_> = TEXT.iter().map(|byte| byte.load(Ordering::Relaxed)).collect();
        let text = std::str::from_utf8(&text[..LENGTH.load(Ordering::Relaxed)]).unwrap();
        assert_eq!(text, "a stray pointer led into 1.2.3, which has been unmapped: the host dies of it\n");
        let long = format!("/releases/{}/lib/libpoll.so", "9".repeat(400));
        remember(&(0x4000..0x5000), Path::new(&long));
        assert!(!is_stray(0x1000) && is_stray(0x4000));
        assert_eq!(LENGTH.load(Ordering::Relaxed), WORDS);
        forget();
        assert!(!is_stray(0x4000));
    }
}

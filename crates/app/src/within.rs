//! The host's threads within an instance's runtime.
//!
//! Whatever the library polls on a host thread finds its timers, sockets and `tokio::spawn` in the instance's
//! runtime. tokio's own `Handle::enter` counts the runtime up and down at each entry, in a cache line that every
//! thread writes to: several times a request, that is a good part of what crossing the border costs. So a thread
//! that has entered stays: this copy of tokio is the library's own, and nobody else looks at where it stands.

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::runtime::{EnterGuard, Handle};

/// A number that no other instance of this library has; from 1.
pub(crate) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The runtime of one instance, to be entered by the host's threads.
#[derive(Clone, Copy)]
pub(crate) struct Within {
    id: u64,
    handle: &'static Handle,
}

thread_local! {
    /// The instance that this thread is in; 0: none. Apart from the guard, so that the usual case is one comparison.
    static INSTANCE: Cell<u64> = const { Cell::new(0) };

    /// What keeps the thread there. Never dropped at the thread's end: tokio's own thread-local, which it would
    /// go back to, may be gone by then, and gives up the runtime itself.
    static GUARD: RefCell<ManuallyDrop<Option<EnterGuard<'static>>>> =
        const { RefCell::new(ManuallyDrop::new(None)) };
}

impl Within {
    /// `handle` is that of the instance `id`, and lives as long as anything that came of a call into it.
    pub(crate) fn new(id: u64, handle: &'static Handle) -> Self {
        Self { id, handle }
    }

    /// Has the calling thread stand within the runtime from now on.
    #[inline]
    pub(crate) fn enter(self) {
        if INSTANCE.get() != self.id {
            self.change();
        }
    }

    #[cold]
    fn change(self) {
        GUARD.with_borrow_mut(|guard| {
            // Out of the other one first: tokio's guards nest.
            drop(guard.take());
            **guard = Some(self.handle.enter());
        });
        INSTANCE.set(self.id);
    }
}

//! The host's threads within an instance's runtime.
//!
//! Whatever the library polls on a host thread finds its timers, sockets and `tokio::spawn` in the instance's
//! runtime. tokio's own `Handle::enter` counts the runtime up and down at each entry, in a cache line that every
//! thread writes to: several times a request, that is a good part of what crossing the border costs. So a thread
//! that has entered stays: this copy of tokio is the library's own, and nobody else looks at where it stands.
//!
//! While a request is polled, its facts stand here too: as an extension of the request they would be an allocation
//! and a search for each of them, and few handlers ask.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering};

use relmgr_abi::head::ConnectionFacts;
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

/// What is known of a request beside its HTTP: its connection, and its number.
pub(crate) type Facts = (ConnectionFacts, u64);

/// Where a thread stands. Apart from the guard, so that the usual case is one comparison.
struct Here {
    /// The instance; 0: none.
    instance: Cell<u64>,
    /// The request that it polls.
    request: Cell<Option<Facts>>,
}

thread_local! {
    static HERE: Here = const { Here { instance: Cell::new(0), request: Cell::new(None) } };

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
        if HERE.with(|here| here.instance.get()) != self.id {
            self.change();
        }
    }

    /// The same, for a poll of the request with these facts: until what it gives is dropped, however the poll ends.
    #[inline]
    pub(crate) fn polling(self, facts: Facts) -> Polling {
        self.enter();
        Polling::begin(facts)
    }

    #[cold]
    fn change(self) {
        GUARD.with_borrow_mut(|guard| {
            // Out of the other one first: tokio's guards nest.
            drop(guard.take());
            **guard = Some(self.handle.enter());
        });
        HERE.with(|here| here.instance.set(self.id));
    }
}

/// The calling thread polls a request.
#[must_use]
pub(crate) struct Polling(PhantomData<*const ()>);

impl Polling {
    #[inline]
    fn begin(facts: Facts) -> Self {
        HERE.with(|here| here.request.set(Some(facts)));
        Self(PhantomData)
    }
}

impl Drop for Polling {
    #[inline]
    fn drop(&mut self) {
        HERE.with(|here| here.request.set(None));
    }
}

/// The facts of the request that the calling thread polls.
pub(crate) fn facts() -> Option<Facts> {
    HERE.with(|here| here.request.get())
}

/// `future`, which answers the request with these facts somewhere else than where the host asks for it.
#[cfg(feature = "upgrade")]
pub(crate) async fn with_facts<F: Future>(facts: Option<Facts>, future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        let _polling = facts.map(Polling::begin);
        future.as_mut().poll(cx)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn a_requests_facts_are_there_while_it_is_polled_however_that_ends() {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into();
        let connection = ConnectionFacts { peer: address, local: address, tls: false };
        let number = || facts().map(|(_, number)| number);
        let polling = Polling::begin((connection, 7));
        assert_eq!(number(), Some(7));
        drop(polling);
        assert_eq!(number(), None);
        let poll = || {
            let _polling = Polling::begin((connection, 8));
            assert_eq!(number(), Some(8));
            panic!("on purpose");
        };
        assert!(catch_unwind(AssertUnwindSafe(poll)).is_err());
        assert_eq!(number(), None);
    }
}

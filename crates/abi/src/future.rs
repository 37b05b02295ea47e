//! Futures across the border.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Waker};

use abi_stable::StableAbi;
use abi_stable::std_types::RString;

use crate::waker::FfiWaker;

/// What a poll across the border came to.
#[repr(u8)]
#[derive(StableAbi)]
pub enum Poll<T> {
    /// Not yet; the waker was kept.
    Pending,
    /// Over. The future must not be polled again.
    Ready(T),
    /// The code behind it panicked, with this message. The future must not be polled again.
    Panicked(RString),
}

/// A future of the other side. Dropping it before it is ready cancels it.
#[repr(C)]
#[derive(StableAbi)]
pub struct FfiFuture<T> {
    data: *mut (),
    poll: unsafe extern "C" fn(*mut (), &FfiWaker) -> Poll<T>,
    drop: unsafe extern "C" fn(*mut ()),
}

// SAFETY: `FfiFuture::new` takes only futures that are `Send`.
unsafe impl<T> Send for FfiFuture<T> {}

impl<T> FfiFuture<T> {
    /// Makes `future` fit for the border. A panic in a poll becomes [`Poll::Panicked`]; one in its drop ends
    /// the process, as a second panic would.
    pub fn new<F: Future<Output = T> + Send>(future: F) -> Self {
        Self { data: Box::into_raw(Box::new(future)).cast(), poll: poll_boxed::<F>, drop: drop_boxed::<F> }
    }

    /// Polls the other side's future, waking `waker` when it is worth polling again.
    ///
    /// Not `Future::poll`, so that the caller has to say what a panic on the other side means.
    pub fn poll(&mut self, waker: &Waker) -> Poll<T> {
        // SAFETY: `data` is the box that `poll` was made for; `&mut self` makes this the only access.
        FfiWaker::lend(waker, |waker| unsafe { (self.poll)(self.data, waker) })
    }
}

impl<T> Drop for FfiFuture<T> {
    fn drop(&mut self) {
        // SAFETY: `data` is the box that `drop` was made for, and it is not used again.
        unsafe { (self.drop)(self.data) }
    }
}

/// # Safety
/// `data` is the box that [`FfiFuture::new`] made of an `F`, and nobody else uses it during the call.
unsafe extern "C" fn poll_boxed<F: Future>(data: *mut (), waker: &FfiWaker) -> Poll<F::Output> {
    // SAFETY: `data` is a boxed `F` that never moves until `drop_boxed`; the caller has it for itself.
    let future = unsafe { Pin::new_unchecked(&mut *data.cast::<F>()) };
    let poll = || waker.with(|waker| future.poll(&mut Context::from_waker(waker)));
    match catch_unwind(AssertUnwindSafe(poll)) {
        Ok(std::task::Poll::Pending) => Poll::Pending,
        Ok(std::task::Poll::Ready(value)) => Poll::Ready(value),
        Err(payload) => Poll::Panicked(panic_message(payload).into()),
    }
}

/// # Safety
/// As `poll_boxed`; the box is given up.
unsafe extern "C" fn drop_boxed<F>(data: *mut ()) {
    // SAFETY: `data` is a boxed `F` that is given up here.
    drop(unsafe { Box::from_raw(data.cast::<F>()) });
}

/// The words of a panic. The payload is dropped here, on the side that made it; should its drop panic too, the
/// process ends.
pub fn panic_message(payload: Box<dyn Any + Send>) -> String {
    let text = payload.downcast_ref::<&'static str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_future_is_polled_to_its_end_and_its_panic_stays_on_its_side() {
        let waker = futures_util::task::noop_waker();
        let mut pending_once = true;
        let mut future = FfiFuture::new(std::future::poll_fn(move |_| {
            if std::mem::take(&mut pending_once) {
                std::task::Poll::Pending
            } else {
                std::task::Poll::Ready(7)
            }
        }));
        assert!(matches!(future.poll(&waker), Poll::Pending));
        assert!(matches!(future.poll(&waker), Poll::Ready(7)));
        let mut future = FfiFuture::<u8>::new(async { panic!("on purpose: {}", 1) });
        match future.poll(&waker) {
            Poll::Panicked(text) => assert_eq!(text, "on purpose: 1"),
            _ => panic!("the panic was not seen"),
        }
    }

    #[test]
    fn dropping_it_cancels_what_it_holds() {
        let held = Arc::new(());
        let inside = held.clone();
        let future = FfiFuture::<()>::new(async move {
            std::future::pending::<()>().await;
            drop(inside);
        });
        assert_eq!(Arc::strong_count(&held), 2);
        drop(future);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}

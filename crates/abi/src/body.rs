//! A body that streams across the border, in either direction.

use std::pin::Pin;
use std::task::{Context, Waker};

use abi_stable::StableAbi;
use abi_stable::std_types::RString;

use crate::buffer::FfiBytes;
use crate::waker::FfiWaker;

/// What a poll of a body came to.
#[repr(u8)]
#[derive(StableAbi)]
pub enum Frame {
    /// Nothing yet; the waker was kept.
    Pending,
    /// The next bytes.
    Data(FfiBytes),
    /// Fields after the last byte, as [`crate::fields`] writes them.
    Trailers(FfiBytes),
    /// The body is over.
    End,
    /// The body is broken off, with this message.
    Failed(RString),
}

/// How many bytes are still to come.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeHint {
    /// At least so many.
    pub lower: u64,
    /// At most so many; `u64::MAX`: unknown.
    pub upper: u64,
}

/// A body that the other side reads from. Its implementor is on the side that has the bytes.
pub trait BodySource: Send {
    /// The next frame. Must not panic: the implementor catches what its source does.
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Frame;
    /// How many bytes are still to come.
    fn size_hint(&self) -> SizeHint;
}

/// A body of the other side. Dropping it tells that side that nobody reads on.
#[repr(C)]
#[derive(StableAbi)]
pub struct FfiBody {
    data: *mut (),
    poll_frame: unsafe extern "C" fn(*mut (), &FfiWaker) -> Frame,
    size_hint: unsafe extern "C" fn(*const ()) -> SizeHint,
    drop: unsafe extern "C" fn(*mut ()),
}

// SAFETY: `FfiBody::new` takes only sources that are `Send`.
unsafe impl Send for FfiBody {}

impl FfiBody {
    /// Makes `source` fit for the border.
    pub fn new<S: BodySource>(source: S) -> Self {
        Self {
            data: Box::into_raw(Box::new(source)).cast(),
            poll_frame: poll_frame::<S>,
            size_hint: size_hint::<S>,
            drop: drop_source::<S>,
        }
    }

    /// The next frame, or [`Frame::Pending`] and `waker` is woken when it is worth asking again.
    pub fn poll_frame(&mut self, waker: &Waker) -> Frame {
        // SAFETY: `data` is the source that the function was made for; `&mut self` makes this the only access.
        FfiWaker::lend(waker, |waker| unsafe { (self.poll_frame)(self.data, waker) })
    }

    /// How many bytes are still to come.
    pub fn size_hint(&self) -> SizeHint {
        // SAFETY: as in `poll_frame`; reading only.
        unsafe { (self.size_hint)(self.data) }
    }
}

impl Drop for FfiBody {
    fn drop(&mut self) {
        // SAFETY: `data` is the source that `drop` was made for, and it is not used again.
        unsafe { (self.drop)(self.data) }
    }
}

/// # Safety
/// `data` is the box that [`FfiBody::new`] made of an `S`, and nobody else uses it during the call.
unsafe extern "C" fn poll_frame<S: BodySource>(data: *mut (), waker: &FfiWaker) -> Frame {
    // SAFETY: `data` is a boxed `S` that never moves until `drop_source`; the caller has it for itself.
    let source = unsafe { Pin::new_unchecked(&mut *data.cast::<S>()) };
    waker.with(|waker| source.poll_frame(&mut Context::from_waker(waker)))
}

/// # Safety
/// As `poll_frame`.
unsafe extern "C" fn size_hint<S: BodySource>(data: *const ()) -> SizeHint {
    // SAFETY: `data` is a live boxed `S`.
    unsafe { &*data.cast::<S>() }.size_hint()
}

/// # Safety
/// As `poll_frame`; the box is given up.
unsafe extern "C" fn drop_source<S>(data: *mut ()) {
    // SAFETY: `data` is a boxed `S` that is given up here.
    drop(unsafe { Box::from_raw(data.cast::<S>()) });
}

//! Wakers across the border.
//!
//! A `std::task::Waker` cannot cross: its table's functions have Rust's own calling convention. An [`FfiWaker`]
//! carries the owner's waker as the two words that it consists of, and `extern "C"` functions of the owner that
//! know what to do with them. Passing one by reference costs nothing; a clone on the other side is one
//! allocation there.

use std::mem::ManuallyDrop;
use std::task::{RawWaker, RawWakerVTable, Waker};

use abi_stable::StableAbi;

/// A waker of the other side.
#[repr(C)]
#[derive(StableAbi)]
pub struct FfiWaker {
    /// `Waker::data` of the owner.
    data: *const (),
    /// `Waker::vtable` of the owner; only the owner looks inside.
    table: *const (),
    functions: WakerFunctions,
}

#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
struct WakerFunctions {
    clone: unsafe extern "C" fn(*const (), *const ()) -> FfiWaker,
    wake: unsafe extern "C" fn(*const (), *const ()),
    drop: unsafe extern "C" fn(*const (), *const ()),
}

// SAFETY: the two words are those of a `Waker`, which is `Send` and `Sync`; the functions do what a `Waker`'s
// own do.
unsafe impl Send for FfiWaker {}
// SAFETY: as above.
unsafe impl Sync for FfiWaker {}

const FUNCTIONS: WakerFunctions = WakerFunctions { clone: owner_clone, wake: owner_wake, drop: owner_drop };

/// Puts the two words together again, without taking over the count that they stand for.
///
/// # Safety
/// `data` and `table` are the words of a live `Waker` of this side.
unsafe fn borrow(data: *const (), table: *const ()) -> ManuallyDrop<Waker> {
    // SAFETY: the caller says that the words are a waker's of this side, so the table is one that this side's
    // compiler made, in memory that lives as long as this side's code.
    let table = unsafe { &*table.cast::<RawWakerVTable>() };
    // SAFETY: the words came from `Waker::data` and `Waker::vtable` of one waker.
    ManuallyDrop::new(unsafe { Waker::new(data, table) })
}

unsafe extern "C" fn owner_clone(data: *const (), table: *const ()) -> FfiWaker {
    // SAFETY: only called through an `FfiWaker`, which holds the words of a live waker of this side.
    let waker = unsafe { borrow(data, table) };
    FfiWaker::owned(Waker::clone(&waker))
}

unsafe extern "C" fn owner_wake(data: *const (), table: *const ()) {
    // SAFETY: as in `owner_clone`.
    unsafe { borrow(data, table) }.wake_by_ref();
}

unsafe extern "C" fn owner_drop(data: *const (), table: *const ()) {
    // SAFETY: as in `owner_clone`; called once, by the drop of an owned `FfiWaker`, whose count this is.
    drop(ManuallyDrop::into_inner(unsafe { borrow(data, table) }));
}

impl FfiWaker {
    /// Lends `waker` to the other side for the call that `f` makes.
    pub fn lend<R>(waker: &Waker, f: impl FnOnce(&FfiWaker) -> R) -> R {
        // Not dropped: the count belongs to `waker`.
        let lent = ManuallyDrop::new(Self::from_words(waker));
        f(&lent)
    }

    fn owned(waker: Waker) -> Self {
        Self::from_words(&ManuallyDrop::new(waker))
    }

    fn from_words(waker: &Waker) -> Self {
        let table: *const RawWakerVTable = waker.vtable();
        Self { data: waker.data(), table: table.cast(), functions: FUNCTIONS }
    }

    /// Runs `f` with a waker of this side that wakes the other side's.
    pub fn with<R>(&self, f: impl FnOnce(&Waker) -> R) -> R {
        let data: *const FfiWaker = self;
        // SAFETY: `BORROWED`'s functions want a pointer to a live `FfiWaker`; it lives until `f` returns, and
        // the waker is not dropped (its drop would do nothing).
        let waker = ManuallyDrop::new(unsafe { Waker::new(data.cast(), &BORROWED) });
        f(&waker)
    }
}

impl Clone for FfiWaker {
    fn clone(&self) -> Self {
        // SAFETY: the words are live for as long as `self` is.
        unsafe { (self.functions.clone)(self.data, self.table) }
    }
}

impl Drop for FfiWaker {
    fn drop(&mut self) {
        // SAFETY: an `FfiWaker` that is dropped is an owned one (`lend` never drops the one it makes), and this
        // is the end of its count.
        unsafe { (self.functions.drop)(self.data, self.table) }
    }
}

impl FfiWaker {
    /// Wakes whoever waits.
    pub fn wake(&self) {
        // SAFETY: the words are live for as long as `self` is.
        unsafe { (self.functions.wake)(self.data, self.table) }
    }
}

/// The waker that [`FfiWaker::with`] lends: its data is a `&FfiWaker`.
static BORROWED: RawWakerVTable = RawWakerVTable::new(foreign_clone, borrowed_wake, borrowed_wake, |_| ());

/// What a clone of it becomes: its data is a `Box<FfiWaker>`.
static BOXED: RawWakerVTable = RawWakerVTable::new(foreign_clone, boxed_wake, borrowed_wake, boxed_drop);

unsafe fn foreign_clone(data: *const ()) -> RawWaker {
    // SAFETY: the data of both tables points to a live `FfiWaker`.
    let waker = unsafe { &*data.cast::<FfiWaker>() };
    RawWaker::new(Box::into_raw(Box::new(waker.clone())).cast_const().cast(), &BOXED)
}

unsafe fn borrowed_wake(data: *const ()) {
    // SAFETY: the data of both tables points to a live `FfiWaker`.
    unsafe { &*data.cast::<FfiWaker>() }.wake();
}

unsafe fn boxed_wake(data: *const ()) {
    // SAFETY: the data of `BOXED` is a box that this call consumes.
    unsafe { Box::from_raw(data.cast::<FfiWaker>().cast_mut()) }.wake();
}

unsafe fn boxed_drop(data: *const ()) {
    // SAFETY: the data of `BOXED` is a box that this call consumes.
    drop(unsafe { Box::from_raw(data.cast::<FfiWaker>().cast_mut()) });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn every_clone_wakes_and_none_is_lost_or_freed_twice() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let kept = FfiWaker::lend(&waker, |ffi| {
            ffi.with(|foreign| {
                foreign.wake_by_ref();
                (foreign.clone(), foreign.clone())
            })
        });
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        drop(waker);
        kept.0.wake_by_ref();
        kept.0.wake();
        let again = kept.1.clone();
        drop(kept.1);
        std::thread::spawn(move || again.wake()).join().unwrap();
        assert_eq!(count.0.load(Ordering::Relaxed), 4);
        assert_eq!(Arc::strong_count(&count), 1);
    }
}

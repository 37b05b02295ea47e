//! Bytes across the border, without a copy.

use abi_stable::StableAbi;
use bytes::Bytes;
use std::mem::ManuallyDrop;

/// Bytes of the other side, with the function that frees them.
#[repr(C)]
#[derive(StableAbi)]
pub struct FfiBytes {
    start: *const u8,
    len: usize,
    /// What `drop` needs beside the two: a boxed `Bytes`, or the capacity of a `Vec`.
    owner: *mut (),
    drop: unsafe extern "C" fn(*const u8, usize, *mut ()),
}

// SAFETY: the owner is a boxed `Bytes` or a `Vec<u8>`, which are `Send` and `Sync`, and nobody writes to the bytes.
unsafe impl Send for FfiBytes {}
// SAFETY: as above.
unsafe impl Sync for FfiBytes {}

impl From<Bytes> for FfiBytes {
    fn from(bytes: Bytes) -> Self {
        // The bytes stay where they are when the `Bytes` moves into its box.
        let (start, len) = (bytes.as_ptr(), bytes.len());
        Self { start, len, owner: Box::into_raw(Box::new(bytes)).cast(), drop: drop_owner }
    }
}

impl From<Vec<u8>> for FfiBytes {
    /// Without an allocation of its own.
    fn from(bytes: Vec<u8>) -> Self {
        let bytes = ManuallyDrop::new(bytes);
        let capacity = std::ptr::without_provenance_mut(bytes.capacity());
        Self { start: bytes.as_ptr(), len: bytes.len(), owner: capacity, drop: drop_vec }
    }
}

impl AsRef<[u8]> for FfiBytes {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the owner keeps `len` bytes at `start` for as long as it lives, which is as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl Drop for FfiBytes {
    fn drop(&mut self) {
        // SAFETY: these are the words that `drop` was made for, and they are not used again.
        unsafe { (self.drop)(self.start, self.len, self.owner) }
    }
}

/// # Safety
/// The three words are those that a `Vec<u8>` was taken apart into, which is given up.
unsafe extern "C" fn drop_vec(start: *const u8, len: usize, capacity: *mut ()) {
    // SAFETY: the three are those of a `Vec<u8>` of this side that was not dropped.
    drop(unsafe { Vec::from_raw_parts(start.cast_mut(), len, capacity.addr()) });
}

/// # Safety
/// `owner` is a `Bytes` in a box, which is given up.
unsafe extern "C" fn drop_owner(_start: *const u8, _len: usize, owner: *mut ()) {
    // SAFETY: `owner` is a boxed `Bytes` that is given up here.
    drop(unsafe { Box::from_raw(owner.cast::<Bytes>()) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_cross_in_place_and_are_freed_by_their_owner() {
        struct Owner(Vec<u8>, std::sync::mpsc::Sender<()>);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        impl Drop for Owner {
            fn drop(&mut self) {
                self.1.send(()).unwrap();
            }
        }
        let (dropped, seen) = std::sync::mpsc::channel();
        let bytes = Bytes::from_owner(Owner(b"hello".to_vec(), dropped));
        let at = bytes.as_ptr();
        let back = Bytes::from_owner(FfiBytes::from(bytes));
        assert_eq!((&*back, back.as_ptr()), (&b"hello"[..], at));
        assert!(seen.try_recv().is_err());
        drop(back);
        assert!(seen.try_recv().is_ok());
        assert_eq!(FfiBytes::from(Bytes::new()).as_ref(), b"");
        let mut vec = Vec::with_capacity(64);
        vec.extend_from_slice(b"hello");
        let at = vec.as_ptr();
        let bytes = FfiBytes::from(vec);
        assert_eq!((bytes.as_ref(), bytes.as_ref().as_ptr()), (&b"hello"[..], at));
        assert_eq!(FfiBytes::from(Vec::new()).as_ref(), b"");
    }
}

//! Bytes across the border, without a copy.

use abi_stable::StableAbi;
use bytes::Bytes;

/// Bytes of the other side, with the function that frees them.
#[repr(C)]
#[derive(StableAbi)]
pub struct FfiBytes {
    start: *const u8,
    len: usize,
    owner: *mut (),
    drop: unsafe extern "C" fn(*mut ()),
}

// SAFETY: the owner is a boxed `Bytes`, which is `Send` and `Sync`, and nobody writes to the bytes.
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

impl AsRef<[u8]> for FfiBytes {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the owner keeps `len` bytes at `start` for as long as it lives, which is as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl Drop for FfiBytes {
    fn drop(&mut self) {
        // SAFETY: `owner` is the box that `drop` was made for, and it is not used again.
        unsafe { (self.drop)(self.owner) }
    }
}

unsafe extern "C" fn drop_owner(owner: *mut ()) {
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
    }
}

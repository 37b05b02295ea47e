//! The symbols by which a library is recognised.
//!
//! Two statics, made by the export macro of `relmgr-app`:
//!
//! * [`ENTRY_SYMBOL`], an [`Entry`]: read by the host, and from the file by the release builder. Its header
//!   never changes.
//! * [`LAYOUT_SYMBOL`], abi_stable's `LibHeader`: read in the preflight process only. Its layout check compares
//!   the whole contract, field by field, but keeps references into the library for ever, so the process in which
//!   it ran must end.

use std::mem::{align_of, offset_of, size_of};

use crate::body::{FfiBody, Frame, SizeHint};
use crate::buffer::FfiBytes;
use crate::future::{FfiFuture, Poll};
use crate::head::{ConnectionFacts, FieldView, RequestHead, Response};
use crate::root::{AppRootRef, Description, Instance, LogRecord, StartArgs};
use crate::waker::FfiWaker;

/// Name of the [`Entry`].
pub const ENTRY_SYMBOL: &str = "RELMGR_ENTRY";

/// Name of abi_stable's header.
pub const LAYOUT_SYMBOL: &str = "RELMGR_LAYOUT";

/// The first bytes of an [`Entry`].
pub const MAGIC: [u8; 8] = *b"RELMGR\0\0";

/// What a library says of itself, at a fixed layout for ever: magic, contract, fingerprint, root.
#[repr(C)]
pub struct Entry {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`crate::ABI_MAJOR`] of the library's relmgr-abi.
    pub major: u32,
    /// [`crate::ABI_MINOR`] of the library's relmgr-abi.
    pub minor: u32,
    /// [`FINGERPRINT`] of the library's relmgr-abi.
    pub fingerprint: u64,
    /// The library's functions.
    pub root: AppRootRef,
}

impl Entry {
    /// The entry of a library whose functions are `root`.
    pub const fn new(root: AppRootRef) -> Self {
        Self {
            magic: MAGIC,
            major: crate::ABI_MAJOR,
            minor: crate::ABI_MINOR,
            fingerprint: FINGERPRINT,
            root,
        }
    }

    /// Whether a host of this contract can work with the library.
    ///
    /// # Errors
    /// Which part does not fit, for people.
    pub fn check(&self) -> Result<(), String> {
        let (major, minor) = (crate::ABI_MAJOR, crate::ABI_MINOR);
        if self.magic != MAGIC {
            return Err(format!("its {ENTRY_SYMBOL} is not relmgr's"));
        }
        if self.major != major || self.minor > minor {
            let theirs = format!("{}.{}", self.major, self.minor);
            return Err(format!("it speaks contract {theirs}, this relmgr {major}.{minor}"));
        }
        if self.fingerprint != FINGERPRINT {
            return Err(format!(
                "its contract types differ from this relmgr's (fingerprint {:016x}, expected {FINGERPRINT:016x}): \
                 rebuild it with relmgr-app {major}.{minor}",
                self.fingerprint
            ));
        }
        Ok(())
    }
}

/// A hash over size, alignment and field places of every contract type that cannot grow: two sides with equal
/// fingerprints agree on where each byte lies. (What can grow, the types of [`crate::root`], carry their own
/// description.)
pub const FINGERPRINT: u64 = {
    let mut hash = Fnv::new();
    macro_rules! shape {
        ($($type:ty { $($field:ident),* })*) => {$(
            hash = hash.add(size_of::<$type>()).add(align_of::<$type>());
            $(hash = hash.add(offset_of!($type, $field));)*
        )*};
    }
    shape! {
        FfiWaker {}
        FfiFuture<u8> {}
        Poll<u8> {}
        Poll<Response> {}
        FfiBytes {}
        FfiBody {}
        Frame {}
        SizeHint { lower, upper }
        RequestHead<'static> {
            method, scheme, authority, path_and_query, http_version, fields, connection, request_id
        }
        FieldView<'static> { name, value }
        ConnectionFacts { peer, local, tls }
        Response { status, fields, fields_len, bytes, whole, body }
        Description { name }
        StartArgs { version, directory, settings, host }
        Instance { data, functions }
        LogRecord { level, target, message, version }
        Entry { magic, major, minor, fingerprint, root }
    }
    hash.0
};

/// FNV-1a, since it is short enough for a constant.
struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    const fn add(self, value: usize) -> Self {
        let bytes = (value as u64).to_le_bytes();
        let mut hash = self.0;
        let mut at = 0;
        while at < bytes.len() {
            hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
            at += 1;
        }
        Self(hash)
    }
}

//! One patch between two files: bsdiff's format, checked before qbsdiff sees it.
//!
//! ```text
//! 0   "BSDIFF40"
//! 8   length of the compressed control block     integers: 64 bits, little endian, sign and magnitude
//! 16  length of the compressed diff block
//! 24  size of the result
//! 32  control block, diff block, extra block: a bzip2 stream each
//! ```
//! The control block is a list of triples: *add* so many bytes of the diff block to the base's, *copy* so many bytes
//! of the extra block, *seek* in the base. qbsdiff's reader trusts the header's lengths (a sum that overflows is a
//! panic) and works as long as there are controls, and a kilobyte of bzip2 may hold a hundred million that do nothing. So the
//! header and all of the controls are looked at first. What remains cannot do more than the result's size allows:
//! both data blocks are read exactly as far as the controls say.

use std::io::{self, Read, Write};

use bzip2::read::BzDecoder;
use qbsdiff::{Bsdiff, Bspatch, ParallelScheme};

/// Magic and the three integers.
const HEADER: usize = 32;

const MAGIC: &[u8; 8] = b"BSDIFF40";

/// One control: three integers.
const CONTROL: usize = 24;

/// The search is cut into pieces of this size, which processors share; a fixed one, so that the bytes do not depend
/// on their number. Larger pieces find no better matches; smaller ones cost a few controls each.
const PIECE: usize = 1024 * 1024;

/// bzip2's best level is worth nothing here: patches are far smaller than its blocks.
const LEVEL: u32 = 9;

/// Why a patch is not applied.
#[derive(Debug)]
pub(super) enum PatchFault {
    /// It is none, or cut, or contradicts itself.
    Damaged(&'static str, Option<io::Error>),
    /// It asks for more than it may.
    Limit(String),
}

/// The patch that makes `target` from `base`.
pub(super) fn make(base: &[u8], target: &[u8]) -> io::Result<Vec<u8>> {
    let mut patch = vec![];
    Bsdiff::new(base, target)
        .parallel_scheme(ParallelScheme::ChunkSize(PIECE))
        .compression_level(LEVEL)
        .compare(&mut patch)?;
    Ok(patch)
}

/// Bytes that base and target have in common, but for small differences.
pub(super) struct Run {
    /// Where in the base.
    pub(super) base: u64,
    /// Where in the target.
    pub(super) target: u64,
    /// How many.
    pub(super) len: u64,
}

/// What a patch of our own making takes from the base.
pub(super) fn runs(patch: &[u8]) -> Result<Vec<Run>, PatchFault> {
    let damaged = || PatchFault::Damaged("it is no bsdiff patch", None);
    let length = patch.get(8..).and_then(integer).and_then(|length| usize::try_from(length).ok());
    let block = length.and_then(|length| patch.get(HEADER..)?.get(..length)).ok_or_else(damaged)?;
    let mut controls = BzDecoder::new(block);
    let mut control = [0; CONTROL];
    let (mut base, mut target, mut runs) = (0u64, 0u64, vec![]);
    while next(&mut controls, &mut control)? {
        let (Some(add), Some(copy)) = (integer(&control), integer(&control[8..])) else {
            return Err(damaged());
        };
        runs.push(Run { base, target, len: add });
        // The sign is the highest bit, the rest is the distance.
        let seek = u64::from_le_bytes(*control[16..].first_chunk().ok_or_else(damaged)?);
        let distance = seek & (u64::MAX >> 1);
        base = base.wrapping_add(add);
        base = if seek >> 63 == 0 { base.wrapping_add(distance) } else { base.wrapping_sub(distance) };
        target = target.wrapping_add(add).wrapping_add(copy);
    }
    Ok(runs)
}

/// A patch that has been checked.
pub(super) struct Patch<'a> {
    bytes: &'a [u8],
}

impl<'a> Patch<'a> {
    /// Checks all that decides how much work and output the patch is, before anything is allocated for it.
    pub(super) fn check(bytes: &'a [u8], size: u64) -> Result<Self, PatchFault> {
        if bytes.len() < HEADER || !bytes.starts_with(MAGIC) {
            return Err(PatchFault::Damaged("it is no bsdiff patch", None));
        }
        let (Some(control), Some(diff), Some(announced)) =
            (integer(&bytes[8..]), integer(&bytes[16..]), integer(&bytes[24..]))
        else {
            return Err(PatchFault::Damaged("a length in its header is negative", None));
        };
        if announced > size {
            return Err(PatchFault::Limit(format!("it announces {announced} bytes, {size} are allowed")));
        }
        if announced < size {
            return Err(PatchFault::Damaged("it announces too small a result", None));
        }
        let blocks = (bytes.len() - HEADER) as u64;
        let within = control.checked_add(diff).is_some_and(|both| both <= blocks);
        let control = usize::try_from(control).ok().filter(|_| within);
        let Some(control) = control else {
            return Err(PatchFault::Damaged("its blocks are longer than it is", None));
        };
        check_controls(&bytes[HEADER..HEADER + control], size)?;
        Ok(Self { bytes })
    }

    /// Writes the result, made from `base`, to `out`.
    pub(super) fn apply(&self, base: &[u8], out: impl Write) -> io::Result<()> {
        Bspatch::new(self.bytes)?.apply(base, out).map(drop)
    }
}

/// The controls make `size` bytes, and there are no more of them than that needs.
fn check_controls(block: &[u8], size: u64) -> Result<(), PatchFault> {
    let mut controls = BzDecoder::new(block);
    // qbsdiff makes controls of 13 bytes and more, but for one or two at each piece's end.
    let most = 64 + size / 8;
    let (mut count, mut made) = (0u64, 0u64);
    let mut control = [0; CONTROL];
    while next(&mut controls, &mut control)? {
        count += 1;
        if count > most {
            return Err(PatchFault::Limit(format!("it has more than {most} controls for {size} bytes")));
        }
        let (Some(add), Some(copy)) = (integer(&control), integer(&control[8..])) else {
            return Err(PatchFault::Damaged("a control's length is negative", None));
        };
        made = made.saturating_add(add).saturating_add(copy);
        if made > size {
            return Err(PatchFault::Limit(format!("its controls make more than the {size} bytes allowed")));
        }
    }
    if made == size { Ok(()) } else { Err(PatchFault::Damaged("its controls make too few bytes", None)) }
}

/// Reads the next control; false at the end.
fn next(controls: &mut impl Read, control: &mut [u8; CONTROL]) -> Result<bool, PatchFault> {
    let damaged = |error| PatchFault::Damaged("its control block does not unpack", Some(error));
    let mut filled = 0;
    while filled < CONTROL {
        match controls.read(&mut control[filled..]).map_err(damaged)? {
            0 if filled == 0 => return Ok(false),
            0 => return Err(PatchFault::Damaged("its last control is cut", None)),
            len => filled += len,
        }
    }
    Ok(true)
}

/// A length: bsdiff's integers have a sign, and a length has none.
fn integer(bytes: &[u8]) -> Option<u64> {
    let value = u64::from_le_bytes(*bytes.first_chunk()?);
    (value >> 63 == 0).then_some(value)
}

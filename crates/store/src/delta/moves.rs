//! Where the code of a library went, so that what merely moved costs nothing.
//!
//! One line more in one function moves everything after it, and then every call, every address of a constant and
//! every relocation that reaches across the place is another number: tens of thousands of small differences without
//! any news in them, which are nearly all of a plain bsdiff patch between two builds of a Rust library. So the patch
//! says from which address on things moved by how much, both sides first correct the base's addresses by it, and
//! bsdiff compares the target with that. What is guessed wrong (there is no disassembler here, only the few byte
//! patterns below) is one more difference in the patch, never a wrong result.
//!
//! | where | what is corrected |
//! | --- | --- |
//! | executable sections | `call`, `jmp` and `jcc` with 32 bits; operands relative to the instruction pointer |
//! | relocations (`SHT_RELA`) | the place; the addend of relative ones |
//! | `.eh_frame`, `.eh_frame_hdr` | addresses of functions and of their exception tables |
//!
//! Only x86-64 ELF is known; anything else is left as it is. No number in a file is believed: reads outside of it
//! give nothing, and sums wrap.

use std::collections::BTreeMap;

use super::patch::Run;

/// From an address of the base on, by how many bytes things moved: sorted, each until the next.
pub(super) type Moves = Vec<(i64, i64)>;

/// A library of a few megabytes whose functions were put in another order needs some hundreds.
pub(super) const MAX_MOVES: usize = 4096;

/// Runs that are shorter say nothing about where something went.
const MIN_RUN: u64 = 32;

const PT_LOAD: u32 = 1;
const SHT_RELA: u32 = 4;
const SHF_EXECINSTR: u64 = 4;
const EM_X86_64: u16 = 62;
const R_X86_64_RELATIVE: u32 = 8;
const RELA_SIZE: usize = 24;

/// A section, or a segment: where it is loaded, and where it lies in the file.
#[derive(Clone, Copy)]
struct Part {
    kind: u32,
    flags: u64,
    name: u32,
    address: i64,
    offset: usize,
    size: usize,
}

fn u16_at(file: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*file.get(at..)?.first_chunk()?))
}

fn u32_at(file: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*file.get(at..)?.first_chunk()?))
}

fn i32_at(file: &[u8], at: usize) -> Option<i64> {
    Some(i32::from_le_bytes(*file.get(at..)?.first_chunk()?).into())
}

fn u64_at(file: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*file.get(at..)?.first_chunk()?))
}

fn place(file: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64_at(file, at)?).ok()
}

/// The segments of a file that are loaded; none when it is no ELF for x86-64.
fn segments(file: &[u8]) -> Vec<Part> {
    let read = || {
        let known = file.starts_with(b"\x7fELF\x02\x01") && u16_at(file, 18)? == EM_X86_64;
        let (table, count) = (place(file, 32)?, usize::from(u16_at(file, 56)?));
        let segment = |index: usize| {
            let entry = file.get(table.checked_add(index * 56)?..)?;
            Some(Part {
                kind: u32_at(entry, 0)?,
                flags: 0,
                name: 0,
                address: u64_at(entry, 16)?.cast_signed(),
                offset: place(entry, 8)?,
                size: place(entry, 32)?,
            })
        };
        known.then(|| (0..count).map_while(segment).filter(|part| part.kind == PT_LOAD).collect())
    };
    read().unwrap_or_default()
}

/// The sections whose bytes lie within the file.
fn sections(file: &[u8]) -> Vec<Part> {
    let read = || {
        let (table, count) = (place(file, 40)?, usize::from(u16_at(file, 60)?));
        let section = |index: usize| {
            let entry = file.get(table.checked_add(index * 64)?..)?;
            Some(Part {
                name: u32_at(entry, 0)?,
                kind: u32_at(entry, 4)?,
                flags: u64_at(entry, 8)?,
                address: u64_at(entry, 16)?.cast_signed(),
                offset: place(entry, 24)?,
                size: place(entry, 32)?,
            })
        };
        Some((0..count).map_while(section).collect::<Vec<_>>())
    };
    let mut all = read().unwrap_or_default();
    let names = u16_at(file, 62).and_then(|index| all.get(usize::from(index))).map_or(0, |part| part.offset);
    for part in &mut all {
        let at = names.saturating_add(part.name as usize);
        let name = file.get(at..).unwrap_or_default();
        let is = |wanted: &[u8]| name.starts_with(wanted);
        part.name = if is(b".eh_frame\0") {
            EH_FRAME
        } else if is(b".eh_frame_hdr\0") {
            EH_FRAME_HDR
        } else {
            0
        };
    }
    all.retain(|part| part.offset.checked_add(part.size).is_some_and(|end| end <= file.len()));
    all
}

/// What [`Part::name`] is for the two sections that are known by name.
const EH_FRAME: u32 = 1;
const EH_FRAME_HDR: u32 = 2;

/// What moved between two libraries that have these `runs` in common; nothing when they are no libraries.
pub(super) fn find(base: &[u8], target: &[u8], runs: &[Run]) -> Moves {
    let (from, to) = (segments(base), segments(target));
    let mut found = vec![];
    for run in runs.iter().filter(|run| run.len >= MIN_RUN) {
        // A run may reach over the borders of segments, which move apart.
        for part in &from {
            let (offset, end) = (part.offset as u64, (part.offset as u64).saturating_add(part.size as u64));
            let (start, end) = (run.base.max(offset), (run.base + run.len).min(end));
            if start >= end {
                continue;
            }
            let Some(target) = address(&to, run.target + (start - run.base)) else { continue };
            let source = part.address.wrapping_add((start - offset).cast_signed());
            found.push((source, target.wrapping_sub(source), end - start));
        }
    }
    steps(found)
}

/// Of pieces (address, shift, length) the addresses at which the shift changes. Longer pieces are surer: a shorter
/// one that says something else of the same bytes is a piece that was used twice.
fn steps(mut pieces: Vec<(i64, i64, u64)>) -> Moves {
    pieces.sort_unstable_by_key(|&(source, _, len)| (std::cmp::Reverse(len), source));
    let mut taken: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    for (source, shift, len) in pieces {
        let end = source.saturating_add_unsigned(len);
        let free = taken.range(..end).next_back().is_none_or(|(_, (last, _))| *last <= source);
        if free {
            taken.insert(source, (end, shift));
        }
    }
    let mut moves: Moves = vec![];
    for (source, (_, shift)) in taken {
        if moves.last().is_none_or(|(_, last)| *last != shift) {
            moves.push((source, shift));
        }
    }
    // So many say that this is another program, of which a plain patch is as good.
    if moves.len() > MAX_MOVES || moves.iter().all(|(_, shift)| *shift == 0) { vec![] } else { moves }
}

/// Where the byte at `offset` of the file is loaded.
fn address(segments: &[Part], offset: u64) -> Option<i64> {
    let within = |part: &&Part| {
        let start = part.offset as u64;
        (start..start.saturating_add(part.size as u64)).contains(&offset)
    };
    let part = segments.iter().find(within)?;
    Some(part.address.wrapping_add((offset - part.offset as u64).cast_signed()))
}

/// Corrects the addresses in `file`, a library, by what moved.
pub(super) fn correct(file: &mut [u8], moves: &[(i64, i64)]) {
    if moves.is_empty() {
        return;
    }
    let ends = segments(file).into_iter().map(|part| part.address.saturating_add(part.size as i64));
    let Some(image) = ends.max() else { return };
    let moved = Moved { moves, image };
    // Sections do not overlap; a table that says so could have every byte looked at as often as it likes.
    let mut left = file.len();
    for part in sections(file) {
        let Some(rest) = left.checked_sub(part.size) else { return };
        left = rest;
        let bytes = &mut file[part.offset..part.offset + part.size];
        if part.flags & SHF_EXECINSTR != 0 {
            moved.code(bytes, part.address);
        } else if part.kind == SHT_RELA {
            moved.relocations(bytes);
        } else if part.name == EH_FRAME {
            moved.frames(bytes, part.address);
        } else if part.name == EH_FRAME_HDR {
            moved.frame_table(bytes, part.address);
        }
    }
}

struct Moved<'a> {
    moves: &'a [(i64, i64)],
    /// The end of what is loaded: no address lies beyond it.
    image: i64,
}

impl Moved<'_> {
    /// By how much what is at `address` moved.
    fn shift(&self, address: i64) -> i64 {
        let next = self.moves.partition_point(|(from, _)| *from <= address);
        next.checked_sub(1).map_or(0, |at| self.moves[at].1)
    }

    /// Corrects the 32 bits at `at`, which count from `origin` (itself near `here`); whether they can be an address.
    fn relative(&self, bytes: &mut [u8], at: usize, origin: i64) -> bool {
        let Some(value) = i32_at(bytes, at) else { return false };
        let to = origin.wrapping_add(value);
        if to <= 0 || to >= self.image {
            return false;
        }
        let value = value.wrapping_add(self.shift(to)).wrapping_sub(self.shift(origin));
        // Truncation is what the instruction would do.
        bytes[at..at + 4].copy_from_slice(&(value as i32).to_le_bytes());
        true
    }

    fn code(&self, bytes: &mut [u8], address: i64) {
        let mut at = 0;
        while at + 5 <= bytes.len() {
            // How far the operand is from here, if these bytes can be the beginning of one.
            let operand = match (bytes[at], bytes[at + 1]) {
                (0xe8 | 0xe9, _) => Some(1),
                (0x0f, 0x80..=0x8f) => Some(2),
                // ModRM: no register as the base, the instruction pointer instead.
                (modrm, _) if modrm & 0xc7 == 0x05 => Some(1),
                _ => None,
            };
            let corrected = operand.is_some_and(|operand| {
                let next = address.wrapping_add((at + operand + 4) as i64);
                self.relative(bytes, at + operand, next)
            });
            at += match operand {
                Some(operand) if corrected => operand + 4,
                _ => 1,
            };
        }
    }

    fn relocations(&self, bytes: &mut [u8]) {
        for entry in bytes.chunks_exact_mut(RELA_SIZE) {
            let kind = u32_at(entry, 8);
            let fields: &[usize] = if kind == Some(R_X86_64_RELATIVE) { &[0, 16] } else { &[0] };
            for at in fields {
                let value = u64_at(entry, *at).unwrap_or(0).cast_signed();
                let value = value.wrapping_add(self.shift(value));
                entry[*at..*at + 8].copy_from_slice(&value.to_le_bytes());
            }
        }
    }

    /// Records of a length, a number that is 0 in a CIE, and in an FDE: the function's address, its length, and,
    /// when four more bytes are announced, the address of its exception table.
    fn frames(&self, bytes: &mut [u8], address: i64) {
        let mut at = 0;
        while let (Some(length), Some(id)) = (u32_at(bytes, at), u32_at(bytes, at + 4)) {
            if length < 4 || length == u32::MAX {
                return;
            }
            if id != 0 {
                let field = |at: usize| address.wrapping_add(at as i64);
                self.relative(bytes, at + 8, field(at + 8));
                if bytes.get(at + 16) == Some(&4) {
                    self.relative(bytes, at + 17, field(at + 17));
                }
            }
            at += 4 + length as usize;
        }
    }

    /// A header of 12 bytes with the address of `.eh_frame`, then pairs of addresses, counted from the section.
    fn frame_table(&self, bytes: &mut [u8], address: i64) {
        self.relative(bytes, 4, address.wrapping_add(4));
        for at in (12..bytes.len()).step_by(4) {
            self.relative(bytes, at, address);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CODE: i64 = 0x1000;
    const DATA: i64 = 0x4000;

    /// A library of one segment with code, relocations and frames. What lies behind the code's middle, and all data,
    /// is `moved` bytes further on than in the library that nothing moved in.
    fn library(moved: i64) -> Vec<u8> {
        let (middle, data) = (CODE + 0x100 + moved, DATA + moved);
        let mut code = vec![];
        let operand = |code: &mut Vec<u8>, opcode: &[u8], to: i64| {
            code.extend(opcode);
            let next = CODE + code.len() as i64 + 4;
            code.extend(i32::try_from(to - next).unwrap().to_le_bytes());
        };
        operand(&mut code, &[0xe8], middle + 8); // call, over the place
        operand(&mut code, &[0xe9], CODE + 2); // jmp, on this side of it
        operand(&mut code, &[0x0f, 0x84], middle + 16); // je
        operand(&mut code, &[0x48, 0x8d, 0x05], data + 32); // lea
        operand(&mut code, &[0xe8], 0x7000_0000); // no address of the library
        code.resize((middle - CODE) as usize, 0x90);
        operand(&mut code, &[0xe8], CODE); // back over the place
        operand(&mut code, &[0x8b, 0x0d], data + 40); // mov
        code.resize((data - CODE) as usize, 0x90);
        // Relocations: a relative one, and another.
        let mut relocations = vec![];
        for (place, kind, addend) in [(data + 8, R_X86_64_RELATIVE, middle), (data + 16, 6, 7)] {
            relocations.extend(place.to_le_bytes());
            relocations.extend(u64::from(kind).to_le_bytes());
            relocations.extend(addend.to_le_bytes());
        }
        // A CIE, and an FDE with an exception table.
        let frames = data + relocations.len() as i64;
        let mut frame = [4u32.to_le_bytes(), [0; 4], 17u32.to_le_bytes(), [1; 4]].concat();
        let field = |at: usize, to: i64| i32::try_from(to - frames - at as i64).unwrap().to_le_bytes();
        frame.extend(field(frame.len(), middle));
        frame.extend([9, 0, 0, 0, 4]);
        frame.extend(field(frame.len(), data));
        let content = [code, relocations.clone(), frame.clone()].concat();
        // The file: header, one segment, the section table behind all, the names last.
        let start = 64 + 56;
        let names = b"\0.eh_frame\0";
        let tables = start + content.len() + names.len();
        let number = |value: usize| (value as u64).to_le_bytes();
        let mut file = [&b"\x7fELF\x02\x01"[..], &[0; 10], &[3, 0, 62, 0], &[0; 12]].concat();
        file.extend([number(64), number(tables)].concat());
        file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 4, 0, 3, 0]);
        file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
        file.extend([start, CODE as usize, 0, content.len(), content.len(), 0].map(number).concat());
        file.extend(content);
        file.extend(names);
        let frames_at = tables - names.len() - frame.len();
        for (name, kind, flags, address, offset, size) in [
            (0u32, 1u32, SHF_EXECINSTR, CODE, start, (data - CODE) as usize),
            (0, SHT_RELA, 0, data, frames_at - relocations.len(), relocations.len()),
            (1, 1, 0, frames, frames_at, frame.len()),
            (0, 3, 0, 0, tables - names.len(), names.len()),
        ] {
            file.extend([name.to_le_bytes(), kind.to_le_bytes()].concat());
            file.extend([flags, address as u64, offset as u64, size as u64].map(u64::to_le_bytes).concat());
            file.extend([0; 24]);
        }
        file
    }

    #[test]
    fn addresses_across_what_moved_are_corrected_and_others_are_not() {
        let (mut base, target) = (library(0), library(64));
        let start = 120;
        let first = 0x100;
        assert_ne!(base[start..start + first], target[start..start + first]);
        correct(&mut base, &[(0, 0), (CODE + 0x100, 64)]);
        assert_eq!(base[start..start + first], target[start..start + first], "before the place");
        // Up to the frames' end, 3 * 64 + 11 bytes before the section table's.
        let content = base.len() - 4 * 64 - 11;
        assert_eq!(base[start + first..content], target[start + first + 64..content + 64], "behind it");
    }

    #[test]
    fn what_moved_is_found_from_what_a_patch_takes() {
        let (base, target) = (library(0), library(64));
        let patch = super::super::patch::make(&base, &target).unwrap();
        let runs = super::super::patch::runs(&patch).unwrap();
        let moves = find(&base, &target, &runs);
        let moved = Moved { moves: &moves, image: i64::MAX };
        assert_eq!((moved.shift(CODE), moved.shift(DATA + 8)), (0, 64), "{moves:?}");
        assert!(find(b"text", b"other text", &runs).is_empty());
    }

    #[test]
    fn the_longer_of_two_pieces_is_believed() {
        let pieces = vec![(0, 0, 1000), (500, -400, 40), (1000, 16, 2000), (3000, 16, 50), (9000, 0, 100)];
        assert_eq!(steps(pieces), [(0, 0), (1000, 16), (9000, 0)]);
        assert!(steps(vec![(0, 0, 100), (200, 0, 100)]).is_empty());
        let scattered = (0..2 * MAX_MOVES as i64).map(|at| (at * 64, at, 64)).collect();
        assert!(steps(scattered).is_empty());
    }

    proptest! {
        #[test]
        fn any_file_and_any_moves_are_taken(
            changes in prop::collection::vec((0..2000usize, any::<u64>()), 0..20),
            moves in prop::collection::btree_map(any::<i64>(), any::<i64>(), 0..5),
            len in 0..20_000usize,
        ) {
            let mut file = library(0);
            for (at, value) in changes {
                // Most of them in the headers, at both ends.
                let at = if at < 1000 { at % 120 } else { file.len() - 8 - at % 270 };
                file[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            file.truncate(len);
            let moves: Moves = moves.into_iter().collect();
            let before = file.len();
            correct(&mut file, &moves);
            prop_assert_eq!(file.len(), before);
            let runs = [Run { base: 0, target: 64, len: before as u64 }];
            find(&file, &library(0), &runs);
        }
    }
}

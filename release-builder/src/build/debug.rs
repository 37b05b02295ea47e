//! A library apart from what a debugger reads of it, which is most of one that was built for development: five sixths of
//! the example's. A node copies, hashes and syncs what is in a release, and somebody waits for it.
//!
//! What is left says where the rest is (`.gnu_debuglink`), so that backtraces have their lines.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use object::elf::{self, FileHeader64, SectionHeader64};
use object::endian::{Endianness, U32, U64};
use object::pod::bytes_of;
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};

type Header = FileHeader64<Endianness>;

/// Names a file with the sections that are missing. (GDB's manual, Separate Debug Files.)
const LINK: &[u8] = b".gnu_debuglink\0";

/// The library in `bytes` without its debug sections, which are read from the file at `whole` instead. `None`: it has
/// none, or another layout than linkers give it.
pub(crate) fn set_apart(bytes: &[u8], whole: &Path) -> Option<Vec<u8>> {
    let header = Header::parse(bytes).ok()?;
    let endian = header.endian().ok()?;
    let table = header.sections(endian, bytes).ok()?;
    let names = usize::from(header.e_shstrndx(endian).0);
    let mut sections: Vec<SectionHeader64<Endianness>> = table.iter().copied().collect();

    // 1. What is mapped stays where it is; so do the headers of the file, which lie in it.
    let segments = header.program_headers(endian, bytes).ok()?;
    let ends = segments.iter().map(|segment| segment.p_offset(endian) + segment.p_filesz(endian));
    let kept = usize::try_from(ends.max()?).ok()?;
    let mut out = bytes.get(..kept)?.to_vec();

    // 2. What comes after it follows, less what is for debuggers. Sections keep their numbers: others name them.
    let mut free = None;
    let mut link_name = 0;
    for (index, section) in table.iter().enumerate() {
        let (begin, len) = (usize::try_from(section.sh_offset(endian)).ok()?, section.sh_size(endian));
        let len = usize::try_from(len).ok()?;
        let mapped = section.sh_flags(endian).0 & elf::SHF_ALLOC.0 != 0;
        let empty = [elf::SHT_NULL, elf::SHT_NOBITS].contains(&section.sh_type(endian));
        if mapped || empty || begin + len <= kept {
            continue;
        }
        if table.section_name(endian, section).ok()?.starts_with(b".debug_") {
            free = free.or(Some(index));
            sections[index] = blank(endian);
            continue;
        }
        let align = usize::try_from(section.sh_addralign(endian)).ok()?.max(1);
        out.resize(out.len().next_multiple_of(align), 0);
        sections[index].sh_offset = U64::new(endian, out.len() as u64);
        out.extend_from_slice(bytes.get(begin..begin + len)?);
        if index == names {
            link_name = u32::try_from(len).ok()?;
            out.extend_from_slice(LINK);
            sections[index].sh_size = U64::new(endian, (len + LINK.len()) as u64);
        }
    }
    let (free, true) = (free?, link_name > 0) else { return None };

    // 3. Where the rest is. Rust's backtraces do not compare the checksum.
    out.resize(out.len().next_multiple_of(4), 0);
    let begin = out.len();
    out.extend_from_slice(whole.as_os_str().as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4) + 4, 0);
    sections[free] = SectionHeader64 {
        sh_name: U32::new(endian, link_name),
        sh_type: U32::new(endian, elf::SHT_PROGBITS),
        sh_offset: U64::new(endian, begin as u64),
        sh_size: U64::new(endian, (out.len() - begin) as u64),
        sh_addralign: U64::new(endian, 4),
        ..blank(endian)
    };

    // 4. The sections' headers, and where they are now.
    out.resize(out.len().next_multiple_of(8), 0);
    let moved = Header { e_shoff: U64::new(endian, out.len() as u64), ..*header };
    sections.iter().for_each(|section| out.extend_from_slice(bytes_of(section)));
    out.get_mut(..size_of::<Header>())?.copy_from_slice(bytes_of(&moved));
    Some(out)
}

fn blank(endian: Endianness) -> SectionHeader64<Endianness> {
    let (word, long) = (U32::new(endian, 0), U64::new(endian, 0));
    SectionHeader64 {
        sh_name: word,
        sh_type: U32::new(endian, elf::SHT_NULL),
        sh_flags: U64::new(endian, elf::SectionFlags(0)),
        sh_addr: long,
        sh_offset: long,
        sh_size: long,
        sh_link: word,
        sh_info: word,
        sh_addralign: long,
        sh_entsize: long,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::{Object, ObjectSection, ObjectSymbol};
    use std::process::Command;

    #[test]
    fn a_library_without_its_debug_sections_says_where_they_are_and_loads() {
        let directory = tempfile::tempdir().unwrap();
        let (source, out) = (directory.path().join("source.c"), directory.path().join("out.so"));
        std::fs::write(
            &source,
            "static int hidden(int a) { return a + 41; }\nint answer(int a) { return hidden(a); }\n",
        )
        .unwrap();
        let flags = ["-g", "-O0", "-shared", "-fPIC", "-o"];
        let cc = Command::new("cc").arg(&source).args(flags).arg(&out).status().unwrap();
        assert!(cc.success());
        let bytes = std::fs::read(&out).unwrap();
        let less = set_apart(&bytes, &out).unwrap();
        assert!(less.len() < bytes.len());

        let (before, after) = (object::File::parse(&*bytes).unwrap(), object::File::parse(&*less).unwrap());
        assert_eq!(after.gnu_debuglink().unwrap(), Some((out.as_os_str().as_bytes(), 0)));
        assert!(after.sections().all(|section| !section.name().unwrap().starts_with(".debug_")));
        let hidden = |file: &object::File<'_>| {
            file.symbols().find(|symbol| symbol.name() == Ok("hidden")).map(|symbol| symbol.address())
        };
        assert!(hidden(&before).is_some());
        assert_eq!(hidden(&after), hidden(&before), "symbols stay");
        for section in before.sections().filter(|section| !section.name().unwrap().starts_with(".debug_")) {
            let name = section.name().unwrap();
            let same = after.section_by_name(name).unwrap();
            let data = same.data().unwrap();
            assert!(data.starts_with(section.data().unwrap()), "{name}");
        }
        assert_eq!(set_apart(&less, &out), None, "there is nothing left to set apart");

        // The dynamic linker takes it.
        std::fs::write(&out, less).unwrap();
        let main = directory.path().join("main.c");
        std::fs::write(&main, "int answer(int); int main(void) { return answer(1) == 42 ? 0 : 1; }").unwrap();
        let program = directory.path().join("main");
        let cc = Command::new("cc").arg(&main).arg(&out).arg("-o").arg(&program).status().unwrap();
        assert!(cc.success());
        assert!(Command::new(&program).status().unwrap().success());
    }

    #[test]
    fn what_is_no_library_stays_as_it_is() {
        assert_eq!(set_apart(b"", Path::new("/x")), None);
        assert_eq!(set_apart(&[0x7f; 4096], Path::new("/x")), None);
    }
}

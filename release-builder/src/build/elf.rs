//! What the library's ELF file tells: what it needs of the machine, whether it is an application of relmgr, and
//! what would keep it in memory after its release is retired.

use std::collections::BTreeSet;
use std::mem::offset_of;

use object::elf::{self, FileHeader64};
use object::endian::Endianness;
use object::read::StringTable;
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionTable, Sym};
use relmgr_abi::entry::{ENTRY_SYMBOL, Entry, MAGIC};
use relmgr_model::manifest::{AbiVersion, GlibcVersion, Needs};

/// A library that cannot be a release's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ElfError {
    #[error("it is not a 64-bit ELF file")]
    Format(#[source] object::read::Error),
    #[error("it is not a shared library (ELF type {0})")]
    NotShared(u16),
    #[error("it is for {found}, not for {target}")]
    Machine { found: String, target: String },
    #[error("it is no relmgr application: it does not export `{ENTRY_SYMBOL}`")]
    NoEntry,
    #[error("its `{ENTRY_SYMBOL}` was not made by relmgr-app")]
    ForeignEntry,
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// What it needs of the machine.
    pub(crate) needs: Needs,
    /// The contract that it was linked with.
    pub(crate) abi: AbiVersion,
    /// Symbols that exist once per process: glibc never unloads a library that defines one.
    pub(crate) unique_symbols: Vec<String>,
    /// Whether the loader has to write into its code.
    pub(crate) text_relocations: bool,
    /// Where the word with `DF_1_NODELETE` lies in the file, when the flag is set.
    nodelete: Option<NoDelete>,
}

/// The `DT_FLAGS_1` word of a library that asks never to be unloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NoDelete {
    offset: usize,
    cleared: [u8; 8],
}

type Header = FileHeader64<Endianness>;

/// Reads the library in `bytes`, which was built for `target`.
///
/// # Errors
/// [`ElfError`]: it cannot be a release's library.
pub(crate) fn read(bytes: &[u8], target: &str) -> Result<Facts, ElfError> {
    let header = Header::parse(bytes).map_err(ElfError::Format)?;
    let endian = header.endian().map_err(ElfError::Format)?;
    if header.e_type(endian) != elf::ET_DYN {
        return Err(ElfError::NotShared(header.e_type(endian).0));
    }
    check_machine(header.e_machine(endian), target)?;
    let sections = header.sections(endian, bytes).map_err(ElfError::Format)?;
    let dynamic = read_dynamic(header, endian, bytes).map_err(ElfError::Format)?;
    let libraries = read_needed(&sections, endian, bytes).map_err(ElfError::Format)?;
    let glibc = read_glibc(&sections, endian, bytes).map_err(ElfError::Format)?;
    let (entry, unique_symbols) = read_symbols(&sections, endian, bytes).map_err(ElfError::Format)?;
    let entry = entry.ok_or(ElfError::NoEntry)?;
    Ok(Facts {
        needs: Needs { glibc, libraries },
        abi: read_abi(header, endian, bytes, entry)
            .map_err(ElfError::Format)?
            .ok_or(ElfError::ForeignEntry)?,
        unique_symbols,
        text_relocations: dynamic.text_relocations,
        nodelete: dynamic.nodelete,
    })
}

impl Facts {
    /// Clears `DF_1_NODELETE` in `bytes`, the file that was read: with it `dlclose` does nothing, and a retired
    /// release would stay in memory. Answers whether it was set.
    pub(crate) fn clear_nodelete(&mut self, bytes: &mut [u8]) -> bool {
        let Some(NoDelete { offset, cleared }) = self.nodelete.take() else { return false };
        bytes[offset..offset + cleared.len()].copy_from_slice(&cleared);
        true
    }
}

/// The machines that Rust has a GNU/Linux target with dynamic libraries for, by the triple's first part.
const MACHINES: [(&str, elf::Machine); 6] = [
    ("x86_64", elf::EM_X86_64),
    ("aarch64", elf::EM_AARCH64),
    ("riscv64", elf::EM_RISCV),
    ("powerpc64", elf::EM_PPC64),
    ("s390x", elf::EM_S390),
    ("loongarch64", elf::EM_LOONGARCH),
];

fn check_machine(found: elf::Machine, target: &str) -> Result<(), ElfError> {
    let named = |(name, _): &&(&str, _)| target.starts_with(name);
    match MACHINES.iter().find(named) {
        Some((_, machine)) if *machine != found => {
            let known = MACHINES.iter().find(|(_, machine)| *machine == found);
            let found = known.map_or_else(|| format!("ELF machine {}", found.0), |(name, _)| (*name).into());
            Err(ElfError::Machine { found, target: target.into() })
        }
        _ => Ok(()),
    }
}

struct DynamicFlags {
    text_relocations: bool,
    nodelete: Option<NoDelete>,
}

/// Through the program header, which is where the dynamic linker looks.
fn read_dynamic(header: &Header, endian: Endianness, bytes: &[u8]) -> object::read::Result<DynamicFlags> {
    let mut flags = DynamicFlags { text_relocations: false, nodelete: None };
    for segment in header.program_headers(endian, bytes)? {
        let Some(entries) = segment.dynamic(endian, bytes)? else { continue };
        for (index, entry) in entries.iter().enumerate() {
            let value = entry.d_val(endian);
            match entry.tag(endian) {
                elf::DT_NULL => break,
                elf::DT_TEXTREL => flags.text_relocations = true,
                elf::DT_FLAGS if value & elf::DF_TEXTREL.0 != 0 => flags.text_relocations = true,
                elf::DT_FLAGS_1 if value & elf::DF_1_NODELETE.0 != 0 => {
                    let start =
                        segment.p_offset(endian) as usize + index * size_of::<elf::Dyn64<Endianness>>();
                    let offset = start + offset_of!(elf::Dyn64<Endianness>, d_val);
                    let cleared = value & !elf::DF_1_NODELETE.0;
                    let cleared = match endian {
                        Endianness::Little => cleared.to_le_bytes(),
                        Endianness::Big => cleared.to_be_bytes(),
                    };
                    flags.nodelete = Some(NoDelete { offset, cleared });
                }
                _ => {}
            }
        }
    }
    Ok(flags)
}

fn read_needed(
    sections: &SectionTable<'_, Header>,
    endian: Endianness,
    bytes: &[u8],
) -> object::read::Result<Vec<String>> {
    let table = sections.dynamic_table(endian, bytes)?;
    let needed = table.iter().filter(|entry| entry.tag == elf::DT_NEEDED);
    needed.map(|entry| Ok(String::from_utf8_lossy(table.string(entry)?).into_owned())).collect()
}

/// The highest glibc version that a symbol asks for. Weak needs are left out: without them the library loads.
fn read_glibc(
    sections: &SectionTable<'_, Header>,
    endian: Endianness,
    bytes: &[u8],
) -> object::read::Result<Option<GlibcVersion>> {
    let Some((needs, link)) = sections.gnu_verneed(endian, bytes)? else { return Ok(None) };
    let strings: StringTable<'_> = sections.strings(endian, bytes, link)?;
    let mut highest = None;
    for need in needs {
        let (_, versions) = need?;
        for version in versions {
            let version = version?;
            if version.vna_flags.get(endian) & elf::VER_FLG_WEAK == elf::VER_FLG_WEAK {
                continue;
            }
            highest = highest.max(glibc_version(version.name(endian, strings)?));
        }
    }
    Ok(highest)
}

/// `GLIBC_2.34` is 2.34. `GLIBC_ABI_DT_RELR` is how a library with packed relocations asks for 2.36, which reads
/// them. `GLIBC_PRIVATE` and other libraries' versions are none.
fn glibc_version(name: &[u8]) -> Option<GlibcVersion> {
    match name {
        b"GLIBC_ABI_DT_RELR" => Some(GlibcVersion { major: 2, minor: 36 }),
        _ => std::str::from_utf8(name.strip_prefix(b"GLIBC_")?).ok()?.parse().ok(),
    }
}

/// The entry symbol's address, and the names of the unique symbols.
fn read_symbols(
    sections: &SectionTable<'_, Header>,
    endian: Endianness,
    bytes: &[u8],
) -> object::read::Result<(Option<u64>, Vec<String>)> {
    let symbols = sections.symbols(endian, bytes, elf::SHT_DYNSYM)?;
    let (mut entry, mut unique) = (None, BTreeSet::new());
    for symbol in symbols.iter().filter(|symbol| !symbol.is_undefined(endian)) {
        let name = symbols.symbol_name(endian, symbol)?;
        if name == ENTRY_SYMBOL.as_bytes() {
            entry = Some(symbol.st_value(endian));
        }
        if symbol.st_bind() == elf::STB_GNU_UNIQUE {
            unique.insert(String::from_utf8_lossy(name).into_owned());
        }
    }
    Ok((entry, unique.into_iter().collect()))
}

/// The contract's version out of the entry at `address`; `None`: these bytes are no entry.
fn read_abi(
    header: &Header,
    endian: Endianness,
    bytes: &[u8],
    address: u64,
) -> object::read::Result<Option<AbiVersion>> {
    // The header of an entry: everything before the root, whose pointers the file does not hold yet.
    let len = offset_of!(Entry, root) as u64;
    for segment in header.program_headers(endian, bytes)? {
        if segment.p_type(endian) != elf::PT_LOAD {
            continue;
        }
        // An error is a segment that leaves the file, which a sound library does not have.
        let Ok(Some(entry)) = segment.data_range(endian, bytes, address, len) else { continue };
        let word = |offset: usize| {
            let word: [u8; 4] = entry.get(offset..offset + 4)?.try_into().ok()?;
            Some(match endian {
                Endianness::Little => u32::from_le_bytes(word),
                Endianness::Big => u32::from_be_bytes(word),
            })
        };
        if entry.starts_with(&MAGIC) {
            let version = (word(offset_of!(Entry, major)), word(offset_of!(Entry, minor)));
            return Ok(version.0.zip(version.1).map(|(major, minor)| AbiVersion { major, minor }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    /// An entry as C sees it, of contract 7.3.
    const ENTRY: &str =
        "const struct { char magic[8]; unsigned major, minor; unsigned long print; void *root; }
        RELMGR_ENTRY = { \"RELMGR\\0\", 7, 3, 0, (void *)&RELMGR_ENTRY };";

    fn compile(directory: &Path, source: &str, flags: &[&str]) -> PathBuf {
        let (source_path, out) = (directory.join("source.c"), directory.join("out"));
        std::fs::write(&source_path, source).unwrap();
        let cc = Command::new("cc").arg(&source_path).args(flags).arg("-o").arg(&out).output().unwrap();
        assert!(cc.status.success(), "{}", String::from_utf8_lossy(&cc.stderr));
        out
    }

    fn facts(source: &str, flags: &[&str]) -> Result<Facts, ElfError> {
        let directory = tempfile::tempdir().unwrap();
        let out = compile(directory.path(), source, flags);
        read(&std::fs::read(out).unwrap(), &host())
    }

    fn host() -> String {
        format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
    }

    /// Opens a library, closes it, and exits with 0 when no mapping of it is left.
    const UNLOADER: &str = "#include <dlfcn.h>\n#include <stdio.h>\n#include <string.h>
        int main(int argc, char **argv) {
            void *library = dlopen(argv[1], RTLD_NOW);
            if (!library) return 2;
            dlclose(library);
            FILE *maps = fopen(\"/proc/self/maps\", \"r\");
            char line[4096];
            while (fgets(line, sizeof line, maps)) if (strstr(line, argv[1])) return 1;
            return 0;
        }";

    #[test]
    fn a_library_that_asks_never_to_be_unloaded_is_unloaded_after_the_flag_is_cleared() {
        let (tools, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let unloader = compile(tools.path(), UNLOADER, &["-ldl"]);
        let library = compile(directory.path(), ENTRY, &["-shared", "-fPIC", "-Wl,-z,nodelete"]);
        let left = |path: &Path| Command::new(&unloader).arg(path).status().unwrap().code();
        assert_eq!(left(&library), Some(1), "the fixture is not one: it is unloaded as it is");

        let mut bytes = std::fs::read(&library).unwrap();
        let mut facts = read(&bytes, &host()).unwrap();
        assert!(facts.clear_nodelete(&mut bytes));
        let cleared = directory.path().join("cleared.so");
        std::fs::write(&cleared, &bytes).unwrap();
        assert_eq!(left(&cleared), Some(0));
        assert!(!read(&bytes, &host()).unwrap().clear_nodelete(&mut bytes));
    }

    #[test]
    fn needs_and_contract_are_read_from_the_file() {
        let source = format!("#include <math.h>\n{ENTRY}\ndouble power(double a) {{ return pow(a, a); }}");
        let facts = facts(&source, &["-shared", "-fPIC", "-fno-builtin", "-lm"]).unwrap();
        assert_eq!(facts.abi, AbiVersion { major: 7, minor: 3 });
        assert!(facts.needs.libraries.contains(&"libm.so.6".into()), "{:?}", facts.needs);
        // `pow` got its present version with glibc 2.29.
        assert!(facts.needs.glibc >= Some(GlibcVersion { major: 2, minor: 29 }), "{:?}", facts.needs);
        assert_eq!((facts.unique_symbols, facts.text_relocations), (vec![], false));
    }

    #[test]
    fn unique_symbols_are_named() {
        let source = format!(
            "{ENTRY}\n__asm__(\".type once, @gnu_unique_object\\n.globl once\\n.data\\nonce: .long 1\");"
        );
        assert_eq!(facts(&source, &["-shared", "-fPIC"]).unwrap().unique_symbols, ["once"]);
    }

    #[test]
    fn what_is_no_application_is_refused_by_its_name() {
        let shared = ["-shared", "-fPIC"];
        let cases: [(Result<Facts, ElfError>, &str); 5] = [
            (facts("int x;", &shared), "does not export `RELMGR_ENTRY`"),
            (facts("char RELMGR_ENTRY[64] = \"other\";", &shared), "was not made by relmgr-app"),
            (facts("char RELMGR_ENTRY[64];", &shared), "was not made by relmgr-app"),
            (facts("int main() { return 0; }", &["-no-pie"]), "not a shared library"),
            (read(b"#!/bin/sh\n", &host()), "not a 64-bit ELF"),
        ];
        for (result, words) in cases {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
    }

    #[test]
    fn another_machine_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let mut bytes = std::fs::read(compile(directory.path(), ENTRY, &["-shared", "-fPIC"])).unwrap();
        let (name, machine) = MACHINES[usize::from(host().starts_with(MACHINES[0].0))];
        let at = offset_of!(Header, e_machine);
        bytes[at..at + 2].copy_from_slice(&machine.0.to_le_bytes());
        let error = read(&bytes, &host()).unwrap_err().to_string();
        assert_eq!(error, format!("it is for {name}, not for {}", host()));
    }

    #[test]
    fn versions_of_other_libraries_are_none_of_glibc() {
        let names = ["GLIBC_2.34", "GLIBC_2.2.5", "GLIBC_ABI_DT_RELR", "GLIBC_PRIVATE", "GCC_3.0"];
        let versions = names.map(|name| glibc_version(name.as_bytes()).map(|version| version.to_string()));
        assert_eq!(versions, [Some("2.34".into()), Some("2.2".into()), Some("2.36".into()), None, None]);
    }
}

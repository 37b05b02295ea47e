//! Packages: what is packed comes out as it went in, and what nobody should have packed does not come out at all.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::{Files, LIBRARY, Mounted};
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use relmgr_model::manifest::Manifest;
use relmgr_store::{digest, package};
use tar::{EntryType, Header};

fn manifest(files: &Files) -> Manifest {
    common::manifest("1.2.3", files)
}

fn lay_out(root: &Path, files: &Files) -> Manifest {
    common::lay_out(root, "1.2.3", files, &[])
}

fn usual_files() -> BTreeMap<String, Vec<u8>> {
    BTreeMap::from([
        (LIBRARY.to_owned(), vec![7; 5000]),
        ("VERSION".to_owned(), b"1.2.3\n".to_vec()),
        ("priv/deep/page.html".to_owned(), b"<p>".to_vec()),
    ])
}

/// A home for one unpacking.
struct Bench {
    _root: tempfile::TempDir,
    package: PathBuf,
    staging: PathBuf,
    dest: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let staging = root.path().join(".staging");
        std::fs::create_dir(&staging).unwrap();
        let (package, dest) = (root.path().join("1.2.3.tar.gz"), root.path().join("1.2.3"));
        Self { _root: root, package, staging, dest }
    }

    fn unpack(&self, manifest: &Manifest) -> Result<(), String> {
        package::unpack(&self.package, &self.staging, &self.dest, manifest)
            .map_err(|error| common::words(&error))
    }

    /// The package is refused with `words`, and nothing is left of the try.
    fn assert_refused(&self, manifest: &Manifest, words: &str) {
        let error = self.unpack(manifest).unwrap_err();
        assert!(error.contains(words), "expected `{words}` in: {error}");
        assert!(!self.dest.exists(), "{words}: the release's directory is there");
        assert_eq!(std::fs::read_dir(&self.staging).unwrap().count(), 0, "{words}: something is left");
    }
}

/// An entry as an enemy writes it: the header's fields raw, whatever they say.
struct Forged<'a> {
    name: &'a str,
    kind: EntryType,
    link: &'a str,
    data: &'a [u8],
    size: u64,
}

impl<'a> Forged<'a> {
    fn file(name: &'a str, data: &'a [u8]) -> Self {
        Self { name, kind: EntryType::Regular, link: "", data, size: data.len() as u64 }
    }

    fn link(name: &'a str, kind: EntryType, link: &'a str) -> Self {
        Self { name, kind, link, data: b"", size: 0 }
    }

    fn write(&self, out: &mut impl Write) {
        let mut header = Header::new_ustar();
        let raw = header.as_ustar_mut().unwrap();
        raw.name[..self.name.len()].copy_from_slice(self.name.as_bytes());
        raw.linkname[..self.link.len()].copy_from_slice(self.link.as_bytes());
        header.set_entry_type(self.kind);
        header.set_mode(0o644);
        header.set_size(self.size);
        header.set_cksum();
        out.write_all(header.as_bytes()).unwrap();
        out.write_all(self.data).unwrap();
        out.write_all(&vec![0; self.data.len().next_multiple_of(512) - self.data.len()]).unwrap();
    }
}

/// A package of the usual files and `extra`, with a manifest that names `extra`'s files too.
fn forge(bench: &Bench, extra: &[Forged<'_>], named: bool) -> Manifest {
    let mut files = usual_files();
    if named {
        for entry in extra {
            files.insert(entry.name.into(), entry.data.to_vec());
        }
    }
    let manifest = manifest(&files);
    let mut out = GzEncoder::new(std::fs::File::create(&bench.package).unwrap(), Compression::fast());
    Forged::file("manifest.toml", manifest.for_package().to_toml().as_bytes()).write(&mut out);
    for (name, bytes) in usual_files() {
        Forged::file(&name, &bytes).write(&mut out);
    }
    for entry in extra {
        entry.write(&mut out);
    }
    out.write_all(&[0; 1024]).unwrap();
    out.finish().unwrap();
    manifest
}

#[test]
fn a_release_comes_out_as_it_went_in() {
    let (source, bench) = (tempfile::tempdir().unwrap(), Bench::new());
    let manifest = lay_out(source.path(), &usual_files());
    let tool = source.path().join("priv/deep/page.html");
    std::fs::set_permissions(&tool, PermissionsExt::from_mode(0o755)).unwrap();
    package::pack(source.path(), &bench.package).unwrap();
    assert_eq!(package::read_manifest(&bench.package).unwrap(), manifest.for_package());
    bench.unpack(&manifest).unwrap();
    for (name, bytes) in usual_files() {
        assert_eq!(std::fs::read(bench.dest.join(&name)).unwrap(), bytes, "{name}");
    }
    let mode = |name: &str| std::fs::metadata(bench.dest.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("priv/deep/page.html"), mode(LIBRARY)), (0o755, 0o644));
    assert_eq!(std::fs::read_dir(&bench.staging).unwrap().count(), 0);
}

#[test]
fn what_leaves_the_directory_is_no_regular_file_or_comes_twice_is_refused() {
    let cases: [(Forged<'_>, &str); 9] = [
        (Forged::file("../outside", b"x"), "no path within a release"),
        (Forged::file("/etc/passwd", b"x"), "no path within a release"),
        (Forged::file("a/../../b", b"x"), "no path within a release"),
        (Forged::link("priv/link", EntryType::Symlink, "/etc/passwd"), "a symbolic link"),
        (Forged::link("priv/hard", EntryType::Link, "/etc/passwd"), "a hard link"),
        (Forged::link("priv/null", EntryType::Char, ""), "a device"),
        (Forged::link("priv/pipe", EntryType::Fifo, ""), "a pipe"),
        (Forged::file("VERSION", b"1.2.3\n"), "in it twice"),
        (Forged::file("priv/stowaway", b"x"), "not in its manifest"),
    ];
    for (entry, words) in cases {
        let bench = Bench::new();
        let manifest = forge(&bench, &[entry], false);
        bench.assert_refused(&manifest, words);
    }
}

#[test]
fn what_is_larger_or_another_than_its_manifest_says_is_refused() {
    let bench = Bench::new();
    let good = forge(&bench, &[Forged::file("priv/data", b"12345")], true);
    let mut smaller = good.clone();
    smaller.files.get_mut("priv/data").unwrap().size = 4;
    bench.assert_refused(&smaller, "differs from the one beside it");
    let mut other = good.clone();
    other.files.get_mut(LIBRARY).unwrap().sha256 = "0".repeat(64);
    bench.assert_refused(&other, "differs from the one beside it");
    bench.unpack(&good).unwrap();
}

/// A package whose own manifest tells the same lie as the one beside it.
fn forge_lie(bench: &Bench, change: impl Fn(&mut Manifest)) -> Manifest {
    let files = usual_files();
    let mut manifest = manifest(&files);
    change(&mut manifest);
    let mut out = GzEncoder::new(std::fs::File::create(&bench.package).unwrap(), Compression::fast());
    Forged::file("manifest.toml", manifest.for_package().to_toml().as_bytes()).write(&mut out);
    for (name, bytes) in files {
        Forged::file(&name, &bytes).write(&mut out);
    }
    out.write_all(&[0; 1024]).unwrap();
    out.finish().unwrap();
    manifest
}

#[test]
fn files_that_are_not_their_manifests_are_refused() {
    let bench = Bench::new();
    let manifest = forge_lie(&bench, |manifest| manifest.files.get_mut(LIBRARY).unwrap().size = 4999);
    bench.assert_refused(&manifest, "has 5000 bytes, its manifest says 4999");
    let manifest =
        forge_lie(&bench, |manifest| manifest.files.get_mut("VERSION").unwrap().sha256 = "0".repeat(64));
    bench.assert_refused(&manifest, "SHA-256 differs");
    let manifest = forge_lie(&bench, |manifest| {
        manifest.files.insert("priv/absent".into(), digest::of_bytes(b"x"));
    });
    bench.assert_refused(&manifest, "in its manifest and not in it");
}

#[test]
fn a_decompression_bomb_is_stopped_at_the_size_that_was_announced() {
    let bench = Bench::new();
    let bomb = vec![0; 64 * 1024 * 1024];
    let manifest = forge(&bench, &[Forged::file("priv/bomb", &bomb)], false);
    assert!(std::fs::metadata(&bench.package).unwrap().len() < 1024 * 1024);
    bench.assert_refused(&manifest, "not in its manifest");
    let mut named = manifest.clone();
    named.files.insert("priv/bomb".into(), digest::of_bytes(b"small"));
    let inside = Bench::new();
    let mut out = GzEncoder::new(std::fs::File::create(&inside.package).unwrap(), Compression::fast());
    Forged::file("manifest.toml", named.for_package().to_toml().as_bytes()).write(&mut out);
    Forged::file("priv/bomb", &bomb).write(&mut out);
    out.finish().unwrap();
    inside.assert_refused(&named, "its manifest says 5");
}

#[test]
fn a_name_that_unpacks_without_end_is_not_read_into_memory() {
    const NAME: u64 = 128 * 1024 * 1024;
    let bench = Bench::new();
    let good = forge(&bench, &[], false);
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let mut out = GzEncoder::new(std::fs::File::create(&bench.package).unwrap(), Compression::fast());
        let name = Forged { name: "long", kind, link: "", data: b"", size: NAME };
        name.write(&mut out);
        let block = vec![b'a'; 1024 * 1024];
        (0..NAME / (1024 * 1024)).for_each(|_| out.write_all(&block).unwrap());
        Forged::file("manifest.toml", good.for_package().to_toml().as_bytes()).write(&mut out);
        out.finish().unwrap();
        let before = common::peak_kib();
        bench.assert_refused(&good, "damaged or cut short");
        package::read_manifest(&bench.package).unwrap_err();
        let grown = common::peak_kib() - before;
        assert!(grown < NAME / 1024 / 4, "{kind:?}: {grown} KiB");
    }
}

#[test]
fn a_pax_header_that_disagrees_about_a_size_is_refused() {
    let bench = Bench::new();
    let record = b"13 size=9999\n";
    let pax = Forged {
        name: "PaxHeader",
        kind: EntryType::XHeader,
        link: "",
        data: record,
        size: record.len() as u64,
    };
    let manifest = forge(&bench, &[pax, Forged::file("priv/data", b"12345")], false);
    let mut named = manifest;
    named.files.insert("priv/data".into(), digest::of_bytes(b"12345"));
    assert!(bench.unpack(&named).is_err());
    assert!(!bench.dest.exists());
}

#[test]
fn a_package_that_is_cut_anywhere_leaves_nothing_behind() {
    let (source, bench) = (tempfile::tempdir().unwrap(), Bench::new());
    let manifest = lay_out(source.path(), &usual_files());
    package::pack(source.path(), &bench.package).unwrap();
    let whole = std::fs::read(&bench.package).unwrap();
    // The last 8 bytes are gzip's own check, which comes after everything that is asked for.
    for cut in (0..whole.len() - 8).step_by(7) {
        std::fs::write(&bench.package, &whole[..cut]).unwrap();
        if bench.unpack(&manifest).is_ok() {
            // Nothing but the padding after the last file was missing, and every file was compared.
            std::fs::remove_dir_all(&bench.dest).unwrap();
            assert!(cut > whole.len() - 64, "cut at {cut} of {}", whole.len());
        }
        assert!(!bench.dest.exists());
        assert_eq!(std::fs::read_dir(&bench.staging).unwrap().count(), 0, "cut at {cut}");
    }
}

#[test]
fn a_full_disk_during_unpack_leaves_nothing_behind() {
    assert!(nix::unistd::geteuid().is_root(), "this test mounts a small tmpfs, which needs root");
    let source = tempfile::tempdir().unwrap();
    // Random enough not to be compressed away, and larger than the tmpfs.
    let noise: Vec<u8> = (0u32..400_000).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let files = BTreeMap::from([(LIBRARY.to_owned(), noise)]);
    let manifest = lay_out(source.path(), &files);
    let bench = Bench::new();
    package::pack(source.path(), &bench.package).unwrap();

    let mount = Mounted::tmpfs("1m");
    let staging = mount.path().join(".staging");
    std::fs::create_dir(&staging).unwrap();
    let dest = mount.path().join("1.2.3");
    let error = package::unpack(&bench.package, &staging, &dest, &manifest).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("No space left"), "{error}: {cause}");
    assert!(!dest.exists());
    assert_eq!(std::fs::read_dir(&staging).unwrap().count(), 0);
}

fn tree() -> impl Strategy<Value = BTreeMap<String, Vec<u8>>> {
    let name = "[a-z]{1,8}(/[a-z]{1,8}){0,2}\\.[a-z]{1,3}";
    let content = prop::collection::vec(any::<u8>(), 0..3000);
    prop::collection::btree_map(name, content, 0..6).prop_map(|mut files| {
        files.insert(LIBRARY.into(), vec![1; 100]);
        files
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn packing_and_unpacking_is_the_identity_and_packing_is_deterministic(files in tree()) {
        let (one, two, bench) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), Bench::new());
        let manifest = lay_out(one.path(), &files);
        lay_out(two.path(), &files);
        let first = package::pack(one.path(), &bench.package).unwrap();
        let again = bench.staging.join("again");
        prop_assert_eq!(&package::pack(two.path(), &again).unwrap(), &first);
        std::fs::remove_file(again).unwrap();
        bench.unpack(&manifest).map_err(TestCaseError::fail)?;
        for (name, bytes) in &files {
            prop_assert_eq!(&std::fs::read(bench.dest.join(name)).unwrap(), bytes);
        }
    }
}

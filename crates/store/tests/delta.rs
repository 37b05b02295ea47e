//! Deltas: what is made comes out as the target, and what nobody should have made harms nobody. Long, since every case
//! forges the same delta in another way.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use bzip2::read::{BzDecoder, BzEncoder};
use common::{Files, LIBRARY, lay_out, noise, words};
use proptest::prelude::*;
use relmgr_model::home::Home;
use relmgr_model::manifest::Manifest;
use relmgr_store::delta::{self, DeltaError};
use relmgr_store::{digest, package, tree::ReleaseTree};

/// Two releases, and a place to make the second from the first.
struct Bench {
    root: tempfile::TempDir,
    base: Manifest,
    target: Manifest,
    target_files: Files,
}

impl Bench {
    fn new(base: &Files, target: &Files) -> Self {
        Self::with_executables(base, &[], target, &[])
    }

    fn with_executables(base: &Files, base_x: &[&str], target: &Files, target_x: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("staging")).unwrap();
        let base = lay_out(&root.path().join("base"), "1.0.0", base, base_x);
        let manifest = lay_out(&root.path().join("target"), "1.0.1", target, target_x);
        Self { root, base, target: manifest, target_files: target.clone() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Makes the delta and has the target's manifest pin it; its bytes.
    fn make(&mut self) -> Vec<u8> {
        let delta = self.path("delta");
        let made =
            delta::make(&self.path("base"), &self.base, &self.path("target"), &self.target, &delta).unwrap();
        let bytes = std::fs::read(delta).unwrap();
        assert_eq!(made, digest::of_bytes(&bytes));
        self.target.deltas.insert(self.base.version.clone(), made);
        bytes
    }

    /// Puts `bytes` there as the delta, pinned by the manifest: whoever signs it may be an enemy, or have erred.
    fn vouch(&mut self, bytes: &[u8]) {
        std::fs::write(self.path("delta"), bytes).unwrap();
        self.target.deltas.insert(self.base.version.clone(), digest::of_bytes(bytes));
    }

    fn apply(&self) -> Result<(), DeltaError> {
        let [delta, base, staging, dest] = ["delta", "base", "staging", "dest"].map(|name| self.path(name));
        let applied = delta::apply(&delta, &base, &self.base, &self.target, &staging, &dest);
        assert_eq!(std::fs::read_dir(&staging).unwrap().count(), 0, "something is left");
        let mut here: Vec<_> =
            std::fs::read_dir(self.root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        here.retain(|name| name != "delta" && name != "dest");
        here.sort();
        assert_eq!(here, ["base", "staging", "target"], "something was written outside of staging");
        assert_eq!(applied.is_ok(), dest.exists());
        applied
    }

    /// What was made is the target; it is removed again.
    fn assert_made(&self) {
        let dest = self.path("dest");
        for (name, bytes) in &self.target_files {
            assert_eq!(&std::fs::read(dest.join(name)).unwrap(), bytes, "{name}");
            let mode = |root: &str| {
                std::fs::metadata(self.path(root).join(name)).unwrap().permissions().mode() & 0o777
            };
            assert_eq!(mode("dest"), mode("target"), "{name}");
        }
        let inside = std::fs::read_to_string(dest.join("manifest.toml")).unwrap();
        assert_eq!(Manifest::parse(&inside).unwrap(), self.target.for_package());
        std::fs::remove_dir_all(dest).unwrap();
    }

    #[track_caller]
    fn assert_refused(&self, kind: fn(&DeltaError) -> bool, expected: &str) {
        let error = self.apply().unwrap_err();
        assert!(kind(&error), "{expected}: {error:?}");
        let text = words(&error);
        assert!(text.contains(expected), "expected `{expected}` in: {text}");
    }
}

const DAMAGED: fn(&DeltaError) -> bool = |error| matches!(error, DeltaError::Damaged { .. });
const WRONG_BASE: fn(&DeltaError) -> bool = |error| matches!(error, DeltaError::WrongBase { .. });
const DIFFERS: fn(&DeltaError) -> bool = |error| matches!(error, DeltaError::Differs { .. });
const LIMIT: fn(&DeltaError) -> bool = |error| matches!(error, DeltaError::Limit { .. });

/// A library, and the same one after a change at three places and with something new at its end.
fn libraries() -> (Vec<u8>, Vec<u8>) {
    let base = noise(1, 4_000);
    let mut target = base.clone();
    for at in [100, 1_700, 3_500] {
        target[at] ^= 0x55;
    }
    target.extend(noise(2, 500));
    (base, target)
}

fn usual() -> Bench {
    let (old, new) = libraries();
    let base = BTreeMap::from([
        (LIBRARY.to_owned(), old),
        ("VERSION".to_owned(), b"1.0.0\n".to_vec()),
        ("priv/same".to_owned(), noise(3, 900)),
        ("priv/moved".to_owned(), noise(4, 900)),
        ("priv/removed".to_owned(), noise(5, 900)),
        ("priv/app.0a1b.js".to_owned(), noise(6, 3000)),
    ]);
    let mut script = noise(6, 3000);
    script[1500] ^= 1;
    let target = BTreeMap::from([
        (LIBRARY.to_owned(), new),
        ("VERSION".to_owned(), b"1.0.1\n".to_vec()),
        ("priv/same".to_owned(), noise(3, 900)),
        ("priv/elsewhere/moved".to_owned(), noise(4, 900)),
        ("priv/empty".to_owned(), vec![]),
        ("priv/new".to_owned(), b"<p>".repeat(300)),
        ("priv/app.2c3d.js".to_owned(), script),
    ]);
    Bench::with_executables(&base, &["priv/moved"], &target, &["priv/same", "priv/new"])
}

/// A delta taken apart, to be put together otherwise.
#[derive(Clone)]
struct Parts {
    index: String,
    entries: Vec<Vec<u8>>,
}

impl Parts {
    fn of(delta: &[u8]) -> Self {
        let mut archive = tar::Archive::new(delta);
        let mut entries = archive.entries().unwrap().map(|entry| {
            let mut content = vec![];
            entry.unwrap().read_to_end(&mut content).unwrap();
            content
        });
        let index = String::from_utf8(entries.next().unwrap()).unwrap();
        Self { index, entries: entries.collect() }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut archive = tar::Builder::new(vec![]);
        let numbers = (0..self.entries.len()).map(|at| at.to_string());
        let names = ["index.toml".to_owned()].into_iter().chain(numbers);
        let contents = [self.index.as_bytes()].into_iter().chain(self.entries.iter().map(Vec::as_slice));
        for (name, content) in names.zip(contents) {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, content).unwrap();
        }
        archive.into_inner().unwrap()
    }

    /// The entry for the library.
    fn library(&mut self) -> &mut Vec<u8> {
        let index: toml::Table = self.index.parse().unwrap();
        let files = index["files"].as_array().unwrap();
        let at = files.iter().position(|file| file["path"].as_str() == Some(LIBRARY)).unwrap();
        &mut self.entries[at]
    }
}

/// A patch taken apart.
struct Patch {
    control: Vec<u8>,
    diff: Vec<u8>,
    extra: Vec<u8>,
    size: i64,
}

impl Patch {
    fn of(bytes: &[u8]) -> Self {
        let number = |at: usize| i64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let (control, diff) = (usize::try_from(number(8)).unwrap(), usize::try_from(number(16)).unwrap());
        let unpacked = |bytes: &[u8]| {
            let mut content = vec![];
            BzDecoder::new(bytes).read_to_end(&mut content).unwrap();
            content
        };
        let (control, rest) = bytes[32..].split_at(control);
        let (diff, extra) = rest.split_at(diff);
        Self { control: unpacked(control), diff: unpacked(diff), extra: unpacked(extra), size: number(24) }
    }

    fn bytes(&self) -> Vec<u8> {
        let packed = |bytes: &[u8]| {
            let mut content = vec![];
            BzEncoder::new(bytes, bzip2::Compression::best()).read_to_end(&mut content).unwrap();
            content
        };
        let [control, diff, extra] = [&self.control, &self.diff, &self.extra].map(|part| packed(part));
        let mut bytes = b"BSDIFF40".to_vec();
        for number in [control.len() as i64, diff.len() as i64, self.size] {
            bytes.extend(number.to_le_bytes());
        }
        [bytes, control, diff, extra].concat()
    }
}

/// Forges the library's patch.
fn forged(change: impl FnOnce(&mut Patch)) -> Bench {
    let mut bench = usual();
    let mut parts = Parts::of(&bench.make());
    let mut patch = Patch::of(parts.library());
    change(&mut patch);
    *parts.library() = patch.bytes();
    bench.vouch(&parts.bytes());
    bench
}

/// Forges the index.
fn reindexed(change: impl FnOnce(&str) -> String) -> Bench {
    let mut bench = usual();
    let mut parts = Parts::of(&bench.make());
    parts.index = change(&parts.index);
    bench.vouch(&parts.bytes());
    bench
}

#[test]
fn the_target_is_made_from_the_base_with_its_modes() {
    let mut bench = usual();
    let parts = Parts::of(&bench.make());
    bench.apply().unwrap();
    bench.assert_made();
    // What the base has under any name is not carried; an asset with another hash in its name is a patch.
    assert!(!parts.index.contains("priv/elsewhere/moved\"\nbase"), "{}", parts.index);
    assert_eq!(parts.index.matches("[[files]]").count(), 5, "{}", parts.index);
    assert_eq!(parts.index.matches("base = ").count(), 2, "{}", parts.index);
    assert!(parts.entries.iter().map(Vec::len).sum::<usize>() < 1500);
}

#[test]
fn the_same_releases_give_the_same_bytes() {
    let (mut one, mut two) = (usual(), usual());
    assert_eq!(one.make(), two.make());
}

#[test]
fn a_delta_between_equal_releases_carries_no_file() {
    let files = BTreeMap::from([(LIBRARY.to_owned(), noise(1, 5000))]);
    let mut bench = Bench::new(&files, &files);
    assert!(Parts::of(&bench.make()).entries.is_empty());
    bench.apply().unwrap();
    bench.assert_made();
}

#[test]
fn what_is_not_what_its_manifest_describes_makes_no_delta() {
    for (file, kind) in [("base", WRONG_BASE), ("target", DIFFERS)] {
        let bench = usual();
        std::fs::write(bench.path(file).join(LIBRARY), b"altered").unwrap();
        let [base, target, out] = ["base", "target", "delta"].map(|name| bench.path(name));
        let error = delta::make(&base, &bench.base, &target, &bench.target, &out).unwrap_err();
        assert!(kind(&error), "{error:?}");
        assert!(!out.exists());
        assert_eq!(std::fs::read_dir(bench.root.path()).unwrap().count(), 3);
    }
}

#[test]
fn every_byte_that_differs_from_what_was_published_is_refused() {
    let mut bench = usual();
    let good = bench.make();
    let delta = bench.path("delta");
    // Header, index, control, diff and extra all lie between; each by one bit, and every length.
    for at in (0..good.len()).step_by(41) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        std::fs::write(&delta, bad).unwrap();
        bench.assert_refused(DAMAGED, "its size or SHA-256 is not its manifest's");
        std::fs::write(&delta, &good[..at]).unwrap();
        bench.assert_refused(DAMAGED, "its size or SHA-256 is not its manifest's");
    }
    std::fs::write(&delta, [&good[..], b"x"].concat()).unwrap();
    bench.assert_refused(DAMAGED, "its size or SHA-256 is not its manifest's");
    std::fs::write(&delta, &good).unwrap();
    bench.apply().unwrap();
}

#[test]
fn a_vouched_delta_with_any_byte_changed_is_refused_or_makes_the_target() {
    let mut bench = usual();
    let good = bench.make();
    let patch_at = good.windows(8).position(|window| window == b"BSDIFF40").unwrap();
    let mut refused = 0;
    for at in
        (0..good.len()).filter(|at| at % 67 == 0 || (at % 3 == 0 && (patch_at..patch_at + 400).contains(at)))
    {
        let mut bad = good.clone();
        bad[at] = bad[at].wrapping_add(1);
        bench.vouch(&bad);
        // What does not matter (an owner, padding) may differ; what matters is found, whatever it is.
        match bench.apply() {
            Ok(()) => bench.assert_made(),
            Err(DeltaError::Io { path, .. }) => panic!("byte {at} is no matter of {}", path.display()),
            Err(_) => refused += 1,
        }
    }
    for at in (0..good.len()).step_by(253) {
        bench.vouch(&good[..at]);
        // Only of the two empty blocks at the end something may be missing.
        match bench.apply() {
            Ok(()) if at + 1024 >= good.len() => bench.assert_made(),
            Ok(()) => panic!("cut at {at} of {}", good.len()),
            Err(error) => assert!(DAMAGED(&error), "cut at {at}: {error:?}"),
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn each_part_of_a_patch_that_is_altered_is_found() {
    forged(|patch| patch.diff[50] = 9).assert_refused(DIFFERS, LIBRARY);
    forged(|patch| patch.extra[50] ^= 9).assert_refused(DIFFERS, LIBRARY);
    forged(|patch| patch.diff.truncate(50)).assert_refused(DAMAGED, "does not unpack");
    forged(|patch| patch.extra.truncate(50)).assert_refused(DAMAGED, "does not unpack");
    forged(|patch| patch.control.truncate(20)).assert_refused(DAMAGED, "its last control is cut");
    forged(|patch| patch.control.truncate(0)).assert_refused(DAMAGED, "too few bytes");
    forged(|patch| patch.control[7] = 0x80).assert_refused(DAMAGED, "negative");
    // A seek out of the base, in either direction and as far as it goes.
    for seek in [i64::MAX, -1, i64::MIN, 1 << 40] {
        let first = move |patch: &mut Patch| {
            let start = [0i64, 0, seek].map(i64::to_le_bytes).concat();
            patch.control.splice(0..0, start);
        };
        forged(first).assert_refused(DAMAGED, "does not unpack");
    }
    forged(|patch| patch.size -= 1).assert_refused(DAMAGED, "too small a result");
}

#[test]
fn a_header_that_lies_about_its_blocks_is_refused() {
    for (at, value, expected) in [
        (8, i64::MAX, "its blocks are longer"),
        (16, i64::MAX, "its blocks are longer"),
        (8, -1, "negative"),
        (16, i64::MIN, "negative"),
        (24, -5, "negative"),
    ] {
        let mut bench = usual();
        let mut parts = Parts::of(&bench.make());
        parts.library()[at..at + 8].copy_from_slice(&value.to_le_bytes());
        bench.vouch(&parts.bytes());
        bench.assert_refused(DAMAGED, expected);
    }
    let mut bench = usual();
    let mut parts = Parts::of(&bench.make());
    parts.library().truncate(31);
    bench.vouch(&parts.bytes());
    bench.assert_refused(DAMAGED, "no bsdiff patch");
}

#[test]
fn bombs_are_stopped_before_they_go_off() {
    // The header claims 8 EiB.
    forged(|patch| patch.size = i64::MAX).assert_refused(LIMIT, "are allowed");
    // One control makes 1 TiB; two make more than 64 bits count.
    forged(|patch| patch.control[..8].copy_from_slice(&(1i64 << 40).to_le_bytes()))
        .assert_refused(LIMIT, "its controls make more");
    forged(|patch| patch.control = [i64::MAX, i64::MAX, 0].map(i64::to_le_bytes).concat().repeat(3))
        .assert_refused(LIMIT, "its controls make more");
    // 500,000 controls that do nothing, in a few hundred bytes of bzip2.
    let idle = forged(|patch| patch.control.splice(0..0, vec![0; 24 * 500_000]).for_each(drop));
    assert!(std::fs::metadata(idle.path("delta")).unwrap().len() < 64 * 1024);
    idle.assert_refused(LIMIT, "controls for");
    // A data block of 10 MB: only as much is unpacked as the controls ask for, and that is right.
    let ballast = forged(|patch| patch.extra.extend(vec![0; 10_000_000]));
    ballast.apply().unwrap();
    ballast.assert_made();
}

#[test]
fn a_whole_file_that_unpacks_to_more_than_announced_is_stopped() {
    let mut bench = usual();
    let mut parts = Parts::of(&bench.make());
    let mut bomb = flate2::write::GzEncoder::new(vec![], flate2::Compression::best());
    bomb.write_all(&vec![0; 10_000_000]).unwrap();
    let bomb = bomb.finish().unwrap();
    let new = parts.entries.iter_mut().rfind(|entry| entry.starts_with(&[0x1f, 0x8b])).unwrap();
    *new = bomb;
    bench.vouch(&parts.bytes());
    bench.assert_refused(LIMIT, "would have more than");
}

#[test]
fn paths_that_are_not_the_targets_are_refused() {
    for path in
        ["../outside", "/etc/passwd", "priv/../../x", "priv/stowaway", "manifest.toml", "app.conf", ""]
    {
        let bench = reindexed(|index| index.replace("\"priv/new\"", &format!("\"{path}\"")));
        bench.assert_refused(DAMAGED, "is no file of release 1.0.1");
        let bench =
            reindexed(|index| index.replace("executable = [", &format!("executable = [\"{path}\", ")));
        bench.assert_refused(DAMAGED, "is no file of release 1.0.1");
    }
}

#[test]
fn an_index_that_contradicts_itself_is_refused() {
    let twice = |index: &str| format!("{index}\n[[files]]\npath = \"priv/new\"\n");
    reindexed(twice).assert_refused(DAMAGED, "out of order or comes twice");
    let missing = |index: &str| {
        let at = index.rfind("[[files]]").unwrap();
        index[..at].to_owned()
    };
    reindexed(missing).assert_refused(DAMAGED, "entries that its index does not name");
    reindexed(|index| index.replace("format = 1", "format = 2")).assert_refused(DAMAGED, "format 2");
    reindexed(|index| format!("novelty = 1\n{index}")).assert_refused(DAMAGED, "novelty");
    reindexed(|index| index.replace("to = \"1.0.1\"", "to = \"1.0.2\"")).assert_refused(DAMAGED, "it makes");
    reindexed(|index| index.replace("name = \"app\"", "name = \"other\""))
        .assert_refused(DAMAGED, "it makes");
    let moves = |moves: &'static str| {
        move |index: &str| index.replacen("base = ", &format!("moves = {moves}\nbase = "), 1)
    };
    reindexed(moves("[[5, 1], [5, 2]]")).assert_refused(DAMAGED, "out of order");
    reindexed(moves("[[5]]")).assert_refused(DAMAGED, "does not parse");
    let many = |index: &str| {
        let moves: Vec<_> = (0..5000).map(|at| format!("[{at}, {at}]")).collect();
        index.replacen("base = ", &format!("moves = [{}]\nbase = ", moves.join(", ")), 1)
    };
    reindexed(many).assert_refused(DAMAGED, "is too much");
    reindexed(|_| "\u{0}".repeat(9)).assert_refused(DAMAGED, "does not parse");
    reindexed(|index| format!("{index}#{}", " ".repeat(2 << 20))).assert_refused(LIMIT, "its index has");
    let mut bench = usual();
    let mut parts = Parts::of(&bench.make());
    parts.entries.pop();
    bench.vouch(&parts.bytes());
    bench.assert_refused(DAMAGED, "is missing");
}

#[test]
fn entries_that_are_no_plain_files_are_refused() {
    let mut bench = usual();
    let good = bench.make();
    for kind in [b'1', b'2', b'5', b'6', b'L', b'S', b'x', b'g'] {
        // Of the second entry: its header follows the index's content.
        let index = 512 + Parts::of(&good).index.len().next_multiple_of(512);
        let mut bad = good.clone();
        bad[index + 156] = kind;
        let mut header = tar::Header::from_byte_slice(&bad[index..index + 512]).clone();
        header.set_cksum();
        bad[index..index + 512].copy_from_slice(header.as_bytes());
        bench.vouch(&bad);
        bench.assert_refused(DAMAGED, "another entry stands where 0 should");
    }
}

#[test]
fn another_base_is_refused() {
    // Another release than the delta starts from.
    let mut bench = usual();
    bench.make();
    bench.base.version = "1.0.2".parse().unwrap();
    bench.assert_refused(WRONG_BASE, "has no delta from it");
    // The manifest pins the wrong delta for it.
    let pinned = bench.target.deltas.values().next().unwrap().clone();
    bench.target.deltas.insert("1.0.2".parse().unwrap(), pinned);
    bench.assert_refused(WRONG_BASE, "it starts from app 1.0.0");
    // The same version, built again: other content.
    let mut bench = usual();
    bench.make();
    let mut files: Files = BTreeMap::new();
    for name in bench.base.files.keys() {
        files.insert(name.clone(), std::fs::read(bench.path("base").join(name)).unwrap());
    }
    files.insert(LIBRARY.into(), noise(9, 4_000));
    bench.base = lay_out(&bench.path("base"), "1.0.0", &files, &[]);
    bench.assert_refused(WRONG_BASE, "it has no file with SHA-256");
    files.insert(LIBRARY.into(), libraries().0);
    files.insert("priv/same".into(), noise(9, 900));
    bench.base = lay_out(&bench.path("base"), "1.0.0", &files, &[]);
    bench.assert_refused(WRONG_BASE, "`priv/same` is neither in it nor in the delta");
}

#[test]
fn a_base_that_was_altered_on_disk_is_refused() {
    for name in [LIBRARY, "priv/same", "priv/moved"] {
        let mut bench = usual();
        bench.make();
        let path = bench.path("base").join(name);
        let good = std::fs::read(&path).unwrap();
        let mut flipped = good.clone();
        flipped[7] ^= 1;
        for bad in [flipped, good[..good.len() - 1].to_vec(), [&good[..], b"x"].concat()] {
            std::fs::write(&path, bad).unwrap();
            bench.assert_refused(WRONG_BASE, &format!("its `{name}` on disk is not what was installed"));
        }
        std::fs::remove_file(&path).unwrap();
        bench.assert_refused(WRONG_BASE, "is not what was installed");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        bench.assert_refused(WRONG_BASE, "is not what was installed");
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        bench.assert_refused(WRONG_BASE, "is not what was installed");
    }
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    assert!(nix::unistd::geteuid().is_root(), "this test mounts a small tmpfs, which needs root");
    let base = BTreeMap::from([(LIBRARY.to_owned(), noise(1, 3_000_000))]);
    let mut target = base.clone();
    target.get_mut(LIBRARY).unwrap()[5] ^= 1;
    let mut bench = Bench::new(&base, &target);
    bench.make();
    let mount = common::Mounted::tmpfs("1m");
    let staging = mount.path().join("staging");
    std::fs::create_dir(&staging).unwrap();
    let dest = mount.path().join("dest");
    let error =
        delta::apply(&bench.path("delta"), &bench.path("base"), &bench.base, &bench.target, &staging, &dest)
            .unwrap_err();
    assert!(matches!(error, DeltaError::Io { .. }) && words(&error).contains("No space left"), "{error:?}");
    assert!(!dest.exists());
    assert_eq!(std::fs::read_dir(&staging).unwrap().count(), 0);
}

#[test]
fn a_tree_installs_a_delta_beside_its_base() {
    let mut bench = usual();
    bench.make();
    let home = Home::new(bench.path("home"));
    let tree = ReleaseTree::new(home.clone());
    tree.make_directories().unwrap();
    let packed = bench.path("base.tar.gz");
    package::pack(&bench.path("base"), &packed).unwrap();
    let (from, to) = (bench.base.version.clone(), bench.target.version.clone());
    let install = || tree.install_delta(&to, &from, &bench.path("delta"), &bench.target);
    // No base: said so, and the package serves.
    assert!(matches!(install().unwrap_err(), DeltaError::WrongBase { .. }));
    tree.install(&from, &packed, &bench.base).unwrap();
    // Something half made by hand makes way.
    std::fs::create_dir(home.release(&to)).unwrap();
    std::fs::write(home.release(&to).join("junk"), b"x").unwrap();
    install().unwrap();
    assert_eq!(tree.verify(&to).unwrap(), bench.target.for_package());
    assert_eq!(tree.verify(&from).unwrap(), bench.base.for_package());
    assert!(!home.release(&to).join("junk").exists());
    let onto_itself = tree.install_delta(&from, &from, &bench.path("delta"), &bench.base);
    assert!(matches!(onto_itself.unwrap_err(), DeltaError::WrongBase { .. }));
    tree.verify(&from).unwrap();
}

#[test]
fn past_half_of_the_package_the_package_is_taken() {
    for (delta, package, worth) in [(0, 0, true), (50, 100, true), (51, 100, false), (u64::MAX, 10, false)] {
        assert_eq!(delta::worth(delta, package), worth, "{delta} of {package}");
    }
}

/// A release's files: some with content that others share, some empty, some large enough for several matches.
fn files() -> impl Strategy<Value = (Files, Vec<String>)> {
    let content = prop_oneof![
        1 => Just(vec![]),
        2 => (0..4u32, 0..2000usize).prop_map(|(seed, len)| noise(seed, len)),
        2 => (0..4u32, 0..2000usize, 0..2000usize).prop_map(|(seed, len, at)| {
            let mut bytes = noise(seed, len);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1;
            }
            bytes.extend(noise(seed + 1, at));
            bytes
        }),
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ];
    let name = prop::sample::select(vec![
        "VERSION",
        "priv/a.js",
        "priv/b.js",
        "priv/deep/c.css",
        "priv/d",
        "conf/schema.toml",
        "bin/tool",
        "priv/ü/名.html",
    ]);
    let file = (name.prop_map(str::to_owned), (content, any::<bool>()));
    prop::collection::btree_map(file.0, file.1, 0..8).prop_map(|files| {
        let executable = files.iter().filter(|(_, (_, x))| *x).map(|(name, _)| name.clone()).collect();
        let mut files: Files = files.into_iter().map(|(name, (bytes, _))| (name, bytes)).collect();
        files.entry(LIBRARY.into()).or_insert_with(|| noise(7, 1500));
        (files, executable)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn making_and_applying_is_the_identity((base, base_x) in files(), (target, target_x) in files()) {
        let names = |names: &'_ [String]| names.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
        let (base_x, target_x) = (names(&base_x), names(&target_x));
        let (base_x, target_x): (Vec<_>, Vec<_>) = (base_x.lines().collect(), target_x.lines().collect());
        let mut bench = Bench::with_executables(&base, &base_x, &target, &target_x);
        let made = bench.make();
        prop_assert!(made == bench.make(), "made again, it has other bytes");
        bench.apply().map_err(|error| TestCaseError::fail(words(&error)))?;
        bench.assert_made();
    }
}

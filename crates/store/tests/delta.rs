//! Deltas: what they make is what was published, and nothing that somebody put into one becomes anything else.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use proptest::prelude::*;
use relmgr_model::manifest::{AbiVersion, FORMAT, Manifest, Needs};
use relmgr_store::delta::{self, DeltaError, Unpacked};
use relmgr_store::digest;

/// A release on disk.
struct Release {
    root: tempfile::TempDir,
    manifest: Manifest,
}

/// Path, content, whether it can be run.
type FileOf<'a> = (&'a str, Vec<u8>, bool);
type Files<'a> = &'a [FileOf<'a>];
/// Name and content of an archive's entry.
type Entry<'a> = (&'a str, &'a [u8]);

impl Release {
    fn new(version: &str, files: Files<'_>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut digests = BTreeMap::new();
        for (name, bytes, executable) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, bytes).unwrap();
            let mode = if *executable { 0o755 } else { 0o644 };
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            digests.insert((*name).to_owned(), digest::of_bytes(bytes));
        }
        let manifest = Manifest {
            format: FORMAT,
            name: "app".into(),
            version: version.parse().unwrap(),
            target: "x86_64-unknown-linux-gnu".into(),
            built_at: chrono::DateTime::UNIX_EPOCH,
            library: files[0].0.into(),
            rustc: "rustc".into(),
            abi: AbiVersion { major: 1, minor: 0 },
            upgrade_from: None,
            git: None,
            needs: Needs::default(),
            state: None,
            package: None,
            probes: vec![],
            files: digests,
            deltas: BTreeMap::new(),
        };
        Self { root, manifest }
    }

    fn unpacked(&self) -> Unpacked<'_> {
        Unpacked { root: self.root.path(), manifest: &self.manifest }
    }
}

/// Applies, and tells what is in the directory afterwards.
fn apply(delta: &Path, base: &Release, target: &Release) -> Result<Vec<(String, Vec<u8>, bool)>, DeltaError> {
    let home = tempfile::tempdir().unwrap();
    let staging = home.path().join("staging");
    std::fs::create_dir(&staging).unwrap();
    let dest = home.path().join("made");
    let result = delta::apply(delta, base.unpacked(), &target.manifest, &staging, &dest);
    assert_eq!(std::fs::read_dir(&staging).unwrap().count(), 0, "something is left behind");
    assert_eq!(dest.exists(), result.is_ok());
    result?;
    let files = target.manifest.files.keys().map(|name| {
        let path = dest.join(name);
        let executable = std::fs::metadata(&path).unwrap().permissions().mode() & 0o100 != 0;
        (name.clone(), std::fs::read(path).unwrap(), executable)
    });
    Ok(files.collect())
}

fn expected(files: Files<'_>) -> Vec<(String, Vec<u8>, bool)> {
    let mut files: Vec<_> =
        files.iter().map(|(name, bytes, mode)| ((*name).to_owned(), bytes.clone(), *mode)).collect();
    files.sort();
    files
}

/// Something that looks like code: repeated, with differences.
fn code(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|at| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if at % 7 == 0 { (state >> 24) as u8 } else { (at / 3 % 251) as u8 }
        })
        .collect()
}

fn pair() -> (Release, Release, Vec<FileOf<'static>>) {
    let old = code(60_000, 3);
    let mut new = old.clone();
    new[30_000] ^= 1;
    new.splice(40_000..40_000, code(300, 9));
    let base = Release::new(
        "1.0.0",
        &[("lib/app.so", old, true), ("priv/same", code(5000, 5), false), ("priv/gone", vec![1; 9], false)],
    );
    let files = vec![
        ("lib/app.so", new, true),
        ("priv/same", code(5000, 5), false),
        ("priv/moved", vec![1; 9], false),
        ("priv/new", code(400, 11), false),
        ("priv/empty", Vec::new(), true),
    ];
    let target = Release::new("1.0.1", &files);
    (base, target, files)
}

#[test]
fn a_delta_makes_the_release_and_is_small() {
    let (base, target, files) = pair();
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("delta");
    let made = delta::make(base.unpacked(), target.unpacked(), &path).unwrap();
    assert_eq!(made, digest::of_file(&path).unwrap());
    assert!(made.size < 6000, "{} bytes for a small change", made.size);
    assert_eq!(apply(&path, &base, &target).unwrap(), expected(&files));
    let again = home.path().join("again");
    assert_eq!(
        delta::make(base.unpacked(), target.unpacked(), &again).unwrap(),
        made,
        "the same bytes again"
    );
    assert!(delta::is_worth_it(50, 100) && !delta::is_worth_it(51, 100));
}

#[test]
fn another_base_or_one_that_was_altered_is_refused() {
    let (base, target, _) = pair();
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("delta");
    delta::make(base.unpacked(), target.unpacked(), &path).unwrap();
    let other = Release::new("0.9.0", &[("lib/app.so", code(60_000, 77), true)]);
    let error = apply(&path, &other, &target).unwrap_err();
    assert!(matches!(error, DeltaError::Damaged { .. } | DeltaError::Base { .. }), "{error}");
    for name in ["lib/app.so", "priv/same", "priv/gone"] {
        let file = base.root.path().join(name);
        let whole = std::fs::read(&file).unwrap();
        let mut altered = whole.clone();
        altered[5] ^= 1;
        std::fs::write(&file, altered).unwrap();
        let error = apply(&path, &base, &target).unwrap_err();
        assert!(matches!(error, DeltaError::Base { .. }), "{name}: {error}");
        std::fs::write(&file, whole).unwrap();
    }
    apply(&path, &base, &target).unwrap();
}

#[test]
fn every_altered_or_missing_byte_makes_the_same_release_or_none() {
    let (base, target, files) = pair();
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("delta");
    delta::make(base.unpacked(), target.unpacked(), &path).unwrap();
    let (whole, good) = (std::fs::read(&path).unwrap(), expected(&files));
    let changed = home.path().join("changed");
    let mut refused = 0;
    for at in (0..whole.len()).step_by(13) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x41;
        std::fs::write(&changed, bytes).unwrap();
        match apply(&changed, &base, &target) {
            // Names of owners and times in the archive's headers say nothing, modes do.
            Ok(made) => assert!(
                made.iter().zip(&good).all(|(made, good)| (&made.0, &made.1) == (&good.0, &good.1)),
                "at {at}"
            ),
            Err(_) => refused += 1,
        }
        std::fs::write(&changed, &whole[..at]).unwrap();
        if let Ok(made) = apply(&changed, &base, &target) {
            assert_eq!(made, good, "cut at {at}");
        }
    }
    assert!(refused > 50, "{refused}");
}

/// An archive of these entries.
fn archive(path: &Path, entries: &[(&str, &[u8])]) {
    let mut builder = tar::Builder::new(std::fs::File::create(path).unwrap());
    for (name, data) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        // By hand, since the crate refuses some of these names as well.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, *data).unwrap();
    }
    builder.into_inner().unwrap();
}

#[test]
fn what_an_enemy_would_pack_is_refused() {
    let (base, target, _) = pair();
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("delta");
    let gz = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    };
    let bomb = gz(&vec![0; 50_000_000]);
    let header = |control: u64, difference: u64, size: u64| {
        let numbers = [control, difference, size].map(u64::to_le_bytes).concat();
        [b"BSDIFF40".to_vec(), numbers, vec![0; 64]].concat()
    };
    let size = target.manifest.files["lib/app.so"].size;
    let (huge, outside, negative) =
        (header(1, 1, 1 << 40), header(1 << 40, u64::MAX >> 1, size), header(1 << 63, 0, size));
    let small = gz(b"x");
    let cases: [(&[Entry<'_>], &str); 9] = [
        (&[("new/priv/new", &bomb)], "more than the 400 bytes"),
        (&[("patch/lib/app.so", &huge)], "the manifest says"),
        (&[("patch/lib/app.so", &outside)], "cut short"),
        (&[("patch/lib/app.so", &negative)], "BSDIFF40"),
        (&[("new/../../escape", &small)], "no path within a release"),
        (&[("new/priv/other", &small)], "not in the manifest"),
        (&[("new/priv/empty", &gz(b"")), ("new/priv/empty", &gz(b""))], "twice"),
        (&[("evil/lib/app.so", &small)], "no entry of a delta"),
        (&[("new/priv/new", &small)], "does not become"),
    ];
    for (entries, words) in cases {
        archive(&path, entries);
        let error = apply(&path, &base, &target).unwrap_err();
        let text = format!("{error} {:?}", std::error::Error::source(&error));
        assert!(text.contains(words), "{words}: {text}");
    }
}

fn tree() -> impl Strategy<Value = Vec<(usize, Vec<u8>, bool)>> {
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        (0usize..5000, any::<u32>()).prop_map(|(len, seed)| code(len, seed % 3)),
    ];
    prop::collection::vec((0usize..6, bytes, any::<bool>()), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_was_made_is_made_again(old in tree(), new in tree(), library in any::<u32>()) {
        let names = ["priv/a", "priv/b", "priv/deep/c", "conf/schema.toml", "VERSION", "priv/ü"];
        let name = |files: Vec<(usize, Vec<u8>, bool)>, seed| {
            let mut named = BTreeMap::from([("lib/app.so", (code(3000, seed), true))]);
            for (at, bytes, executable) in files {
                named.insert(names[at], (bytes, executable));
            }
            let mut files: Vec<_> = named.into_iter().map(|(name, (bytes, mode))| (name, bytes, mode)).collect();
            files.sort_by_key(|(name, _, _)| *name != "lib/app.so");
            files
        };
        let (old, new) = (name(old, 3), name(new, library));
        let (base, target) = (Release::new("1.0.0", &old), Release::new("1.0.1", &new));
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("delta");
        delta::make(base.unpacked(), target.unpacked(), &path).unwrap();
        prop_assert_eq!(apply(&path, &base, &target).unwrap(), expected(&new));
    }

    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let (base, target, _) = pair();
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("delta");
        std::fs::write(&path, &bytes).unwrap();
        prop_assert!(apply(&path, &base, &target).is_err());
        // As the patch of an otherwise good archive.
        let patch = [&b"BSDIFF40"[..], &bytes].concat();
        archive(&path, &[("patch/lib/app.so", &patch)]);
        prop_assert!(apply(&path, &base, &target).is_err());
    }
}

//! Every fuzz target on stable, for a fixed number of inputs: sound ones, spoilt at random. What cargo-fuzz would
//! find in hours is not all found here; what breaks a promise outright is.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, setrlimit};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use relmgr_fuzz::TARGETS;

/// No file may grow past this in a process of these tests: the largest release here has 4 KiB in a file.
const LARGEST_FILE: u64 = 1024 * 1024;

/// No run may take more memory than this above what it began with: bzip2 has tables of 4 MiB for each of 3 streams.
const MEMORY_KIB: u64 = 64 * 1024;

/// Where an input is changed.
#[derive(Debug, Clone)]
enum At {
    Anywhere(Index),
    /// Among the first 64 bytes, at a multiple of eight: formats have their lengths there.
    Head(usize),
}

impl At {
    fn index(&self, len: usize) -> usize {
        match self {
            Self::Anywhere(index) => index.index(len),
            Self::Head(word) => (word * 8).min(len - 1),
        }
    }
}

/// One change to an input.
#[derive(Debug, Clone)]
enum Change {
    Set(At, u8),
    Insert(At, Vec<u8>),
    Remove(At, usize),
    Repeat(At, usize, usize),
    Cut(At),
    /// A number that is at some border, in eight bytes.
    Number(At, u64),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let range =
            |at: &At, len: usize| at.index(bytes.len())..(at.index(bytes.len()) + len).min(bytes.len());
        match self {
            Self::Set(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Self::Insert(at, new) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, new.iter().copied());
            }
            Self::Remove(at, len) => drop(bytes.drain(range(at, *len))),
            Self::Repeat(at, len, times) => {
                let range = range(at, *len);
                let again = bytes[range.clone()].repeat(*times);
                bytes.splice(range.end..range.end, again);
            }
            Self::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Self::Number(at, number) => {
                let range = range(at, 8);
                let number = &number.to_le_bytes()[..range.len()];
                bytes[range].copy_from_slice(number);
            }
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let at = || prop_oneof![3 => any::<Index>().prop_map(At::Anywhere), 1 => (0..8usize).prop_map(At::Head)];
    let border = prop_oneof![
        prop::sample::select(vec![
            0,
            1,
            7,
            8,
            255,
            256,
            1 << 31,
            1 << 32,
            1 << 62,
            i64::MAX as u64,
            1 << 63,
            u64::MAX
        ]),
        any::<u64>(),
        0..10_000u64,
    ];
    prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        2 => (at(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, new)| Change::Insert(at, new)),
        2 => (at(), 1..600usize).prop_map(|(at, len)| Change::Remove(at, len)),
        2 => (at(), 1..600usize, 1..20usize).prop_map(|(at, len, times)| Change::Repeat(at, len, times)),
        1 => at().prop_map(Change::Cut),
        3 => (at(), border).prop_map(|(at, number)| Change::Number(at, number)),
    ]
}

/// Peak memory of this process so far, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs the target `name` on its sound inputs and on `cases` spoilt ones.
fn bounded(name: &str, cases: u32) {
    // Past it the system ends the process: no decoder's word is taken for what it has written.
    setrlimit(Resource::RLIMIT_FSIZE, LARGEST_FILE, LARGEST_FILE).unwrap();
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into();
    let seed: u64 = std::env::var("RELMGR_FUZZ_SEED").map_or_else(|_| clock(), |seed| seed.parse().unwrap());
    println!("{name}: to repeat this run, set RELMGR_FUZZ_SEED={seed}");
    let seeds = (target.seeds)();
    for sound in &seeds {
        (target.run)(sound);
    }
    (target.run)(b"");
    let before = peak_kib();
    let config =
        Config { cases, rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..Config::default() };
    let inputs = (prop::sample::select(seeds), prop::collection::vec(change(), 1..4));
    let ran = TestRunner::new(config).run(&inputs, |(mut bytes, changes)| {
        changes.iter().for_each(|change| change.apply(&mut bytes));
        (target.run)(&bytes);
        Ok(())
    });
    ran.unwrap_or_else(|error| panic!("{name}, RELMGR_FUZZ_SEED={seed}: {error}"));
    let grown = peak_kib() - before;
    assert!(grown < MEMORY_KIB, "{name}, RELMGR_FUZZ_SEED={seed}: {grown} KiB of memory");
}

#[test]
fn a_delta_is_applied_or_refused() {
    bounded("delta", 300);
}

#[test]
fn a_patch_is_applied_or_refused() {
    bounded("patch", 300);
}

#[test]
fn a_patchs_controls_are_followed_or_refused() {
    bounded("controls", 300);
}

#[test]
fn any_library_is_made_from_any_other() {
    bounded("library", 150);
}

#[test]
fn a_package_is_unpacked_or_refused() {
    bounded("package", 300);
}

#[test]
fn an_archive_is_unpacked_or_refused() {
    bounded("archive", 500);
}

#[test]
fn a_manifest_is_read_or_refused() {
    bounded("manifest", 2000);
}

#[test]
fn an_app_conf_is_read_or_refused() {
    bounded("app_conf", 1000);
}

#[test]
fn a_schema_is_read_or_refused() {
    bounded("schema", 1500);
}

#[test]
fn every_target_is_run_here_and_by_cargo_fuzz() {
    let here = include_str!("bounded.rs");
    let fuzz = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let listed = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for target in &TARGETS {
        let name = target.name;
        assert!(here.contains(&format!("bounded(\"{name}\", ")), "{name} has no bounded run");
        assert!(listed.contains(&format!("name = \"{name}\"")), "{name} is not in fuzz/Cargo.toml");
        let body = std::fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(body.contains(&format!("relmgr_fuzz::{name}(data)")), "{name}: {body}");
    }
}

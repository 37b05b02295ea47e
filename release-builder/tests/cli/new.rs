//! `new`: what it writes is an application as it stands.

use std::path::Path;
use std::process::Command;

use relmgr_model::settings::Settings;
use relmgr_store::repository::BuiltRelease;

use crate::fixture::{command, fails, succeeds};

#[test]
fn a_new_application_compiles_and_is_released_and_published() {
    // Always in the same place, and the target directory kept: the dependencies compile once, not at every run.
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("new");
    std::fs::create_dir_all(&home).unwrap();
    let (home, hello) = (home.canonicalize().unwrap(), home.join("hello"));
    if hello.exists() {
        std::fs::remove_dir_all(&hello).unwrap();
    }
    succeeds(command(&home, &["new", "hello"]));
    // The versions that this workspace was tested with.
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    if lock.is_file() {
        std::fs::copy(lock, hello.join("Cargo.lock")).unwrap();
    }
    let target = home.join("target");
    let mut rustfmt = Command::new("rustfmt");
    // rustfmt's own defaults: a rustfmt.toml above this test's directory is not the new application's.
    rustfmt.args(["--check", "--edition", "2024", "--config", "max_width=100,use_small_heuristics=Default"]);
    succeeds({
        rustfmt.arg(hello.join("src/lib.rs"));
        rustfmt
    });
    let args = ["release", "--profile", "dev", "--target-dir", target.to_str().unwrap()];
    let version = succeeds(command(&hello, &args));

    let settings = std::fs::read_to_string(hello.join("node/relmgr.toml")).unwrap();
    let settings = Settings::parse(&settings).unwrap();
    assert_eq!(settings.app, "hello");
    succeeds(command(&hello, &["publish", "--repository", &settings.repository.url]));
    let pointer = std::fs::read_to_string(hello.join("packages/VERSION")).unwrap();
    assert_eq!(pointer, version);

    let manifest = BuiltRelease::read(&hello.join("target/relmgr")).unwrap().manifest;
    assert_eq!(manifest.name, settings.app);
    assert_eq!((manifest.abi.major, manifest.abi.minor), (relmgr_abi::ABI_MAJOR, relmgr_abi::ABI_MINOR));
    assert!(manifest.files.contains_key("conf/schema.toml"));
    let library = target.join(&manifest.target).join("debug/libhello.so");
    let library = std::fs::read(library).unwrap();
    let library = String::from_utf8_lossy(&library);
    assert!(library.contains("/cargo/registry/src/"));
    for place in [&home, Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()] {
        assert!(!library.contains(place.to_str().unwrap()), "the library names {}", place.display());
    }
    assert_eq!(manifest.probes[0].path, "/health");
    crate::derived::what_the_settings_type_says_is_what_travels(&hello, &target);
}

#[test]
fn what_is_there_is_not_overwritten() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("empty")).unwrap();
    succeeds(command(home.path(), &["new", "empty"]));
    let lib = home.path().join("empty/src/lib.rs");
    std::fs::write(&lib, "mine").unwrap();
    let stderr = fails(command(home.path(), &["new", "empty"]));
    assert!(stderr.contains("empty exists already") && stderr.contains("--path"), "{stderr}");
    assert_eq!(std::fs::read_to_string(lib).unwrap(), "mine");
}

#[test]
fn bad_names_and_checkouts_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let stderr = fails(command(home.path(), &["new", "match"]));
    assert!(stderr.contains("`match` cannot be a package's name"), "{stderr}");
    let stderr = fails(command(home.path(), &["new", "hello", "--relmgr", "/tmp"]));
    assert!(stderr.contains("/tmp is no checkout of relmgr"), "{stderr}");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn below_another_workspace_it_is_one_of_its_own() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("Cargo.toml"), "[workspace]\nmembers = []\n").unwrap();
    succeeds(command(home.path(), &["new", "hello", "--path", "services/hello"]));
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(home.path().join("services/hello"));
    assert!(succeeds(cargo).contains("services/hello"));
}

//! What a release holds, and that the same source gives the same bytes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use relmgr_model::manifest::{Digest, Manifest};
use relmgr_store::repository::BuiltRelease;
use relmgr_store::{digest, package};

use crate::fixture::{Fixture, succeeds};

/// The library's digest in a release's JSON.
fn library(release: &serde_json::Value) -> Digest {
    serde_json::from_value(release["files"][release["library"].as_str().unwrap()].clone()).unwrap()
}

#[test]
fn the_same_source_gives_the_same_bytes_wherever_it_is_checked_out() {
    let (one, other) = (Fixture::new(), Fixture::new());
    let target = tempfile::tempdir().unwrap();
    let first = one.release(&["--version", "2026.1120.192733"]);
    let second = other.release(&["--version", "2026.1120.192734"]);
    let elsewhere = ["--version", "2026.1120.192733", "--target-dir", target.path().to_str().unwrap()];
    let third = other.release(&elsewhere);
    assert_eq!(library(&first), library(&second));
    assert_eq!(first["files"], third["files"]);
    assert_eq!(first["sha256"], third["sha256"], "under the same version the whole package is the same");
    assert_ne!(first["sha256"], second["sha256"], "the version is in the package");

    let triple = first["target"].as_str().unwrap();
    let bytes = std::fs::read(one.path(&format!("target/{triple}/release/libsmall_poll.so"))).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    for place in ["/source/src/included.rs", "/target/"] {
        assert!(text.contains(place), "the fixture carries no path into {place}");
    }
    for fixture in [&one, &other] {
        assert!(!text.contains(fixture.directory.to_str().unwrap()), "the library names where it was built");
    }
}

#[test]
fn a_second_build_compiles_nothing_and_gets_a_version_of_its_own() {
    let fixture = Fixture::new();
    let first = fixture.release(&[]);
    let output = fixture.command(&["release", "--offline"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert!(!stderr.contains("Compiling"), "{stderr}");
    let second = String::from_utf8(output.stdout).unwrap();
    let version = |text: &str| text.trim_end().parse::<relmgr_model::Version>().unwrap();
    assert!(version(&second) > version(first["version"].as_str().unwrap()));

    let out = fixture.path("target/relmgr");
    let names = |version: &str| [format!("{version}.tar.gz"), format!("{version}.toml")];
    for name in names(second.trim_end()).iter().chain(&names(first["version"].as_str().unwrap())) {
        assert!(out.join(name).is_file(), "{name}");
    }
    assert_eq!(std::fs::read_to_string(out.join("VERSION")).unwrap(), second);

    let third = fixture.release(&["--clean"]);
    for name in names(second.trim_end()) {
        assert!(!out.join(&name).exists(), "{name}");
    }
    assert!(Path::new(third["package"].as_str().unwrap()).is_file());
    let left: Vec<_> = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "VERSION, package, manifest, lock: {left:?}");
}

#[test]
fn the_package_holds_what_its_manifest_says() {
    let fixture = Fixture::with_manifest(
        "[package.metadata.relmgr]\nname = \"poll\"\nupgrade_from = \">=2026.1.0\"\nassets = [\"migrations\"]\n\
         probes = [{ path = \"/polls\" }, { path = \"/x\", status = 404 }]",
    );
    fixture.write("conf/schema.toml", "[keys.title]\ntype = \"string\"\n");
    fixture.write("migrations/1.sql", "select 1;");
    fixture.write("priv/run.sh", "#!/bin/sh\n");
    std::fs::set_permissions(fixture.path("priv/run.sh"), PermissionsExt::from_mode(0o755)).unwrap();
    let release = fixture.release(&["--version", "2026.1120.192733"]);

    let built = BuiltRelease::read(&fixture.path("target/relmgr")).unwrap();
    let manifest = &built.manifest;
    assert_eq!(manifest.name, "poll");
    assert_eq!(manifest.built_at.to_rfc3339(), "2026-11-20T19:27:33+00:00");
    assert_eq!((manifest.abi.major, manifest.abi.minor), (1, 0));
    assert_eq!(manifest.library, "lib/libsmall_poll.so");
    assert_eq!(manifest.upgrade_from, Some(">=2026.1.0".parse().unwrap()));
    let probes: Vec<_> = manifest.probes.iter().map(|probe| (probe.path.as_str(), probe.status)).collect();
    assert_eq!(probes, [("/polls", 200), ("/x", 404)]);
    assert!(manifest.rustc.starts_with("rustc 1."));
    assert!(manifest.needs.glibc.is_some());
    assert!(manifest.needs.libraries.contains(&"libc.so.6".into()));
    assert_eq!(manifest.git, None, "a temporary directory is no checkout");
    let names: Vec<_> = manifest.files.keys().map(String::as_str).collect();
    let expected =
        ["VERSION", "conf/schema.toml", "lib/libsmall_poll.so", "priv/migrations/1.sql", "priv/run.sh"];
    assert_eq!(names, expected);
    assert_eq!(serde_json::to_value(&manifest.files).unwrap(), release["files"]);

    let staging = tempfile::tempdir().unwrap();
    let unpacked = staging.path().join("release");
    package::unpack(&built.package, staging.path(), &unpacked, manifest).unwrap();
    assert_eq!(std::fs::read_to_string(unpacked.join("VERSION")).unwrap(), "2026.1120.192733\n");
    let inside = std::fs::read_to_string(unpacked.join("manifest.toml")).unwrap();
    assert_eq!(Manifest::parse(&inside).unwrap(), manifest.for_package());
    let mode = std::fs::metadata(unpacked.join("priv/run.sh")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    let packed = unpacked.join("lib/libsmall_poll.so");
    assert_eq!(digest::of_file(&packed).unwrap(), library(&release));
    let mut readelf = std::process::Command::new("readelf");
    readelf.args(["--section-headers", "--wide"]).arg(&packed).env("LC_ALL", "C");
    let sections = succeeds(readelf);
    assert!(sections.contains(".dynsym"), "{sections}");
    for gone in [".symtab", ".debug_info"] {
        assert!(!sections.contains(gone), "{gone} in {sections}");
    }
}

#[test]
fn a_library_that_asks_never_to_be_unloaded_is_mended_in_the_package_only() {
    let fixture = Fixture::new();
    // The developer's own flags stay in force beside ours.
    fixture.write(".cargo/config.toml", "[build]\nrustflags = [\"-Clink-arg=-Wl,-z,nodelete\"]\n");
    let release = fixture.release(&[]);
    assert_eq!(release["nodelete_cleared"], true);
    let flagged = |path: &Path| {
        let mut readelf = std::process::Command::new("readelf");
        readelf.arg("-d").arg(path).env("LC_ALL", "C");
        succeeds(readelf).contains("NODELETE")
    };
    let triple = release["target"].as_str().unwrap();
    assert!(flagged(&fixture.path(&format!("target/{triple}/release/libsmall_poll.so"))));

    let built = BuiltRelease::read(&fixture.path("target/relmgr")).unwrap();
    let staging = tempfile::tempdir().unwrap();
    let unpacked = staging.path().join("release");
    package::unpack(&built.package, staging.path(), &unpacked, &built.manifest).unwrap();
    assert!(!flagged(&unpacked.join(&built.manifest.library)));
}

#[test]
fn the_commit_is_told() {
    let fixture = Fixture::new();
    let git = |args: &[&str]| {
        let mut git = std::process::Command::new("git");
        git.args(["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]);
        succeeds({
            git.arg("-C").arg(&fixture.directory).args(args);
            git
        })
    };
    git(&["init", "--quiet"]);
    fixture.run(&["release", "--offline"]);
    git(&["add", "Cargo.toml", "Cargo.lock", "src", "part"]);
    git(&["commit", "--quiet", "-m", "one"]);
    // target/ is in no .gitignore: what a build writes is not what the developer changed.
    let clean = fixture.release(&[]);
    assert_eq!(clean["git"]["commit"], git(&["rev-parse", "HEAD"]).trim_end());
    assert_eq!(clean["git"]["dirty"], false);
    fixture.write("src/lib.rs", &format!("{}\n// changed\n", crate::fixture::ENTRY));
    assert_eq!(fixture.release(&[])["git"]["dirty"], true);
}

#[test]
fn an_allocator_of_its_own_is_warned_of() {
    let fixture = Fixture::with_manifest("[dependencies.mimalloc]\npath = \"mimalloc\"");
    fixture.write(
        "mimalloc/Cargo.toml",
        "[package]\nname = \"mimalloc\"\nversion = \"0.1.0\"\nedition = \"2024\"\n",
    );
    fixture.write("mimalloc/src/lib.rs", "");
    let release = fixture.release(&[]);
    let warnings = release["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].as_str().unwrap().contains("mimalloc"), "{warnings:?}");
    assert_eq!(Fixture::new().release(&[])["warnings"], serde_json::json!([]));
}

#[test]
fn a_member_of_a_workspace_is_found_from_elsewhere() {
    let fixture = Fixture::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let manifest = fixture.path("Cargo.toml");
    let args = ["release", "--offline", "--manifest-path", manifest.to_str().unwrap(), "-p", "small-poll"];
    let version = succeeds(crate::fixture::command(elsewhere.path(), &args));
    let pointer = std::fs::read_to_string(elsewhere.path().join("target/relmgr/VERSION")).unwrap();
    assert_eq!(pointer, version);
    assert!(!fixture.path("target/relmgr").exists());
}

#[test]
fn a_version_of_ones_own_is_built_again_to_the_same_bytes() {
    let fixture = Fixture::new();
    let first = fixture.release(&["--version", "1.2.3"]);
    let again = fixture.release(&["--version", "1.2.3"]);
    assert_eq!(first["sha256"], again["sha256"]);
}

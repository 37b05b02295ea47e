//! What is refused: each says what is wrong and what to do, and leaves no release behind.

use crate::fixture::{ENTRY, Fixture};

/// Runs `release`, which has to be refused in these `words`.
fn refused(fixture: &Fixture, args: &[&str], words: &[&str]) {
    let args: Vec<_> = ["release", "--offline"].iter().chain(args).copied().collect();
    let stderr = fixture.fails(&args);
    for word in words {
        assert!(stderr.contains(word), "`{word}` is not in:\n{stderr}");
    }
    assert!(!fixture.path("target/relmgr/VERSION").exists());
}

#[test]
fn a_library_that_cannot_be_loaded() {
    let fixture = Fixture::new();
    let manifest = std::fs::read_to_string(fixture.path("Cargo.toml")).unwrap();
    fixture.write("Cargo.toml", &manifest.replace("crate-type = [\"cdylib\"]", ""));
    refused(
        &fixture,
        &[],
        &["crate-type lacks \"cdylib\"", "crate-type = [\"cdylib\", \"rlib\"]", "Cargo.toml"],
    );
}

#[test]
fn a_package_without_a_library() {
    let fixture = Fixture::new();
    let manifest = std::fs::read_to_string(fixture.path("Cargo.toml")).unwrap();
    fixture.write("Cargo.toml", &manifest.replace("[lib]\ncrate-type = [\"cdylib\"]", ""));
    std::fs::rename(fixture.path("src/lib.rs"), fixture.path("src/main.rs")).unwrap();
    refused(&fixture, &[], &["has no library", "cargo relmgr new"]);
}

#[test]
fn a_panic_that_aborts_wherever_it_is_said() {
    let words = ["panic = \"abort\"", "answers 500"];
    let fixture = Fixture::with_manifest(
        "[profile.release]\npanic = \"abort\"\n[profile.dist]\ninherits = \"release\"",
    );
    refused(&fixture, &[], &words);
    refused(&fixture, &["--profile", "dist"], &words);
    let fixture = Fixture::new();
    fixture.write(".cargo/config.toml", "[profile.release]\npanic = \"abort\"\n");
    refused(&fixture, &[], &words);
    fixture.write(".cargo/config.toml", "[build]\nrustflags = [\"-C\", \"panic=abort\"]\n");
    refused(&fixture, &[], &words);

    let fixture = Fixture::new();
    for (name, value) in [("CARGO_PROFILE_RELEASE_PANIC", "abort"), ("RUSTFLAGS", "-Cpanic=abort")] {
        let mut command = fixture.command(&["release", "--offline"]);
        let stderr = crate::fixture::fails({
            command.env(name, value);
            command
        });
        assert!(stderr.contains("aborts on a panic"), "{stderr}");
    }
}

#[test]
fn a_library_that_is_no_application() {
    let fixture = Fixture::new();
    fixture.write("src/lib.rs", "pub fn nothing() {}");
    refused(&fixture, &[], &["no relmgr application", "relmgr_app::export!(YourApp);"]);
    fixture.write("src/lib.rs", &ENTRY.replace("RELMGR\\0", "foreign"));
    refused(&fixture, &[], &["was not made by relmgr-app"]);
}

#[test]
fn source_that_does_not_compile() {
    let fixture = Fixture::new();
    fixture.write("src/lib.rs", "fn broken( {}");
    refused(&fixture, &[], &["src/lib.rs:1", "cargo could not build small-poll"]);
}

#[test]
fn metadata_that_nobody_reads() {
    let fixture = Fixture::with_manifest("[package.metadata.relmgr]\nprobe = []");
    refused(&fixture, &[], &["[package.metadata.relmgr]", "unknown field `probe`", "upgrade_from"]);
    let fixture = Fixture::with_manifest("[package.metadata.relmgr]\nname = \"a/b\"");
    refused(&fixture, &[], &["`a/b`", "cannot be an application's name"]);
}

#[test]
fn a_schema_that_no_node_could_read() {
    let fixture = Fixture::new();
    fixture.write("conf/schema.toml", "[keys.size]\ntype = \"integr\"\n");
    refused(&fixture, &[], &["conf/schema.toml cannot be used", "integr"]);
}

#[test]
fn assets_that_leave_the_package() {
    let fixture = Fixture::with_manifest("[package.metadata.relmgr]\nassets = [\"../secret\"]");
    refused(&fixture, &[], &["../secret", "no path beside Cargo.toml"]);
}

#[test]
fn other_systems_than_glibc() {
    refused(&Fixture::new(), &["--target", "x86_64-unknown-linux-musl"], &["musl", "*-linux-gnu"]);
}

#[test]
fn packages_that_are_not_there_or_too_many() {
    let fixture = Fixture::new();
    refused(&fixture, &["-p", "large-poll"], &["no package `large-poll`", "small-poll"]);
    refused(&fixture, &["--manifest-path", "nowhere/Cargo.toml"], &["nowhere"]);

    let fixture = Fixture::new();
    fixture.write("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"a\", \"b\", \"part\"]\n");
    for name in ["a", "b"] {
        fixture.write(
            &format!("{name}/Cargo.toml"),
            &format!("[package]\nname = \"{name}\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\"]\n"),
        );
        fixture.write(&format!("{name}/src/lib.rs"), "");
    }
    refused(&fixture, &[], &["several packages", "a, b", "--package"]);
    fixture.write("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"part\"]\n");
    refused(&fixture, &[], &["no package of the workspace", "crate-type"]);
}

#[test]
fn a_version_that_is_none() {
    let output = Fixture::new().command(&["release", "--version", "1.2"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("`1.2` is not a version"), "{stderr}");
}

#[test]
fn other_content_under_a_version_that_was_built() {
    let fixture = Fixture::new();
    let first = fixture.release(&["--version", "1.2.3"]);
    fixture.write("priv/new.txt", "new");
    let stderr = fixture.fails(&["release", "--offline", "--version", "1.2.3"]);
    assert!(stderr.contains("1.2.3 with other content"), "{stderr}");
    assert!(stderr.contains("without --version"), "{stderr}");
    let package = relmgr_store::digest::of_file(&fixture.path("target/relmgr/1.2.3.tar.gz")).unwrap();
    assert_eq!(package.sha256, first["sha256"]);
}

#[test]
fn an_output_directory_that_cannot_be_written() {
    let fixture = Fixture::new();
    fixture.write("taken", "a file");
    let stderr = fixture.fails(&["release", "--offline", "--out", "taken"]);
    assert!(stderr.contains("taken cannot be written"), "{stderr}");
}

//! `dev`: what it refuses before it starts anything. (What it does is in tests/it/dev.rs, with a node.)

use crate::fixture::{command, fails, succeeds};

#[test]
fn a_home_of_somebody_elses_and_settings_that_cannot_be_used_are_refused() {
    let home = tempfile::tempdir().unwrap();
    succeeds(command(home.path(), &["new", "hello"]));
    let hello = home.path().join("hello");
    let lock = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    std::fs::copy(lock, hello.join("Cargo.lock")).unwrap();

    let stderr = fails(command(&hello, &["dev", "--home", "node"]));
    assert!(
        stderr.contains("hello/node is the home of a node that `cargo relmgr dev` has not made"),
        "{stderr}"
    );
    let long = "x".repeat(100);
    let stderr = fails(command(&hello, &["dev", "--home", &long]));
    assert!(stderr.contains("too long a path for the node's control socket"), "{stderr}");
    assert!(!hello.join(long).exists());

    let stderr = fails(command(&hello, &["dev", "--home", "h", "--relmgr", "/nowhere/relmgr"]));
    assert!(stderr.contains("/nowhere/relmgr cannot be run") && stderr.contains("--relmgr"), "{stderr}");
    // What is set up by then is the node's own: its listeners, and no other machines.
    let settings = std::fs::read_to_string(hello.join("h/relmgr.toml")).unwrap();
    let settings = relmgr_model::settings::Settings::parse(&settings).unwrap();
    assert_eq!(settings.app, "hello");
    assert!(settings.upgrade.probation.is_zero());
    assert!(settings.repository.url.ends_with("/h/packages"), "{}", settings.repository.url);

    std::fs::write(hello.join("node/relmgr.toml"), "app = \"hello\"\nlissten = 1\n").unwrap();
    let stderr = fails(command(&hello, &["dev", "--home", "h"]));
    assert!(stderr.contains("node/relmgr.toml cannot be used") && stderr.contains("lissten"), "{stderr}");
}

//! `cargo xtask test` on a machine without the programs that the tests start.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::process::Command;

/// The exit code and the words of `cargo xtask test args…` where the path leads nowhere, and cargo is not there either.
fn on_a_bare_machine(args: &[&str]) -> (Option<i32>, String) {
    let nowhere = tempfile::tempdir().unwrap();
    let mut test = Command::new(env!("CARGO_BIN_EXE_xtask"));
    test.arg("test").args(args).env("PATH", nowhere.path()).env("CARGO", nowhere.path().join("cargo"));
    let output = test.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn what_is_missing_is_told_before_anything_is_built() {
    let (code, told) = on_a_bare_machine(&[]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.starts_with("error: the tests start programs that are not there:\n"), "{told}");
    for words in ["\n  python3-pip ", "\n  cargo-deb ", "`cargo xtask setup` installs them"] {
        assert!(told.contains(words), "no `{words}` in: {told}");
    }
    assert!(!told.contains("\"build\""), "nothing is built: {told}");
}

#[test]
fn who_asks_for_some_tests_is_warned_and_goes_on() {
    let (code, told) = on_a_bare_machine(&["some_test"]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.starts_with("warning: the tests start programs that are not there:\n"), "{told}");
    assert!(told.contains("`cargo xtask setup` installs them"), "{told}");
    // The build is begun, and there is no cargo.
    assert!(told.contains("\"build\""), "{told}");
}

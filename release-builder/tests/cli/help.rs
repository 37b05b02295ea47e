//! What a user sees of the command line, frozen.

use std::path::Path;

use crate::fixture::{command, succeeds};

#[test]
fn help_is_what_it_was() {
    let help = |args: &[&str]| {
        let mut command = command(Path::new("/"), args);
        // clap wraps to the terminal's width.
        command.env("COLUMNS", "100");
        succeeds(command)
    };
    insta::assert_snapshot!("help", help(&["--help"]));
    let names = [
        "new",
        "dev",
        "release",
        "rehearse",
        "publish",
        "promote",
        "list",
        "previous",
        "verify",
        "yank",
        "gc",
        "channel",
        "keygen",
        "version",
        "completion",
    ];
    for name in names {
        insta::assert_snapshot!(format!("help_{name}"), help(&[name, "--help"]));
    }
    for name in ["show", "renew"] {
        insta::assert_snapshot!(format!("help_channel_{name}"), help(&["channel", name, "--help"]));
    }
    insta::assert_snapshot!("help_conf", help(&["conf", "--help"]));
    for name in ["check", "new", "diff", "schema"] {
        insta::assert_snapshot!(format!("help_conf_{name}"), help(&["conf", name, "--help"]));
    }
}

#[test]
fn every_shell_gets_a_completion_script() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = succeeds(command(Path::new("/"), &["completion", shell]));
        assert!(script.contains("publish") && script.contains("lose-state"), "{shell}");
    }
}

#[test]
fn the_version_and_its_contract_are_told() {
    let text = succeeds(command(Path::new("/"), &["version"]));
    let (major, minor) = (relmgr_abi::ABI_MAJOR, relmgr_abi::ABI_MINOR);
    assert_eq!(text, format!("cargo-relmgr {} (contract {major}.{minor})\n", env!("CARGO_PKG_VERSION")));
    let json: serde_json::Value =
        serde_json::from_str(&succeeds(command(Path::new("/"), &["version", "--json"]))).unwrap();
    assert_eq!(json["abi"]["major"], major);
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    let output = command(Path::new("/"), &["relase"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("release"));
}

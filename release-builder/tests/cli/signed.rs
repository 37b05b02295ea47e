//! Keys, signed releases and channels, and the keeping of a repository.

use crate::fixture::{Fixture, command, fails, succeeds};

#[test]
fn a_release_is_signed_promoted_renewed_withdrawn_and_collected() {
    let fixture = Fixture::new();
    let url = fixture.repository();
    let key = fixture.run(&["keygen", "--no-password", "--out", "ci.key"]).trim().to_owned();
    assert!(key.starts_with("RW"), "{key}");
    let stderr = fixture.fails(&["keygen", "--no-password", "--out", "ci.key"]);
    assert!(stderr.contains("ci.key exists already"), "{stderr}");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(fixture.path("ci.key")).unwrap().permissions().mode() & 0o777, 0o600);

    // 1. Signed when it is built, or when it is published; to staging first.
    fixture.release(&["--version", "1.0.0", "--key", "ci.key"]);
    assert!(fixture.path("target/relmgr/1.0.0.toml.minisig").exists());
    let staged = ["publish", "--repository", &url, "--channel", "staging", "--key", "ci.key", "--json"];
    let published: serde_json::Value = serde_json::from_str(&fixture.run(&staged)).unwrap();
    assert_eq!(published["document"]["channel"], "staging");
    let list = fixture.run(&["list", "--repository", &url]);
    assert!(list.lines().nth(1).unwrap().ends_with("staging signed"), "{list}");

    // 2. What was tried is what production gets.
    fixture.run(&["promote", "1.0.0", "--repository", &url, "--key", "ci.key"]);
    let trusted = ["verify", "--repository", &url, "--trusted-key", &key];
    fixture.run(&trusted);
    let shown = fixture.run(&["channel", "show", "--repository", &url, "--trusted-key", &key]);
    assert!(
        shown.contains("default  1.0.0") && shown.contains("in 89 d") && shown.contains("verified"),
        "{shown}"
    );
    let renew = ["channel", "renew", "--repository", &url, "--key", "ci.key", "--expires", "5d", "--json"];
    let renewed: serde_json::Value = serde_json::from_str(&fixture.run(&renew)).unwrap();
    assert!(renewed["document"]["serial"].as_u64() > published["document"]["serial"].as_u64());
    let stderr = fixture.fails(&["promote", "1.0.0", "--repository", &url]);
    assert!(stderr.contains("the channel default") && stderr.contains("--channel-key"), "{stderr}");

    // 3. Withdrawn, and collected.
    for version in ["1.0.1", "1.0.2"] {
        fixture.release(&["--version", version]);
        fixture.run(&["publish", "--repository", &url, "--key", "ci.key"]);
    }
    let yank = ["yank", "1.0.1", "--reason", "loses votes", "--repository", &url, "--key", "ci.key"];
    fixture.run(&yank);
    let list = fixture.run(&["list", "--repository", &url]);
    assert!(
        list.lines().any(|line| line.starts_with("1.0.1") && line.ends_with("signed withdrawn")),
        "{list}"
    );
    let stderr =
        fixture.fails(&["promote", "1.0.1", "--repository", &url, "--key", "ci.key", "--going-back"]);
    assert!(stderr.contains("was withdrawn") && stderr.contains("loses votes"), "{stderr}");
    let kept = fixture.run(&["gc", "--keep", "1", "--repository", &url, "--json"]);
    let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
    assert_eq!(kept["removed"], serde_json::json!(["1.0.1"]), "staging still names 1.0.0");
    fixture.run(&trusted);

    // 4. One byte, and it is found.
    let package = fixture.path("target/packages/1.0.0.tar.gz");
    let mut bytes = std::fs::read(&package).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(package, bytes).unwrap();
    let stderr = fixture.fails(&trusted);
    assert!(stderr.contains("1.0.0: the package of 1.0.0 is not the one"), "{stderr}");
    assert!(stderr.contains("is not as it should be (1 found)"), "{stderr}");
}

#[test]
fn a_key_comes_from_a_file_or_a_variable_with_its_password() {
    let fixture = Fixture::new();
    let url = fixture.repository();
    let with = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = command(&fixture.directory, args);
        command.envs(variables.iter().copied()).stdin(std::process::Stdio::null());
        command
    };
    let stderr = fails(with(&["keygen", "--out", "closed.key"], &[]));
    assert!(stderr.contains("RELMGR_KEY_PASSWORD") && stderr.contains("--no-password"), "{stderr}");
    let password = ("RELMGR_KEY_PASSWORD", "correct horse");
    let public = succeeds(with(&["keygen", "--out", "closed.key"], &[password]));
    fixture.release(&["--version", "1.0.0"]);
    let publish = ["publish", "--repository", &url];
    let text = std::fs::read_to_string(fixture.path("closed.key")).unwrap();
    let stderr = fails(with(&publish, &[("RELMGR_KEY", &text)]));
    assert!(stderr.contains("RELMGR_KEY_PASSWORD is not set"), "{stderr}");
    let stderr = fails(with(&publish, &[("RELMGR_KEY", &text), ("RELMGR_KEY_PASSWORD", "wrong")]));
    assert!(stderr.contains("Wrong password") && !stderr.contains("wrong\""), "{stderr}");
    succeeds(with(&publish, &[("RELMGR_KEY", &text), password]));
    // What a service of CI makes of a variable that nobody has given names nobody.
    succeeds(with(&["list", "--repository", &url], &[("RELMGR_TRUSTED_KEYS", "")]));
    // The public tool agrees.
    let manifest = fixture.path("target/packages/1.0.0.toml");
    let mut minisign = std::process::Command::new("minisign");
    minisign.args(["-V", "-m"]).arg(manifest).args(["-P", public.trim()]);
    let told = minisign.output().expect("Debian: apt-get install minisign");
    let words = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.status.success() && words.contains("relmgr release small-poll 1.0.0"), "{told:?}");
}

//! `conf`: check, new, diff and schema, of crates, built releases and published ones.

use serde_json::{Value, json};

use crate::fixture::Fixture;

const FIRST: &str = r#"
[keys."poll.title"]
type = "string"
default = "Live poll"
doc = "What the pages show."

[keys."poll.options"]
type = "integer"
min = 2
max = 100
default = 20

[keys."Repo.password"]
type = "string"
secret = true
required = true
env = "REPO_PASSWORD"
"#;

const SECOND: &str = r#"
[keys."poll.max_options"]
type = "integer"
min = 2
max = 50
default = 20
was = ["poll.options"]

[keys."Repo.password"]
type = "string"
secret = true
required = true

[keys."Repo.database"]
type = "string"
required = true
example = "exampledb"
"#;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// A crate with the first schema, of which there is a published release, and after it the second schema.
fn two_releases() -> (Fixture, String) {
    let fixture = Fixture::new();
    let url = fixture.repository();
    fixture.write("conf/schema.toml", FIRST);
    fixture.release(&["--version", "2026.1120.1"]);
    fixture.run(&["publish", "--repository", &url]);
    fixture.write("conf/schema.toml", SECOND);
    (fixture, url)
}

#[test]
fn a_file_is_checked_against_a_crate_and_against_a_built_release() {
    let fixture = Fixture::new();
    fixture.write("conf/schema.toml", FIRST);
    fixture.release(&["--version", "2026.1120.1"]);
    fixture.write("deploy/app.conf", "poll.options = 3\nRepo.password = ${NOT_HERE}\n");
    fixture.write("deploy/app.conf.d/10.conf", "poll.title = Here\n");
    for release in
        [&[][..], &["--release", "target/relmgr"], &["--release", "."], &["--release", "conf/schema.toml"]]
    {
        let args = [&["conf", "check", "deploy/app.conf", "--offline"], release].concat();
        assert_eq!(fixture.run(&args), "", "{release:?}");
        let checked = json(&fixture.run(&[args.as_slice(), &["--json"]].concat()));
        assert_eq!((&checked["ok"], &checked["faults"]), (&json!(true), &json!([])));
    }

    // Both files are read, and all mistakes told at once.
    fixture.write("deploy/app.conf", "poll.options = 300\nRepo.pasword = hunter2\n");
    fixture.write("deploy/app.conf.d/10.conf", "poll.title = \"Here\n");
    let stderr = fixture.fails(&["conf", "check", "deploy/app.conf", "--release", "target/relmgr"]);
    for words in [
        "deploy/app.conf does not fit 2026.1120.1",
        "deploy/app.conf:1:16: poll.options: expected an integer from 2 to 100",
        "did you mean Repo.password?",
        "deploy/app.conf.d/10.conf:1:",
    ] {
        assert!(stderr.contains(words), "no `{words}` in {stderr}");
    }
    assert!(!stderr.contains("hunter2"), "{stderr}");
    let output = fixture
        .command(&["conf", "check", "deploy/app.conf", "--json", "--release", "target/relmgr"])
        .output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let checked: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&checked["ok"], checked["faults"].as_array().unwrap().len()),
        (&json!(false), 3),
        "{checked}"
    );

    let stderr = fixture.fails(&["conf", "check", "--release", "target/relmgr"]);
    assert!(stderr.contains("app.conf cannot be read"), "{stderr}");
}

#[test]
fn a_new_file_explains_every_key_and_sets_none() {
    let fixture = Fixture::new();
    fixture.write("conf/schema.toml", FIRST);
    let args = ["conf", "new", "--release", "conf/schema.toml"];
    insta::assert_snapshot!(fixture.run(&args));
    let keys = json(&fixture.run(&[args.as_slice(), &["--json"]].concat()));
    let key = json!({
        "key": "poll.title", "type": "string", "expected": "a text", "default": "Live poll", "example": null,
        "doc": "What the pages show.", "env": null, "required": false, "secret": false, "restart": false,
        "was": [], "deprecated": null,
    });
    assert_eq!(keys["keys"][0], key);

    let out = [args.as_slice(), &["--out", "app.conf"]].concat();
    assert_eq!(fixture.run(&out), "");
    let text = std::fs::read_to_string(fixture.path("app.conf")).unwrap();
    assert_eq!(text, fixture.run(&args));
    let stderr = fixture.fails(&out);
    assert!(stderr.contains("app.conf exists already"), "{stderr}");
}

#[test]
fn what_a_release_changes_is_told() {
    let (fixture, url) = two_releases();
    // What nodes run, against the crate.
    let differences = fixture.run(&["conf", "diff", "--offline", "--repository", &url]);
    insta::assert_snapshot!(differences);
    // A built release, a version of the repository, files.
    fixture.release(&["--version", "2026.1120.2"]);
    for from in ["2026.1120.1", "."] {
        let args = ["conf", "diff", from, "target/relmgr", "--offline", "--repository", &url];
        let expected = if from == "." { "no difference\n" } else { differences.as_str() };
        assert_eq!(fixture.run(&args), expected, "{from}");
    }
    let back =
        json(&fixture.run(&["conf", "diff", "target/relmgr", "2026.1120.1", "--repository", &url, "--json"]));
    assert_eq!((&back["from"], &back["to"]), (&json!("2026.1120.2"), &json!("2026.1120.1")));
    assert_eq!(back["diff"]["dropped"][0]["key"], "poll.max_options");
}

#[test]
fn a_release_without_settings_has_no_keys() {
    let fixture = Fixture::new();
    fixture.release(&["--version", "1.0.0"]);
    fixture.write("other.toml", FIRST);
    assert_eq!(fixture.run(&["conf", "schema", "target/relmgr"]), "format = 1\n");
    let differences = fixture.run(&["conf", "diff", "target/relmgr", "other.toml"]);
    assert_eq!(differences.lines().filter(|line| line.starts_with("+ ")).count(), 3, "{differences}");
    fixture.write("app.conf", "poll.title = x\n");
    let stderr = fixture.fails(&["conf", "check", "--release", "target/relmgr"]);
    assert!(stderr.contains("poll.title"), "{stderr}");
}

#[test]
fn what_is_no_release_is_told() {
    let fixture = Fixture::new();
    fixture.write("empty/x", "");
    for (name, words) in [
        ("empty", "the directory holds none"),
        ("nowhere/at/all", "it is no file, directory or version"),
        ("2026.1.1", "no repository was named"),
    ] {
        let stderr = fixture.fails(&["conf", "schema", name]);
        assert!(stderr.contains(words), "{name}: {stderr}");
    }
    let url = fixture.repository();
    let stderr = fixture.fails(&["conf", "schema", "2026.1.1", "--repository", &url]);
    assert!(stderr.contains("2026.1.1"), "{stderr}");
}

//! `publish`, `list` and `previous` with a repository in a directory.

use std::path::Path;

use crate::fixture::Fixture;

fn version(release: &serde_json::Value) -> String {
    release["version"].as_str().unwrap().to_owned()
}

#[test]
fn what_was_built_is_published_listed_and_fetched() {
    let fixture = Fixture::new();
    fixture.write("priv/a.txt", "a");
    let url = fixture.repository();
    let repository = fixture.path("target/packages");
    let read = |name: &str| std::fs::read(repository.join(name)).unwrap();
    let list = || -> serde_json::Value {
        serde_json::from_str(&fixture.run(&["list", "--json", "--repository", &url])).unwrap()
    };
    assert_eq!(list()["releases"], serde_json::json!([]));

    // 1. The first release, twice.
    let first = version(&fixture.release(&["--version", "2026.1120.1"]));
    let published: serde_json::Value =
        serde_json::from_str(&fixture.run(&["publish", "--json", "--repository", &url])).unwrap();
    assert_eq!((&published["package_written"], &published["channel_set"]), (&true.into(), &true.into()));
    assert_eq!(read("VERSION"), format!("{first}\n").into_bytes());
    assert_eq!(read("latest.tar.gz"), read(&format!("{first}.tar.gz")));
    let again = fixture.command(&["publish", "--repository", &url]).output().unwrap();
    assert!(again.status.success());
    assert!(String::from_utf8(again.stderr).unwrap().contains("already, with the same content"));

    // 2. The second one, not pointed to.
    let second = version(&fixture.release(&["--version", "2026.1120.2"]));
    fixture.run(&["publish", "--no-channel", "--repository", &url]);
    assert_eq!(read("VERSION"), format!("{first}\n").into_bytes());
    let listed = list();
    assert_eq!(listed["releases"][0]["version"], second.as_str());
    assert_eq!(listed["releases"][0]["channels"], serde_json::json!([]));
    assert_eq!(listed["releases"][1]["channels"], serde_json::json!(["VERSION"]));
    let table = fixture.run(&["list", "--repository", &url]);
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].starts_with("VERSION      SIZE"), "{table}");
    assert!(lines[1].starts_with("2026.1120.2  ") && !lines[1].contains("VERSION"), "{table}");
    assert!(lines[2].starts_with("2026.1120.1  ") && lines[2].ends_with("VERSION"), "{table}");

    // 3. What the pointer names, unpacked; a damaged copy is replaced.
    let previous = || fixture.run(&["previous", "--repository", &url]).trim_end().to_owned();
    let directory = fixture.path(&previous());
    assert!(directory.ends_with(Path::new("target/relmgr/previous").join(&first)));
    let file = directory.join("priv/a.txt");
    std::fs::write(&file, "changed").unwrap();
    previous();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "a");
}

#[test]
fn an_older_release_does_not_move_the_pointer_back() {
    let fixture = Fixture::new();
    let url = fixture.repository();
    for version in ["2.0.0", "1.0.0"] {
        fixture.release(&["--version", version]);
        let publish = ["publish", "--repository", &url];
        if version == "2.0.0" {
            fixture.run(&publish);
        } else {
            let stderr = fixture.fails(&publish);
            assert!(stderr.contains("VERSION names 2.0.0, which is newer than 1.0.0"), "{stderr}");
        }
    }
}

#[test]
fn a_version_is_never_published_with_other_content() {
    let fixture = Fixture::new();
    let url = fixture.repository();
    fixture.release(&["--version", "1.0.0"]);
    fixture.run(&["publish", "--repository", &url]);
    std::fs::remove_dir_all(fixture.path("target/relmgr")).unwrap();
    fixture.write("priv/new.txt", "new");
    fixture.release(&["--version", "1.0.0"]);
    let stderr = fixture.fails(&["publish", "--repository", &url]);
    assert!(stderr.contains("1.0.0 was published before with other content"), "{stderr}");
}

#[test]
fn what_is_missing_is_named() {
    let fixture = Fixture::new();
    let url = fixture.repository();
    let cases: [(&[&str], &[&str]); 6] = [
        (&["publish"], &["no repository", "RELMGR_REPOSITORY"]),
        (
            &["publish", "--repository", &url],
            &["target/relmgr holds no built release", "cargo relmgr release"],
        ),
        (
            &["publish", "--repository", "/srv/packages"],
            &["`/srv/packages` is no repository", "file:///directory"],
        ),
        (&["list", "--repository", "file:///no/such/place"], &["/no/such/place does not exist"]),
        (&["previous", "--repository", &url], &["VERSION does not exist", "cargo relmgr publish"]),
        (&["publish", "elsewhere", "--repository", &url], &["elsewhere holds no built release"]),
    ];
    for (args, words) in cases {
        let stderr = fixture.fails(args);
        for word in words {
            assert!(stderr.contains(word), "{args:?}: `{word}` is not in:\n{stderr}");
        }
    }
}

#[test]
fn the_environment_names_the_repository() {
    let fixture = Fixture::new();
    let mut command = fixture.command(&["list"]);
    command.env("RELMGR_REPOSITORY", fixture.repository());
    assert_eq!(crate::fixture::succeeds(command), "");
}

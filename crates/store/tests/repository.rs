//! Repositories in directories: publishing that cannot half-happen, fetching that believes nothing.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::path::Path;

use relmgr_model::Version;
use relmgr_model::manifest::{AbiVersion, FORMAT, Manifest, Needs};
use relmgr_store::repository::{BuiltRelease, Repository};
use relmgr_store::{digest, package};

/// What `cargo relmgr release` leaves, with `content` for a library.
fn build(out: &Path, version: &str, content: &[u8]) -> BuiltRelease {
    let source = tempfile::tempdir().unwrap();
    let library = "lib/libapp.so";
    std::fs::create_dir(source.path().join("lib")).unwrap();
    std::fs::write(source.path().join(library), content).unwrap();
    let mut manifest = Manifest {
        format: FORMAT,
        name: "app".into(),
        version: version.parse().unwrap(),
        target: "x86_64-unknown-linux-gnu".into(),
        built_at: chrono::DateTime::UNIX_EPOCH,
        library: library.into(),
        rustc: "rustc".into(),
        abi: AbiVersion { major: 1, minor: 0 },
        upgrade_from: None,
        git: None,
        needs: Needs::default(),
        state: None,
        package: None,
        probes: vec![],
        files: BTreeMap::from([(library.to_owned(), digest::of_bytes(content))]),
        deltas: BTreeMap::new(),
    };
    std::fs::write(source.path().join("manifest.toml"), manifest.to_toml()).unwrap();
    let package = out.join(format!("{version}.tar.gz"));
    manifest.package = Some(package::pack(source.path(), &package).unwrap());
    std::fs::write(out.join(format!("{version}.toml")), manifest.to_toml()).unwrap();
    std::fs::write(out.join("VERSION"), format!("{version}\n")).unwrap();
    BuiltRelease::read(out).unwrap()
}

fn open(root: &Path) -> Repository {
    Repository::open(&format!("file://{}", root.display())).unwrap()
}

fn v(text: &str) -> Version {
    text.parse().unwrap()
}

fn no_progress(_: u64, _: Option<u64>) {}

#[tokio::test]
async fn a_release_is_published_listed_and_fetched() {
    let (out, root, home) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let repository = open(root.path());
    let error = repository.channel("").await.unwrap_err().to_string();
    assert!(error.contains("cargo relmgr publish"), "{error}");
    for version in ["1.0.0", "1.0.1"] {
        let published = repository.publish(&build(out.path(), version, b"code"), true).await.unwrap();
        assert!(published.package_written && published.channel_set);
    }
    assert_eq!(repository.channel("").await.unwrap(), v("1.0.1"));
    assert_eq!(std::fs::read_to_string(root.path().join("VERSION")).unwrap(), "1.0.1\n");
    let latest = std::fs::read(root.path().join("latest.tar.gz")).unwrap();
    assert_eq!(latest, std::fs::read(root.path().join("1.0.1.tar.gz")).unwrap());
    let list = repository.list().await.unwrap();
    let seen: Vec<_> = list.iter().map(|release| (release.version.to_string(), release.current)).collect();
    assert_eq!(seen, [("1.0.1".to_owned(), true), ("1.0.0".to_owned(), false)]);

    let manifest = repository.manifest(&v("1.0.0")).await.unwrap().unwrap();
    let into = home.path().join("package");
    let expected = manifest.package.as_ref();
    let found = repository.fetch_package(&v("1.0.0"), expected, 0, &into, no_progress).await.unwrap();
    assert_eq!(Some(&found), expected);
    // Nothing but what the layout names: no temporary file is left.
    let mut names: Vec<_> = std::fs::read_dir(root.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names.join(" "),
        ".lock 1.0.0.tar.gz 1.0.0.toml 1.0.1.tar.gz 1.0.1.toml VERSION latest.tar.gz"
    );
}

#[tokio::test]
async fn publishing_again_completes_and_never_overwrites() {
    let (out, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let repository = open(root.path());
    let release = build(out.path(), "1.0.0", b"code");
    repository.publish(&release, true).await.unwrap();
    // As a death after the first step leaves it.
    for name in ["VERSION", "latest.tar.gz", "1.0.0.toml"] {
        std::fs::remove_file(root.path().join(name)).unwrap();
        let again = repository.publish(&release, true).await.unwrap();
        assert!(!again.package_written);
        assert_eq!(repository.channel("").await.unwrap(), v("1.0.0"));
    }
    let other = tempfile::tempdir().unwrap();
    let error = repository.publish(&build(other.path(), "1.0.0", b"other"), true).await.unwrap_err();
    assert!(error.to_string().contains("never overwritten"), "{error}");
}

#[tokio::test]
async fn of_two_publishers_one_pointer_wins_and_the_loser_is_told() {
    let (old, new, root) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let repository = open(root.path());
    repository.publish(&build(new.path(), "2.0.0", b"new"), true).await.unwrap();
    let error = repository.publish(&build(old.path(), "1.0.0", b"old"), true).await.unwrap_err().to_string();
    assert!(error.contains("2.0.0") && error.contains("pointer is left"), "{error}");
    assert_eq!(repository.channel("").await.unwrap(), v("2.0.0"));
    assert_eq!(repository.list().await.unwrap().len(), 2, "both packages are whole");
}

#[tokio::test]
async fn a_damaged_package_is_told_from_a_missing_one() {
    let (out, root, home) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let repository = open(root.path());
    repository.publish(&build(out.path(), "1.0.0", &[9; 3000]), true).await.unwrap();
    let digest = repository.manifest(&v("1.0.0")).await.unwrap().unwrap().package.unwrap();
    let path = root.path().join("1.0.0.tar.gz");
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[20] ^= 1;
    let longer = [whole.clone(), vec![0; 10]].concat();
    let cases = [(whole[..30].to_vec(), "cut short"), (flipped, "SHA-256 differs"), (longer, "larger than")];
    let into = home.path().join("package");
    for (bytes, words) in cases {
        std::fs::write(&path, bytes).unwrap();
        let fetched = repository.fetch_package(&v("1.0.0"), Some(&digest), 0, &into, no_progress).await;
        let error = fetched.unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
        assert!(!into.exists(), "{words}: a partial file is left");
    }
    let error = repository.manifest(&v("3.0.0")).await.unwrap_err().to_string();
    assert!(error.contains("3.0.0 is not in file://"), "{error}");
}

#[tokio::test]
async fn pointers_are_read_as_people_write_them_and_no_further() {
    let root = tempfile::tempdir().unwrap();
    let repository = open(root.path());
    let pointer = root.path().join("VERSION");
    for text in ["1.2.3", "1.2.3\n", "1.2.3\r\n", " 1.2.3 \n", "\u{feff}1.2.3\n"] {
        std::fs::write(&pointer, text).unwrap();
        assert_eq!(repository.channel("").await.unwrap(), v("1.2.3"), "{text:?}");
    }
    let megabytes = "1".repeat(3_000_000);
    for (text, words) in
        [("", "names no version"), ("latest", "names no version"), (&megabytes, "larger than")]
    {
        std::fs::write(&pointer, text).unwrap();
        let error = repository.channel("").await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_repository_that_is_not_there_is_named() {
    let repository = Repository::open("file:///nonexistent/packages").unwrap();
    for error in [
        repository.channel("").await.unwrap_err(),
        repository.manifest(&v("1.0.0")).await.unwrap_err(),
        repository.list().await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("/nonexistent/packages does not exist"), "{error}");
    }
    for url in ["http://example.com", "file://relative", "s3://bucket"] {
        assert!(Repository::open(url).unwrap_err().to_string().contains("file:///directory"));
    }
}

use std::path::Path;

use relmgr_model::Version;
use relmgr_model::manifest::Digest;
use relmgr_store::repository::{Fetch, Options, Publisher, Repository, RepositoryError};
use relmgr_store::storage::unseen;

use crate::place::{Place, build, current, noise, on_both, v, words};

async fn fetch(
    repository: &Repository,
    version: &Version,
    expected: Option<&Digest>,
    into: &Path,
) -> Result<Digest, RepositoryError> {
    repository.fetch_package(Fetch { version, expected, into, progress: unseen() }).await
}

on_both! {
    async fn a_release_is_published_listed_and_fetched(place: &Place) {
        let (out, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let repository = place.open();
        let error = repository.channel("").await.unwrap_err().to_string();
        assert!(error.contains("cargo relmgr publish"), "{error}");
        for version in ["1.0.0", "1.0.1"] {
            let release = build(out.path(), version, b"code");
            let published = repository.publish(&release, &Publisher::default()).await.unwrap();
            assert!(published.package_written && published.channel_set && !published.signed);
        }
        assert_eq!(current(&repository).await, v("1.0.1"));
        assert_eq!(place.read("VERSION"), b"1.0.1\n");
        assert_eq!(place.read("latest.tar.gz"), place.read("1.0.1.tar.gz"));
        let list = repository.list().await.unwrap();
        let seen: Vec<_> = list.iter().map(|release| (release.version.to_string(), release.channels.join(" "))).collect();
        assert_eq!(seen, [("1.0.1".to_owned(), "VERSION".to_owned()), ("1.0.0".to_owned(), String::new())]);

        let manifest = repository.manifest(&v("1.0.0"), None).await.unwrap().unwrap().manifest;
        let into = home.path().join("package");
        let expected = manifest.package.as_ref();
        let found = fetch(&repository, &v("1.0.0"), expected, &into).await.unwrap();
        assert_eq!(Some(&found), expected);
        assert_eq!(std::fs::read(&into).unwrap(), place.read("1.0.0.tar.gz"));
        // Nothing but what the layout names: no temporary file is left, here or there.
        assert_eq!(place.keys().join(" "), "1.0.0.tar.gz 1.0.0.toml 1.0.1.tar.gz 1.0.1.toml VERSION latest.tar.gz");
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
    }

    async fn a_large_package_is_written_and_read_in_parts(place: &Place) {
        let (out, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let repository = place.open();
        let release = build(out.path(), "1.0.0", &noise(20_000_000));
        repository.publish(&release, &Publisher::default()).await.unwrap();
        let into = home.path().join("package");
        let expected = release.manifest.package.as_ref().unwrap();
        let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = told.clone();
        let progress = std::sync::Arc::new(move |bytes, total| seen.lock().unwrap().push((bytes, total)));
        let fetch = Fetch { version: &v("1.0.0"), expected: Some(expected), into: &into, progress };
        assert_eq!(repository.fetch_package(fetch).await.unwrap(), *expected);
        let told = told.lock().unwrap();
        assert_eq!(told.iter().map(|(bytes, _)| *bytes).max(), Some(expected.size));
        assert!(told.len() > 10 && told.iter().all(|(_, total)| *total == Some(expected.size)));
    }

    async fn a_damaged_package_is_told_from_a_missing_one(place: &Place) {
        let (out, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let repository = place.open();
        repository.publish(&build(out.path(), "1.0.0", &noise(3000)), &Publisher::default()).await.unwrap();
        let digest = repository.manifest(&v("1.0.0"), None).await.unwrap().unwrap().manifest.package.unwrap();
        let whole = place.read("1.0.0.tar.gz");
        let mut flipped = whole.clone();
        flipped[20] ^= 1;
        let longer = [whole.clone(), vec![0; 10]].concat();
        let cases = [(whole[..30].to_vec(), "cut short"), (flipped, "SHA-256 differs"), (longer, "larger than")];
        let into = home.path().join("package");
        for (bytes, said) in cases {
            place.put("1.0.0.tar.gz", bytes);
            let error = fetch(&repository, &v("1.0.0"), Some(&digest), &into).await.unwrap_err().to_string();
            assert!(error.contains(said), "{said}: {error}");
            assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "{said}: a partial file is left");
        }
        let error = repository.manifest(&v("3.0.0"), None).await.unwrap_err().to_string();
        assert!(error.contains(&format!("3.0.0 is not in {}", place.url())), "{error}");
    }

    async fn pointers_are_read_as_people_write_them_and_no_further(place: &Place) {
        let repository = place.open();
        for text in ["1.2.3", "1.2.3\n", "1.2.3\r\n", " 1.2.3 \n", "\u{feff}1.2.3\n"] {
            place.put("VERSION", text);
            assert_eq!(current(&repository).await, v("1.2.3"), "{text:?}");
        }
        let megabytes = "1".repeat(3_000_000);
        for (text, said) in [("", "names no version"), ("latest", "names no version"), (&megabytes, "larger than")] {
            place.put("VERSION", text);
            let error = repository.channel("").await.unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    async fn a_manifest_is_bounded_and_of_the_version_that_was_asked_for(place: &Place) {
        let out = tempfile::tempdir().unwrap();
        let repository = place.open();
        for version in ["1.0.0", "1.0.1"] {
            repository.publish(&build(out.path(), version, b"code"), &Publisher::default()).await.unwrap();
        }
        let other = place.read("1.0.1.toml");
        let cases: [(Vec<u8>, &str); 4] = [
            (other.clone(), "is that of 1.0.1"),
            (vec![b'#'; 2_000_000], "larger than a manifest can be"),
            (b"\xff\xfe".to_vec(), "cannot be used"),
            (String::from_utf8(other).unwrap().replace("format = 1", "format = 7").into_bytes(), "format 7"),
        ];
        for (bytes, said) in cases {
            place.put("1.0.0.toml", bytes);
            let error = words(&repository.manifest(&v("1.0.0"), None).await.unwrap_err());
            assert!(error.contains(said), "{said}: {error}");
        }
    }

    async fn what_people_copy_there_by_hand_is_a_release(place: &Place) {
        let (out, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let release = build(out.path(), "1.0.0", b"code");
        let package = std::fs::read(&release.package).unwrap();
        place.put("1.0.0.tar.gz", &package);
        place.put("latest.tar.gz", &package);
        place.put("VERSION", "1.0.0");
        let repository = place.open();
        assert_eq!(current(&repository).await, v("1.0.0"));
        assert!(repository.manifest(&v("1.0.0"), None).await.unwrap().is_none(), "the one inside has to serve");
        let into = home.path().join("package");
        let found = fetch(&repository, &v("1.0.0"), None, &into).await.unwrap();
        assert_eq!(Some(found), release.manifest.package);
        assert_eq!(relmgr_store::package::read_manifest(&into).unwrap(), release.manifest.for_package());
    }

    async fn a_file_that_claims_gigabytes_is_not_read(place: &Place) {
        let home = tempfile::tempdir().unwrap();
        let size = (5 << 30) + 1;
        match place {
            Place::Directory(_) => std::fs::File::create(place.path("1.0.0.tar.gz")).unwrap().set_len(size).unwrap(),
            Place::S3(server) => server.claim("HEAD /packages/releases/1.0.0.tar.gz", size),
        }
        let repository = place.open();
        let into = home.path().join("package");
        let error = fetch(&repository, &v("1.0.0"), None, &into).await.unwrap_err();
        assert!(matches!(error, RepositoryError::Oversized { .. }), "{error}");
        // Sizes past 2 GiB are told as they are.
        let announced = Digest { size: size + 1, sha256: "0".repeat(64) };
        let error = fetch(&repository, &v("1.0.0"), Some(&announced), &into).await.unwrap_err();
        assert!(matches!(error, RepositoryError::Truncated { found, .. } if found == size), "{error}");
    }
}

#[tokio::test]
async fn a_repository_that_is_not_there_is_named() {
    let open = |url: &str| Repository::open(url, Options::default());
    let repository = open("file:///nonexistent/packages").unwrap();
    for error in [
        repository.channel("").await.unwrap_err(),
        repository.manifest(&v("1.0.0"), None).await.unwrap_err(),
        repository.list().await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("/nonexistent/packages does not exist"), "{error}");
    }
    for url in ["http://example.com", "file://relative", "s3://", "s3:///prefix"] {
        assert!(open(url).unwrap_err().to_string().contains("file:///directory"), "{url}");
    }
}

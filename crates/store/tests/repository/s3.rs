//! What only a server can do wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use relmgr_store::repository::{Fetch, Options, Publisher, Repository, RepositoryError};
use relmgr_store::storage::{S3Credentials, S3Options, unseen};
use relmgr_testkit::proxy::{Fault, FaultProxy};
use relmgr_testkit::s3::{ACCESS_KEY, SECRET_KEY};

use crate::place::{Place, build, current, noise, v, words};

fn elsewhere(endpoint: &str, secret: &str, url: &str) -> Repository {
    let s3 = S3Options {
        endpoint_url: Some(endpoint.into()),
        region: Some("us-east-1".into()),
        path_style: None,
        credentials: Some(S3Credentials { access_key: ACCESS_KEY.into(), secret_key: secret.into() }),
    };
    Repository::open(url, Options { s3, ..Options::default() }).unwrap()
}

#[tokio::test]
async fn what_the_server_refuses_is_told_with_its_remedy() {
    let place = Place::s3();
    let server = place.server();
    let cases = [
        (403, "AccessDenied", "s3:GetObject"),
        (400, "ExpiredToken", "renew"),
        (403, "RequestTimeTooSkewed", "clock"),
        (301, "PermanentRedirect", "repository.region"),
        (400, "AuthorizationHeaderMalformed", "repository.region"),
    ];
    let repository = place.open();
    for (status, code, said) in cases {
        server.answer("/VERSION", 1, status, code);
        let error = words(&repository.channel("").await.unwrap_err());
        assert!(error.contains(said), "{code}: {error}");
    }
    server.answer("/VERSION", 1, 404, "NoSuchBucket");
    let error = words(&repository.channel("").await.unwrap_err());
    assert!(error.contains("the bucket") && error.contains("does not exist"), "{error}");
    let error = words(&elsewhere(&server.endpoint(), "wrong", &server.url()).channel("").await.unwrap_err());
    assert!(error.contains("not accepted"), "{error}");
    for secret in [ACCESS_KEY, SECRET_KEY, "wrong"] {
        assert!(!error.contains(secret), "{error}");
    }
    assert!(!format!("{repository:?}").contains(SECRET_KEY));
}

#[tokio::test]
async fn a_server_in_trouble_is_asked_again() {
    let place = Place::s3();
    let out = tempfile::tempdir().unwrap();
    let repository = place.open();
    for (times, code) in [(2, "SlowDown"), (2, "InternalError")] {
        place.server().answer("", times, 503, code);
    }
    repository.publish(&build(out.path(), "1.0.0", b"code"), &Publisher::default()).await.unwrap();
    place.server().answer("VERSION", 2, 500, "InternalError");
    assert_eq!(current(&repository).await, v("1.0.0"));
    // For ever is too long.
    place.server().answer("VERSION", 100, 503, "SlowDown");
    let error = words(&repository.channel("").await.unwrap_err());
    assert!(error.contains("try again later"), "{error}");
}

#[tokio::test]
async fn nobody_there_no_name_and_no_secure_connection_are_told_apart() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let place = Place::s3();
    let plain = place.server().endpoint().replace("http:", "https:");
    let cases = [
        (format!("http://{free}"), "not reached"),
        ("http://nobody.invalid".to_owned(), "does not resolve"),
        (plain, "no secure connection"),
    ];
    for (endpoint, said) in cases {
        let error =
            words(&elsewhere(&endpoint, SECRET_KEY, "s3://packages/x").channel("").await.unwrap_err());
        assert!(error.contains(said), "{endpoint}: {error}");
    }
    let user = Options {
        s3: S3Options { endpoint_url: Some("http://user:secret@127.0.0.1".into()), ..S3Options::default() },
        ..Options::default()
    };
    let error = Repository::open("s3://packages", user).unwrap_err().to_string();
    assert!(!error.contains("secret"), "{error}");
}

#[tokio::test]
async fn an_interrupted_download_goes_on_where_it_was() {
    let place = Place::s3();
    let (out, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let release = build(out.path(), "1.0.0", &noise(40_000_000));
    place.open().publish(&release, &Publisher::default()).await.unwrap();
    let into = home.path().join("package");
    let expected = release.manifest.package.as_ref().unwrap();
    // Given up while it runs, as by a stop of the process.
    let (tell, told) = tokio::sync::oneshot::channel();
    let tell = std::sync::Mutex::new(Some(tell));
    let noted = home.path().join("package.ranges");
    let progress = Arc::new(move |_, _| {
        if noted.exists()
            && let Some(tell) = tell.lock().unwrap().take()
        {
            let _ = tell.send(());
        }
    });
    let version = v("1.0.0");
    let repository = place.open();
    tokio::select! {
        done = repository.fetch_package(Fetch { version: &version, expected: Some(expected), into: &into, progress }) => {
            panic!("it came to its end: {done:?}");
        }
        _ = told => {}
    }
    assert!(into.exists(), "what came is kept");
    // By what the second one says that it has: the server may hear of the first one's last requests later.
    let least = Arc::new(AtomicU64::new(u64::MAX));
    let seen = least.clone();
    let progress = Arc::new(move |done, _| {
        seen.fetch_min(done, Ordering::Relaxed);
    });
    let fetch = Fetch { version: &version, expected: Some(expected), into: &into, progress };
    assert_eq!(place.open().fetch_package(fetch).await.unwrap(), *expected);
    let least = least.load(Ordering::Relaxed);
    assert!(least > 8 << 20, "with {least} bytes it began anew: a range has 8 MiB");

    // Another object of the same name: nothing of the old one is kept.
    let fetch = Fetch { version: &version, expected: Some(expected), into: &into, progress: unseen() };
    assert!(place.open().fetch_package(fetch).await.is_ok(), "a whole file is simply fetched again");
}

#[tokio::test]
async fn a_server_that_ignores_conditions_is_read_back() {
    let place = Place::s3();
    place.server().ignore_conditions();
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let repository = place.open();
    repository.publish(&build(new.path(), "2.0.0", b"new"), &Publisher::default()).await.unwrap();
    let error =
        repository.publish(&build(old.path(), "2.0.0", b"old"), &Publisher::default()).await.unwrap_err();
    assert!(matches!(error, RepositoryError::Immutable { .. }), "{error}");
    let error =
        repository.publish(&build(old.path(), "1.0.0", b"old"), &Publisher::default()).await.unwrap_err();
    assert!(matches!(error, RepositoryError::PointerMoved { .. }), "{error}");
    let releases: Vec<_> =
        ["3.0.0", "3.0.1"].map(|version| build(new.path(), version, version.as_bytes())).into();
    let publisher = Publisher::default();
    let (a, b) = tokio::join!(
        repository.publish(&releases[0], &publisher),
        repository.publish(&releases[1], &publisher)
    );
    assert!(a.is_ok() || b.is_ok(), "{a:?} {b:?}");
    assert_eq!(repository.list().await.unwrap().len(), 4, "packages are whole: {:?}", place.keys());
}

#[tokio::test]
async fn conflicts_missing_keys_and_pointers_that_went_there_and_back() {
    let place = Place::s3();
    let out = tempfile::tempdir().unwrap();
    let repository = place.open();
    let publish = |version: &'static str| {
        let release = build(out.path(), version, version.as_bytes());
        let repository = repository.clone();
        async move { repository.publish(&release, &Publisher::default()).await }
    };
    publish("1.0.0").await.unwrap();
    // 409: two at once and none has won yet. It is asked again.
    place.server().answer("PUT /packages/releases/VERSION", 1, 409, "ConditionalRequestConflict");
    publish("1.0.1").await.unwrap();
    // 412: somebody else was faster. What they wrote is read, and the newer one wins.
    place.server().answer("PUT /packages/releases/VERSION", 1, 412, "PreconditionFailed");
    publish("1.0.2").await.unwrap();
    // 404: the pointer was removed in between. It is written anew.
    place.server().answer("PUT /packages/releases/VERSION", 1, 404, "NoSuchKey");
    publish("1.0.3").await.unwrap();
    assert_eq!(current(&repository).await, v("1.0.3"));
    // There and back again leaves the same tag; the next one is as good as ever.
    let back = Publisher { going_back: true, ..Publisher::default() };
    for version in ["1.0.0", "1.0.3"] {
        repository.promote(&v(version), "", &back).await.unwrap();
    }
    publish("1.0.4").await.unwrap();
    assert_eq!(current(&repository).await, v("1.0.4"));
}

#[tokio::test]
async fn broken_connections_are_gone_on_with_and_wrong_bytes_are_not_believed() {
    let place = Place::s3();
    let (out, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let release = build(out.path(), "1.0.0", &noise(3_000_000));
    place.open().publish(&release, &Publisher::default()).await.unwrap();
    let expected = release.manifest.package.as_ref().unwrap();
    let proxy = FaultProxy::start(place.server().address());
    let version = v("1.0.0");
    let into = home.path().join("package");
    let fetch = async || {
        let repository = elsewhere(&proxy.endpoint(), SECRET_KEY, &place.server().url());
        let fetch = Fetch { version: &version, expected: Some(expected), into: &into, progress: unseen() };
        repository.fetch_package(fetch).await
    };
    let passing = [
        vec![Fault::Reset(500_000), Fault::Reset(10), Fault::Reset(900_000)],
        vec![Fault::Close(300_000), Fault::Close(300_000)],
        vec![Fault::Endless(700_000)],
    ];
    for faults in passing {
        let (before, count) = (proxy.met(), faults.len());
        proxy.next(faults.clone());
        let fetched = fetch().await;
        match faults[0] {
            // HTTP ends the answer at its announced length; what stands in the place of its last part is seen.
            Fault::Endless(_) => assert!(matches!(fetched, Err(RepositoryError::Corrupted { .. }))),
            _ => assert_eq!(fetched.unwrap(), *expected, "{faults:?}"),
        }
        assert_eq!(proxy.met() - before, count, "{faults:?}");
    }
    proxy.next([Fault::Flip(600_000)]);
    let error = fetch().await.unwrap_err();
    assert!(matches!(error, RepositoryError::Corrupted { .. }), "{error}");
    assert!(!into.exists(), "what is wrong is not kept");
    assert_eq!(fetch().await.unwrap(), *expected);
}

#[tokio::test]
async fn a_fetch_that_drips_ends_at_its_deadline_and_is_gone_on_with() {
    let place = Place::s3();
    let (out, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let release = build(out.path(), "1.0.0", &noise(1_000_000));
    place.open().publish(&release, &Publisher::default()).await.unwrap();
    let expected = release.manifest.package.as_ref().unwrap();
    let proxy = FaultProxy::start(place.server().address());
    let s3 = S3Options {
        endpoint_url: Some(proxy.endpoint()),
        region: Some("us-east-1".into()),
        path_style: None,
        credentials: Some(S3Credentials { access_key: ACCESS_KEY.into(), secret_key: SECRET_KEY.into() }),
    };
    let options = Options { s3, timeout: std::time::Duration::from_secs(1), ..Options::default() };
    let repository = Repository::open(&place.server().url(), options).unwrap();
    let (version, into) = (v("1.0.0"), home.path().join("package"));
    for fault in [Fault::Drip(1000), Fault::Stall(100_000)] {
        proxy.next([fault]);
        let fetch = Fetch { version: &version, expected: Some(expected), into: &into, progress: unseen() };
        let error = repository.fetch_package(fetch).await.unwrap_err();
        assert!(matches!(error, RepositoryError::TimedOut { .. }), "{error}");
        assert!(into.exists(), "what came is kept");
    }
    proxy.next([]);
    let fetch = Fetch { version: &version, expected: Some(expected), into: &into, progress: unseen() };
    assert_eq!(place.open().fetch_package(fetch).await.unwrap(), *expected);
}

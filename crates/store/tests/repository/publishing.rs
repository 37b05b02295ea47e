use relmgr_store::repository::{Publisher, RepositoryError};

use crate::place::{Key, Place, build, current, on_both, signing, v};

on_both! {
    async fn publishing_again_completes_and_never_overwrites(place: &Place) {
        let out = tempfile::tempdir().unwrap();
        let key = Key::new();
        let repository = place.open_trusting(&[&key]);
        let release = build(out.path(), "1.0.0", b"code");
        repository.publish(&release, &signing(&key)).await.unwrap();
        // As a death after each step leaves it.
        let steps = ["VERSION", "channels/default.toml.minisig", "channels/default.toml", "latest.tar.gz", "1.0.0.toml.minisig", "1.0.0.toml"];
        for (done, _) in steps.iter().enumerate() {
            for key in &steps[..=done] {
                place.remove(key);
            }
            let again = repository.publish(&release, &signing(&key)).await.unwrap();
            assert!(!again.package_written, "{done}");
            assert_eq!(current(&repository).await, v("1.0.0"));
            for key in steps {
                assert!(place.path(key).exists(), "{done}: {key}");
            }
        }
        let other = tempfile::tempdir().unwrap();
        let before = place.read("1.0.0.tar.gz");
        let error = repository.publish(&build(other.path(), "1.0.0", b"other"), &signing(&key)).await.unwrap_err();
        assert!(error.to_string().contains("never overwritten"), "{error}");
        assert_eq!(place.read("1.0.0.tar.gz"), before);
    }

    async fn of_two_publishers_one_pointer_wins_and_the_loser_is_told(place: &Place) {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let repository = place.open();
        let publisher = Publisher::default();
        repository.publish(&build(new.path(), "2.0.0", b"new"), &publisher).await.unwrap();
        let error = repository.publish(&build(old.path(), "1.0.0", b"old"), &publisher).await.unwrap_err().to_string();
        assert!(error.contains("2.0.0") && error.contains("pointer is left"), "{error}");
        assert_eq!(current(&repository).await, v("2.0.0"));
        assert_eq!(repository.list().await.unwrap().len(), 2, "both packages are whole");
        let back = Publisher { going_back: true, ..Publisher::default() };
        repository.promote(&v("1.0.0"), "", &back).await.unwrap();
        assert_eq!(current(&repository).await, v("1.0.0"), "back on purpose");
        assert_eq!(place.read("latest.tar.gz"), place.read("1.0.0.tar.gz"));
    }

    async fn at_the_same_instant_the_newest_wins(place: &Place) {
        let key = Key::new();
        let outs: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
        let releases: Vec<_> = outs.iter().enumerate().map(|(n, out)| build(out.path(), &format!("1.0.{n}"), &[n as u8; 500])).collect();
        let repository = place.open_trusting(&[&key]);
        let publisher = signing(&key);
        let publishing = releases.iter().map(|release| repository.publish(release, &publisher));
        let mut told = 0;
        for (n, result) in futures_util::future::join_all(publishing).await.into_iter().enumerate() {
            match result {
                Ok(published) => assert!(published.channel_set),
                Err(RepositoryError::PointerMoved { .. } | RepositoryError::PointerRaced { .. }) => told += 1,
                Err(error) => panic!("{n}: {error}"),
            }
        }
        let list = repository.list().await.unwrap();
        assert_eq!(list.len(), 4, "every package is whole");
        let named = current(&repository).await;
        assert!(told < 4 && list.iter().any(|release| release.version == named));
        // Whoever lost may try again: the newest is never overtaken by an older one.
        let again = repository.publish(&releases[3], &publisher).await.unwrap();
        assert!(again.channel_set);
        assert_eq!(current(&repository).await, v("1.0.3"));
        let findings = repository.verify(|_| ()).await.unwrap();
        assert!(findings.iter().all(|finding| finding.fault.is_none()), "{findings:?}");
        assert_eq!(place.read("latest.tar.gz"), place.read("1.0.3.tar.gz"));
        assert_eq!(place.read("VERSION"), b"1.0.3\n");
    }

    async fn channels_are_promoted_without_a_build(place: &Place) {
        let out = tempfile::tempdir().unwrap();
        let repository = place.open();
        let staging = Publisher { to: Some("staging"), ..Publisher::default() };
        repository.publish(&build(out.path(), "1.0.0", b"code"), &staging).await.unwrap();
        assert!(repository.channel("").await.is_err(), "production has not heard of it");
        assert!(matches!(repository.channel("staging").await.unwrap(), relmgr_store::repository::Pointer::Plain(version) if version == v("1.0.0")));
        repository.promote(&v("1.0.0"), "", &Publisher::default()).await.unwrap();
        assert_eq!(current(&repository).await, v("1.0.0"));
        let list = repository.list().await.unwrap();
        assert_eq!(list[0].channels, ["VERSION", "staging"]);
        for (version, channel, words) in [("9.0.0", "", "is not in"), ("1.0.0", "../up", "cannot name a channel")] {
            let error = repository.promote(&v(version), channel, &Publisher::default()).await.unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    async fn what_no_channel_names_is_collected(place: &Place) {
        let out = tempfile::tempdir().unwrap();
        let key = Key::new();
        let repository = place.open_trusting(&[&key]);
        for n in 0..5 {
            repository.publish(&build(out.path(), &format!("1.0.{n}"), &[n; 100]), &signing(&key)).await.unwrap();
        }
        let staging = Publisher { to: Some("staging"), ..signing(&key) };
        repository.promote(&v("1.0.1"), "staging", &staging).await.unwrap();
        // A release whose package is gone, as an interrupted collection leaves it.
        place.remove("1.0.0.tar.gz");
        let told = repository.collect(2, true).await.unwrap();
        assert_eq!(told.versions, [v("1.0.2")]);
        assert_eq!(told.strays, ["1.0.0.toml", "1.0.0.toml.minisig"]);
        assert!(place.path("1.0.2.tar.gz").exists(), "a dry run removes nothing");
        assert_eq!(repository.collect(2, false).await.unwrap().versions, told.versions);
        let left: Vec<_> = repository.list().await.unwrap().into_iter().map(|release| release.version).collect();
        assert_eq!(left, [v("1.0.4"), v("1.0.3"), v("1.0.1")]);
        assert!(!place.keys().iter().any(|key| key.starts_with("1.0.0") || key.starts_with("1.0.2")), "{:?}", place.keys());
        let findings = repository.verify(|_| ()).await.unwrap();
        assert!(findings.iter().all(|finding| finding.fault.is_none()), "{findings:?}");
    }

    async fn a_delta_is_published_with_the_release_that_it_makes(place: &Place) {
        let (out, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let key = Key::new();
        let node = place.open_trusting(&[&key]);
        let mut content = crate::place::noise(300_000);
        node.publish(&build(out.path(), "1.0.0", &content), &signing(&key)).await.unwrap();
        content[1000] ^= 1;
        let release = build(out.path(), "1.0.1", &content);
        let published = node.publish(&release, &signing(&key)).await.unwrap();
        assert_eq!(published.deltas.keys().cloned().collect::<Vec<_>>(), [v("1.0.0")]);
        assert!(published.deltas[&v("1.0.0")] * 20 < release.manifest.package.as_ref().unwrap().size);
        let verified = node.manifest(&v("1.0.1"), None).await.unwrap().unwrap().manifest;
        let into = home.path().join("delta");
        let version = v("1.0.1");
        let fetch = relmgr_store::repository::Fetch {
            version: &version,
            expected: verified.deltas.get(&v("1.0.0")),
            into: &into,
            progress: relmgr_store::storage::unseen(),
        };
        node.fetch_delta(&v("1.0.0"), fetch).await.unwrap();
        // The same again is the same, though the channel names another release by now.
        assert_eq!(node.publish(&release, &signing(&key)).await.unwrap().deltas, published.deltas);
        // What has nothing in common has no delta.
        let other: Vec<u8> = crate::place::noise(500_000).split_off(300_000);
        let published = node.publish(&build(out.path(), "1.0.2", &other), &signing(&key)).await.unwrap();
        assert!(published.deltas.is_empty() && published.delta_fault.is_none());
        // An altered delta is found.
        let mut delta = place.read("1.0.0_1.0.1.delta");
        delta[700] ^= 1;
        place.put("1.0.0_1.0.1.delta", delta);
        let findings = node.verify(|_| ()).await.unwrap();
        let faults: Vec<_> = findings.iter().filter(|finding| finding.fault.is_some()).map(|finding| finding.what.as_str()).collect();
        assert_eq!(faults, ["1.0.1"]);
    }
}

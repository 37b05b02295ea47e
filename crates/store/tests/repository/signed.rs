//! Who vouches for what, and the attacks that The Update Framework names.

use chrono::{TimeDelta, Utc};
use relmgr_model::channel::{Reader, Seen, Unfit, judge};
use relmgr_store::repository::{ChannelChange, Pointer, Publisher, Repository, RepositoryError};
use relmgr_store::signature::Signer;

use crate::place::{Key, Place, build, build_of, current, on_both, signing, v, words};

/// What a node of the application `app` that trusts `keys` makes of the channel.
async fn follow(repository: &Repository, name: &str, seen: Option<&Seen>) -> Result<Seen, Unfit> {
    let Pointer::Signed { document, sha256, key } = repository.channel(name).await.unwrap() else {
        panic!("nobody was asked to sign");
    };
    let trusted: Vec<_> = repository.trust().channel.iter().map(|key| key.text().to_owned()).collect();
    let channel = if name.is_empty() { "default" } else { name };
    judge(
        &document,
        &sha256,
        &key,
        &Reader { application: "app", channel, now: Utc::now(), seen, trusted: &trusted },
    )
}

on_both! {
    async fn a_signed_release_is_believed_and_nothing_else(place: &Place) {
        let out = tempfile::tempdir().unwrap();
        let (key, stranger) = (Key::new(), Key::new());
        let publisher = place.open();
        publisher.publish(&build(out.path(), "1.0.0", b"code"), &signing(&key)).await.unwrap();
        let node = place.open_trusting(&[&stranger, &key]);
        let verified = node.manifest(&v("1.0.0"), None).await.unwrap().unwrap();
        assert_eq!(verified.key.as_deref(), Some(key.public.text()), "several keys may be trusted at once");
        assert_eq!(current(&node).await, v("1.0.0"));

        // Signed by somebody else.
        let other = place.open_trusting(&[&stranger]);
        for error in [other.manifest(&v("1.0.0"), None).await.unwrap_err(), other.channel("").await.unwrap_err()] {
            assert!(words(&error).contains("not trusted"), "{}", words(&error));
        }
        // Not signed at all.
        publisher.publish(&build(out.path(), "1.0.1", b"code"), &Publisher { to: None, ..Publisher::default() }).await.unwrap();
        let error = node.manifest(&v("1.0.1"), None).await.unwrap_err();
        assert!(matches!(error, RepositoryError::Unsigned { .. }), "{error}");
        // A package without a manifest: the one inside is nobody's word.
        place.put("1.0.2.tar.gz", place.read("1.0.0.tar.gz"));
        let error = node.manifest(&v("1.0.2"), None).await.unwrap_err();
        assert!(matches!(error, RepositoryError::Unsigned { .. }), "{error}");
    }

    async fn every_altered_byte_class_is_refused(place: &Place) {
        let out = tempfile::tempdir().unwrap();
        let key = Key::new();
        let node = place.open_trusting(&[&key]);
        node.publish(&build(out.path(), "1.0.0", b"code"), &signing(&key)).await.unwrap();
        for object in ["1.0.0.toml", "1.0.0.toml.minisig"] {
            let whole = place.read(object);
            // Past the untrusted comment, which says nothing.
            let start = if object.ends_with("minisig") { whole.iter().position(|b| *b == b'\n').unwrap() + 1 } else { 0 };
            for at in (start..whole.len() - 1).step_by(7) {
                let mut bytes = whole.clone();
                bytes[at] ^= 1;
                place.put(object, &bytes);
                assert!(node.manifest(&v("1.0.0"), None).await.is_err(), "{object} at {at}");
            }
            place.put(object, &whole);
        }
        node.manifest(&v("1.0.0"), None).await.unwrap();
        for object in ["channels/default.toml", "channels/default.toml.minisig"] {
            let whole = place.read(object);
            let start = if object.ends_with("minisig") { whole.iter().position(|b| *b == b'\n').unwrap() + 1 } else { 0 };
            for at in (start..whole.len() - 1).step_by(7) {
                let mut bytes = whole.clone();
                bytes[at] ^= 1;
                place.put(object, &bytes);
                // The document of the signature's serial serves in place of an altered one: it is the same.
                if let Ok(Pointer::Signed { document, .. }) = node.channel("").await {
                    assert_eq!((object, document.version), ("channels/default.toml", v("1.0.0")), "at {at}");
                }
            }
            place.put(object, &whole);
        }
    }

    async fn a_pointer_file_leads_nobody_who_trusts_keys(place: &Place) {
        let out = tempfile::tempdir().unwrap();
        let key = Key::new();
        let node = place.open_trusting(&[&key]);
        for version in ["1.0.0", "1.0.1"] {
            node.publish(&build(out.path(), version, b"code"), &signing(&key)).await.unwrap();
        }
        place.put("VERSION", "1.0.0\n");
        assert_eq!(current(&node).await, v("1.0.1"));
        assert_eq!(current(&place.open()).await, v("1.0.0"), "people's scripts read the file");
    }

    async fn rollback_freeze_and_fast_forward_are_refused(place: &Place) {
        let out = tempfile::tempdir().unwrap();
        let key = Key::new();
        let node = place.open_trusting(&[&key]);
        node.publish(&build(out.path(), "1.0.0", b"code"), &signing(&key)).await.unwrap();
        let old: Vec<_> = ["channels/default.toml", "channels/default.toml.minisig"].map(|key| (key, place.read(key))).into();
        let first = follow(&node, "", None).await.unwrap();
        node.publish(&build(out.path(), "1.0.1", b"code"), &signing(&key)).await.unwrap();
        let second = follow(&node, "", Some(&first)).await.unwrap();
        assert!(second.serial > first.serial);
        let new: Vec<_> = old.iter().map(|(key, _)| (*key, place.read(key))).collect();
        // Rollback: the old document, validly signed.
        old.iter().for_each(|(key, bytes)| place.put(key, bytes));
        assert!(matches!(follow(&node, "", Some(&second)).await, Err(Unfit::Older { .. })));
        // The next good one is accepted: what was refused has left no trace.
        new.iter().for_each(|(key, bytes)| place.put(key, bytes));
        assert_eq!(follow(&node, "", Some(&second)).await.unwrap(), second);

        // Freeze: a node that is shown the same for ever stops believing it. A freshly booted one as well.
        let short = Publisher { lifetime: Some(TimeDelta::zero()), ..signing(&key) };
        node.promote(&v("1.0.1"), "", &short).await.unwrap();
        assert!(matches!(follow(&node, "", None).await, Err(Unfit::Expired { .. })));

        // Fast-forward: whoever has the key for a moment cannot lock the node out of what follows.
        let ahead = Publisher { now: Utc::now() + TimeDelta::days(1000), ..signing(&key) };
        node.promote(&v("1.0.1"), "", &ahead).await.unwrap();
        assert!(matches!(follow(&node, "", Some(&second)).await, Err(Unfit::Ahead { what: "serial", .. })));
        let far = Publisher { to: Some("far"), ..signing(&key) };
        node.publish(&build(out.path(), "9999.1231.0", b"code"), &far).await.unwrap();
        assert!(matches!(follow(&node, "far", None).await, Err(Unfit::Ahead { what: "version", .. })));
    }

    async fn nothing_is_mixed_and_matched(place: &Place) {
        let out = tempfile::tempdir().unwrap();
        let key = Key::new();
        let node = place.open_trusting(&[&key]);
        node.publish(&build(out.path(), "1.0.0", b"code"), &signing(&key)).await.unwrap();
        let staging = Publisher { to: Some("staging"), ..signing(&key) };
        node.publish(&build(out.path(), "1.0.1", b"other"), &staging).await.unwrap();
        // Staging's document as production's.
        for ending in ["toml", "toml.minisig"] {
            place.put(&format!("channels/default.{ending}"), place.read(&format!("channels/staging.{ending}")));
        }
        assert!(matches!(follow(&node, "", None).await, Err(Unfit::Channel { .. })));
        // One release's manifest and signature as another's.
        for ending in ["toml", "toml.minisig"] {
            place.put(&format!("1.0.0.{ending}"), place.read(&format!("1.0.1.{ending}")));
        }
        let error = node.manifest(&v("1.0.0"), None).await.unwrap_err();
        assert!(matches!(error, RepositoryError::InnerVersion { .. }), "{error}");
        // A validly signed manifest that is not the one that the channel names.
        let error = node.manifest(&v("1.0.1"), Some(&"0".repeat(64))).await.unwrap_err();
        assert!(matches!(error, RepositoryError::OtherManifest { .. }), "{error}");
        // A channel's signature on a manifest.
        let text = place.read("1.0.1.toml");
        place.put("1.0.1.toml.minisig", key.sign(&text, "relmgr channel app default 1").unwrap());
        let error = words(&node.manifest(&v("1.0.1"), None).await.unwrap_err());
        assert!(error.contains("signed as `relmgr channel"), "{error}");
    }

    async fn another_applications_documents_are_refused(place: &Place) {
        let out = tempfile::tempdir().unwrap();
        let key = Key::new();
        let node = place.open_trusting(&[&key]);
        node.publish(&build_of("other", out.path(), "1.0.0", b"code"), &signing(&key)).await.unwrap();
        assert!(matches!(follow(&node, "", None).await, Err(Unfit::Application { .. })));
    }

    async fn keys_are_rotated_and_revoked(place: &Place) {
        let out = tempfile::tempdir().unwrap();
        let (old, new) = (Key::new(), Key::new());
        place.open().publish(&build(out.path(), "1.0.0", b"code"), &signing(&old)).await.unwrap();
        let node = place.open_trusting(&[&old]);
        let seen = follow(&node, "", None).await.unwrap();
        // Both are trusted while the publisher changes over; the new key signs what was published before, too.
        let both = place.open_trusting(&[&old, &new]);
        both.publish(&build(out.path(), "1.0.1", b"code"), &signing(&new)).await.unwrap();
        let seen = follow(&both, "", Some(&seen)).await.unwrap();
        assert_eq!(seen.key, new.public.text());
        both.publish(&BuiltAgain::of(out.path(), "1.0.0"), &Publisher { to: None, ..signing(&new) }).await.unwrap();
        let after = place.open_trusting(&[&new]);
        for version in ["1.0.0", "1.0.1"] {
            after.manifest(&v(version), None).await.unwrap();
        }
        // The new one is stolen and pushes the serial ahead; revoked, it has said nothing.
        let pushed = Seen { serial: seen.serial + 80_000, ..seen };
        let third = Key::new();
        let rescued = place.open_trusting(&[&third, &new]);
        rescued.change_channel("app", "default", &ChannelChange::default(), &third, Utc::now()).await.unwrap();
        let only_third = place.open_trusting(&[&third]);
        assert!(follow(&only_third, "", Some(&pushed)).await.is_ok());
        assert!(matches!(follow(&rescued, "", Some(&pushed)).await, Err(Unfit::Older { .. })));
    }

    async fn a_reader_between_document_and_signature_sees_the_old_release(place: &Place) {
        let out = tempfile::tempdir().unwrap();
        let key = Key::new();
        let node = place.open_trusting(&[&key]);
        node.publish(&build(out.path(), "1.0.0", b"code"), &signing(&key)).await.unwrap();
        let signature = place.read("channels/default.toml.minisig");
        node.publish(&build(out.path(), "1.0.1", b"code"), &signing(&key)).await.unwrap();
        // As a publisher leaves it that dies before the signature.
        place.put("channels/default.toml.minisig", signature);
        assert_eq!(current(&node).await, v("1.0.0"));
        let again = node.publish(&BuiltAgain::of(out.path(), "1.0.1"), &signing(&key)).await.unwrap();
        assert!(again.channel_set && !again.package_written);
        assert_eq!(current(&node).await, v("1.0.1"));
    }

    async fn a_signed_channel_stays_signed(place: &Place) {
        let out = tempfile::tempdir().unwrap();
        let key = Key::new();
        let repository = place.open();
        repository.publish(&build(out.path(), "1.0.0", b"code"), &signing(&key)).await.unwrap();
        let error = repository.publish(&build(out.path(), "1.0.1", b"code"), &Publisher::default()).await.unwrap_err();
        assert!(matches!(error, RepositoryError::ChannelSigned { .. }), "{error}");
        assert_eq!(place.read("VERSION"), b"1.0.0\n");
    }

    async fn withdrawn_releases_are_refused_and_the_mark_cannot_be_taken_away(place: &Place) {
        let out = tempfile::tempdir().unwrap();
        let key = Key::new();
        let node = place.open_trusting(&[&key]);
        for version in ["1.0.0", "1.0.1"] {
            node.publish(&build(out.path(), version, b"code"), &signing(&key)).await.unwrap();
        }
        let error = node.yank(&v("1.0.1"), "loses votes", &signing(&key)).await.unwrap_err();
        assert!(matches!(error, RepositoryError::InUse { .. }), "{error}");
        assert_eq!(node.yank(&v("1.0.0"), "loses votes", &signing(&key)).await.unwrap(), ["default"]);
        let error = node.manifest(&v("1.0.0"), None).await.unwrap_err().to_string();
        assert!(error.contains("loses votes"), "{error}");
        assert_eq!(node.list().await.unwrap()[1].yanked.as_deref(), Some("loses votes"));
        place.remove("1.0.0.yanked");
        let seen = follow(&node, "", None).await.unwrap();
        assert!(matches!(seen.allows(&v("1.0.0")), Err(Unfit::Yanked { .. })));
        assert!(seen.allows(&v("1.0.1")).is_ok());
    }

    async fn a_channel_is_renewed_with_a_floor(place: &Place) {
        let out = tempfile::tempdir().unwrap();
        let key = Key::new();
        let node = place.open_trusting(&[&key]);
        let renew = ChannelChange { min_version: Some(v("1.0.0")), lifetime: Some(TimeDelta::days(5)), ..ChannelChange::default() };
        let error = node.change_channel("app", "default", &renew, &key, Utc::now()).await.unwrap_err();
        assert!(matches!(error, RepositoryError::NoDocument { .. }), "{error}");
        node.publish(&build(out.path(), "1.0.0", b"code"), &signing(&key)).await.unwrap();
        let first = follow(&node, "", None).await.unwrap();
        let document = node.change_channel("app", "default", &renew, &key, Utc::now()).await.unwrap();
        assert_eq!(document.version, v("1.0.0"));
        assert!(document.serial > first.serial && document.expires < first.expires);
        let seen = follow(&node, "", Some(&first)).await.unwrap();
        assert!(matches!(seen.allows(&v("0.9.0")), Err(Unfit::BelowMinimum { .. })));
    }

    async fn what_is_wrong_is_found_by_verify(place: &Place) {
        let out = tempfile::tempdir().unwrap();
        let key = Key::new();
        let node = place.open_trusting(&[&key]);
        for version in ["1.0.0", "1.0.1", "1.0.2"] {
            node.publish(&build(out.path(), version, b"some code"), &signing(&key)).await.unwrap();
        }
        let mut package = place.read("1.0.0.tar.gz");
        package[20] ^= 1;
        place.put("1.0.0.tar.gz", package);
        place.remove("1.0.1.toml.minisig");
        let mut seen = 0;
        let findings = node.verify(|_| seen += 1).await.unwrap();
        assert_eq!(seen, findings.len());
        let faults: Vec<_> = findings.iter().filter_map(|finding| finding.fault.as_ref().map(|_| finding.what.as_str())).collect();
        assert_eq!(faults, ["1.0.1", "1.0.0"]);
    }
}

/// What was built before, read again.
struct BuiltAgain;

impl BuiltAgain {
    fn of(out: &std::path::Path, version: &str) -> relmgr_store::repository::BuiltRelease {
        std::fs::write(out.join("VERSION"), version).unwrap();
        relmgr_store::repository::BuiltRelease::read(out).unwrap()
    }
}

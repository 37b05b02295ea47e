//! Retired releases are really gone, and what cannot go is named.

use relmgr_model::control::GenerationState;

use crate::client::{Load, get};
use relmgr_testkit::kit::{Node, release, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_upgrades_under_load_leave_one_library_and_little_memory() {
    let (one, two) = (release("faulty", "", "1.0.0"), release("faulty", "second", "1.0.1"));
    let node = Node::serving("relmgr-faulty", "", &[&one, &two]);
    let load = Load::start(node.address(), "/", 4);
    let round = || {
        node.relmgr(&["upgrade", "1.0.1"]).ok();
        node.relmgr(&["downgrade"]).ok();
    };
    (0..10).for_each(|_| round());
    let after_some = node.resident_kib();
    (0..40).for_each(|_| round());
    let seen = load.stop().await;
    assert!(seen.failures.is_empty(), "{:?}", seen.failures);
    assert_eq!(node.mapped().len(), 1, "{:?}", node.mapped());
    assert_eq!(node.status().generations.len(), 1);
    let grown = node.resident_kib().saturating_sub(after_some);
    assert!(grown < 4 * 1024, "80 upgrades took {grown} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_that_does_not_end_pins_its_release_and_is_named_until_it_ends() {
    let (leaking, good) = (release("faulty", "leaks-thread", "1.0.0"), release("faulty", "", "1.0.1"));
    let mut node = Node::new("relmgr-faulty", "");
    let release_file = node.home().join("release-thread");
    node.publish(&leaking);
    node.publish(&good);
    node.start_with(&[("RELMGR_TEST_RELEASE_THREAD", release_file.to_str().unwrap())]);
    node.relmgr(&["upgrade", "1.0.0"]).ok();
    let done = node.relmgr(&["upgrade", "1.0.1"]).ok();
    assert!(done.stderr.contains("1.0.0 is still in memory") && done.stderr.contains("leaked"), "{done:?}");
    let status = node.status();
    let pinned = status.generations.iter().find(|generation| generation.state == GenerationState::Pinned);
    let pinned = pinned.expect("the generation is named");
    assert_eq!((pinned.version.to_string().as_str(), pinned.threads), ("1.0.0", 1));
    assert!(pinned.reasons.iter().any(|reason| reason.contains("(leaked), which it started, still runs")));
    let text = node.relmgr(&["status"]).ok().stdout;
    assert!(text.contains("pinned") && text.contains("leaked"), "{text}");
    assert_eq!(node.mapped().len(), 2);
    assert_eq!(get(node.address(), "/").await, (200, "1.0.1".into()));
    // A second copy of what is still mapped is refused, not mixed up with it.
    node.relmgr(&["downgrade"]).failed(1, &["still mapped by an earlier generation", "relmgr restart"]);
    std::fs::write(release_file, "").unwrap();
    wait_for("the release is unmapped", || (node.status().generations.len() == 1).then_some(()));
    assert_eq!(node.mapped().len(), 1);
    node.relmgr(&["downgrade", "--retry"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_outlast_the_drain_are_cut_and_counted() {
    let (one, two) = (release("faulty", "", "1.0.0"), release("faulty", "second", "1.0.1"));
    let node = Node::serving("relmgr-faulty", "[upgrade]\ndrain = \"100ms\"\n", &[&one, &two]);
    let address = node.address();
    let waiting =
        tokio::spawn(async move { crate::client::Connection::open(address).await.get("/wait").await });
    wait_for("a request waits", || (node.status().generations[0].in_flight == 1).then_some(()));
    let done =
        tokio::task::spawn_blocking(move || (node.relmgr(&["upgrade", "1.0.1"]).ok(), node)).await.unwrap();
    let (done, node) = done;
    assert!(done.stderr.contains("1 requests on 1.0.0 were cut at the drain deadline"), "{done:?}");
    let (status, body) = waiting.await.unwrap().unwrap();
    assert_eq!(status, 503, "{body}");
    assert_eq!(node.mapped().len(), 1, "{:?}", node.status());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_finish_on_the_release_that_began_them() {
    let (one, two) = (release("faulty", "", "1.0.0"), release("faulty", "second", "1.0.1"));
    let node = Node::serving("relmgr-faulty", "", &[&one, &two]);
    let address = node.address();
    let blocked = tokio::spawn(async move { get(address, "/block").await });
    wait_for("a request is in flight", || (node.status().generations[0].in_flight == 1).then_some(()));
    let done =
        tokio::task::spawn_blocking(move || (node.relmgr(&["upgrade", "1.0.1"]).ok(), node)).await.unwrap();
    assert_eq!(blocked.await.unwrap().0, 200);
    assert!(!done.0.stderr.contains("cut"), "{:?}", done.0);
    assert_eq!(done.1.mapped().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn unloading_can_be_switched_off() {
    let (one, two) = (release("faulty", "", "1.0.0"), release("faulty", "second", "1.0.1"));
    let node = Node::serving("relmgr-faulty", "[loader]\nunload = \"never\"\n", &[&one, &two]);
    let done = node.relmgr(&["upgrade", "1.0.1"]).ok();
    assert!(done.stderr.contains("loader.unload"), "{done:?}");
    assert_eq!(node.mapped().len(), 2);
}

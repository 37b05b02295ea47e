//! Retired releases are really gone, and what cannot go is named.

use relmgr_model::control::GenerationState;

use tokio::io::AsyncWriteExt as _;

use crate::client::{Load, get};
use relmgr_testkit::kit::{Done, Node, node_that_blocks, release, wait_for};
use relmgr_testkit::load;

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
async fn a_host_that_holds_too_much_makes_room_without_a_failed_request() {
    let (leaking, good) = (release("faulty", "leaks-thread", "1.0.0"), release("faulty", "", "1.0.1"));
    let mut node = Node::new("relmgr-faulty", "[loader]\nmax_unretired = 0\n");
    let never = node.home().join("never");
    node.publish(&leaking);
    node.publish(&good);
    node.start_with(&[("RELMGR_TEST_RELEASE_THREAD", never.to_str().unwrap())]);
    node.relmgr(&["upgrade", "1.0.0"]).ok();
    let before = node.host_pid();
    // Clients that open another connection when the end of theirs was announced.
    let load = load::Load::start(node.address(), &[load::Request::get("/")], 4);
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    let history = wait_for("another host has taken over", || {
        let history = node.relmgr(&["history", "--json"]).ok().json();
        (history.as_array().unwrap().last().unwrap()["kind"] == "restart").then_some(history)
    });
    let seen = load.stop();
    assert_eq!(seen.failures(), 0, "{}", seen.failures_by_kind());
    assert_ne!(node.host_pid(), before);
    assert_eq!(node.mapped().len(), 1, "{:?}", node.mapped());
    let entry = history.as_array().unwrap().last().unwrap();
    assert_eq!(
        (&entry["outcome"], &entry["uid"], &entry["to"]),
        (&"done".into(), &().into(), &"1.0.1".into())
    );
    let words = "1 release could not be unmapped (loader.max_unretired = 0)";
    assert_eq!(entry["verdict"], words);
    for told in [node.relmgr(&["status"]).ok().stdout, node.relmgr(&["history"]).ok().stdout, node.log()] {
        assert!(told.contains(words), "{told}");
    }
    assert_eq!(node.status().host_restarts, 0, "nobody died");
    // What serves now leaves nothing, so nothing is done again: a switch is one in the same host again.
    let host = node.host_pid();
    node.relmgr(&["downgrade"]).ok();
    assert_eq!(node.host_pid(), host);
}

/// A node on which 1.0.1 leaves something behind.
fn node_with_remains(leaves: &str) -> Node {
    let mut node = Node::new("relmgr-faulty", "");
    node.publish(&release("faulty", "", "1.0.0"));
    node.publish(&release("faulty", "shows-late", "1.0.1"));
    node.start_with(&[("RELMGR_TEST_LEAVES", leaves)]);
    node.relmgr(&["upgrade", "1.0.0"]).ok();
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stray_pointer_into_a_release_that_is_gone_is_named_in_the_last_words() {
    let place = tempfile::tempdir().unwrap();
    let pointer = place.path().join("pointer");
    let node = node_with_remains(pointer.to_str().unwrap());
    // While it is mapped nothing happens.
    assert_eq!(get(node.address(), "/jump").await.0, 200);
    node.relmgr(&["downgrade"]).ok();
    assert_eq!(node.mapped().len(), 1);
    let host = node.host_pid();
    // Its connection goes with the host.
    let _ = crate::client::Connection::open(node.address()).await.get("/jump").await;
    assert_eq!(get(node.address(), "/").await, (200, "1.0.0".into()));
    assert_ne!(node.host_pid(), host);
    let shown = wait_for("its end is told", || {
        let shown = node.relmgr(&["history", "show"]).ok().stdout;
        shown.contains("the host died of signal 11 SIGSEGV").then_some(shown)
    });
    assert!(shown.contains("a stray pointer led into 1.0.1, which has been unmapped"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_handler_pins_its_release_and_is_named() {
    let node = node_with_remains("a signal handler");
    let done = node.relmgr(&["downgrade"]).ok();
    let words = "the handlers of signals [12] lie in it";
    assert!(done.stderr.contains("1.0.1 is still in memory") && done.stderr.contains(words), "{done:?}");
    let status = node.status();
    let pinned = status.generations.iter().find(|generation| generation.state == GenerationState::Pinned);
    assert_eq!(pinned.expect("it is named").reasons, [words]);
    // What the handler is for may still come: it is met by code that is there.
    nix::sys::signal::kill(node.host_pid(), nix::sys::signal::Signal::SIGUSR2).unwrap();
    assert_eq!(get(node.address(), "/").await, (200, "1.0.0".into()));
    assert_eq!(node.status().host_restarts, 0);
    node.relmgr(&["restart"]).ok();
    assert_eq!(node.mapped().len(), 1);
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
    let (node, go) = node_that_blocks("", &[&one, &two]);
    let address = node.address();
    let blocked = tokio::spawn(async move { get(address, "/block").await });
    wait_for("a request is in flight", || (node.status().generations[0].in_flight == 1).then_some(()));
    let upgrade = node.command(&["upgrade", "1.0.1"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait_for("the new release serves", || (node.current().as_deref() == Some("1.0.1")).then_some(()));
    assert!(!blocked.is_finished(), "it is with the release that began it");
    std::fs::write(go, "").unwrap();
    assert_eq!(blocked.await.unwrap().0, 200);
    let done = Done::from(upgrade.wait_with_output().unwrap()).ok();
    assert!(!done.stderr.contains("cut"), "{done:?}");
    assert_eq!(node.mapped().len(), 1);
}

/// What a handler says at last that blocked past the end of the drain does not stay, either.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_after_the_drain_and_is_not_read_goes() {
    let (one, two) = (release("faulty", "", "1.0.0"), release("faulty", "second", "1.0.1"));
    let (node, go) = node_that_blocks("[upgrade]\ndrain = \"100ms\"\n", &[&one, &two]);
    let mut deaf = tokio::net::TcpStream::connect(node.address()).await.unwrap();
    deaf.write_all(b"GET /block/large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    wait_for("a request is in flight", || (node.status().generations[0].in_flight == 1).then_some(()));
    let done = node.relmgr(&["upgrade", "1.0.1"]).ok();
    assert!(done.stderr.contains("their handlers block"), "{done:?}");
    std::fs::write(go, "").unwrap();
    wait_for("the first release is gone", || (node.mapped().len() == 1).then_some(()));
    drop(deaf);
}

#[tokio::test(flavor = "multi_thread")]
async fn unloading_can_be_switched_off() {
    let (one, two) = (release("faulty", "", "1.0.0"), release("faulty", "second", "1.0.1"));
    let node = Node::serving("relmgr-faulty", "[loader]\nunload = \"never\"\n", &[&one, &two]);
    let done = node.relmgr(&["upgrade", "1.0.1"]).ok();
    assert!(done.stderr.contains("loader.unload"), "{done:?}");
    assert_eq!(node.mapped().len(), 2);
}

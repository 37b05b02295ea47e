//! What `relmgr check` says of in-memory state, which it tries on a copy.

use relmgr_testkit::kit::wait_for;

use crate::client::Connection;
use crate::state::{Scene, numbers};

#[tokio::test(flavor = "multi_thread")]
async fn a_check_tries_the_code_change_on_a_copy() {
    let scene = Scene::new("");
    scene.add("a", 5).await;
    let done = scene.node.relmgr(&["check", "1.0.3"]).ok();
    assert!(
        done.stderr.contains("state of schema 1, ") && done.stderr.contains("read and changed in"),
        "{done:?}"
    );
    scene.tell("up-fails");
    let done = scene.node.relmgr(&["check", "1.0.3"]);
    done.failed(1, &["the code change fails on a copy of the state", "up fails on purpose"]);
    assert_eq!((scene.current().as_str(), scene.all().await), ("1.0.1", numbers(&[("a", 5)])));
    // Nothing of it keeps the release in memory that makes way now.
    scene.tell("");
    scene.node.relmgr(&["check", "1.0.3"]).ok();
    let done = scene.node.relmgr(&["upgrade", "1.0.3", "--retry"]).ok();
    assert!(!done.stderr.contains("still in memory"), "{done:?}");
    assert_eq!(scene.node.mapped().len(), 1);
}

/// Requests do not wait for it as they would for an upgrade.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_does_not_hold_requests_up_for_one_that_runs_long() {
    let scene = Scene::new("[upgrade]\nquiesce = \"1h\"\n");
    scene.add("a", 5).await;
    scene.tell("wait");
    let mut waiting = Connection::open(scene.node.address()).await;
    let waiting = tokio::spawn(async move { waiting.get("/wait").await });
    wait_for("the handler runs", || (scene.node.status().generations[0].in_flight == 1).then_some(()));
    let done = scene.node.relmgr(&["check", "1.0.3"]);
    done.failed(1, &["the state could not be looked at: 1 request was not over within 500ms", "try again"]);
    assert_eq!(scene.all().await, numbers(&[("a", 5)]));
    scene.tell("");
    assert_eq!(waiting.await.unwrap(), Ok((200, "waited".into())));
    scene.node.relmgr(&["check", "1.0.3"]).ok();
}

/// The step down is tried on a copy as well, by the code of the release that serves, in a process of its own: what
/// hangs or dies there touches nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_tries_the_step_down_on_a_copy() {
    let scene = Scene::new("[upgrade]\nstart = \"3s\"\n");
    scene.add("a", 5).await;
    scene.node.relmgr(&["upgrade", "1.0.3"]).ok();
    let (host, expected) = (scene.node.host_pid(), ("1.0.3", numbers(&[("a", 5)])));
    let done = scene.node.relmgr(&["check", "1.0.1"]).ok();
    for words in ["state of schema 3, ", "changed down to schema 1 in ", "bytes, read in "] {
        assert!(done.stderr.contains(words), "{words}: {done:?}");
    }
    for (told, words) in [
        (
            "down-fails",
            "the code change fails on a copy of the state: code_change failed: down fails on purpose",
        ),
        ("down-panics", "down panics on purpose"),
        ("down-aborts", "it crashed in preflight"),
        ("down-hangs", "preflight took longer than"),
    ] {
        scene.tell(told);
        let done = scene.node.relmgr(&["check", "1.0.1"]);
        scene.tell("");
        done.failed(1, &["1.0.3 does not give its state in the form of schema 1", words]);
        assert_eq!((scene.current().as_str(), scene.all().await), expected, "{told}");
        assert_eq!(scene.node.host_pid(), host, "{told}");
    }
    scene.node.relmgr(&["downgrade", "1.0.1"]).ok();
    assert_eq!((scene.current().as_str(), scene.all().await), ("1.0.1", expected.1));
}

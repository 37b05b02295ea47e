//! A node that starts with a mistake in its configuration.

use nix::sys::signal::{Signal, kill};
use relmgr_testkit::kit::{Node, wait_for};
use serde_json::json;

use crate::client::get;
use crate::conf::{app_conf, ask, becomes, conf, live, replace, setting, without_secrets};

/// Starts the node again, after `change` of its files.
fn start_again(node: &mut Node, environment: &[(&str, &str)], change: impl FnOnce(&Node)) {
    node.relmgr(&["stop"]).ok();
    node.wait_supervisor();
    change(node);
    node.start_with(environment);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_mistake_serves_with_what_was_applied_last() {
    let mut node = Node::serving("relmgr-live", "", &[&live()]);
    let path = app_conf(&node);
    let secrets = tempfile::tempdir().unwrap();
    let secret = secrets.path().join("password");
    std::fs::write(&secret, "hunter2-hunter2\n").unwrap();
    let good =
        format!("Repo.pool_size = 20\nRepo.password = file:{}\nqueues.mail.size = 3\n", secret.display());
    replace(&path, &good);
    becomes(&node, "/Repo/pool_size", 20).await;
    let before = conf(&node).hash;
    let wrong = format!("{good}Repo.pool_size = 33\nlogger.levle = warn\n");
    start_again(&mut node, &[], |_| replace(&path, &wrong));

    // What was applied last is whole, the secret included; of the file with the mistake nothing is applied.
    assert_eq!(setting(&node, "/Repo/pool_size").await, 20);
    assert_eq!(setting(&node, "/queues/mail/size").await, 3);
    assert_eq!(ask(&node, "/password").await, "hunter2-hunter2");
    assert_eq!(conf(&node).hash, before);
    let error = conf(&node).error.expect("it is told").text;
    assert!(error.contains("logger.levle") && error.contains("set twice"), "{error}");
    assert!(node.relmgr(&["status"]).ok().stdout.contains("logger.levle"));
    let history = node.relmgr(&["history", "--json"]).ok().json();
    let last = history.as_array().unwrap().last().unwrap();
    assert_eq!((&last["kind"], &last["outcome"]), (&json!("reload"), &json!("failed")));
    assert!(last["error"].as_str().unwrap().contains("the values that were applied last"), "{last}");

    // So it is at the next start, with a host that dies, and until the file is mended.
    start_again(&mut node, &[], |_| {});
    assert_eq!(ask(&node, "/password").await, "hunter2-hunter2");
    let host = node.host_pid();
    kill(host, Signal::SIGKILL).unwrap();
    wait_for("another host serves", || (node.status().host_pid? as i32 != host.as_raw()).then_some(()));
    assert_eq!(setting(&node, "/Repo/pool_size").await, 20);
    replace(&path, good.replace("20", "21"));
    becomes(&node, "/Repo/pool_size", 21).await;
    wait_for("nothing is wrong any more", || conf(&node).error.is_none().then_some(()));
    without_secrets(&node, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_mistake_and_without_a_secret_serves_nothing_and_says_which() {
    let mut node = Node::new("relmgr-live", "");
    let path = app_conf(&node);
    node.publish(&live());
    let good = "Repo.password = ${RELMGR_TEST_PASSWORD}\n";
    replace(&path, good);
    let environment = [("RELMGR_TEST_PASSWORD", "hunter2-hunter2")];
    node.start_with(&environment);
    node.relmgr(&["upgrade"]).ok();
    start_again(&mut node, &environment, |_| replace(&path, format!("{good}nonsense\n")));
    assert_eq!(ask(&node, "/password").await, "hunter2-hunter2");
    start_again(&mut node, &[], |_| {});
    assert_eq!((get(node.address(), "/settings").await.0, node.current()), (503, None));
    let told = node.status().last_operation.unwrap().error.unwrap();
    for words in
        ["app.conf:2:1: a key without a value", "`Repo.password` is a secret", "${RELMGR_TEST_PASSWORD}"]
    {
        assert!(told.contains(words), "no `{words}` in {told}");
    }
    without_secrets(&node, &[told]);
}

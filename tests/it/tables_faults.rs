//! What can go wrong with state tables beside a killed host: records that nobody reads, no room, no time, no directory.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use relmgr_model::control::Phase;
use relmgr_testkit::kit::{Node, release, wait_for};
use serde_json::{Value, json};

use crate::client::get;
use crate::tables::{APP, ask, item, items, releases, sum, swept, tables};

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_does_not_decode_is_kept_aside_until_who_wrote_it_comes_back() {
    let [one, _] = releases();
    let misshapen = release("tabled", "misshapen", "1.5.0");
    let node = Node::serving(APP, "", &[&one, &misshapen]);
    ask(&node, "/put/1/10").await;
    node.relmgr(&["upgrade", "1.5.0"]).ok();
    ask(&node, "/put/2/20").await;
    node.relmgr(&["downgrade"]).ok();
    assert_eq!((item(&node, 1).await, item(&node, 2).await), (json!({"number": 10}), Value::Null));
    wait_for("the record is kept aside", || (items(&node).kept_aside == 1).then_some(()));
    let log = node.log();
    assert!(log.contains("items") && log.contains("cannot be read"), "{log}");
    assert!(node.relmgr(&["status"]).ok().stdout.contains("KEPT ASIDE"));
    assert_eq!(sum(&node).await, json!({"count": 1, "sum": 10}));
    node.relmgr(&["upgrade", "1.5.0"]).ok();
    wait_for("the record is back", || (items(&node).kept_aside == 0).then_some(()));
    assert_eq!(item(&node, 2).await, json!({"number": 20}));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_room_for_the_sweep_or_for_the_older_form_loses_nothing() {
    let [one, two] = releases();
    let mut node = Node::serving(APP, "[tables]\nmax_bytes = 1048576\n", &[&one, &two]);
    let mut records = 0;
    while get(node.address(), &format!("/fill/{}", records + 1_000)).await.0 == 200 {
        records += 1_000;
    }
    let before = sum(&node).await;
    node.relmgr(&["upgrade", "2.0.0"]).ok();
    wait_for("the sweep finds no room", || node.log().contains("the tables are full").then_some(()));
    // What it has not come to is migrated on the way.
    assert_eq!(sum(&node).await, before);
    let refused = get(node.address(), "/put/1/1").await;
    assert!(refused.0 == 507 || refused.0 == 200, "{refused:?}");

    // With more room everything goes on.
    let settings = node.home().join("relmgr.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, text.replace("max_bytes = 1048576", "max_bytes = 2097152")).unwrap();
    node.relmgr(&["stop"]).ok();
    node.wait_supervisor();
    node.start();
    let kept = before["count"].as_u64().unwrap();
    swept(&node, &[(2, kept)]);
    let before = sum(&node).await;
    // Both forms of every record are too much again: there is nothing that could be gone back to in safety.
    fill_up(&node).await;
    let done = node.relmgr(&["downgrade", "1.0.0"]);
    done.failed(1, &["the state tables of 2.0.0 could not be handed down", "the tables are full"]);
    assert_eq!((node.current().as_deref(), sum(&node).await), (Some("2.0.0"), before.clone()));
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, text.replace("max_bytes = 2097152", "max_bytes = 16777216")).unwrap();
    node.relmgr(&["stop"]).ok();
    node.wait_supervisor();
    node.start();
    node.relmgr(&["downgrade", "1.0.0", "--retry"]).ok();
    assert_eq!(sum(&node).await, before);
}

/// Takes up what room there is.
async fn fill_up(node: &Node) {
    let mut key = 0;
    while get(node.address(), &format!("/blob/{key}")).await.0 == 200 {
        key += 1;
    }
}

/// A node that serves the first release, and the file that names the record at which handing down waits.
fn node_that_waits(settings: &str) -> (Node, PathBuf) {
    let mut node = Node::new(APP, settings);
    releases().iter().for_each(|release| node.publish(release));
    let told = node.home().join("told");
    node.start_with(&[("RELMGR_TEST_TABLED", told.to_str().unwrap())]);
    node.relmgr(&["upgrade", "1.0.0"]).ok();
    (node, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_not_handed_down_in_time_end_the_downgrade() {
    let (node, told) = node_that_waits("[upgrade]\nstart = \"3s\"\n");
    node.relmgr(&["upgrade", "2.0.0"]).ok();
    ask(&node, "/fill/1000").await;
    let before = sum(&node).await;
    std::fs::write(&told, "700").unwrap();
    let done = node.relmgr(&["downgrade", "1.0.0"]);
    done.failed(1, &["could not be handed down: it took longer than 3s (upgrade.start)"]);
    assert_eq!((node.current().as_deref(), sum(&node).await), (Some("2.0.0"), before.clone()));
    std::fs::remove_file(told).unwrap();
    node.relmgr(&["downgrade", "1.0.0", "--retry"]).ok();
    assert_eq!((sum(&node).await, items(&node).kept_aside), (before, 0));
}

/// A permanent release that does not serve can hand nothing down.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_falls_back_to_prev_keeps_what_that_cannot_read_and_says_so() {
    let [one, two] = releases();
    let mut node = Node::serving(APP, "", &[&one, &two]);
    ask(&node, "/fill/100").await;
    let before = sum(&node).await;
    node.relmgr(&["upgrade", "2.0.0"]).ok();
    swept(&node, &[(2, 100)]);
    node.relmgr(&["stop"]).ok();
    node.wait_supervisor();
    let library = node.home().join("releases/2.0.0/lib/librelmgr_tabled.so");
    let whole = std::fs::read(&library).unwrap();
    std::fs::write(&library, &whole[..whole.len() / 2]).unwrap();
    node.start();
    assert_eq!((node.current().as_deref(), item(&node, 1).await), (Some("1.0.0"), Value::Null));
    let told = "records of the state tables that only 2.0.0 can read are kept aside";
    assert!(node.status().last_operation.unwrap().error.unwrap().contains(told));
    assert!(node.relmgr(&["history", "--json"]).ok().stdout.contains(told));
    wait_for("they are kept aside", || (items(&node).kept_aside == 100).then_some(()));
    ask(&node, "/put/1/77").await;
    std::fs::write(&library, &whole).unwrap();
    node.relmgr(&["upgrade", "2.0.0", "--retry"]).ok();
    // All but that of the key which another one has taken.
    wait_for("they are back", || (items(&node).kept_aside == 1).then_some(()));
    assert_eq!(item(&node, 1).await, json!({"number": 77, "label": "from the first"}));
    let sum_of = |told: &Value| told["sum"].as_u64().unwrap();
    assert_eq!(sum_of(&sum(&node).await), sum_of(&before) - 1 + 77);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_killed_while_records_are_handed_down_loses_none() {
    let (node, told) = node_that_waits("[supervisor]\nintensity = 100\n");
    ask(&node, "/fill/20000").await;
    let before = sum(&node).await;
    node.relmgr(&["upgrade", "2.0.0"]).ok();
    let waits = told.with_extension("waits");
    // Before the first record, after some transactions, at the last record.
    for at in [0, 700, 10_000, 19_999] {
        swept(&node, &[(2, 20_000)]);
        std::fs::write(&told, at.to_string()).unwrap();
        let mut downgrade = node.command(&["downgrade", "1.0.0", "--retry"]).spawn().unwrap();
        wait_for("records are being handed down", || waits.exists().then_some(()));
        let host = node.host_pid();
        kill(host, Signal::SIGKILL).unwrap();
        assert!(!downgrade.wait().unwrap().success());
        std::fs::remove_file(&told).unwrap();
        std::fs::remove_file(&waits).unwrap();
        wait_for("another host serves", || {
            let status = node.status();
            let other = status.host_pid.is_some_and(|pid| pid != host.as_raw().unsigned_abs());
            (other && status.current.is_some() && status.phase == Phase::Steady).then_some(())
        });
        assert_eq!(node.current().as_deref(), Some("2.0.0"));
        assert_eq!(sum(&node).await, before, "killed at record {at}");
    }
    node.relmgr(&["downgrade", "1.0.0", "--retry"]).ok();
    assert_eq!((sum(&node).await, items(&node).kept_aside), (before, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_others_may_look_into_is_not_used() {
    let [one, _] = releases();
    let mut node = Node::serving(APP, "", &[&one]);
    ask(&node, "/put/1/10").await;
    let directory = tables(&node).path;
    let may = |mode| std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(mode)).unwrap();
    node.relmgr(&["stop"]).ok();
    node.wait_supervisor();
    for (mode, owner) in [(0o755, 0), (0o700, 65_534)] {
        may(mode);
        std::os::unix::fs::chown(&directory, Some(owner), None).unwrap();
        node.start();
        assert_eq!(node.current(), None);
        let error = node.status().last_operation.unwrap().error.unwrap();
        let words = format!("is not this node's alone (it belongs to user {owner}, mode {mode:o})");
        assert!(error.contains(&words) && error.contains("tables.memory"), "{error}");
        node.relmgr(&["stop"]).ok();
        node.wait_supervisor();
    }
    may(0o700);
    std::os::unix::fs::chown(&directory, Some(0), None).unwrap();
    node.start();
    assert_eq!(item(&node, 1).await, json!({"number": 10}), "nothing was done to what is in it");
}

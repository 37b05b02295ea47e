//! State tables on whole nodes: what they outlive, what is refused, and in which words.

use std::collections::BTreeMap;

use crate::client::{Connection, get};
use nix::sys::signal::{Signal, kill};
use relmgr_model::tables::{SchemaCount, TableStatus, TablesStatus};
use relmgr_testkit::kit::{self, Node, Release, release, wait_for};
use serde_json::{Value, json};

pub const APP: &str = "relmgr-tabled";

/// The first and the second release of the same application: their records differ.
pub fn releases() -> [Release; 2] {
    [release("tabled", "", "1.0.0"), release("tabled", "second", "2.0.0")]
}

pub async fn ask(node: &Node, path: &str) -> String {
    let (status, body) = get(node.address(), path).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

pub async fn item(node: &Node, key: u64) -> Value {
    serde_json::from_str(&ask(node, &format!("/item/{key}")).await).unwrap()
}

pub async fn sum(node: &Node) -> Value {
    serde_json::from_str(&ask(node, "/sum").await).unwrap()
}

pub fn tables(node: &Node) -> TablesStatus {
    wait_for("the node tells of its tables", || node.status().tables)
}

pub fn items(node: &Node) -> TableStatus {
    tables(node).tables.into_iter().find(|table| table.name == "items").unwrap()
}

/// Waits until the sweep has been through all items and found these schema versions.
pub fn swept(node: &Node, schemas: &[(u32, u64)]) -> TableStatus {
    let expected: Vec<_> =
        schemas.iter().map(|(schema, records)| SchemaCount { schema: *schema, records: *records }).collect();
    wait_for(&format!("the items have the schemas {schemas:?}"), || {
        let items = items(node);
        let sweep = items.sweep.clone().filter(|sweep| sweep.sweeping.is_none() && sweep.schemas == expected);
        sweep.map(|_| items)
    })
}

pub fn kill_host(node: &Node) {
    let host = node.host_pid();
    kill(host, Signal::SIGKILL).unwrap();
    wait_for("another host serves", || {
        let status = node.status();
        (status.host_pid != Some(host.as_raw() as u32)
            && status.host_pid.is_some()
            && status.current.is_some())
        .then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn content_outlives_upgrades_downgrades_and_killed_hosts() {
    let [one, two] = releases();
    let node = Node::serving(APP, "", &[&one, &two]);
    ask(&node, "/put/1/10").await;
    ask(&node, "/fill/1000").await;
    ask(&node, "/put/1/10").await;
    let before = sum(&node).await;
    node.relmgr(&["upgrade", "2.0.0"]).ok();
    assert_eq!(item(&node, 1).await, json!({"number": 10, "label": "from the first"}));
    assert_eq!(sum(&node).await, before);
    swept(&node, &[(2, 1_000)]);
    ask(&node, "/put/2/20").await;
    kill_host(&node);
    assert_eq!(item(&node, 2).await, json!({"number": 20, "label": "from the second"}));
    let before = sum(&node).await;
    // Every record has one schema version, and the older release does not know it: it is handed down before the swap.
    node.relmgr(&["downgrade"]).ok();
    assert_eq!((item(&node, 2).await, sum(&node).await), (json!({"number": 20}), before.clone()));
    assert!(node.log().contains("state tables handed down"), "{}", node.log());
    kill_host(&node);
    assert_eq!((item(&node, 2).await, sum(&node).await), (json!({"number": 20}), before));
    node.relmgr(&["restart"]).ok();
    assert_eq!(item(&node, 2).await, json!({"number": 20}));
    assert_eq!(items(&node).kept_aside, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_on_probation_leaves_nothing_that_the_one_before_cannot_read() {
    let [one, two] = releases();
    let node = Node::serving(APP, "[upgrade]\nprobation = \"10m\"\n", &[&one, &two]);
    ask(&node, "/fill/100").await;
    let upgrade = node.command(&["upgrade", "2.0.0", "--detach"]).output().unwrap();
    assert!(upgrade.status.success(), "{upgrade:?}");
    wait_for("the release is on probation", || node.status().probation_ends_at);
    ask(&node, "/put/7/70").await;
    ask(&node, "/add/1").await;
    assert_eq!(item(&node, 7).await, json!({"number": 70, "label": "from the second"}));
    node.relmgr(&["rollback"]).ok();
    assert_eq!((item(&node, 7).await, ask(&node, "/counter/1").await), (json!({"number": 70}), "1".into()));
    assert_eq!(sum(&node).await["count"], 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_killed_in_a_migration_or_a_transaction_loses_nothing() {
    let [one, two] = releases();
    let node = Node::serving(APP, "[supervisor]\nintensity = 100\n", &[&one, &two]);
    ask(&node, "/fill/30000").await;
    let before = sum(&node).await;
    node.relmgr(&["upgrade", "2.0.0"]).ok();
    wait_for("the sweep is under way", || {
        items(&node).sweep.filter(|sweep| sweep.sweeping.is_some() && sweep.migrated > 0)
    });
    kill_host(&node);
    assert_eq!(sum(&node).await, before);
    assert_eq!(swept(&node, &[(2, 30_000)]).records, 30_000);
    assert_eq!(sum(&node).await, before);

    ask(&node, "/stamp/30000/0").await;
    for number in 1..=5 {
        // The request is in the middle of its transactions when the host goes, whichever that is.
        let address = node.address();
        let path = format!("/stamp/30000/{number}");
        let stamping = tokio::spawn(async move { Connection::open(address).await.get(&path).await });
        while !stamping.is_finished() && node.status().generations.iter().all(|of| of.in_flight == 0) {
            tokio::task::yield_now().await;
        }
        kill_host(&node);
        let done = stamping.await.unwrap().is_ok_and(|(status, _)| status == 200);
        let stamps: Vec<(u64, u64, u64)> = serde_json::from_str(&ask(&node, "/stamps").await).unwrap();
        assert_eq!(stamps.len(), 30);
        // Each transaction is there as a whole or not at all, and those that are there are the first ones.
        assert!(stamps.iter().all(|(count, least, most)| (*count, least) == (1_000, most)), "{stamps:?}");
        let numbers: Vec<_> = stamps.iter().map(|(_, least, _)| *least).collect();
        assert!(numbers.is_sorted_by(|one, next| one >= next), "{numbers:?}");
        assert!(!done || numbers.iter().all(|one| *one == number), "{numbers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_of_concurrent_clients_add_up_over_two_hundred_swaps() {
    let [one, two] = releases();
    let node = Node::serving(APP, "", &[&one, &two]);
    let address = node.address();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..8_u64)
        .map(|client| {
            let stop = stop.clone();
            tokio::spawn(async move {
                let mut connection = Connection::open(address).await;
                let mut added = 0_u64;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let (status, body) = connection.get(&format!("/add/{}", client % 3)).await.unwrap();
                    assert_eq!(status, 200, "{body}");
                    added += 1;
                }
                (client % 3, added)
            })
        })
        .collect();
    for _ in 0..100 {
        node.relmgr(&["upgrade", "2.0.0"]).ok();
        node.relmgr(&["downgrade", "1.0.0"]).ok();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut expected = BTreeMap::<u64, u64>::new();
    for client in clients {
        let (key, added) = client.await.unwrap();
        *expected.entry(key).or_default() += added;
    }
    for (key, added) in expected {
        assert!(added > 200, "{key}: only {added}");
        assert_eq!(ask(&node, &format!("/counter/{key}")).await, added.to_string(), "counter {key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_only_the_newer_release_reads_are_kept_aside_and_counted() {
    let [one, two] = releases();
    let node = Node::serving(APP, "", &[&one, &two]);
    node.relmgr(&["upgrade", "2.0.0"]).ok();
    ask(&node, "/only-here/1").await;
    ask(&node, "/put/2/20").await;
    node.relmgr(&["downgrade"]).ok();
    assert_eq!((item(&node, 1).await, item(&node, 2).await), (Value::Null, json!({"number": 20})));
    wait_for("the record is kept aside", || (items(&node).kept_aside == 1).then_some(()));
    assert!(node.log().contains("1 records have no form for the release"), "{}", node.log());
    let shown = node.relmgr(&["status"]).ok().stdout;
    assert!(shown.contains("TABLE") && shown.contains("KEPT ASIDE"), "{shown}");
    node.relmgr(&["upgrade", "2.0.0"]).ok();
    wait_for("the record is back", || (items(&node).kept_aside == 0).then_some(()));
    assert_eq!(item(&node, 1).await["label"], "only here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_another_type_ends_the_upgrade() {
    let [one, _] = releases();
    let other = release("tabled", "other-type", "1.5.0");
    let node = Node::serving(APP, "", &[&one, &other]);
    ask(&node, "/put/1/10").await;
    let words = "table `items` holds item by u64, and this release opens it for item by string";
    node.relmgr(&["upgrade", "1.5.0"]).failed(1, &[words]);
    assert_eq!((item(&node, 1).await, node.current()), (json!({"number": 10}), Some("1.0.0".into())));
}

/// Else nobody would sweep it, and a downgrade would not hand it down.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_not_opened_in_start_is_refused_in_a_handler() {
    let [one, _] = releases();
    let node = Node::serving(APP, "", &[&one]);
    ask(&node, "/open/counters").await;
    let (status, words) = get(node.address(), "/open/late").await;
    assert_eq!(status, 507, "{words}");
    assert!(words.contains("table `late` was not opened in `start`: open it there"), "{words}");
    assert!(tables(&node).tables.iter().all(|table| table.name != "late"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_map_is_told_and_the_node_serves_on() {
    let [one, _] = releases();
    let node = Node::serving(APP, "[tables]\nmax_bytes = 1048576\n", &[&one]);
    let mut key = 0;
    let words = loop {
        match get(node.address(), &format!("/blob/{key}")).await {
            (200, _) => key += 1,
            (507, words) => break words,
            other => panic!("{other:?}"),
        }
    };
    assert!(words.contains("the tables are full (1048576 bytes, tables.max_bytes)"), "{words}");
    let status = tables(&node);
    assert!(status.used_bytes > status.max_bytes / 2, "{status:?}");
    let blobs = status.tables.iter().find(|table| table.name == "blobs").unwrap();
    assert_eq!(blobs.records, key);
    assert_eq!(item(&node, 1).await, Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_on_disk_outlive_the_node() {
    let [one, two] = releases();
    for sync in ["commit", "relaxed"] {
        let settings = format!("[tables]\ndurability = \"disk\"\nsync = \"{sync}\"\n");
        let mut node = Node::serving(APP, &settings, &[&one, &two]);
        ask(&node, "/put/1/10").await;
        assert_eq!(tables(&node).path, node.home().canonicalize().unwrap().join("tables"));
        node.relmgr(&["stop"]).ok();
        node.wait_supervisor();
        assert!(node.home().join("tables/data.mdb").exists());
        node.start();
        assert_eq!(item(&node, 1).await, json!({"number": 10}), "{sync}");
        // Whatever writes to the disk keeps no release in memory.
        let done = node.relmgr(&["upgrade", "2.0.0"]).ok();
        assert!(!done.stderr.contains("still in memory"), "{done:?}");
        assert_eq!(node.mapped().len(), 1, "{sync}");
    }
}

/// What wakes a watcher is not to run code of its release on a thread of the release that wrote, which lives on.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_watches_what_the_next_one_writes_is_unmapped() {
    let [one, two] = releases();
    let node = Node::serving(APP, "[upgrade]\nprobation = \"10m\"\n", &[&one, &two]);
    ask(&node, "/watch").await;
    let upgrade = node.command(&["upgrade", "2.0.0", "--detach"]).output().unwrap();
    assert!(upgrade.status.success(), "{upgrade:?}");
    wait_for("the release is on probation", || node.status().probation_ends_at);
    ask(&node, "/fill/2000").await;
    node.relmgr(&["commit"]).ok();
    wait_for("the operation is over", || node.is_settled().then_some(()));
    let generations = node.status().generations;
    assert_eq!((generations.len(), node.mapped().len()), (1, 1), "{generations:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_with_a_time_are_removed_by_the_sweep() {
    let [one, _] = releases();
    let node = Node::serving(APP, "", &[&one]);
    ask(&node, "/put-for/1/3600000").await;
    ask(&node, "/put-for/2/0").await;
    assert_eq!(item(&node, 2).await, Value::Null);
    wait_for("the sweep has removed it", || (items(&node).records == 1).then_some(()));
    assert_eq!(item(&node, 1).await, json!({"number": 0}));
}

/// The example application: what people voted for stays.
#[tokio::test(flavor = "multi_thread")]
async fn votes_outlive_upgrade_downgrade_and_a_killed_host() {
    let example = kit::workspace().join("example-app/Cargo.toml");
    let releases = [kit::build(&example, "", "1.0.0"), kit::build(&example, "", "1.0.1")];
    let node = Node::serving("live-poll", "", &[&releases[0], &releases[1]]);
    let post = async |path: &str, body: Value| {
        let request =
            http::Request::post(path).header("host", "test").header("content-type", "application/json");
        let request = request.body(http_body_util::Full::from(body.to_string())).unwrap();
        let answer = Connection::open(node.address()).await.send(request).await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
    };
    post("/polls", json!({"question": "Tea?", "options": ["yes", "no"]})).await;
    let results = async || serde_json::from_str::<Value>(&ask(&node, "/polls/1").await).unwrap();
    let mut total = 0;
    let steps: [&dyn Fn(); 5] = [
        &|| (),
        &|| drop(node.relmgr(&["upgrade", "1.0.1"]).ok()),
        &|| kill_host(&node),
        &|| drop(node.relmgr(&["downgrade"]).ok()),
        &|| kill_host(&node),
    ];
    for step in steps {
        step();
        post("/polls/1/votes", json!({"option": 1})).await;
        total += 1;
        assert_eq!(results().await["total"], total);
    }
    assert_eq!(results().await["options"][1]["votes"], 5);
}

//! What `cargo relmgr new` writes compiles, runs and hot-upgrades as it stands.

use std::process::Command;

use relmgr_testkit::kit::{Node, bin, build, target_dir};

use crate::client::get;

#[tokio::test(flavor = "multi_thread")]
async fn a_new_application_is_released_served_and_upgraded() {
    // Always at the same path, which the builder's flags name: so its dependencies are compiled once.
    let place = target_dir().join("relmgr-new");
    if place.exists() {
        std::fs::remove_dir_all(&place).unwrap();
    }
    std::fs::create_dir_all(&place).unwrap();
    let made = Command::new(bin("cargo-relmgr"))
        .args(["relmgr", "new", "hello", "--path"])
        .arg(place.join("hello"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let manifest = place.join("hello/Cargo.toml");
    let one = build(&manifest, "", "1.0.0");
    let source = place.join("hello/src/lib.rs");
    let text = std::fs::read_to_string(&source).unwrap();
    let changed = text.replace("format!(\"{}, world\"", "format!(\"{}, changed world\"");
    assert_ne!(changed, text, "{text}");
    std::fs::write(&source, changed).unwrap();
    let two = build(&manifest, "", "1.0.1");

    let node = Node::serving("hello", "", &[&one, &two]);
    let text = async || {
        let (status, body) = get(node.address(), "/").await;
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        (status, json["text"].as_str().unwrap().to_owned(), json["version"].as_str().unwrap().to_owned())
    };
    assert_eq!(text().await, (200, "Hello, world".into(), "1.0.0".into()));
    node.relmgr(&["upgrade"]).ok();
    assert_eq!(text().await, (200, "Hello, changed world".into(), "1.0.1".into()));
    std::fs::write(node.home().join("app.conf"), "greeting = Howdy\n").unwrap();
    node.relmgr(&["downgrade"]).ok();
    assert_eq!(text().await, (200, "Howdy, world".into(), "1.0.0".into()));
    assert_eq!(node.mapped().len(), 1);
}

//! An application without axum: any tower service is a router.

use std::collections::BTreeSet;
use std::process::Command;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use relmgr_testkit::kit::{Node, release, workspace};

use crate::client::{Connection, get};

/// The crates of which the library of a fixture is made when it is built alone, as releases are.
fn crates_of(fixture: &str) -> BTreeSet<String> {
    let manifest = workspace().join("tests/fixtures").join(fixture).join("Cargo.toml");
    let mut tree = Command::new("cargo");
    tree.args(["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}"]);
    let told = tree.arg("--manifest-path").arg(manifest).output().unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    // A name, its version, where it is from.
    let told = String::from_utf8(told.stdout).unwrap();
    told.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn who_leaves_axum_out_has_nothing_of_it() {
    let crates = crates_of("plain");
    assert!(crates.contains("relmgr-app") && crates.contains("tower-service"), "{crates:?}");
    assert!(!crates.iter().any(|name| name.starts_with("axum")), "{crates:?}");
    assert!(crates_of("faulty").contains("axum"), "it can be seen where it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tower_service_of_its_own_answers_streams_and_is_upgraded() {
    let (one, two) = (release("plain", "", "1.0.0"), release("plain", "", "1.0.1"));
    let node = Node::serving("relmgr-plain", "", &[&one, &two]);
    // Panics name the files that they come from.
    let library = std::fs::read(&node.mapped()[0]).unwrap();
    let library = String::from_utf8_lossy(&library);
    assert!(library.contains("/tokio-1.") && !library.contains("/axum-"), "it was built with axum");

    for version in ["1.0.0", "1.0.1"] {
        if version == two.version {
            let done = node.relmgr(&["upgrade"]).ok();
            assert!(done.stderr.contains("1.0.0 unmapped"), "{done:?}");
        }
        assert_eq!(get(node.address(), "/").await, (200, version.into()));
        assert_eq!(get(node.address(), "/large").await, (200, version.repeat(10_000)));
        let sent: Bytes = (0..1_000_000_u32).map(|number| number as u8).collect();
        let request = Request::post("/echo").header("host", "x").body(Full::new(sent.clone())).unwrap();
        let mut connection = Connection::open(node.address()).await;
        let answer = connection.send(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        let request = Request::head("/large").header("host", "x").body(Full::default()).unwrap();
        let head = Connection::open(node.address()).await.send(request).await.unwrap();
        assert_eq!(head.headers()["content-length"], (version.len() * 10_000).to_string());
        assert!(head.into_body().collect().await.unwrap().to_bytes().is_empty());
        assert!(answer.into_body().collect().await.unwrap().to_bytes() == sent, "what was sent comes back");
    }
    assert_eq!(node.mapped().len(), 1, "{:?}", node.mapped());
}

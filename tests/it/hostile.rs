//! Packages that somebody has packed to do harm, and releases that were damaged where they lie: what a node makes of
//! them.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use nix::sys::signal::{Signal, kill};
use relmgr_model::manifest::Manifest;
use relmgr_store::digest;
use tar::{EntryType, Header};

use crate::client::get;
use relmgr_testkit::kit::{Node, Release, release, wait_for};

fn good() -> Release {
    release("faulty", "", "1.0.0")
}

fn better() -> Release {
    release("faulty", "second", "1.0.1")
}

/// A header as an enemy writes it: its fields raw, whatever they say.
fn header(kind: EntryType, name: &str, link: &str, size: u64) -> Header {
    let mut header = Header::new_ustar();
    let raw = header.as_ustar_mut().unwrap();
    raw.name[..name.len()].copy_from_slice(name.as_bytes());
    raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    header
}

/// Puts one more entry into the package of 1.0.1 in the repository, whose manifest vouches for it.
fn repack(node: &Node, kind: EntryType, name: &str, link: &str) {
    let release = better();
    let mut tar = vec![];
    let package = std::fs::read(release.out.join("1.0.1.tar.gz")).unwrap();
    GzDecoder::new(package.as_slice()).read_to_end(&mut tar).unwrap();
    // The archive's end is two blocks of zeroes, or more.
    let end = tar.chunks(512).rposition(|block| block.iter().any(|byte| *byte != 0)).unwrap() + 1;
    tar.truncate(end * 512);
    let content = if kind == EntryType::Regular { "harm" } else { "" };
    tar.extend(header(kind, name, link, content.len() as u64).as_bytes());
    if !content.is_empty() {
        tar.extend(content.as_bytes());
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.extend([0; 1024]);
    let mut packed = GzEncoder::new(vec![], Compression::fast());
    packed.write_all(&tar).unwrap();
    let packed = packed.finish().unwrap();
    let manifest = node.repository().join("1.0.1.toml");
    let mut changed = Manifest::parse(&std::fs::read_to_string(&manifest).unwrap()).unwrap();
    changed.package = Some(digest::of_bytes(&packed));
    std::fs::write(manifest, changed.to_toml()).unwrap();
    std::fs::write(node.repository().join("1.0.1.tar.gz"), packed).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_reaches_out_of_its_directory_touches_nothing() {
    let node = Node::serving("relmgr-faulty", "", &[&good(), &better()]);
    let outside = node.home().parent().unwrap().join("escaped");
    let absolute = outside.to_str().unwrap();
    let library = "lib/librelmgr_faulty.so";
    let cases = [
        (EntryType::Regular, "../../../escaped", "", "../../../escaped"),
        (EntryType::Regular, absolute, "", "escaped"),
        (EntryType::Symlink, "priv/link", "/etc/passwd", "priv/link"),
        (EntryType::Link, "priv/link", library, "priv/link"),
        (EntryType::Char, "priv/device", "", "priv/device"),
        (EntryType::Fifo, "priv/pipe", "", "priv/pipe"),
        (EntryType::Regular, library, "", library),
        (EntryType::Regular, "priv/unnamed", "", "priv/unnamed"),
    ];
    let host = node.host_pid();
    let files = |node: &Node| {
        let mut files = node.files();
        // Its line tells of the try.
        files.retain(|file| file != "history.jsonl");
        files
    };
    let before = files(&node);
    for (kind, name, link, words) in cases {
        repack(&node, kind, name, link);
        node.relmgr(&["upgrade", "1.0.1"])
            .failed(1, &[words, "build the release with `cargo relmgr release`"]);
        assert_eq!(get(node.address(), "/").await, (200, "1.0.0".into()), "{name}");
        assert_eq!(node.host_pid(), host);
        assert_eq!(files(&node), before, "{name}: something is left");
        assert!(!outside.exists(), "{name}");
    }
    // Nor is it in the way of the release as it is.
    node.publish(&release("faulty", "", "1.0.2"));
    node.relmgr(&["upgrade", "1.0.2"]).ok();
}

/// Flips a bit of an installed release's library. Another file takes its place: what is mapped stays as it was.
fn damage(node: &Node, version: &str) {
    let library = node.home().join("releases").join(version).join("lib/librelmgr_faulty.so");
    let mut bytes = std::fs::read(&library).unwrap();
    bytes[4000] ^= 1;
    let beside = library.with_extension("damaged");
    std::fs::write(&beside, bytes).unwrap();
    std::fs::rename(beside, library).unwrap();
}

/// A node on which 1.0.1 is permanent and 1.0.0 prev.
fn upgraded() -> Node {
    let node = Node::serving("relmgr-faulty", "", &[&good(), &better()]);
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permanent_release_that_was_damaged_makes_way_for_prev_at_the_next_start() {
    let mut node = upgraded();
    damage(&node, "1.0.1");
    // It serves on as it was mapped, and is not put to use again.
    assert_eq!(get(node.address(), "/").await, (200, "1.0.1".into()));
    node.relmgr(&["restart"]).failed(1, &["librelmgr_faulty.so"]);
    assert_eq!(get(node.address(), "/").await, (200, "1.0.1".into()));
    node.relmgr(&["stop"]).ok();
    node.wait_supervisor();
    node.start();
    assert_eq!(get(node.address(), "/").await, (200, "1.0.0".into()));
    assert_eq!(node.status().permanent.unwrap().to_string(), "1.0.0", "and that is recorded");
    let told = node.relmgr(&["history"]).ok().stdout;
    assert!(told.contains("librelmgr_faulty.so is damaged"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_dies_does_not_come_back_with_what_was_damaged_meanwhile() {
    let node = upgraded();
    damage(&node, "1.0.1");
    let host = node.host_pid();
    kill(host, Signal::SIGKILL).unwrap();
    assert_eq!(get(node.address(), "/").await, (200, "1.0.0".into()));
    let told = wait_for("it is told", || {
        let told = node.relmgr(&["history"]).ok().stdout;
        told.contains("the host died of signal 9").then_some(told)
    });
    assert!(told.contains("is not the library that was verified"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_releases_are_all_damaged_says_so_and_takes_another() {
    let mut node = upgraded();
    damage(&node, "1.0.0");
    damage(&node, "1.0.1");
    node.relmgr(&["stop"]).ok();
    node.wait_supervisor();
    node.start();
    assert_eq!(get(node.address(), "/").await.0, 503);
    let status = node.relmgr(&["status"]).ok().stdout;
    assert!(status.contains("librelmgr_faulty.so is damaged"), "{status}");
    node.publish(&release("faulty", "", "1.0.2"));
    node.relmgr(&["upgrade", "1.0.2"]).ok();
    assert_eq!(get(node.address(), "/").await, (200, "1.0.2".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_to_a_prev_that_was_damaged_is_refused_with_the_remedy() {
    let node = upgraded();
    damage(&node, "1.0.0");
    let host = node.host_pid();
    let words = ["librelmgr_faulty.so is damaged", "remove the release and fetch it again"];
    node.relmgr(&["downgrade"]).failed(1, &words);
    assert_eq!(get(node.address(), "/").await, (200, "1.0.1".into()));
    assert_eq!((node.host_pid(), node.status().permanent.unwrap().to_string()), (host, "1.0.1".into()));
}

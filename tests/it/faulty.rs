//! Libraries, packages, repositories and homes with a defect: each is refused before anything serves, with words that
//! name the thing and the remedy; the running release serves on, and nothing is left behind. What an application
//! does wrong stands in faults.rs.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use relmgr_model::manifest::Manifest;
use relmgr_store::{digest, package};

use crate::client::{Connection, get};
use relmgr_testkit::kit::{Node, Release, release};

const SHORT: &str = "[upgrade]\ndrain = \"1s\"\n";

/// A node that serves 1.0.0 without a fault, with `bad` published as well.
fn node_with(bad: &Release) -> Node {
    Node::serving("relmgr-faulty", SHORT, &[&release("faulty", "", "1.0.0"), bad])
}

/// The upgrade to `version` fails with `words`; 1.0.0 serves on, in the same host, and is all that is mapped.
async fn refused(node: &Node, version: &str, words: &[&str]) {
    let (host, mut connection) = (node.host_pid(), Connection::open(node.address()).await);
    assert_eq!(connection.get("/").await.unwrap().1, "1.0.0");
    node.relmgr(&["upgrade", version]).failed(1, words);
    assert_eq!(connection.get("/").await, Ok((200, "1.0.0".into())), "the connection lives on");
    let status = node.status();
    assert_eq!((status.permanent.unwrap().to_string(), node.host_pid()), ("1.0.0".into(), host));
    assert_eq!(status.host_restarts, 0);
    let current = std::fs::read_link(node.home().join("releases/current")).unwrap();
    assert_eq!(current.to_str(), Some("1.0.0"));
    let staging = std::fs::read_dir(node.home().join("releases/.staging")).unwrap().count();
    assert_eq!(staging, 0, "something is left in releases/.staging");
    let history = node.relmgr(&["history", "--json"]).ok().json();
    let last = history.as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["outcome"], "failed", "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_hangs_does_not_hold_up_the_next_release_for_ever() {
    let (hanging, good) = (release("faulty", "stop-hangs", "1.0.0"), release("faulty", "", "1.0.1"));
    let node = Node::serving("relmgr-faulty", SHORT, &[&hanging, &good]);
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    assert_eq!(get(node.address(), "/").await.1, "1.0.1");
    assert_eq!(node.mapped().len(), 1, "{:?}", node.status());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_now_and_then_is_counted() {
    let node = Node::serving("relmgr-faulty", SHORT, &[&release("faulty", "panics-every-10th", "1.0.0")]);
    let mut connection = Connection::open(node.address()).await;
    let mut statuses = BTreeMap::new();
    for _ in 0..30 {
        *statuses.entry(connection.get("/").await.unwrap().0).or_insert(0) += 1;
    }
    assert_eq!(statuses, BTreeMap::from([(200, 27), (500, 3)]));
    let generation = node.status().generations[0].clone();
    assert_eq!((generation.panics, generation.requests), (3, 30));
}

// ----------------------------------------------------------------------- libraries that the builder does not make

/// Takes a good release apart, lets `change` alter its library and its manifest, and packs it again.
pub fn altered(
    version: &str,
    change: impl FnOnce(&mut Vec<u8>, &mut Manifest),
) -> (tempfile::TempDir, Release) {
    altered_of("", version, change)
}

/// As [`altered`], of the release with `features`.
pub fn altered_of(
    features: &str,
    version: &str,
    change: impl FnOnce(&mut Vec<u8>, &mut Manifest),
) -> (tempfile::TempDir, Release) {
    let good = release("faulty", features, version);
    let work = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(good.out.join(format!("{version}.toml"))).unwrap();
    let mut manifest = Manifest::parse(&text).unwrap();
    let staging = work.path().join("staging");
    std::fs::create_dir(&staging).unwrap();
    let unpacked = work.path().join("unpacked");
    package::unpack(&good.out.join(format!("{version}.tar.gz")), &staging, &unpacked, &manifest).unwrap();
    let library = unpacked.join(&manifest.library);
    let mut bytes = std::fs::read(&library).unwrap();
    change(&mut bytes, &mut manifest);
    std::fs::write(&library, &bytes).unwrap();
    manifest.files.insert(manifest.library.clone(), digest::of_bytes(&bytes));
    std::fs::write(unpacked.join("manifest.toml"), manifest.for_package().to_toml()).unwrap();
    let out = work.path().join("out");
    std::fs::create_dir(&out).unwrap();
    manifest.package = Some(package::pack(&unpacked, &out.join(format!("{version}.tar.gz"))).unwrap());
    std::fs::write(out.join(format!("{version}.toml")), manifest.to_toml()).unwrap();
    std::fs::write(out.join("VERSION"), format!("{version}\n")).unwrap();
    let release = Release { out, version: version.to_owned() };
    (work, release)
}

async fn altered_is_refused(words: &[&str], change: impl FnOnce(&mut Vec<u8>, &mut Manifest)) {
    let (_work, bad) = altered("1.0.1", change);
    let node = node_with(&bad);
    refused(&node, "1.0.1", words).await;
    assert_eq!(node.mapped().len(), 1);
}

/// A library from C source, for what no Rust crate would do.
fn compiled(source: &str, arguments: &[&str], directory: &Path) -> Vec<u8> {
    let (input, output) = (directory.join("library.c"), directory.join("library.so"));
    std::fs::write(&input, source).unwrap();
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-o"]).arg(&output).arg(&input).args(arguments);
    assert!(command.status().unwrap().success());
    std::fs::read(output).unwrap()
}

const SYMBOLS: &str = "long RELMGR_ENTRY[8]; long RELMGR_LAYOUT[32];\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_elf() {
    altered_is_refused(&["is no ELF file", "cargo relmgr release"], |bytes, _| {
        *bytes = b"#!/bin/sh\necho hello\n".to_vec();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_elf_of_another_machine() {
    // e_machine, as for AArch64.
    let words = ["was built for Aarch64, this machine is X86_64", ": build it for this target"];
    altered_is_refused(&words, |bytes, _| bytes[18] = 0xb7).await;
    let words = [
        "was built for aarch64-unknown-linux-gnu, this machine is x86_64-unknown-linux-gnu",
        ": build it for this target",
    ];
    altered_is_refused(&words, |_, manifest| manifest.target = "aarch64-unknown-linux-gnu".into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_without_the_root_module() {
    let work = tempfile::tempdir().unwrap();
    let library = compiled("int nothing;\n", &[], work.path());
    let words = ["is no relmgr application", "relmgr_app::export!"];
    altered_is_refused(&words, |bytes, _| *bytes = library).await;
    let library = compiled(SYMBOLS, &[], work.path());
    altered_is_refused(&["its RELMGR_ENTRY is not relmgr's"], |bytes, _| *bytes = library).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_with_a_missing_symbol_or_library() {
    let work = tempfile::tempdir().unwrap();
    let source = format!("{SYMBOLS}int nowhere(void); int call(void) {{ return nowhere(); }}\n");
    let library = compiled(&source, &[], work.path());
    let words =
        ["undefined symbol: nowhere", "the library that defines the symbol is missing among what it links"];
    altered_is_refused(&words, |bytes, _| *bytes = library).await;

    let dependency = tempfile::tempdir().unwrap();
    compiled("int here(void) { return 1; }\n", &["-Wl,-soname,libabsent.so.7"], dependency.path());
    let path = dependency.path().join("library.so");
    let source = format!("{SYMBOLS}int here(void); int call(void) {{ return here(); }}\n");
    let library = compiled(&source, &[path.to_str().unwrap()], work.path());
    let words = ["libabsent.so.7: cannot open shared object file", "install the library that it needs"];
    altered_is_refused(&words, |bytes, _| *bytes = library).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_that_needs_a_newer_glibc() {
    let words = ["needs glibc 2.99, this machine has 2.", "or older"];
    altered_is_refused(&words, |_, manifest| manifest.needs.glibc = Some("2.99".parse().unwrap())).await;
    // A manifest that says nothing of it: the dynamic linker finds out.
    let words = ["version `GLIBC_2.99' not found", "as old as this machine's"];
    altered_is_refused(&words, |bytes, manifest| {
        let newest = format!("GLIBC_{}", manifest.needs.glibc.unwrap());
        let at = bytes.windows(newest.len()).position(|window| window == newest.as_bytes()).unwrap();
        bytes[at..at + newest.len()].copy_from_slice(b"GLIBC_2.99");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_of_another_application_or_with_a_range_that_excludes_this_one() {
    let words = ["it is a release of `chat`, this node runs `relmgr-faulty`", "repository.url"];
    altered_is_refused(&words, |_, manifest| manifest.name = "chat".into()).await;
    let words = ["may be upgraded to from >=1.0.5", "the current release is 1.0.0"];
    altered_is_refused(&words, |_, manifest| manifest.upgrade_from = Some(">=1.0.5".parse().unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_that_glibc_never_unmaps_is_named() {
    let (_work, sticky) = altered("1.0.1", |bytes, _| set_nodelete(bytes));
    let node = Node::serving("relmgr-faulty", SHORT, &[&release("faulty", "", "1.0.0"), &sticky]);
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    let done = node.relmgr(&["downgrade"]).ok();
    assert!(done.stderr.contains("1.0.1 is still in memory: glibc keeps it after dlclose"), "{done:?}");
    assert!(node.relmgr(&["status"]).ok().stdout.contains("NODELETE"));
    assert_eq!(get(node.address(), "/").await.1, "1.0.0");
}

/// Sets DF_1_NODELETE in the dynamic section's DT_FLAGS_1.
fn set_nodelete(bytes: &mut [u8]) {
    const DT_FLAGS_1: u64 = 0x6fff_fffb;
    const DF_1_NODELETE: u64 = 8;
    let word = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let headers = usize::try_from(word(bytes, 32)).unwrap();
    let dynamic = (0..).map(|number| headers + number * 56).find(|at| bytes[*at] == 2).unwrap();
    let section = usize::try_from(word(bytes, dynamic + 8)).unwrap();
    let entry = (0..).map(|number| section + number * 16).find(|at| word(bytes, *at) == DT_FLAGS_1).unwrap();
    let flags = word(bytes, entry + 8) | DF_1_NODELETE;
    bytes[entry + 8..entry + 16].copy_from_slice(&flags.to_le_bytes());
}

// ------------------------------------------------------------------------------- packages, repositories, the node

#[tokio::test(flavor = "multi_thread")]
async fn packages_that_are_truncated_corrupted_or_oversized() {
    let node = node_with(&release("faulty", "second", "1.0.1"));
    let path = node.repository().join("1.0.1.tar.gz");
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let longer = [whole.as_slice(), &[0; 100]].concat();
    let cases: [(&[u8], &str); 3] =
        [(&whole[..5000], "cut short"), (&flipped, "SHA-256 differs"), (&longer, "larger than the")];
    for (bytes, words) in cases {
        std::fs::write(&path, bytes).unwrap();
        refused(&node, "1.0.1", &[words, "publish it again"]).await;
        assert!(!node.home().join("releases/1.0.1").exists());
    }
    // What failed is no obstacle to a second try.
    std::fs::write(&path, whole).unwrap();
    node.relmgr(&["upgrade", "1.0.1"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_without_a_manifest_beside_it_serves_with_the_one_inside() {
    let node = node_with(&release("faulty", "second", "1.0.1"));
    std::fs::remove_file(node.repository().join("1.0.1.toml")).unwrap();
    node.relmgr(&["upgrade"]).ok();
    assert_eq!(get(node.address(), "/").await.1, "1.0.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_repositories_that_are_not_there() {
    let node = node_with(&release("faulty", "second", "1.0.1"));
    node.relmgr(&["upgrade", "yesterday"]).failed(2, &["yesterday", "is not a version"]);
    refused(&node, "7.7.7", &["7.7.7 is not in file://", "cargo relmgr list"]).await;
    std::fs::rename(node.repository(), node.repository().with_extension("away")).unwrap();
    refused(&node, "1.0.1", &["packages does not exist", "repository.url"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_were_changed_after_they_were_installed() {
    let node = node_with(&release("faulty", "second", "1.0.1"));
    node.relmgr(&["fetch", "1.0.1"]).ok();
    let library = node.home().join("releases/1.0.1/lib/librelmgr_faulty.so");
    let mut bytes = std::fs::read(&library).unwrap();
    bytes[4000] ^= 1;
    std::fs::write(&library, bytes).unwrap();
    refused(&node, "1.0.1", &["librelmgr_faulty.so is damaged", "remove the release and fetch it again"])
        .await;
    node.relmgr(&["remove", "1.0.1"]).ok();
    node.relmgr(&["upgrade", "1.0.1"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_nobody_knows_of_does_not_block_an_upgrade() {
    let node = node_with(&release("faulty", "second", "1.0.1"));
    let half = node.home().join("releases/1.0.1");
    std::fs::create_dir_all(half.join("lib")).unwrap();
    std::fs::write(half.join("lib/librelmgr_faulty.so"), "half").unwrap();
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    assert_eq!(get(node.address(), "/").await.1, "1.0.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_during_unpack_leaves_the_node_as_it_was() {
    assert!(nix::unistd::geteuid().is_root(), "this test mounts a small tmpfs, which needs root");
    let node = node_with(&release("faulty", "second", "1.0.1"));
    let staging = node.home().join("releases/.staging");
    let tmpfs = |size: &str| {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&staging);
        assert!(mount.status().unwrap().success());
    };
    // Room for part of the package, then for the package and part of what is in it.
    for size in ["64k", "2m"] {
        tmpfs(size);
        let done = node.relmgr(&["upgrade", "1.0.1"]);
        let left = std::fs::read_dir(&staging).unwrap().count();
        assert!(Command::new("umount").arg("-l").arg(&staging).status().unwrap().success());
        done.failed(1, &["No space left on device", "relmgr prune"]);
        assert_eq!(left, 0, "something is left with {size}");
        assert_eq!(get(node.address(), "/").await.1, "1.0.0");
        assert!(!node.home().join("releases/1.0.1").exists());
    }
    node.relmgr(&["upgrade", "1.0.1"]).ok();
}

#[test]
fn an_unsigned_release_is_refused_unless_the_node_allows_it() {
    let node = Node::new("relmgr-faulty", "");
    let settings = node.home().join("relmgr.toml");
    let text = std::fs::read_to_string(&settings).unwrap().replace("allow_unsigned = true\n", "");
    std::fs::write(settings, text).unwrap();
    node.publish(&release("faulty", "", "1.0.0"));
    let mut node = node;
    node.start();
    node.relmgr(&["upgrade"]).failed(1, &["nobody vouches for 1.0.0", "repository.allow_unsigned = true"]);
}

#[test]
fn settings_and_permissions_that_do_not_fit() {
    let node = Node::new("relmgr-faulty", "[http]\nversionpath = \"/v\"\n");
    node.relmgr(&["run"]).failed(1, &["relmgr.toml", "versionpath"]);
    let empty = tempfile::tempdir().unwrap();
    let path = empty.path().to_str().unwrap();
    node.relmgr(&["run", "--home", path]).failed(1, &["relmgr.toml cannot be read"]);
    node.relmgr(&["status", "--home", path]).failed(4, &["no relmgr.toml"]);
    let node = Node::new("relmgr-faulty", "");
    std::fs::create_dir_all(node.home().join("app.conf")).unwrap();
    std::fs::write(node.home().join("state.json"), "{\"format\": 1").unwrap();
    node.relmgr(&["run"]).failed(1, &["state.json cannot be used", "backup"]);
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let node = Node::new("relmgr-faulty", "");
    let settings = node.home().join("relmgr.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    let taken = busy.local_addr().unwrap().to_string();
    std::fs::write(&settings, text.replace("127.0.0.1:0", &taken)).unwrap();
    node.relmgr(&["run"]).failed(1, &[&taken, "another program"]);
}

#[test]
fn a_control_socket_of_another_user_is_refused_with_the_remedy() {
    assert!(nix::unistd::geteuid().is_root(), "this test runs a command as another user, which needs root");
    let node = Node::serving("relmgr-faulty", "", &[]);
    // The way to the socket is open, the socket is not.
    for directory in [node.home().parent().unwrap().to_owned(), node.home(), node.home().join("run")] {
        std::fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let program = std::fs::canonicalize(node.command(&[]).get_program()).unwrap();
    let copy = tempfile::Builder::new().prefix("relmgr").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(copy.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::copy(program, copy.path().join("relmgr")).unwrap();
    let mut command = Command::new(copy.path().join("relmgr"));
    command.args(["status", "--home"]).arg(node.home());
    std::os::unix::process::CommandExt::gid(&mut command, 65534);
    std::os::unix::process::CommandExt::uid(&mut command, 65534);
    let done: relmgr_testkit::kit::Done = command.output().unwrap().into();
    done.failed(1, &["control.sock is not open to this user", "run the command as the node's user"]);
}

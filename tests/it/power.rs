//! State tables on disk when the power goes.
//!
//! The node and its hosts are traced while a release commits one transaction after the other: each write of LMDB to its
//! file, each sync, each entry of a directory is seen in its order. What a disk may have then, if the power goes at any
//! moment, is made again (`relmgr_testkit::pages`) and opened as a host opens it. Each of these files must hold what
//! had been promised by that moment, all of a transaction or nothing of it, and be whole, its free pages included; and
//! a node that starts on it goes on.
//!
//! What this shows is that the calls are the right ones in the right order: a disk that keeps to its syncs and writes
//! sectors whole loses nothing. It does not show that there is such a disk.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use relmgr_tables::{Options, Store, Sync};
use relmgr_testkit::kit::{Node, release, wait_for};
use relmgr_testkit::pages::{Image, Watched};
use relmgr_testkit::trace::Watch;

use crate::tables::{APP, ask, kill_host};

/// Transactions of a run. Their numbers are one byte each in a record.
const STEPS: u64 = 24;

/// As in the release: counters that have the last step's number, and blobs that are kept.
const TOLD: usize = 40;
const KEPT: u64 = 5;

/// The form of these records: their value comes after a flag and the schema version.
const HEAD: usize = 5;

/// Where the tables of a node lie with `durability = "disk"`.
fn file(node: &Node) -> std::path::PathBuf {
    node.home().join("tables/data.mdb")
}

/// Has a node make its steps, among them an upgrade and a host that is killed; what the power may have left meanwhile.
async fn images(sync: &str) -> (Node, Vec<Image>) {
    let (one, two) = (release("tabled", "", "1.0.0"), release("tabled", "", "1.0.1"));
    let extra = format!("[tables]\ndurability = \"disk\"\nsync = \"{sync}\"\nmax_bytes = 16777216\n");
    let mut node = Node::new(APP, &extra);
    node.publish(&one);
    node.publish(&two);
    let watch = Watch::new(node.home()).with_children();
    let watched = Watched::new(file(&node));
    watch.record(watched.clone());
    node.start_traced(&watch);
    node.relmgr(&["upgrade", "1.0.0"]).ok();
    for number in 1..=STEPS {
        watched.begin_step(number);
        ask(&node, &format!("/step/{number}")).await;
        watched.end_step(number);
        match number {
            8 => drop(node.relmgr(&["upgrade", "1.0.1"]).ok()),
            16 => {
                kill_host(&node);
                watched.died();
            }
            _ => {}
        }
    }
    let images = watched.images();
    // What was committed last reaches the disk, too, though nothing follows it.
    wait_for("all is durable", || watched.is_durable().then_some(()));
    let last = watched.durable();
    assert_eq!(step_of(&last), STEPS);
    watch.disarm();
    node.kill_supervisor();
    (node, images)
}

/// The records of a table: the numbers of their keys, and their values.
fn records(store: &Store, nothing: &Store, table: &str) -> BTreeMap<u64, Vec<u8>> {
    let mut found = BTreeMap::new();
    let each = |key: &[u8], bytes: &[u8], _: Option<&[u8]>| {
        found.insert(u64::from_be_bytes(key.try_into().unwrap()), bytes[HEAD..].to_vec());
    };
    store.beside(nothing, table, each).unwrap();
    found
}

fn opened(directory: &Path) -> Store {
    Store::open(directory, Options { max_bytes: 16 << 20, sync: Sync::Never }).unwrap()
}

/// Opens what was left as a host does; the last step, of which all is there and nothing of a later one.
fn step_of(image: &Image) -> u64 {
    let (here, beside, copy) = (memory(), memory(), memory());
    write(image, here.path());
    let (store, nothing) = (opened(here.path()), opened(beside.path()));
    let counters = records(&store, &nothing, "counters");
    let step = counters.values().next().map_or(0, |value| u64::from(value[0]));
    let blobs = records(&store, &nothing, "blobs");
    for (key, value) in &blobs {
        let size = 100 + usize::try_from(*key).unwrap() * 1777 % 20_000;
        let bytes = &value[value.len() - size..];
        assert!(bytes.iter().all(|byte| u64::from(*byte) == *key), "blob {key} is another's");
    }
    if step > 0 {
        assert_eq!(counters.len(), TOLD);
        assert!(counters.values().all(|value| value[..] == [step as u8]), "half a transaction: {counters:?}");
    }
    let kept: Vec<u64> = (step.saturating_sub(KEPT - 1).max(1)..=step).collect();
    assert_eq!(Vec::from_iter(blobs.into_keys()), kept, "of step {step}");
    // LMDB goes through every page for that, and refuses when one is neither used nor free.
    store.copy(copy.path()).unwrap();
    step
}

fn memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

/// The file alone, in `directory`; the lock file is made anew by whoever is the first after a boot.
fn write(image: &Image, directory: &Path) {
    for name in ["lock.mdb", "data.mdb"] {
        match std::fs::remove_file(directory.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("{name}: {error}"),
            _ => {}
        }
    }
    if let Some(content) = image.content() {
        std::fs::write(directory.join("data.mdb"), content).unwrap();
    }
}

/// Judges every image; `late`: so many of the steps that were promised may be missing.
fn judge(images: &[Image], late: u64) {
    assert!(images.len() > 400, "too few to be sure of: {}", images.len());
    let mut missing = 0;
    for image in images {
        let opened = std::panic::catch_unwind(|| step_of(image));
        let step = opened.unwrap_or_else(|_| panic!("{}: not whole", image.when));
        let (promised, begun) = (image.promised, image.begun);
        assert!(step + late >= promised && step <= begun, "{}: {step}, promised {promised}", image.when);
        missing += u64::from(step < promised);
    }
    // What is allowed does happen: it is looked at in the right moments.
    assert_eq!(missing > 0, late > 0);
}

/// Starts the node on some of the images; it goes on from there.
async fn go_on(mut node: Node, images: &[Image]) {
    for image in images.iter().step_by(images.len() / 3) {
        write(image, file(&node).parent().unwrap());
        node.start();
        let told = ask(&node, "/counter/0").await.parse::<u64>().unwrap();
        assert!((image.promised.saturating_sub(1)..=image.begun).contains(&told), "{}: {told}", image.when);
        ask(&node, "/step/99").await;
        assert_eq!(ask(&node, "/counter/39").await, "99");
        node.kill_supervisor();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_loss_takes_nothing_back_that_was_committed() {
    let (node, images) = images("commit").await;
    judge(&images, 0);
    go_on(node, &images).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_loss_takes_back_the_last_commit_at_most_with_relaxed_syncs() {
    let (node, images) = images("relaxed").await;
    judge(&images, 1);
    go_on(node, &images).await;
}

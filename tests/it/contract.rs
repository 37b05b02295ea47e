//! The contract between host and application: libraries built against altered copies of it.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::client::get;
use relmgr_testkit::kit::{Node, Release, build, release, target_dir, wait_for};

/// A copy of the contract's crates and a fixture, for edits. It shares the workspace's lock file and target
/// directory, and every copy has the same path (the builder's flags name it), so that nothing but these crates is
/// compiled again.
struct Copy {
    root: PathBuf,
    fixture: &'static str,
    /// One copy at a time.
    _lock: Flock<File>,
}

impl Copy {
    fn new() -> Self {
        Self::of("faulty")
    }

    fn of(fixture: &'static str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let place = target_dir().join("relmgr-contract");
        std::fs::create_dir_all(&place).unwrap();
        let lock = File::create(place.join("lock")).unwrap();
        let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap();
        let copy = Self { root: place.join("copy"), fixture, _lock: lock };
        if copy.root.exists() {
            std::fs::remove_dir_all(&copy.root).unwrap();
        }
        let fixture = format!("tests/fixtures/{fixture}");
        let directories = [
            "crates/abi",
            "crates/app",
            "crates/app-derive",
            "crates/conf",
            "crates/model",
            "crates/tables",
            &fixture,
        ];
        for directory in directories {
            copy_tree(&root.join(directory), &copy.path(directory));
        }
        std::fs::copy(root.join("Cargo.lock"), copy.path("Cargo.lock")).unwrap();
        let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
        let (start, rest) = manifest.split_once("members = [").unwrap();
        let (_, rest) = rest.split_once(']').unwrap();
        std::fs::write(copy.path("Cargo.toml"), format!("{start}members = {directories:?}{rest}")).unwrap();
        copy
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Replaces `from`, which must be there, by `to`.
    fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.path(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no `{from}`");
        std::fs::write(path, text.replace(from, to)).unwrap();
    }

    /// Takes one of the instance's functions away.
    fn without(&self, function: &str) {
        let path = self.path("crates/abi/src/root.rs");
        let text = std::fs::read_to_string(&path).unwrap();
        let field = format!("    pub {function}:");
        let lines: Vec<&str> = text.lines().collect();
        let at = lines.iter().position(|line| line.starts_with(&field)).expect("the field is there");
        let documented = lines[..at].iter().rev().take_while(|line| line.starts_with("    ///")).count();
        let ends = lines[at..].iter().position(|line| line.ends_with(',')).expect("the field ends");
        let rest = [&lines[..at - documented], &lines[at + ends + 1..]].concat();
        std::fs::write(path, rest.join("\n")).unwrap();
        let parameters = if function.starts_with("state_") { "A, K" } else { "A" };
        let ffi = format!("        {function}: instance::ffi_{function}::<{parameters}>,\n");
        self.edit("crates/app/src/export.rs", &ffi, "");
        let head = format!("pub(crate) unsafe extern \"C\" fn ffi_{function}<");
        self.edit("crates/app/src/instance/ffi.rs", &head, &format!("#[allow(dead_code)]\n{head}"));
    }

    /// Takes away what came with contract 1.3: what is older ends before it.
    fn without_what_is_new(&self) {
        for function in ["state_out", "state_in", "state_back", "hand_down", "sessions"] {
            self.without(function);
        }
        for function in ["session_open", "session_message", "session_close", "wind_up"] {
            self.without(function);
        }
        let root = std::fs::read_to_string(self.path("crates/abi/src/root.rs")).unwrap();
        let start = root.find("    /// The form of its state:").expect("the field is there");
        let len = root[start..].find("}\n").expect("the type ends");
        self.edit("crates/abi/src/root.rs", &root[start..start + len], "");
        for (field, function) in [
            ("state", "state"),
            ("code_change", "instance::code_change"),
            ("change_back", "instance::change_back"),
        ] {
            self.edit("crates/app/src/export.rs", &format!("        {field}: {function}::<A, K>,\n"), "");
        }
        let none = "None::<extern \"C\" fn() -> abi_stable::std_types::RVec<u8>>";
        self.edit("crates/abi/src/library.rs", "entry.root.state()", none);
    }

    /// The release 1.0.1 of the fixture as it is here.
    fn release(&self, name: &str) -> Release {
        // Of its own name, so that the cache of releases knows it from others.
        let renamed = self.path(&format!("tests/fixtures/{name}"));
        let fixture = format!("tests/fixtures/{}", self.fixture);
        std::fs::rename(self.path(&fixture), &renamed).unwrap();
        self.edit("Cargo.toml", &fixture, &format!("tests/fixtures/{name}"));
        build(&renamed.join("Cargo.toml"), "", "1.0.1")
    }
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let dest = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &dest);
        } else {
            std::fs::copy(entry.path(), dest).unwrap();
        }
    }
}

async fn refused(bad: &Release, words: &[&str]) {
    let node = Node::serving("relmgr-faulty", "", &[&release("faulty", "", "1.0.0"), bad]);
    node.relmgr(&["upgrade", "1.0.1"]).failed(1, words);
    assert_eq!(get(node.address(), "/").await, (200, "1.0.0".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_type_that_lies_elsewhere_is_refused_by_its_fingerprint() {
    let copy = Copy::new();
    copy.edit(
        "crates/abi/src/head.rs",
        "pub struct ConnectionFacts {",
        "pub struct ConnectionFacts {\n    /// New.\n    pub mark: u64,",
    );
    copy.edit("crates/app/src/lib.rs", "mod body;", "#[allow(unused)]\nmod body;");
    refused(
        &copy.release("fingerprint"),
        &["contract types differ", "fingerprint", "rebuild it with relmgr-app"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_type_of_another_kind_in_the_same_place_is_refused_by_its_layout() {
    let copy = Copy::new();
    // Two bytes instead of one, before a field that is aligned to eight: every byte lies where it lay.
    copy.edit("crates/abi/src/root.rs", "pub level: u8,", "pub level: u16,");
    copy.edit("crates/app/src/log.rs", "level: u8", "level: u16");
    refused(&copy.release("layout"), &["contract types differ from this relmgr's", "rebuild it"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_of_a_newer_contract_asks_for_a_newer_relmgr() {
    let copy = Copy::new();
    copy.edit("crates/abi/src/lib.rs", "ABI_MINOR: u32 = 3", "ABI_MINOR: u32 = 4");
    refused(&copy.release("newer"), &["built against contract 1.4, this relmgr speaks 1.3", "update relmgr"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_of_the_contract_before_it_grew_is_served() {
    let copy = Copy::new();
    copy.without_what_is_new();
    copy.edit("crates/abi/src/lib.rs", "ABI_MINOR: u32 = 3", "ABI_MINOR: u32 = 0");
    // Contract 1.0 has no schema, and a library may do without telling who it is.
    for (name, field) in [
        (
            "schema",
            "    /// Which settings it has, for the release builder. Since contract 1.1.\n    pub schema: extern \"C\" fn() -> SchemaText,\n",
        ),
        (
            "describe",
            "    /// Who it is. Beyond the fixed part: a host does without it.\n    pub describe: extern \"C\" fn() -> Description,\n",
        ),
    ] {
        copy.edit("crates/abi/src/root.rs", field, "");
        copy.edit("crates/app/src/export.rs", &format!("        {name}: {name}::<A>,\n"), "");
        let function = format!("extern \"C\" fn {name}<A");
        copy.edit("crates/app/src/export.rs", &function, &format!("#[allow(dead_code)]\n{function}"));
    }
    let none = "None::<extern \"C\" fn() -> crate::root::SchemaText>";
    copy.edit("crates/abi/src/library.rs", "entry.root.schema()", none);
    let old = copy.release("older");
    let node = Node::serving("relmgr-faulty", "", &[&release("faulty", "", "1.0.0"), &old]);
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    assert_eq!(get(node.address(), "/").await, (200, "1.0.1".into()));
    node.relmgr(&["downgrade"]).ok();
    assert_eq!(node.mapped().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_that_cannot_be_told_of_changed_settings_gets_them_at_the_restart() {
    let copy = Copy::of("live");
    copy.without_what_is_new();
    for function in ["conf_change", "children", "suspend_within"] {
        copy.without(function);
    }
    copy.edit("crates/abi/src/lib.rs", "ABI_MINOR: u32 = 3", "ABI_MINOR: u32 = 0");
    let old = copy.release("live-older");
    let node = Node::serving("relmgr-live", "", &[&old]);
    let settings = async || get(node.address(), "/settings").await.1;
    let before = settings().await;
    std::fs::write(node.home().join("app.conf"), "Repo.pool_size = 77\n").unwrap();
    let done = node.relmgr(&["reload"]).ok();
    assert!(done.stdout.contains("next upgrade: Repo.pool_size"), "{done:?}");
    assert_eq!(settings().await, before);
    node.relmgr(&["restart"]).ok();
    assert!(settings().await.contains("\"pool_size\":77"));
    let pending = || node.status().conf.unwrap().pending;
    wait_for("nothing waits", || pending().is_empty().then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_that_does_not_show_its_children_has_them_all_the_same() {
    let copy = Copy::new();
    copy.without_what_is_new();
    for function in ["children", "suspend_within"] {
        copy.without(function);
    }
    copy.edit("crates/abi/src/lib.rs", "ABI_MINOR: u32 = 3", "ABI_MINOR: u32 = 1");
    let old = copy.release("childless");
    let node = Node::serving("relmgr-faulty", "", &[&release("faulty", "", "1.0.0"), &old]);
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    assert_eq!(node.status().generations.pop().unwrap().children, []);
    // They end as they did, or its library would stay in memory.
    node.relmgr(&["downgrade"]).ok();
    assert_eq!(node.mapped().len(), 1);
}

//! In-memory state goes from one release to the next and back, and whatever goes wrong with it leaves it where it was.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use relmgr_testkit::kit::{Done, Node, Release, bin, release, wait_for};
use tokio::task::JoinHandle;

use crate::client::{Connection, get};

pub type Numbers = BTreeMap<String, i64>;

/// A node with releases of all three forms: 1.0.1 is of the first, 1.0.2 of the second, 1.0.3 of the third.
pub struct Scene {
    pub node: Node,
    told: PathBuf,
    _directory: tempfile::TempDir,
}

fn forms() -> [Release; 3] {
    [("", "1.0.1"), ("two", "1.0.2"), ("three", "1.0.3")]
        .map(|(features, version)| release("state", features, version))
}

impl Scene {
    pub fn new(settings: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let told = directory.path().join("told");
        let node = Node::new("relmgr-state", settings);
        forms().iter().for_each(|release| node.publish(release));
        let mut scene = Self { node, told, _directory: directory };
        scene.start();
        scene.node.relmgr(&["upgrade", "1.0.1"]).ok();
        scene
    }

    /// Starts the node, for the first time or again.
    pub fn start(&mut self) {
        self.node.start_with(&[("RELMGR_TEST_STATE", self.told.to_str().unwrap())]);
    }

    /// Says what is to go wrong from now on.
    pub fn tell(&self, words: &str) {
        // Nobody reads half of it.
        let new = self.told.with_extension("new");
        std::fs::write(&new, words).unwrap();
        std::fs::rename(new, &self.told).unwrap();
    }

    pub async fn get(&self, path: &str) -> String {
        let (status, body) = get(self.node.address(), path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub async fn add(&self, key: &str, by: i64) {
        self.get(&format!("/add?key={key}&by={by}")).await;
    }

    pub async fn all(&self) -> Numbers {
        serde_json::from_str(&self.get("/all").await).unwrap()
    }

    /// Waits until somebody waits as it was told to.
    pub fn wait_at(&self, word: &str) {
        let path = PathBuf::from(format!("{}.{word}", self.told.display()));
        wait_for(word, || path.exists().then_some(()));
    }

    /// From now on those who wait are new ones.
    pub fn forget_waits(&self) {
        for entry in std::fs::read_dir(self.told.parent().unwrap()).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("told.")) {
                std::fs::remove_file(path).unwrap();
            }
        }
    }

    pub fn current(&self) -> String {
        self.node.current().unwrap()
    }
}

pub fn numbers(of: &[(&str, i64)]) -> Numbers {
    of.iter().map(|(key, number)| ((*key).to_owned(), *number)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn state_goes_up_and_down_over_several_schemas() {
    let scene = Scene::new("");
    scene.add("a", 5).await;
    scene.add("b", -7).await;
    for (command, version, schema) in [
        ("upgrade", "1.0.2", "2"),
        ("upgrade", "1.0.3", "3"),
        ("downgrade", "1.0.1", "1"),
        ("upgrade", "1.0.3", "3"),
        ("downgrade", "1.0.2", "2"),
        ("downgrade", "1.0.1", "1"),
    ] {
        let done = scene.node.relmgr(&[command, version]).ok();
        assert!(done.stderr.contains("code_change"), "{done:?}");
        assert_eq!(scene.get("/schema").await, schema);
        assert_eq!(scene.all().await, numbers(&[("a", 5), ("b", -7)]), "{command} {version}");
    }
    assert_eq!(scene.node.mapped().len(), 1, "{:?}", scene.node.mapped());
    let manifest = scene.node.home().join("releases/1.0.3/manifest.toml");
    let manifest = std::fs::read_to_string(manifest).unwrap();
    assert!(
        manifest.contains("[state]\nversion = 3") && manifest.contains("hands_back = true"),
        "{manifest}"
    );
}

/// Clients that count up, each a number of its own, and keep account of what they were answered.
struct Counting {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<i64>>,
}

impl Counting {
    fn start(scene: &Scene, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let address = scene.node.address();
        let client = |number: usize| {
            let stop = stop.clone();
            tokio::spawn(async move {
                let mut connection = Connection::open(address).await;
                let path = format!("/add?key=client{number}&by=1");
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    let (status, body) = connection.get(&path).await.unwrap();
                    count += 1;
                    assert_eq!((status, body), (200, count.to_string()), "client {number}");
                }
                count
            })
        };
        Self { clients: (0..clients).map(client).collect(), stop }
    }

    async fn stop(self) -> Numbers {
        self.stop.store(true, Ordering::Relaxed);
        let mut counts = Numbers::new();
        for (number, client) in self.clients.into_iter().enumerate() {
            counts.insert(format!("client{number}"), client.await.unwrap());
        }
        counts
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_update_is_lost_over_two_hundred_swaps_under_load() {
    let scene = Scene::new("");
    scene.node.relmgr(&["fetch", "1.0.2"]).ok();
    let counting = Counting::start(&scene, 4);
    let round = [("upgrade", "1.0.3"), ("downgrade", "1.0.2"), ("upgrade", "1.0.3"), ("downgrade", "1.0.1")];
    for (command, version) in round.iter().cycle().take(200) {
        scene.node.relmgr(&[command, version]).ok();
    }
    let counts = counting.stop().await;
    assert_eq!(scene.all().await, counts);
    assert!(counts.values().all(|count| *count > 200), "{counts:?}");
}

/// What is refused, or fails, leaves the release that serves and its state as they were.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_on_the_way_leaves_the_old_state_intact() {
    let scene = Scene::new("[upgrade]\nquiesce = \"3s\"\n");
    scene.add("a", 5).await;
    let expected = numbers(&[("a", 5)]);
    let (up, down) = (["upgrade", "1.0.3", "--retry"], ["downgrade", "1.0.1", "--retry"]);
    let faults = |args: [&'static str; 3], serving: &'static str, step: &str, taker: u32| {
        let faults = [
            (format!("{step}-fails"), format!("{step} fails on purpose")),
            (format!("{step}-panics"), format!("{step} panics on purpose")),
            (format!("{step}-hangs"), "took longer than 3s (upgrade.quiesce)".into()),
            ("garbage".into(), "code_change failed".into()),
            ("suspend-fails".into(), "suspend fails on purpose".into()),
            ("suspend-panics".into(), "suspend panics on purpose".into()),
            ("suspend-hangs".into(), "took longer than 3s (upgrade.quiesce)".into()),
            (format!("resume-of-{taker}"), "resume fails on purpose".to_owned()),
        ];
        faults.map(|(told, words): (String, String)| (args, serving, told, words))
    };
    let mut cases = faults(up, "1.0.1", "up", 3).to_vec();
    cases.extend(faults(down, "1.0.3", "down", 1));
    for (at, (args, serving, told, words)) in cases.iter().enumerate() {
        if at == cases.len() / 2 {
            scene.node.relmgr(&up).ok();
        }
        scene.tell(told);
        scene.node.relmgr(args).failed(1, &[words, "code change"]);
        scene.tell("");
        assert_eq!(scene.current(), *serving, "{told}");
        assert_eq!(scene.all().await, expected, "{told}");
        scene.add("a", 1).await;
        scene.add("a", -1).await;
        // One that hung has come to its end, and nothing is left of what was tried.
        wait_for("one library is left", || (scene.node.mapped().len() == 1).then_some(()));
    }
    scene.node.relmgr(&down).ok();
    assert_eq!(scene.all().await, expected);
}

/// A step down by reference has hold of the state for as long as it runs, also when it does not come to its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_killed_in_the_middle_of_it_comes_back_with_the_old_release() {
    let scene = Scene::new("");
    scene.add("a", 5).await;
    scene.tell("up-aborts");
    scene
        .node
        .relmgr(&["upgrade", "1.0.3"])
        .failed(1, &["died", "what was kept in memory is lost with the host"]);
    scene.tell("");
    assert_eq!((scene.current().as_str(), scene.get("/schema").await.as_str()), ("1.0.1", "1"));
    assert_eq!(scene.all().await, Numbers::new());
    let history = scene.node.relmgr(&["history"]).ok().stdout;
    assert!(history.contains("lost with the host"), "{history}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_does_not_end_ends_the_upgrade_and_a_body_that_streams_does_not() {
    let scene = Scene::new("[upgrade]\nquiesce = \"2s\"\n");
    scene.add("a", 5).await;
    scene.tell("wait");
    let mut waiting = Connection::open(scene.node.address()).await;
    let waiting = tokio::spawn(async move { waiting.get("/wait").await });
    wait_for("the handler runs", || (scene.node.status().generations[0].in_flight == 1).then_some(()));
    let done = scene.node.relmgr(&["upgrade", "1.0.3"]);
    done.failed(1, &["1 request was not over within 2s (upgrade.quiesce)"]);
    scene.tell("");
    assert_eq!(waiting.await.unwrap(), Ok((200, "waited".into())));

    // The release was not to blame: no `--retry`.
    let address = scene.node.address();
    let streaming = tokio::spawn(async move { get(address, "/stream").await });
    wait_for("the body streams", || (scene.node.status().generations[0].in_flight == 1).then_some(()));
    let mut upgrade = scene.node.command(&["upgrade", "1.0.3"]);
    let upgrade = tokio::task::spawn_blocking(move || Done::from(upgrade.output().unwrap()));
    wait_for("the new release serves", || (scene.current() == "1.0.3").then_some(()));
    assert_eq!(scene.all().await, numbers(&[("a", 5)]));
    scene.tell("stream-ends");
    assert_eq!(streaming.await.unwrap().0, 200);
    upgrade.await.unwrap().ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_in_a_bounded_queue() {
    let scene = Scene::new("[upgrade]\nquiesce = \"50s\"\n[http.limits]\nheld = 2\n");
    let address = scene.node.address();
    scene.tell("suspend-hangs");
    let mut upgrade = scene.node.command(&["upgrade", "1.0.3"]);
    let upgrade = tokio::task::spawn_blocking(move || Done::from(upgrade.output().unwrap()));
    let (mut waiting, mut turned_away) = (vec![], 0);
    while turned_away < 3 {
        // One that is not answered at once may be waiting: the next one is asked beside it.
        let mut asked = tokio::spawn(async move { get(address, "/schema").await });
        match tokio::time::timeout(std::time::Duration::from_secs(1), &mut asked).await {
            Ok(answer) => turned_away += i32::from(is_turned_away(&answer.unwrap())),
            Err(_) => waiting.push(asked),
        }
    }
    // The host answers this one itself.
    assert_eq!(get(address, "/api/public/version").await, (200, "1.0.1".into()));
    scene.tell("");
    let mut waited = 0;
    for asked in waiting {
        let answer = asked.await.unwrap();
        turned_away += i32::from(is_turned_away(&answer));
        waited += i32::from(answer == (200, "3".into()));
    }
    assert_eq!(waited, 2, "they waited for the new release");
    let done = upgrade.await.unwrap().ok();
    let told = format!("{turned_away} requests found no room to wait in");
    assert!(done.stderr.contains(&told), "{told}: {done:?}");
    assert!(done.stderr.contains("2 requests waited"), "{done:?}");
}

fn is_turned_away((status, body): &(u16, String)) -> bool {
    match status {
        503 => assert!(body.contains("too many requests wait"), "{body}"),
        // Of those that came before the gate was shut, or after it opened.
        _ => assert!(["1", "3"].contains(&body.as_str()), "{status}: {body}"),
    }
    *status == 503
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_too_large_stays_where_it_is() {
    let scene = Scene::new("[upgrade]\nstate_max = 600000\n");
    scene.get("/fill?records=100000").await;
    let done = scene.node.relmgr(&["upgrade", "1.0.2"]);
    done.failed(1, &["larger than 600000 bytes (upgrade.state_max)"]);
    assert_eq!(scene.all().await.len(), 100_000);
    scene.get("/fill?records=10000").await;
    scene.node.relmgr(&["upgrade", "1.0.2"]).ok();
    assert_eq!(scene.all().await.len(), 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_way_is_refused_before_anything_stops_unless_the_state_may_be_lost() {
    let scene = Scene::new("");
    // Nobody would want this one, and only who insists publishes it.
    let other = release("state", "other-shape", "1.0.4");
    let publish = |more: &[&str]| {
        let mut command = std::process::Command::new(bin("cargo-relmgr"));
        command.args(["relmgr", "publish", "--no-delta", "--repository", &scene.node.repository_url()]);
        Done::from(command.args(more).arg(&other.out).output().unwrap())
    };
    publish(&[]).failed(1, &["cannot be told from that of 1.0.3", "another #[state(version = "]);
    publish(&["--no-channel"]).ok();
    for (features, version) in [("none", "1.0.5"), ("one-way", "1.0.6")] {
        scene.node.publish(&release("state", features, version));
    }
    scene.add("a", 5).await;
    let refusals = [
        ("1.0.4", "its state has schema 1 as well, but another shape"),
        ("1.0.5", "it keeps no state, the release that serves does (schema 1)"),
    ];
    for (version, words) in refusals {
        let remedy = format!("`relmgr upgrade {version} --lose-state` leaves it behind");
        scene.node.relmgr(&["upgrade", version]).failed(1, &[words, &remedy]);
        scene.node.relmgr(&["check", version]).failed(1, &[words]);
    }
    scene.node.relmgr(&["upgrade", "1.0.6"]).ok();
    assert_eq!(scene.all().await, numbers(&[("a", 5)]));
    let done = scene.node.relmgr(&["downgrade", "1.0.1"]);
    done.failed(1, &["hands back to no other, not to schema 1", "relmgr downgrade 1.0.1 --lose-state"]);
    assert_eq!(scene.all().await, numbers(&[("a", 5)]));
    scene.node.relmgr(&["downgrade", "1.0.1", "--lose-state"]).ok();
    assert_eq!(scene.all().await, Numbers::new());
    scene.node.relmgr(&["upgrade", "1.0.5", "--lose-state"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_hands_the_state_back_or_goes_on_with_what_was_handed_over() {
    let scene = Scene::new("[upgrade]\nprobation = \"10m\"\nquiesce = \"3s\"\n");
    scene.add("a", 5).await;
    scene.node.relmgr(&["upgrade", "1.0.3", "--detach"]).ok();
    wait_for("it is on probation", || scene.node.status().probation_ends_at);
    scene.add("a", 1).await;
    scene.node.relmgr(&["rollback"]).ok();
    assert_eq!((scene.get("/schema").await.as_str(), scene.all().await), ("1", numbers(&[("a", 6)])));

    for (at, told) in ["down-panics", "down-hangs", "suspend-fails"].into_iter().enumerate() {
        wait_for("the operation is over", || scene.node.is_settled().then_some(()));
        scene.node.relmgr(&["upgrade", "1.0.3", "--retry", "--detach"]).ok();
        wait_for("it is on probation", || scene.node.status().probation_ends_at);
        scene.add("a", 1).await;
        scene.tell(told);
        let rollback =
            scene.node.command(&["rollback"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let told_of_loss = "1.0.1 goes on with the state that it had handed over, what changed since is lost";
        let losses = |text: &str| {
            text.lines().filter(|line| line.contains("WARN") && line.contains(told_of_loss)).count()
        };
        wait_for("the loss is logged", || (losses(&scene.node.log()) > at).then_some(()));
        // What hangs may end now: the command waits for it.
        scene.tell("");
        Done::from(rollback.wait_with_output().unwrap()).ok();
        assert_eq!(scene.all().await, numbers(&[("a", 6)]), "{told}: as it was at the swap");
        wait_for("the history tells of the loss", || {
            let history = std::fs::read_to_string(scene.node.home().join("history.jsonl")).unwrap();
            let last = history.lines().rfind(|line| line.contains("\"upgrade\"")).unwrap();
            last.contains(told_of_loss).then_some(())
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_panics_on_probation_gives_the_state_back() {
    let scene = Scene::new("[upgrade]\nprobation = \"10m\"\n");
    scene.add("a", 5).await;
    scene.node.relmgr(&["upgrade", "1.0.2", "--detach"]).ok();
    wait_for("it is on probation", || scene.node.status().probation_ends_at);
    scene.add("a", 1).await;
    for _ in 0..3 {
        get(scene.node.address(), "/panic").await;
    }
    wait_for("the release before serves again", || (scene.current() == "1.0.1").then_some(()));
    assert_eq!(scene.all().await, numbers(&[("a", 6)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_takes_the_state_along_to_the_new_host() {
    let scene = Scene::new("");
    scene.add("a", 5).await;
    let before = scene.node.host_pid();
    scene.node.relmgr(&["restart"]).ok();
    assert_ne!(scene.node.host_pid(), before);
    assert_eq!(scene.all().await, numbers(&[("a", 5)]));

    let serving = scene.node.host_pid();
    scene.tell("garbage");
    let done = scene.node.relmgr(&["restart"]);
    scene.tell("");
    done.failed(1, &["did not get to the new host", "relmgr restart --lose-state"]);
    assert_eq!(scene.node.host_pid(), serving);
    assert_eq!(scene.all().await, numbers(&[("a", 5)]));
    scene.node.relmgr(&["restart", "--lose-state"]).ok();
    assert_eq!(scene.all().await, Numbers::new());
}

/// What may happen to a node with state.
#[derive(Debug, Clone)]
enum Step {
    Add {
        key: usize,
        by: i64,
    },
    Go {
        to: usize,
    },
    Fail {
        to: usize,
        how: usize,
    },
    /// A newer release on probation, which is committed or not.
    Try {
        to: usize,
        commits: bool,
    },
    Restart,
    KillHost,
    KillSupervisor,
}

const KEYS: [&str; 3] = ["a", "b", "c"];
const VERSIONS: [&str; 3] = ["1.0.1", "1.0.2", "1.0.3"];
const FAULTS: [&str; 4] = ["up-fails down-fails", "up-panics down-panics", "garbage", "suspend-fails"];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..KEYS.len(), -9_i64..9).prop_map(|(key, by)| Step::Add { key, by }),
        6 => (0..VERSIONS.len()).prop_map(|to| Step::Go { to }),
        2 => (0..VERSIONS.len(), 0..FAULTS.len()).prop_map(|(to, how)| Step::Fail { to, how }),
        3 => (1..VERSIONS.len(), any::<bool>()).prop_map(|(to, commits)| Step::Try { to, commits }),
        1 => Just(Step::Restart),
        1 => Just(Step::KillHost),
        1 => Just(Step::KillSupervisor),
    ]
}

/// The model: a map, and the version that serves. A host that dies takes the map along.
fn take(runtime: &tokio::runtime::Runtime, scene: &mut Scene, model: &mut (Numbers, usize), step: &Step) {
    let go = |to: usize| match to > model.1 {
        true => scene.node.relmgr(&["upgrade", VERSIONS[to], "--retry", "--no-probation"]),
        false => scene.node.relmgr(&["downgrade", VERSIONS[to], "--retry"]),
    };
    match step {
        Step::Add { key, by } => {
            runtime.block_on(scene.add(KEYS[*key], *by));
            *model.0.entry(KEYS[*key].to_owned()).or_default() += by;
        }
        // One that was never there is not gone back to: it would be on probation, which is waited for.
        Step::Go { to } | Step::Fail { to, .. }
            if *to < model.1 && !scene.node.home().join("releases").join(VERSIONS[*to]).exists() => {}
        Step::Go { to } => {
            go(*to).ok();
            model.1 = *to;
        }
        Step::Fail { to, how } => {
            scene.tell(FAULTS[*how]);
            let done = go(*to);
            scene.tell("");
            // Between neighbours of the upper two forms there is no step that fails.
            match done.code {
                0 => model.1 = *to,
                code => assert_eq!(code, 1, "{done:?}"),
            }
        }
        // What serves is not tried.
        Step::Try { to, .. } if *to <= model.1 => {}
        Step::Try { to, commits } => {
            scene.node.relmgr(&["upgrade", VERSIONS[*to], "--retry", "--detach"]).ok();
            wait_for("it is on probation", || scene.node.status().probation_ends_at);
            runtime.block_on(scene.add(KEYS[0], 1));
            *model.0.entry(KEYS[0].to_owned()).or_default() += 1;
            scene.node.relmgr(&[if *commits { "commit" } else { "rollback" }]).ok();
            wait_for("the operation is over", || scene.node.is_settled().then_some(()));
            if *commits {
                model.1 = *to;
            }
        }
        Step::Restart => drop(scene.node.relmgr(&["restart"]).ok()),
        Step::KillSupervisor => {
            scene.node.kill_supervisor();
            scene.start();
            model.0.clear();
        }
        Step::KillHost => {
            let died = scene.node.host_pid();
            nix::sys::signal::kill(died, nix::sys::signal::Signal::SIGKILL).unwrap();
            wait_for("another host serves", || {
                let status = scene.node.status();
                let serves =
                    status.current.is_some() && status.host_pid != Some(died.as_raw().cast_unsigned());
                serves.then_some(())
            });
            model.0.clear();
        }
    }
}

#[test]
fn any_sequence_ends_with_what_the_model_has() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // A soak sets PROPTEST_CASES.
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(4);
    let config = Config { cases, max_shrink_iters: 40, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&proptest::collection::vec(step(), 1..14), |steps| {
            let mut scene = Scene::new(
                "[upgrade]\nprobation = \"10m\"\ndrain = \"2s\"\n[supervisor]\nintensity = 1000\n",
            );
            let mut model = (Numbers::new(), 0);
            for step in &steps {
                take(&runtime, &mut scene, &mut model, step);
                let found = (runtime.block_on(scene.all()), scene.current());
                let expected = (model.0.clone(), VERSIONS[model.1].to_owned());
                prop_assert_eq!(found, expected, "{:?}", step);
            }
            Ok(())
        })
        .unwrap();
}

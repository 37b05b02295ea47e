//! Any sequence of operations, upgrades, downgrades and deaths ends with the content that a plain map has.
//!
//! What is a host in a node is a process of its own here: this test's executable, which serves one table to releases of
//! three schema versions and is commanded over a pipe. It is killed between commands, and in the middle of one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::releases::{First, Item, Second, Third};
use crate::Context;
use crate::tables::testing::{Alone, hand_down, sweep};
use crate::tables::{Record, Table, TableError};

const DIRECTORY: &str = "RELMGR_TABLES_OF_A_TEST";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Action {
    Put {
        key: u64,
        number: u64,
    },
    /// Ten in one transaction.
    PutTen {
        key: u64,
        number: u64,
    },
    Delete {
        key: u64,
    },
    Add {
        key: u64,
        by: u64,
    },
    /// The release of this schema version is started; the one that serves goes on.
    Start {
        schema: u32,
    },
    /// What was started serves, and the one before it can be asked no more.
    Commit,
    /// What was started goes.
    Rollback,
    Sweep,
    Read,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Do(Action),
    /// The process is killed when it has answered …
    Kill,
    /// … or so soon after it was told to do this.
    KillWithin(Action, u8),
}

/// The items and the counters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    items: BTreeMap<u64, u64>,
    counters: BTreeMap<u64, u64>,
}

impl Content {
    fn apply(&mut self, action: Action) {
        match action {
            Action::Put { key, number } => _ = self.items.insert(key, number),
            Action::PutTen { key, number } => {
                for more in 0..10 {
                    self.items.insert(key + more, number);
                }
            }
            Action::Delete { key } => _ = self.items.remove(&key),
            Action::Add { key, by } => *self.counters.entry(key).or_default() += by,
            Action::Start { .. } | Action::Commit | Action::Rollback | Action::Sweep | Action::Read => {}
        }
    }
}

/// One generation.
enum Generation {
    First(Opened<First>),
    Second(Opened<Second>),
    Third(Opened<Third>),
}

struct Opened<V> {
    context: Context,
    items: Table<u64, V>,
    counters: Table<u64, u64>,
}

impl<V: Item> Opened<V> {
    fn new(alone: &Alone) -> Result<Self, TableError> {
        let context = alone.context("1.0.0");
        Ok(Self { items: context.table("items")?, counters: context.table("counters")?, context })
    }

    fn act(&self, action: Action) -> Result<Option<Content>, TableError> {
        match action {
            Action::Put { key, number } => self.items.put(&key, &V::of(number))?,
            Action::PutTen { key, number } => self.items.tables.write(|txn| {
                (0..10).try_for_each(|more| txn.put(&self.items, &(key + more), &V::of(number)))
            })?,
            Action::Delete { key } => drop(self.items.delete(&key)?),
            Action::Add { key, by } => drop(self.counters.add(&key, by)?),
            Action::Sweep => sweep(&self.context)?,
            Action::Read => return self.read().map(Some),
            Action::Start { .. } | Action::Commit | Action::Rollback => {}
        }
        Ok(None)
    }

    fn read(&self) -> Result<Content, TableError> {
        let number = |item: &V| u64::try_from(item.number()).unwrap();
        let items = self.items.range(..).map(|record| record.map(|(key, item)| (key, number(&item))));
        let counters = self.counters.range(..);
        Ok(Content { items: items.collect::<Result<_, _>>()?, counters: counters.collect::<Result<_, _>>()? })
    }
}

impl Generation {
    fn start(alone: &Alone, schema: u32) -> Result<Self, TableError> {
        Ok(match schema {
            First::SCHEMA => Self::First(Opened::new(alone)?),
            Second::SCHEMA => Self::Second(Opened::new(alone)?),
            _ => Self::Third(Opened::new(alone)?),
        })
    }

    fn context(&self) -> &Context {
        match self {
            Self::First(opened) => &opened.context,
            Self::Second(opened) => &opened.context,
            Self::Third(opened) => &opened.context,
        }
    }

    fn act(&self, action: Action) -> Result<Option<Content>, TableError> {
        match self {
            Self::First(opened) => opened.act(action),
            Self::Second(opened) => opened.act(action),
            Self::Third(opened) => opened.act(action),
        }
    }
}

/// What the process serves with: the release before comes back on a rollback.
struct Served {
    alone: Alone,
    current: Generation,
    before: Option<Generation>,
}

impl Served {
    fn act(&mut self, action: Action) -> Result<Option<Content>, TableError> {
        match action {
            Action::Start { schema } if self.before.is_none() => {
                let candidate = Generation::start(&self.alone, schema)?;
                // As the host has it done before every swap.
                hand_down(self.current.context())?;
                self.before = Some(std::mem::replace(&mut self.current, candidate));
            }
            Action::Commit => {
                if let Some(before) = self.before.take() {
                    before.context().close_tables();
                }
            }
            Action::Rollback => {
                if let Some(before) = self.before.take() {
                    std::mem::replace(&mut self.current, before).context().close_tables();
                }
            }
            action => return self.current.act(action),
        }
        Ok(None)
    }
}

/// The process that is killed. It does nothing where nobody commands it.
#[test]
#[ignore = "a part of the test below, in a process of its own"]
fn host_process() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let alone = Alone::in_directory(Path::new(&directory), 64 << 20).unwrap();
    let mut lines = std::io::stdin().lines();
    let schema: u32 = lines.next().unwrap().unwrap().parse().unwrap();
    let current = Generation::start(&alone, schema).unwrap();
    let mut served = Served { alone, current, before: None };
    for line in lines {
        let action = serde_json::from_str(&line.unwrap()).unwrap();
        let answer = served.act(action).unwrap();
        println!("\n@{}", serde_json::to_string(&answer).unwrap());
    }
}

struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    fn start(directory: &Path, schema: u32) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tables::tests::model::host_process", "--ignored", "--nocapture"])
            .env(DIRECTORY, directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut process = Self { child, stdin, stdout: BufReader::new(stdout) };
        writeln!(process.stdin, "{schema}").unwrap();
        process
    }

    fn tell(&mut self, action: Action) {
        writeln!(self.stdin, "{}", serde_json::to_string(&action).unwrap()).unwrap();
    }

    fn ask(&mut self, action: Action) -> Option<Content> {
        self.tell(action);
        for line in (&mut self.stdout).lines() {
            if let Some(answer) = line.unwrap().strip_prefix('@') {
                return serde_json::from_str(answer).unwrap();
            }
        }
        panic!("the process ended at {action:?}");
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The releases as the node's record has them, which outlives the process.
struct Pointers {
    permanent: u32,
    started: Option<u32>,
}

impl Pointers {
    fn apply(&mut self, action: Action) {
        match action {
            Action::Start { schema } if self.started.is_none() => self.started = Some(schema),
            Action::Commit => self.permanent = self.started.take().unwrap_or(self.permanent),
            Action::Rollback => self.started = None,
            _ => {}
        }
    }
}

fn run(steps: &[Step]) {
    let directory = tempfile::tempdir().unwrap();
    let mut model = Content::default();
    let mut pointers = Pointers { permanent: 1, started: None };
    let mut process = Process::start(directory.path(), pointers.permanent);
    for step in steps {
        match *step {
            Step::Do(action) => {
                process.ask(action);
                model.apply(action);
                pointers.apply(action);
            }
            Step::Kill => {
                process.kill();
                pointers.started = None;
                process = Process::start(directory.path(), pointers.permanent);
            }
            Step::KillWithin(action, moment) => {
                process.tell(action);
                (0..u32::from(moment) * 100).for_each(|_| std::hint::spin_loop());
                process.kill();
                if action == Action::Commit {
                    // The record comes after the swap; a death before it boots the release before.
                    pointers.started = None;
                }
                pointers.started = None;
                process = Process::start(directory.path(), pointers.permanent);
                // It was done or not, and nothing else.
                let mut done = model.clone();
                done.apply(action);
                let found = process.ask(Action::Read).unwrap();
                assert!(
                    found == model || found == done,
                    "{action:?}: {found:?}\nneither {model:?}\nnor {done:?}"
                );
                model = found;
            }
        }
        assert_eq!(process.ask(Action::Read).unwrap(), model, "after {step:?} of {steps:?}");
    }
    process.kill();
}

fn action() -> impl Strategy<Value = Action> {
    let key = 0..40_u64;
    prop_oneof![
        4 => (key.clone(), 0..100_u64).prop_map(|(key, number)| Action::Put { key, number }),
        2 => (key.clone(), 0..100_u64).prop_map(|(key, number)| Action::PutTen { key, number }),
        2 => key.clone().prop_map(|key| Action::Delete { key }),
        2 => (key, 1..5_u64).prop_map(|(key, by)| Action::Add { key, by }),
        2 => (1..=3_u32).prop_map(|schema| Action::Start { schema }),
        2 => Just(Action::Commit),
        1 => Just(Action::Rollback),
        2 => Just(Action::Sweep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_ends_with_the_models_content(
        steps in prop::collection::vec(
            prop_oneof![
                12 => action().prop_map(Step::Do),
                1 => Just(Step::Kill),
                2 => (action(), any::<u8>()).prop_map(|(action, moment)| Step::KillWithin(action, moment)),
            ],
            1..40,
        )
    ) {
        run(&steps);
    }
}

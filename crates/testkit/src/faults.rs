//! Releases with a fault, as data: what is wrong with them, when it shows, and what a node says of it.
//!
//! All of them are tests/fixtures/faulty. Those whose fault shows under traffic only share one build and are told
//! theirs by a variable, so that a node's 1.0.0 and 1.0.1 differ in nothing else.

use std::process::Command;

use crate::kit::{Done, Node, release};

/// The good release, which serves first and last.
pub const GOOD: &str = "1.0.0";

/// The one with the fault.
pub const BAD: &str = "1.0.1";

/// The probation is long enough for every fault to be seen, and far longer than that takes. The good release and its
/// host are held to the other times as well, on machines that may stand still for a second.
const SETTINGS: &str = "[upgrade]\nstart = \"3s\"\nhealth = \"3s\"\ndrain = \"3s\"\nprobation = \"50s\"\n\
                        [upgrade.thresholds]\nhealth_every = \"100ms\"\n\
                        [supervisor]\nheartbeat = \"3s\"\n";

/// A host stands still for a while before the kernel kills it for want of memory: nothing else is to be to blame.
const PATIENT: &str = "[upgrade]\nhealth = \"50s\"\ndrain = \"1s\"\nprobation = \"50s\"\n\
                       [upgrade.thresholds]\nlatency = \"50s\"\n\
                       [supervisor]\nheartbeat = \"50s\"\n";

/// What the host of a fault that eats memory may have, in bytes.
const MEMORY: u64 = 512 << 20;

/// What keeps a node from all of the machine's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    None,
    /// The host is refused more (RLIMIT_DATA).
    Host,
    /// The kernel kills when the node has more: a unit's or a container's limit.
    Node,
}

/// Where the node stops a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Before the swap: it has answered nobody.
    Refused,
    /// Before the swap, by the death of the host that it was started in: what was in flight in it is lost.
    HostDiedEarly,
    /// In its probation, in the host in which it serves: connections stay open.
    RolledBack,
    /// In its probation, by the death of the host: what was in flight in it is lost.
    HostDied,
}

impl End {
    /// The exit code of `relmgr upgrade`.
    pub fn code(self) -> i32 {
        if self.is_before_the_swap() { 1 } else { 3 }
    }

    /// The outcome in the history.
    pub fn outcome(self) -> &'static str {
        if self.is_before_the_swap() { "failed" } else { "rolled_back" }
    }

    /// Whether the release has answered nobody.
    pub fn is_before_the_swap(self) -> bool {
        matches!(self, Self::Refused | Self::HostDiedEarly)
    }

    /// Whether it takes the host along.
    pub fn is_death(self) -> bool {
        matches!(self, Self::HostDied | Self::HostDiedEarly)
    }
}

/// One fault.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Its name, as the release would be blamed for it.
    pub name: &'static str,
    /// The features of the fixture.
    features: &'static str,
    /// What the fixture `shows-late` is told to do; empty: another feature is the fault.
    defect: &'static str,
    /// Where the node stops it.
    pub end: End,
    /// What `relmgr upgrade` and the history say of it, whether it shows in its probation or in the swap already, as
    /// it may under load.
    pub says: &'static [&'static str],
    /// What the host wrote last, in the history; empty: the host lives.
    pub last_words: &'static str,
    /// Why its code stays in memory, in `relmgr status`; empty: it does not.
    pub pinned: &'static str,
    /// What limits its memory.
    limit: Limit,
}

const fn before(name: &'static str, features: &'static str, says: &'static [&'static str]) -> Fault {
    Fault {
        name,
        features,
        defect: "",
        end: End::Refused,
        says,
        last_words: "",
        pinned: "",
        limit: Limit::None,
    }
}

const fn late(name: &'static str, defect: &'static str, end: End, says: &'static [&'static str]) -> Fault {
    Fault { name, features: "shows-late", defect, end, says, last_words: "", pinned: "", limit: Limit::None }
}

/// Every fault.
pub const FAULTS: &[Fault] = &[
    before("aborts_in_a_static_initialiser", "static-aborts", &["crashed in preflight (signal 6 SIGABRT)"]),
    before("check_fails", "check-fails", &["preflight refused it", "the check fails on purpose"]),
    before("check_exits", "check-exits", &["crashed in preflight (exit code 9)"]),
    before("start_fails", "start-fails", &["1.0.1: its start failed: the start fails on purpose"]),
    before(
        "start_panics",
        "start-panics",
        &["its start failed: start panicked: the start panics on purpose"],
    ),
    before("start_hangs", "start-hangs", &["its start took longer than 3s (upgrade.start)"]),
    Fault {
        pinned: "which it started, still runs",
        ..before("start_blocks_its_thread", "start-blocks", &["its start took longer than 3s"])
    },
    Fault {
        pinned: "called exit(7) and is held",
        ..before("start_exits", "start-exits", &["1.0.1: it called exit(7) during its start"])
    },
    late(
        "aborts_in_its_start",
        "aborts in its start",
        End::HostDiedEarly,
        &["the host died", "signal 6 SIGABRT", "while starting it"],
    ),
    late(
        "segfaults_in_its_start",
        "segfaults in its start",
        End::HostDiedEarly,
        &["the host died", "signal 11 SIGSEGV", "while starting it"],
    ),
    before("never_healthy", "unhealthy", &["its health says: unhealthy on purpose"]),
    before("health_hangs", "health-hangs", &["not healthy within 3s (upgrade.health)"]),
    late(
        "panics_on_every_10th_request",
        "panics",
        End::RolledBack,
        &["1.0.1 was rolled back:", "panics in", "first: every 10th request panics on purpose"],
    ),
    late(
        "answers_500_only",
        "answers 500 only",
        End::RolledBack,
        &["requests answered 5xx in", "before the swap 0.0 %"],
    ),
    late(
        "answers_500_after_a_while",
        "answers 500",
        End::RolledBack,
        &["requests answered 5xx in", "before the swap 0.0 %"],
    ),
    late(
        "goes_unhealthy",
        "goes unhealthy",
        End::RolledBack,
        &["unhealthy 2 times in a row", "unhealthy on purpose, at last"],
    ),
    late(
        "background_work_gives_up",
        "its child panics",
        End::RolledBack,
        &["unhealthy 2 times in a row", "background children: gave up", "the watcher panics on purpose"],
    ),
    late("becomes_slow", "is slow", End::RolledBack, &["95 % of the requests answered within"]),
    // Nobody watches how many threads a release has: the limit of the node's unit makes it a fault that shows.
    Fault {
        pinned: "which it started, still runs",
        limit: Limit::Host,
        ..late("leaks_threads", "leaks threads", End::RolledBack, &["panics in", "no thread is to be had"])
    },
    Fault {
        last_words: "about to segfault on purpose",
        ..late(
            "segfaults_on_the_100th_request",
            "segfaults",
            End::HostDied,
            &["the host died", "signal 11 SIGSEGV"],
        )
    },
    Fault {
        last_words: "has overflowed its stack",
        ..late(
            "overflows_its_stack",
            "overflows its stack",
            End::HostDied,
            &["the host died", "signal 6 SIGABRT"],
        )
    },
    Fault {
        last_words: "about to exit on purpose",
        ..late("exits", "exits", End::HostDied, &["the host died", "exit code 7"])
    },
    late(
        "blocks_its_workers",
        "blocks its workers",
        End::HostDied,
        &["the host died", "signal 9 SIGKILL", "all of its workers were stuck for 3s"],
    ),
    Fault {
        last_words: "memory allocation of",
        limit: Limit::Host,
        ..late("eats_memory", "eats memory", End::HostDied, &["the host died", "signal 6 SIGABRT"])
    },
    Fault {
        limit: Limit::Node,
        ..late(
            "outgrows_the_nodes_memory",
            "eats memory",
            End::HostDied,
            &["the host died", "signal 9 SIGKILL, since the kernel killed it for want of memory"],
        )
    },
];

impl Fault {
    /// The fault of that name.
    pub fn named(name: &str) -> &'static Self {
        FAULTS.iter().find(|fault| fault.name == name).unwrap_or_else(|| panic!("{name} is no fault"))
    }

    /// A node that serves [`GOOD`], with this fault published as [`BAD`].
    pub fn node(&self) -> Node {
        self.node_with("")
    }

    /// The same with more settings of the supervisor.
    pub fn node_with(&self, supervisor: &str) -> Node {
        let settings = if self.limit == Limit::Node { PATIENT } else { SETTINGS };
        let mut node = Node::new("relmgr-faulty", &format!("{settings}{supervisor}"));
        if self.limit == Limit::Node {
            node.limit_memory(MEMORY);
        }
        node.publish(&release("faulty", "", GOOD));
        node.publish(&release("faulty", self.features, BAD));
        node.start_with(&[("RELMGR_TEST_DEFECT", self.defect)]);
        node.relmgr(&["upgrade", GOOD]).ok();
        if self.limit == Limit::Host {
            let (pid, limit) = (node.host_pid().to_string(), format!("--data={MEMORY}"));
            let done = Command::new("prlimit").args(["--pid", &pid, &limit]).output().unwrap();
            Done::from(done).ok();
        }
        node
    }
}

//! Supervisors with real tasks, in time that passes only when nobody has anything to do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relmgr_abi::children::{Node, State};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::children::{Child, ChildContext, Restart, Running, Shutdown, Strategy, Supervisor};

/// What a child does when it is told.
#[derive(Debug, Clone, Copy)]
enum Do {
    Return,
    Panic,
    Fail,
    SayReady,
}

/// Children that do what they are told, and an account of their starts and ends.
#[derive(Clone, Default)]
struct Lab(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    account: Vec<String>,
    running: HashMap<&'static str, mpsc::UnboundedSender<Do>>,
}

/// Says when the child's future is gone, however it went.
struct Gone(Lab, &'static str);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.note(format!("-{}", self.1));
    }
}

impl Lab {
    fn note(&self, words: String) {
        self.0.lock().unwrap().account.push(words);
    }

    /// Starts with `+`, ends with `-`, since this was asked the last time.
    fn account(&self) -> String {
        std::mem::take(&mut self.0.lock().unwrap().account).join(" ")
    }

    async fn tell(&self, name: &str, what: Do) {
        self.0.lock().unwrap().running[name].send(what).unwrap();
        settle().await;
    }

    /// Ends when it is told to, by its supervisor or the test.
    fn child(&self, name: &'static str) -> Child {
        self.with(name, true)
    }

    /// Ends when the test says so only.
    fn stubborn(&self, name: &'static str) -> Child {
        self.with(name, false)
    }

    fn with(&self, name: &'static str, polite: bool) -> Child {
        let lab = self.clone();
        Child::fallible(name, move |context| {
            let lab = lab.clone();
            async move { lab.work(name, polite, context).await }
        })
    }

    async fn work(
        self,
        name: &'static str,
        polite: bool,
        mut context: ChildContext,
    ) -> Result<(), crate::Error> {
        let (tell, mut told) = mpsc::unbounded_channel();
        self.0.lock().unwrap().running.insert(name, tell);
        self.note(format!("+{name}"));
        let _gone = Gone(self, name);
        loop {
            let ready = context.clone();
            tokio::select! {
                () = context.stopping(), if polite => return Ok(()),
                Some(what) = told.recv() => match what {
                    Do::Return => return Ok(()),
                    Do::Panic => panic!("on purpose"),
                    Do::Fail => return Err("no luck".into()),
                    Do::SayReady => ready.ready(),
                },
            }
        }
    }
}

/// Everybody does what there is to do.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

async fn start(supervisor: Supervisor) -> Running {
    let running = Running::start(supervisor, &Handle::current());
    settle().await;
    running
}

fn find<'a>(node: &'a Node, name: &str) -> Option<&'a Node> {
    if node.name == name { Some(node) } else { node.children.iter().find_map(|child| find(child, name)) }
}

fn seen(running: &Running, name: &str) -> (State, u64, Option<String>) {
    let tree = running.tree();
    let node = find(&tree, name).unwrap_or_else(|| panic!("no {name} in {tree:?}"));
    (node.state, node.restarts, node.last_exit.clone())
}

#[tokio::test(start_paused = true)]
async fn every_strategy_with_every_restart_type() {
    use Do::{Fail, Panic, Return};
    let strategies = [
        (Strategy::OneForOne, "-b +b"),
        (Strategy::OneForAll, "-b -c -a +a +b +c"),
        (Strategy::RestForOne, "-b -c +b +c"),
    ];
    let types = [
        (Restart::Permanent, Return, true),
        (Restart::Permanent, Panic, true),
        (Restart::Permanent, Fail, true),
        (Restart::Transient, Return, false),
        (Restart::Transient, Panic, true),
        (Restart::Transient, Fail, true),
        (Restart::Temporary, Return, false),
        (Restart::Temporary, Panic, false),
        (Restart::Temporary, Fail, false),
    ];
    for (strategy, group) in strategies {
        for (restart, what, again) in types {
            let lab = Lab::default();
            let children = [lab.child("a"), lab.child("b").restart(restart), lab.child("c")];
            let running = start(Supervisor::new(strategy).children(children)).await;
            assert_eq!(lab.account(), "+a +b +c");
            lab.tell("b", what).await;
            let case = format!("{strategy:?} {restart:?} {what:?}");
            assert_eq!(lab.account(), if again { group } else { "-b" }, "{case}");
            let (words, gone) = match what {
                Panic => ("panicked: on purpose", State::Failed),
                Fail => ("failed: no luck", State::Failed),
                _ => ("ended", State::Stopped),
            };
            let state = if again { State::Running } else { gone };
            assert_eq!(seen(&running, "b"), (state, u64::from(again), Some(words.into())), "{case}");
            running.stop(None).await;
            assert_eq!(lab.account(), if again { "-c -b -a" } else { "-c -a" }, "{case}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_panics_before_it_is_a_future_is_a_fault_like_any_other() {
    let calls = Arc::new(Mutex::new(0));
    let count = calls.clone();
    let child = Child::new("hasty", move |_| {
        *count.lock().unwrap() += 1;
        assert!(*count.lock().unwrap() > 1, "too early");
        std::future::pending()
    });
    let running = start(Supervisor::new(Strategy::OneForOne).child(child)).await;
    assert_eq!(seen(&running, "hasty"), (State::Running, 1, Some("panicked: too early".into())));
    running.stop(None).await;
}

#[tokio::test(start_paused = true)]
async fn one_restart_too_many_ends_all_and_is_told() {
    let lab = Lab::default();
    let children = [lab.child("a"), lab.child("b"), lab.child("c")];
    let running = start(Supervisor::new(Strategy::OneForOne).children(children)).await;
    lab.tell("b", Do::Panic).await;
    // The period has passed when the next one comes.
    tokio::time::sleep(Duration::from_secs(6)).await;
    lab.tell("b", Do::Panic).await;
    assert_eq!(lab.account(), "+a +b +c -b +b -b +b");
    assert_eq!(running.failure(), None);
    lab.tell("a", Do::Fail).await;
    assert_eq!(lab.account(), "-a -c -b");
    let reason = "gave up after starting children again 1 time within 5s: a failed: no luck";
    assert_eq!(running.failure().as_deref(), Some(reason));
    assert_eq!(seen(&running, ""), (State::Failed, 0, Some(reason.into())));
    assert_eq!(seen(&running, "a").0, State::Failed);
    assert_eq!(seen(&running, "b"), (State::Stopped, 2, Some("ended".into())));
    running.stop(None).await;
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_gives_up_is_a_fault_to_the_one_above_it() {
    let lab = Lab::default();
    let mail = Supervisor::new(Strategy::OneForAll).intensity(0, Duration::from_secs(60));
    let mail = mail.child(lab.child("connection")).child(lab.child("sender"));
    let top = Supervisor::new(Strategy::RestForOne)
        .child(lab.child("first"))
        .child(Child::supervisor("mail", mail).restart(Restart::Transient))
        .child(lab.child("last"));
    let running = start(top).await;
    assert_eq!(lab.account(), "+first +connection +sender +last");
    lab.tell("sender", Do::Panic).await;
    assert_eq!(lab.account(), "-sender -connection -last +connection +sender +last");
    let gave_up =
        "gave up after starting children again 0 times within 60s: sender panicked: on purpose".to_owned();
    assert_eq!(seen(&running, "mail"), (State::Running, 1, Some(gave_up.clone())));
    assert_eq!(seen(&running, "sender"), (State::Running, 1, Some("panicked: on purpose".into())));
    assert_eq!(seen(&running, "first").1, 0);
    lab.tell("sender", Do::Panic).await;
    assert_eq!(lab.account(), "-sender -connection -last -first");
    let reason = format!("gave up after starting children again 1 time within 5s: mail {gave_up}");
    assert_eq!(running.failure(), Some(reason));
    running.stop(None).await;
}

#[tokio::test(start_paused = true)]
async fn children_start_in_order_each_when_those_before_it_are_up() {
    let lab = Lab::default();
    let inner = Supervisor::new(Strategy::OneForOne)
        .child(lab.child("b").ready_within(Duration::from_secs(10)))
        .child(lab.child("c"));
    let top = Supervisor::new(Strategy::OneForOne)
        .child(lab.child("a").ready_within(Duration::from_secs(10)))
        .child(Child::supervisor("inner", inner))
        .child(lab.child("d"));
    let running = start(top).await;
    assert_eq!(lab.account(), "+a");
    assert_eq!((seen(&running, "a").0, seen(&running, "d").0), (State::Starting, State::Starting));
    lab.tell("a", Do::SayReady).await;
    assert_eq!(lab.account(), "+b");
    assert_eq!((seen(&running, "a").0, seen(&running, "inner").0), (State::Running, State::Starting));
    lab.tell("b", Do::SayReady).await;
    assert_eq!(lab.account(), "+c +d");
    assert_eq!(seen(&running, "inner").0, State::Running);
    // Long after the deadline: who has said it is left in peace.
    tokio::time::sleep(Duration::from_secs(60)).await;
    running.stop(None).await;
    assert_eq!(lab.account(), "-d -c -b -a");
}

#[tokio::test(start_paused = true)]
async fn a_child_that_is_not_ready_in_time_is_dropped_and_started_again() {
    let lab = Lab::default();
    let children = [lab.stubborn("a").ready_within(Duration::from_secs(3)), lab.child("b")];
    let running = start(Supervisor::new(Strategy::OneForOne).children(children)).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(lab.account(), "+a -a +a");
    assert_eq!(seen(&running, "a"), (State::Restarting, 1, Some("was not ready within 3s".into())));
    lab.tell("a", Do::SayReady).await;
    assert_eq!(lab.account(), "+b");
    assert_eq!(seen(&running, "a").0, State::Running);
    running.stop(Some(Duration::ZERO)).await;
    assert_eq!(lab.account(), "-b -a");
}

#[tokio::test(start_paused = true)]
async fn a_stop_while_a_child_is_waited_for_starts_nobody() {
    let lab = Lab::default();
    let children = [lab.child("a").ready_within(Duration::from_secs(3)), lab.child("b")];
    let running = start(Supervisor::new(Strategy::OneForOne).children(children)).await;
    running.stop(None).await;
    assert_eq!(lab.account(), "+a -a");
}

#[tokio::test(start_paused = true)]
async fn each_child_has_its_own_shutdown_deadline() {
    let seconds = Duration::from_secs;
    let cases = [
        (Shutdown::BrutalKill, None, Some(seconds(0))),
        (Shutdown::Within(seconds(3)), None, Some(seconds(3))),
        (Shutdown::Within(seconds(3)), Some(seconds(2)), Some(seconds(2))),
        (Shutdown::Infinity, Some(seconds(40)), Some(seconds(40))),
        (Shutdown::Infinity, None, None),
    ];
    for (shutdown, patience, expected) in cases {
        let lab = Lab::default();
        let inner = Supervisor::new(Strategy::OneForOne).child(lab.stubborn("stubborn").shutdown(shutdown));
        let top = Supervisor::new(Strategy::OneForOne).child(Child::supervisor("inner", inner));
        let running = start(top).await;
        let begun = Instant::now();
        let stopped = tokio::time::timeout(seconds(3600), running.stop(patience)).await;
        assert_eq!(stopped.ok().map(|()| begun.elapsed().as_secs()), expected.map(|at| at.as_secs()));
        assert_eq!(lab.account(), if expected.is_some() { "+stubborn -stubborn" } else { "+stubborn" });
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_hurries_a_group_that_is_being_started_again() {
    let lab = Lab::default();
    let children = [lab.child("a"), lab.stubborn("b").shutdown(Shutdown::Infinity), lab.child("c")];
    let running = start(Supervisor::new(Strategy::OneForAll).children(children)).await;
    lab.tell("a", Do::Panic).await;
    // It waits for b, as long as b likes.
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(lab.account(), "+a +b +c -a -c");
    running.stop(Some(Duration::from_secs(1))).await;
    assert_eq!(lab.account(), "-b");
}

#[tokio::test(start_paused = true)]
async fn children_that_end_while_others_are_ended_are_not_forgotten() {
    let lab = Lab::default();
    let children = [lab.child("a"), lab.child("b"), lab.stubborn("c").shutdown(Duration::from_secs(3))];
    let top = Supervisor::new(Strategy::RestForOne).intensity(5, Duration::from_secs(60));
    let running = start(top.children(children)).await;
    lab.tell("b", Do::Panic).await;
    assert_eq!(lab.account(), "+a +b +c -b");
    lab.tell("a", Do::Panic).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(lab.account(), "-a -c +a +b +c");
    assert_eq!((seen(&running, "a").1, seen(&running, "b").1, seen(&running, "c").1), (1, 1, 1));
    running.stop(Some(Duration::ZERO)).await;
}

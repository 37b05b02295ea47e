//! Background work that is supervised, and that runs only while its generation is current.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::log;

/// When a child that ended is started again, after OTP's restart types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Always.
    Permanent,
    /// When it panicked.
    Transient,
    /// Never.
    Temporary,
}

/// A background child: a named future that is started when the generation becomes current.
///
/// ```
/// # use relmgr_app::{Child, Restart};
/// # use std::time::Duration;
/// Child::new("closer", |mut context| async move {
///     while !context.stopping_within(Duration::from_secs(1)).await {
///         // close what has expired
///     }
/// })
/// .restart(Restart::Permanent);
/// ```
pub struct Child {
    name: Cow<'static, str>,
    restart: Restart,
    shutdown: Duration,
    start: Arc<StartFn>,
}

type StartFn = dyn Fn(ChildContext) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync;

/// So many restarts of one child are allowed …
const INTENSITY: usize = 3;

/// … within this time, as OTP's supervisor has it by default; one more and the child stays down, which is logged.
const PERIOD: Duration = Duration::from_secs(5);

impl Child {
    /// A child that runs what `start` gives. Restart type permanent, shutdown deadline 5 s.
    pub fn new<F, R>(name: impl Into<Cow<'static, str>>, start: F) -> Self
    where
        F: Fn(ChildContext) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        Self {
            name: name.into(),
            restart: Restart::Permanent,
            shutdown: Duration::from_secs(5),
            start: Arc::new(move |context| Box::pin(start(context))),
        }
    }

    /// When it is started again after it ended by itself.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// How long it may take to end when it is told so; then it is dropped where it stands.
    #[must_use]
    pub fn shutdown(mut self, deadline: Duration) -> Self {
        self.shutdown = deadline;
        self
    }
}

/// What a child knows of its supervisor.
#[derive(Debug, Clone)]
pub struct ChildContext(watch::Receiver<bool>);

impl ChildContext {
    /// Resolves when the child has to end: its generation is no longer current.
    pub async fn stopping(&mut self) {
        // An error means that the supervisor is gone, which says the same.
        let _ = self.0.wait_for(|stopping| *stopping).await;
    }

    /// Waits for `time`, or less when the child has to end; true: end now. For periodic work.
    pub async fn stopping_within(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.stopping()).await.is_ok()
    }
}

/// The children while they run.
pub(crate) struct Running {
    stop: watch::Sender<bool>,
    supervisors: Vec<JoinHandle<()>>,
}

impl Running {
    /// Starts `children`, each under a supervisor of its own.
    pub(crate) fn start(children: Vec<Child>, handle: &Handle) -> Self {
        let (stop, stopping) = watch::channel(false);
        let supervise = |child| handle.spawn(supervise(child, ChildContext(stopping.clone())));
        Self { supervisors: children.into_iter().map(supervise).collect(), stop }
    }

    /// Tells all children at once to end, and waits until they have.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        for supervisor in self.supervisors {
            // The supervisor catches its child's panic; its own would be a fault of this file.
            let _ = supervisor.await;
        }
    }
}

async fn supervise(child: Child, context: ChildContext) {
    let mut stopping = context.clone();
    let mut restarts = VecDeque::new();
    loop {
        let mut task = tokio::spawn((child.start)(context.clone()));
        let ended = tokio::select! {
            ended = &mut task => ended,
            () = stopping.stopping() => {
                if tokio::time::timeout(child.shutdown, &mut task).await.is_err() {
                    log::send(2, "relmgr_app", &format!("child {} did not end in time and is dropped", child.name));
                    task.abort();
                    let _ = task.await;
                }
                return;
            }
        };
        let panicked = ended.is_err();
        let again = match child.restart {
            Restart::Permanent => true,
            Restart::Transient => panicked,
            Restart::Temporary => false,
        };
        if !again {
            return;
        }
        let now = Instant::now();
        restarts.retain(|at: &Instant| now.duration_since(*at) < PERIOD);
        restarts.push_back(now);
        if restarts.len() > INTENSITY {
            let name = &child.name;
            log::send(
                1,
                "relmgr_app",
                &format!("child {name} ended {} times in {PERIOD:?}: it stays down", INTENSITY + 1),
            );
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn counted(counter: &Arc<AtomicUsize>, fails: bool) -> Child {
        let counter = counter.clone();
        Child::new("counted", move |_| {
            let counter = counter.clone();
            async move {
                counter.fetch_add(1, Ordering::SeqCst);
                assert!(!fails, "on purpose");
            }
        })
    }

    #[tokio::test]
    async fn restart_types_decide_who_starts_again() {
        let cases = [
            (Restart::Permanent, false, INTENSITY + 1),
            (Restart::Permanent, true, INTENSITY + 1),
            (Restart::Transient, false, 1),
            (Restart::Transient, true, INTENSITY + 1),
            (Restart::Temporary, true, 1),
        ];
        for (restart, fails, starts) in cases {
            let counter = Arc::new(AtomicUsize::new(0));
            let running = Running::start(vec![counted(&counter, fails).restart(restart)], &Handle::current());
            for supervisor in running.supervisors {
                supervisor.await.unwrap();
            }
            assert_eq!(counter.load(Ordering::SeqCst), starts, "{restart:?}, fails: {fails}");
        }
    }

    #[tokio::test]
    async fn children_end_when_told_or_are_dropped_at_the_deadline() {
        let ended = Arc::new(AtomicUsize::new(0));
        let seen = ended.clone();
        let polite = Child::new("polite", move |mut context| {
            let seen = seen.clone();
            async move {
                context.stopping().await;
                seen.fetch_add(1, Ordering::SeqCst);
            }
        });
        let held = Arc::new(());
        let inside = held.clone();
        let stubborn = Child::new("stubborn", move |_| {
            let inside = inside.clone();
            async move {
                std::future::pending::<()>().await;
                drop(inside);
            }
        })
        .shutdown(Duration::from_millis(10));
        Running::start(vec![polite, stubborn], &Handle::current()).stop().await;
        assert_eq!(ended.load(Ordering::SeqCst), 1);
        assert_eq!(Arc::strong_count(&held), 1, "the stubborn child's future is gone");
    }
}

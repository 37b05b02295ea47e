//! What an author says of children: which there are, in which order, and what becomes of those that end.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use relmgr_abi::children::{Restart, Strategy};

use super::context::ChildContext;
use crate::Error;
use crate::response::describe;

/// How a child ended.
pub(super) type Exit = Result<(), Fault>;

/// How a child ended that did not end well.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    /// What it did, for the log.
    pub(super) what: String,
    /// The application's own words for it. They may hold secrets, which nobody looks for in a log.
    pub(super) words: Option<String>,
}

impl Fault {
    /// A fault of which the application has said nothing.
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), words: None }
    }

    pub(super) fn with_words(what: impl Into<String>, words: String) -> Self {
        Self { what: what.into(), words: Some(words) }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.words {
            Some(words) => write!(f, "{}: {words}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

pub(super) type StartFn = dyn Fn(ChildContext) -> Pin<Box<dyn Future<Output = Exit> + Send>> + Send + Sync;

/// A background child: a named future, or a [`Supervisor`] with children of its own. It is started when the
/// generation becomes current, and again as its [`Restart`] says.
///
/// A panic is a fault, and so is an error of a [`fallible`](Child::fallible) child.
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
#[derive(Clone)]
pub struct Child {
    pub(super) name: Cow<'static, str>,
    pub(super) restart: Restart,
    pub(super) shutdown: Shutdown,
    pub(super) ready_within: Option<Duration>,
    pub(super) work: Work,
}

#[derive(Clone)]
pub(super) enum Work {
    Worker(Arc<StartFn>),
    Supervisor(Supervisor),
}

/// How long a child may take to end when it is told so, after OTP's shutdown values. Whatever it says, no child
/// outlives the node's drain deadline (`upgrade.drain`, and 10 s at least) when its generation makes way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// It is dropped where it stands, and told nothing.
    BrutalKill,
    /// It is dropped where it stands when so much time has passed.
    Within(Duration),
    /// As long as it likes.
    Infinity,
}

impl From<Duration> for Shutdown {
    fn from(deadline: Duration) -> Self {
        Self::Within(deadline)
    }
}

impl Child {
    /// A worker that runs what `start` gives. Restart type permanent, shutdown deadline 5 s.
    pub fn new<F, R>(name: impl Into<Cow<'static, str>>, start: F) -> Self
    where
        F: Fn(ChildContext) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        Self::fallible(name, move |context| {
            let work = start(context);
            async move {
                work.await;
                Ok(())
            }
        })
    }

    /// As [`Child::new`], for work that can fail: its error is a fault like a panic, and stands in `relmgr status`.
    pub fn fallible<F, R>(name: impl Into<Cow<'static, str>>, start: F) -> Self
    where
        F: Fn(ChildContext) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let start = Arc::new(start);
        Self::worker(
            name.into(),
            Arc::new(move |context| {
                let start = start.clone();
                Box::pin(async move {
                    let done = start(context).await;
                    done.map_err(|error| Fault::with_words("failed", describe(error.as_ref())))
                })
            }),
        )
    }

    /// A supervisor as a child. Restart type permanent; it may take as long as its own children may. Those that
    /// come after it wait until its children are up.
    pub fn supervisor(name: impl Into<Cow<'static, str>>, supervisor: Supervisor) -> Self {
        Self {
            name: name.into(),
            restart: Restart::Permanent,
            shutdown: Shutdown::Infinity,
            ready_within: None,
            work: Work::Supervisor(supervisor),
        }
    }

    fn worker(name: Cow<'static, str>, start: Arc<StartFn>) -> Self {
        Self {
            name,
            restart: Restart::Permanent,
            shutdown: Shutdown::Within(Duration::from_secs(5)),
            ready_within: None,
            work: Work::Worker(start),
        }
    }

    /// When it is started again after it ended by itself.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// How long it may take to end when it is told so: a `Duration`, or a [`Shutdown`].
    #[must_use]
    pub fn shutdown(mut self, deadline: impl Into<Shutdown>) -> Self {
        self.shutdown = deadline.into();
        self
    }

    /// The children after it wait until it has called [`ChildContext::ready`]. When it has not done so within
    /// `deadline`, it is dropped, which is a fault. Without this they do not wait. A supervisor is ready when its
    /// children are, and needs no deadline.
    #[must_use]
    pub fn ready_within(mut self, deadline: Duration) -> Self {
        self.ready_within = Some(deadline);
        self
    }

    /// Whether those after it wait for it.
    pub(super) fn is_waited_for(&self) -> bool {
        self.ready_within.is_some() || self.is_supervisor()
    }

    pub(super) fn is_supervisor(&self) -> bool {
        matches!(self.work, Work::Supervisor(_))
    }
}

/// Children that are started in order, ended in reverse order, and started again by one strategy, as by OTP's
/// supervisor.
///
/// When it has to start children again more often than its intensity allows, it gives up: it ends them all, which
/// is a fault to the supervisor above it. When the one at the top gives up, the application is unhealthy: a release
/// on probation is rolled back for it.
///
/// ```
/// # use relmgr_app::{Child, ChildContext, Supervisor, Strategy};
/// # use std::time::Duration;
/// # async fn connect(_: ChildContext) {}
/// # async fn send(_: ChildContext) {}
/// let mail = Supervisor::new(Strategy::RestForOne)
///     .child(Child::new("connection", connect).ready_within(Duration::from_secs(10)))
///     .child(Child::new("sender", send));
/// Supervisor::new(Strategy::OneForOne)
///     .intensity(5, Duration::from_secs(60))
///     .child(Child::supervisor("mail", mail));
/// ```
#[derive(Clone)]
pub struct Supervisor {
    pub(super) strategy: Strategy,
    pub(super) intensity: usize,
    pub(super) period: Duration,
    pub(super) children: Vec<Child>,
}

impl Supervisor {
    /// A supervisor without children. One restart within 5 s is allowed, OTP's default.
    pub fn new(strategy: Strategy) -> Self {
        Self { strategy, intensity: 1, period: Duration::from_secs(5), children: Vec::new() }
    }

    /// So many restarts are allowed within `period`; one more and it gives up.
    #[must_use]
    pub fn intensity(mut self, restarts: usize, period: Duration) -> Self {
        (self.intensity, self.period) = (restarts, period);
        self
    }

    /// Adds a child: it starts after those that were added before, and ends before them.
    #[must_use]
    pub fn child(mut self, child: Child) -> Self {
        self.children.push(child);
        self
    }

    /// Adds children in their order.
    #[must_use]
    pub fn children(mut self, children: impl IntoIterator<Item = Child>) -> Self {
        self.children.extend(children);
        self
    }
}

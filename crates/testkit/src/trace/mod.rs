//! A program whose changes to files are seen one by one: counted, stopped at, made to fail, or written down.
//!
//! What `strace -f -e inject=` does, but for one count over all threads of the process (strace counts per thread,
//! and the first thread to reach a number hides that of the others), and without the processes that it starts, unless
//! they are asked for.
//!
//! ```text
//! Traced    the process, traced by a thread of ours
//! Watch     what is done at the calls that change something below a directory
//! call      which calls those are, and what they change
//! ```

mod call;
mod process;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub use call::{Call, Change};
pub use nix::errno::Errno;
pub use process::Traced;

/// What happens at the calls of an armed watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// They are counted.
    Count,
    /// The process is killed before it makes the call with this number, from 1.
    KillBefore(usize),
    /// That call fails with this error and does nothing.
    Fail(usize, Errno),
}

/// What a watch saw while it was armed.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Calls, with the one at which something was done.
    pub calls: Vec<String>,
    /// The call at which something was done.
    pub hit: Option<String>,
}

/// Sees calls as they have been made.
pub trait Recorder: Send {
    /// The call begins. What other threads do until it has been made may come before it or after it.
    fn begins(&mut self, _call: &Call) {}
    /// The call has changed what it says. The thread that made it is stopped.
    fn made(&mut self, call: &Call);
}

/// What is done at the calls of a process that change something below a directory.
#[derive(Clone)]
pub struct Watch {
    scope: Arc<Path>,
    with_children: bool,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    plan: Option<Plan>,
    seen: Seen,
    recorder: Option<Box<dyn Recorder>>,
}

/// What the tracer does at a call.
enum Verdict {
    Go,
    Kill,
    Fail(Errno),
}

impl Watch {
    /// Nothing is done before [`Watch::arm`].
    pub fn new(scope: impl Into<PathBuf>) -> Self {
        Self { scope: scope.into().into(), with_children: false, state: Arc::default() }
    }

    /// The processes that the program starts are watched, too. (It is the program that a plan kills.)
    #[must_use]
    pub fn with_children(self) -> Self {
        Self { with_children: true, ..self }
    }

    /// From here on `plan` holds, counted from 1.
    pub fn arm(&self, plan: Plan) {
        self.with(|state| *state = State { plan: Some(plan), ..State::default() });
    }

    /// From here on `recorder` sees each call that was made.
    pub fn record(&self, recorder: impl Recorder + 'static) {
        let recorder: Box<dyn Recorder> = Box::new(recorder);
        self.with(|state| {
            *state = State { plan: Some(Plan::Count), recorder: Some(recorder), ..State::default() };
        });
    }

    /// Nothing is done any more; what was seen.
    pub fn disarm(&self) -> Seen {
        self.with(|state| std::mem::take(state).seen)
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Before the call is made.
    fn before(&self, call: &Call) -> Verdict {
        self.with(|state| {
            let Some(plan) = state.plan.filter(|_| call.is_below(&self.scope)) else { return Verdict::Go };
            if let Some(recorder) = state.recorder.as_mut() {
                recorder.begins(call);
            }
            state.seen.calls.push(call.to_string());
            let verdict = match plan {
                Plan::KillBefore(at) if at == state.seen.calls.len() => Verdict::Kill,
                Plan::Fail(at, errno) if at == state.seen.calls.len() => Verdict::Fail(errno),
                _ => return Verdict::Go,
            };
            state.seen.hit = Some(call.to_string());
            verdict
        })
    }

    /// After it was made.
    fn after(&self, call: &Call) {
        self.with(|state| {
            if let Some(recorder) = state.recorder.as_mut().filter(|_| call.is_below(&self.scope)) {
                recorder.made(call);
            }
        });
    }
}

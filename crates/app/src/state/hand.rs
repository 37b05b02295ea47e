//! Giving the state away, taking it over, and getting it back. Each runs on the instance's own runtime; what reads
//! and writes the bytes runs on blocking threads of it, so that both ends of a hand-over work at the same time.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use relmgr_abi::body::{BodySource, FfiBody, Frame, SizeHint};
use relmgr_abi::buffer::FfiBytes;
use relmgr_abi::future::panic_message;
use relmgr_abi::state::{Schema, Trial};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use super::shared::Shared;
use super::write::{Chunk, alone, write};
use super::{State, Stateful, codec};
use crate::instance::{Running, outcome};
use crate::response::describe;
use crate::{Application, Error};

/// So many chunks may be on their way: one end rarely waits for the other, and neither gathers them.
pub(super) const AHEAD: usize = 4;

/// A `suspend` that is told to stop does so at its next point of waiting; one that blocks its thread does not.
const ABANDONED: Duration = Duration::from_millis(100);

type App<A> = Arc<OnceLock<Running<A>>>;

/// Whether an application keeps state, as a type of the export.
pub trait Kind<A: Application>: 'static {
    /// What is said of the state.
    fn describe() -> Option<Schema>;

    /// Reads and changes a state, and forgets it.
    fn trial(schema: u32, body: FfiBody) -> impl Future<Output = Result<Trial, String>> + Send + 'static;

    /// Reads and changes a state, and gives what came of it in the form of another schema version.
    fn give_back(
        schema: u32,
        body: FfiBody,
        to: u32,
    ) -> impl Future<Output = Result<FfiBody, String>> + Send + 'static;

    /// Gives the state away.
    fn give(
        app: App<A>,
        kept: Arc<Kept>,
        schema: u32,
    ) -> impl Future<Output = Result<FfiBody, String>> + Send + 'static;

    /// Takes a state over.
    fn take(
        app: App<A>,
        kept: Arc<Kept>,
        schema: u32,
        body: FfiBody,
    ) -> impl Future<Output = Result<(), String>> + Send + 'static;

    /// Goes on with the state that was kept.
    fn back(app: App<A>, kept: Arc<Kept>) -> impl Future<Output = Result<(), String>> + Send + 'static;
}

/// An application without state.
pub struct Stateless;

const NONE: &str = "this release keeps no state";

impl<A: Application> Kind<A> for Stateless {
    fn describe() -> Option<Schema> {
        None
    }

    async fn trial(_: u32, _: FfiBody) -> Result<Trial, String> {
        Err(NONE.into())
    }

    async fn give_back(_: u32, _: FfiBody, _: u32) -> Result<FfiBody, String> {
        Err(NONE.into())
    }

    async fn give(_: App<A>, _: Arc<Kept>, _: u32) -> Result<FfiBody, String> {
        Err(NONE.into())
    }

    async fn take(_: App<A>, _: Arc<Kept>, _: u32, _: FfiBody) -> Result<(), String> {
        Err(NONE.into())
    }

    async fn back(_: App<A>, _: Arc<Kept>) -> Result<(), String> {
        Ok(())
    }
}

/// Where the state of an instance is.
#[derive(Default)]
enum Stage {
    /// With the application.
    #[default]
    Serving,
    /// The application is giving it, unless it is told to stop that.
    Suspending(AbortHandle),
    /// Nobody waits for it any more: it goes back when it comes.
    Abandoned,
    /// It is being written.
    Writing,
    /// Here: the state itself, or a share of it.
    Held(Box<dyn Any + Send>),
}

/// The state that an instance has given away, until it is certain that it was taken.
#[derive(Default)]
pub struct Kept {
    stage: Mutex<Stage>,
    pub(super) written: Notify,
}

impl Kept {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, state: impl Any + Send) {
        *self.stage() = Stage::Held(Box::new(state));
        self.written.notify_waiters();
    }

    /// Takes it out, waiting for its writer; `None`: the application has it, or gets it by itself.
    async fn take_back(&self) -> Option<Box<dyn Any + Send>> {
        loop {
            let written = self.written.notified();
            let mut written = std::pin::pin!(written);
            written.as_mut().enable();
            match &mut *self.stage() {
                Stage::Serving => return None,
                stage @ Stage::Suspending(_) => {
                    if let Stage::Suspending(suspend) = std::mem::replace(stage, Stage::Abandoned) {
                        suspend.abort();
                    }
                }
                Stage::Abandoned | Stage::Writing => {}
                stage @ Stage::Held(_) => {
                    if let Stage::Held(state) = std::mem::take(stage) {
                        return Some(state);
                    }
                }
            }
            let abandoned = matches!(*self.stage(), Stage::Abandoned);
            if !abandoned {
                written.await;
            } else if tokio::time::timeout(ABANDONED, written).await.is_err() {
                // It blocks its thread: it gets its state back when it comes to its end after all.
                return None;
            }
        }
    }

    /// The application has it, or another state; what was here, which may take a while to drop.
    fn leave(&self) -> Stage {
        let before = std::mem::take(&mut *self.stage());
        self.written.notify_waiters();
        before
    }

    /// Forgets it, which may take a while.
    pub(crate) fn forget(&self) {
        drop(self.leave());
    }
}

/// An application with state.
pub struct WithState;

impl<A: Stateful> Kind<A> for WithState {
    fn describe() -> Option<Schema> {
        Some(A::code_change().describe())
    }

    async fn trial(schema: u32, body: FfiBody) -> Result<Trial, String> {
        let begun = Instant::now();
        let (_, bytes) = read::<A>(schema, body).await?;
        Ok(Trial { bytes, ms: begun.elapsed().as_secs_f64() * 1e3 })
    }

    async fn give_back(schema: u32, body: FfiBody, to: u32) -> Result<FfiBody, String> {
        let change = A::code_change();
        change.gives(to)?;
        let shape = change.shape(to)?;
        let (state, _) = read::<A>(schema, body).await?;
        let (chunks, given) = mpsc::channel(AHEAD);
        // A thread that no runtime's end takes along.
        std::thread::spawn(move || {
            let send = |chunk| chunks.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into());
            let written = caught("code_change", || {
                let mut writer = codec::sink(to, shape, send)?;
                match to == A::State::SCHEMA {
                    true => codec::encode(&state, &mut writer)?,
                    false => drop(change.giving(to)?.give(state, &mut writer)?),
                }
                Ok(writer.finish().map(drop)?)
            });
            if let Err(words) = written {
                // Who gave up does not listen.
                let _ = chunks.blocking_send(Err(words));
            }
        });
        Ok(FfiBody::new(Written(given)))
    }

    async fn give(app: App<A>, kept: Arc<Kept>, schema: u32) -> Result<FfiBody, String> {
        let change = A::code_change();
        change.gives(schema)?;
        let shape = change.shape(schema)?;
        let suspend = {
            let mut stage = kept.stage();
            if !matches!(*stage, Stage::Serving) {
                return Err("its state has been given away already".into());
            }
            let holder = app.clone();
            let suspend = tokio::spawn(async move { started(&holder)?.app.suspend().await });
            *stage = Stage::Suspending(suspend.abort_handle());
            suspend
        };
        let state = match outcome(suspend, "suspend").await {
            Ok(state) => state,
            Err(words) => {
                kept.forget();
                return Err(format!("suspend failed: {words}"));
            }
        };
        let abandoned = match &mut *kept.stage() {
            stage @ Stage::Suspending(_) => {
                *stage = Stage::Writing;
                false
            }
            _ => true,
        };
        if abandoned {
            let words = match resume(app, state).await {
                Ok(()) => "suspend came to its end too late, the state went back".to_owned(),
                Err(words) => words,
            };
            crate::log::send(2, "relmgr_app", &words);
            kept.forget();
            return Err(words);
        }
        let (chunks, body) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || write(&change, state, &kept, (schema, shape), chunks));
        Ok(FfiBody::new(Written(body)))
    }

    async fn take(app: App<A>, kept: Arc<Kept>, schema: u32, body: FfiBody) -> Result<(), String> {
        let (state, _) = read::<A>(schema, body).await?;
        resume(app, state).await?;
        // It is the application's from here on; nobody waits for the end of what this replaces.
        let before = kept.leave();
        tokio::task::spawn_blocking(move || drop(before));
        Ok(())
    }

    async fn back(app: App<A>, kept: Arc<Kept>) -> Result<(), String> {
        let Some(held) = kept.take_back().await else { return Ok(()) };
        let state = match held.downcast::<A::State>() {
            Ok(state) => *state,
            Err(held) => match held.downcast::<Box<dyn Shared<A::State>>>() {
                Ok(shared) => alone(*shared, &kept).await,
                // What is kept was put there by `give`.
                Err(_) => return Err("what was kept is no state".into()),
            },
        };
        resume(app, state).await
    }
}

fn started<A: Application>(app: &App<A>) -> Result<&Running<A>, Error> {
    app.get().ok_or_else(|| "the application has not started".into())
}

async fn resume<A: Stateful>(app: App<A>, state: A::State) -> Result<(), String> {
    let resume = tokio::spawn(async move { started(&app)?.app.resume(state).await });
    outcome(resume, "resume").await.map_err(|words| format!("resume failed: {words}"))
}

/// Runs the application's code; a panic in words.
pub(super) fn caught<T>(what: &str, work: impl FnOnce() -> Result<T, Error>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| format!("{what} failed: {}", describe(error.as_ref()))),
        Err(payload) => Err(format!("{what} panicked: {}", panic_message(payload))),
    }
}

/// Reads a state of `schema` and changes it into this release's form; how many bytes it had.
async fn read<A: Stateful>(schema: u32, mut body: FfiBody) -> Result<(A::State, u64), String> {
    let change = A::code_change();
    let shape = change.shape(schema)?;
    let (chunks, mut pieces) = mpsc::channel::<Result<Bytes, String>>(AHEAD);
    let reading = tokio::task::spawn_blocking(move || {
        caught("code_change", || {
            let next = || pieces.blocking_recv().transpose().map_err(io::Error::other);
            let mut from = codec::source(schema, shape, next)?;
            let state = change.take(schema, &mut from)?;
            Ok((state, from.finish()?))
        })
    });
    while let Some(piece) = next(&mut body).await {
        // Who reads has found it wanting.
        if chunks.send(piece).await.is_err() {
            break;
        }
    }
    drop((body, chunks));
    match reading.await {
        Ok(result) => result,
        Err(error) => Err(format!("code_change was cancelled: {error}")),
    }
}

/// The next piece of a body; `None`: it is over.
async fn next(body: &mut FfiBody) -> Option<Result<Bytes, String>> {
    poll_fn(|cx| {
        loop {
            return match body.poll_frame(cx.waker()) {
                Frame::Pending => Poll::Pending,
                Frame::Data(bytes) => Poll::Ready(Some(Ok(Bytes::from_owner(bytes)))),
                Frame::Trailers(_) => continue,
                Frame::End => Poll::Ready(None),
                Frame::Failed(words) => Poll::Ready(Some(Err(words.into()))),
            };
        }
    })
    .await
}

/// The state as the host reads it.
struct Written(mpsc::Receiver<Chunk>);

impl BodySource for Written {
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Frame {
        match self.0.poll_recv(cx) {
            Poll::Pending => Frame::Pending,
            Poll::Ready(None) => Frame::End,
            Poll::Ready(Some(Ok(chunk))) => Frame::Data(FfiBytes::from(chunk)),
            Poll::Ready(Some(Err(words))) => Frame::Failed(words.into()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint { lower: 0, upper: u64::MAX }
    }
}

//! One generation's instance of the application: its runtime, its router, its children. The functions at the
//! end are what the host calls.

#![allow(unsafe_code, reason = "the host gives the instance back as the pointer that it was handed out as")]

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use relmgr_abi::abi_stable::std_types::{ROption, RResult, RStr, RString, RVec};
use relmgr_abi::body::FfiBody;
use relmgr_abi::buffer::FfiBytes;
use relmgr_abi::future::{FfiFuture, panic_message};
use relmgr_abi::head::{RequestHead, Response};
use relmgr_abi::root::{Instance as FfiInstance, InstanceFunctionsRef, StartArgs};
use relmgr_abi::session::{SessionOpening, SessionOutcome, SessionView};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::conf::NotTaken;
use crate::response::describe;
use crate::state::{Kept, Kind};
use crate::tables::Sweeper;
use crate::within::{self, Within};
use crate::{Application, Context, Error, HttpService, Sessions, children, log, request, response, sessions};

/// What the host holds as [`FfiInstance::data`].
pub(crate) struct Instance<A: Application> {
    id: u64,
    runtime: Runtime,
    running: Arc<OnceLock<Running<A>>>,
    started: watch::Receiver<Option<Result<(), String>>>,
    children: Mutex<Option<children::Running>>,
    kept: Arc<Kept>,
    /// `None`: its settings were none.
    context: Option<Context>,
    sweeper: Mutex<Option<Sweeper>>,
    winding_up: watch::Sender<bool>,
}

/// An application that has started.
pub struct Running<A: Application> {
    pub(crate) app: A,
    router: A::Router,
    sessions: Sessions,
}

/// Ends a task when nobody waits for it any more.
struct EndOnDrop(tokio::task::AbortHandle);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The outcome of something that the application does, for the host.
type Told = RResult<(), RString>;

fn decode<A: Application>(args: &StartArgs) -> Result<A::Settings, String> {
    crate::settings::decode(&args.settings)
}

/// What axum's own server does with a router before it serves: without it, axum makes a route's service anew for
/// each request.
#[cfg(feature = "axum")]
fn ready<R: 'static>(mut router: R) -> R {
    let any: &mut dyn std::any::Any = &mut router;
    if let Some(router) = any.downcast_mut::<axum::Router>() {
        *router = std::mem::take(router).with_state(());
    }
    router
}

#[cfg(not(feature = "axum"))]
fn ready<R>(router: R) -> R {
    router
}

fn new_runtime(version: &str) -> Result<Runtime, String> {
    tokio::runtime::Builder::new_multi_thread()
        .thread_name(format!("app {version}"))
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime for the application: {error}"))
}

/// The end of a task of the application's, a panic in words.
pub(crate) async fn outcome<T>(task: JoinHandle<Result<T, Error>>, what: &str) -> Result<T, String> {
    match task.await {
        Ok(result) => result.map_err(|error| describe(error.as_ref())),
        Err(error) => Err(match error.try_into_panic() {
            Ok(payload) => format!("{what} panicked: {}", panic_message(payload)),
            Err(_) => format!("{what} was cancelled"),
        }),
    }
}

/// The end of a task that has its own words for what went wrong.
async fn words<T>(task: JoinHandle<Result<T, String>>, what: &str) -> Result<T, String> {
    match task.await {
        Ok(result) => result,
        Err(error) => Err(match error.try_into_panic() {
            Ok(payload) => format!("{what} panicked: {}", panic_message(payload)),
            Err(_) => format!("{what} was cancelled"),
        }),
    }
}

fn told(result: Result<(), String>) -> Told {
    result.map_err(RString::from).into()
}

impl<A: Application> Instance<A> {
    fn start(args: &StartArgs) -> Result<Self, String> {
        log::install(args.host, &args.version);
        let runtime = new_runtime(&args.version)?;
        let running = Arc::new(OnceLock::new());
        let (finished, started) = watch::channel(None);

        let decoded = decode::<A>(args);
        let winding_up = watch::Sender::new(false);
        let directory = PathBuf::from(args.directory.as_str());
        let context = Context::new(args.version.to_string(), directory, args.host, winding_up.subscribe());
        let of_instance = decoded.is_ok().then(|| context.clone());
        let slot = running.clone();
        runtime.spawn(async move {
            let begin = async {
                let settings = decoded?;
                let start = tokio::spawn(async {
                    let app = A::start(context, settings).await?;
                    let router = ready(app.router());
                    let sessions = app.sessions();
                    Ok(Running { app, router, sessions })
                });
                let running = outcome(start, "start").await?;
                // Set once: this task is the only one that sets it.
                let _ = slot.set(running);
                Ok(())
            };
            finished.send_replace(Some(begin.await));
        });
        let (children, sweeper) = (Mutex::new(None), Mutex::new(None));
        let (id, kept, context) = (within::next_id(), Arc::default(), of_instance);
        Ok(Self { id, runtime, running, started, children, kept, context, sweeper, winding_up })
    }

    async fn wait_started(mut started: watch::Receiver<Option<Result<(), String>>>) -> Told {
        let result = match started.wait_for(Option::is_some).await {
            Ok(result) => result.clone(),
            Err(_) => None,
        };
        told(result.unwrap_or_else(|| Err("start was cancelled".into())))
    }

    fn resume(&self) {
        let Some(running) = self.running.get() else { return };
        let mut children = self.children();
        if children.is_none() {
            let asked = catch_unwind(AssertUnwindSafe(|| running.app.supervisor()));
            *children = Some(match asked {
                Ok(supervisor) => children::Running::start(supervisor, self.runtime.handle()),
                Err(payload) => {
                    let text = format!("naming them panicked: {}", panic_message(payload));
                    log::send(1, "relmgr_app", &format!("background children: {text}"));
                    children::Running::failed(&text)
                }
            });
        }
        drop(children);
        let tables = self.context.as_ref().and_then(Context::opened_tables);
        if let Some(tables) = tables {
            self.sweeper().get_or_insert_with(|| Sweeper::start(tables, self.runtime.handle()));
        }
    }

    /// Ends the children; what is left after `patience` is dropped. Ends the sweep of the tables.
    fn suspend(&self, patience: Option<Duration>) -> impl Future<Output = ()> + Send + use<A> {
        let (children, sweeper) = (self.children().take(), self.sweeper().take());
        async move {
            if let Some(children) = children {
                children.stop(patience).await;
            }
            if let Some(sweeper) = sweeper {
                sweeper.stop().await;
            }
        }
    }

    fn sweeper(&self) -> MutexGuard<'_, Option<Sweeper>> {
        self.sweeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn children(&self) -> MutexGuard<'_, Option<children::Running>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn destroy(self, patience: Duration) {
        let Self { runtime, running, kept, context, .. } = self;
        let entered = runtime.enter();
        // Futures that held the application are over by now; should one be left, it frees it later.
        let end = || {
            kept.forget();
            drop(running);
        };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(end)) {
            log::send(
                1,
                "relmgr_app",
                &format!("dropping the application panicked: {}", panic_message(payload)),
            );
        }
        drop(entered);
        runtime.shutdown_timeout(patience);
        if let Some(context) = context {
            context.close_tables();
        }
    }
}

pin_project! {
    /// A request being answered. Polled on the host's threads, within the instance's runtime.
    struct Call<F> {
        // `None` once it is over.
        #[pin]
        answer: Option<F>,
        within: Within,
    }

    impl<F> PinnedDrop for Call<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            // A handler that is cancelled may spawn what cleans up after it.
            this.within.enter();
            this.answer.set(None);
        }
    }
}

impl<F, B, E> Future for Call<F>
where
    F: Future<Output = Result<http::Response<B>, E>>,
    B: http_body::Body<Data = bytes::Bytes, Error: Into<Error>> + Send + 'static,
    E: Into<Error>,
{
    type Output = Response;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Response> {
        let this = self.project();
        this.within.enter();
        let Some(answer) = this.answer.as_pin_mut() else {
            return Poll::Ready(response::empty(500));
        };
        match answer.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(answer)) => Poll::Ready(response::write(answer, *this.within, cx)),
            Poll::Ready(Err(fault)) => {
                let error = fault.into();
                log::send(
                    1,
                    "relmgr_app",
                    &format!("the router gave no response: {}", describe(error.as_ref())),
                );
                Poll::Ready(response::empty(500))
            }
        }
    }
}

pin_project! {
    /// A session's event being handled, polled as a request is.
    struct Handling<F> {
        // `None` once it is over.
        #[pin]
        handler: Option<F>,
        within: Within,
    }

    impl<F> PinnedDrop for Handling<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            this.within.enter();
            this.handler.set(None);
        }
    }
}

impl<F: Future<Output = SessionOutcome>> Future for Handling<F> {
    type Output = SessionOutcome;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<SessionOutcome> {
        let this = self.project();
        this.within.enter();
        match this.handler.as_pin_mut() {
            Some(handler) => handler.poll(cx),
            None => Poll::Pending,
        }
    }
}

/// Has `begin` make the future of a session's event; a panic in it is told by the first poll.
fn handle<A: Application, F>(
    instance: &'static Instance<A>,
    begin: impl FnOnce(&'static Sessions) -> F,
) -> FfiFuture<SessionOutcome>
where
    F: Future<Output = SessionOutcome> + Send + 'static,
{
    static NONE: Sessions = Sessions::none();
    let within = Within::new(instance.id, instance.runtime.handle());
    let begun = catch_unwind(AssertUnwindSafe(|| {
        within.enter();
        begin(instance.running.get().map_or(&NONE, |running| &running.sessions))
    }));
    match begun {
        Ok(handler) => FfiFuture::new(Handling { handler: Some(handler), within }),
        Err(payload) => {
            let message = panic_message(payload);
            FfiFuture::new(async move { std::panic::resume_unwind(Box::new(message)) })
        }
    }
}

fn call<A: Application>(
    instance: &'static Instance<A>,
    head: &RequestHead<'_>,
    body: Option<FfiBody>,
) -> FfiFuture<Response> {
    let Some(running) = instance.running.get() else {
        return FfiFuture::new(async { response::empty(503) });
    };
    let within = Within::new(instance.id, instance.runtime.handle());
    match request::read(head, body) {
        #[cfg(feature = "upgrade")]
        Ok(request) if crate::upgrade::is_asked_for(&request) => {
            within.enter();
            let answer = Some(crate::upgrade::respond(running.router.clone(), request));
            FfiFuture::new(Call { answer, within })
        }
        Ok(request) => {
            within.enter();
            let answer = Some(running.router.clone().respond(request));
            FfiFuture::new(Call { answer, within })
        }
        Err(error) => {
            log::send(3, "relmgr_app", &format!("a request that is none: {error}"));
            FfiFuture::new(async { response::empty(400) })
        }
    }
}

// ----------------------------------------------------------------------------------------------------------
// What the host calls. No panic leaves: each either cannot panic or catches it. `data` is always the box that
// `start` gave out; the host holds the generation during every call, and until every future and body that came of
// one has been dropped. Only then it calls `destroy`.

/// # Safety
/// `data` came from [`start`] and was not given to [`destroy`].
unsafe fn instance<'a, A: Application>(data: *const ()) -> &'a Instance<A> {
    // SAFETY: the caller says so; shared references only.
    unsafe { &*data.cast::<Instance<A>>() }
}

pub(crate) extern "C" fn check<A: Application>(args: StartArgs) -> FfiFuture<Told> {
    let begun = catch_unwind(AssertUnwindSafe(|| {
        log::install(args.host, &args.version);
        let settings = decode::<A>(&args)?;
        let runtime = new_runtime(&args.version)?;
        let task = runtime.spawn(async move { A::check(&settings).await });
        Ok((runtime, task))
    }));
    let begun = begun.unwrap_or_else(|payload| Err(format!("check panicked: {}", panic_message(payload))));
    FfiFuture::new(async move {
        match begun {
            Err(error) => RResult::RErr(error.into()),
            Ok((runtime, task)) => {
                let result = outcome(task, "check").await;
                runtime.shutdown_background();
                told(result)
            }
        }
    })
}

/// Tries a code change on a state, without an instance.
pub(crate) extern "C" fn code_change<A: Application, K: Kind<A>>(
    schema: u32,
    body: FfiBody,
) -> FfiFuture<RResult<RVec<u8>, RString>> {
    let begun = new_runtime("trial").map(|runtime| {
        let task = runtime.spawn(K::trial(schema, body));
        (runtime, task)
    });
    FfiFuture::new(async move {
        let tried = match begun {
            Err(error) => Err(error),
            Ok((runtime, task)) => {
                let result = words(task, "code_change").await;
                runtime.shutdown_background();
                result
            }
        };
        // Every outcome has a JSON form.
        tried.map(|trial| serde_json::to_vec(&trial).unwrap_or_default().into()).map_err(RString::from).into()
    })
}

pub(crate) extern "C" fn start<A: Application, K: Kind<A>>(args: StartArgs) -> RResult<FfiInstance, RString> {
    let made = catch_unwind(AssertUnwindSafe(|| Instance::<A>::start(&args)));
    match made.unwrap_or_else(|payload| Err(panic_message(payload))) {
        Ok(made) => RResult::ROk(FfiInstance {
            data: Box::into_raw(Box::new(made)).cast_const().cast(),
            functions: functions::<A, K>(),
        }),
        Err(error) => RResult::RErr(error.into()),
    }
}

/// The table of an application's functions.
const fn functions<A: Application, K: Kind<A>>() -> InstanceFunctionsRef {
    crate::export::Tables::<A, K>::FUNCTIONS
}

pub(crate) unsafe extern "C" fn ffi_started<A: Application>(data: *const ()) -> FfiFuture<Told> {
    // SAFETY: the host's promise at the top of this part.
    let started = unsafe { instance::<A>(data) }.started.clone();
    FfiFuture::new(Instance::<A>::wait_started(started))
}

pub(crate) unsafe extern "C" fn ffi_call<A: Application>(
    data: *const (),
    head: RequestHead<'_>,
    body: ROption<FfiBody>,
) -> FfiFuture<Response> {
    // SAFETY: the host's promise at the top of this part.
    let instance = unsafe { instance::<A>(data) };
    let called = catch_unwind(AssertUnwindSafe(|| call(instance, &head, body.into_option())));
    // A router that panics before it gives a future: the panic is told by the first poll.
    called.unwrap_or_else(|payload| {
        let message = panic_message(payload);
        FfiFuture::new(async move { std::panic::resume_unwind(Box::new(message)) })
    })
}

pub(crate) unsafe extern "C" fn ffi_health<A: Application>(data: *const ()) -> FfiFuture<Told> {
    // SAFETY: the host's promise at the top of this part.
    let instance = unsafe { instance::<A>(data) };
    let running = instance.running.clone();
    let gave_up = instance.children().as_ref().and_then(children::Running::failure);
    let task = instance.runtime.spawn(async move {
        if let Some(reason) = gave_up {
            return Err(format!("background children: {reason}").into());
        }
        match running.get() {
            Some(running) => running.app.health().await,
            None => Err("the application has not started".into()),
        }
    });
    FfiFuture::new(async move { told(outcome(task, "health").await) })
}

pub(crate) unsafe extern "C" fn ffi_resume<A: Application>(data: *const ()) {
    // SAFETY: the host's promise at the top of this part.
    let instance = unsafe { instance::<A>(data) };
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| instance.resume())) {
        let text = format!("starting the children panicked: {}", panic_message(payload));
        log::send(1, "relmgr_app", &format!("background children: {text}"));
    }
}

pub(crate) unsafe extern "C" fn ffi_suspend<A: Application>(data: *const ()) -> FfiFuture<()> {
    // SAFETY: the host's promise at the top of this part.
    let instance = unsafe { instance::<A>(data) };
    // On the instance's runtime, since its timers need one.
    let task = instance.runtime.spawn(instance.suspend(None));
    FfiFuture::new(async move { drop(task.await) })
}

pub(crate) unsafe extern "C" fn ffi_suspend_within<A: Application>(
    data: *const (),
    patience_ms: u64,
) -> FfiFuture<()> {
    // SAFETY: the host's promise at the top of this part.
    let instance = unsafe { instance::<A>(data) };
    let patience = Duration::from_millis(patience_ms);
    let task = instance.runtime.spawn(instance.suspend(Some(patience)));
    FfiFuture::new(async move { drop(task.await) })
}

pub(crate) unsafe extern "C" fn ffi_children<A: Application>(data: *const ()) -> RVec<u8> {
    // SAFETY: the host's promise at the top of this part.
    let instance = unsafe { instance::<A>(data) };
    let tree = instance.children().as_ref().map(children::Running::tree);
    // Every tree has a JSON form.
    serde_json::to_vec(&tree).unwrap_or_default().into()
}

pub(crate) unsafe extern "C" fn ffi_sessions<A: Application>(data: *const ()) -> RVec<u8> {
    // SAFETY: the host's promise at the top of this part.
    let instance = unsafe { instance::<A>(data) };
    let offer = instance.running.get().map(|running| running.sessions.offer());
    // Every offer has a JSON form.
    serde_json::to_vec(&offer.unwrap_or_default()).unwrap_or_default().into()
}

pub(crate) unsafe extern "C" fn ffi_session_open<A: Application>(
    data: *const (),
    opening: SessionOpening<'_>,
) -> FfiFuture<SessionOutcome> {
    // SAFETY: the host's promise at the top of this part.
    let instance = unsafe { instance::<A>(data) };
    handle(instance, |sessions| sessions::begin(sessions, &opening))
}

pub(crate) unsafe extern "C" fn ffi_session_message<A: Application>(
    data: *const (),
    session: SessionView<'_>,
    kind: u8,
    bytes: FfiBytes,
) -> FfiFuture<SessionOutcome> {
    // SAFETY: the host's promise at the top of this part.
    let instance = unsafe { instance::<A>(data) };
    handle(instance, |sessions| sessions::said(sessions, &session, kind, bytes))
}

pub(crate) unsafe extern "C" fn ffi_session_close<A: Application>(
    data: *const (),
    session: SessionView<'_>,
    code: u16,
    reason: RStr<'_>,
) -> FfiFuture<SessionOutcome> {
    // SAFETY: the host's promise at the top of this part.
    let instance = unsafe { instance::<A>(data) };
    handle(instance, |sessions| sessions::over(sessions, &session, code, &reason))
}

pub(crate) unsafe extern "C" fn ffi_wind_up<A: Application>(data: *const ()) {
    // SAFETY: the host's promise at the top of this part.
    unsafe { instance::<A>(data) }.winding_up.send_replace(true);
}

pub(crate) unsafe extern "C" fn ffi_conf_change<A: Application>(
    data: *const (),
    change: RVec<u8>,
) -> FfiFuture<RResult<bool, RString>> {
    // SAFETY: the host's promise at the top of this part.
    let instance = unsafe { instance::<A>(data) };
    let running = instance.running.clone();
    let task = instance.runtime.spawn(async move {
        let Some(running) = running.get() else { return Err("the application has not started".into()) };
        let change: relmgr_abi::conf::ConfChange<serde_json::Value> = crate::settings::parse(&change)?;
        let relmgr_abi::conf::ConfChange { settings, changed, new, removed } = change;
        let settings = crate::settings::decode_value(settings)?;
        match running.app.conf_change(crate::ConfChange { settings, changed, new, removed }).await {
            Ok(()) => Ok(true),
            Err(error) if error.is::<NotTaken>() => Ok(false),
            Err(error) => Err(error),
        }
    });
    let given_up = EndOnDrop(task.abort_handle());
    FfiFuture::new(async move {
        let result = outcome(task, "conf_change").await;
        drop(given_up);
        result.map_err(RString::from).into()
    })
}

pub(crate) unsafe extern "C" fn ffi_state_out<A: Application, K: Kind<A>>(
    data: *const (),
    schema: u32,
) -> FfiFuture<RResult<FfiBody, RString>> {
    // SAFETY: the host's promise at the top of this part.
    let instance = unsafe { instance::<A>(data) };
    // Not ended when nobody waits any more: a holder that was told to give its state gets it back by itself then.
    let task = instance.runtime.spawn(K::give(instance.running.clone(), instance.kept.clone(), schema));
    FfiFuture::new(async move { words(task, "suspend").await.map_err(RString::from).into() })
}

pub(crate) unsafe extern "C" fn ffi_state_in<A: Application, K: Kind<A>>(
    data: *const (),
    schema: u32,
    body: FfiBody,
) -> FfiFuture<Told> {
    // SAFETY: the host's promise at the top of this part.
    let instance = unsafe { instance::<A>(data) };
    let task = instance.runtime.spawn(K::take(instance.running.clone(), instance.kept.clone(), schema, body));
    let given_up = EndOnDrop(task.abort_handle());
    FfiFuture::new(async move {
        let result = words(task, "resume").await;
        drop(given_up);
        told(result)
    })
}

pub(crate) unsafe extern "C" fn ffi_state_back<A: Application, K: Kind<A>>(
    data: *const (),
) -> FfiFuture<Told> {
    // SAFETY: the host's promise at the top of this part.
    let instance = unsafe { instance::<A>(data) };
    let task = instance.runtime.spawn(K::back(instance.running.clone(), instance.kept.clone()));
    FfiFuture::new(async move { told(words(task, "resume").await) })
}

pub(crate) unsafe extern "C" fn ffi_hand_down<A: Application>(
    data: *const (),
) -> FfiFuture<RResult<u64, RString>> {
    // SAFETY: the host's promise at the top of this part.
    let instance = unsafe { instance::<A>(data) };
    let tables = instance.context.as_ref().and_then(Context::opened_tables);
    let task = instance.runtime.spawn_blocking(move || match tables {
        Some(tables) => tables.hand_down().map_err(Error::from),
        None => Ok(0),
    });
    FfiFuture::new(async move { outcome(task, "handing down").await.map_err(RString::from).into() })
}

pub(crate) unsafe extern "C" fn ffi_stop<A: Application>(data: *const ()) -> FfiFuture<()> {
    // SAFETY: the host's promise at the top of this part.
    let instance = unsafe { instance::<A>(data) };
    let running = instance.running.clone();
    let task = instance.runtime.spawn(async move {
        if let Some(running) = running.get() {
            running.app.stop().await;
        }
    });
    FfiFuture::new(async move { drop(task.await) })
}

pub(crate) unsafe extern "C" fn ffi_destroy<A: Application>(data: *const (), patience_ms: u64) {
    // SAFETY: the host calls this once, last; the box came from `start`.
    let instance = unsafe { Box::from_raw(data.cast_mut().cast::<Instance<A>>()) };
    instance.destroy(Duration::from_millis(patience_ms));
}

//! One generation's instance of the application: its runtime, its router, its children. [`ffi`] is what the host
//! calls of it.

mod ffi;

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

pub(crate) use ffi::*;

use crate::conf::NotTaken;
use crate::response::describe;
use crate::state::{Kept, Kind};
use crate::tables::Sweeper;
use crate::within::{self, Facts, Within};
use crate::{Application, Body, Context, Error, HttpService, Sessions};
use crate::{children, log, request, response, sessions};

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
        let (slot, starting) = (running.clone(), context.clone());
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
                starting.settle_tables();
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
        facts: Facts,
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
        let Some(answer) = this.answer.as_pin_mut() else {
            return Poll::Ready(response::empty(500));
        };
        let polling = this.within.polling(*this.facts);
        let polled = answer.poll(cx);
        drop(polling);
        match polled {
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
    let begin = Begin {
        within: Within::new(instance.id, instance.runtime.handle()),
        facts: (head.connection, head.request_id),
    };
    #[cfg(feature = "upgrade")]
    if crate::upgrade::is_asked_for(head, body.as_ref()) {
        let request = request::read(head, Body::new(body));
        return begin.answer(request, |request| crate::upgrade::respond(running.router.clone(), request));
    }
    #[cfg(feature = "axum")]
    if let Some(router) = as_axum(&running.router) {
        // It is always ready, so it is called, without what waits for that; and nothing is boxed for no body.
        let whole = |body| axum::body::Body::new(Body::new(Some(body)));
        let request = request::read(head, body.map_or_else(axum::body::Body::empty, whole));
        return begin.answer(request, |request| tower_service::Service::call(&mut router.clone(), request));
    }
    begin.answer(request::read(head, Body::new(body)), |request| running.router.clone().respond(request))
}

/// The router, where it is axum's.
#[cfg(feature = "axum")]
fn as_axum<R: 'static>(router: &R) -> Option<&axum::Router> {
    (router as &dyn std::any::Any).downcast_ref()
}

/// A request that is about to be answered.
struct Begin {
    within: Within,
    facts: Facts,
}

impl Begin {
    /// Has `respond` answer what was read of it.
    fn answer<Q, F, B, E>(
        self,
        request: Result<http::Request<Q>, http::Error>,
        respond: impl FnOnce(http::Request<Q>) -> F,
    ) -> FfiFuture<Response>
    where
        F: Future<Output = Result<http::Response<B>, E>> + Send,
        B: http_body::Body<Data = bytes::Bytes, Error: Into<Error>> + Send + 'static,
        E: Into<Error>,
    {
        let Self { within, facts } = self;
        match request {
            Ok(request) => {
                let _polling = within.polling(facts);
                FfiFuture::new(Call { answer: Some(respond(request)), within, facts })
            }
            Err(error) => {
                log::send(3, "relmgr_app", &format!("a request that is none: {error}"));
                FfiFuture::new(async { response::empty(400) })
            }
        }
    }
}

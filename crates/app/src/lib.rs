//! What an application links to run under relmgr.
//!
//! An application is a type that implements [`Application`], and one line that exports it:
//!
//! ```
//! use relmgr_app::{Application, Context, Error, NoSettings};
//!
//! struct Hello {
//!     version: String,
//! }
//!
//! impl Application for Hello {
//!     type Settings = NoSettings;
//!     type Router = axum::Router;
//!
//!     async fn start(context: Context, _settings: NoSettings) -> Result<Self, Error> {
//!         Ok(Hello { version: context.version().to_owned() })
//!     }
//!
//!     fn router(&self) -> axum::Router {
//!         let greeting = format!("hello from {}", self.version);
//!         axum::Router::new().route("/", axum::routing::get(async move || greeting))
//!     }
//! }
//!
//! relmgr_app::export!(Hello);
//! ```
//!
//! `crate-type = ["cdylib"]` in its Cargo.toml, and `cargo relmgr release` makes a release of it. tokio, sqlx,
//! reqwest and the like work inside unchanged: each generation has a tokio runtime of its own, and every future
//! of the application is polled within it.
//!
//! # What is different from a program of its own
//! * Statics and thread-locals are per release: the next release starts with fresh ones. Memory that a static
//!   holds when its release is retired is not freed.
//! * A handler that panics answers 500 and is counted; the connection and the process live on.
//! * A thread that the application starts and never ends keeps its release's code in memory; `relmgr status`
//!   names it. tokio's tasks are not threads: they are dropped with the runtime.
//! * What is to outlive a release, or a death of the process, stands in [`tables`].
//! * WebSockets and raw TCP connections live across upgrades as [`sessions`]. A connection that the router takes over
//!   itself (axum's `WebSocketUpgrade`; feature `upgrade`) stays with its release and ends with it.
//! * `tracing` events arrive in the host's log with the release's version: install no subscriber.

// The derive macro names this crate from outside.
extern crate self as relmgr_app;

mod body;
mod children;
mod conf;
mod export;
mod info;
mod instance;
mod log;
mod request;
mod response;
pub mod sessions;
pub mod settings;
pub mod state;
pub mod tables;
#[cfg(feature = "upgrade")]
mod upgrade;
mod within;

use std::future::Future;

pub use body::{Body, BodyError};
pub use children::{Child, ChildContext, Restart, Shutdown, Strategy, Supervisor};
pub use conf::ConfChange;
pub use info::{Context, NoSettings, RequestInfo, TlsInfo};
pub use sessions::{
    Message, Opening, Refusal, SendError, Session, SessionEnd, SessionHandle, SessionHandler, Sessions,
};
pub use settings::Settings;
#[cfg(any(test, feature = "testing"))]
pub use tables::testing;

#[doc(hidden)]
pub use export::__private;

/// Why a start, a check or a health failed; anything with a `Display` and `?`.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// An application that relmgr runs.
///
/// Everything but `start` and `router` has a default.
pub trait Application: Sized + Send + Sync + 'static {
    /// What `app.conf` may say: `#[derive(Deserialize, Settings)]`, see [`settings`]; [`NoSettings`]: nothing.
    type Settings: Settings;

    /// What answers requests: `axum::Router`, or any [`HttpService`].
    type Router: HttpService;

    /// Starts the application: opens pools, loads what it needs. Requests come when it has returned and the
    /// release has been found healthy; until then the release before it serves on.
    ///
    /// # Errors
    /// A start that fails, panics or takes longer than `upgrade.start` ends the upgrade, and the release before
    /// it serves on.
    fn start(context: Context, settings: Self::Settings) -> impl Future<Output = Result<Self, Error>> + Send;

    /// The service that answers requests; asked for once, after the start.
    fn router(&self) -> Self::Router;

    /// Long conversations that live across upgrades, see [`sessions`]; asked for once, after the start.
    fn sessions(&self) -> Sessions {
        Sessions::none()
    }

    /// Whether the application could serve: asked before it gets traffic.
    ///
    /// # Errors
    /// What is missing, for the operator.
    fn health(&self) -> impl Future<Output = Result<(), Error>> + Send {
        async { Ok(()) }
    }

    /// A trial of the settings in a process that is thrown away afterwards, before anything starts: nothing that
    /// it does may be seen from outside.
    ///
    /// # Errors
    /// What is wrong with the settings, for the operator.
    fn check(_settings: &Self::Settings) -> impl Future<Output = Result<(), Error>> + Send {
        async { Ok(()) }
    }

    /// Background work. It runs only while this generation is current: it starts at the swap, when the release
    /// before it has ended its own, so no job runs twice at once.
    fn children(&self) -> Vec<Child> {
        Vec::new()
    }

    /// The supervisor at the top of the background work; asked for whenever the generation becomes current. By
    /// default [`children`](Application::children), each started again alone.
    ///
    /// When it gives up, the application is unhealthy until its generation is current anew: a release on probation
    /// is rolled back for it.
    fn supervisor(&self) -> Supervisor {
        Supervisor::new(Strategy::OneForOne).children(self.children())
    }

    /// The operator changed settings while the application runs. Not called for keys that the schema marks with
    /// `restart = true`: they stay as they are until `relmgr restart` or the next upgrade.
    ///
    /// Take over all of it or nothing: what stands in [`ConfChange::settings`] has been checked against the schema
    /// and decoded. Without this method every change waits for a restart, as if all keys were marked so.
    ///
    /// # Errors
    /// The change is refused in these words, and the node goes on with the values from before. The same holds for
    /// a panic, and for a future that takes longer than `conf.change`: it is dropped.
    fn conf_change(
        &self,
        _change: ConfChange<Self::Settings>,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        async { Err(conf::NotTaken.into()) }
    }

    /// Called when the generation is retired and its last request is over.
    fn stop(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// What can answer requests: a `tower::Service` over `http::Request<Body>` that is cheap to clone, such as
/// `axum::Router`.
pub trait HttpService: Clone + Send + Sync + 'static {
    /// What its responses carry.
    type ResponseBody: http_body::Body<Data = bytes::Bytes, Error: Into<Error>> + Send + 'static;

    /// Why it gave no response; logged, and answered by 500.
    type Fault: Into<Error>;

    /// Answers one request.
    fn respond(
        self,
        request: http::Request<Body>,
    ) -> impl Future<Output = Result<http::Response<Self::ResponseBody>, Self::Fault>> + Send;
}

impl<S, B> HttpService for S
where
    S: tower_service::Service<
            http::Request<Body>,
            Response = http::Response<B>,
            Error: Into<Error>,
            Future: Send,
        > + Clone
        + Send
        + Sync
        + 'static,
    B: http_body::Body<Data = bytes::Bytes, Error: Into<Error>> + Send + 'static,
{
    type ResponseBody = B;
    type Fault = S::Error;

    fn respond(
        self,
        request: http::Request<Body>,
    ) -> impl Future<Output = Result<http::Response<B>, S::Error>> + Send {
        tower::ServiceExt::oneshot(self, request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body::Body as _;

    /// A service that has nothing to do with axum.
    #[tokio::test]
    async fn any_tower_service_can_answer() {
        let service = tower::service_fn(|request: http::Request<Body>| async move {
            let answer = format!("{} {}", request.method(), request.uri());
            Ok::<_, std::io::Error>(http::Response::new(answer))
        });
        let request = http::Request::get("/polls").body(Body::empty()).unwrap();
        assert!(request.body().is_end_stream());
        assert_eq!(service.respond(request).await.unwrap().into_body(), "GET /polls");
    }
}

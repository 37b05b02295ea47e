//! Polls with live results: the example application of relmgr.
//!
//! An ordinary axum service. What makes it a release is one trait ([`Application`]), one macro (`export!`), and
//! `crate-type = ["cdylib"]` in Cargo.toml; `cargo relmgr release` does the rest.
//!
//! | module | what |
//! | --- | --- |
//! | [`settings`] | what `app.conf` may say |
//! | [`polls`] | polls and votes in state tables, without HTTP |
//! | [`api`] | polls over HTTP, as JSON |
//! | [`pages`] | polls for people |
//! | [`live`] | their results as they come, over WebSockets that outlive releases |
//! | [`line`] | polls over a line protocol, on a listener of its own |
//! | [`debug`] | handlers that sleep, stream, echo and panic, for tests and benchmarks |

pub mod api;
pub mod debug;
pub mod line;
pub mod live;
pub mod pages;
pub mod polls;
pub mod settings;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use chrono::Utc;
use relmgr_app::tables::TableError;
use relmgr_app::{Application, Child, ConfChange, Context, Error, Restart, Sessions, Strategy, Supervisor};

use polls::Polls;
use settings::Settings;

relmgr_app::export!(LivePoll);

/// The application.
#[derive(Clone)]
pub struct LivePoll(Arc<Shared>);

/// What all handlers share.
pub struct Shared {
    /// The release that runs, for the pages.
    pub version: String,
    /// Whom to tell of votes; `None`: there is no node (a test, a program of its own).
    pub context: Option<Context>,
    /// The settings; replaced as a whole when the operator changes some.
    settings: RwLock<Arc<Settings>>,
    /// The polls.
    pub polls: Polls,
}

impl Shared {
    /// The settings as they are now.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether this is served by `cargo relmgr dev`.
    pub fn development(&self) -> bool {
        self.context.as_ref().is_some_and(Context::development)
    }
}

impl LivePoll {
    /// The application with the polls that the releases before it left.
    ///
    /// # Errors
    /// [`TableError`]: their tables cannot be opened.
    pub fn open(context: &Context, settings: Settings) -> Result<Self, TableError> {
        let polls = Polls::open(context, settings.poll.max_options)?;
        let settings = RwLock::new(Arc::new(settings));
        let (version, context) = (context.version().to_owned(), Some(context.clone()));
        Ok(Self(Arc::new(Shared { version, context, settings, polls })))
    }

    /// What all handlers share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Application for LivePoll {
    type Settings = Settings;
    type Router = Router;

    async fn start(context: Context, settings: Settings) -> Result<Self, Error> {
        tracing::info!(title = settings.poll.title, "live-poll starts");
        Ok(Self::open(&context, settings)?)
    }

    fn router(&self) -> Router {
        Router::new()
            .merge(api::router())
            .merge(pages::router())
            .with_state(self.0.clone())
            .nest("/debug", debug::router())
    }

    fn sessions(&self) -> Sessions {
        Sessions::none()
            .websocket("/live", live::Live(self.0.clone()))
            .websocket("/polls/{id}/live", live::Live(self.0.clone()))
            .tcp("line", line::Line(self.0.clone()))
    }

    async fn health(&self) -> Result<(), Error> {
        // What a database would be asked: can it be read?
        self.0.polls.count()?;
        Ok(())
    }

    async fn conf_change(&self, change: ConfChange<Settings>) -> Result<(), Error> {
        self.0.polls.set_max_options(change.settings.poll.max_options);
        *self.0.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(change.settings);
        Ok(())
    }

    fn supervisor(&self) -> Supervisor {
        let shared = self.0.clone();
        let closer = Child::new("closer", move |mut context| {
            let shared = shared.clone();
            async move {
                // Children start when their release becomes current.
                if let Some(node) = &shared.context {
                    live::tell_version(node);
                }
                while !context.stopping_within(Duration::from_millis(500)).await {
                    match shared.polls.close_expired(Utc::now()) {
                        Ok(closed) => {
                            for id in closed {
                                tracing::info!(id, "poll closed");
                                live::tell(&shared, id);
                            }
                        }
                        Err(error) => tracing::warn!(%error, "polls are not closed"),
                    }
                }
            }
        });
        // One round is over in an instant: a closer that takes longer to end hangs.
        let closer = closer.restart(Restart::Permanent).shutdown(Duration::from_secs(1));
        Supervisor::new(Strategy::OneForOne).intensity(3, Duration::from_secs(60)).child(closer)
    }
}

//! `cargo relmgr dev`: from a save to the first request that the new code answers.
//!
//! | module | what |
//! | --- | --- |
//! | [`sources`] | which files count |
//! | [`watch`] | when they were saved |
//! | [`make`] | a release of what was saved |
//! | [`place`] | the node's home |
//! | [`node`] | the node: `relmgr run`, and an ordinary `relmgr upgrade` for each save |
//! | [`tell`] | what the developer reads, and what editors do |
//!
//! One thing after the other: what is saved during a build waits for its end, and is then built once.

mod make;
mod node;
mod place;
mod sources;
mod tell;
mod watch;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use relmgr_model::state;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::build::compile::{CargoOptions, Purpose};
use crate::build::prepared::Prepared;
use crate::build::project::Selection;
use crate::error::Error;
use crate::group::Group;
use make::{Made, Maker};
use node::Relmgr;
use place::Place;
use sources::Sources;
use tell::{Event, Stage, Teller, ms};
use watch::{Save, Watch};

/// What the developer asked for.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) selection: Selection,
    pub(crate) options: CargoOptions,
    pub(crate) home: Option<PathBuf>,
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) relmgr: Option<PathBuf>,
    pub(crate) lose_state: bool,
    pub(crate) json: bool,
}

/// Serves what is saved until it is interrupted.
///
/// # Errors
/// There is nothing to develop, or no node to do it with.
pub(crate) async fn run(request: Request) -> Result<(), Error> {
    let Request { selection, options, home, listen, relmgr, lose_state, json } = request;
    // 1. The package, and a home for its node.
    let prepared = Prepared::new(&selection, &options)?;
    let target = prepared.compiler(&options, Purpose::Development).target_directory()?;
    let place = Place::new(home.as_deref(), &prepared.project, &target, &listen)?;
    let tell = Teller { json, directory: std::env::current_dir().unwrap_or_default() };
    // 2. What is saved from here on is seen.
    let watch = Watch::new(watched(&prepared, &place, &target))?;
    let mut signals = Signals::new()?;
    // 3. The node, and everything that happens while it runs.
    let relmgr = Relmgr::new(relmgr.as_deref(), place.home.clone());
    let mut node = relmgr.start().await?;
    let (packages, symbols, last) = (place.packages.clone(), place.symbols.clone(), place.newest());
    let building = Building::default();
    let group = building.0.clone();
    let maker = Maker { selection, options, prepared, packages, symbols, last, group };
    let session = Session { place: &place, target: &target, relmgr: &relmgr, tell: &tell, lose_state };
    let ended = tokio::select! {
        ended = session.run(maker, watch) => ended,
        died = node.ended() => return Err(died),
        () = signals.received() => Ok(()),
    };
    // 4. Nothing of it is left running.
    drop(building);
    node.stop().await?;
    ended?;
    // Whoever read the events may be gone: that is how an editor ends it.
    let _ = tell.tell(&Event::Stopped);
    Ok(())
}

/// cargo and what it runs, which end with this.
#[derive(Default)]
struct Building(Arc<Group>);

impl Drop for Building {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// What is watched for `prepared`.
fn watched(prepared: &Prepared, place: &Place, target: &Path) -> Sources {
    Sources::of(&prepared.project, &[target, place.home.path(), &place.example])
}

/// What a terminal or an editor ends it with.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> Result<Self, Error> {
        let handler =
            |kind| signal(kind).map_err(|source| Error::Run { program: "a signal's handler".into(), source });
        Ok(Self([
            handler(SignalKind::interrupt())?,
            handler(SignalKind::terminate())?,
            handler(SignalKind::hangup())?,
        ]))
    }

    async fn received(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// What stays the same from save to save.
struct Session<'a> {
    place: &'a Place,
    target: &'a Path,
    relmgr: &'a Relmgr,
    tell: &'a Teller,
    lose_state: bool,
}

impl Session<'_> {
    /// Serves what is there, then what is saved.
    async fn run(self, mut maker: Maker, mut watch: Watch) -> Result<(), Error> {
        let mut begun = Instant::now();
        let status = self.relmgr.up().await?;
        let version = status.current.as_ref().map(|current| &current.version);
        let home = self.place.home.path();
        self.tell.tell(&Event::Started { home, listeners: &status.listeners, version })?;
        // Whether what decides on the sources was saved and is not read yet.
        let mut stale = false;
        loop {
            match if stale { maker.prepare() } else { Ok(()) } {
                Ok(()) => {
                    if std::mem::take(&mut stale) {
                        watch.follow(watched(&maker.prepared, self.place, self.target));
                    }
                    maker = self.serve(maker, begun).await?;
                }
                Err(error) => self.tell.failed(Stage::Build, &error, begun.elapsed())?,
            }
            let Save { at, files } = watch.saved().await;
            begun = at;
            stale |= files.iter().any(|file| Sources::decides(file));
            self.tell.tell(&Event::Changed { files: files.iter().map(PathBuf::as_path).collect() })?;
        }
    }

    /// Builds what is there and has the node serve it. Only what nobody could go on after is an error.
    async fn serve(&self, maker: Maker, begun: Instant) -> Result<Maker, Error> {
        let (maker, made) = make(maker).await?;
        let Made { manifest, build, package } = match made {
            Ok(made) => made,
            Err(error) => {
                self.tell.failed(Stage::Build, &error, begun.elapsed())?;
                return Ok(maker);
            }
        };
        let (version, build_ms, package_ms) = (&manifest.version, ms(build), ms(package));
        let serving = self.place.serving();
        if serving.as_ref().is_some_and(|serving| make::same(serving, &manifest)) {
            self.tell.tell(&Event::Unchanged { ms: ms(begun.elapsed()) })?;
            return Ok(maker);
        }
        self.tell.tell(&Event::Built { version, build_ms, package_ms })?;
        let asked = Instant::now();
        match self.relmgr.upgrade(version, self.lose_state).await {
            Ok(()) => {
                let upgrade_ms = ms(asked.elapsed());
                let ms = ms(begun.elapsed());
                self.tell.tell(&Event::Serving { version, ms, build_ms, package_ms, upgrade_ms })?;
            }
            Err(error) => {
                let before = serving.as_ref().and_then(|serving| serving.state.as_ref());
                let error = match state::way(before, manifest.state.as_ref()) {
                    Err(no_way) if !self.lose_state => Error::StateLeftBehind { no_way },
                    _ => error,
                };
                self.tell.failed(Stage::Upgrade, &error, begun.elapsed())?;
            }
        }
        Ok(maker)
    }
}

/// Makes a release on a thread of its own: signals and the node's end are heard meanwhile.
async fn make(mut maker: Maker) -> Result<(Maker, Result<Made, Error>), Error> {
    let (sender, made) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("build".into()).spawn(move || {
        let made = maker.make();
        // Nobody waits for it any more.
        let _ = sender.send((maker, made));
    });
    let thread = thread.map_err(|source| Error::Run { program: "a thread".into(), source })?;
    match made.await {
        Ok(made) => Ok(made),
        // It has panicked.
        Err(_) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("a thread that ends has sent what it made"),
        },
    }
}

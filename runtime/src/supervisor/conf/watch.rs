//! Sees that the configuration's files change, and has them read when their writers are done.
//!
//! The order is what makes it whole: first the directories are watched, then the files are read. What happens in
//! between is seen, and what happened before is read.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::places::Places;
use super::quiet::{Change, Quiet};
use super::reload::{Cause, reload_by_itself};
use crate::supervisor::node::Node;

/// Watches until the process ends.
pub async fn watch(node: Arc<Node>) {
    if !node.settings.conf.watch {
        node.with(|state| state.conf.unwatched = Some("conf.watch = false in relmgr.toml".into()));
        return;
    }
    let mut watch = Watch::new();
    loop {
        let reads = node.with(|state| state.conf.reads.clone());
        let places = Places::of(&node.home, &reads);
        if watch.arm(places) {
            let unwatched = watch.unwatched();
            if let Some(reason) = &unwatched {
                tracing::warn!(
                    "changes of the configuration are not all seen, `relmgr reload` applies them: {reason}"
                );
            }
            node.with(|state| state.conf.unwatched = unwatched);
        } else {
            tokio::select! {
                () = watch.changed() => {}
                // What serves is another release, or the same with other values: other files may belong to it.
                () = node.rearm.notified() => {}
            }
        }
        watch.begin();
        reload_by_itself(&node, Cause::Watch).await;
    }
}

type Identity = Option<(u64, u64)>;

/// Directories that are watched, and what has happened in them.
pub struct Watch {
    events: mpsc::UnboundedReceiver<notify::Result<Event>>,
    sender: mpsc::UnboundedSender<notify::Result<Event>>,
    quiet: Quiet,
    places: Places,
    /// The watched directories, and which ones they were.
    armed: Option<BTreeMap<PathBuf, Identity>>,
    watcher: Option<RecommendedWatcher>,
    faults: Vec<String>,
}

impl Watch {
    /// Watches nothing yet.
    pub fn new() -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let (places, quiet) = (Places::default(), Quiet::default());
        Self { events, sender, quiet, places, armed: None, watcher: None, faults: vec![] }
    }

    /// Watches `places`. Whether anything may have happened there unseen; where nothing is different, nothing is
    /// done.
    pub fn arm(&mut self, places: Places) -> bool {
        let identities = places.directories.iter().map(|path| (path.clone(), identity(path))).collect();
        if places == self.places && self.armed.as_ref() == Some(&identities) {
            return false;
        }
        self.faults.clear();
        let sender = self.sender.clone();
        let made = notify::recommended_watcher(move |event| {
            // The receiver lives as long as the process.
            let _ = sender.send(event);
        });
        match made {
            Ok(mut watcher) => {
                for directory in identities.keys() {
                    if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) {
                        self.faults.push(format!("{}: {error}", directory.display()));
                    }
                }
                self.watcher = Some(watcher);
            }
            Err(error) => self.faults.push(error.to_string()),
        }
        self.places = places;
        self.armed = Some(identities);
        true
    }

    /// Why changes may go unseen.
    pub fn unwatched(&self) -> Option<String> {
        (!self.faults.is_empty()).then(|| self.faults.join("; "))
    }

    /// Waits for a change, and for its end.
    pub async fn changed(&mut self) {
        loop {
            let due = self.quiet.due().map(tokio::time::Instant::from_std);
            let calm = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some(event) => self.note(event),
                    // Cannot be: a sender is kept.
                    None => std::future::pending().await,
                },
                () = calm => return,
            }
        }
    }

    /// The files are about to be read.
    pub fn begin(&mut self) {
        self.quiet.begin();
    }

    fn note(&mut self, event: notify::Result<Event>) {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%error, "the watch of the configuration");
                self.armed = None;
                return self.quiet.note(Change::Settled(PathBuf::new()), Instant::now());
            }
        };
        if event.need_rescan() {
            self.armed = None;
            self.quiet.note(Change::Settled(PathBuf::new()), Instant::now());
        }
        for path in event.paths {
            // A directory that is made anew may be like the one before in everything that can be asked of it.
            let replaced = self.places.directories.contains(&path)
                && matches!(
                    event.kind,
                    EventKind::Remove(_) | EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(_))
                );
            if replaced {
                self.armed = None;
            }
            if (replaced || self.places.concern(&path))
                && let Some(change) = change(event.kind, path)
            {
                self.quiet.note(change, Instant::now());
            }
        }
    }
}

/// What an event says of a file; `None`: that it was read, perhaps by ourselves.
fn change(kind: EventKind, path: PathBuf) -> Option<Change> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Change::Settled(path)),
        EventKind::Access(_) => None,
        EventKind::Modify(ModifyKind::Data(_)) => Some(Change::Writing(path)),
        EventKind::Create(CreateKind::File) if is_being_written(&path) => Some(Change::Writing(path)),
        _ => Some(Change::Settled(path)),
    }
}

/// Whether a file that has just appeared was made to be written: no symlink and no second link.
fn is_being_written(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|data| data.is_file() && data.nlink() == 1)
}

fn identity(path: &Path) -> Identity {
    std::fs::metadata(path).ok().map(|data| (data.dev(), data.ino()))
}

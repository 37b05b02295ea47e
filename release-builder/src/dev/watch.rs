//! Sees that sources were saved, and when whoever saves them is done.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use relmgr_store::digest;
use tokio::sync::mpsc;

use super::sources::Sources;
use crate::error::Error;
use crate::ui;

/// So long nothing has to happen for a save to be over. An editor writes a file, or renames it, within a millisecond;
/// one that saves several, and `git checkout`, leave less than this between two of them. It is a part of every wait.
const QUIET: Duration = Duration::from_millis(20);

/// Larger files are not read to see whether they are different.
const READ: u64 = 8 * 1024 * 1024;

/// The sources, being watched.
pub(super) struct Watch {
    sources: Sources,
    watcher: RecommendedWatcher,
    events: mpsc::UnboundedReceiver<notify::Result<Event>>,
    watched: BTreeSet<PathBuf>,
    /// What a file held when it was saved last. A build script that writes the same into the sources at every build
    /// would be built for ever otherwise.
    held: HashMap<PathBuf, Content>,
    /// What was not there before the save that is going on.
    created: BTreeSet<PathBuf>,
}

/// Files that were saved together.
#[derive(Debug)]
pub(super) struct Save {
    /// When the first one was.
    pub(super) at: Instant,
    pub(super) files: BTreeSet<PathBuf>,
}

impl Watch {
    /// Watches `sources` from now on.
    ///
    /// # Errors
    /// The system watches nothing for us.
    pub(super) fn new(sources: Sources) -> Result<Self, Error> {
        let (sender, events) = mpsc::unbounded_channel();
        let watcher = notify::recommended_watcher(move |event| {
            // Nobody listens any more when the process ends.
            let _ = sender.send(event);
        });
        let watcher = watcher.map_err(|source| Error::Watch { source })?;
        let mut watch = Self {
            sources,
            watcher,
            events,
            watched: BTreeSet::new(),
            held: HashMap::new(),
            created: BTreeSet::new(),
        };
        watch.arm();
        Ok(watch)
    }

    /// Watches `sources` instead of what was watched.
    pub(super) fn follow(&mut self, sources: Sources) {
        if sources != self.sources {
            self.sources = sources;
            self.arm();
        }
    }

    fn arm(&mut self) {
        let wanted = self.sources.directories();
        for gone in self.watched.difference(&wanted) {
            // It may be gone from the disk, and from the watch with it.
            let _ = self.watcher.unwatch(gone);
        }
        self.watched.retain(|directory| wanted.contains(directory));
        // What they hold now is what is built next.
        let present: Vec<_> = wanted.iter().flat_map(|directory| files(directory)).collect();
        self.add(wanted);
        for file in present.into_iter().filter(|file| self.sources.concern(file)) {
            self.held.insert(file.clone(), holds(&file));
        }
    }

    fn add(&mut self, directories: BTreeSet<PathBuf>) {
        for directory in directories {
            match self.watcher.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.watched.insert(directory)),
                Err(error) => ui::warning(format!(
                    "changes in {} are not seen: {error} (fs.inotify.max_user_watches says how many directories can \
                     be watched)",
                    directory.display()
                )),
            }
        }
    }

    /// Waits for a save, and for its end. What was saved since the last one was answered counts.
    pub(super) async fn saved(&mut self) -> Save {
        let mut save: Option<Save> = None;
        let mut last = Instant::now();
        loop {
            let event = match &save {
                None => self.events.recv().await,
                Some(_) => match tokio::time::timeout_at((last + QUIET).into(), self.events.recv()).await {
                    Ok(event) => event,
                    Err(_) => match save.take().and_then(|save| self.settled(save)) {
                        Some(save) => return save,
                        None => continue,
                    },
                },
            };
            let Some(event) = event else { std::future::pending().await };
            for path in self.counted(event) {
                last = Instant::now();
                save.get_or_insert_with(|| Save { at: last, files: BTreeSet::new() }).files.insert(path);
            }
        }
    }

    /// The save without what has come and gone with it, which some editors and tools write first. `None`: that was all.
    fn settled(&mut self, mut save: Save) -> Option<Save> {
        let created = std::mem::take(&mut self.created);
        for path in created.iter().filter(|path| !path.exists()) {
            save.files.remove(path);
            self.held.remove(path);
        }
        (!save.files.is_empty()).then_some(save)
    }

    /// The files of an event that are different from what they were.
    fn counted(&mut self, event: notify::Result<Event>) -> Vec<PathBuf> {
        let event = match event {
            Ok(event) if !event.need_rescan() => event,
            // Events were lost: anything may have happened.
            _ => {
                self.watched.clear();
                self.arm();
                return self.watched.first().cloned().into_iter().collect();
            }
        };
        if !tells(event.kind) {
            return vec![];
        }
        let is_new = matches!(event.kind, EventKind::Create(_));
        event.paths.into_iter().flat_map(|path| self.different(path, is_new)).collect()
    }

    fn different(&mut self, path: PathBuf, is_new: bool) -> Vec<PathBuf> {
        if path.is_dir() {
            // It is new, or has another name, with all that is in it by now.
            let mut found = BTreeSet::new();
            self.sources.below(&path, &mut found);
            let files: Vec<_> = found.iter().flat_map(|directory| files(directory)).collect();
            self.add(found);
            return files.into_iter().flat_map(|file| self.different_file(file, is_new)).collect();
        }
        self.different_file(path, is_new).into_iter().collect()
    }

    fn different_file(&mut self, path: PathBuf, is_new: bool) -> Option<PathBuf> {
        if !self.sources.concern(&path) {
            return None;
        }
        let holds = holds(&path);
        let same = holds != Content::Large && self.held.get(&path) == Some(&holds);
        let before = self.held.insert(path.clone(), holds);
        if is_new && before.is_none_or(|before| before == Content::Nothing) {
            self.created.insert(path.clone());
        }
        (!same).then_some(path)
    }
}

/// What a file holds.
#[derive(Debug, PartialEq, Eq)]
enum Content {
    /// There is no such file.
    Nothing,
    /// Too much to be read.
    Large,
    /// Bytes with this SHA-256.
    Bytes(String),
}

fn holds(path: &Path) -> Content {
    if std::fs::metadata(path).is_ok_and(|data| data.len() > READ) {
        return Content::Large;
    }
    digest::of_file(path).map_or(Content::Nothing, |digest| Content::Bytes(digest.sha256))
}

/// The files in a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .map(|entry| entry.path())
        .collect()
}

/// Whether something was written: not read, and not marked.
fn tells(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        EventKind::Modify(ModifyKind::Metadata(_)) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_and_marking_is_no_change() {
        use notify::event::{CreateKind, DataChange, MetadataKind, RemoveKind, RenameMode};
        for kind in [
            EventKind::Access(AccessKind::Open(AccessMode::Any)),
            EventKind::Access(AccessKind::Close(AccessMode::Read)),
            EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)),
        ] {
            assert!(!tells(kind), "{kind:?}");
        }
        for kind in [
            EventKind::Access(AccessKind::Close(AccessMode::Write)),
            EventKind::Create(CreateKind::File),
            EventKind::Modify(ModifyKind::Data(DataChange::Any)),
            EventKind::Modify(ModifyKind::Name(RenameMode::To)),
            EventKind::Remove(RemoveKind::File),
        ] {
            assert!(tells(kind), "{kind:?}");
        }
    }
}

//! What a power loss leaves of a file that is written in place, such as a database's.
//!
//! [`Pages`] follows the calls of traced processes and knows at each moment what of the file is durable (what was
//! there when a sync began, what was written with `O_DSYNC`, the entries that their directories were synced with), and
//! what was written since. Of that, a disk has any part when the power goes: it is made of sectors of 512 bytes, and
//! each of them is there or is not, whatever the order in which they were written. These parts are taken, at the last
//! moment before a sync, when there is most to lose, and around each write that is durable by itself:
//!
//! * nothing; every write up to one of them, in their order;
//! * one write alone; all but one; all, but one only by half;
//! * sectors by chance, the same in each run.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::trace::{Call, Change, Recorder};

/// What a disk writes as a whole.
const SECTOR: usize = 512;

/// So often sectors are chosen by chance at each moment.
const CHANCES: u64 = 8;

type Sector = [u8; SECTOR];

/// The sectors that a call changed.
#[derive(Clone)]
struct Write {
    number: u64,
    sectors: Arc<BTreeMap<usize, Sector>>,
}

/// A file, as the programs see it and as the disk has it.
pub struct Pages {
    file: PathBuf,
    now: Vec<u8>,
    durable: Arc<Vec<u8>>,
    /// So often has that changed.
    settled: u64,
    pending: Vec<Write>,
    next: u64,
    /// Syncs that have begun: they make durable what was written before these numbers.
    syncing: Vec<u64>,
    /// Files beside it that may become it: which of them have something that is not durable.
    unsynced: BTreeSet<PathBuf>,
    /// Entries on the way to the file that their directories were not synced with.
    entries: BTreeSet<PathBuf>,
    /// Entries on that way that are there.
    known: BTreeSet<PathBuf>,
    begun: u64,
    promised: u64,
    images: BTreeMap<u64, Image>,
}

/// What a power loss left of the file.
#[derive(Clone)]
pub struct Image {
    /// When it came, and what of the last writes is there.
    pub when: String,
    /// What was promised by then: at least so many steps.
    pub promised: u64,
    /// So many had begun.
    pub begun: u64,
    /// Whether there is a file.
    is_there: bool,
    durable: Arc<Vec<u8>>,
    sectors: BTreeMap<usize, Sector>,
}

/// Sees the calls, and is told what was promised.
#[derive(Clone)]
pub struct Watched(Arc<Mutex<Pages>>);

impl Watched {
    /// The file at `path`, which is not there yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(Arc::new(Mutex::new(Pages {
            file: path.into(),
            now: vec![],
            durable: Arc::default(),
            settled: 0,
            pending: vec![],
            next: 0,
            syncing: vec![],
            unsynced: BTreeSet::new(),
            entries: BTreeSet::new(),
            known: BTreeSet::new(),
            begun: 0,
            promised: 0,
            images: BTreeMap::new(),
        })))
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The step with this number begins.
    pub fn begin_step(&self, step: u64) {
        self.pages().begun = step;
    }

    /// It was said to be done.
    pub fn end_step(&self, step: u64) {
        self.pages().promised = step;
    }

    /// Whether all is durable.
    pub fn is_durable(&self) -> bool {
        let pages = self.pages();
        pages.pending.is_empty() && pages.entries.is_empty()
    }

    /// What is durable by now.
    pub fn durable(&self) -> Image {
        let pages = self.pages();
        pages.new_image("nothing else".into(), BTreeMap::new(), pages.entries.is_empty())
    }

    /// Whoever was in the middle of a sync has been killed: that sync promises nothing.
    pub fn died(&self) {
        self.pages().syncing.clear();
    }

    /// What a power loss may have left at any moment until now.
    pub fn images(&self) -> Vec<Image> {
        let mut pages = self.pages();
        pages.possibilities("at the end");
        pages.images.values().cloned().collect()
    }
}

impl Recorder for Watched {
    fn begins(&mut self, call: &Call) {
        let mut pages = self.pages();
        if call.change == Change::Synced(pages.file.clone()) {
            let next = pages.next;
            pages.syncing.push(next);
            pages.possibilities(&format!("before {call}"));
        }
    }

    fn made(&mut self, call: &Call) {
        self.pages().made(call);
    }
}

impl Pages {
    fn made(&mut self, call: &Call) {
        let is_file = |path: &Path| *path == self.file;
        match &call.change {
            Change::Written(path) if is_file(path) => self.look(),
            Change::WrittenThrough(path) if is_file(path) => {
                self.look();
                self.possibilities(&format!("in {call}"));
                // What this call wrote, and nothing else.
                if let Some(write) = self.pending.pop() {
                    self.settle(&write);
                }
                self.possibilities(&format!("after {call}"));
            }
            Change::Synced(path) if is_file(path) => {
                // With several at once, the one that began first: no more is promised by any of them.
                let before = if self.syncing.is_empty() { self.next } else { self.syncing.remove(0) };
                let (done, left): (Vec<_>, Vec<_>) =
                    std::mem::take(&mut self.pending).into_iter().partition(|write| write.number < before);
                self.pending = left;
                done.iter().for_each(|write| self.settle(write));
                self.possibilities(&format!("after {call}"));
            }
            Change::Written(path) | Change::WrittenThrough(path) => {
                self.unsynced.insert(path.clone());
            }
            Change::Synced(path) => {
                self.unsynced.remove(path);
                self.entries.retain(|entry| entry.parent() != Some(path));
            }
            Change::Made(path) => self.entry(path),
            Change::Renamed(from, path) => {
                if is_file(path) && !self.unsynced.contains(from) {
                    self.look();
                    let writes = std::mem::take(&mut self.pending);
                    writes.iter().for_each(|write| self.settle(write));
                }
                self.entry(path);
            }
            Change::Removed(_) => {}
        }
    }

    /// Something comes to `path`, or it is opened anew.
    fn entry(&mut self, path: &Path) {
        if self.file.starts_with(path) && self.known.insert(path.to_owned()) {
            self.entries.insert(path.to_owned());
        }
        if *path == self.file {
            self.look();
        }
    }

    /// Notes what of the file has changed.
    fn look(&mut self) {
        let found = std::fs::read(&self.file).unwrap_or_default();
        assert!(found.len() >= self.now.len(), "the file never shrinks");
        let mut sectors = BTreeMap::new();
        for (at, bytes) in found.chunks(SECTOR).enumerate() {
            let before = self.now.get(at * SECTOR..(at * SECTOR + bytes.len()));
            if before != Some(bytes) {
                let mut sector = [0; SECTOR];
                sector[..bytes.len()].copy_from_slice(bytes);
                sectors.insert(at, sector);
            }
        }
        self.now = found;
        if !sectors.is_empty() {
            self.pending.push(Write { number: self.next, sectors: Arc::new(sectors) });
            self.next += 1;
        }
    }

    /// What `write` wrote is durable.
    fn settle(&mut self, write: &Write) {
        apply(Arc::make_mut(&mut self.durable), &write.sectors);
        self.settled += 1;
    }

    /// Notes what a power loss leaves in this moment.
    fn possibilities(&mut self, when: &str) {
        let pending = self.pending.clone();
        let all = pending.len();
        let union = |writes: &[&Write]| {
            let mut sectors = BTreeMap::new();
            writes
                .iter()
                .for_each(|write| sectors.extend(write.sectors.iter().map(|(at, bytes)| (*at, *bytes))));
            sectors
        };
        let some = |keep: &dyn Fn(usize) -> bool| {
            let kept: Vec<_> =
                pending.iter().enumerate().filter(|(at, _)| keep(*at)).map(|(_, write)| write).collect();
            union(&kept)
        };
        let whole = some(&|_| true);
        for upto in 0..=all {
            self.image(format!("{when}: {upto} of {all} writes"), some(&|at| at < upto));
        }
        for (number, write) in pending.iter().enumerate() {
            self.image(format!("{when}: only write {number} of {all}"), some(&|at| at == number));
            self.image(format!("{when}: all but write {number} of {all}"), some(&|at| at != number));
            let mut half = some(&|at| at != number);
            half.extend(write.sectors.iter().take(write.sectors.len() / 2).map(|(at, bytes)| (*at, *bytes)));
            self.image(format!("{when}: half of write {number} of {all}"), half);
        }
        for seed in 0..CHANCES {
            let mut by_chance = whole.clone();
            by_chance.retain(|at, _| {
                let mut hasher = DefaultHasher::new();
                (seed, self.next, at).hash(&mut hasher);
                hasher.finish().is_multiple_of(2)
            });
            self.image(format!("{when}: sectors by chance, {seed}"), by_chance);
        }
        if !self.entries.is_empty() {
            let image = self.new_image(format!("{when}: without {:?}", self.entries), BTreeMap::new(), false);
            self.keep(image);
        }
    }

    fn image(&mut self, when: String, sectors: BTreeMap<usize, Sector>) {
        let image = self.new_image(when, sectors, !self.now.is_empty());
        self.keep(image);
    }

    fn new_image(&self, when: String, sectors: BTreeMap<usize, Sector>, is_there: bool) -> Image {
        let (promised, begun, durable) = (self.promised, self.begun, self.durable.clone());
        Image { when, promised, begun, is_there, durable, sectors }
    }

    /// The same content once, with the most that was promised of it.
    fn keep(&mut self, mut image: Image) {
        let durable = &image.durable;
        image.sectors.retain(|at, bytes| durable.get(at * SECTOR..(at + 1) * SECTOR) != Some(&bytes[..]));
        let mut hasher = DefaultHasher::new();
        (image.is_there, self.settled, &image.sectors).hash(&mut hasher);
        let known = self.images.entry(hasher.finish()).or_insert_with(|| image.clone());
        if image.promised > known.promised {
            let begun = known.begun.min(image.begun);
            *known = Image { begun, ..image };
        }
    }
}

fn apply(content: &mut Vec<u8>, sectors: &BTreeMap<usize, Sector>) {
    for (at, bytes) in sectors {
        let (from, to) = (at * SECTOR, (at + 1) * SECTOR);
        if content.len() < to {
            content.resize(to, 0);
        }
        content[from..to].copy_from_slice(bytes);
    }
}

impl Image {
    /// The file's content; `None`: there is no file.
    pub fn content(&self) -> Option<Vec<u8>> {
        let mut content = self.durable.to_vec();
        apply(&mut content, &self.sectors);
        self.is_there.then_some(content)
    }
}

//! When a change of files is over: pure, so that it is tested without files and clocks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// An editor's or a deployment's change is several events that follow each other within a millisecond or two. This
/// bridges them, and leaves most of the 100 ms within which a change is to arrive.
const CALM: Duration = Duration::from_millis(20);

/// A file that is being written in place is left alone until its writer closes it, at most so long since the last
/// write: half of a file may be a valid one.
const WRITING: Duration = Duration::from_secs(1);

/// Who never stops writing does not put a reload off for ever.
const LIMIT: Duration = Duration::from_secs(3);

/// What happened to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was closed, moved, removed or linked: it is whole.
    Settled(PathBuf),
    /// It was made or written, and its writer has it open.
    Writing(PathBuf),
}

/// What has happened since the last reload.
#[derive(Debug, Default)]
pub struct Quiet {
    first: Option<Instant>,
    last: Option<Instant>,
    /// Files that are being written, since when.
    open: BTreeMap<PathBuf, Instant>,
}

impl Quiet {
    /// Takes note of a change.
    pub fn note(&mut self, change: Change, now: Instant) {
        self.first.get_or_insert(now);
        self.last = Some(now);
        match change {
            Change::Settled(path) => drop(self.open.remove(&path)),
            Change::Writing(path) => drop(self.open.insert(path, now)),
        }
    }

    /// When to read the files; `None`: nothing has happened.
    pub fn due(&self) -> Option<Instant> {
        let (first, last) = (self.first?, self.last?);
        let written = self.open.values().max().map(|since| *since + WRITING);
        Some((last + CALM).max(written.unwrap_or(last)).min(first + LIMIT))
    }

    /// The files are about to be read. Who still writes will be seen by the next write, or by the file's close.
    pub fn begin(&mut self) {
        self.first = None;
        self.last = None;
        self.open.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(path: &str) -> Change {
        Change::Settled(path.into())
    }

    fn writing(path: &str) -> Change {
        Change::Writing(path.into())
    }

    #[test]
    fn a_burst_is_one_change() {
        let (mut quiet, now) = (Quiet::default(), Instant::now());
        assert_eq!(quiet.due(), None);
        for at in [0, 3, 9] {
            quiet.note(settled("app.conf"), now + Duration::from_millis(at));
        }
        assert_eq!(quiet.due(), Some(now + Duration::from_millis(9) + CALM));
        quiet.begin();
        assert_eq!(quiet.due(), None);
    }

    #[test]
    fn a_file_that_is_being_written_is_left_alone_until_it_is_closed() {
        let (mut quiet, now) = (Quiet::default(), Instant::now());
        quiet.note(writing("app.conf"), now);
        quiet.note(settled("app.conf.d/a.conf"), now);
        assert_eq!(quiet.due(), Some(now + WRITING));
        let later = now + Duration::from_millis(200);
        quiet.note(settled("app.conf"), later);
        assert_eq!(quiet.due(), Some(later + CALM));
    }

    #[test]
    fn who_never_stops_writing_is_read_all_the_same() {
        let (mut quiet, now) = (Quiet::default(), Instant::now());
        for at in 0..1000 {
            quiet.note(writing("app.conf"), now + Duration::from_millis(at * 10));
        }
        assert_eq!(quiet.due(), Some(now + LIMIT));
    }
}

//! A node's `state.json` and `history.jsonl`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use relmgr_model::home::Home;
use relmgr_model::record::{HistoryEntry, NodeRecord, RecordError};

use crate::atomic;

/// A node's memory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The system refused.
    #[error("{} cannot be {what}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what relmgr wrote.
    #[error(
        "{} cannot be used: restore it from a backup, or move it away to start with no release installed",
        path.display()
    )]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: RecordError,
    },
    /// The home belongs to another application.
    #[error("{} is of application `{found}`, relmgr.toml says `{expected}`", path.display())]
    OtherApp {
        /// The file.
        path: PathBuf,
        /// The application that it was written for.
        found: String,
        /// The application of the settings.
        expected: String,
    },
}

/// Reads `state.json`; a node without one has nothing installed.
///
/// # Errors
/// [`JournalError`]: a file that is there but cannot be used is never taken for none.
pub fn load(home: &Home, app: &str) -> Result<NodeRecord, JournalError> {
    let path = home.state();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(NodeRecord::new(app)),
        Err(source) => return Err(JournalError::Io { path, what: "read", source }),
    };
    let record = match NodeRecord::parse(&text) {
        Ok(record) => record,
        Err(source) => return Err(JournalError::Record { path, source }),
    };
    if record.app == app {
        Ok(record)
    } else {
        Err(JournalError::OtherApp { path, found: record.app, expected: app.into() })
    }
}

/// Writes `state.json`, durably.
///
/// # Errors
/// [`JournalError::Io`]; the file is then what it was, or, where the directory alone could not be synced, the new one
/// whole.
pub fn save(home: &Home, record: &NodeRecord) -> Result<(), JournalError> {
    let path = home.state();
    let written = atomic::write(&path, record.to_json().as_bytes(), 0o644);
    written.map_err(|source| JournalError::Io { path, what: "written", source })
}

/// Writes `new` in the place of `old`, durably. A directory that cannot be synced leaves the new file in place: then
/// the old one is written back, since who is told that nothing was written goes on as before.
///
/// # Errors
/// [`JournalError::Io`]; the file is then what it was, as far as the disk lets itself be written to.
pub fn replace(home: &Home, old: &NodeRecord, new: &NodeRecord) -> Result<(), JournalError> {
    save(home, new).inspect_err(|_| {
        // The first error is the one to tell; the next change writes the whole record again.
        let _ = save(home, old);
    })
}

/// Appends one line to `history.jsonl`, durably. What a death cut short before it stays a line of its own.
///
/// # Errors
/// [`JournalError::Io`].
pub fn append_history(home: &Home, entry: &HistoryEntry) -> Result<(), JournalError> {
    let path = home.history();
    let append = || {
        let mut file = OpenOptions::new().read(true).create(true).append(true).open(&path)?;
        let is_new = file.metadata()?.len() == 0;
        let mut line = if ends_in_a_line(&file)? { vec![] } else { vec![b'\n'] };
        serde_json::to_writer(&mut line, entry)?;
        line.push(b'\n');
        // One write: a line is there whole or cut at its end, never mixed with another.
        file.write_all(&line)?;
        file.sync_data()?;
        if is_new { atomic::sync_dir(atomic::parent(&path)) } else { Ok(()) }
    };
    append().map_err(|source| JournalError::Io { path: path.clone(), what: "written", source })
}

/// Whether nothing of `file` is left of a line that was cut short.
fn ends_in_a_line(file: &File) -> io::Result<bool> {
    let Some(last) = file.metadata()?.len().checked_sub(1) else { return Ok(true) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte == *b"\n")
}

/// The operations of `history.jsonl`, oldest first. Lines that were cut short by a death, be it within a character,
/// are left out.
///
/// # Errors
/// [`JournalError::Io`]; no file is an empty history.
pub fn read_history(home: &Home) -> Result<Vec<HistoryEntry>, JournalError> {
    let path = home.history();
    match std::fs::read(&path) {
        Ok(bytes) => {
            let lines = bytes.split(|byte| *byte == b'\n');
            Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        Err(source) => Err(JournalError::Io { path, what: "read", source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relmgr_model::control::{Kind, Outcome};

    fn entry() -> HistoryEntry {
        HistoryEntry {
            at: chrono::DateTime::UNIX_EPOCH,
            kind: Kind::Upgrade,
            uid: Some(0),
            by: None,
            from: None,
            to: Some("1.2.3".parse().unwrap()),
            outcome: Outcome::Done,
            error: None,
            verdict: None,
            relmgr: None,
            last_words: vec![],
            ms: 12.5,
            steps: vec![],
        }
    }

    #[test]
    fn no_state_is_an_empty_node_and_a_cut_one_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        let record = load(&home, "live-poll").unwrap();
        assert!(record.releases.is_empty());
        save(&home, &record).unwrap();
        assert_eq!(load(&home, "live-poll").unwrap(), record);
        assert!(load(&home, "chat").unwrap_err().to_string().contains("live-poll"));
        std::fs::write(home.state(), &record.to_json()[..20]).unwrap();
        assert!(load(&home, "live-poll").unwrap_err().to_string().contains("backup"));
    }

    #[test]
    fn a_history_that_was_cut_at_any_byte_loses_that_line_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        assert!(read_history(&home).unwrap().is_empty());
        append_history(&home, &entry()).unwrap();
        let first = std::fs::read(home.history()).unwrap();
        let second = HistoryEntry { verdict: Some("für gut befunden".into()), ..entry() };
        append_history(&home, &second).unwrap();
        let whole = std::fs::read(home.history()).unwrap();
        for cut in first.len()..whole.len() - 1 {
            std::fs::write(home.history(), &whole[..cut]).unwrap();
            assert_eq!(read_history(&home).unwrap(), vec![entry()], "cut at {cut}");
            append_history(&home, &second).unwrap();
            assert_eq!(read_history(&home).unwrap(), vec![entry(), second.clone()], "cut at {cut}");
        }
        // Without its end a line is whole all the same.
        std::fs::write(home.history(), &whole[..whole.len() - 1]).unwrap();
        append_history(&home, &entry()).unwrap();
        assert_eq!(read_history(&home).unwrap(), vec![entry(), second, entry()]);
    }
}

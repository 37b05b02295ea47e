//! A file of the operator's is read whole, changed, and replaced whole.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use relmgr_store::atomic;

use crate::cli::error::{CommandError, Kind};

/// The limit of `app.conf`, as the node has it.
const BYTES: u64 = 4 * 1024 * 1024;

/// A new file may come to hold secrets.
const NEW_MODE: u32 = 0o600;

/// The text of the file at `path`; `None`: it is not there.
///
/// # Errors
/// It is no file, too large, or no text.
pub fn read(path: &Path) -> Result<Option<String>, CommandError> {
    let fail = |words: String| CommandError::new(Kind::Failed, format!("{} {words}", path.display()));
    let data = match std::fs::metadata(path) {
        Ok(data) => data,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail("cannot be read".into()).because(&error)),
    };
    if !data.is_file() {
        return Err(fail("is no file".into()));
    }
    if data.len() > BYTES {
        return Err(fail(format!("is larger than {BYTES} bytes")));
    }
    let bytes = std::fs::read(path).map_err(|error| fail("cannot be read".into()).because(&error))?;
    String::from_utf8(bytes).map(Some).map_err(|_| fail("is no text in UTF-8".into()))
}

/// Changes the file at `path` by `change`, which gets its text (empty: it is not there) and gives the new one, or
/// `None` to leave it. Who else changes it in this way waits. Whether it was changed.
///
/// # Errors
/// The file, or what `change` says.
pub fn change(
    path: &Path,
    change: impl FnOnce(&str) -> Result<Option<String>, CommandError>,
) -> Result<bool, CommandError> {
    // A symlink stays one: what it leads to is replaced.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let fail = |error: &std::io::Error| {
        CommandError::new(Kind::Failed, format!("{} cannot be written", path.display())).because(error)
    };
    let directory = path.parent().map_or_else(|| PathBuf::from("."), Path::to_owned);
    let opened = File::open(&directory).map_err(|error| fail(&error))?;
    let _alone = Flock::lock(opened, FlockArg::LockExclusive).map_err(|(_, errno)| fail(&errno.into()))?;
    let text = read(&path)?.unwrap_or_default();
    let Some(new) = change(&text)?.filter(|new| *new != text) else { return Ok(false) };
    // Of the file that was there, else of the directory: root's edit must stay readable for the node's user.
    let like = std::fs::metadata(&path).or_else(|_| std::fs::metadata(&directory));
    let mode = std::fs::metadata(&path).map_or(NEW_MODE, |data| data.mode() & 0o7777);
    let owner = like.map(|data| (data.uid(), data.gid())).map_err(|error| fail(&error))?;
    atomic::write_as(&path, new.as_bytes(), mode, owner).map_err(|error| fail(&error))?;
    Ok(true)
}

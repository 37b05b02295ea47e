//! The one way in which a file is replaced: a temporary file in the same directory, fsync, rename, fsync of the
//! directory. After a power loss there is the old file or the new one, whole.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Temporary names begin with this, so that a start can clear those that a death left.
pub const TEMPORARY: &str = ".relmgr-tmp-";

/// Writes `bytes` to `path` with `mode`, replacing what is there.
///
/// # Errors
/// What the system says; `path` is then what it was, and no temporary file is left.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace(path, bytes, mode, None)
}

/// As [`write`], the file owned by `owner` (user and group) where this process may give it away.
///
/// # Errors
/// As [`write`].
pub fn write_as(path: &Path, bytes: &[u8], mode: u32, owner: (u32, u32)) -> io::Result<()> {
    replace(path, bytes, mode, Some(owner))
}

fn replace(path: &Path, bytes: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let directory = parent(path);
    let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(directory)?;
    file.write_all(bytes)?;
    if let Some((uid, gid)) = owner {
        match std::os::unix::fs::fchown(file.as_file(), Some(uid), Some(gid)) {
            // Only root gives files away; others own what they write, as with any editor.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            result => result?,
        }
    }
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_dir(directory)
}

/// Makes `link` a symlink to `target`, replacing what is there.
///
/// # Errors
/// As [`write`].
pub fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    let directory = parent(link);
    let temporary = tempfile::Builder::new()
        .prefix(TEMPORARY)
        .make_in(directory, |path| std::os::unix::fs::symlink(target, path))?;
    std::fs::rename(temporary.path(), link)?;
    // Renamed: nothing is left to remove.
    let _ = temporary.into_temp_path().keep();
    sync_dir(directory)
}

/// Removes the file or symlink at `path`; that there is none is no error.
///
/// # Errors
/// What the system says.
pub fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_dir(parent(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the entries of the directory at `path` durable.
///
/// # Errors
/// What the system says.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The directory that `path` stands in.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_links_are_replaced_and_nothing_is_left() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("state.json");
        for text in ["one", "two"] {
            write(&file, text.as_bytes(), 0o600).unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        }
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let link = home.path().join("current");
        for target in ["1.0.0", "1.0.1"] {
            symlink(Path::new(target), &link).unwrap();
            assert_eq!(std::fs::read_link(&link).unwrap(), Path::new(target));
        }
        remove(&link).unwrap();
        remove(&link).unwrap();
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file() {
        let home = tempfile::tempdir().unwrap();
        let taken = home.path().join("taken");
        std::fs::create_dir_all(taken.join("inside")).unwrap();
        assert!(write(&taken, b"x", 0o644).is_err());
        assert!(symlink(Path::new("x"), &taken).is_err());
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
    }
}

//! `bin/<app>` in the home: a wrapper for people whose scripts call `bin/example_app upgrade VERSION`.

use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};

use relmgr_model::home::Home;
use relmgr_store::atomic;

const SCRIPT: &str = include_str!("wrapper.sh");

/// Writes the wrapper where it is missing or another one. A node without it serves as well: what goes wrong is said
/// in the log.
pub fn write(home: &Home, app: &str) {
    // A name with a separator in it is no file's name.
    if !matches!(Path::new(app).components().collect::<Vec<_>>()[..], [Component::Normal(name)] if name == OsStr::new(app))
    {
        return;
    }
    let path = home.bin().join(app);
    let text = text(std::env::current_exe().ok());
    if std::fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
        return;
    }
    if let Err(error) = replace(home, &path, &text) {
        tracing::warn!(path = %path.display(), %error, "the wrapper is not written");
    }
}

fn replace(home: &Home, path: &Path, text: &str) -> io::Result<()> {
    std::fs::create_dir_all(home.bin())?;
    atomic::write(path, text.as_bytes(), 0o755)
}

/// The script that calls `relmgr`; without a path that a shell can be told, the one that is found by name.
fn text(relmgr: Option<PathBuf>) -> String {
    let path = relmgr.filter(|path| path.is_file()).and_then(|path| path.to_str().map(str::to_owned));
    let path = path.unwrap_or_else(|| "relmgr".into());
    SCRIPT.replace("@RELMGR@", &format!("'{}'", path.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_quoted_and_a_deleted_executable_is_found_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("it's");
        std::fs::write(&path, "").unwrap();
        assert!(text(Some(path)).contains(r"/it'\''s'"));
        assert!(text(Some(directory.path().join("relmgr (deleted)"))).contains("relmgr='relmgr'"));
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path().join("home"));
        std::fs::create_dir(home.path()).unwrap();
        for name in ["..", "../x", "/x", "a/b", "a/", ""] {
            write(&home, name);
        }
        assert!(!home.bin().exists());
        write(&home, "live-poll");
        assert!(home.bin().join("live-poll").is_file());
    }
}

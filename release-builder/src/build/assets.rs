//! The files that travel in a release beside its library.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use relmgr_model::manifest::is_plain_path;

use crate::error::Error;

/// A schema's place, in the package and in the release.
pub(crate) const SCHEMA: &str = "conf/schema.toml";

/// Deeper trees are circles of symlinks.
const MAX_DEPTH: usize = 64;

/// The files of a release by their path within it: `conf/schema.toml`, what lies in `priv/`, and under `priv/` what
/// `extra` names.
///
/// # Errors
/// Something that is neither file nor directory, a name that cannot travel, two files for one place.
pub(crate) fn collect(directory: &Path, extra: &[String]) -> Result<BTreeMap<String, PathBuf>, Error> {
    let mut files = BTreeMap::new();
    let schema = directory.join(SCHEMA);
    if schema.try_exists().map_err(|source| Error::Read { path: schema.clone(), source })? {
        // A schema that no node could read would stop every upgrade to the release: it stops the build instead.
        crate::build::schema::read(&schema)?;
        add(&mut files, SCHEMA.into(), &schema, 0)?;
    }
    let private = directory.join("priv");
    if private.is_dir() {
        add(&mut files, "priv".into(), &private, 0)?;
    }
    for name in extra {
        let trimmed = name.trim_end_matches('/');
        if !is_plain_path(trimmed) {
            return Err(Error::Asset { path: name.into(), reason: "it is no path beside Cargo.toml" });
        }
        add(&mut files, format!("priv/{trimmed}"), &directory.join(trimmed), 0)?;
    }
    Ok(files)
}

/// Adds the file at `path`, or everything in the directory there. Links are followed: a release holds files only.
fn add(files: &mut BTreeMap<String, PathBuf>, name: String, path: &Path, depth: usize) -> Result<(), Error> {
    let refused = |reason| Error::Asset { path: path.into(), reason };
    let read = |source| Error::Read { path: path.into(), source };
    let kind = std::fs::metadata(path).map_err(read)?.file_type();
    if depth > MAX_DEPTH {
        return Err(refused("it lies deeper than directories go: a link leads back to where it came from"));
    }
    if kind.is_dir() {
        for entry in std::fs::read_dir(path).map_err(read)? {
            let entry = entry.map_err(read)?;
            let Ok(part) = entry.file_name().into_string() else {
                return Err(Error::Asset { path: entry.path(), reason: "its name is not UTF-8" });
            };
            add(files, format!("{name}/{part}"), &entry.path(), depth + 1)?;
        }
        return Ok(());
    }
    if !kind.is_file() {
        return Err(refused("it is neither a file nor a directory"));
    }
    if !is_plain_path(&name) {
        return Err(refused("its name is too long or has characters that cannot travel"));
    }
    match files.insert(name, path.into()) {
        None => Ok(()),
        Some(_) => Err(refused("another file has the same place in the release")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, name: &str) {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, name).unwrap();
    }

    #[test]
    fn schema_private_files_and_named_ones_are_found() {
        let package = tempfile::tempdir().unwrap();
        for name in ["conf/other.toml", "priv/a/b.txt", "migrations/1.sql", "src/lib.rs"] {
            write(package.path(), name);
        }
        std::fs::write(
            package.path().join(SCHEMA),
            "[keys.title]
type = \"string\"
",
        )
        .unwrap();
        std::os::unix::fs::symlink("a/b.txt", package.path().join("priv/link.txt")).unwrap();
        let files = collect(package.path(), &["migrations/".into()]).unwrap();
        let names: Vec<_> = files.keys().map(String::as_str).collect();
        assert_eq!(names, ["conf/schema.toml", "priv/a/b.txt", "priv/link.txt", "priv/migrations/1.sql"]);
        assert!(collect(&package.path().join("src"), &[]).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_travel_is_refused() {
        let package = tempfile::tempdir().unwrap();
        write(package.path(), "priv/static/a");
        write(package.path(), "static/a");
        let refused = |extra: &str| collect(package.path(), &[extra.into()]).unwrap_err().to_string();
        assert!(refused("../x").contains("no path beside Cargo.toml"));
        assert!(refused("/etc/passwd").contains("no path beside Cargo.toml"));
        assert!(refused("missing").contains("missing"));
        assert!(refused("static").contains("same place"));
        std::os::unix::fs::symlink(".", package.path().join("priv/circle")).unwrap();
        let error = collect(package.path(), &[]).unwrap_err();
        assert!(matches!(error, Error::Asset { .. } | Error::Read { .. }), "{error}");
        std::fs::remove_file(package.path().join("priv/circle")).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(package.path().join("priv/socket")).unwrap();
        assert!(collect(package.path(), &[]).unwrap_err().to_string().contains("neither a file"));
        drop(socket);
    }
}

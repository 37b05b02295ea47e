//! Which directories to watch, and which names in them have to do with the configuration.
//!
//! Directories are watched, never files: a file that is replaced by rename is another file. On the way to each file
//! lie
//!
//! * the directory that it stands in, and the one above it, should that be made anew;
//! * the directory of each symlink that is followed: Kubernetes replaces a directory by renaming a symlink that
//!   stands beside it;
//! * where something is missing, the directory in which it would appear.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use relmgr_conf::Reads;
use relmgr_model::home::Home;

/// As many symlinks as the kernel follows.
const LINKS: usize = 40;

/// Directories, and names in them. All paths are free of symlinks but for their last part.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Places {
    /// To be watched.
    pub directories: BTreeSet<PathBuf>,
    names: BTreeSet<PathBuf>,
    /// Any name in these counts that is not hidden.
    open: BTreeSet<PathBuf>,
}

impl Places {
    /// The places of `home`'s configuration, which was read from `reads`.
    pub fn of(home: &Home, reads: &Reads) -> Self {
        let mut places = Self::default();
        places.trace(&home.app_conf(), home.path());
        places.directory(&home.app_conf_d(), home.path());
        for file in &reads.files {
            places.trace(file, home.path());
        }
        for pattern in &reads.patterns {
            places.pattern(pattern, home.path());
        }
        places
    }

    /// The places of `files`.
    pub fn of_files<'a>(files: impl Iterator<Item = &'a PathBuf>) -> Self {
        let mut places = Self::default();
        for file in files {
            // They may lie anywhere, in a directory that is made anew for each renewal.
            places.trace(file, Path::new("-"));
        }
        places
    }

    /// Whether what happens to `path` has to do with the configuration.
    pub fn concern(&self, path: &Path) -> bool {
        let hidden = path.file_name().is_none_or(|name| name.as_bytes().starts_with(b"."));
        let in_open = path.parent().is_some_and(|directory| self.open.contains(directory));
        self.names.contains(path) || (in_open && !hidden)
    }

    fn add(&mut self, directory: &Path, name: PathBuf) {
        self.directories.insert(directory.to_owned());
        self.names.insert(name);
    }

    /// Notes what lies on the way to `path`; where that leads to, if it is there.
    fn trace(&mut self, path: &Path, home: &Path) -> Option<PathBuf> {
        let mut rest: VecDeque<OsString> =
            path.components().map(|part| part.as_os_str().to_owned()).collect();
        let (mut at, mut links) = (PathBuf::from("/"), 0);
        while let Some(part) = rest.pop_front() {
            match Path::new(&part).components().next() {
                Some(Component::Normal(_)) => {}
                Some(Component::ParentDir) => {
                    at.pop();
                    continue;
                }
                Some(Component::RootDir) => {
                    at = PathBuf::from("/");
                    continue;
                }
                _ => continue,
            }
            let next = at.join(&part);
            let Ok(metadata) = std::fs::symlink_metadata(&next) else {
                self.add(&at, next);
                return None;
            };
            if metadata.is_symlink() {
                self.add(&at, next.clone());
                links += 1;
                let target = std::fs::read_link(&next).ok().filter(|_| links <= LINKS)?;
                for part in target.components().rev() {
                    rest.push_front(part.as_os_str().to_owned());
                }
                continue;
            }
            // What lies above the home is not the configuration's: a home that is made anew is another node.
            if rest.len() < 2 && !home.starts_with(&next) {
                self.add(&at, next.clone());
            }
            at = next;
        }
        Some(at)
    }

    /// Notes a directory in which files may appear.
    fn directory(&mut self, path: &Path, home: &Path) {
        if let Some(found) = self.trace(path, home).filter(|found| found.is_dir()) {
            self.directories.insert(found.clone());
            self.open.insert(found);
        }
    }

    /// Notes the directories in which something may match `pattern`.
    fn pattern(&mut self, pattern: &Path, home: &Path) {
        let Some(parent) = pattern.parent() else { return };
        let text = parent.to_string_lossy();
        if !text.contains(['*', '?', '[']) {
            return self.directory(parent, home);
        }
        self.pattern(parent, home);
        for found in glob::glob(&text).into_iter().flatten().flatten() {
            self.directory(&found, home);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Tree {
        _root: tempfile::TempDir,
        root: PathBuf,
    }

    impl Tree {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().canonicalize().unwrap();
            std::fs::create_dir(path.join("home")).unwrap();
            Self { _root: root, root: path }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.join(name)
        }

        fn places(&self, files: &[&str], patterns: &[&str]) -> Places {
            let paths = |names: &[&str]| names.iter().map(|name| self.path(name)).collect();
            let reads = Reads { files: paths(files), patterns: paths(patterns) };
            Places::of(&Home::new(self.path("home")), &reads)
        }

        fn directories(&self, places: &Places) -> Vec<String> {
            let below = |path: &PathBuf| Some(path.strip_prefix(&self.root).ok()?.to_str()?.to_owned());
            places.directories.iter().filter_map(below).collect()
        }
    }

    #[test]
    fn a_bare_home_is_watched_for_what_may_appear() {
        let tree = Tree::new();
        let places = tree.places(&[], &[]);
        assert_eq!(tree.directories(&places), ["home"]);
        for (name, concerns) in [
            ("home/app.conf", true),
            ("home/app.conf.d", true),
            ("home/state.json", false),
            ("home/.app.conf.swp", false),
            ("home", false),
        ] {
            assert_eq!(places.concern(&tree.path(name)), concerns, "{name}");
        }
    }

    #[test]
    fn every_visible_name_of_a_directory_counts() {
        let tree = Tree::new();
        std::fs::create_dir(tree.path("home/app.conf.d")).unwrap();
        std::fs::create_dir_all(tree.path("home/conf.d/a")).unwrap();
        let places = tree.places(&["home/app.conf"], &["home/conf.d/*/x.conf"]);
        assert_eq!(tree.directories(&places), ["home", "home/app.conf.d", "home/conf.d", "home/conf.d/a"]);
        assert!(places.concern(&tree.path("home/app.conf.d/a.conf")));
        assert!(
            places.concern(&tree.path("home/conf.d/b")) && places.concern(&tree.path("home/conf.d/a/x.conf"))
        );
        assert!(!places.concern(&tree.path("home/app.conf.d/.a.conf.swp")));
    }

    #[test]
    fn each_symlink_on_the_way_is_watched() {
        let tree = Tree::new();
        std::fs::create_dir_all(tree.path("mount/..1")).unwrap();
        std::fs::write(tree.path("mount/..1/app.conf"), "").unwrap();
        symlink("..1", tree.path("mount/..data")).unwrap();
        symlink("..data/app.conf", tree.path("mount/app.conf")).unwrap();
        symlink(tree.path("mount/app.conf"), tree.path("home/app.conf")).unwrap();
        let places = tree.places(&["home/app.conf"], &[]);
        // The mount itself may be made anew in the directory above it.
        assert_eq!(tree.directories(&places), ["", "home", "mount", "mount/..1"]);
        for name in ["home/app.conf", "mount/app.conf", "mount/..data", "mount/..1/app.conf"] {
            assert!(places.concern(&tree.path(name)), "{name}");
        }
    }

    #[test]
    fn what_is_missing_is_waited_for_where_it_would_appear() {
        let tree = Tree::new();
        let places = tree.places(&["run/secrets/password"], &[]);
        assert!(places.concern(&tree.path("run")));
        std::fs::create_dir_all(tree.path("run/secrets")).unwrap();
        let places = tree.places(&["run/secrets/password"], &[]);
        assert_eq!(tree.directories(&places), ["home", "run", "run/secrets"]);
        symlink("loop", tree.path("loop")).unwrap();
        assert!(tree.places(&["loop/x"], &[]).concern(&tree.path("loop")));
    }
}

//! What a power loss leaves: a directory of which only that is sure which was made durable.
//!
//! [`Disk`] follows the calls of a traced process and knows, after each of them, what a file system may have on disk
//! if the machine stops there. POSIX promises little: the content of a file is what it was at its last fsync, an
//! entry of a directory what it was at the directory's last fsync. What was done since is there, or is not, in any
//! part. Of these possibilities it takes those that file systems are known for:
//!
//! * nothing of it;
//! * all entries, and the files' content lost or cut (a rename that overtakes its data);
//! * the entries up to one of them, in their order;
//! * one entry alone, before those that came before it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::trace::{Call, Change, Recorder};

/// Files up to this size are known at every moment, others at their syncs.
const SMALL: u64 = 64 * 1024;

/// With so many entries under way, each of them alone is tried.
const FEW: usize = 4;

/// A directory and what of it is durable.
#[derive(Clone)]
pub struct Disk {
    root: PathBuf,
    nodes: Vec<Node>,
    /// What was done to entries since their directory was made durable, in order.
    pending: Vec<Move>,
    /// What may be left, by its content.
    left: BTreeMap<String, Remains>,
}

#[derive(Clone)]
enum Node {
    File {
        durable: Arc<[u8]>,
        now: Option<Arc<[u8]>>,
    },
    Link(PathBuf),
    /// Its durable entries.
    Directory(BTreeMap<String, usize>),
}

#[derive(Clone, Default)]
struct Move {
    removed: Option<(usize, String)>,
    added: Option<(usize, String, usize)>,
}

impl Move {
    fn touches(&self, directory: usize) -> bool {
        self.removed.as_ref().is_some_and(|(of, _)| *of == directory)
            || self.added.as_ref().is_some_and(|(of, ..)| *of == directory)
    }
}

/// How the content of files is left that was not made durable.
#[derive(Clone, Copy)]
enum Loss {
    Lost,
    Cut,
}

/// What a power loss left.
#[derive(Clone)]
pub struct Remains {
    /// The call after which it came, and what it took.
    pub when: String,
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Clone, PartialEq, Eq)]
enum Entry {
    File(Arc<[u8]>),
    Link(PathBuf),
    Directory,
}

const ROOT: usize = 0;

impl Disk {
    /// The directory at `root` as it is, all of it durable. Sockets are left out.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn scan(root: &Path) -> Arc<Mutex<Self>> {
        let mut disk = Self {
            root: root.to_owned(),
            nodes: vec![Node::Directory(BTreeMap::new())],
            pending: vec![],
            left: BTreeMap::new(),
        };
        disk.scan_directory(ROOT, root);
        Arc::new(Mutex::new(disk))
    }

    fn scan_directory(&mut self, id: usize, path: &Path) {
        for entry in std::fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let Some(child) = self.look(&entry.path()) else { continue };
            let name = entry.file_name().into_string().unwrap();
            if let Node::Directory(entries) = &mut self.nodes[id] {
                entries.insert(name, child);
            }
            if matches!(self.nodes[child], Node::Directory(_)) {
                self.scan_directory(child, &entry.path());
            }
        }
    }

    /// A node for what is at `path`.
    fn look(&mut self, path: &Path) -> Option<usize> {
        let kind = std::fs::symlink_metadata(path).ok()?.file_type();
        let node = if kind.is_dir() {
            Node::Directory(BTreeMap::new())
        } else if kind.is_symlink() {
            Node::Link(std::fs::read_link(path).ok()?)
        } else if kind.is_file() {
            Node::File { durable: std::fs::read(path).ok()?.into(), now: None }
        } else {
            return None;
        };
        self.nodes.push(node);
        Some(self.nodes.len() - 1)
    }

    /// What the process sees in a directory, if `made` of what is under way has been done.
    fn entries(&self, directory: usize, made: &[Move]) -> BTreeMap<String, usize> {
        let Node::Directory(durable) = &self.nodes[directory] else { return BTreeMap::new() };
        let mut entries = durable.clone();
        for change in made {
            if let Some((_, name)) = change.removed.as_ref().filter(|(of, _)| *of == directory) {
                entries.remove(name);
            }
            if let Some((_, name, node)) = change.added.as_ref().filter(|(of, ..)| *of == directory) {
                entries.insert(name.clone(), *node);
            }
        }
        entries
    }

    /// The directory that `path` stands in, its name there, and what is there now.
    fn resolve(&self, path: &Path) -> Option<(usize, String, Option<usize>)> {
        let inside = path.strip_prefix(&self.root).ok()?;
        let mut names = inside.components().filter_map(|component| match component {
            Component::Normal(name) => name.to_str().map(str::to_owned),
            _ => None,
        });
        let mut directory = ROOT;
        let mut name = names.next()?;
        for next in names {
            directory = *self.entries(directory, &self.pending).get(&name)?;
            name = next;
        }
        let found = self.entries(directory, &self.pending).get(&name).copied();
        Some((directory, name, found))
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Made(path) => {
                let Some((directory, name, found)) = self.resolve(path) else { return };
                match found {
                    // Opened anew, perhaps emptied.
                    Some(node) => self.write(node, path),
                    None => {
                        let Some(node) = self.look(path) else { return };
                        if let Node::File { durable, now } = &mut self.nodes[node] {
                            *now = Some(std::mem::take(durable));
                        }
                        self.pending.push(Move { added: Some((directory, name, node)), removed: None });
                    }
                }
            }
            Change::Removed(path) => {
                let Some((directory, name, Some(_))) = self.resolve(path) else { return };
                self.pending.push(Move { removed: Some((directory, name)), added: None });
            }
            Change::Renamed(from, to) => {
                let (Some((from, old, Some(node))), Some((to, new, _))) =
                    (self.resolve(from), self.resolve(to))
                else {
                    return;
                };
                self.pending.push(Move { removed: Some((from, old)), added: Some((to, new, node)) });
            }
            // How much of it is durable is not followed: less is promised then.
            Change::Written(path) | Change::WrittenThrough(path) => {
                if let Some((_, _, Some(node))) = self.resolve(path) {
                    self.write(node, path);
                }
            }
            Change::Synced(path) if *path == self.root => self.sync_directory(ROOT),
            Change::Synced(path) => match self.resolve(path) {
                Some((_, _, Some(node))) if matches!(self.nodes[node], Node::Directory(_)) => {
                    self.sync_directory(node);
                }
                Some((_, _, Some(node))) => {
                    let content = std::fs::read(path).unwrap_or_default().into();
                    self.nodes[node] = Node::File { durable: content, now: None };
                }
                _ => {}
            },
        }
    }

    fn write(&mut self, node: usize, path: &Path) {
        let Node::File { now, .. } = &mut self.nodes[node] else { return };
        let small = std::fs::metadata(path).is_ok_and(|metadata| metadata.len() <= SMALL);
        *now = Some(if small { std::fs::read(path).unwrap_or_default().into() } else { Arc::default() });
    }

    fn sync_directory(&mut self, directory: usize) {
        let (done, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().partition(|change| change.touches(directory));
        self.pending = left;
        for change in done {
            // A rename between two directories is one change of the file system's journal.
            if let Some((of, name)) = change.removed
                && let Node::Directory(entries) = &mut self.nodes[of]
            {
                entries.remove(&name);
            }
            if let Some((of, name, node)) = change.added
                && let Node::Directory(entries) = &mut self.nodes[of]
            {
                entries.insert(name, node);
            }
        }
    }

    /// What may be left now.
    fn possibilities(&self) -> Vec<(String, Vec<Move>, Loss)> {
        let all = &self.pending;
        let mut found = vec![("all content cut".to_owned(), all.clone(), Loss::Cut)];
        for made in 0..=all.len() {
            let what = format!("{made} of {} entries made, content lost", all.len());
            found.push((what, all[..made].to_vec(), Loss::Lost));
        }
        if (2..=FEW).contains(&all.len()) {
            for (at, change) in all.iter().enumerate() {
                let what = format!("only entry {} of {} made, content lost", at + 1, all.len());
                found.push((what, vec![change.clone()], Loss::Lost));
            }
        }
        found
    }

    fn tree(&self, made: &[Move], loss: Loss) -> BTreeMap<PathBuf, Entry> {
        let mut tree = BTreeMap::new();
        let mut open = vec![(ROOT, PathBuf::new())];
        let mut visited = BTreeSet::new();
        while let Some((directory, path)) = open.pop() {
            if !visited.insert(directory) {
                continue;
            }
            for (name, node) in self.entries(directory, made) {
                let path = path.join(name);
                let entry = match &self.nodes[node] {
                    Node::Directory(_) => {
                        open.push((node, path.clone()));
                        Entry::Directory
                    }
                    Node::Link(target) => Entry::Link(target.clone()),
                    Node::File { durable, now } => Entry::File(match (loss, now) {
                        (Loss::Cut, Some(now)) => {
                            let kept = durable.len().min(now.len());
                            now[..kept + (now.len() - kept) / 2].into()
                        }
                        _ => durable.clone(),
                    }),
                };
                tree.insert(path, entry);
            }
        }
        tree
    }

    /// All that may be left of the calls so far; the same content once.
    pub fn remains(&self) -> Vec<Remains> {
        self.left.values().cloned().collect()
    }
}

/// Follows the calls of a process.
pub struct Following(pub Arc<Mutex<Disk>>);

impl Recorder for Following {
    fn made(&mut self, call: &Call) {
        let mut disk = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        disk.apply(&call.change);
        for (what, made, loss) in disk.possibilities() {
            let entries = disk.tree(&made, loss);
            let key = fingerprint(&entries);
            disk.left.entry(key).or_insert_with(|| Remains { when: format!("{call}: {what}"), entries });
        }
    }
}

/// Tells trees apart; two that have the same one differ in nothing that matters.
fn fingerprint(entries: &BTreeMap<PathBuf, Entry>) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    for (path, entry) in entries {
        path.hash(&mut hasher);
        match entry {
            Entry::Directory => 0.hash(&mut hasher),
            Entry::Link(target) => target.as_os_str().as_bytes().hash(&mut hasher),
            Entry::File(content) => content.hash(&mut hasher),
        }
    }
    format!("{:016x}", hasher.finish())
}

impl Remains {
    /// Makes it at `root`, in the place of what is there.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn restore(&self, root: &Path) {
        if root.exists() {
            std::fs::remove_dir_all(root).unwrap();
        }
        std::fs::create_dir(root).unwrap();
        // A directory comes before what is in it.
        for (path, entry) in &self.entries {
            let path = root.join(path);
            match entry {
                Entry::Directory => std::fs::create_dir(path).unwrap(),
                Entry::Link(target) => std::os::unix::fs::symlink(target, path).unwrap(),
                Entry::File(content) => std::fs::write(path, content).unwrap(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(remains: &Remains) -> BTreeMap<String, String> {
        let text = |(path, entry): (&PathBuf, &Entry)| {
            let Entry::File(content) = entry else { return None };
            Some((path.display().to_string(), String::from_utf8_lossy(content).into_owned()))
        };
        remains.entries.iter().filter_map(text).collect()
    }

    /// What is left of a file `state` with `old` in it that `steps` replace by `new`.
    fn left_of(steps: &[&str]) -> BTreeSet<String> {
        let directory = tempfile::tempdir().unwrap();
        let (state, temporary) = (directory.path().join("state"), directory.path().join("tmp"));
        std::fs::write(&state, "old").unwrap();
        let disk = Disk::scan(directory.path());
        let mut following = Following(disk.clone());
        let mut made = |name, change| following.made(&Call { name, change });
        for step in steps {
            match *step {
                "write" => {
                    std::fs::write(&temporary, "").unwrap();
                    made("openat", Change::Made(temporary.clone()));
                    std::fs::write(&temporary, "new!").unwrap();
                    made("write", Change::Written(temporary.clone()));
                }
                "fsync" => made("fsync", Change::Synced(temporary.clone())),
                "rename" => {
                    std::fs::rename(&temporary, &state).unwrap();
                    made("rename", Change::Renamed(temporary.clone(), state.clone()));
                }
                _ => made("fsync", Change::Synced(directory.path().to_owned())),
            }
        }
        let remains = disk.lock().unwrap().remains();
        remains.iter().map(|remains| files(remains).remove("state").unwrap_or("none".into())).collect()
    }

    #[test]
    fn a_file_that_is_synced_before_its_rename_is_the_old_or_the_new_one() {
        let left = left_of(&["write", "fsync", "rename", "fsync of the directory"]);
        assert_eq!(Vec::from_iter(left), ["new!", "old"]);
    }

    #[test]
    fn a_rename_overtakes_content_that_was_not_synced() {
        let left = left_of(&["write", "rename", "fsync of the directory"]);
        assert_eq!(Vec::from_iter(left), ["", "ne", "old"]);
    }

    #[test]
    fn what_was_left_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let (home, again) = (directory.path().join("home"), directory.path().join("again"));
        std::fs::create_dir_all(home.join("releases/1.0.0")).unwrap();
        std::fs::write(home.join("releases/1.0.0/VERSION"), "1.0.0").unwrap();
        std::os::unix::fs::symlink("1.0.0", home.join("releases/current")).unwrap();
        let disk = Disk::scan(&home);
        std::fs::remove_file(home.join("releases/current")).unwrap();
        let removed = Change::Removed(home.join("releases/current"));
        Following(disk.clone()).made(&Call { name: "unlink", change: removed });
        let left = disk.lock().unwrap().remains();
        let links: BTreeSet<_> = left
            .iter()
            .map(|remains| {
                remains.restore(&again);
                assert_eq!(std::fs::read_to_string(again.join("releases/1.0.0/VERSION")).unwrap(), "1.0.0");
                std::fs::read_link(again.join("releases/current")).ok()
            })
            .collect();
        assert_eq!(links.len(), 2, "the link is there or not");
    }
}

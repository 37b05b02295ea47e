//! The effective configuration: what a release runs with, and where each value comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::fault::{Fault, Faults, Place};
use crate::key::Key;
use crate::secret::MASK;
use crate::value::Value;

/// Shorter secrets stand in other words by chance; hiding them there would tell what they are.
const REDACTED: usize = 4;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The schema.
    Default,
    /// A line of a file.
    File(Place),
    /// The environment variable that the schema names for the key.
    Environment(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(place) => place.fmt(f),
            Self::Environment(name) => write!(f, "${name}"),
        }
    }
}

/// One key's value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The value.
    pub value: Value,
    /// Where it comes from.
    pub origin: Origin,
    /// The references that were resolved for it: `${NAME}`, `file:/path`.
    pub via: Vec<String>,
    /// Whether it must not be seen.
    pub secret: bool,
    /// Whether a change waits for a restart.
    pub restart: bool,
}

/// The values that a release runs with.
#[derive(Debug, Clone, Default)]
pub struct Effective {
    pub(crate) entries: BTreeMap<Key, Entry>,
    /// Groups of any names that have none.
    pub(crate) empty_groups: Vec<Key>,
    pub(crate) warnings: Vec<Fault>,
    pub(crate) files: Vec<PathBuf>,
}

impl Effective {
    /// Every key with a value, in the order of the keys.
    pub fn entries(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter()
    }

    /// One key's value.
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// What the operator should know and that stops nothing: deprecated, renamed and removed keys.
    pub fn warnings(&self) -> &[Fault] {
        &self.warnings
    }

    /// Every file that was read, those that hold one value included: what has to be watched.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// A nested object by key path, for the application. **Secrets are in it**: it goes to the host over a pipe
    /// and nowhere else.
    ///
    /// A duration is a string that humantime reads (`"1h30m"`), a size a whole number of bytes, an address, URL
    /// or word of an enum a string. A key without a value is left out; a group of any names (`queues.$name`)
    /// that has none is an empty object.
    pub fn to_json(&self) -> serde_json::Value {
        let mut root = serde_json::Map::new();
        for group in &self.empty_groups {
            if let Some((name, above)) = group.segments().split_last() {
                object(&mut root, above).entry(&**name).or_insert_with(|| serde_json::Map::new().into());
            }
        }
        // In the order of the keys a group's stand together: its object is looked for once.
        let entries: Vec<_> = self.entries.iter().collect();
        for group in entries.chunk_by(|(key, _), (next, _)| key.above() == next.above()) {
            let object = object(&mut root, group[0].0.above());
            let values = group.iter().filter_map(|(key, entry)| Some((key.segments().last()?, entry)));
            object.extend(values.map(|(name, entry)| (name.to_string(), entry.value.to_json())));
        }
        serde_json::Value::Object(root)
    }

    /// The values as an `app.conf` with their origins as comments, secrets left out.
    pub fn to_conf_text(&self) -> String {
        let mut text = String::from(
            "# The configuration that relmgr applied to this release, secrets left out.\n\
             # Changes here have no effect: the operator's file is app.conf in the node's home directory.\n",
        );
        for (key, entry) in &self.entries {
            // A secret's line is a comment: the file could be used as an app.conf and would not set it to `***`.
            let lead = if entry.secret { "# " } else { "" };
            let via: String = entry.via.iter().map(|via| format!(", {via}")).collect();
            let origin = format!("{}{via}", entry.origin).replace(['\n', '\r'], " ");
            text.push_str(&format!("{lead}{key} = {}  # {origin}\n", entry.value.to_conf()));
        }
        text
    }

    /// SHA-256 over keys and values, hexadecimal. Of a secret only that it is set: the hash is public, and a
    /// weak password could be guessed from it.
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for (key, entry) in &self.entries {
            let value = if entry.secret { MASK.to_owned() } else { entry.value.to_conf() };
            hash.update(format!("{key} = {value}\n").as_bytes());
        }
        hex::encode(hash.finalize())
    }

    /// The values as the author's settings type.
    ///
    /// # Errors
    /// The key that does not fit, where it was set, and what was expected; a secret is not shown.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, Faults> {
        serde_path_to_error::deserialize(self.to_json()).map_err(|error| self.misfit(&error).into())
    }

    fn misfit(&self, error: &serde_path_to_error::Error<serde_json::Error>) -> Fault {
        use serde_path_to_error::Segment;
        let mut path = Key::root();
        for segment in error.path() {
            match segment {
                Segment::Map { key } => path = path.child(key),
                _ => break,
            }
        }
        // The path may go on into a record, or end at a group in which something is missing.
        let within = |key: &Key| path.segments().starts_with(key.segments());
        let found = self.entries.iter().find(|(key, _)| within(key));
        let place = match found.map(|(_, entry)| &entry.origin) {
            Some(Origin::File(place)) => place.clone(),
            Some(Origin::Environment(name)) => Place::whole(format!("${name}")),
            Some(Origin::Default) => Place::whole("conf/schema.toml"),
            None => Place::whole("app.conf"),
        };
        let words = match found {
            Some((_, entry)) if entry.secret => "it does not fit".to_owned(),
            _ => error.inner().to_string(),
        };
        let fault = Fault::new(place, format!("the application cannot use it: {words}"));
        let fault = fault.hint("the schema of the release and its settings type disagree; tell its author");
        match found {
            Some((key, _)) => fault.about(key),
            None if path.segments().is_empty() => fault,
            None => fault.about(&path),
        }
    }

    /// What is different from `before`.
    pub fn changes_since(&self, before: &Self) -> Changes {
        let mut changes = Changes::default();
        for (key, entry) in &self.entries {
            match before.entries.get(key) {
                Some(old) if old.value == entry.value => continue,
                Some(_) => changes.changed.push(key.clone()),
                None => changes.new.push(key.clone()),
            }
            if entry.restart {
                changes.pending.push(key.clone());
            }
        }
        for (key, old) in before.entries.iter().filter(|(key, _)| !self.entries.contains_key(*key)) {
            changes.removed.push(key.clone());
            if old.restart {
                changes.pending.push(key.clone());
            }
        }
        changes
    }

    /// What of this configuration can apply while `running` is in force: the keys that wait for a restart are as
    /// they are there.
    ///
    /// A group that comes or goes as a whole (`queues.mail`) does so with its waiting keys: half of it would be
    /// nothing that the application could use.
    pub fn without_restart(&self, running: &Self) -> Self {
        let mut applied = self.clone();
        for key in &self.changes_since(running).pending {
            let held = match (running.entries.contains_key(key), self.entries.contains_key(key)) {
                (false, _) => newborn(key, &running.entries),
                (_, false) => newborn(key, &self.entries),
                _ => key.segments(),
            };
            let new: Vec<_> = below(&applied.entries, held).map(|(key, _)| key.clone()).collect();
            for key in &new {
                applied.entries.remove(key);
            }
            let before = below(&running.entries, held);
            applied.entries.extend(before.map(|(key, entry)| (key.clone(), entry.clone())));
        }
        let is_empty = |group: &&Key| below(&applied.entries, group.segments()).next().is_none();
        let groups = self.empty_groups.iter().chain(&running.empty_groups);
        applied.empty_groups = groups.filter(is_empty).cloned().collect();
        applied
    }

    /// `text` without this configuration's secrets: words of the application's own may repeat one.
    pub fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for entry in self.entries.values() {
            if let Value::Secret(secret) = &entry.value
                && secret.expose().len() >= REDACTED
            {
                text = text.replace(secret.expose(), MASK);
                // As `Debug` and JSON show it.
                text = text.replace(&secret.expose().escape_debug().to_string(), MASK);
            }
        }
        text
    }

    pub(crate) fn reads(&self, path: &Path) -> bool {
        self.files.iter().any(|file| file == path)
    }
}

/// What differs between two configurations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Keys with another value.
    pub changed: Vec<Key>,
    /// Keys that had none.
    pub new: Vec<Key>,
    /// Keys that have none any more.
    pub removed: Vec<Key>,
    /// Those among all three that wait for a restart.
    pub pending: Vec<Key>,
}

impl Changes {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.new.is_empty() && self.removed.is_empty()
    }
}

/// The entries whose keys begin with `prefix`.
fn below<'a>(
    entries: &'a BTreeMap<Key, Entry>,
    prefix: &'a [Box<str>],
) -> impl Iterator<Item = (&'a Key, &'a Entry)> {
    let from = entries.range::<[Box<str>], _>((Bound::Included(prefix), Bound::Unbounded));
    from.take_while(move |(key, _)| key.segments().starts_with(prefix))
}

/// The shortest part of `key`, from its beginning, below which `entries` have nothing.
fn newborn<'a>(key: &'a Key, entries: &BTreeMap<Key, Entry>) -> &'a [Box<str>] {
    let segments = key.segments();
    let is_new = |len: &usize| below(entries, &segments[..*len]).next().is_none();
    let len = (1..=segments.len()).find(is_new).unwrap_or(segments.len());
    &segments[..len]
}

/// The object at `path`, made where it is not there. The schema has no key that is both a value and a group.
fn object<'a>(
    root: &'a mut serde_json::Map<String, serde_json::Value>,
    path: &[Box<str>],
) -> &'a mut serde_json::Map<String, serde_json::Value> {
    let Some((first, rest)) = path.split_first() else { return root };
    if !root.get(&**first).is_some_and(serde_json::Value::is_object) {
        root.insert(first.to_string(), serde_json::Map::new().into());
    }
    match root.get_mut(&**first) {
        Some(serde_json::Value::Object(inner)) => object(inner, rest),
        _ => unreachable!("it was made an object above"),
    }
}

//! The schema that a release carries in `conf/schema.toml`: which keys it has, and what each of them may be.
//!
//! ```toml
//! [keys."poll.max_options"]
//! type = "integer"                 # see the table
//! default = 20
//! min = 2
//! max = 100
//! doc = "How many options a poll may have."
//! example = 50
//! env = "POLL_MAX_OPTIONS"         # set, it wins over every file
//! was = ["poll.options"]           # former names: still read, with a warning
//!
//! [keys."Repo.password"]
//! type = "string"
//! required = true                  # no default, and somebody must set it
//! secret = true                    # never shown, logged or written
//! restart = true                   # a change waits for a restart or the next upgrade
//! deprecated = "use Repo.url"      # still read, with this warning
//!
//! [keys."queues.$name.size"]       # `$name` or `*`: any one segment
//! type = "integer"
//! default = 10                     # for each name that some key of the group mentions
//!
//! [removed]
//! "poll.colour" = "polls have no colour any more"    # ignored, with this warning
//! ```
//!
//! | type | further fields | default is written as |
//! | --- | --- | --- |
//! | `string` | `min`, `max` (characters), `pattern` (a regular expression for the whole text) | text |
//! | `integer`, `float` | `min`, `max` | number |
//! | `boolean` | | `true`, `false` |
//! | `duration`, `bytes` | `min`, `max` | text with a unit: `"30s"`, `"16MB"` |
//! | `address` | `ip_only` | `"127.0.0.1:8080"` |
//! | `ip`, `url` | `schemes` (url) | text |
//! | `enum` | `values` | text |
//! | `list` | `items` (a type's word or a table with `type` and its fields), `min`, `max` (items) | array |
//! | `record` | `fields`: a table for each name, with `type`, `default`, `required` | table |

use std::collections::BTreeMap;

use crate::fault::{Fault, Faults, Place};
use crate::key::Key;
use crate::schema_read;
use crate::types::Type;
use crate::value::Value;

/// The schema format that this relmgr writes and reads.
pub(crate) const FORMAT: i64 = 1;

/// One key of a schema.
#[derive(Debug, Clone, PartialEq)]
pub struct KeySpec {
    /// What its value may be.
    pub ty: Type,
    /// Its value where nobody sets it.
    pub default: Option<Value>,
    /// For the operator: what it does. Lines are kept.
    pub doc: String,
    /// A value to show where there is no default.
    pub example: Option<Value>,
    /// The environment variable that wins over every file.
    pub env: Option<String>,
    /// Whether somebody must set it.
    pub required: bool,
    /// Whether it must not be seen; strings and URLs only.
    pub secret: bool,
    /// Whether a change waits for a restart.
    pub restart: bool,
    /// Former names, still read with a warning. A `$name` in them must stand in the key, too.
    pub was: Vec<Key>,
    /// Still read, with this warning.
    pub deprecated: Option<String>,
}

impl KeySpec {
    /// An optional key of this type, with everything else left out.
    pub fn new(ty: Type) -> Self {
        Self {
            ty,
            default: None,
            doc: String::new(),
            example: None,
            env: None,
            required: false,
            secret: false,
            restart: false,
            was: Vec::new(),
            deprecated: None,
        }
    }
}

/// Which keys a release has, and what each of them may be.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema {
    pub(crate) keys: Vec<(Key, KeySpec)>,
    pub(crate) removed: BTreeMap<Key, String>,
    pub(crate) root: Group,
}

/// The keys as a tree of segments.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Group {
    /// A key: its place in [`Schema::keys`].
    Leaf(usize),
    /// Any one segment.
    Each(Box<Group>),
    /// These segments.
    Table(BTreeMap<Box<str>, Group>),
}

/// What a schema says of a key that somebody wrote.
#[derive(Debug, PartialEq)]
pub(crate) enum Found<'a> {
    Key(usize),
    /// By a former name; the key is the one of today.
    Renamed(usize, Key),
    Removed(&'a str),
    /// Keys begin with it.
    Group,
    /// It begins with this key.
    Below(usize),
    Unknown,
}

/// Whether `segment` of a schema's key stands for any one segment.
pub(crate) fn is_wildcard(segment: &str) -> bool {
    segment == "*" || segment.starts_with('$')
}

/// A schema's key as it is written, wildcards without quotes.
pub(crate) fn pattern(key: &Key) -> String {
    let segment = |segment: &str| match is_wildcard(segment) {
        true => segment.to_owned(),
        false => crate::print::segment(segment),
    };
    key.segments().iter().map(|text| segment(text)).collect::<Vec<_>>().join(".")
}

impl Schema {
    /// Reads `conf/schema.toml`.
    ///
    /// # Errors
    /// Every mistake in it, with line and column.
    pub fn parse(text: &str) -> Result<Self, Faults> {
        schema_read::read(text)
    }

    /// Makes a schema of its keys, in the order in which they are shown. Wildcards stand as `$name` or `*`.
    ///
    /// # Errors
    /// Every contradiction between them.
    pub fn new(keys: impl IntoIterator<Item = (String, KeySpec)>) -> Result<Self, Faults> {
        let place = || Place::whole("schema");
        let mut faults = Faults::default();
        let mut read = Vec::new();
        for (name, spec) in keys {
            match crate::parse::pattern(&name) {
                Ok(key) => {
                    let problems = schema_read::contradictions(&key, &spec);
                    faults.extend(problems.into_iter().map(|text| Fault::new(place(), text).about(&name)));
                    read.push((key, spec));
                }
                Err(reason) => faults.push(Fault::new(place(), reason).about(&name)),
            }
        }
        let (schema, clashes) = Self::assemble(read, BTreeMap::new());
        faults.extend(clashes.into_iter().map(|(key, text)| Fault::new(place(), text).about(pattern(&key))));
        faults.or(schema)
    }

    /// The schema of keys, and each key that cannot stand beside the ones before it.
    pub(crate) fn assemble(
        keys: Vec<(Key, KeySpec)>,
        removed: BTreeMap<Key, String>,
    ) -> (Self, Vec<(Key, String)>) {
        let mut root = Group::Table(BTreeMap::new());
        let mut clashes = Vec::new();
        for (index, (key, _)) in keys.iter().enumerate() {
            if let Err(reason) = root.insert(key.segments(), index) {
                clashes.push((key.clone(), reason));
            }
        }
        let schema = Self { keys, removed, root };
        for (key, spec) in &schema.keys {
            for former in &spec.was {
                if matches!(schema.root.find(former.segments()), Found::Key(_)) {
                    let reason = format!("its former name {} is a key of today", pattern(former));
                    clashes.push((key.clone(), reason));
                }
            }
        }
        for key in schema.removed.keys() {
            if matches!(schema.root.find(key.segments()), Found::Key(_)) {
                clashes.push((key.clone(), "is both removed and a key of today".to_owned()));
            }
        }
        (schema, clashes)
    }

    /// The keys in the schema's order, wildcards as they are written.
    pub fn keys(&self) -> impl Iterator<Item = (String, &KeySpec)> {
        self.keys.iter().map(|(key, spec)| (pattern(key), spec))
    }

    /// The keys that are gone and ignored where they are still set, each with what is said of it.
    pub fn removed(&self) -> impl Iterator<Item = (&Key, &str)> {
        self.removed.iter().map(|(key, message)| (key, message.as_str()))
    }

    /// Whether it has no keys.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The schema as `conf/schema.toml`.
    pub fn to_toml(&self) -> String {
        crate::schema_write::write(self)
    }

    /// What it says of `key`.
    pub(crate) fn find(&self, key: &Key) -> Found<'_> {
        match self.root.find(key.segments()) {
            Found::Unknown => {}
            found => return found,
        }
        if let Some(message) = self.removed.get(key) {
            return Found::Removed(message);
        }
        for (index, (now, spec)) in self.keys.iter().enumerate() {
            if let Some(today) = spec.was.iter().find_map(|former| renamed(former, now, key)) {
                return Found::Renamed(index, today);
            }
        }
        Found::Unknown
    }

    /// Whether nothing that may be shown stands in `key`'s value: it is known, and no secret.
    pub(crate) fn may_show(&self, key: &Key) -> bool {
        match self.find(key) {
            Found::Key(index) | Found::Renamed(index, _) => !self.keys[index].1.secret,
            _ => false,
        }
    }

    /// The key that was most likely meant.
    pub(crate) fn nearest(&self, key: &Key) -> Option<String> {
        let fitted: Vec<_> = self.keys.iter().map(|(known, _)| fitted(known, key)).collect();
        crate::suggest::word(&key.to_string(), fitted.iter().map(String::as_str)).map(str::to_owned)
    }
}

/// `known` with its wildcards replaced by what stands in their places in `key`.
fn fitted(known: &Key, key: &Key) -> String {
    let mut segments = known.segments().to_vec();
    for (segment, name) in segments.iter_mut().zip(key.segments()) {
        if is_wildcard(segment) {
            segment.clone_from(name);
        }
    }
    pattern(&Key::new(segments))
}

/// Today's name of `key`, if `former` is its pattern: the names that stand for wildcards are carried over.
fn renamed(former: &Key, now: &Key, key: &Key) -> Option<Key> {
    if former.segments().len() != key.segments().len() {
        return None;
    }
    let mut names = BTreeMap::new();
    for (pattern, segment) in former.segments().iter().zip(key.segments()) {
        if is_wildcard(pattern) {
            names.insert(pattern, segment);
        } else if pattern != segment {
            return None;
        }
    }
    let mut segments = now.segments().to_vec();
    for segment in segments.iter_mut().filter(|segment| is_wildcard(segment)) {
        *segment = (*names.get(segment)?).clone();
    }
    Some(Key::new(segments))
}

impl Group {
    fn insert(&mut self, segments: &[Box<str>], index: usize) -> Result<(), String> {
        let Some((segment, rest)) = segments.split_first() else {
            return Err("is the beginning of another key, so it cannot have a value".to_owned());
        };
        if is_wildcard(segment) {
            if matches!(self, Self::Table(table) if table.is_empty()) {
                let deeper = branch(rest, index);
                *self = Self::Each(Box::new(deeper));
                return Ok(());
            }
            return match self {
                Self::Each(_) if rest.is_empty() => Err("is there twice".to_owned()),
                Self::Each(deeper) => deeper.insert(rest, index),
                Self::Leaf(_) => Err("begins with another key, which has a value already".to_owned()),
                Self::Table(_) => Err(format!("{segment} could be the name of another key of its group")),
            };
        }
        match self {
            Self::Leaf(_) => Err("begins with another key, which has a value already".to_owned()),
            Self::Each(_) => Err(format!("{segment} could be a name that the group's wildcard stands for")),
            Self::Table(table) => match table.get_mut(segment) {
                Some(Self::Leaf(_)) if rest.is_empty() => Err("is there twice".to_owned()),
                Some(deeper) => deeper.insert(rest, index),
                None => {
                    table.insert(segment.clone(), branch(rest, index));
                    Ok(())
                }
            },
        }
    }

    fn find(&self, segments: &[Box<str>]) -> Found<'static> {
        match (self, segments.split_first()) {
            (Self::Leaf(index), None) => Found::Key(*index),
            (Self::Leaf(index), Some(_)) => Found::Below(*index),
            (_, None) => Found::Group,
            (Self::Each(deeper), Some((_, rest))) => deeper.find(rest),
            (Self::Table(table), Some((segment, rest))) => {
                table.get(segment).map_or(Found::Unknown, |deeper| deeper.find(rest))
            }
        }
    }
}

/// The tree that holds one key alone.
fn branch(segments: &[Box<str>], index: usize) -> Group {
    match segments.split_first() {
        None => Group::Leaf(index),
        Some((segment, rest)) if is_wildcard(segment) => Group::Each(Box::new(branch(rest, index))),
        Some((segment, rest)) => Group::Table(BTreeMap::from([(segment.clone(), branch(rest, index))])),
    }
}

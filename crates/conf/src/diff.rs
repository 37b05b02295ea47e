//! `conf diff` between two releases: what an operator has to know before the new schema applies.

use std::fmt;

use serde::Serialize;

use crate::schema::{Found, KeySpec, Schema, pattern};

/// What a schema adds, drops, renames and retypes against an older one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SchemaDiff {
    /// Keys that the old schema does not have.
    pub added: Vec<Added>,
    /// Keys that the new schema does not have.
    pub dropped: Vec<Dropped>,
    /// Keys of another name; the old one is still read.
    pub renamed: Vec<Renamed>,
    /// Keys with another type or other bounds.
    pub retyped: Vec<Change>,
    /// Keys with another default.
    pub defaults: Vec<Change>,
    /// Keys that must be set now and did not have to be.
    pub required: Vec<String>,
}

/// A key that is new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Added {
    /// The key.
    pub key: String,
    /// What it may be, for people.
    pub expected: String,
    /// Its default as it is written in `app.conf`.
    pub default: Option<String>,
    /// Whether it must be set before the release can start.
    pub required: bool,
}

/// A key that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// The key.
    pub key: String,
    /// What the new release says of it; with it, the key in a file is ignored, without it, it is a mistake.
    pub message: Option<String>,
}

/// A key of another name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Renamed {
    /// The old name.
    pub from: String,
    /// The new name.
    pub to: String,
}

/// A key of which something is different.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The key, by its new name.
    pub key: String,
    /// Before; `none` where there was nothing.
    pub from: String,
    /// Now.
    pub to: String,
}

impl SchemaDiff {
    /// What `new` changes against `old`.
    pub fn between(old: &Schema, new: &Schema) -> Self {
        let mut diff = Self::default();
        for (key, spec) in &new.keys {
            let name = pattern(key);
            let known = |key| old.keys.iter().find(|(known, _)| known == key);
            let former = spec.was.iter().find_map(known);
            match known(key).or(former) {
                Some((before, old_spec)) => {
                    if before != key {
                        diff.renamed.push(Renamed { from: pattern(before), to: name.clone() });
                    }
                    diff.compare(name, old_spec, spec);
                }
                None => diff.added.push(Added {
                    key: name,
                    expected: spec.ty.describe(),
                    default: spec.default.as_ref().map(|value| value.to_conf()),
                    required: spec.required,
                }),
            }
        }
        for (key, _) in &old.keys {
            let still = new.keys.iter().any(|(known, spec)| known == key || spec.was.contains(key));
            if !still {
                let message = match new.find(key) {
                    Found::Removed(message) => Some(message.to_owned()),
                    _ => None,
                };
                diff.dropped.push(Dropped { key: pattern(key), message });
            }
        }
        diff
    }

    fn compare(&mut self, key: String, old: &KeySpec, new: &KeySpec) {
        if old.ty != new.ty {
            let (from, to) = (old.ty.describe(), new.ty.describe());
            self.retyped.push(Change { key: key.clone(), from, to });
        }
        if old.default != new.default {
            let shown = |spec: &KeySpec| spec.default.as_ref().map_or("none".to_owned(), |v| v.to_conf());
            self.defaults.push(Change { key: key.clone(), from: shown(old), to: shown(new) });
        }
        if new.required && !old.required {
            self.required.push(key);
        }
    }

    /// Whether nothing is different for an operator.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What is with a key that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// It is new.
    Added,
    /// It is gone.
    Dropped,
    /// It has another name.
    Renamed,
    /// It has another type or other bounds.
    Retyped,
    /// It has another default.
    Default,
    /// It must be set now and did not have to be.
    Required,
}

/// One difference in words: `+` added, `-` dropped, `~` different.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// What is with the key.
    pub what: What,
    /// The key; a dropped one by its old name, any other by its new one.
    pub key: String,
    /// One line.
    pub text: String,
}

impl SchemaDiff {
    /// Every difference in words, in the order of the fields.
    pub fn notes(&self) -> Vec<Note> {
        let note = |what, key: &str, text| Note { what, key: key.to_owned(), text };
        let added = self.added.iter().map(|Added { key, expected, default, required }| {
            let text = match default {
                Some(default) => format!("+ {key}: {expected}, {default} by default"),
                None if *required => format!("+ {key}: {expected}; REQUIRED: set it before the upgrade"),
                None => format!("+ {key}: {expected}, not set by default"),
            };
            note(What::Added, key, text)
        });
        let dropped = self.dropped.iter().map(|Dropped { key, message }| {
            let text = match message {
                Some(message) => format!("- {key}: {message}; ignored where it is set"),
                None => format!("- {key}: remove it where it is set"),
            };
            note(What::Dropped, key, text)
        });
        let renamed = self.renamed.iter().map(|Renamed { from, to }| {
            note(What::Renamed, to, format!("~ {from} is called {to} now; the old name is still read"))
        });
        let retyped = self
            .retyped
            .iter()
            .map(|Change { key, from, to }| note(What::Retyped, key, format!("~ {key}: {to} (was {from})")));
        let defaults = self.defaults.iter().map(|Change { key, from, to }| {
            note(What::Default, key, format!("~ {key}: {to} by default (was {from})"))
        });
        let required = self.required.iter().map(|key| {
            note(What::Required, key, format!("~ {key} is REQUIRED now: set it before the upgrade"))
        });
        added.chain(dropped).chain(renamed).chain(retyped).chain(defaults).chain(required).collect()
    }
}

impl fmt::Display for SchemaDiff {
    /// One line a difference.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.notes().iter().try_for_each(|note| writeln!(f, "{}", note.text))
    }
}

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

impl fmt::Display for SchemaDiff {
    /// One line a difference: `+` added, `-` dropped, `~` different.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Added { key, expected, default, required } in &self.added {
            match default {
                Some(default) => writeln!(f, "+ {key}: {expected}, {default} by default")?,
                None if *required => writeln!(f, "+ {key}: {expected}; REQUIRED: set it before the upgrade")?,
                None => writeln!(f, "+ {key}: {expected}, not set by default")?,
            }
        }
        for Dropped { key, message } in &self.dropped {
            match message {
                Some(message) => writeln!(f, "- {key}: {message}; ignored where it is set")?,
                None => writeln!(f, "- {key}: a mistake where it is still set")?,
            }
        }
        for Renamed { from, to } in &self.renamed {
            writeln!(f, "~ {from} is called {to} now; the old name is still read")?;
        }
        for Change { key, from, to } in &self.retyped {
            writeln!(f, "~ {key}: {to} (was {from})")?;
        }
        for Change { key, from, to } in &self.defaults {
            writeln!(f, "~ {key}: {to} by default (was {from})")?;
        }
        for key in &self.required {
            writeln!(f, "~ {key} is REQUIRED now: set it before the upgrade")?;
        }
        Ok(())
    }
}

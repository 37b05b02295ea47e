//! Settings that change while the application runs.

use std::fmt;

/// Settings that changed while the application runs. Keys are written as in `app.conf`: `Repo.pool_size`.
pub struct ConfChange<S> {
    /// All of the settings as they are now. Keys that wait for a restart are as they were.
    pub settings: S,
    /// Keys with another value.
    pub changed: Vec<String>,
    /// Keys that had no value.
    pub new: Vec<String>,
    /// Keys that have none any more.
    pub removed: Vec<String>,
}

impl<S> ConfChange<S> {
    /// Every key that changed, is new, or is gone.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.changed.iter().chain(&self.new).chain(&self.removed).map(String::as_str)
    }

    /// Whether the key or group `name` is concerned: `touches("Repo")` for `Repo.pool_size`.
    pub fn touches(&self, name: &str) -> bool {
        self.keys()
            .any(|key| key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    }
}

impl<S> fmt::Debug for ConfChange<S> {
    /// The keys alone: there may be secrets among the settings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfChange")
            .field("changed", &self.changed)
            .field("new", &self.new)
            .field("removed", &self.removed)
            .finish_non_exhaustive()
    }
}

/// The application takes no changes while it runs: the answer of one that does not say otherwise.
#[derive(Debug)]
pub(crate) struct NotTaken;

impl fmt::Display for NotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the application takes no changes of its settings while it runs")
    }
}

impl std::error::Error for NotTaken {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_concerned_when_one_of_its_keys_is() {
        let change = ConfChange {
            settings: (),
            changed: vec!["Repo.pool_size".into()],
            new: vec!["logger.level".into()],
            removed: vec!["port".into()],
        };
        for name in ["Repo", "Repo.pool_size", "logger", "port"] {
            assert!(change.touches(name), "{name}");
        }
        for name in ["Rep", "Repo.pool", "pool_size", "ports"] {
            assert!(!change.touches(name), "{name}");
        }
    }
}

//! The schema that a release carries in `conf/schema.toml`.

use crate::fault::{Fault, Faults, Place};

/// Which keys a release has, and what each of them may be.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    table: toml::Table,
}

impl Schema {
    /// Reads `conf/schema.toml`.
    ///
    /// # Errors
    /// Every mistake in it, with its line.
    pub fn parse(text: &str) -> Result<Self, Faults> {
        let table = text.parse().map_err(|error: toml::de::Error| {
            Faults::from(Fault::new(Place::whole("conf/schema.toml"), error.message()))
        })?;
        Ok(Self { table })
    }

    /// Whether it has no keys.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

//! What `app.conf` may say. The defaults stand in `conf/schema.toml`; a test holds the two together.

use serde::Deserialize;

/// The settings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Settings {
    /// `poll.*`
    pub poll: PollSettings,
}

/// `poll.*`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PollSettings {
    /// What the pages show above the polls.
    pub title: String,
    /// How many options a poll may have.
    pub max_options: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { poll: PollSettings { title: "Live poll".into(), max_options: 20 } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relmgr_conf::{Schema, Sources, effective};

    #[test]
    fn the_schema_and_the_settings_are_the_same() {
        let home = tempfile::tempdir().unwrap();
        let schema = Schema::parse(include_str!("../conf/schema.toml")).unwrap();
        let sources =
            Sources::new(Some(schema), home.path().join("app.conf"), home.path().join("app.conf.d"));
        let json = effective(&sources).unwrap().to_json();
        assert_eq!(serde_json::from_value::<Settings>(json).unwrap(), Settings::default());
    }

    #[test]
    fn the_operators_example_fits_the_schema() {
        let schema = Schema::parse(include_str!("../conf/schema.toml")).unwrap();
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../conf/app.conf");
        let sources = Sources::new(Some(schema), example, "/nonexistent");
        let json = effective(&sources).unwrap().to_json();
        assert_eq!(serde_json::from_value::<Settings>(json).unwrap(), Settings::default());
    }
}

//! What `app.conf` may say. The schema that travels in a release is derived from this type: its doc comments are what
//! operators read.

use serde::Deserialize;

/// The settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, relmgr_app::Settings)]
#[serde(default)]
pub struct Settings {
    /// `poll.*`
    pub poll: PollSettings,
}

/// `poll.*`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, relmgr_app::Settings)]
#[serde(default)]
pub struct PollSettings {
    /// What the pages show above the polls.
    #[conf(min = 1)]
    pub title: String,
    /// How many options a poll may have.
    #[conf(range = 2..=100)]
    pub max_options: usize,
}

impl Default for PollSettings {
    fn default() -> Self {
        Self { title: "Live poll".into(), max_options: 20 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relmgr_conf::{Schema, Sources, effective};

    fn schema() -> Schema {
        Schema::parse(&relmgr_app::settings::schema::<Settings>().unwrap().unwrap()).unwrap()
    }

    #[test]
    fn the_defaults_are_the_schemas() {
        let sources = Sources::new(Some(schema()), "/nonexistent", "/nonexistent");
        assert_eq!(effective(&sources).unwrap().decode::<Settings>().unwrap(), Settings::default());
    }

    #[test]
    fn the_operators_example_says_what_the_schema_says() {
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../conf/app.conf");
        let sources = Sources::new(Some(schema()), example, "/nonexistent");
        assert_eq!(effective(&sources).unwrap().decode::<Settings>().unwrap(), Settings::default());
        let text = std::fs::read_to_string(example).unwrap();
        for (key, spec) in schema().keys() {
            let line = format!("# {}\n{key} = {}\n", spec.doc, spec.default.as_ref().unwrap().to_conf());
            assert!(text.contains(&line), "conf/app.conf has no\n{line}");
        }
    }
}

//! The few values of cargo's configuration files that cargo itself does not tell (`cargo config get` is not stable).

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::error::Error;

/// cargo's configuration files for one directory, the one that wins first.
#[derive(Debug, Default)]
pub(crate) struct CargoConfig(Vec<Table>);

impl CargoConfig {
    /// Reads the `.cargo/config.toml` of `directory` and of its parents, then cargo's home's, as cargo does.
    ///
    /// # Errors
    /// One cannot be read or is no TOML.
    pub(crate) fn read(directory: &Path) -> Result<Self, Error> {
        let mut places: Vec<PathBuf> = directory.ancestors().map(|parent| parent.join(".cargo")).collect();
        if let Some(home) = cargo_home().filter(|home| !places.contains(home)) {
            places.push(home);
        }
        // `config` without an ending is the older name, and cargo prefers it where both are.
        let files = places.iter().filter_map(|place| {
            ["config", "config.toml"].map(|name| place.join(name)).into_iter().find(|path| path.is_file())
        });
        files.map(|path| read_toml(&path)).collect::<Result<_, _>>().map(Self)
    }

    /// The value at `path` in the file that wins.
    pub(crate) fn get(&self, path: &[&str]) -> Option<&Value> {
        self.0.iter().find_map(|file| get(file, path))
    }

    /// The text at `path`.
    pub(crate) fn text(&self, path: &[&str]) -> Option<&str> {
        self.get(path)?.as_str()
    }

    /// The flags at `build.rustflags`, of all files: cargo joins lists, the winning file's last. None where
    /// `target.*.rustflags` is set anywhere, which cargo takes instead of them.
    pub(crate) fn build_rustflags(&self) -> Vec<String> {
        let has_flags = |target: &Value| target.get("rustflags").is_some();
        let for_targets = |file: &Table| {
            file.get("target")
                .and_then(Value::as_table)
                .is_some_and(|targets| targets.values().any(has_flags))
        };
        if self.0.iter().any(for_targets) {
            return Vec::new();
        }
        let lists = self.0.iter().rev().filter_map(|file| get(file, &["build", "rustflags"]));
        lists.flat_map(flags).collect()
    }
}

/// A list of flags, or one text with spaces between them.
fn flags(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => text.split_whitespace().map(str::to_owned).collect(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// The value at `path` in `table`.
pub(crate) fn get<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(table.get(*first)?, |value, key| value.get(key))
}

/// Reads a TOML file.
///
/// # Errors
/// It cannot be read or is no TOML.
pub(crate) fn read_toml(path: &Path) -> Result<Table, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
    text.parse().map_err(|source| Error::Toml { path: path.into(), source: Box::new(source) })
}

/// cargo's home: `CARGO_HOME`, or `.cargo` in the user's.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    let set = std::env::var_os("CARGO_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    set.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(files: &[&str]) -> CargoConfig {
        CargoConfig(files.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn the_nearest_file_wins_and_lists_are_joined() {
        let near = "[build]\ntarget = \"near\"\nrustflags = [\"-Ca\", \"-Cb\"]";
        let far = "[build]\ntarget = \"far\"\nrustflags = \"-Cc -Cd\"\n[profile.release]\npanic = \"abort\"";
        let config = config(&[near, far]);
        assert_eq!(config.text(&["build", "target"]), Some("near"));
        assert_eq!(config.text(&["profile", "release", "panic"]), Some("abort"));
        assert_eq!(config.build_rustflags(), ["-Cc", "-Cd", "-Ca", "-Cb"]);
    }

    #[test]
    fn flags_for_a_target_replace_those_of_the_build() {
        let build = "[build]\nrustflags = [\"-Ca\"]";
        let target = "[target.'cfg(unix)']\nrustflags = [\"-Cb\"]";
        assert!(config(&[build, target]).build_rustflags().is_empty());
    }

    #[test]
    fn parents_are_read_too() {
        let home = tempfile::tempdir().unwrap();
        let inner = home.path().join("a/b");
        for (directory, text) in [(home.path(), "build.jobs = 1"), (&inner, "build.target = 'x'")] {
            std::fs::create_dir_all(directory.join(".cargo")).unwrap();
            std::fs::write(directory.join(".cargo/config.toml"), text).unwrap();
        }
        let config = CargoConfig::read(&inner).unwrap();
        assert_eq!(config.text(&["build", "target"]), Some("x"));
        assert_eq!(config.get(&["build", "jobs"]).and_then(Value::as_integer), Some(1));
    }
}

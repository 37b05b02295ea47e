//! What the supervisor and the command line both do with the application's configuration.

use std::path::PathBuf;

use relmgr_conf::{Effective, Faults, Others, Schema, Sources};
use relmgr_model::Version;
use relmgr_model::conf::{ConfDifference, ConfDifferences, ConfValue, EffectiveConf};
use relmgr_model::home::Home;

/// A schema is a page or ten; this bounds what a broken release makes the supervisor read.
const SCHEMA_BYTES: u64 = 4 * 1024 * 1024;

/// A release's schema that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The file.
    #[error("{} cannot be read", path.display())]
    Io {
        /// The schema's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What stands in it.
    #[error("the schema of {version} cannot be used:\n{faults}")]
    Faults {
        /// The release.
        version: Version,
        /// All of them.
        faults: Faults,
    },
}

/// The schema of an installed release; `None`: it has no settings.
///
/// # Errors
/// [`SchemaError`].
pub fn read_schema(home: &Home, version: &Version) -> Result<Option<Schema>, SchemaError> {
    let path = home.release(version).join("conf/schema.toml");
    let text = match std::fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SchemaError::Io { path, source }),
        Ok(data) if data.len() > SCHEMA_BYTES => {
            let source = std::io::Error::other(format!("it is larger than {SCHEMA_BYTES} bytes"));
            return Err(SchemaError::Io { path, source });
        }
        Ok(_) => std::fs::read_to_string(&path).map_err(|source| SchemaError::Io { path, source })?,
    };
    let parsed = Schema::parse(&text);
    parsed.map(Some).map_err(|faults| SchemaError::Faults { version: version.clone(), faults })
}

/// Where the configuration of `version` comes from, in the environment of this process.
///
/// Keys of the releases between which the node goes to and fro are no mistakes: those of the release before it (or
/// that serves while another one is about to), and of newer ones that wait to be upgraded to. They are the same
/// before and after a swap, so that what an upgrade accepted a restart accepts.
///
/// # Errors
/// [`SchemaError`].
pub fn sources(home: &Home, version: &Version) -> Result<Sources, SchemaError> {
    let mut sources = Sources::new(read_schema(home, version)?, home.app_conf(), home.app_conf_d());
    let (home, version) = (home.clone(), version.clone());
    sources.others = Some(Others::new(move || {
        let versions = neighbours(&home, &version);
        let schemas = versions.into_iter().filter_map(|version| {
            let schema = read_schema(&home, &version).ok()??;
            Some((version.to_string(), schema))
        });
        schemas.collect()
    }));
    Ok(sources)
}

fn neighbours(home: &Home, version: &Version) -> Vec<Version> {
    let named = |name: &std::ffi::OsStr| name.to_str()?.parse::<Version>().ok();
    let linked = |link: PathBuf| named(std::fs::read_link(link).ok()?.as_os_str());
    let before = match linked(home.current()) {
        Some(current) if current == *version => linked(home.prev()),
        current => current,
    };
    let installed = std::fs::read_dir(home.releases()).into_iter().flatten().flatten();
    let newer = installed.filter_map(|entry| named(&entry.file_name())).filter(|other| other > version);
    let mut found: Vec<_> = before.into_iter().chain(newer).collect();
    found.sort();
    found.dedup();
    found
}

/// A configuration for people and scripts, secrets as `***`.
pub fn shown(release: &Version, effective: &Effective, in_force: bool) -> EffectiveConf {
    let values = effective.entries().map(|(key, entry)| {
        let via: String = entry.via.iter().map(|via| format!(", {via}")).collect();
        let text = entry.value.to_conf();
        let value = if entry.secret { text.clone().into() } else { entry.value.to_json() };
        let origin = format!("{}{via}", entry.origin);
        ConfValue { key: key.to_string(), value, text, origin, secret: entry.secret, restart: entry.restart }
    });
    EffectiveConf {
        release: release.clone(),
        in_force,
        hash: effective.hash(),
        values: values.collect(),
        warnings: effective.warnings().iter().map(ToString::to_string).collect(),
    }
}

/// What the `files` would change of what is `running`.
pub fn differences(running: &Effective, files: &Effective) -> ConfDifferences {
    let changes = files.changes_since(running);
    let mut keys: Vec<_> = changes.changed.into_iter().chain(changes.new).chain(changes.removed).collect();
    keys.sort();
    let text = |entry: &relmgr_conf::Entry| entry.value.to_conf();
    let difference = |key: relmgr_conf::Key| {
        let (before, after) = (running.get(&key), files.get(&key));
        ConfDifference {
            key: key.to_string(),
            running: before.map(text),
            file: after.map(text),
            restart: after.or(before).is_some_and(|entry| entry.restart),
            origin: after.map(|entry| entry.origin.to_string()),
        }
    };
    ConfDifferences { keys: keys.into_iter().map(difference).collect() }
}

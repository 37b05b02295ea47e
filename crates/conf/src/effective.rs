//! The effective configuration: what a release runs with, and where each value comes from.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::fault::{Fault, Faults, Place};
use crate::schema::Schema;

/// Where values come from, later over earlier: the schema's defaults, `app.conf`, the files of `app.conf.d` in
/// the order of their names, the environment variables that the schema names.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The schema of the release that is about to run; `None`: it has no settings.
    pub schema: Option<Schema>,
    /// The operator's file. It may be missing.
    pub app_conf: PathBuf,
    /// The directory of further files. It may be missing.
    pub app_conf_d: PathBuf,
    /// The environment.
    pub env: BTreeMap<OsString, OsString>,
}

impl Sources {
    /// These files and the environment of this process.
    pub fn new(schema: Option<Schema>, app_conf: impl Into<PathBuf>, app_conf_d: impl Into<PathBuf>) -> Self {
        let env = std::env::vars_os().collect();
        Self { schema, app_conf: app_conf.into(), app_conf_d: app_conf_d.into(), env }
    }
}

/// The values that a release runs with.
#[derive(Debug, Clone, Default)]
pub struct Effective {
    text: String,
}

impl Effective {
    /// A nested object by key path, for the application. **Secrets are in it**: it goes to the host over a pipe
    /// and nowhere else.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::Value::Object(serde_json::Map::new())
    }

    /// The values as an `app.conf` with their origins as comments, secrets left out.
    pub fn to_conf_text(&self) -> String {
        self.text.clone()
    }

    /// SHA-256 over the effective values, hexadecimal.
    pub fn hash(&self) -> String {
        hex::encode(Sha256::digest(self.text.as_bytes()))
    }
}

/// Evaluates the configuration on this node, now.
///
/// # Errors
/// Every fault of every source; nothing is applied in part.
pub fn effective(sources: &Sources) -> Result<Effective, Faults> {
    match std::fs::read_to_string(&sources.app_conf) {
        Ok(text) if text.lines().any(|line| !line.trim().is_empty() && !line.trim().starts_with('#')) => {
            let place = Place::whole(sources.app_conf.display().to_string());
            Err(Fault::new(place, "has keys, but the release has no conf/schema.toml and so no settings")
                .into())
        }
        Ok(_) => Ok(Effective::default()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Effective::default()),
        Err(error) => {
            let place = Place::whole(sources.app_conf.display().to_string());
            Err(Fault::new(place, format!("cannot be read: {error}")).into())
        }
    }
}

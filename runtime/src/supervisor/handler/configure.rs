//! Step 5: the effective configuration of the release that is about to run.

use relmgr_conf::{Effective, Schema, Sources, effective};
use relmgr_model::Version;

use super::super::node::Node;
use super::OperationError;

/// A schema is a page or ten; this bounds what a broken release makes the supervisor read.
const SCHEMA_BYTES: u64 = 4 * 1024 * 1024;

/// Evaluates the configuration for `version`, from its own schema and what the operator has written.
///
/// # Errors
/// [`OperationError::Schema`] and [`OperationError::Configuration`] with every fault.
pub fn configure(node: &Node, version: &Version) -> Result<Effective, OperationError> {
    let path = node.home.release(version).join("conf/schema.toml");
    let schema = match std::fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(source) => return Err(OperationError::Io { path, what: "read", source }),
        Ok(data) if data.len() > SCHEMA_BYTES => {
            let source = std::io::Error::other(format!("it is larger than {SCHEMA_BYTES} bytes"));
            return Err(OperationError::Io { path, what: "read", source });
        }
        Ok(_) => {
            let text = std::fs::read_to_string(&path);
            let text = text.map_err(|source| OperationError::Io { path, what: "read", source })?;
            let parsed = Schema::parse(&text);
            Some(parsed.map_err(|faults| OperationError::Schema { version: version.clone(), faults })?)
        }
    };
    let sources = Sources::new(schema, node.home.app_conf(), node.home.app_conf_d());
    effective(&sources).map_err(|faults| OperationError::Configuration { version: version.clone(), faults })
}

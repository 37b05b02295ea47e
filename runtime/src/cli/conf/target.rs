//! Which release's schema applies.

use relmgr_conf::{Faults, Schema, Sources};
use relmgr_model::Version;
use relmgr_model::home::Home;
use relmgr_model::record::NodeRecord;

use crate::cli::error::{CommandError, Kind};
use crate::conf::read_schema;

/// Which release is meant.
#[derive(Debug, Clone, clap::Args)]
pub struct Target {
    /// An installed release; default: the one that serves
    #[arg(long, value_name = "VERSION")]
    pub release: Option<Version>,
}

impl Target {
    /// The release; `None`: none is named and none is installed.
    ///
    /// # Errors
    /// It is not installed.
    pub fn find(&self, home: &Home) -> Result<Option<Version>, CommandError> {
        match &self.release {
            Some(version) => installed(home, version).map(Some),
            None => Ok(serving(home)),
        }
    }

    /// As [`Target::find`], where there must be one.
    ///
    /// # Errors
    /// It is not installed, or none is.
    pub fn need(&self, home: &Home) -> Result<Version, CommandError> {
        self.find(home)?.ok_or_else(|| {
            CommandError::new(Kind::Failed, "no release is installed, so there is no schema")
                .hint("`relmgr upgrade` or `relmgr fetch` installs one; --release names it")
        })
    }
}

/// That `home` is a node's home.
///
/// # Errors
/// It has no relmgr.toml.
pub fn is_home(home: &Home) -> Result<(), CommandError> {
    if home.settings().exists() {
        return Ok(());
    }
    let words = format!("{} is not a node's home: it has no relmgr.toml", home.path().display());
    Err(CommandError::new(Kind::Failed, words).hint("name the home with `--home DIR` or RELMGR_HOME"))
}

/// That `version` is installed.
///
/// # Errors
/// It is not.
pub fn installed(home: &Home, version: &Version) -> Result<Version, CommandError> {
    if home.release(version).is_dir() {
        return Ok(version.clone());
    }
    let words = format!("{version} is not installed on this node");
    Err(CommandError::new(Kind::Failed, words)
        .hint(format!("`relmgr fetch {version}` brings it, `relmgr releases` lists what is there")))
}

/// The release that serves, or that the node would boot.
fn serving(home: &Home) -> Option<Version> {
    let linked = std::fs::read_link(home.current()).ok().and_then(|link| link.to_str()?.parse().ok());
    let recorded = || NodeRecord::parse(&std::fs::read_to_string(home.state()).ok()?).ok()?.permanent;
    linked.or_else(recorded).filter(|version| home.release(version).is_dir())
}

/// A release's schema.
///
/// # Errors
/// It cannot be used.
pub fn schema(home: &Home, version: &Version) -> Result<Option<Schema>, CommandError> {
    read_schema(home, version).map_err(|error| CommandError::of(Kind::Failed, &error))
}

/// Where a release's configuration comes from, in this command's environment.
///
/// # Errors
/// Its schema cannot be used.
pub fn sources(home: &Home, version: &Version) -> Result<Sources, CommandError> {
    crate::conf::sources(home, version).map_err(|error| CommandError::of(Kind::Failed, &error))
}

/// Every fault as one error.
pub fn refused(what: &str, faults: &Faults) -> CommandError {
    CommandError::new(Kind::Failed, format!("{what}\n{faults}"))
}

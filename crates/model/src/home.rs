//! Where things lie in a node's home directory. Paths only: nothing here touches the file system.
//!
//! ```text
//! relmgr.toml                    the node's settings
//! app.conf                       the operator's overrides for the application
//! state.json                     the release handler's record: the one truth
//! history.jsonl                  append-only: who asked for what, from, to, outcome, durations
//! releases/
//!   current -> 2026.1120.192733  symlinks, for people and scripts; rebuilt from state.json at start
//!   prev    -> 2026.1119.80112
//!   2026.1120.192733/
//!     VERSION  manifest.toml  lib/lib<app>.so  conf/schema.toml  priv/…
//!     app.conf                   the effective configuration as applied, secrets left out
//!   .fetch/                      packages being fetched; what was interrupted is gone on with
//!   .staging/                    packages being unpacked; emptied at start
//! tables/                        state tables, where they outlive the machine; else their name in shared memory
//! bin/<app>                      wrapper for scripts that call `bin/example_app upgrade V`
//! run/control.sock               control socket, mode 0660
//! run/lock                       held by the one supervisor of this home
//! ```

use std::path::{Path, PathBuf};

use crate::Version;

/// A node's home directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home(PathBuf);

macro_rules! places {
    ($($(#[$doc:meta])* $name:ident = $path:literal;)*) => {$(
        $(#[$doc])*
        pub fn $name(&self) -> PathBuf {
            self.0.join($path)
        }
    )*};
}

impl Home {
    /// The home at `path`; relative paths stay relative to the working directory.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    places! {
        /// The node's settings.
        settings = "relmgr.toml";
        /// The operator's overrides for the application.
        app_conf = "app.conf";
        /// Directory of further override files, applied in the order of their names.
        app_conf_d = "app.conf.d";
        /// The release handler's record.
        state = "state.json";
        /// One line per operation, oldest first.
        history = "history.jsonl";
        /// The installed releases.
        releases = "releases";
        /// Packages being fetched.
        fetch = "releases/.fetch";
        /// Packages being unpacked.
        staging = "releases/.staging";
        /// Symlink to the current release.
        current = "releases/current";
        /// Symlink to the previous release.
        prev = "releases/prev";
        /// State tables.
        tables = "tables";
        /// Wrappers for scripts.
        bin = "bin";
        /// The control socket's directory.
        run = "run";
        /// The control socket.
        control_socket = "run/control.sock";
        /// Locked by the supervisor for as long as it lives.
        lock = "run/lock";
    }

    /// The directory of one installed release.
    pub fn release(&self, version: &Version) -> PathBuf {
        self.releases().join(version.to_string())
    }
}

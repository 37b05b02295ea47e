//! What is asked of everything that reads bytes from elsewhere. Each target is a plain function of the bytes, shared
//! by cargo-fuzz (`fuzz/` in the workspace's root) and by a bounded run on stable (`tests/bounded.rs`); it panics when
//! a promise is broken: no panic, nothing outside of the directory it was given, nothing left after a refusal, and
//! what is accepted is what was asked for.
//!
//! | target | bytes |
//! | --- | --- |
//! | [`delta`] | a delta's container |
//! | [`patch`] | one patch inside a sound container |
//! | [`controls`] | what a sound patch's bzip2 streams hold |
//! | [`library`] | a library, from which a delta is made and applied |
//! | [`package`] | a package |
//! | [`archive`] | the tar inside a sound gzip |
//! | [`manifest`] | a manifest's text |
//! | [`app_conf`] | an operator's `app.conf` |
//! | [`schema`] | a release's `conf/schema.toml` |

#![allow(clippy::unwrap_used, reason = "tests say by a panic what went wrong")]

mod binary;
mod scene;
mod text;

pub use binary::{archive, controls, delta, library, package, patch};
pub use text::{app_conf, manifest, schema};

/// A target: its name, the function, and sound inputs to start from.
pub struct Target {
    /// The function's name.
    pub name: &'static str,
    /// What is asked of any bytes.
    pub run: fn(&[u8]),
    /// Inputs that are accepted, which random changes then spoil.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 9] = [
    Target { name: "delta", run: delta, seeds: binary::delta_seeds },
    Target { name: "patch", run: patch, seeds: binary::patch_seeds },
    Target { name: "controls", run: controls, seeds: binary::controls_seeds },
    Target { name: "library", run: library, seeds: binary::library_seeds },
    Target { name: "package", run: package, seeds: binary::package_seeds },
    Target { name: "archive", run: archive, seeds: binary::archive_seeds },
    Target { name: "manifest", run: manifest, seeds: text::manifest_seeds },
    Target { name: "app_conf", run: app_conf, seeds: text::app_conf_seeds },
    Target { name: "schema", run: schema, seeds: text::schema_seeds },
];

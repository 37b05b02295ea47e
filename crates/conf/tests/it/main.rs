//! The configuration as an operator meets it: real files, real mistakes.

// The helpers below are tests as well; clippy knows only functions marked as such.
#![allow(clippy::unwrap_used)]

mod bad_input;
mod documented;
mod effective;
mod fuzz;
mod include;
mod properties;
mod schema;
mod secrets;
mod settings;

use std::path::PathBuf;

use relmgr_conf::{Effective, Faults, Schema, Sources, effective};

/// A home directory with what a test puts there.
struct Home {
    dir: tempfile::TempDir,
    sources: Sources,
}

impl Home {
    /// A home with this schema (`""`: the release has none) and this `app.conf`.
    fn new(schema: &str, app_conf: &str) -> Self {
        let home = Self::empty(schema);
        home.write("app.conf", app_conf);
        home
    }

    fn empty(schema: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let schema = (!schema.is_empty()).then(|| Schema::parse(schema).unwrap());
        let mut sources = Sources::new(schema, dir.path().join("app.conf"), dir.path().join("app.conf.d"));
        sources.env.clear();
        Self { dir, sources }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn env(&mut self, name: &str, value: &str) {
        self.sources.env.insert(name.into(), value.into());
    }

    fn effective(&self) -> Result<Effective, Faults> {
        effective(&self.sources)
    }

    #[track_caller]
    fn json(&self) -> serde_json::Value {
        match self.effective() {
            Ok(effective) => effective.to_json(),
            Err(faults) => panic!("{faults}"),
        }
    }

    /// The faults as they are printed, with the home's path taken out.
    #[track_caller]
    fn faults(&self) -> String {
        let faults = self.effective().unwrap_err().to_string();
        faults.replace(&format!("{}/", self.dir.path().display()), "")
    }
}

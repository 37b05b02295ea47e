//! The schema of a release's settings: what the library says of itself, and what is written by hand.
//!
//! The library is asked in a process of its own (`cargo-relmgr describe LIBRARY`), since opening it runs code of the
//! application: static initialisers, and what makes its settings' defaults.

use std::io::{self, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use relmgr_conf::{KeySpec, Schema};
use relmgr_model::manifest::{AbiVersion, OlderSchema, StateSchema};
use serde::{Deserialize, Serialize};

use crate::build::assets::SCHEMA;
use crate::build::project::Project;
use crate::error::Error;

/// The first contract whose libraries can be asked.
const SINCE: AbiVersion = AbiVersion { major: 1, minor: 1 };

/// Opening a library and calling one function takes milliseconds: one that takes so long hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a process that was asked answers: one line on stdout, the last.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    schema: Option<String>,
    state: Option<relmgr_abi::state::Schema>,
}

/// The schema of a package's release.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// `None`: the application has no settings.
    pub(crate) schema: Option<Schema>,
    /// The text that the library gave, where there is no file of the developer's.
    pub(crate) derived: Option<String>,
    /// The form of the application's state, where it keeps any.
    pub(crate) state: Option<StateSchema>,
    /// What the developer should know.
    pub(crate) warning: Option<String>,
}

/// The schema that is written by hand, and nothing else.
///
/// # Errors
/// A schema that no node could read.
pub(crate) fn written(project: &Project) -> Result<Found, Error> {
    Ok(Found { schema: read(&project.directory.join(SCHEMA))?, ..Found::default() })
}

/// Finds the schema of `project`, whose library for `triple` lies at `library`.
///
/// # Errors
/// A schema that no node could read, a library that does not answer, two schemas that disagree.
pub(crate) fn find(project: &Project, library: &Path, abi: AbiVersion, triple: &str) -> Result<Found, Error> {
    let path = project.directory.join(SCHEMA);
    let written = read(&path)?;
    if abi.major != SINCE.major || abi.minor < SINCE.minor {
        return Ok(Found { schema: written, ..Found::default() });
    }
    if !triple.starts_with(std::env::consts::ARCH) {
        let warning = written.is_none().then(|| {
            format!(
                "the library is for {triple} and cannot be asked for its settings here: where it has any, write \
                 them down on such a machine with `cargo relmgr conf schema > {SCHEMA}`"
            )
        });
        return Ok(Found { schema: written, warning, ..Found::default() });
    }
    let Answer { schema, state } = ask(library)?;
    let state = state.map(in_manifest);
    let Some(text) = schema else {
        return Ok(Found { schema: written, state, ..Found::default() });
    };
    let derived = Schema::parse(&text).map_err(|source| Error::DerivedSchema { source })?;
    match written {
        None => Ok(Found { schema: Some(derived), derived: Some(text), state, warning: None }),
        Some(written) => match differences(&written, &derived) {
            none if none.is_empty() => Ok(Found { schema: Some(written), state, ..Found::default() }),
            differences => Err(Error::SchemasDisagree { path, differences }),
        },
    }
}

/// The schema in the file at `path`; `None`: there is no file.
///
/// # Errors
/// It cannot be read, or no node could read it.
pub(crate) fn read(path: &Path) -> Result<Option<Schema>, Error> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Read { path: path.into(), source }),
    };
    let parsed = Schema::parse(&text);
    parsed.map(Some).map_err(|source| Error::Schema { path: path.into(), source })
}

/// Asks the library in a process of its own.
fn ask(library: &Path) -> Result<Answer, Error> {
    let failed = |reason: String| Error::Describe { library: library.into(), reason };
    let program = std::env::current_exe();
    let program = program.map_err(|source| Error::Run { program: "cargo-relmgr".into(), source })?;
    let asked = crate::commands::block_on(async {
        let mut command = tokio::process::Command::new(&program);
        command.arg("describe").arg(library).stdin(Stdio::null()).kill_on_drop(true);
        match tokio::time::timeout(PATIENCE, command.output()).await {
            Err(_) => Err(failed(format!("it does not answer within {} seconds", PATIENCE.as_secs()))),
            Ok(output) => {
                output.map_err(|source| Error::Run { program: program.display().to_string(), source })
            }
        }
    })?;
    let last =
        |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().lines().last().unwrap_or("").to_owned();
    if !asked.status.success() {
        let words = String::from_utf8_lossy(&asked.stderr).trim_end().to_owned();
        // A crash has a signal and mostly no words.
        let words = if asked.status.code() == Some(1) { words } else { format!("{} {words}", asked.status) };
        return Err(failed(words.trim_end().to_owned()));
    }
    let answer: Result<Answer, _> = serde_json::from_str(&last(&asked.stdout));
    answer.map_err(|error| failed(format!("its answer is none: {error}")))
}

/// The form of a state as the manifest has it.
fn in_manifest(state: relmgr_abi::state::Schema) -> StateSchema {
    let older = state.older.into_iter();
    let older = older.map(|older| OlderSchema {
        version: older.version,
        shape: older.shape,
        hands_back: older.hands_back,
    });
    StateSchema { version: state.version, shape: state.shape, older: older.collect() }
}

/// What the process does that is asked: prints the answer.
///
/// # Errors
/// The library's own.
pub(crate) fn describe(library: &Path) -> Result<(), String> {
    let relmgr_abi::library::Said { schema, state } = relmgr_abi::library::ask(library)?;
    let answer = Answer { schema, state };
    let line = serde_json::to_string(&answer).map_err(|error| error.to_string())?;
    // What the application has printed by itself may lack its newline.
    writeln!(io::stdout(), "\n{line}").map_err(|error| error.to_string())
}

/// What two schemas of one application say differently, a line each.
fn differences(written: &Schema, derived: &Schema) -> Vec<String> {
    let find = |schema: &Schema, name: &str| {
        schema.keys().find(|(key, _)| key == name).map(|(_, spec)| spec.clone())
    };
    let mut found = Vec::new();
    for (key, spec) in written.keys() {
        match find(derived, &key) {
            Some(other) => {
                found.extend(of_key(spec, &other).into_iter().map(|text| format!("{key}: {text}")))
            }
            None => found.push(format!("{key}: only in {SCHEMA}")),
        }
    }
    let new = derived.keys().filter(|(key, _)| find(written, key).is_none());
    found.extend(new.map(|(key, _)| format!("{key}: only in the settings type")));
    let removed =
        |schema: &Schema| schema.removed().map(|(key, text)| (key.to_string(), text.to_owned())).collect();
    let (ours, theirs): (Vec<_>, Vec<_>) = (removed(written), removed(derived));
    if ours != theirs {
        found.push(format!("removed keys: {ours:?} in {SCHEMA}, {theirs:?} in the settings type"));
    }
    found
}

fn of_key(written: &KeySpec, derived: &KeySpec) -> Vec<String> {
    let facts = |spec: &KeySpec| {
        let value = |value: &Option<relmgr_conf::Value>| value.as_ref().map(relmgr_conf::Value::to_conf);
        let was: Vec<_> = spec.was.iter().map(ToString::to_string).collect();
        [
            ("type", Some(spec.ty.describe())),
            ("default", value(&spec.default)),
            ("example", value(&spec.example)),
            ("doc", Some(format!("{:?}", spec.doc))),
            ("env", spec.env.clone()),
            ("required", Some(spec.required.to_string())),
            ("secret", Some(spec.secret.to_string())),
            ("restart", Some(spec.restart.to_string())),
            ("was", Some(was.join(", "))),
            ("deprecated", spec.deprecated.clone()),
        ]
    };
    let shown = |fact: &Option<String>| fact.clone().unwrap_or_else(|| "none".into());
    let pairs = facts(written).into_iter().zip(facts(derived));
    let differ = pairs.filter(|((_, ours), (_, theirs))| ours != theirs);
    differ
        .map(|((name, ours), (_, theirs))| {
            format!("{name} is {} in {SCHEMA}, {} in the settings type", shown(&ours), shown(&theirs))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(text: &str) -> Schema {
        Schema::parse(text).unwrap()
    }

    #[test]
    fn two_schemas_are_compared_key_by_key() {
        let one = schema(
            "[keys.a]\ntype = \"integer\"\ndefault = 1\n[keys.b]\ntype = \"string\"\n[keys.c]\ntype = \"boolean\"\n",
        );
        let other = schema(
            "[keys.d]\ntype = \"string\"\n[keys.b]\ntype = \"string\"\nsecret = true\ndoc = \"B.\"\n\
             [keys.a]\ntype = \"integer\"\nmin = 0\n[removed]\nc = \"gone\"\n",
        );
        assert_eq!(differences(&one, &one), [""; 0]);
        assert_eq!(
            differences(&one, &other),
            [
                "a: type is an integer in conf/schema.toml, an integer of at least 0 in the settings type",
                "a: default is 1 in conf/schema.toml, none in the settings type",
                "b: doc is \"\" in conf/schema.toml, \"B.\" in the settings type",
                "b: secret is false in conf/schema.toml, true in the settings type",
                "c: only in conf/schema.toml",
                "d: only in the settings type",
                "removed keys: [] in conf/schema.toml, [(\"c\", \"gone\")] in the settings type",
            ]
        );
    }

    #[test]
    fn the_order_of_the_keys_is_no_difference() {
        let one = schema("[keys.a]\ntype = \"integer\"\n[keys.b]\ntype = \"string\"\n");
        let other = schema("[keys.b]\ntype = \"string\"\n[keys.a]\ntype = \"integer\"\n");
        assert_eq!(differences(&one, &other), [""; 0]);
    }
}

//! Evaluates the configuration on this node, now:
//!
//! 1. read `app.conf` with its includes, then each file of `app.conf.d`: syntax, unknown keys, keys set twice
//! 2. put the layers together, later over earlier
//! 3. decode each value as its key's type, with references resolved
//! 4. let the environment variables that the schema names win
//! 5. fill in defaults, and find what is required and missing
//!
//! Nothing stops at the first mistake, and with any mistake there is no result.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::decode::{self, Decoder, mismatch, shown};
use crate::effective::{Changes, Effective, Entry, Origin};
use crate::fault::{Fault, Faults, Place};
use crate::key::Key;
use crate::layer::{Assigned, Layer, Loader, fault_at, syntax_fault};
use crate::others::Others;
use crate::parse;
use crate::schema::{Found, Group, KeySpec, Schema};
use crate::secret::{MASK, Secret};
use crate::source::Source;
use crate::types::{Refusal, Type};
use crate::value::Value;

/// Where values come from, later over earlier: the schema's defaults, `app.conf`, the files of `app.conf.d` in
/// the order of their names, the environment variables that the schema names.
#[derive(Clone)]
pub struct Sources {
    /// The schema of the release that is about to run; `None`: it has no settings.
    pub schema: Option<Schema>,
    /// Releases whose keys are no mistakes either.
    pub others: Option<Others>,
    /// The operator's file. It may be missing.
    pub app_conf: PathBuf,
    /// The directory of further files. It may be missing.
    pub app_conf_d: PathBuf,
    /// The environment.
    pub env: BTreeMap<OsString, OsString>,
}

impl fmt::Debug for Sources {
    /// Without the variables' values: there are secrets among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("app_conf", &self.app_conf)
            .field("app_conf_d", &self.app_conf_d)
            .field("env", &self.env.keys())
            .finish_non_exhaustive()
    }
}

impl Sources {
    /// These files and the environment of this process.
    pub fn new(schema: Option<Schema>, app_conf: impl Into<PathBuf>, app_conf_d: impl Into<PathBuf>) -> Self {
        let env = std::env::vars_os().collect();
        Self { schema, others: None, app_conf: app_conf.into(), app_conf_d: app_conf_d.into(), env }
    }
}

/// Evaluates the configuration on this node, now.
///
/// # Errors
/// Every fault of every source; nothing is applied in part.
pub fn effective(sources: &Sources) -> Result<Effective, Faults> {
    Evaluation::run(sources, true, &mut Reads::default())
}

/// Checks the files against the schema away from their node: as [`effective`], but variables and files that
/// values refer to are not looked at, nor are the environment variables that the schema names.
///
/// # Errors
/// Every fault; `Ok` has the warnings.
pub fn check(sources: &Sources) -> Result<Vec<Fault>, Faults> {
    Evaluation::run(sources, false, &mut Reads::default()).map(|effective| effective.warnings)
}

/// What an evaluation looked at, also one that failed: what has to be watched for the next one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reads {
    /// Every file that was read or would have been, those that hold one value included.
    pub files: Vec<PathBuf>,
    /// The patterns of `include` lines, as paths.
    pub patterns: Vec<PathBuf>,
}

/// Evaluates again while `running` is in force: the new values and what differs. `reads` is what was looked at,
/// whatever comes of it.
///
/// # Errors
/// As [`effective`], and an `app.conf` or an `app.conf.d` that was there and is not now: what an editor or a
/// deployment is about to put back must not take its settings with it.
pub fn reload(
    sources: &Sources,
    running: &Effective,
    reads: &mut Reads,
) -> Result<(Effective, Changes), Faults> {
    let new = Evaluation::run(sources, true, reads)?;
    let vanished = |path: &Path, hint: &str| {
        let place = Place::whole(path.display().to_string());
        let fault = Fault::new(place, "was there and has vanished; the running values stay");
        Err(fault.hint(hint).into())
    };
    if running.reads(&sources.app_conf) && !new.reads(&sources.app_conf) {
        return vanished(&sources.app_conf, "an empty file goes back to the defaults");
    }
    let directory = &sources.app_conf_d;
    if running.files.iter().any(|file| file.starts_with(directory)) && !directory.is_dir() {
        return vanished(directory, "an empty directory takes its values back");
    }
    let changes = new.changes_since(running);
    Ok((new, changes))
}

/// The configuration that was applied last, from what [`Effective::to_conf_text`] wrote into `file`: for a start on
/// which the operator's files are wrong. Secrets do not stand there: they are resolved again from their sources, as far
/// as those can be read; a mistake elsewhere in the operator's files does not keep them from it.
///
/// # Errors
/// There is no such file, it does not fit the schema any more, or a secret that was set has no value now.
pub fn applied(sources: &Sources, file: &Path) -> Result<Effective, Faults> {
    if !file.is_file() {
        let place = Place::whole(file.display().to_string());
        return Err(Fault::new(place, "is not there: nothing was applied before").into());
    }
    let (_, now) = Evaluation::evaluate(sources, true, &mut Reads::default(), BTreeMap::new());
    let secrets = now.entries.into_iter().filter(|(_, entry)| entry.secret).collect();
    // Its values are resolved and whole: neither the environment nor other files have a say.
    let last = Sources {
        schema: sources.schema.clone(),
        others: None,
        app_conf: file.to_owned(),
        app_conf_d: file.with_extension("conf.d"),
        env: BTreeMap::new(),
    };
    let (mut faults, result) = Evaluation::evaluate(&last, true, &mut Reads::default(), secrets);
    for (line, key, origin) in left_out(file) {
        let is_set = |name: &Key| name.to_string() == key;
        if !result.entries.keys().any(is_set) {
            let place = Place { file: file.display().to_string(), line: Some(line), column: None };
            let words = format!("is a secret, came from {origin}, and cannot be had from there now");
            faults.push(Fault::new(place, format!("`{key}` {words}")));
        }
    }
    // What has to be watched is what the operator will mend.
    faults.or(Effective { files: now.files, warnings: now.warnings, ..result })
}

/// The secrets that [`Effective::to_conf_text`] left out of `file`: line, key, origin.
fn left_out(file: &Path) -> Vec<(usize, String, String)> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let secret = |(at, line): (usize, &str)| {
        let (key, rest) = line.strip_prefix("# ")?.split_once(" = ")?;
        let origin = rest.strip_prefix(MASK)?.trim_start().strip_prefix("# ")?;
        Some((at + 1, key.to_owned(), origin.to_owned()))
    };
    text.lines().enumerate().filter_map(secret).collect()
}

fn entry(spec: &KeySpec, value: Value, origin: Origin, via: Vec<String>) -> Entry {
    Entry { value, origin, via, secret: spec.secret, restart: spec.restart }
}

struct Evaluation<'a> {
    sources: &'a Sources,
    schema: &'a Schema,
    /// Whether references are resolved and the environment is asked.
    on_node: bool,
    faults: Faults,
    result: Effective,
    /// Which of the schema's keys are set; for those below a wildcard, by some name.
    seen: Vec<bool>,
    /// Keys that are set and have no value here: wrong ones, and those left unresolved.
    unresolved: BTreeSet<Key>,
}

impl<'a> Evaluation<'a> {
    fn run(sources: &Sources, on_node: bool, reads: &mut Reads) -> Result<Effective, Faults> {
        let (faults, result) = Evaluation::evaluate(sources, on_node, reads, BTreeMap::new());
        faults.or(result)
    }

    /// All faults, and what has a value in spite of them. The entries of `known` are set already.
    fn evaluate(
        sources: &Sources,
        on_node: bool,
        reads: &mut Reads,
        known: BTreeMap<Key, Entry>,
    ) -> (Faults, Effective) {
        let mut loader = Loader::new(sources.schema.as_ref(), sources.others.as_ref());
        let first = loader.layer(&sources.app_conf, true);
        let layers = loader.directory(&sources.app_conf_d);
        let layer = layers.into_iter().fold(first, Layer::then);
        let Loader { faults, warnings, files, patterns, .. } = loader;
        *reads = Reads { files: files.clone(), patterns };
        let Some(schema) = &sources.schema else {
            return (faults, Effective { files, warnings, ..Effective::default() });
        };
        let result = Effective { files, warnings, ..Effective::default() };
        let mut seen = vec![false; schema.keys.len()];
        for key in &layer.broken {
            if let Found::Key(index) = schema.find(key) {
                seen[index] = true;
            }
        }
        let unresolved = layer.broken;
        let mut evaluation = Evaluation { sources, schema, on_node, faults, result, seen, unresolved };
        // At once and in order: a map of 10,000 keys is made faster than it is filled.
        let values = layer.settings.into_iter();
        let mut misfits = vec![];
        let value = |((index, key), assigned): ((usize, Key), Assigned)| {
            evaluation.file_value(index, key, &assigned, &mut misfits)
        };
        let entries = values.filter_map(value).collect();
        // Told in the order of the keys; the layer has the schema's.
        misfits.sort_by(|(key, _), (other, _)| key.cmp(other));
        misfits.into_iter().for_each(|(_, fault)| evaluation.faults.push(fault));
        evaluation.result.entries = entries;
        for (key, entry) in known {
            if let Found::Key(index) = schema.find(&key) {
                evaluation.seen[index] = true;
                evaluation.result.entries.insert(key, entry);
            }
        }
        if on_node {
            evaluation.environment();
        }
        evaluation.fill(&schema.root, &Key::root(), false);
        reads.files.clone_from(&evaluation.result.files);
        (evaluation.faults, evaluation.result)
    }

    /// The value of `key`, the one at `index` of the schema.
    fn file_value(
        &mut self,
        index: usize,
        key: Key,
        assigned: &Assigned,
        misfits: &mut Vec<(Key, Fault)>,
    ) -> Option<(Key, Entry)> {
        let spec = &self.schema.keys[index].1;
        self.seen[index] = true;
        // What the environment sets anyway is not resolved: its reference may be for another machine.
        let overridden = spec.env.as_ref().is_some_and(|name| self.variable(name).is_some());
        if overridden || (!self.on_node && assigned.value.has_references()) {
            self.unresolved.insert(key);
            return None;
        }
        let mut decoder = Decoder::new(&self.sources.env, spec.secret);
        let value = decoder.value(&spec.ty, &assigned.value);
        let Decoder { problems, via, files, .. } = decoder;
        self.result.files.extend(files);
        for problem in problems {
            let masked = spec.secret.then(|| assigned.value.span());
            let mut fault = fault_at(&assigned.source, &problem.span, problem.message, masked).about(&key);
            fault.hint = problem.hint;
            misfits.push((key.clone(), fault));
        }
        let Some(value) = value else {
            self.unresolved.insert(key);
            return None;
        };
        let origin = Origin::File(assigned.source.place(assigned.key_span.start));
        Some((key, entry(spec, value, origin, via)))
    }

    fn variable(&self, name: &str) -> Option<&'a std::ffi::OsStr> {
        if self.on_node { decode::variable(&self.sources.env, name) } else { None }
    }

    /// The variables that the schema names. A scalar is taken as it is; a list is written as in `app.conf`.
    fn environment(&mut self) {
        for (index, (key, spec)) in self.schema.keys.iter().enumerate() {
            let Some(name) = &spec.env else { continue };
            let Some(value) = self.variable(name) else { continue };
            self.seen[index] = true;
            let place = Place::whole(format!("${name}"));
            match value.to_str() {
                None => self.faults.push(Fault::new(place, "is not UTF-8").about(key)),
                Some(text) if matches!(spec.ty, Type::List { .. } | Type::Record(_)) => {
                    self.environment_list(key, spec, name, text);
                }
                Some(text) => match spec.ty.read(text) {
                    Ok(value) => {
                        let value = match value {
                            Value::String(text) if spec.secret => Value::Secret(Secret::new(text)),
                            value => value,
                        };
                        let origin = Origin::Environment(name.clone());
                        let entry = entry(spec, value, origin, Vec::new());
                        self.result.entries.insert(key.clone(), entry);
                    }
                    Err(refusal) => {
                        let found = shown(text);
                        let found = (!spec.secret).then_some(found.as_str());
                        let mut fault = Fault::new(place, mismatch(&spec.ty, found, &refusal)).about(key);
                        fault.hint = refusal.hint.filter(|_| !spec.secret);
                        self.faults.push(fault);
                    }
                },
            }
        }
    }

    fn environment_list(&mut self, key: &Key, spec: &KeySpec, name: &str, text: &str) {
        let source = Source::new(format!("${name}"), text.to_owned().into());
        let node = match parse::value(text) {
            Ok(node) => node,
            Err(mut mistake) => {
                mistake.within = Some((key.clone(), 0));
                self.faults.push(syntax_fault(&source, &mistake, Some(self.schema)));
                return;
            }
        };
        let mut decoder = Decoder::new(&self.sources.env, spec.secret);
        let value = decoder.value(&spec.ty, &node);
        let Decoder { problems, via, files, .. } = decoder;
        self.result.files.extend(files);
        for problem in problems {
            let mut fault = fault_at(&source, &problem.span, problem.message, None).about(key);
            fault.hint = problem.hint;
            self.faults.push(fault);
        }
        if let Some(value) = value {
            let entry = entry(spec, value, Origin::Environment(name.to_owned()), via);
            self.result.entries.insert(key.clone(), entry);
        }
    }

    /// Defaults below `group`, whose keys begin with `path`; `named` if a wildcard is part of it.
    fn fill(&mut self, group: &Group, path: &Key, named: bool) {
        match group {
            Group::Leaf(index) => self.fill_key(*index, path),
            Group::Table(table) => {
                for (segment, below) in table {
                    match below {
                        // The common case: a key that is set needs no default, and no path has to be made.
                        Group::Leaf(index) if !named && self.seen[*index] => {}
                        below => self.fill(below, &path.child(segment), named),
                    }
                }
            }
            Group::Each(below) => {
                let names = self.names(path);
                if names.is_empty() && !path.segments().is_empty() {
                    self.result.empty_groups.push(path.clone());
                }
                for name in names {
                    self.fill(below, &path.child(&name), true);
                }
            }
        }
    }

    /// The names that the keys that are set have right below `path`.
    fn names(&self, path: &Key) -> BTreeSet<Box<str>> {
        let depth = path.segments().len();
        let entries = self.result.entries.range::<Key, _>(path..).map(|(key, _)| key.segments());
        let unresolved = self.unresolved.range::<Key, _>(path..).map(Key::segments);
        let below = |segments: &&[Box<str>]| segments.starts_with(path.segments());
        let entries = entries.take_while(below).filter_map(|segments| segments.get(depth));
        let unresolved = unresolved.take_while(below).filter_map(|segments| segments.get(depth));
        entries.chain(unresolved).cloned().collect()
    }

    fn fill_key(&mut self, index: usize, key: &Key) {
        if self.result.entries.contains_key(key) || self.unresolved.contains(key) {
            return;
        }
        let spec = &self.schema.keys[index].1;
        if let Some(default) = &spec.default {
            let entry = entry(spec, default.clone(), Origin::Default, Vec::new());
            self.result.entries.insert(key.clone(), entry);
        } else if spec.required && (self.on_node || spec.env.is_none()) {
            let message = mismatch(&spec.ty, None, &Refusal::default());
            let place = Place::whole(self.sources.app_conf.display().to_string());
            let fault = Fault::new(place, format!("is required and set nowhere: {message}")).about(key);
            let env = spec.env.as_ref().map(|name| format!(", or set the environment variable {name}"));
            self.faults.push(fault.hint(format!("add `{key} = …`{}", env.unwrap_or_default())));
        }
    }
}

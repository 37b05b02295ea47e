//! The files: each is read, parsed and held against the schema's keys; a layer is what one file and its includes
//! set, and a later layer wins over an earlier one.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::ast::{Include, Item, Node, Setting};
use crate::fault::{Fault, Faults, Place, Related};
use crate::include::{is_pattern, matching};
use crate::key::Key;
use crate::others::{Elsewhere, Others};
use crate::parse::{self, Mistake};
use crate::read::{self, Unreadable};
use crate::schema::{Found, Schema, is_wildcard, pattern};
use crate::source::{Source, Span};

/// More files than these are a mistake in an `include`.
const MAX_FILES: usize = 1000;

/// A key's value as written, and where.
#[derive(Debug, Clone)]
pub(crate) struct Assigned {
    pub(crate) value: Rc<Node>,
    pub(crate) key_span: Span,
    pub(crate) source: Rc<Source>,
}

/// What some files set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layer {
    /// By the key's place in the schema first: of ten thousand keys, most are told apart by a number.
    pub(crate) settings: BTreeMap<(usize, Key), Assigned>,
    /// Keys whose values could not be read: nobody should be told that they are missing, too.
    pub(crate) broken: BTreeSet<Key>,
}

impl Layer {
    /// Both, with `later` winning. Associative: it does not matter which neighbours are put together first.
    #[must_use]
    pub(crate) fn then(mut self, later: Self) -> Self {
        self.settings.extend(later.settings);
        self.broken.extend(later.broken);
        self
    }
}

/// Reads files and collects what is wrong with them.
pub(crate) struct Loader<'a> {
    /// `None`: the release has no settings, and every key is a mistake.
    schema: Option<&'a Schema>,
    elsewhere: Elsewhere<'a>,
    pub(crate) faults: Faults,
    pub(crate) warnings: Vec<Fault>,
    pub(crate) files: Vec<PathBuf>,
    /// What was included by pattern: a file that is not there yet may match.
    pub(crate) patterns: Vec<PathBuf>,
    /// The files that are being read, each included by the one before it.
    chain: Vec<PathBuf>,
}

/// A fault of `source`, with its line. `value` is the range that is shown only if `schema` says that `key` may be.
pub(crate) fn fault_at(
    source: &Source,
    span: &Span,
    message: impl Into<String>,
    masked: Option<&Span>,
) -> Fault {
    let mut fault = Fault::new(source.place(span.start), message);
    fault.snippet = Some(source.snippet(span, masked));
    fault
}

/// A parser's mistake as a fault. The value is shown where the schema knows the key and it is no secret; where no
/// key could be read the whole line is masked: it may be a piece of a secret that was meant to be one value.
pub(crate) fn syntax_fault(source: &Source, mistake: &Mistake, schema: Option<&Schema>) -> Fault {
    let line_start = source.text()[..mistake.span.start].rfind('\n').map_or(0, |at| at + 1);
    let text_end = source.text().len();
    let masked = match (&mistake.within, schema) {
        (Some((key, _)), Some(schema)) if schema.may_show(key) => None,
        (Some((key, start)), Some(schema))
            if matches!(schema.find(key), Found::Key(_) | Found::Renamed(..)) =>
        {
            Some(*start..text_end)
        }
        _ => Some(line_start..text_end),
    };
    // One blank between `=` and the mask.
    let masked = masked.map(|span| {
        let blanks = source.text()[span.clone()].bytes().take_while(|c| *c == b' ').count();
        span.start + blanks..span.end
    });
    let mut fault = fault_at(source, &mistake.span, mistake.message.clone(), masked.as_ref());
    if let Some((key, _)) = &mistake.within {
        fault = fault.about(key);
    }
    fault.hint = mistake.hint.as_ref().map(|hint| hint.to_string());
    fault
}

impl<'a> Loader<'a> {
    pub(crate) fn new(schema: Option<&'a Schema>, others: Option<&'a Others>) -> Self {
        Self {
            schema,
            elsewhere: Elsewhere::new(others),
            faults: Faults::default(),
            warnings: Vec::new(),
            files: Vec::new(),
            patterns: Vec::new(),
            chain: Vec::new(),
        }
    }

    /// The layer of the file at `path`, which may be missing if `optional`.
    pub(crate) fn layer(&mut self, path: &Path, optional: bool) -> Layer {
        let mut layer = Layer::default();
        match read::text(path, read::MAX_BYTES) {
            Err(Unreadable::Missing) if optional => {}
            read => self.file(path, read, &mut layer, None),
        }
        layer
    }

    /// The layers of the `*.conf` files in `dir`, in the order of their names.
    pub(crate) fn directory(&mut self, dir: &Path) -> Vec<Layer> {
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                let place = Place::whole(dir.display().to_string());
                self.faults.push(Fault::new(place, format!("the directory cannot be read: {error}")));
                return Vec::new();
            }
        };
        let mut paths = Vec::new();
        for entry in entries {
            match entry {
                Ok(entry) => paths.push(entry.path()),
                Err(error) => {
                    let place = Place::whole(dir.display().to_string());
                    self.faults.push(Fault::new(place, format!("the directory cannot be read: {error}")));
                }
            }
        }
        // Hidden files are editors' and Kubernetes' own; a name that ends otherwise was taken out of use.
        paths.retain(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            name.ends_with(".conf") && !name.starts_with('.')
        });
        paths.sort();
        paths.iter().map(|path| self.layer(path, false)).collect()
    }

    fn file(
        &mut self,
        path: &Path,
        text: Result<zeroize::Zeroizing<String>, Unreadable>,
        layer: &mut Layer,
        included: Option<(&Source, &Span)>,
    ) {
        self.files.push(path.to_owned());
        let name = path.display().to_string();
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                let mut fault = unreadable(&name, &error);
                fault.related.extend(included.map(|(source, span)| include_site(source, span)));
                self.faults.push(fault);
                return;
            }
        };
        let source = Rc::new(Source::new(name, text));
        self.chain.push(path.canonicalize().unwrap_or_else(|_| path.to_owned()));
        let (document, mistakes) = parse::document(source.text());
        for mistake in mistakes {
            self.faults.push(syntax_fault(&source, &mistake, self.schema));
            layer.broken.extend(mistake.within.map(|(key, _)| self.today(key)));
        }
        for item in document.items {
            match item {
                Item::Blank | Item::Comment(_) => {}
                Item::Include(include) => self.include(path, &source, &include, layer),
                Item::Setting(setting) => self.setting(&source, setting, layer),
            }
        }
        self.chain.pop();
    }

    /// The key's name of today.
    fn today(&self, key: Key) -> Key {
        match self.schema.map(|schema| schema.find(&key)) {
            Some(Found::Renamed(_, today)) => today,
            _ => key,
        }
    }

    fn include(&mut self, from: &Path, source: &Source, include: &Include, layer: &mut Layer) {
        let span = &include.pattern.span;
        let Some(pattern) = include.pattern.literal() else {
            self.faults.push(fault_at(source, span, "an include names a path, without variables", None));
            return;
        };
        let base = from.parent().unwrap_or(Path::new(""));
        if is_pattern(pattern) {
            self.patterns.push(base.join(pattern));
        }
        let mut paths = match matching(base, pattern) {
            Ok(paths) => paths,
            Err(reason) => {
                self.faults.push(fault_at(source, span, reason, None));
                return;
            }
        };
        paths.sort();
        for path in paths {
            let canonical = path.canonicalize().unwrap_or_else(|_| path.clone());
            if self.chain.contains(&canonical) {
                let chain: Vec<_> = self.chain.iter().map(|path| path.display().to_string()).collect();
                let message = format!("{} includes itself", path.display());
                let hint = format!("it is read by way of {}", chain.join(", which includes "));
                self.faults.push(fault_at(source, span, message, None).hint(hint));
            } else if self.files.len() >= MAX_FILES {
                self.faults.push(fault_at(source, span, format!("more than {MAX_FILES} files"), None));
                return;
            } else {
                let text = read::text(&path, read::MAX_BYTES);
                self.file(&path, text, layer, Some((source, span)));
            }
        }
    }

    fn setting(&mut self, source: &Rc<Source>, setting: Setting, layer: &mut Layer) {
        let Setting { key, key_span, value, .. } = setting;
        let value_span = value.span().clone();
        let Some(schema) = self.schema else {
            if let Some(owner) = self.elsewhere.owner(&key) {
                let message = format!("is ignored: it is a key of {owner}");
                self.warnings.push(fault_at(source, &key_span, message, Some(&value_span)).about(&key));
                return;
            }
            let message = "the release has no conf/schema.toml, so it has no settings";
            let fault = fault_at(source, &key_span, message, Some(&value_span)).about(&key);
            self.faults.push(fault.hint("remove the line, or run a release that has this key"));
            return;
        };
        let found = schema.find(&key);
        let shows = |index: usize| !schema.keys[index].1.secret;
        let known = matches!(&found, Found::Key(index) | Found::Renamed(index, _) if shows(*index));
        let masked = (!known).then_some(&value_span);
        let fault = |message: String| fault_at(source, &key_span, message, masked).about(&key);
        let (index, today) = match found {
            Found::Key(index) => {
                if let Some(message) = &schema.keys[index].1.deprecated {
                    self.warnings.push(fault(format!("is deprecated: {message}")));
                }
                (index, key.clone())
            }
            Found::Renamed(index, today) => {
                self.warnings.push(fault(format!("is called {today} now")).hint("rename it in the file"));
                (index, today)
            }
            Found::Removed(message) => {
                self.warnings.push(fault(format!("is ignored: {message}")));
                return;
            }
            other => {
                if let Some(owner) = self.elsewhere.owner(&key) {
                    self.warnings.push(fault(format!("is ignored: it is a key of {owner}")));
                    return;
                }
                // Comparing a hundred wrong keys with ten thousand right ones takes long enough.
                let near = || if self.faults.len() < 100 { schema.nearest(&key) } else { None };
                let (message, hint) = unknown(schema, &key, &other, near);
                let mut fault = fault(message);
                fault.hint = hint;
                self.faults.push(fault);
                return;
            }
        };
        match layer.settings.entry((index, today)) {
            Entry::Vacant(slot) => {
                let (value, source) = (Rc::new(value), Rc::clone(source));
                slot.insert(Assigned { value, key_span, source });
            }
            Entry::Occupied(first) => {
                let first = first.get();
                let masked = (!shows(index)).then(|| first.value.span());
                let related = Related {
                    label: "it is set here first".to_owned(),
                    place: first.source.place(first.key_span.start),
                    snippet: Some(first.source.snippet(&first.key_span, masked)),
                };
                let mut fault = fault("is set twice".to_owned());
                fault.related.push(related);
                self.faults.push(fault.hint("a file of app.conf.d may override app.conf"));
            }
        }
    }
}

/// What to say of a key that is none.
fn unknown(
    schema: &Schema,
    key: &Key,
    found: &Found<'_>,
    near: impl FnOnce() -> Option<String>,
) -> (String, Option<String>) {
    match found {
        Found::Group => {
            let below = schema.keys.iter().find(|(known, _)| {
                let mut pairs = known.segments().iter().zip(key.segments());
                known.segments().len() > key.segments().len() && pairs.all(|(a, b)| a == b || is_wildcard(a))
            });
            let hint = below.map(|(known, _)| format!("a key of it is {}", pattern(known)));
            ("is a group of keys and has no value itself".to_owned(), hint)
        }
        Found::Below(index) => {
            let known = pattern(&schema.keys[*index].0);
            (format!("{known} is a value and has no keys below it"), None)
        }
        _ => {
            let hint = match near() {
                Some(near) => format!("did you mean {near}?"),
                None => "`relmgr conf new` shows every key".to_owned(),
            };
            ("is not a key of this release".to_owned(), Some(hint))
        }
    }
}

fn unreadable(name: &str, error: &Unreadable) -> Fault {
    match error {
        Unreadable::NoText { line, column, reason } => {
            let place = Place { file: name.to_owned(), line: Some(*line), column: Some(*column) };
            Fault::new(place, format!("is no text file: {reason}")).hint("app.conf is text in UTF-8")
        }
        other => Fault::new(Place::whole(name), other.reason()),
    }
}

fn include_site(source: &Source, span: &Span) -> Related {
    Related {
        label: "it is included here".to_owned(),
        place: source.place(span.start),
        snippet: Some(source.snippet(span, None)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A layer in which every key's value tells the layer that it comes from.
    fn layer(source: usize, keys: &BTreeSet<u8>) -> Layer {
        let text = keys.iter().map(|key| format!("k{key} = {source}\n")).collect::<String>();
        let source = Rc::new(Source::new(source.to_string(), text.into()));
        let mut layer = Layer::default();
        let mut loader = Loader::new(None, None);
        let schema = Schema::parse("[keys.\"*\"]\ntype = \"integer\"\n").unwrap();
        loader.schema = Some(&schema);
        for item in parse::document(source.text()).0.items {
            if let Item::Setting(setting) = item {
                loader.setting(&source, setting, &mut layer);
            }
        }
        assert!(loader.faults.is_empty(), "{}", loader.faults);
        layer
    }

    fn shape(layer: &Layer) -> Vec<(String, String)> {
        let place = |assigned: &Assigned| assigned.source.place(assigned.key_span.start).to_string();
        layer.settings.iter().map(|((_, key), assigned)| (key.to_string(), place(assigned))).collect()
    }

    proptest! {
        #[test]
        fn layers_may_be_put_together_in_any_grouping(
            keys in prop::collection::vec(prop::collection::btree_set(0u8..6, 0..5), 3)
        ) {
            let layers: Vec<_> = keys.iter().enumerate().map(|(index, keys)| layer(index, keys)).collect();
            let [a, b, c] = [0, 1, 2].map(|index| layers[index].clone());
            let left = a.clone().then(b.clone()).then(c.clone());
            let right = a.then(b.then(c.clone()));
            prop_assert_eq!(shape(&left), shape(&right));
            for (key, place) in shape(&c) {
                prop_assert!(shape(&left).contains(&(key, place)), "the last layer wins");
            }
        }
    }
}

//! Reads `conf/schema.toml`, reporting every mistake with its place.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};
use zeroize::Zeroizing;

use crate::fault::{Fault, Faults};
use crate::key::Key;
use crate::parse;
use crate::schema::{FORMAT, KeySpec, Schema, is_wildcard};
use crate::schema_types::{from_toml, read_type};
use crate::source::Source;
use crate::suggest;
use crate::types::{Bounds, Type};
use crate::value::Value;

pub(crate) type Toml<'i> = Spanned<DeValue<'i>>;

/// Collects faults of one file.
pub(crate) struct Reader {
    source: Source,
    faults: Vec<(usize, Fault)>,
}

impl Reader {
    pub(crate) fn fault(
        &mut self,
        span: &Range<usize>,
        about: &str,
        message: impl Into<String>,
    ) -> &mut Fault {
        let mut fault = Fault::new(self.source.place(span.start), message);
        fault.snippet = Some(self.source.snippet(span, None));
        if !about.is_empty() {
            fault = fault.about(about);
        }
        self.faults.push((span.start, fault));
        let last = self.faults.len() - 1;
        &mut self.faults[last].1
    }
}

pub(crate) fn read(text: &str) -> Result<Schema, Faults> {
    let source = Source::new("conf/schema.toml", Zeroizing::new(text.to_owned()));
    let mut reader = Reader { source, faults: Vec::new() };
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        reader.fault(&error.span().unwrap_or(0..0), "", error.message());
    }
    let (mut keys, mut removed) = (Vec::new(), BTreeMap::new());
    // What cannot be read as TOML would be reported a second time, as something that is missing.
    if errors.is_empty() {
        let mut table = Fields::new(root.get_ref(), "");
        if let Some(format) = table.take("format")
            && format.get_ref().as_integer().and_then(|n| n.as_str().parse().ok()) != Some(FORMAT)
        {
            reader.fault(&format.span(), "format", format!("this relmgr reads format {FORMAT}"));
        }
        keys = read_keys(&mut reader, &mut table);
        removed = read_removed(&mut reader, &mut table);
        table.refuse_others(&mut reader);
    }
    let places: Vec<_> = keys.iter().map(|(key, _, span)| (key.clone(), span.clone())).collect();
    let keys = keys.into_iter().map(|(key, spec, _)| (key, spec)).collect();
    let (schema, clashes) = Schema::assemble(keys, removed);
    for (key, reason) in clashes {
        let span = places.iter().rfind(|(known, _)| *known == key).map_or(0..0, |(_, span)| span.clone());
        reader.fault(&span, &crate::schema::pattern(&key), reason);
    }
    let mut faults = reader.faults;
    faults.sort_by_key(|(at, _)| *at);
    let mut all = Faults::default();
    all.extend(faults.into_iter().map(|(_, fault)| fault));
    all.or(schema)
}

fn read_keys(reader: &mut Reader, root: &mut Fields<'_, '_>) -> Vec<(Key, KeySpec, Range<usize>)> {
    let Some(value) = root.take("keys") else { return Vec::new() };
    let Some(table) = value.get_ref().as_table() else {
        reader.fault(&value.span(), "keys", "a table was expected: [keys.\"group.key\"]");
        return Vec::new();
    };
    // In the order in which they were written: that is the order in which an operator reads them.
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    let mut keys = Vec::new();
    for (name, value) in entries {
        match parse::pattern(name.get_ref()) {
            Ok(key) => {
                if let Some(spec) = read_spec(reader, name, &key, value) {
                    keys.push((key, spec, name.span()));
                }
            }
            Err(reason) => {
                let hint = "each key stands in quotes of TOML's own: [keys.\"group.key\"]";
                reader.fault(&name.span(), name.get_ref(), reason).hint = Some(hint.to_owned());
            }
        }
    }
    keys
}

fn read_removed(reader: &mut Reader, root: &mut Fields<'_, '_>) -> BTreeMap<Key, String> {
    let mut removed = BTreeMap::new();
    let Some(value) = root.take("removed") else { return removed };
    for (name, message) in value.get_ref().as_table().into_iter().flatten() {
        match (parse::key(name.get_ref()), message.get_ref().as_str()) {
            (Ok(key), Some(text)) => {
                removed.insert(key, text.to_owned());
            }
            (Ok(_), None) => {
                reader.fault(&message.span(), name.get_ref(), "a text for the operator was expected");
            }
            (Err(reason), _) => {
                reader.fault(&name.span(), name.get_ref(), reason);
            }
        }
    }
    removed
}

fn read_spec(
    reader: &mut Reader,
    name: &Spanned<DeString<'_>>,
    key: &Key,
    value: &Toml<'_>,
) -> Option<KeySpec> {
    let about = name.get_ref();
    let Some(table) = value.get_ref().as_table() else {
        let hint = format!("write the key in quotes: [keys.\"{about}.…\"]");
        reader.fault(&value.span(), about, "a table with a type was expected").hint = Some(hint);
        return None;
    };
    let mut fields = Fields::new(table, about);
    let mut spec = KeySpec::new(read_type(reader, &mut fields, &name.span())?);
    spec.default = fields.value(reader, "default", &spec.ty);
    spec.example = fields.value(reader, "example", &spec.ty);
    spec.doc = fields.text(reader, "doc").unwrap_or_default();
    spec.env = fields.text(reader, "env");
    spec.deprecated = fields.text(reader, "deprecated");
    spec.required = fields.flag(reader, "required");
    spec.secret = fields.flag(reader, "secret");
    spec.restart = fields.flag(reader, "restart");
    for (former, span) in fields.texts(reader, "was").unwrap_or_default() {
        match parse::pattern(&former) {
            Ok(key) => spec.was.push(key),
            Err(reason) => {
                reader.fault(&span, about, format!("its former name: {reason}"));
            }
        }
    }
    fields.refuse_others(reader);
    for reason in contradictions(key, &spec) {
        reader.fault(&name.span(), about, reason);
    }
    Some(spec)
}

/// What of a key's fields cannot stand together.
pub(crate) fn contradictions(key: &Key, spec: &KeySpec) -> Vec<String> {
    let mut found = Vec::new();
    let mut unless = |fine: bool, text: &str| {
        if !fine {
            found.push(text.to_owned());
        }
    };
    unless(!spec.required || spec.default.is_none(), "it is required and has a default: one of the two");
    let textual = matches!(spec.ty, Type::String { .. } | Type::Url { .. });
    unless(!spec.secret || textual, "only a string or a url can be a secret");
    unless(!spec.secret || spec.default.is_none(), "a secret has no default: it would stand in the release");
    unless(!spec.secret || spec.example.is_none(), "a secret has no example: somebody would use it");
    let wildcards: Vec<_> = key.segments().iter().filter(|segment| is_wildcard(segment)).collect();
    unless(
        spec.env.is_none() || wildcards.is_empty(),
        "one variable cannot set a key for every name of a wildcard",
    );
    let env_is_name = |name: &String| {
        !name.is_empty() && !name.contains(['=', '\0']) && !name.contains(char::is_whitespace)
    };
    unless(spec.env.as_ref().is_none_or(env_is_name), "env is no name of a variable");
    for former in &spec.was {
        let carried: Vec<_> = former.segments().iter().filter(|segment| is_wildcard(segment)).collect();
        let same = wildcards.iter().all(|name| carried.contains(name)) && carried.len() == wildcards.len();
        unless(same, "a former name must have the wildcards of the key, by the same names");
    }
    found
}

/// The fields of a table; those that nobody took are refused at the end.
pub(crate) struct Fields<'t, 'i> {
    pub(crate) table: &'t DeTable<'i>,
    pub(crate) about: &'t str,
    taken: Vec<&'static str>,
}

impl<'t, 'i> Fields<'t, 'i> {
    pub(crate) fn new(table: &'t DeTable<'i>, about: &'t str) -> Self {
        Self { table, about, taken: Vec::new() }
    }

    pub(crate) fn take(&mut self, name: &'static str) -> Option<&'t Toml<'i>> {
        self.taken.push(name);
        self.table.get(name)
    }

    pub(crate) fn refuse_others(&self, reader: &mut Reader) {
        for (name, _) in self.table.iter() {
            if !self.taken.contains(&&**name.get_ref()) {
                let near = suggest::word(name.get_ref(), self.taken.iter().copied());
                let hint = match near {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("fields here are {}", self.taken.join(", ")),
                };
                let message = format!("`{}` is not a field here", name.get_ref());
                reader.fault(&name.span(), self.about, message).hint = Some(hint);
            }
        }
    }

    pub(crate) fn text(&mut self, reader: &mut Reader, name: &'static str) -> Option<String> {
        let value = self.take(name)?;
        if value.get_ref().as_str().is_none() {
            reader.fault(&value.span(), self.about, format!("{name}: a text was expected"));
        }
        value.get_ref().as_str().map(str::to_owned)
    }

    pub(crate) fn flag(&mut self, reader: &mut Reader, name: &'static str) -> bool {
        let Some(value) = self.take(name) else { return false };
        if value.get_ref().as_bool().is_none() {
            reader.fault(&value.span(), self.about, format!("{name}: true or false was expected"));
        }
        value.get_ref().as_bool().unwrap_or(false)
    }

    pub(crate) fn texts(
        &mut self,
        reader: &mut Reader,
        name: &'static str,
    ) -> Option<Vec<(String, Range<usize>)>> {
        let value = self.take(name)?;
        let items = match value.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            _ => vec![value],
        };
        let mut texts = Vec::new();
        for item in items {
            match item.get_ref().as_str() {
                Some(text) => texts.push((text.to_owned(), item.span())),
                None => {
                    reader.fault(&item.span(), self.about, format!("{name}: a text was expected"));
                }
            }
        }
        Some(texts)
    }

    pub(crate) fn value(&mut self, reader: &mut Reader, name: &'static str, ty: &Type) -> Option<Value> {
        let value = self.take(name)?;
        match from_toml(ty, value.get_ref()) {
            Ok(value) => Some(value),
            Err(reason) => {
                reader.fault(&value.span(), self.about, format!("{name}: {reason}"));
                None
            }
        }
    }

    /// `min` and `max`, each read by `read`.
    pub(crate) fn bounds<T: PartialOrd>(
        &mut self,
        reader: &mut Reader,
        read: impl Fn(&DeValue<'_>) -> Option<T>,
        expected: &str,
    ) -> Bounds<T> {
        let mut bound = |fields: &mut Self, name: &'static str| {
            let value = fields.take(name)?;
            let bound = read(value.get_ref());
            if bound.is_none() {
                reader.fault(&value.span(), fields.about, format!("{name}: {expected} was expected"));
            }
            bound
        };
        let bounds = Bounds { min: bound(self, "min"), max: bound(self, "max") };
        if let (Some(min), Some(max), Some(value)) = (&bounds.min, &bounds.max, self.table.get("max"))
            && min > max
        {
            reader.fault(&value.span(), self.about, "max is less than min: nothing could be right");
        }
        bounds
    }
}

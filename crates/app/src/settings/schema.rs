//! A settings type as the text of a `conf/schema.toml`.

use std::fmt;

use super::Settings;
use super::shape::{Group, Notes, Shape, Type, Value};

/// The schema format that this writes.
const FORMAT: u32 = 1;

/// The schema of a settings type, as the text of a `conf/schema.toml`; `None` if it is written by hand.
///
/// `cargo relmgr release` asks the library for it, `cargo relmgr conf schema` shows it.
///
/// # Errors
/// What the type says and no schema can.
pub fn schema<S: Settings>() -> Result<Option<String>, SchemaError> {
    S::keys().map(write).transpose()
}

/// What a settings type says and no schema can: one line for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaError(Vec<String>);

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for SchemaError {}

fn write(shape: Shape) -> Result<String, SchemaError> {
    let mut writer =
        Writer { keys: format!("format = {FORMAT}\n"), removed: String::new(), faults: Vec::new() };
    match shape {
        Shape::Group(group) => writer.group(&Place::default(), &group, None),
        _ => writer.faults.push("the settings are one value: use a struct with named fields".to_owned()),
    }
    if !writer.faults.is_empty() {
        return Err(SchemaError(writer.faults));
    }
    if !writer.removed.is_empty() {
        writer.keys.push_str(&format!("\n[removed]\n{}", writer.removed));
    }
    Ok(writer.keys)
}

struct Writer {
    keys: String,
    removed: String,
    faults: Vec<String>,
}

/// Where the walk is, and what holds for all that is below.
#[derive(Debug, Clone, Default)]
struct Place {
    /// Segments as they are written.
    path: Vec<String>,
    /// Former names of it.
    was: Vec<Vec<String>>,
    /// How many of the segments are wildcards.
    wildcards: usize,
    /// Within an optional group: nothing has to be set, and a default would make the group appear.
    optional: bool,
    restart: bool,
    deprecated: Option<&'static str>,
}

impl Place {
    fn shown(&self) -> String {
        self.path.join(".")
    }

    /// The place below by this segment.
    fn below(&self, segment: &str) -> Self {
        let mut below = self.clone();
        below.path.push(segment.to_owned());
        below.was.iter_mut().for_each(|was| was.push(segment.to_owned()));
        below
    }

    /// The place of a field, with what its notes say for all below it.
    fn member(&self, name: &str, notes: &Notes) -> Self {
        let mut place = self.below(&segment(name));
        for former in &notes.was {
            if former.contains('.') {
                place.was.push(vec![(*former).to_owned()]);
                continue;
            }
            let parents = std::iter::once(&self.path).chain(&self.was);
            place.was.extend(parents.map(|parent| [parent.as_slice(), &[segment(former)]].concat()));
        }
        place.restart |= notes.restart;
        place.deprecated = notes.deprecated.or(place.deprecated);
        place
    }
}

impl Writer {
    /// `default`: the group's own, of which each field takes its part.
    fn group(&mut self, place: &Place, group: &Group, default: Option<&Value>) {
        for (name, message) in &group.removed {
            let key = place.below(&segment(name));
            if key.wildcards > 0 {
                self.fault(&key, "below a map's names no key can be removed with a message");
            }
            self.removed.push_str(&format!("{} = {}\n", quoted(&key.shown()), quoted(message)));
        }
        for member in &group.members {
            if let (true, Shape::Group(inner)) = (member.flat, &member.shape) {
                // In the parent's default, too, its fields lie beside the others.
                self.group(place, inner, default.or(member.default.as_ref()));
                continue;
            }
            let own = default.map_or(member.default.as_ref(), |all| all.field(member.name));
            let place = place.member(member.name, &member.notes);
            if member.name.is_empty() || member.name == "*" || member.name.starts_with('$') {
                self.fault(&place, "a name that stands for any name: use a map");
            }
            self.shape(&place, &member.shape, &member.notes, own);
        }
    }

    fn shape(&mut self, place: &Place, shape: &Shape, notes: &Notes, default: Option<&Value>) {
        match shape {
            Shape::Key(ty) => self.key(place, ty, notes, default, false),
            Shape::Group(group) => self.group(place, group, default),
            Shape::Optional(inner) => match &**inner {
                Shape::Key(ty) => self.key(place, ty, notes, default, true),
                Shape::Group(group) => {
                    let place = Place { optional: true, ..place.clone() };
                    if default.is_some_and(|value| *value != Value::Absent) {
                        self.fault(&place, "an optional group is there by default: leave out the Option");
                    }
                    self.group(&place, group, None);
                }
                other => self.shape(place, other, notes, default),
            },
            Shape::Each(inner) => {
                if matches!(default, Some(Value::Record(names)) if !names.is_empty()) {
                    self.fault(place, "a map's names come from app.conf: its default has to be empty");
                }
                // Below another wildcard it needs a name of its own.
                let name = match (notes.wildcard, place.wildcards) {
                    (Some(name), _) => format!("${name}"),
                    (None, 0) => "$name".to_owned(),
                    (None, depth) => format!("$name{}", depth + 1),
                };
                let mut place = place.below(&name);
                place.wildcards += 1;
                match &**inner {
                    // Whoever writes a name writes its value: nothing can be missing.
                    Shape::Key(ty) => self.key(&place, ty, notes, None, true),
                    inner => self.shape(&place, inner, notes, None),
                }
            }
        }
    }

    fn key(&mut self, place: &Place, ty: &Type, notes: &Notes, default: Option<&Value>, optional: bool) {
        let ty = ty.clone().with_notes(notes);
        for fault in &ty.faults {
            self.fault(place, fault);
        }
        if ty.secret && !matches!(ty.word, "string" | "url") {
            self.fault(place, "a secret cannot stand in a list: it would be shown with the others");
        }
        let may_be_missing = optional || place.optional || default.is_some();
        let required = notes.required || !may_be_missing;
        let default = default.filter(|_| !required && !place.optional && !ty.secret);
        let mut fields = ty.to_fields();
        let mut add = |name: &str, value: Option<Value>| {
            fields
                .extend(value.filter(|value| *value != Value::Absent).map(|value| (name.to_owned(), value)));
        };
        let flag = |on: bool| on.then_some(Value::Boolean(true));
        let doc = doc(notes.doc, &ty);
        add("default", default.cloned());
        add("example", notes.example.clone());
        add("doc", (!doc.is_empty()).then_some(Value::String(doc)));
        add("env", notes.env.map(Value::from));
        add("required", flag(required));
        add("secret", flag(ty.secret));
        add("restart", flag(place.restart));
        let was: Vec<_> = place.was.iter().map(|path| Value::String(path.join("."))).collect();
        add("was", (!was.is_empty()).then_some(Value::List(was)));
        add("deprecated", place.deprecated.map(Value::from));
        self.keys.push_str(&format!("\n[keys.{}]\n", quoted(&place.shown())));
        for (name, value) in fields {
            match toml(&value) {
                Ok(text) => self.keys.push_str(&format!("{name} = {text}\n")),
                Err(fault) => self.fault(place, &format!("{name}: {fault}")),
            }
        }
    }

    fn fault(&mut self, place: &Place, text: &str) {
        self.faults.push(format!("{}: {text}", place.shown()));
    }
}

/// The field's doc comment, then those of the enum's words.
fn doc(own: &str, ty: &Type) -> String {
    let words = ty.words.iter().filter(|word| !word.doc.is_empty());
    let words = words.map(|word| format!("{}: {}", word.name, word.doc.replace('\n', " ")));
    let own = (!own.is_empty()).then(|| own.to_owned());
    own.into_iter().chain(words).collect::<Vec<_>>().join("\n")
}

/// A segment of a key as the schema has it: in quotes where it has other characters.
fn segment(name: &str) -> String {
    match name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') && !name.is_empty() {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push_str(&format!("\\U{:08X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// A value in TOML.
fn toml(value: &Value) -> Result<String, String> {
    let all = |values: &[Value]| values.iter().map(toml).collect::<Result<Vec<_>, _>>();
    Ok(match value {
        Value::Absent => return Err("a list has no place for what is not there".to_owned()),
        Value::String(text) => quoted(text),
        Value::Integer(number) => match i64::try_from(*number) {
            Ok(number) => number.to_string(),
            Err(_) => return Err(format!("{number} is more than 64 bits with a sign hold")),
        },
        Value::Float(number) if number.is_finite() => format!("{number:?}"),
        Value::Float(number) => return Err(format!("{number} is no number that app.conf could say")),
        Value::Boolean(on) => on.to_string(),
        Value::List(items) => format!("[{}]", all(items)?.join(", ")),
        Value::Record(fields) => {
            let fields = fields.iter().filter(|(_, value)| *value != Value::Absent);
            let fields = fields.map(|(name, value)| Ok(format!("{} = {}", segment(name), toml(value)?)));
            match fields.collect::<Result<Vec<_>, String>>()? {
                fields if fields.is_empty() => "{}".to_owned(),
                fields => format!("{{ {} }}", fields.join(", ")),
            }
        }
    })
}

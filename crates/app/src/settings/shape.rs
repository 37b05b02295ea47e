//! A settings type as data: what the derive macro and the [`Setting`](super::Setting) trait say of it.

/// What a field of the settings may be.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// One key.
    Key(Type),
    /// Keys below the field's.
    Group(Group),
    /// Any names, each of this shape.
    Each(Box<Shape>),
    /// May be left out.
    Optional(Box<Shape>),
}

/// The keys of a struct.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Group {
    /// In the order of the fields.
    pub members: Vec<Member>,
    /// Names that are gone, and what is said of them.
    pub removed: Vec<(&'static str, &'static str)>,
}

/// A field of a struct.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// As it stands in `app.conf`.
    pub name: &'static str,
    /// What it may be.
    pub shape: Shape,
    /// What the author says of it.
    pub notes: Notes,
    /// Its default: `None` if it has none, [`Value::Absent`] if that is to have no value.
    pub default: Option<Value>,
    /// Whether its keys stand among its parent's.
    pub flat: bool,
}

/// What the attributes of a field say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Notes {
    /// The doc comment.
    pub doc: &'static str,
    /// A value to show.
    pub example: Option<Value>,
    /// An environment variable.
    pub env: Option<&'static str>,
    /// Must be set.
    pub required: bool,
    /// Must not be seen.
    pub secret: bool,
    /// A change waits for a restart.
    pub restart: bool,
    /// The least.
    pub min: Option<Value>,
    /// The most.
    pub max: Option<Value>,
    /// A regular expression.
    pub pattern: Option<&'static str>,
    /// A URL's.
    pub schemes: Option<Value>,
    /// Still read, with this warning.
    pub deprecated: Option<&'static str>,
    /// Former names: without a dot in the same group, with one from the top.
    pub was: Vec<&'static str>,
    /// What a map's names are called.
    pub wildcard: Option<&'static str>,
}

/// The type of one key, in the schema's words.
#[derive(Debug, Clone, PartialEq)]
pub struct Type {
    /// `string`, `integer`, …
    pub word: &'static str,
    /// The least.
    pub min: Option<Value>,
    /// The most.
    pub max: Option<Value>,
    /// Other fields that belong to the type: `values`, `items`, `fields`, …
    pub fields: Vec<(&'static str, Value)>,
    /// The words of an enum.
    pub words: Vec<Word>,
    /// Whether it must not be seen.
    pub secret: bool,
    /// What of it a schema cannot say.
    pub faults: Vec<String>,
}

/// A word of an enum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// As it stands in `app.conf`.
    pub name: &'static str,
    /// The variant's doc comment.
    pub doc: &'static str,
}

impl Type {
    /// A type of the schema without anything more.
    pub fn new(word: &'static str) -> Self {
        let (fields, words, faults) = Default::default();
        Self { word, min: None, max: None, fields, words, secret: false, faults }
    }

    /// One of these words.
    pub fn words(words: &[Word]) -> Self {
        let names = words.iter().map(|word| Value::String(word.name.to_owned())).collect();
        let fields = vec![("values", Value::List(names))];
        Self { fields, words: words.to_vec(), ..Self::new("enum") }
    }

    /// Several of this type.
    pub fn list(items: &Self) -> Self {
        let fields = vec![("items", Value::Record(items.to_fields()))];
        Self { fields, secret: items.secret, faults: items.faults.clone(), ..Self::new("list") }
    }

    /// The type within the bounds that a field's attributes set.
    #[must_use]
    pub(super) fn with_notes(mut self, notes: &Notes) -> Self {
        let bounds = [(&notes.min, &mut self.min, true), (&notes.max, &mut self.max, false)];
        for (note, bound, least) in bounds {
            let Some(note) = note else { continue };
            match (&*bound, note) {
                (Some(Value::Integer(own)), Value::Integer(note)) if (note < own) == least && note != own => {
                    let bound = if least { "less than the least" } else { "more than the most" };
                    self.faults.push(format!("{note} is {bound} that its type holds, {own}"));
                }
                _ => *bound = Some(note.clone()),
            }
        }
        let pattern = notes.pattern.map(|pattern| ("pattern", Value::from(pattern)));
        let schemes = notes.schemes.clone().map(|schemes| ("schemes", schemes));
        let texts = pattern.into_iter().chain(schemes);
        // Of a list these are its items'; the bounds are the list's own.
        match self.fields.iter_mut().find(|(name, _)| *name == "items") {
            Some((_, items)) => texts.for_each(|(name, value)| items.add(name, value)),
            None => self.fields.extend(texts),
        }
        self.secret |= notes.secret;
        self
    }

    /// As the fields of a table in the schema.
    pub(super) fn to_fields(&self) -> Vec<(String, Value)> {
        let word = ("type", Value::String(self.word.to_owned()));
        let bounds = [("min", &self.min), ("max", &self.max)];
        let bounds = bounds.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
        let all = std::iter::once(word).chain(bounds).chain(self.fields.iter().cloned());
        all.map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// A value in a schema.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// None: an option that is not there, or a secret, which has no place in a schema.
    Absent,
    /// Text, and what is written as one: a duration, a size, an address.
    String(String),
    /// A whole number; that it fits the schema's 64 bits is checked when it is written.
    Integer(i128),
    /// A number.
    Float(f64),
    /// True or false.
    Boolean(bool),
    /// Several.
    List(Vec<Value>),
    /// By name.
    Record(Vec<(String, Value)>),
}

impl Value {
    /// Adds a field to a type's table, or to that of the items of its items.
    fn add(&mut self, name: &str, value: Self) {
        let Self::Record(fields) = self else { return };
        match fields.iter_mut().find(|(known, _)| known == "items") {
            Some((_, items)) => items.add(name, value),
            None => fields.push((name.to_owned(), value)),
        }
    }

    /// The value of a record's field.
    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Record(fields) => fields.iter().find(|(known, _)| known == name).map(|(_, value)| value),
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<i128> for Value {
    fn from(number: i128) -> Self {
        Self::Integer(number)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

impl From<bool> for Value {
    fn from(on: bool) -> Self {
        Self::Boolean(on)
    }
}

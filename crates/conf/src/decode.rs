//! From what is written to a value of the key's type: references are resolved on this node, now.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::ast::{Field as WrittenField, List, Node, Part, Record, Scalar};
use crate::read;
use crate::secret::Secret;
use crate::source::Span;
use crate::types::{Field, Refusal, Type};
use crate::value::Value;

/// More of a wrong value is not shown.
const SHOWN: usize = 60;

/// The environment. A variable that is empty counts as not set, as `${NAME:-default}` has it.
pub(crate) type Environment = BTreeMap<OsString, OsString>;

/// What is wrong with a value, and where in its source.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) span: Span,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Problem {
    fn new(span: &Span, message: impl Into<String>) -> Self {
        Self { span: span.clone(), message: message.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Decodes the value of one key.
pub(crate) struct Decoder<'a> {
    env: &'a Environment,
    secret: bool,
    /// Everything that is wrong.
    pub(crate) problems: Vec<Problem>,
    /// The references that were resolved, as they are written.
    pub(crate) via: Vec<String>,
    /// The files whose contents are values.
    pub(crate) files: Vec<PathBuf>,
}

/// The text of a variable that is set and not empty.
pub(crate) fn variable<'a>(env: &'a Environment, name: &str) -> Option<&'a OsStr> {
    env.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
}

/// `expected …, found …: reason`; what was found is left out where it is `None`.
pub(crate) fn mismatch(ty: &Type, found: Option<&str>, refusal: &Refusal) -> String {
    let found = found.map_or_else(String::new, |found| format!(", found {found}"));
    let reason = refusal.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    format!("expected {}{found}{reason}", ty.describe())
}

/// A text as it is shown in an error.
pub(crate) fn shown(text: &str) -> String {
    let mut cut: String = text.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() {
        cut.push('…');
    }
    format!("`{cut}`")
}

impl<'a> Decoder<'a> {
    /// A decoder for a key that is `secret` or not: what it says never shows a secret.
    pub(crate) fn new(env: &'a Environment, secret: bool) -> Self {
        Self { env, secret, problems: Vec::new(), via: Vec::new(), files: Vec::new() }
    }

    /// The value of `node`; `None` where there are problems.
    pub(crate) fn value(&mut self, ty: &Type, node: &Node) -> Option<Value> {
        match ty {
            Type::List { items, length } => self.list(ty, items, node).filter(|value| {
                let count = if let Value::List(items) = value { items.len() } else { 0 };
                let fits = length.contain(&u64::try_from(count).unwrap_or(u64::MAX));
                if !fits {
                    let found = format!("a list of {count}");
                    self.mismatch(node.span(), ty, Some(&found), &Refusal::default());
                }
                fits
            }),
            Type::Record(fields) => self.record(ty, fields, node),
            scalar => self.scalar_node(scalar, node),
        }
    }

    fn mismatch(&mut self, span: &Span, ty: &Type, found: Option<&str>, refusal: &Refusal) {
        let found = found.filter(|_| !self.secret);
        let mut problem = Problem::new(span, mismatch(ty, found, refusal));
        // The nearest word would tell what a secret is like.
        problem.hint = refusal.hint.clone().filter(|_| !self.secret);
        self.problems.push(problem);
    }

    fn list(&mut self, ty: &Type, items: &Type, node: &Node) -> Option<Value> {
        let written: Vec<&Node> = match node {
            // `[1, 2]` alone is the list itself, but for a list of lists it is its one item.
            Node::List(list)
                if list.brackets && matches!(items, Type::List { .. }) && !list.items.is_empty() =>
            {
                vec![node]
            }
            Node::List(list) => list.items.iter().collect(),
            // One item needs no comma.
            Node::Scalar(_) | Node::Record(_) => vec![node],
        };
        if let (Type::List { .. }, [Node::Scalar(scalar)]) = (items, written.as_slice()) {
            self.mismatch(&scalar.span, ty, Some("one text"), &Refusal::default());
            return None;
        }
        let read: Vec<_> = written.into_iter().map(|item| self.value(items, item)).collect();
        read.into_iter().collect::<Option<Vec<_>>>().map(Value::List)
    }

    fn record(&mut self, ty: &Type, fields: &BTreeMap<String, Field>, node: &Node) -> Option<Value> {
        let empty = Record { fields: Vec::new(), span: node.span().clone() };
        let record = match node {
            Node::Record(record) => record,
            Node::List(list) if list.brackets && list.items.is_empty() => &empty,
            other => {
                self.mismatch(other.span(), ty, Some(kind(other)), &Refusal::default());
                return None;
            }
        };
        let before = self.problems.len();
        let mut read = BTreeMap::new();
        for WrittenField { name, name_span, value } in &record.fields {
            let Some(field) = fields.get(&**name) else {
                let near = crate::suggest::word(name, fields.keys().map(String::as_str));
                let mut problem =
                    Problem::new(name_span, mismatch(ty, Some(&shown(name)), &Refusal::default()));
                problem.hint = near.map(|near| format!("did you mean `{near}`?"));
                self.problems.push(problem);
                continue;
            };
            if let Some(value) = self.scalar(&field.ty, value)
                && read.insert(name.to_string(), value).is_some()
            {
                self.problems.push(Problem::new(name_span, "this pair is there twice"));
            }
        }
        for (name, field) in fields {
            let written = record.fields.iter().any(|field| *field.name == **name);
            match &field.default {
                Some(default) if !written => {
                    read.insert(name.clone(), default.clone());
                }
                None if field.required && !written => {
                    let text = format!("`{name}` is missing: expected {}", field.ty.describe());
                    self.problems.push(Problem::new(&record.span, text));
                }
                _ => {}
            }
        }
        (self.problems.len() == before).then_some(Value::Record(read))
    }

    fn scalar_node(&mut self, ty: &Type, node: &Node) -> Option<Value> {
        match node {
            Node::Scalar(scalar) => self.scalar(ty, scalar),
            Node::List(List { items, span, .. }) => {
                let found = format!("a list of {}", items.len());
                let message = mismatch(ty, Some(&found), &Refusal::default());
                let hint = "if the comma or the brackets belong to the value, put all of it in quotes";
                self.problems.push(Problem::new(span, message).hint(hint));
                None
            }
            Node::Record(record) => {
                self.mismatch(&record.span, ty, Some(kind(node)), &Refusal::default());
                None
            }
        }
    }

    fn scalar(&mut self, ty: &Type, scalar: &Scalar) -> Option<Value> {
        let resolved;
        let text = match scalar.literal() {
            Some(text) => text,
            None => match self.resolve(scalar) {
                Ok(text) => {
                    resolved = text;
                    resolved.as_str()
                }
                Err(problem) => {
                    self.problems.push(problem);
                    return None;
                }
            },
        };
        match ty.read(text) {
            Ok(Value::String(text)) if self.secret => Some(Value::Secret(Secret::new(text))),
            Ok(value) => Some(value),
            Err(refusal) => {
                self.mismatch(&scalar.span, ty, Some(&shown(text)), &refusal);
                None
            }
        }
    }

    /// The text with its variables, or the content of the file that it names.
    fn resolve(&mut self, scalar: &Scalar) -> Result<Zeroizing<String>, Problem> {
        // With room for what is put in, so that the buffer does not move and leave a secret behind.
        let mut text = Zeroizing::new(String::with_capacity(4096));
        for part in &scalar.parts {
            match part {
                Part::Text(piece) => text.push_str(piece),
                Part::Variable { name, default, span } => {
                    let piece = self.variable(name, default.as_ref(), span)?;
                    text.push_str(&piece);
                    self.via.push(format!("${{{name}}}"));
                }
            }
        }
        if !scalar.file {
            return Ok(text);
        }
        let path = Path::new(text.strip_prefix("file:").unwrap_or(&text)).to_owned();
        if !path.is_absolute() {
            return Err(Problem::new(&scalar.span, "a file's path must begin with `/`"));
        }
        self.via.push(format!("file:{}", path.display()));
        let content = read::text(&path, read::MAX_VALUE_BYTES).map_err(|error| {
            let text = format!("the file {} {}", path.display(), error.reason());
            Problem::new(&scalar.span, text)
                .hint("a text that begins with `file:/` and means no file needs single quotes")
        });
        self.files.push(path);
        let content = content?;
        // The newline that editors and `echo` put at a file's end is no part of a password.
        let line = content.strip_suffix('\n').unwrap_or(&content);
        Ok(Zeroizing::new(line.strip_suffix('\r').unwrap_or(line).to_owned()))
    }

    fn variable(
        &self,
        name: &str,
        default: Option<&Zeroizing<String>>,
        span: &Span,
    ) -> Result<Zeroizing<String>, Problem> {
        match (variable(self.env, name), default) {
            (Some(value), _) => match value.to_str() {
                Some(text) => Ok(Zeroizing::new(text.to_owned())),
                None => Err(Problem::new(span, format!("the environment variable {name} is not UTF-8"))),
            },
            (None, Some(default)) => Ok(default.clone()),
            (None, None) => Err(Problem::new(span, format!("the environment variable {name} is not set"))
                .hint(format!("set it, or write ${{{name}:-default}}"))),
        }
    }
}

fn kind(node: &Node) -> &'static str {
    match node {
        Node::Scalar(_) => "one text",
        Node::List(_) => "a list",
        Node::Record(_) => "pairs",
    }
}

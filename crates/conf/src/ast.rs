//! `app.conf` as it is written: what the parser makes and the formatter, the editor and the decoder read.

use std::fmt;

use zeroize::Zeroizing;

use crate::key::Key;
use crate::source::Span;

/// A file's lines.
#[derive(Debug, Default)]
pub(crate) struct Document {
    pub(crate) items: Vec<Item>,
}

/// One line (more where a `'''` value spans them).
#[derive(Debug)]
pub(crate) enum Item {
    Blank,
    /// From the `#` to the line's end.
    Comment(Span),
    Include(Include),
    Setting(Setting),
}

/// `include conf.d/*.conf`
#[derive(Debug)]
pub(crate) struct Include {
    pub(crate) pattern: Scalar,
    pub(crate) comment: Option<Span>,
}

/// `key = value  # comment`
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) key: Key,
    pub(crate) key_span: Span,
    pub(crate) value: Node,
    pub(crate) comment: Option<Span>,
    /// The whole of it with its line end.
    pub(crate) line: Span,
}

/// A value as it is written.
#[derive(Debug)]
pub(crate) enum Node {
    Scalar(Scalar),
    List(List),
    Record(Record),
}

/// `a, b`, `[a, b]`, `[]`
#[derive(Debug)]
pub(crate) struct List {
    pub(crate) items: Vec<Node>,
    pub(crate) brackets: bool,
    pub(crate) span: Span,
}

/// `[key = value, key = value]`
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) fields: Vec<Field>,
    pub(crate) span: Span,
}

/// `key = value` within a record.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: Box<str>,
    pub(crate) name_span: Span,
    pub(crate) value: Scalar,
}

/// One text.
#[derive(Debug)]
pub(crate) struct Scalar {
    pub(crate) parts: Vec<Part>,
    /// `file:/path`: the parts make the path of the file that holds the value.
    pub(crate) file: bool,
    pub(crate) span: Span,
}

/// A piece of a text.
pub(crate) enum Part {
    Text(Zeroizing<String>),
    /// `${NAME}` or `${NAME:-default}`
    Variable {
        name: String,
        default: Option<Zeroizing<String>>,
        span: Span,
    },
}

impl fmt::Debug for Part {
    /// Without the texts: they may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text"),
            Self::Variable { name, .. } => write!(f, "Variable({name})"),
        }
    }
}

impl Node {
    pub(crate) fn span(&self) -> &Span {
        match self {
            Self::Scalar(scalar) => &scalar.span,
            Self::List(list) => &list.span,
            Self::Record(record) => &record.span,
        }
    }

    /// Whether the node's environment or file system decides what it is.
    pub(crate) fn has_references(&self) -> bool {
        match self {
            Self::Scalar(scalar) => scalar.has_references(),
            Self::List(list) => list.items.iter().any(Self::has_references),
            Self::Record(record) => record.fields.iter().any(|field| field.value.has_references()),
        }
    }
}

impl Scalar {
    pub(crate) fn has_references(&self) -> bool {
        self.file || self.parts.iter().any(|part| matches!(part, Part::Variable { .. }))
    }

    /// The text, where nothing outside of the file decides it.
    pub(crate) fn literal(&self) -> Option<&str> {
        match (self.file, self.parts.as_slice()) {
            (false, []) => Some(""),
            (false, [Part::Text(text)]) => Some(text),
            _ => None,
        }
    }
}

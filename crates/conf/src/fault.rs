//! What is wrong, where, what was expected instead and what to do: one [`Fault`] for each mistake, all of them
//! together in [`Faults`].

use std::fmt;

use serde::Serialize;

/// More faults than these are counted and not printed: the first ones explain the rest.
const PRINTED: usize = 100;

/// Where something stands: a file with line and column (both from 1, columns in characters), a whole file, or an
/// environment variable (`$NAME`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The file as the operator named it, or `$NAME`.
    pub file: String,
    /// From 1; absent: the file as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// From 1, in characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
}

impl Place {
    /// A file as a whole.
    pub fn whole(file: impl Into<String>) -> Self {
        Self { file: file.into(), line: None, column: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        Ok(())
    }
}

/// A source line with a caret line under it; values that may be secret are masked before they come here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snippet {
    /// The line, cut to what fits a terminal.
    pub text: String,
    /// White space and carets.
    pub carets: String,
}

/// Another place that has to do with a fault: the first of two settings of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Related {
    /// What is there.
    pub label: String,
    /// Where.
    pub place: Place,
    /// The line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snippet: Option<Snippet>,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Where it is.
    pub place: Place,
    /// The key that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What is wrong and what was expected.
    pub message: String,
    /// The line in question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snippet: Option<Snippet>,
    /// Other places.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<Related>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Fault {
    /// A fault of `place` without a line to show.
    pub fn new(place: Place, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { place, key: None, message, snippet: None, related: Vec::new(), hint: None }
    }

    /// The same fault, about `key`.
    #[must_use]
    pub fn about(mut self, key: impl fmt::Display) -> Self {
        self.key = Some(key.to_string());
        self
    }

    /// The same fault with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

fn write_snippet(f: &mut fmt::Formatter<'_>, line: Option<usize>, snippet: &Snippet) -> fmt::Result {
    let number = line.map_or_else(String::new, |line| line.to_string());
    write!(f, "\n  {number} | {}", snippet.text)?;
    write!(f, "\n  {:width$} | {}", "", snippet.carets, width = number.len())
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(snippet) = &self.snippet {
            write_snippet(f, self.place.line, snippet)?;
        }
        for related in &self.related {
            write!(f, "\n  {}: {}", related.place, related.label)?;
            if let Some(snippet) = &related.snippet {
                write_snippet(f, related.place.line, snippet)?;
            }
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  help: {hint}")?;
        }
        Ok(())
    }
}

/// Every mistake that was found, in the order of the files. Nothing was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
#[serde(transparent)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// The faults one by one.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn push(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    pub(crate) fn extend(&mut self, faults: impl IntoIterator<Item = Fault>) {
        self.0.extend(faults);
    }

    /// `value` if nothing is wrong.
    pub(crate) fn or<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

impl IntoIterator for Faults {
    type Item = Fault;
    type IntoIter = std::vec::IntoIter<Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Faults {
    /// One paragraph a fault.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().take(PRINTED).enumerate() {
            let gap = if index == 0 { "" } else { "\n\n" };
            write!(f, "{gap}{fault}")?;
        }
        match self.0.len().checked_sub(PRINTED) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, "\n\nand {more} more faults"),
        }
    }
}

impl std::error::Error for Faults {}
